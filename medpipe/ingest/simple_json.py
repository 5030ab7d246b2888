"""The project's own simple JSON: an object with ``text``, or a list of them.

``{"document_id": …, "patient_id": …, "encounter_id": …, "note_type": …, "note_type_code": …, "authored_at": …,
"language": …, "text": …}``; only ``text`` must be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medpipe.ingest.notes import Reading
from medpipe.ingest.syntax.json_text import json_kind
from medpipe.ingest.syntax.names import clean
from medpipe.records import Document, Reject

FACTS = ("patient_id", "encounter_id", "note_type", "note_type_code", "language")


def read_simple(value: Any, reading: Reading) -> Iterator[Document | Reject]:
    """Yields the notes of a parsed file."""
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        yield read_one(item, str(index), reading)


def read_one(item: Any, place: str, reading: Reading) -> Document | Reject:
    """Returns the note of one object."""
    if not isinstance(item, dict):
        return reading.reject(place, "RECORD_NOT_OBJECT", kind=json_kind(item))
    record = clean(item.get("document_id")) or place
    if len(record.split("\n")) > 1:  # no id, whatever it is: records are named in messages
        record = place
    text = item.get("text")
    if not isinstance(text, str):
        return reading.reject(record, "TEXT_MISSING")
    facts: dict[str, Any] = {name: clean(item.get(name)) for name in FACTS}
    return reading.document(record, text, authored_at=item.get("authored_at"), **facts)
