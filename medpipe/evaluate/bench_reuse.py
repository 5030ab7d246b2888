"""``medpipe bench reuse``: what a night costs whose notes were done before, all of them or all but a tenth.

The notes are generated (see ``bench``) and lie in files of 500, as JSON lines. Each night runs in a process of its own,
so its time includes loading the models, if it needs them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medpipe.device import peak_memory_mb
from medpipe.evaluate.bench import generate_notes

FILE_NOTES = 500
TOKENS = 150  # of a note
DAY, NEXT_DAY = "2026-01-01", "2026-01-02"
CHANGED = 10  # every tenth note


def write_notes(folder: Path, count: int, tokens: int, *, changed: bool = False) -> None:
    """Writes generated notes as JSON lines; ``changed`` adds a sentence to every tenth."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = enumerate(_lines(count, tokens, changed=changed))
    file = None
    for number, line in lines:
        if number % FILE_NOTES == 0:
            if file:
                file.close()
            file = (folder / f"{number // FILE_NOTES:05d}.ndjson").open("w", encoding="utf-8")
        assert file is not None
        file.write(line)
    if file:
        file.close()


def _lines(count: int, tokens: int, *, changed: bool) -> Iterator[str]:
    for number, text in enumerate(generate_notes(count, tokens=tokens)):
        if changed and number % CHANGED == 0:
            text += "\nThe patient denies fever."
        yield json.dumps({"document_id": str(number), "patient_id": f"p{number % 97}", "text": text}) + "\n"


def measure_reuse(notes: int, tokens: int | None, device: str, *, quiet: bool = False) -> dict[str, Any]:
    """Measures the nights one after the other.

    Returns:
        For ``made`` (all notes are new), ``unchanged`` (the same partition again), ``taken_over`` (the same notes, the
        next day) and ``changed`` (the first partition again, every tenth note changed): ``seconds``, ``cpu_seconds``,
        ``share`` (of the time of ``made``: on a CPU of its CPU seconds, which other load does not change),
        ``reused`` and ``unchanged`` (notes), ``peak_memory_mb``.
    """
    figures: dict[str, Any] = {"notes": notes, "tokens": tokens or TOKENS, "device": device}
    with tempfile.TemporaryDirectory(prefix="medpipe-bench-") as name:
        folder = Path(name)
        write_notes(folder / "landing", notes, tokens or TOKENS)
        for night, partition in (("made", DAY), ("unchanged", DAY), ("taken_over", NEXT_DAY), ("changed", DAY)):
            if not quiet:
                print(f"measuring {night} …", file=sys.stderr)
            if night == "changed":
                write_notes(folder / "landing", notes, tokens or TOKENS, changed=True)
            command = [sys.executable, "-m", __spec__.name, str(folder), partition, device]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            one = json.loads(done.stdout.splitlines()[-1])
            measure = "cpu_seconds" if device == "cpu" else "seconds"
            figures[night] = one | {"share": round(one[measure] / figures.get("made", one)[measure], 5)}
    return figures


def measure_night(folder: Path, partition: str, device: str) -> dict[str, Any]:
    """Runs a night in this process and returns what it took."""
    from medpipe import pipeline
    from medpipe.settings import load_settings

    settings = load_settings(warehouse=folder / "warehouse", device=device)
    started, cpu = time.perf_counter(), time.process_time()
    outcome = pipeline.run(settings, partition, [str(folder / "landing")])
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "reused": int(outcome["counts"].get("reused", 0)),
        "unchanged": int(outcome["counts"].get("unchanged", 0)),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure_night(Path(sys.argv[1]), *sys.argv[2:4])))
