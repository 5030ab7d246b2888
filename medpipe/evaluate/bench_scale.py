"""``medpipe bench scale``: plan and publish of a large night, without models: its rows are generated in Arrow.

The work area is what the stages would have left: chunks of whole documents, each file sorted by document, ids spread
over all chunks. A document has two sections, six entities, two relations and a summary: twelve rows. Rows keep the
contracts, so that the quality gate has all its work. Generating is not timed; planning and publishing have a process of
their own, so that the peak memory is theirs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe import pipeline
from medpipe.device import peak_memory_mb
from medpipe.evaluate.bench import DISEASES, DRUGS, SYMPTOMS, generate_notes
from medpipe.ids import hash_text, make_ids
from medpipe.lake import contracts, files, warehouse
from medpipe.lake.warehouse import ORDER
from medpipe.pipeline import chunks, planning
from medpipe.settings import STAGES, Settings, load_settings

DAY = "2026-01-01"
ROWS_OF_DOCUMENT = 12
ENTITIES, RELATIONS, SECTIONS = 6, 2, 2
TEMPLATES = 64  # different notes; each document has its number before one of them
TOKENS = 150
DIGITS = 12
SOURCES = 512
WORDS = [(word, "DISEASE") for word in DISEASES] + [(word, "SYMPTOM") for word in SYMPTOMS] + [
    (word, "DRUG") for word in DRUGS
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Templates:
    """Generated notes and where six words of each stand."""

    texts: pa.Array
    hashes: pa.Array
    start: np.ndarray  # shape: (templates, ENTITIES), int64; in the document, its number included
    end: np.ndarray  # shape: (templates, ENTITIES), int64
    words: np.ndarray  # shape: (templates, ENTITIES), object
    labels: np.ndarray  # shape: (templates, ENTITIES), object


def make_templates() -> Templates:
    """Generates notes with at least six words of the vocabulary."""
    texts: list[str] = []
    places: list[list[tuple[int, str, str]]] = []
    for text in generate_notes(4 * TEMPLATES, tokens=TOKENS):
        found = sorted((text.find(word), word, label) for word, label in WORDS if word in text)
        if len(found) >= ENTITIES and len(texts) < TEMPLATES:
            texts.append(f" {text}")
            places.append(found[:ENTITIES])
    start = np.array([[at + DIGITS + 1 for at, _, _ in found] for found in places])
    words = np.array([[word for _, word, _ in found] for found in places], dtype=object)
    length = np.array([[len(word) for _, word, _ in found] for found in places])
    labels = np.array([[label for _, _, label in found] for found in places], dtype=object)
    return Templates(pa.array(texts), pa.array(map(hash_text, texts)), start, start + length, words, labels)


def make_chunk(
    templates: Templates, first: int, count: int, source: str, run_ids: dict[str, str]
) -> dict[str, pa.Table]:
    """Returns the rows of all tables of ``count`` documents, numbered from ``first``."""
    random = np.random.default_rng(first)
    numbers = pa.array([f"{number:0{DIGITS}d}" for number in range(first, first + count)])
    ids = make_ids("document", source, numbers)
    order = pc.sort_indices(ids)
    ids, numbers = ids.take(order), numbers.take(order)
    chosen = random.integers(len(templates.texts), size=count)
    texts = pc.binary_join_element_wise(numbers, templates.texts.take(pa.array(chosen)), "")
    lengths = pc.utf8_length(texts).to_numpy().astype(np.int64)
    patients = pc.binary_join_element_wise("p", pc.utf8_slice_codeunits(numbers, 6, DIGITS), "")

    def table(name: str, rows: int, columns: dict[str, Any]) -> pa.Table:
        fields = [field for field in contracts.arrow_schema(name) if field.name != "schema_version"]
        filled = {field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in fields}
        made = {
            key: value if isinstance(value, pa.Array) else pa.array([value] * rows) for key, value in filled.items()
        }
        return contracts.conform(name, pa.table(made)).sort_by([(one, "ascending") for one in ORDER[name]])

    def of_documents(each: int) -> tuple[pa.Array, pa.Array, np.ndarray]:
        owner = np.repeat(np.arange(count), each)
        return ids.take(pa.array(owner)), patients.take(pa.array(owner)), owner

    zero = pa.array(np.zeros(count, np.int32))
    documents = table("documents", count, {
        "document_id": ids, "source": source, "record": numbers, "format": "ndjson", "patient_id": patients,
        "media_type": "text/plain", "encoding": "utf-8", "language": "en", "text": texts, "status": "processed",
        "text_hash": templates.hashes.take(pa.array(chosen)), "n_chars": pa.array(lengths), "n_sections": zero,
        "n_entities": zero, "n_relations": zero, "n_summaries": zero, "run_id": run_ids["ingest"],
    })  # fmt: skip
    document, _, owner = of_documents(SECTIONS)
    half = np.tile([0, 1], count)
    begins, ends = half * (lengths[owner] // 2), np.where(half, lengths[owner], lengths[owner] // 2)
    sections = make_ids("section", document, pa.array(begins))
    sections_table = table("sections", len(owner), {
        "section_id": sections, "document_id": document, "name": "body", "start": pa.array(begins),
        "end": pa.array(ends), "body_start": pa.array(begins), "run_id": run_ids["ingest"],
    })  # fmt: skip
    document, patient, owner = of_documents(ENTITIES)
    start, end = (column[chosen].reshape(-1) for column in (templates.start, templates.end))
    labels, words = (pa.array(column[chosen].reshape(-1)) for column in (templates.labels, templates.words))
    entities = make_ids("entity", document, pa.array(start), pa.array(end), labels)
    entities_table = table("entities", len(owner), {
        "entity_id": entities, "document_id": document, "patient_id": patient, "start": pa.array(start),
        "section_id": sections.take(pa.array(owner * SECTIONS)), "end": pa.array(end), "text": words, "label": labels,
        "score": pa.array(random.beta(8, 2, len(owner))), "depth": 0, "negated": False, "uncertain": False,
        "hypothetical": False, "historical": False, "family": False, "model": "tagger@generated",
        "run_id": run_ids["tag"],
    })  # fmt: skip
    document, patient, owner = of_documents(RELATIONS)
    head = entities.take(pa.array(owner * ENTITIES))
    tail = entities.take(pa.array(owner * ENTITIES + np.tile([1, 2], count)))
    relations = table("relations", len(owner), {
        "relation_id": make_ids("relation", head, tail), "document_id": document, "patient_id": patient,
        "type": "has_symptom", "head_entity_id": head, "tail_entity_id": tail, "negated": False,
        "score": pa.array(random.beta(6, 4, len(owner))), "evidence_start": 0, "evidence_end": 1,
        "sentence_distance": 0, "model": "relations@generated", "run_id": run_ids["relate"],
    })  # fmt: skip
    none = pa.array([[]] * count, pa.list_(pa.string()))
    summaries = table("summaries", count, {
        "summary_id": make_ids("summary", ids), "document_id": ids, "patient_id": patients,
        "text": pc.utf8_slice_codeunits(texts, DIGITS + 1, DIGITS + 101), "entity_ids": none, "relation_ids": none,
        "tokens": pa.array([[]] * count, contracts.arrow_schema("summaries").field("tokens").type),
        "method": "extractive", "faithful": True, "n_sentences": 1, "n_unsupported_entities": 0,
        "n_unsupported_numbers": 0, "n_polarity_errors": 0, "n_repaired": 0, "scope": "note",
        "model": "summarizer@generated", "run_id": run_ids["summarize"],
    })  # fmt: skip
    return {
        "documents": documents, "sections": sections_table, "entities": entities_table, "relations": relations,
        "summaries": summaries,
    }  # fmt: skip


def write_work(folder: Path, rows: int, settings: Settings) -> None:
    """Writes sources, plans them and fills the work area with what the stages would leave."""
    landing = folder / "landing"
    landing.mkdir(parents=True)
    for number in range(SOURCES):
        (landing / f"{number:05d}.ndjson").write_text(f'{{"text": "stands for a file of notes, {number}"}}\n')
    night = pipeline.plan(settings, DAY, [str(landing)], shards=settings.shards)
    plan = planning.read_plan(night["work"])
    run_ids = {stage: planning.make_run_id(stage, plan) for stage in STAGES}
    templates, clock = make_templates(), chunks.Clock()
    documents = -(-rows // ROWS_OF_DOCUMENT)
    firsts = range(0, documents, settings.chunk_documents)
    shards = len(night["shards"])
    for number, first in enumerate(firsts):
        shard = number % shards
        count = min(settings.chunk_documents, documents - first)
        made = make_chunk(
            templates, first, count, plan["shards"][shard][number // shards % len(plan["shards"][shard])], run_ids
        )
        chunk = Path(night["work"]) / f"shard-{shard:05d}" / f"chunk-{number // shards:05d}"
        for stage in STAGES:
            names = ("documents", "sections") if stage == "ingest" else (chunks.WRITES[stage],)
            output = {name: made[name] for name in names}
            chunks.write_output(chunk, stage, output, [], {}, clock.lap(), run_ids[stage], "cpu")
    for shard in range(shards):
        done = Path(night["work"]) / f"shard-{shard:05d}"
        files.write_json(done / "keep.json", [])
        files.write_json(done / "ingest.json", {"counts": {"documents": documents / shards}})


def publish_work(folder: Path, settings: Settings) -> dict[str, Any]:
    """Plans again, publishes, and returns what each took; the peak memory is that of this process so far."""
    started = time.perf_counter()
    night = pipeline.plan(settings, DAY, [str(folder / "landing")], shards=settings.shards)
    planned = time.perf_counter()
    outcome = pipeline.publish(night["work"], settings)
    published = time.perf_counter()
    manifest = warehouse.read_manifest(settings.warehouse, DAY)
    assert manifest is not None
    return {
        "rows": outcome["rows"],
        "plan_s": round(planned - started, 2),
        "publish_s": round(published - planned, 2),
        "cpu_s": round(time.process_time(), 2),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "bytes": {table: told["bytes"] for table, told in manifest["tables"].items()},
    }


def scale_settings(folder: Path) -> Settings:
    """Returns the settings of the simulated night: 64 shards."""
    return load_settings(warehouse=folder / "warehouse", shards=64, shard_bytes=1)


def measure_scale(rows: int, *, quiet: bool = False) -> dict[str, Any]:
    """Simulates a night of about ``rows`` rows in all tables and returns what planning and publishing took.

    Returns:
        ``rows`` and ``bytes`` of each table, ``plan_s``, ``publish_s``, ``cpu_s``, ``peak_memory_mb``; ``work_files``
        and ``work_bytes`` of the work area.
    """
    with tempfile.TemporaryDirectory(prefix="medpipe-bench-") as name:
        folder = Path(name)
        if not quiet:
            print(f"generating {rows:,} rows …", file=sys.stderr)
        write_work(folder, rows, scale_settings(folder))
        sizes = [path.stat().st_size for path in (folder / "warehouse" / "_work").rglob("*") if path.is_file()]
        if not quiet:
            print("planning and publishing …", file=sys.stderr)
        command = [sys.executable, "-m", __spec__.name, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1]) | {"work_files": len(sizes), "work_bytes": sum(sizes)}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(json.dumps(publish_work(place, scale_settings(place))))
