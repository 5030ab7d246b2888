"""The notes of a partition with all that was found in them, read in document order with flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.lake import warehouse
from medpipe.report.characters import one_line


@dataclass(frozen=True, slots=True)
class Note:
    """A document's row with the rows that belong to it, each as a dict of its table's columns."""

    document: dict[str, Any]
    sections: list[dict[str, Any]]
    entities: list[dict[str, Any]]
    relations: list[dict[str, Any]]
    summary: dict[str, Any] | None


def read_notes(root: Path, partition: str, sources: frozenset[str], *, most: int | None = None) -> Iterator[Note]:
    """Yields the notes that came from ``sources``, by source and place in it; at most ``most`` of them."""
    yield from read_documents(root, partition, list_notes(root, partition, sources)[:most])


def list_notes(root: Path, partition: str, sources: frozenset[str]) -> list[str]:
    """Returns the ids of the notes that came from ``sources``, by source and place in it."""
    index = warehouse.read_table(root, "documents", partition=partition, columns=["document_id", "source", "record"])
    index = index.filter(pc.is_in(index["source"], pa.array(sorted(sources), pa.string())))
    rows = sorted(
        zip(index["source"].to_pylist(), index["record"].to_pylist(), index["document_id"].to_pylist(), strict=True)
    )
    return [document_id for _, _, document_id in rows]


def find_note(root: Path, document_id: str, partition: str | None = None) -> Note:
    """Returns the note of an id, or of the beginning of one; where several partitions hold it, the newest.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where there is no warehouse, DOCUMENT_NOT_FOUND where no one note has it.
    """
    if not root.is_dir():
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason="no such folder")
    wanted = [partition] if partition is not None else warehouse.partitions(root)
    found: dict[str, str] = {}
    if document_id:
        for one in wanted:
            rule = pc.starts_with(pc.field("document_id"), document_id)
            ids = warehouse.read_table(root, "documents", partition=one, columns=["document_id"], filters=rule)
            found |= dict.fromkeys(ids["document_id"].to_pylist(), one)
    if len(found) != 1:
        raise MedpipeError("DOCUMENT_NOT_FOUND", document_id=one_line(document_id), path=root)
    [(key, one)] = found.items()
    return next(read_documents(root, one, [key]))


def read_documents(root: Path, partition: str, ids: list[str]) -> Iterator[Note]:
    """Yields notes by their ids, in that order, a few at a time."""
    for first in range(0, len(ids), 64):
        piece = ids[first : first + 64]
        wanted = pc.field("document_id").isin(piece)
        tables = {
            name: warehouse.read_table(root, name, partition=partition, filters=wanted).to_pylist()
            for name in ("documents", "sections", "entities", "relations", "summaries")
        }
        grouped: dict[str, dict[str, list[dict[str, Any]]]] = {key: {name: [] for name in tables} for key in piece}
        for name, found in tables.items():
            for row in found:
                grouped[row["document_id"]][name].append(row)
        for key in piece:
            one = grouped[key]
            entities = sorted(one["entities"], key=lambda row: (row["start"], -row["end"], row["depth"]))
            summary = one["summaries"][0] if one["summaries"] else None
            yield Note(one["documents"][0], one["sections"], entities, one["relations"], summary)
