"""Annotated corpora: one JSON document a line, ``doc_id``, ``text``, ``entities``, ``relations``.

An entity has ``id``, ``type`` and ``spans`` (half-open code point pairs); a relation ``type``, ``head``, ``tail``.
Summary pairs have ``id``, ``source``, ``summary`` and optionally ``section``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.records import Entity, Relation, corpus_entity


@dataclass(frozen=True, slots=True)
class AnnotatedDocument:
    """A document with its gold entities and relations, in the corpus's own labels."""

    doc_id: str
    text: str
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]
    attributes: dict[str, list[str]]  # by entity id, where the corpus has them
    norms: dict[str, list[str]] = field(default_factory=dict)  # codes by entity id, where the corpus has them
    concept_relations: tuple[Relation, ...] | None = None  # between codes, where the corpus relates concepts


@dataclass(frozen=True, slots=True)
class SummaryPair:
    """A source text and its reference summary."""

    pair_id: str
    source: str
    summary: str
    section: str | None


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the object of every line of a JSON-lines file.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    if not path.is_file():
        raise MedpipeError("CORPUS_NOT_FOUND", path=path)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason="no JSON") from error
            if not isinstance(record, dict):
                raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason="no JSON object")
            yield number, record


def read_documents(path: Path) -> list[AnnotatedDocument]:
    """Returns the annotated documents of a file.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND; CORPUS_INVALID with the line, where a field is missing or a span lies outside.
    """
    return [make_document(record, path, number) for number, record in read_lines(path)]


def make_document(record: Mapping[str, Any], path: Path, number: int) -> AnnotatedDocument:
    """Returns the document of a record; ``path`` and ``number`` say in an error where it stands.

    Raises:
        MedpipeError: CORPUS_INVALID.
    """
    try:
        text = record["text"]
        entities = tuple(corpus_entity(raw, text) for raw in record.get("entities", []))
        relations = tuple(Relation(raw["type"], raw["head"], raw["tail"]) for raw in record.get("relations", []))
        attributes = {raw["id"]: list(raw["attributes"]) for raw in record.get("entities", []) if raw.get("attributes")}
        norms = {raw["id"]: list(raw["norm"]) for raw in record.get("entities", []) if raw.get("norm")}
        concepts = record.get("concept_relations")
        if concepts is not None:
            concepts = tuple(Relation(raw["type"], raw["head"], raw["tail"]) for raw in concepts)
        document = AnnotatedDocument(str(record["doc_id"]), text, entities, relations, attributes, norms, concepts)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else type(error).__name__
        raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason=reason) from error
    if any(not 0 <= entity.start < entity.end <= len(text) for entity in entities):
        raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason="a span outside the text")
    return document


def read_pairs(path: Path) -> list[SummaryPair]:
    """Returns the summary pairs of a file.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    pairs = []
    for number, record in read_lines(path):
        try:
            pairs.append(SummaryPair(str(record["id"]), record["source"], record["summary"], record.get("section")))
        except KeyError as error:
            raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason=f"no {error}") from error
    return pairs
