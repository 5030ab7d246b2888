"""``medpipe bench``: speed, padding and memory of each stage and of the whole line, on generated notes.

Every part runs in a process of its own, so that its peak memory is its own; what comes before it (reading, tagging)
is done first and not timed. The notes are generated: invented sentences of a clinical vocabulary, their
lengths log-normal between 100 and 8,000 tokens with a median of about 500. Speed depends on length and on
machine, not on meaning; scores are measured elsewhere (``medpipe evaluate``).
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.device import cpu_count, peak_memory_mb
from medpipe.evaluate.bench_formats import WRITERS, write_fhir_ndjson
from medpipe.settings import Settings

PARTS = ("ingest", "tag", "relate", "summarize", "run")
NIGHTS = ("reuse", "scale")  # `bench_reuse`, `bench_scale`: not among all
SHORTEST, MEDIAN, LONGEST = 100, 500, 8000  # tokens of a note

PATIENTS = ("The patient", "She", "He", "This 64-year-old woman", "The 7-year-old boy", "Mrs. Vance", "Mr. Okafor")
DISEASES = (
    "type 2 diabetes mellitus", "chronic heart failure", "atrial fibrillation", "community-acquired pneumonia", "COPD",
    "rheumatoid arthritis", "acute pancreatitis", "Fabry disease", "chronic kidney disease stage 3", "Crohn's disease",
)  # fmt: skip
SYMPTOMS = (
    "shortness of breath", "crushing chest pain", "fever", "bilateral ankle swelling", "night sweats", "a dry cough",
    "progressive fatigue", "abdominal pain radiating to the back", "dizziness", "numbness of both feet",
)  # fmt: skip
DRUGS = ("metformin 500 mg twice daily", "furosemide 40 mg", "apixaban 5 mg", "prednisone 20 mg daily", "amoxicillin")
TESTS = ("hemoglobin 9.8 g/dL", "a chest X-ray", "creatinine 2.1 mg/dL", "CT of the abdomen", "CRP 84 mg/L")
SENTENCES = (
    "{patient} was admitted with {symptom} and {symptom}.",
    "{patient} has a history of {disease}.",
    "{patient} denies {symptom}, {symptom} or {symptom}.",
    "{disease} was diagnosed after {test}.",
    "{patient} was started on {drug}.",
    "No evidence of {disease} was found on {test}.",
    "There was {symptom} for three days, which was attributed to {disease}.",
    "Family history is notable for {disease} in the mother.",
    "On examination there was {symptom}; {test} was ordered.",
    "{patient} should return if {symptom} develops.",
)
HEADINGS = ("HISTORY OF PRESENT ILLNESS:", "PAST MEDICAL HISTORY:", "PHYSICAL EXAM:", "ASSESSMENT:", "PLAN:")


def generate_notes(count: int, *, tokens: int | None = None, seed: int = 7) -> Iterator[str]:
    """Yields invented notes of about ``tokens`` tokens each, or of a realistic mix of lengths."""
    random = np.random.default_rng(seed)
    choices = {"patient": PATIENTS, "disease": DISEASES, "symptom": SYMPTOMS, "drug": DRUGS, "test": TESTS}
    lengths = np.clip(np.exp(random.normal(np.log(MEDIAN), 0.9, count)), SHORTEST, LONGEST)
    for length in lengths if tokens is None else [tokens] * count:
        lines: list[str] = []
        written = 0
        while written < length:
            if len(lines) % 12 == 0:
                lines.append(HEADINGS[len(lines) // 12 % len(HEADINGS)])
            sentence = SENTENCES[random.integers(len(SENTENCES))]
            while "{" in sentence:
                slot = sentence[sentence.index("{") + 1 : sentence.index("}")]
                sentence = sentence.replace(f"{{{slot}}}", choices[slot][random.integers(len(choices[slot]))], 1)
            written += len(sentence.split()) * 5 // 4  # words with their punctuation
            lines.append(sentence)
        yield "\n".join(lines)


def write_sources(folder: Path, count: int, tokens: int | None) -> int:
    """Writes generated notes as FHIR NDJSON; returns the number of bytes."""
    write_fhir_ndjson(generate_notes(count, tokens=tokens), folder)
    return (folder / "notes.ndjson").stat().st_size


def measure(
    part: str | None, *, notes: int, tokens: int | None, device: str, profile: str = "standard", quiet: bool = False
) -> dict[str, Any]:
    """Measures one part or all, each in a fresh process.

    Returns:
        For each part ``notes_per_s``, ``tokens_per_s``, ``peak_memory_mb`` and, where it has batches, ``useful_tokens``
        (the fraction of their cells that is no padding); ``ingest`` also ``formats``, with ``mb_per_s`` and
        ``notes_per_s`` of each; beside them ``machine``, ``device``, ``cold_start_s``.
    """
    figures: dict[str, Any] = {}
    for name in [part] if part else PARTS:
        if not quiet:
            print(f"measuring {name} …", file=sys.stderr)
        figures[name] = _fresh_process(
            [sys.executable, "-m", __spec__.name, name, str(notes), str(tokens or 0), device, profile]
        )
    if "ingest" in figures:
        command = [sys.executable, "-m", __spec__.name, "formats", str(notes), str(tokens or 0), device, profile]
        figures["ingest"]["formats"] = _fresh_process(command)
    figures["machine"] = f"{platform.machine()}, {cpu_count()} processors, Python {platform.python_version()}"
    figures["device"] = device
    figures["profile"] = profile
    figures["cold_start_s"] = round(measure_cold_start(device), 2)
    return figures


def _fresh_process(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_cold_start(device: str) -> float:
    """Returns the seconds that ``medpipe run`` takes on one short note, process start included."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note.txt"
        note.write_text(next(generate_notes(1, tokens=SHORTEST)), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "medpipe.cli",
            "run",
            str(note),
            "--out",
            f"{folder}/out",
            "--device",
            device,
            "--quiet",
        ]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started


