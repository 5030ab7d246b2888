"""JSON lines: a note a line, in the corpus format (README, Train), with all that the tables know of it beside.

``medpipe train`` and ``medpipe evaluate`` read it, as do tools that take ``text`` and spans.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from medpipe.export.folder import check_partitions
from medpipe.export.notes import NoteRows, Row, assertions_of, latest_notes, spans_of
from medpipe.lake import files

OF_DOCUMENT = (
    "source",
    "record",
    "patient_id",
    "encounter_id",
    "note_type",
    "note_type_code",
    "authored_at",
    "language",
)


def export_jsonl(root: Path, out: Path, *, partition: str | None = None) -> dict[str, int]:
    """Writes the processed notes of a warehouse as JSON lines; an older file of the name is replaced.

    Returns:
        How many ``documents``, ``entities`` and ``relations`` were written, and how many documents were ``left_out``,
        because no tagger has seen them.

    Raises:
        MedpipeError: WAREHOUSE_INVALID, DISK_FULL, PERMISSION_DENIED.
    """
    check_partitions(root, partition)
    counts = {"documents": 0, "entities": 0, "relations": 0, "left_out": 0}
    with files.written_aside(out) as aside, aside.open("wb") as lines:
        for note in latest_notes(root, partition):
            if note.document["status"] != "processed":
                counts["left_out"] += 1
                continue
            lines.write(orjson.dumps(make_line(note), option=orjson.OPT_APPEND_NEWLINE))
            counts["documents"] += 1
            counts["entities"] += len(note.entities)
            counts["relations"] += len(note.relations)
    return counts


def make_line(note: NoteRows) -> dict[str, Any]:
    """Returns a note in the corpus format."""
    return {
        "doc_id": note.document["document_id"],
        "text": note.document["text"],
        "entities": [make_entity(row) for row in note.entities],
        "relations": [
            {"type": row["type"], "head": row["head_entity_id"], "tail": row["tail_entity_id"], "score": row["score"]}
            for row in note.relations
        ],
        "summary": note.summary and note.summary["text"],
        **{name: note.document[name] for name in OF_DOCUMENT},
    }


def make_entity(row: Row) -> dict[str, Any]:
    """Returns an entity in the corpus format."""
    return {
        "id": row["entity_id"], "type": row["label"], "spans": spans_of(row), "attributes": assertions_of(row),
        "score": row["score"], "parent": row["parent_entity_id"], "code_system": row["code_system"],
        "code": row["code"],
    }  # fmt: skip
