"""OMOP CDM: the notes of NOTE with what CONCEPT says of them; the rows of every other table are counted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medpipe.ingest.content import bytes_content
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.notes import Reading
from medpipe.ingest.read import read_content, read_source
from medpipe.ingest.sniff import sniff
from medpipe.ingest.sources import find_sources
from medpipe.ingest.tables import omop
from medpipe.records import Document, Reject, Skipped

NAMES = (
    "note_id,person_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_title,note_text,"
    "encoding_concept_id,language_concept_id,provider_id,visit_occurrence_id,visit_detail_id,note_source_value"
)
ROWS = (
    '1,10,2019-03-01,2019-03-01 08:30:00,32831,706531,Progress note,"Cough.\n\nNo ""fever"".",0,4180186,5,77,,SRC\n'
    "2,11,2019-03-02,,32831,706391,,Asthma.,0,0,,,,Discharge\n"
)
CONCEPT = (
    "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\n"
    "706531\tProgress note\tNote\tLOINC\tDoc Type\tS\t11506-3\n"
    "706391\tPart of a name\tNote\tLOINC\tDoc Role\tS\tLP173418-7\n"
    '32831\tEHR note\tType Concept\tType Concept\tType Concept\tS\tOMOP4976897\n'
    '4182347\t"World" language\tLanguage\tSNOMED\tQualifier Value\tS\t1\n'
    "4182504\tGerman language\tLanguage\tSNOMED\tQualifier Value\tS\t2\n"
    "3004249\tSystolic blood pressure\tMeasurement\tLOINC\tClinical Observation\tS\t8480-6\n"
)  # fmt: skip


def read(content: str, name: str = "NOTE.csv") -> list[Document]:
    items = list(read_content(bytes_content(name, content.encode()), Reading(name, "unknown", 10_000)))
    assert all(isinstance(item, Document) for item in items), items
    return [item for item in items if isinstance(item, Document)]


@pytest.mark.parametrize(
    "content",
    [
        f"{NAMES}\n{ROWS}",
        f"\ufeff{NAMES.upper()}\r\n{ROWS}",
        ",".join(f'"{name}"' for name in NAMES.split(",")) + "\n" + ROWS,
    ],
)
def test_note(content: str) -> None:
    first, second = read(content)
    assert (first.record, first.patient_id, first.encounter_id, first.format) == ("NOTE/1", "10", "77", "omop")
    assert (first.text, first.note_type, first.language) == ('Cough.\n\nNo "fever".', "Progress note", "en")
    assert first.authored_at_text == "2019-03-01 08:30:00" and first.authored_at is not None
    assert (second.record, second.patient_id, second.encounter_id) == ("NOTE/2", "11", None)
    assert (second.note_type, second.language, second.authored_at_text) == ("Discharge", None, "2019-03-02")
    assert first.note_type_code is None  # a concept's id alone is no LOINC code


def test_note_of_version_5_0_with_tabs_and_times() -> None:
    (note,) = read("note_id\tperson_id\tnote_date\tnote_time\tnote_text\n1\t2\t2019-03-01\t08:30:00\tCough.\n")
    assert note.authored_at_text == "2019-03-01 08:30:00"


def test_dates_are_kept_as_they_are_written() -> None:
    (note,) = read("note_id,person_id,note_date,note_datetime,note_text\n1,2,03/01/2019,03/01/2019 08:30 AM,Cough.\n")
    assert note.authored_at_text == "03/01/2019 08:30 AM"
    assert note.authored_at is not None and note.authored_at.isoformat() == "2019-03-01T08:30:00+00:00"


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_concepts_beside_the_notes(tmp_path: Path, kind: str) -> None:
    if kind == "tsv":
        (tmp_path / "CONCEPT.csv").write_text(CONCEPT)
    else:
        names, *rows = (line.split("\t") for line in CONCEPT.splitlines())
        columns: dict[str, Any] = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        columns["concept_id"] = [int(value) for value in columns["concept_id"]]
        pq.write_table(pa.table(columns), tmp_path / "concept.parquet")
    (tmp_path / "NOTE.csv").write_text(f"{NAMES}\n{ROWS}3,12,,,32831,0,,Rash.,0,4182504,,,,\n")
    sources = find_sources([str(tmp_path)])
    inputs = Inputs(sources)
    items = {source.name: list(read_source(source, max_note_chars=1000, inputs=inputs)) for source in sources}
    first, second, third = (item for item in items["NOTE.csv"] if isinstance(item, Document))
    assert (first.note_type_code, first.language) == ("11506-3", "en")
    assert (second.note_type, second.note_type_code) == ("Discharge", None)  # LP… is a part, not a code of a document
    assert (third.note_type, third.note_type_code, third.language) == ("EHR note", None, "de")
    (other,) = (found for name, found in items.items() if name != "NOTE.csv")
    assert other == [Skipped("OMOP concept")] * 6


def test_concepts_that_cannot_be_used_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NOTE.csv").write_text(f"{NAMES}\n{ROWS}")
    for content in (b"", b"PAR1 damaged", b"a,b\n1,2\n", CONCEPT.encode()):
        (tmp_path / "CONCEPT.csv").write_bytes(content)
        monkeypatch.setattr(omop, "MOST_CONCEPT_BYTES", len(content) - 1 if content == CONCEPT.encode() else 10**6)
        sources = find_sources([str(tmp_path)])
        note = sources[1]
        items = list(read_source(note, max_note_chars=1000, inputs=Inputs(sources)))
        assert [item.note_type_code for item in items if isinstance(item, Document)] == [None, None]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("person_id,gender_concept_id,year_of_birth\n1,8507,1970\n2,8532,1980\n", [Skipped("OMOP person")] * 2),
        ("note_nlp_id,note_id,snippet,lexical_variant\n1,1,the cough,cough\n", [Skipped("OMOP note_nlp")]),
        ("PERSON_ID\tDEATH_DATE\n1\t2020-01-01\t\t\n", [Skipped("OMOP death")]),
        ("visit_occurrence_id,visit_concept_id\n", [Skipped("table without rows")]),
    ],
)
def test_other_tables_are_counted(content: str, expected: list[Skipped]) -> None:
    for name in ("x.csv", "x"):
        source = bytes_content(name, content.encode())
        assert sniff(source) == "omop"
        assert list(read_content(source, Reading(name, "unknown", 1000))) == expected


def test_a_table_of_notes_without_their_text_is_refused() -> None:
    content = NAMES.replace("note_text,", "") + "\n"
    (item,) = read_content(bytes_content("NOTE.csv", content.encode()), Reading("NOTE.csv", "unknown", 1000))
    assert isinstance(item, Reject) and item.code == "COLUMN_MISSING"


def test_parquet_of_notes() -> None:
    names = NAMES.split(",")
    table = pa.table({name: pa.array([1, None], pa.int64()) for name in names} | {"note_text": ["Cough.", ""]})
    file = io.BytesIO()
    pq.write_table(table, file)
    first, second = read_content(bytes_content("note.parquet", file.getvalue()), Reading("n", "unknown", 1000))
    assert isinstance(first, Document) and (first.record, first.patient_id, first.text) == ("NOTE/1", "1", "Cough.")
    assert isinstance(second, Reject) and (second.record, second.code) == ("row 2", "TEXT_EMPTY")
