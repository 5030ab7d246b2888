"""Invented rows of every table, that keep the contracts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from medpipe.ids import hash_text, make_id
from medpipe.lake import contracts, files
from medpipe.lake.publish import PublishInput
from medpipe.lake.warehouse import ORDER

PARTITION = "2026-01-31"
WORDS = ("fever", "cough", "asthma", "rash")


def rows_of(source: str, notes: int, *, model: str = "tagger@1", entities: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``notes`` documents of a source, with ``entities`` entities and a relation each."""
    tables: dict[str, list[dict[str, Any]]] = {table: [] for table in contracts.TABLES}
    for number in range(notes):
        text = f"Note {number} of {source}: " + " ".join(WORDS)
        document = make_id("document", source, str(number), None, hash_text(text))
        tables["documents"].append({
            "document_id": document, "source": source, "record": str(number), "format": "text", "patient_id": f"p{number % 3}",
            "encounter_id": None, "note_type": "Progress note", "note_type_code": "11506-3", "note_status": "final",
            "authored_at": datetime(2026, 1, 30, 12, number % 60, tzinfo=UTC), "authored_at_precision": "minute",
            "authored_at_text": "2026-01-30",
            "media_type": "text/plain", "encoding": "utf-8", "language": None, "text": text, "text_hash": hash_text(text),
            "n_chars": len(text), "status": "processed", "n_sections": 0, "n_entities": 0, "n_relations": 0,
            "n_summaries": 0, "run_id": "r-ingest",
        })  # fmt: skip
        section = make_id("section", document, 0, len(text), "body")
        tables["sections"].append({
            "section_id": section, "document_id": document, "parent_section_id": None, "name": "body", "title": None,
            "code": None, "start": 0, "end": len(text), "body_start": 0, "run_id": "r-ingest",
        })  # fmt: skip
        ids = []
        for word in WORDS[:entities]:
            start = text.index(word)
            ids.append(make_id("entity", document, model, start, start + len(word), "SYMPTOM"))
            tables["entities"].append({
                "entity_id": ids[-1], "document_id": document, "patient_id": f"p{number % 3}", "section_id": section,
                "start": start, "end": start + len(word), "text": word, "label": "SYMPTOM", "subtype": None, "score": 0.75,
                "parent_entity_id": None, "depth": 0, "fragments": [{"start": start, "end": start + 1}] if number % 2 else None,
                "negated": number % 2 == 0, "uncertain": False, "hypothetical": False, "historical": False, "family": False,
                "code_system": None, "code": None, "code_score": None, "model": model, "run_id": "r-tag",
            })  # fmt: skip
        if entities > 1:
            tables["relations"].append({
                "relation_id": make_id("relation", document, model, "has_symptom", *ids[:2]), "document_id": document,
                "patient_id": f"p{number % 3}", "type": "has_symptom", "head_entity_id": ids[0], "tail_entity_id": ids[1],
                "score": 0.5, "negated": False, "head_negated": False, "tail_negated": False, "family": False,
                "uncertain": False, "evidence_start": 0, "evidence_end": len(text), "sentence_distance": 0,
                "model": model, "run_id": "r-relate",
            })  # fmt: skip
        tables["summaries"].append({
            "summary_id": make_id("summary", document, model), "document_id": document, "patient_id": f"p{number % 3}",
            "text": "Note", "sections": None,
            "tokens": [{"start": 0, "end": 4, "source_start": 0, "source_end": 4, "probability": 0.5}],
            "entity_ids": ids, "relation_ids": [], "method": "extractive", "faithful": True, "n_sentences": 1,
            "n_unsupported_entities": 0, "n_unsupported_numbers": 0, "n_polarity_errors": 0, "n_repaired": 0,
            "scope": "note", "encounter_id": None, "document_ids": None, "token_documents": None,
            "checks": ["entities", "numbers"], "n_side_errors": 0, "n_family_errors": 0, "n_replaced": 0, "n_dropped": 0,
            "model": model, "run_id": "r-summarize",
        })  # fmt: skip
    tables["quarantine"].append({
        "record_id": make_id("quarantine", source, "x", "ingest", "TEXT_EMPTY"), "source": source, "record": "x",
        "document_id": None, "stage": "ingest", "code": "TEXT_EMPTY", "message": "The note is empty.",
        "remedy": "Nothing to do if the note is meant to be empty.", "attempt": 1,
        "run_id": "r-ingest",
    })  # fmt: skip
    for stage in ("ingest", "tag", "relate", "summarize"):
        tables["runs"].append({
            "run_id": f"r-{stage}", "stage": stage, "partition": PARTITION,
            "started_at": datetime(2026, 2, 1, tzinfo=UTC), "finished_at": datetime(2026, 2, 1, 1, tzinfo=UTC),
            "code_version": "0", "model_name": None, "weights_hash": None,
            "schema_versions": [{"table": "documents", "version": "1.0.0"}], "device": "cpu", "rows_in": 1, "rows_out": 1,
            "rejects": 0, "seconds": 1.5, "peak_memory_mb": 10.0, "gpu_fragmentation": None,
            "gpu_busy": None, "tokens_per_s": 3.0, "useful_tokens": 0.75,
            "counts": [{"name": "tokens", "value": 3.0}],
        })  # fmt: skip
    return tables


def as_table(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    names = [name for name in contracts.arrow_schema(table).names if name != "schema_version"]
    made = contracts.conform(table, {name: [row.get(name) for row in rows] for name in names})
    return made.sort_by([(name, "ascending") for name in ORDER[table]])


def write_chunks(folder: Path, rows: dict[str, list[dict[str, Any]]], chunks: int = 2) -> dict[str, list[Path]]:
    """Writes rows as the work area has them: several files a table, each sorted."""
    paths: dict[str, list[Path]] = {table: [] for table in contracts.TABLES}
    for table, all_rows in rows.items():
        for chunk in range(chunks):
            path = folder / f"chunk-{chunk}" / f"{table}.parquet"
            files.write_table(path, as_table(table, all_rows[chunk::chunks]))
            paths[table].append(path)
    return paths


def publish_input(root: Path, work: Path, rows: dict[str, list[dict[str, Any]]], **options: Any) -> PublishInput:
    sources = frozenset(row["source"] for row in rows["documents"]) | frozenset(
        row["source"] for row in rows["quarantine"]
    )
    facts = {"fingerprint": {"code": "0"}, "sources": dict.fromkeys(sorted(sources), "d")}
    options = {"sources": sources, "facts": facts} | options
    return PublishInput(warehouse=root, partition=PARTITION, tables=write_chunks(work, rows), **options)
