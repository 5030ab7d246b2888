"""Notes with the rows that belong to them, from Arrow; the notes of an encounter as one text in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.records import ASSERTIONS, LABELS
from medpipe.summarize.decode import Composed, supporting_mentions
from medpipe.summarize.features import Headings, Mentions, Source, read_source

BETWEEN = "\n\n"  # the notes of an encounter: no sentence goes over a blank line


@dataclass(frozen=True, slots=True)
class Note:
    """A document with the rows that belong to it."""

    document_id: str
    patient_id: str | None
    encounter_id: str | None
    source: Source
    entity_ids: list[str]
    relations: list[tuple[str, str, str]]  # id, head, tail
    headings: Headings
    document_ids: Sequence[str] = ()  # of an encounter: its notes in the order of time
    begins: np.ndarray | None = None  # of an encounter: where each note begins in the text; shape: (notes,), int32

    def places(self, text: Composed) -> list[int | None] | None:
        """Returns for each token of a summary the note that it was copied from; ``None`` for a summary of one note."""
        if self.begins is None:
            return None
        start = self.source.tokens.start[text.source]
        note = np.searchsorted(self.begins, start, side="right") - 1
        return [int(one) if origin >= 0 else None for one, origin in zip(note, text.source.tolist(), strict=True)]


def read_notes(tables: Mapping[str, pa.Table]) -> list[Note]:
    """Returns the notes of a chunk by document id; without entities or relations where there are no such tables."""
    documents = tables["documents"]
    if "encounter_id" not in documents.column_names:  # plain texts have none
        documents = documents.append_column("encounter_id", pa.nulls(len(documents), pa.string()))
    documents = documents.select(["document_id", "patient_id", "encounter_id", "text"]).sort_by("document_id")
    names = documents["document_id"].to_pylist()
    sections = _by_document(tables.get("sections"), names, ["start", "end", "body_start", "name"])
    entity_columns = ["entity_id", "start", "end", "label", *ASSERTIONS]
    entities = _by_document(tables.get("entities"), names, entity_columns)
    relations = _by_document(tables.get("relations"), names, ["relation_id", "head_entity_id", "tail_entity_id"])
    notes = []
    patients, encounters = documents["patient_id"].to_pylist(), documents["encounter_id"].to_pylist()
    for name, patient, encounter, text, section, entity, relation in zip(
        names, patients, encounters, documents["text"].to_pylist(), sections, entities, relations, strict=True
    ):
        linked = relation.to_pylist()
        pairs = [(row["relation_id"], row["head_entity_id"], row["tail_entity_id"]) for row in linked]
        related = {end for _, head, tail in pairs for end in (head, tail)}
        identifiers = entity["entity_id"].to_pylist()
        mentions = Mentions(
            start=_ints(entity["start"]),
            end=_ints(entity["end"]),
            label=np.array([_label_index(label) for label in entity["label"].to_pylist()], dtype=np.int64),
            assertions=np.stack([_bools(entity[column]) for column in ASSERTIONS], axis=1),
            related=np.array([identifier in related for identifier in identifiers], dtype=bool),
        )
        headings = Headings(
            _ints(section["start"]), _ints(section["body_start"]), _ints(section["end"]), section["name"].to_pylist()
        )
        source = read_source(text, headings, mentions)
        notes.append(Note(name, patient, encounter, source, identifiers, pairs, headings))
    return notes


def join_notes(notes: Sequence[Note], encounter_id: str) -> Note:
    """Returns the notes of an encounter, in the order of time, as one note.

    Args:
        notes: at least one.
        encounter_id: of all of them.
    """
    lengths = [len(note.source.text) + len(BETWEEN) for note in notes]
    begins = (np.cumsum(lengths) - lengths).astype(np.int32)

    def shifted(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([array + begin for array, begin in zip(arrays, begins, strict=True)]).astype(np.int32)

    headings = Headings(
        shifted([note.headings.start for note in notes]),
        shifted([note.headings.body_start for note in notes]),
        shifted([note.headings.end for note in notes]),
        [name for note in notes for name in note.headings.names],
    )
    found = [note.source.mentions for note in notes]
    mentions = Mentions(
        shifted([one.start for one in found]),
        shifted([one.end for one in found]),
        np.concatenate([one.label for one in found]),
        np.concatenate([one.assertions for one in found]),
        np.concatenate([one.related for one in found]),
    )
    return Note(
        document_id=notes[-1].document_id,
        patient_id=notes[-1].patient_id,
        encounter_id=encounter_id,
        source=read_source(BETWEEN.join(note.source.text for note in notes), headings, mentions),
        entity_ids=[entity for note in notes for entity in note.entity_ids],
        relations=[relation for note in notes for relation in note.relations],
        headings=headings,
        document_ids=[note.document_id for note in notes],
        begins=begins,
    )


def read_encounters(tables: Mapping[str, pa.Table]) -> list[Note]:
    """Returns the encounters of some documents, by id, each as one note; notes without a time stand last.

    Args:
        tables: as the stage reads them; ``documents`` with ``encounter_id`` and ``authored_at``.
    """
    documents = tables["documents"].select(["document_id", "encounter_id", "authored_at"])
    documents = documents.filter(pc.is_valid(documents["encounter_id"]))
    order = documents.sort_by([(name, "ascending") for name in ("encounter_id", "authored_at", "document_id")])
    notes = {note.document_id: note for note in read_notes(tables)}
    groups: dict[str, list[Note]] = {}
    for document, encounter in zip(order["document_id"].to_pylist(), order["encounter_id"].to_pylist(), strict=True):
        groups.setdefault(encounter, []).append(notes[document])
    return [join_notes(group, encounter) for encounter, group in groups.items()]


def _by_document(table: pa.Table | None, names: Sequence[str], columns: Sequence[str]) -> list[pa.Table]:
    """Returns the rows of each document, in their order in ``table``."""
    if table is None or table.num_rows == 0:
        kinds = dict.fromkeys(("start", "end", "body_start"), pa.int32()) | dict.fromkeys(ASSERTIONS, pa.bool_())
        empty = pa.table({column: pa.array([], kinds.get(column, pa.string())) for column in columns})
        return [empty] * len(names)
    place = pc.index_in(table["document_id"], pa.array(names, table["document_id"].type)).fill_null(-1)
    order = np.argsort(codes := place.to_numpy(), kind="stable")
    limits = np.searchsorted(codes[order], np.arange(len(names) + 1))
    rows = table.select(list(columns)).take(pa.array(order)).combine_chunks()
    return [
        rows.slice(first, end - first) for first, end in zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True)
    ]


def _ints(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.int32)


def _bools(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(bool)


def _label_index(label: str) -> int:
    return LABELS.index(label) if label in LABELS else -1


def find_support(note: Note, text: Composed) -> tuple[list[str], list[str]]:
    """Returns the entities that a summary copied as a whole, and the relations between two of them."""
    copied = supporting_mentions(note.source, text)
    entities = [name for name, there in zip(note.entity_ids, copied.tolist(), strict=True) if there]
    held = set(entities)
    return entities, [name for name, head, tail in note.relations if head in held and tail in held]
