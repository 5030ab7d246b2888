"""The OMOP Common Data Model: NOTE, versions 5.0 to 5.4, as delimited text, Parquet or lines of JSON.

https://ohdsi.github.io/CommonDataModel/cdm54.html#note. A record is a row of NOTE; the rows of every other table of the
model are counted and not taken, those of NOTE_NLP too. What kind of note it is say ``note_title`` or
``note_source_value``. Where CONCEPT lies beside NOTE, its rows tell more: the LOINC code and name of
``note_class_concept_id``, and the language. Without it a concept's id is only a number (but that of English).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from medpipe.ingest.content import Content, Refused
from medpipe.ingest.notes import Reading
from medpipe.ingest.tables.mapping import OMOP_NOTE, Columns, plain_names
from medpipe.ingest.tables.reader import LOINC, Facts, first_value, language_of, notes_of, open_table, plain_id
from medpipe.records import Document, Reject, Skipped

CONCEPT_COLUMNS = {"class": "noteclassconceptid", "kind": "notetypeconceptid", "spoken": "languageconceptid"}
CONCEPT_FILES = tuple(
    name + suffix for suffix in (".csv", ".tsv", ".txt", ".parquet") for name in ("CONCEPT", "concept", "Concept")
)
MOST_CONCEPT_BYTES = 256 << 20  # a vocabulary that is larger is not worth the time
MOST_CONCEPTS = 500_000


class Concept(NamedTuple):
    """What CONCEPT says of an id."""

    name: str
    vocabulary: str
    code: str


ENGLISH = {"4180186": Concept("English language", "SNOMED", "297487008")}


def read_omop(content: Content, reading: Reading) -> Iterator[Document | Reject | Skipped]:
    """Reads a table of the OMOP CDM.

    Raises:
        Refused: COLUMN_MISSING where nobody knows which column holds the notes, TABLE_INVALID, TEXT_BINARY.
    """
    table = open_table(content, reading.mapping)
    more: Facts | None = None
    if isinstance(table.choice, Columns) and table.choice.shape == OMOP_NOTE.name:
        columns = _with_concepts(table.choice, table.names)
        table = replace(table, choice=columns)
        concepts = concepts_beside(content, reading) if any(columns.at(key) for key in CONCEPT_COLUMNS) else {}
        more = partial(concept_facts, columns=columns, concepts=concepts)
    yield from notes_of(table, content, reading, more)


def _with_concepts(columns: Columns, names: Sequence[str]) -> Columns:
    """Adds where the ids of concepts stand."""
    bare = plain_names(names)
    found = {key: (bare.index(name),) for key, name in CONCEPT_COLUMNS.items() if name in bare}
    return replace(columns, places={**columns.places, **found})


def concept_facts(
    values: Sequence[str | None], columns: Columns, concepts: Mapping[str, Concept]
) -> dict[str, str | None]:
    """Returns what the concepts of a row tell of its note."""
    note_class, kind, spoken = (
        concepts.get(plain_id(first_value(values, columns, key)) or "") for key in CONCEPT_COLUMNS
    )
    named = note_class or kind
    is_loinc = note_class is not None and note_class.vocabulary == "LOINC" and LOINC.fullmatch(note_class.code)
    return {
        "note_type": named.name if named else None,
        "note_type_code": note_class.code if note_class is not None and is_loinc else None,
        "language": language_of(spoken.name) if spoken else None,
    }


def concepts_beside(content: Content, reading: Reading) -> Mapping[str, Concept]:
    """Returns the concepts that CONCEPT beside a file holds and that notes may have; read once a run."""
    folder = posixpath.dirname(f"{reading.source}!{reading.member}" if reading.member else reading.source)
    key = f"concepts of {folder}"
    if key not in reading.inputs.memo:
        reading.inputs.memo[key] = ENGLISH | _read_concepts(content, reading)
    found: Mapping[str, Concept] = reading.inputs.memo[key]
    return found


def _read_concepts(content: Content, reading: Reading) -> dict[str, Concept]:
    beside = next((found for name in CONCEPT_FILES if (found := content.beside(name)) is not None), None)
    concepts: dict[str, Concept] = {}
    if beside is None or beside.size is None or beside.size > MOST_CONCEPT_BYTES:
        return concepts
    try:
        table = open_table(beside)
        bare = plain_names(table.names)
        wanted = ("conceptid", "conceptname", "vocabularyid", "conceptcode", "domainid")
        if not set(wanted) <= set(bare):
            return concepts
        places = [bare.index(name) for name in wanted]
        for row in table.rows(table.choice, places):  # type: ignore[arg-type]
            if row.values is None or len(row.values) < len(bare):
                continue
            number, name, vocabulary, code, domain = ((row.values[place] or "").strip() for place in places)
            of_notes = domain in ("Note", "Type Concept", "Language") or vocabulary == "LOINC" or "language" in name
            if of_notes and domain != "Measurement":
                concepts[plain_id(number) or ""] = Concept(name, vocabulary, code)
            if len(concepts) >= MOST_CONCEPTS:
                break
    except Refused:  # CONCEPT itself is read, and refused, as a source of its own
        pass
    return concepts
