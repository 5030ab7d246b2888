"""The vocabulary: what a document, a section, an entity, a relation, a summary and a reject are.

These are the Python objects of the edges (readers, command line, reports, training). Between stages
flow Arrow tables with the same columns (``medpipe.lake.contracts``); inside a stage, NumPy and torch.

Offsets are half-open intervals of Unicode code points into the raw text of the note:
``document.text[entity.start:entity.end] == entity.text``, always. Text is never normalised in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# The labels of the shipped tagger, in the order of their columns in its network.
LABELS = (
    "DISEASE",
    "SYMPTOM",
    "ANATOMY",
    "DRUG",
    "DOSAGE",
    "PROCEDURE",
    "TEST",
    "LAB_VALUE",
    "SEVERITY",
    "TEMPORAL",
    "AGE",
    "SEX",
)
ASSERTIONS = ("negated", "uncertain", "hypothetical", "historical", "family")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a note under one heading: ``text[start:end]``, the heading included."""

    name: str  # canonical, snake_case: "history_of_present_illness"; "body" for text before any heading
    start: int
    end: int
    body_start: int  # where the text after the heading begins
    title: str | None = None  # as written
    code: str | None = None  # LOINC
    parent: int | None = None  # index of the enclosing section in the document's list


@dataclass(frozen=True, slots=True)
class Document:
    """A note as a reader found it. ``source`` and ``record`` say where; together they are unique."""

    document_id: str
    source: str  # path of the file below the input's root, with forward slashes
    record: str  # place in the source: "DocumentReference/123#content.0", "line 7", "0"
    format: str  # name of the reader
    text: str
    text_hash: str
    patient_id: str | None = None
    encounter_id: str | None = None
    note_type: str | None = None  # as the source names it
    note_type_code: str | None = None  # LOINC
    note_status: str | None = None  # as the source names it: "final", "preliminary", "amended"
    authored_at: datetime | None = None  # UTC
    authored_at_text: str | None = None  # as written in the source
    media_type: str | None = None
    encoding: str | None = None
    language: str | None = None  # BCP 47, where known
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, slots=True)
class Entity:
    """A mention. ``fragments`` is set where it is discontinuous; ``start`` and ``end`` are then its outer extent."""

    start: int
    end: int
    text: str
    label: str
    score: float = 1.0
    entity_id: str = ""
    parent_entity_id: str | None = None
    depth: int = 0  # 0: in no other entity
    fragments: tuple[tuple[int, int], ...] = ()
    assertions: frozenset[str] = frozenset()  # of ASSERTIONS


@dataclass(frozen=True, slots=True)
class Relation:
    """A typed pair of entities of one document, by their ids."""

    type: str
    head: str
    tail: str
    score: float = 1.0
    relation_id: str = ""


@dataclass(frozen=True, slots=True)
class SummaryToken:
    """A token of a summary: ``summary.text[start:end]``, and where it was copied from, if it was."""

    start: int
    end: int
    source_start: int | None  # None: generated, not copied
    source_end: int | None
    probability: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of one document and the outcome of its faithfulness check."""

    text: str
    tokens: tuple[SummaryToken, ...]
    method: str  # "abstractive", "extractive"
    faithful: bool
    repaired_sentences: int = 0


@dataclass(frozen=True, slots=True)
class Reject:
    """A record or document that a stage could not take: one row of ``quarantine``. Never holds note text."""

    source: str
    record: str
    stage: str
    code: str
    message: str
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is not a note (a Patient, an Observation without text): counted, not kept."""

    kind: str


@dataclass(frozen=True, slots=True)
class ModelId:
    """Which model made a row: written as ``name@hash`` in the column ``model``."""

    name: str
    version: str
    weights_hash: str

    def __str__(self) -> str:
        return f"{self.name}@{self.weights_hash[:12]}"


@dataclass(slots=True)
class StageOutput:
    """What a stage returns for a chunk of documents.

    ``rows`` maps a table's name to an Arrow table of exactly its contract's schema, sorted by document id;
    ``rejects`` are the documents that it could not take; ``counts`` are figures for the funnel and the
    ``runs`` table ("tokens", "padded_tokens", "candidates_cut", …), summed over chunks.
    """

    rows: Mapping[str, pa.Table]
    rejects: list[Reject] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)


def corpus_entity(raw: Mapping[str, Any], text: str) -> Entity:
    """Makes an entity of one of the corpus format (``id``, ``type``, ``spans``)."""
    spans = tuple(sorted((int(start), int(end)) for start, end in raw["spans"]))
    start, end = spans[0][0], max(stop for _, stop in spans)
    fragments = spans if len(spans) > 1 else ()
    return Entity(start, end, text[start:end], raw["type"], entity_id=raw["id"], fragments=fragments)
