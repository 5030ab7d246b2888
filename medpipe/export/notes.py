"""The notes of a warehouse with all their rows, one after the other, with flat memory: what exports are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from medpipe.export.folder import check_partitions
from medpipe.lake import warehouse
from medpipe.records import ASSERTIONS

DOCUMENT_ROWS = 64  # read at a time: a note may be a megabyte
ENTITY_ROWS = 4096

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoteRows:
    """A document's row with those that belong to it."""

    partition: str
    document: Row
    entities: list[Row]  # in the order of the text, outer before inner
    relations: list[Row]
    summary: Row | None


def latest_notes(root: Path, partition: str | None = None) -> Iterator[NoteRows]:
    """Returns every note once: where it stands in several partitions, as the last of them has it.

    Args:
        root: the warehouse.
        partition: ``YYYY-MM-DD``; all if not given.

    Raises:
        MedpipeError: WAREHOUSE_INVALID.
    """
    return _latest(root, check_partitions(root, partition))


def _latest(root: Path, partitions: Sequence[str]) -> Iterator[NoteRows]:
    later = superseded(root, partitions)
    for one in partitions:
        for note in partition_notes(root, one):
            if (note.document["document_id"], one) not in later:
                yield note


def superseded(root: Path, partitions: Sequence[str]) -> set[tuple[str, str]]:
    """Returns the documents that stand in a later partition again, with the partition that does not count for them."""
    last: dict[str, int] = {}  # an id and a number a note: some 100 bytes
    found = set()
    for number, partition in reversed(list(enumerate(partitions))):
        for block in warehouse.iter_rows(root, "documents", partition, 1 << 16, ["document_id"]):
            for key in block["document_id"].to_pylist():
                if last.setdefault(key, number) != number:
                    found.add((key, partition))
    return found


def partition_notes(root: Path, partition: str) -> Iterator[NoteRows]:
    """Yields the notes of a partition in the order of their ids."""
    entities_of, relations_of, summaries_of = (
        rows_by_document(root, table, partition) for table in ("entities", "relations", "summaries")
    )
    for batch in warehouse.iter_rows(root, "documents", partition, DOCUMENT_ROWS):
        for document in batch.to_pylist():
            key = document["document_id"]
            entities = sorted(entities_of(key), key=lambda row: (row["start"], -row["end"], row["depth"]))
            summary = next(iter(summaries_of(key)), None)
            yield NoteRows(partition, document, entities, relations_of(key), summary)


def rows_by_document(root: Path, table: str, partition: str) -> Callable[[str], list[Row]]:
    """Returns a function that gives a document's rows; it must be asked in the order in which the table is sorted."""
    rows = (row for batch in warehouse.iter_rows(root, table, partition, ENTITY_ROWS) for row in batch.to_pylist())
    groups = groupby(rows, key=itemgetter("document_id"))
    ahead: list[tuple[str, list[Row]]] = []  # the group that was read and not yet asked for

    def rows_of(document_id: str) -> list[Row]:
        while not ahead or ahead[0][0] < document_id:
            group = next(groups, None)
            if group is None:
                return []
            ahead[:] = [(group[0], list(group[1]))]
        return ahead[0][1] if ahead[0][0] == document_id else []

    return rows_of


def spans_of(entity: Row) -> list[tuple[int, int]]:
    """Returns the intervals of a mention: its fragments, or its outer extent."""
    fragments = entity["fragments"] or [{"start": entity["start"], "end": entity["end"]}]
    return [(part["start"], part["end"]) for part in fragments]


def assertions_of(entity: Row) -> list[str]:
    """Returns what is said of a mention: ``negated``, ``family``, …"""
    return [name for name in ASSERTIONS if entity[name]]
