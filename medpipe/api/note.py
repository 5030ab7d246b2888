"""What was found in one text, as typed objects: entities in one another, relations between them, the summary.

All of it is read from the rows that a run would write (``Note.tables``), when it is first asked for. Offsets are
half-open code points: ``note.text[entity.start:entity.end] == entity.text``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medpipe.records import ASSERTIONS, Reject, SummaryToken

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Entity", "Note", "Relation", "Section", "Summary", "SummaryToken"]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the note under one heading; see the table ``sections``."""

    name: str
    title: str | None
    code: str | None  # LOINC
    start: int
    end: int
    body_start: int


@dataclass(frozen=True, slots=True, eq=False)
class Entity:
    """A mention, with the mentions that lie directly in it; see the table ``entities``."""

    entity_id: str
    start: int
    end: int
    text: str
    label: str
    score: float
    depth: int
    fragments: tuple[tuple[int, int], ...]  # empty where it is in one piece
    assertions: frozenset[str]  # of "negated", "uncertain", "hypothetical", "historical", "family"
    code_system: str | None
    code: str | None
    code_score: float | None
    section: str | None  # canonical name of its innermost section
    parent: Entity | None = field(default=None, repr=False)
    children: tuple[Entity, ...] = ()

    @property
    def negated(self) -> bool:
        """Whether the note says that it is absent."""
        return "negated" in self.assertions

    def __str__(self) -> str:
        return f"{self.label} {self.text!r}" + "".join(f" {one}" for one in ASSERTIONS if one in self.assertions)


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """Two mentions that belong together; see the table ``relations``."""

    relation_id: str
    type: str
    head: Entity
    tail: Entity
    score: float
    negated: bool
    evidence: tuple[int, int]  # the sentences that hold both: an interval of the text

    def __str__(self) -> str:
        return f"{self.head.text} -{self.type}-> {self.tail.text}"


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A summary, and where each word of it comes from; see the table ``summaries``."""

    text: str
    tokens: tuple[SummaryToken, ...]
    method: str
    faithful: bool
    entities: tuple[Entity, ...]  # that it mentions

    def __str__(self) -> str:
        return self.text


class Note:
    """What was found in one text.

    Attributes:
        text: the note as it was given.
        tables: its rows, by table: ``documents``, ``sections``, ``entities``, ``relations``, ``summaries``, each with
            exactly the schema of its contract. ``documents`` has no row where the text could not be taken.
        problems: why not all of it could be done; a code, and a message without note text.
    """

    def __init__(self, text: str, tables: Mapping[str, pa.Table], problems: tuple[Reject, ...] = ()) -> None:
        self.text = text
        self.tables = dict(tables)
        self.problems = problems

    @cached_property
    def document(self) -> dict[str, Any]:
        """The row of ``documents``: ids, type, time, language, counts; empty where the text could not be taken."""
        rows = self.tables["documents"].to_pylist()
        return dict(rows[0]) if rows else {}

    @property
    def status(self) -> str:
        """``processed``, ``unsupported_language`` or ``failed``."""
        return str(self.document.get("status", "failed"))

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The sections, in the order of the text."""
        names = ("name", "title", "code", "start", "end", "body_start")
        return tuple(Section(**{name: row[name] for name in names}) for row in self.tables["sections"].to_pylist())

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """All mentions, in the order of the text, outer before inner."""
        return tuple(sorted(self._by_id.values(), key=lambda one: (one.start, -one.end, one.depth, one.entity_id)))

    @property
    def roots(self) -> tuple[Entity, ...]:
        """The mentions that lie in no other; the rest hangs below them as ``children``."""
        return tuple(entity for entity in self.entities if entity.parent is None)

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """The relations, the surest first."""
        found = [
            Relation(
                row["relation_id"], row["type"], self._by_id[row["head_entity_id"]], self._by_id[row["tail_entity_id"]],
                row["score"], row["negated"], (row["evidence_start"], row["evidence_end"]),
            )
            for row in self.tables["relations"].to_pylist()
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda one: (-one.score, one.head.start, one.tail.start, one.type)))

    @cached_property
    def summary(self) -> Summary | None:
        """The summary; ``None`` where there is none."""
        for row in self.tables["summaries"].to_pylist():
            names = ("start", "end", "source_start", "source_end", "probability")
            tokens = tuple(SummaryToken(**{name: token[name] for name in names}) for token in row["tokens"])
            entities = tuple(self._by_id[key] for key in row["entity_ids"] if key in self._by_id)
            return Summary(row["text"], tokens, row["method"], row["faithful"], entities)
        return None

    @cached_property
    def _by_id(self) -> dict[str, Entity]:
        rows = self.tables["entities"].to_pylist()
        sections = {row["section_id"]: row["name"] for row in self.tables["sections"].to_pylist()}
        below: dict[str | None, list[dict[str, Any]]] = {}
        known = {row["entity_id"] for row in rows}
        for row in sorted(rows, key=lambda row: (row["start"], -row["end"])):
            below.setdefault(row["parent_entity_id"] if row["parent_entity_id"] in known else None, []).append(row)
        return {entity.entity_id: entity for entity in _make_entities(below, None, None, sections)}

    def to_arrow(self, table: str = "entities") -> pa.Table:
        """Returns the note's rows of a table: exactly the schema that is written to Parquet."""
        return self.tables[table]

    def to_pandas(self, table: str = "entities") -> pd.DataFrame:
        """Returns the note's rows of a table as a data frame."""
        return self.tables[table].to_pandas()

    def __repr__(self) -> str:
        # No text of the note: reprs end in logs.
        return (
            f"<Note {self.status}: {len(self.text)} characters, {len(self.tables['entities'])} entities, "
            f"{len(self.tables['relations'])} relations>"
        )

    def _repr_html_(self) -> str:
        from medpipe.api.html import render_note

        return render_note(self)


def _make_entities(
    below: Mapping[str | None, list[dict[str, Any]]],
    key: str | None,
    parent: Entity | None,
    sections: Mapping[str, str],
) -> Iterator[Entity]:
    """Yields the entities below one, each with its children, in any depth."""
    for row in below.get(key, ()):
        entity = Entity(
            row["entity_id"], row["start"], row["end"], row["text"], row["label"], row["score"], row["depth"],
            tuple((part["start"], part["end"]) for part in row["fragments"] or ()),
            frozenset(name for name in ASSERTIONS if row[name]),
            row["code_system"], row["code"], row["code_score"], sections.get(row["section_id"]), parent,
        )  # fmt: skip
        inner = list(_make_entities(below, entity.entity_id, entity, sections))
        # Parent and child name each other, so one of the two has to be set once both are there.
        object.__setattr__(entity, "children", tuple(one for one in inner if one.parent is entity))
        yield entity
        yield from inner