def measure_part(part: str, notes: int, tokens: int | None, device: str, profile: str = "standard") -> dict[str, Any]:
    """Measures one part in this process."""
    from medpipe import pipeline
    from medpipe.settings import STAGES, load_settings
    from medpipe.text.tokens import tokenize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_sources(folder, notes, tokens)
        length = sum(len(tokenize(text)) for text in generate_notes(notes, tokens=tokens))
        settings = load_settings(warehouse=folder / "warehouse", device=device, profile=profile)
        warm_up(folder / "warm", settings)
        night = pipeline.plan(settings, "2026-01-01", [str(folder / "notes.ndjson")])
        before = STAGES[: STAGES.index(part)] if part != "run" else ()
        for stage in before:
            pipeline.run_stage(stage, night["work"], 0, settings)
        started = time.perf_counter()
        counts: Counter[str] = Counter()
        for stage in STAGES if part == "run" else (part,):
            counts.update(pipeline.run_stage(stage, night["work"], 0, settings))
        if part == "run":
            pipeline.publish(night["work"], settings)
        seconds = time.perf_counter() - started
    figures = {
        "notes": notes,
        "tokens": length,
        "seconds": round(seconds, 3),
        "notes_per_s": round(notes / seconds, 2),
        "tokens_per_s": round(length / seconds, 1),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }
    if counts.get("padded_tokens"):
        figures["useful_tokens"] = round(counts["tokens"] / counts["padded_tokens"], 4)
    if part == "ingest":
        figures["mb_per_s"] = round(size / 1e6 / seconds, 2)
    return figures


def measure_formats(notes: int, tokens: int | None) -> dict[str, dict[str, float]]:
    """Measures the reading of each format, from files to the rows of ``documents`` and ``sections``.

    Bytes are those of the files.
    """
    from medpipe.ingest.sources import find_sources
    from medpipe.ingest.stage import read_chunks
    from medpipe.settings import load_settings

    limits = load_settings()
    figures = {}
    for format, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(generate_notes(notes, tokens=tokens), Path(folder))
            sources = find_sources([folder])
            size = sum(source.path.stat().st_size for source in sources)
            for _ in range(2):  # the first round imports libraries and fills caches
                read = 0.0
                started = time.perf_counter()
                for chunk in read_chunks(
                    sources, format="auto", run_id="bench", max_note_chars=limits.max_note_chars,
                    chunk_documents=limits.chunk_documents, chunk_chars=limits.chunk_chars,
                ):  # fmt: skip
                    read += chunk.counts.get("documents", 0)
                seconds = time.perf_counter() - started
        figures[format] = {
            "notes": int(read),
            "mb_per_s": round(size / 1e6 / seconds, 2),
            "notes_per_s": round(read / seconds, 1),
        }
    return figures


def warm_up(folder: Path, settings: Settings) -> None:
    """Runs the line over one short note, so that imports and first calls are not timed."""
    from medpipe import pipeline

    folder.mkdir()
    (folder / "note.txt").write_text(next(generate_notes(1, tokens=SHORTEST)), encoding="utf-8")
    aside = settings.model_copy(update={"warehouse": folder / "warehouse"})
    pipeline.run(aside, "2026-01-01", [str(folder / "note.txt")])


if __name__ == "__main__":
    part, notes, tokens, device, profile = sys.argv[1:6]
    if part == "formats":
        print(json.dumps(measure_formats(int(notes), int(tokens) or None)))
    else:
        print(json.dumps(measure_part(part, int(notes), int(tokens) or None, device, profile)))
