"""OMOP: the published fields of CDM 5.4, with the values that the tables hold."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from medpipe.errors import MedpipeError
from medpipe.export.omop import FIELDS, export_omop
from tests.export.warehouses import NIGHTS, make_warehouse

# name, required, type: as OMOP_CDMv5.4_Field_Level.csv of OHDSI/CommonDataModel lists them.
PUBLISHED = {
    "note": """
        note_id TRUE integer, person_id TRUE integer, note_date TRUE date, note_datetime FALSE datetime,
        note_type_concept_id TRUE integer, note_class_concept_id TRUE integer, note_title FALSE varchar(250),
        note_text TRUE varchar(MAX), encoding_concept_id TRUE integer, language_concept_id TRUE integer,
        provider_id FALSE integer, visit_occurrence_id FALSE integer, visit_detail_id FALSE integer,
        note_source_value FALSE varchar(50), note_event_id FALSE integer, note_event_field_concept_id FALSE integer""",
    "note_nlp": """
        note_nlp_id TRUE integer, note_id TRUE integer, section_concept_id FALSE integer, snippet FALSE varchar(250),
        offset FALSE varchar(50), lexical_variant TRUE varchar(250), note_nlp_concept_id FALSE integer,
        note_nlp_source_concept_id FALSE integer, nlp_system FALSE varchar(250), nlp_date TRUE date,
        nlp_datetime FALSE datetime, term_exists FALSE varchar(1), term_temporal FALSE varchar(50),
        term_modifiers FALSE varchar(2000)""",
}
ARROW = {"integer": "int32", "date": "date32[day]", "datetime": "timestamp[us]", "varchar": "string"}

Published = list[tuple[str, bool, str, int | None]]


def published(table: str) -> Published:
    fields: Published = []
    for line in PUBLISHED[table].split(","):
        name, required, kind = line.split()
        base, _, length = kind.rstrip(")").partition("(")
        fields.append((name, required == "TRUE", base, int(length) if length.isdigit() else None))
    return fields


class Lake:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "lake"
        self.nights = make_warehouse(self.root, folder / "work")
        self.documents: dict[str, dict[str, Any]] = {}
        self.entities: dict[str, dict[str, Any]] = {}
        last = {row["document_id"]: night for night, rows in self.nights for row in rows["documents"]}
        for night, rows in self.nights:
            self.documents |= {
                row["document_id"]: row | {"dt": night}
                for row in rows["documents"]
                if last[row["document_id"]] == night
            }
            self.entities |= {row["entity_id"]: row for row in rows["entities"] if last[row["document_id"]] == night}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(tmp_path_factory.mktemp("omop"))


@pytest.mark.parametrize("table", PUBLISHED)
def test_fields_are_the_published_ones(lake: Lake, table: str, tmp_path: Path) -> None:
    assert [(one.name, one.required, one.type, one.length) for one in FIELDS[table]] == published(table)
    export_omop(lake.root, tmp_path / "omop", format="parquet")
    written = pq.read_table(tmp_path / "omop" / f"{table}.parquet")
    assert written.num_rows
    for (name, required, kind, length), field in zip(published(table), written.schema, strict=True):
        assert (field.name, str(field.type), field.nullable) == (name, ARROW[kind], not required)
        values = written[name].to_pylist()
        assert not required or None not in values
        assert length is None or max((len(value) for value in values if value is not None), default=0) <= length
    assert written[0].to_pylist() == list(range(1, written.num_rows + 1))


def test_every_note_with_a_patient_and_every_mention_of_it_is_there(lake: Lake, tmp_path: Path) -> None:
    counts = export_omop(lake.root, tmp_path / "omop", format="parquet")
    read = {name: pq.read_table(tmp_path / "omop" / f"{name}.parquet").to_pylist() for name in FIELDS}
    wanted = {key: row for key, row in lake.documents.items() if row["patient_id"] is not None}
    assert counts == {
        "note": len(wanted), "note_nlp": len(read["note_nlp"]), "without_person": 0,
        "without_patient": len(lake.documents) - len(wanted),
        "dated_by_partition": sum(row["authored_at"] is None for row in wanted.values()),
    }  # fmt: skip
    origin = {row["note_id"]: row["document_id"] for row in read["medpipe_note"]}
    persons = {row["person_id"]: row["person_source_value"] for row in read["medpipe_person"]}
    assert sorted(persons.values()) == sorted({row["patient_id"] for row in wanted.values()})
    assert {origin[row["note_id"]] for row in read["note"]} == set(wanted)
    for row in read["note"]:
        document = wanted[origin[row["note_id"]]]
        assert row["note_text"] == document["text"] and persons[row["person_id"]] == document["patient_id"]
        at = document["authored_at"]
        assert row["note_date"].isoformat() == (at.date().isoformat() if at else document["dt"])
        assert row["note_datetime"] == (at.replace(tzinfo=None) if at else None)
        assert (row["language_concept_id"], row["encoding_concept_id"]) == (4180186, 32678)
        assert (row["note_source_value"], row["note_title"]) == ("11506-3", "Progress note")
    entity_of = {row["note_nlp_id"]: row["entity_id"] for row in read["medpipe_note_nlp"]}
    mine = {key for key, row in lake.entities.items() if row["document_id"] in wanted}
    assert len(entity_of) == len(mine) and set(entity_of.values()) == mine
    texts = {row["note_id"]: row["note_text"] for row in read["note"]}
    for row in read["note_nlp"]:
        entity = lake.entities[entity_of[row["note_nlp_id"]]]
        start = int(row["offset"])
        assert origin[row["note_id"]] == entity["document_id"] and start == entity["start"]
        assert (
            texts[row["note_id"]][start : start + len(row["lexical_variant"])]
            == row["lexical_variant"]
            == entity["text"]
        )
        assert row["lexical_variant"] in row["snippet"] and row["snippet"] in texts[row["note_id"]]
        said = dict(part.split("=") for part in row["term_modifiers"].split(";"))
        assert said["Label"] == entity["label"] and said["Span"] == f"{entity['start']}-{entity['end']}"
        assert said.get("Fragments") == (
            ",".join(f"{part['start']}-{part['end']}" for part in entity["fragments"]) if entity["fragments"] else None
        )
        assert float(said["Score"]) == pytest.approx(entity["score"])
        assert (said["Negation"], said["Uncertain"]) == (
            str(entity["negated"]).lower(),
            str(entity["uncertain"]).lower(),
        )
        assert row["term_exists"] == ("N" if entity["negated"] or entity["hypothetical"] or entity["family"] else "Y")
        assert row["term_temporal"] == ("Past" if entity["historical"] else "Present")
        assert row["nlp_system"] == f"medpipe 0 {entity['model']}" and row["nlp_date"].isoformat() == "2026-02-01"


def test_csv_says_the_same_as_parquet_and_twice_the_same(lake: Lake, tmp_path: Path) -> None:
    export_omop(lake.root, tmp_path / "a")
    export_omop(lake.root, tmp_path / "b")
    export_omop(lake.root, tmp_path / "c", format="parquet")
    for name, fields in FIELDS.items():
        raw = (tmp_path / "a" / f"{name}.csv").read_bytes()
        assert raw == (tmp_path / "b" / f"{name}.csv").read_bytes()
        with (tmp_path / "a" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        rows = pq.read_table(tmp_path / "c" / f"{name}.parquet").to_pylist()
        assert lines[0] == [field.name for field in fields]
        for line, row in zip(lines[1:], rows, strict=True):
            for text, field in zip(line, fields, strict=True):
                value = row[field.name]
                if field.type in ("varchar", "integer", "date"):
                    assert text == ("" if value is None else str(value))


def test_long_things_are_cut_to_their_fields(tmp_path: Path) -> None:
    from dataclasses import replace

    from medpipe.lake.publish import publish_partition
    from tests.lake.invented import publish_input, rows_of

    rows = rows_of("a.txt", 1)
    long = "x" * 1000
    rows["documents"][0] |= {"text": f"é{long} end", "note_type": long, "note_type_code": None}
    rows["entities"][0] |= {"start": 1, "end": 1001, "text": long, "fragments": [{"start": n, "end": n + 1} for n in range(1, 900, 2)],
                            "code_system": long, "code": long, "model": long}  # fmt: skip
    publish_partition(replace(publish_input(tmp_path / "lake", tmp_path / "w", rows), partition=NIGHTS[0]))
    assert export_omop(tmp_path / "lake", tmp_path / "omop", format="parquet")["note_nlp"] == 2
    (row,) = pq.read_table(tmp_path / "omop" / "note_nlp.parquet").filter(duckdb_expression("offset", "1")).to_pylist()
    assert row["lexical_variant"] == "x" * 250 and len(row["snippet"]) == 250 and row["snippet"].startswith("éx")


def duckdb_expression(name: str, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.field(name) == value


def test_persons_and_concepts_are_looked_up(lake: Lake, tmp_path: Path) -> None:
    persons = tmp_path / "person.csv"
    persons.write_text("person_id,gender_concept_id,person_source_value\n4711,8507,p1\n4712,8532,p2\n")
    vocabulary = tmp_path / "athena"
    vocabulary.mkdir()
    (vocabulary / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\n"
        '45\tthe "quoted" note\tMeas Value\tLOINC\tNote\tS\t11506-3\n'
        "91\tSarcoidosis of lung\tCondition\tICD10CM\t4-char\t\tD86.9\n"
        "92\tCough\tObservation\tICD10CM\t4-char\t\tR05.9\n"
        "93\tof another vocabulary\tObservation\tICD10\t4-char\tS\tR05.9\n"
    )
    (vocabulary / "CONCEPT_RELATIONSHIP.csv").write_text(
        "concept_id_1\tconcept_id_2\trelationship_id\n91\t9100\tMaps to\n91\t1\tIs a\n"
    )
    counts = export_omop(lake.root, tmp_path / "omop", format="parquet", persons=persons, vocabulary=vocabulary)
    patients = [row["patient_id"] for row in lake.documents.values()]
    assert counts["note"] == sum(patient in ("p1", "p2") for patient in patients)
    assert counts["without_person"] == sum(patient not in ("p1", "p2", None) for patient in patients)
    notes = pq.read_table(tmp_path / "omop" / "note.parquet").to_pylist()
    assert {row["person_id"] for row in notes} == {4711, 4712}
    assert {row["note_class_concept_id"] for row in notes} == {45}
    found = {
        (row["lexical_variant"].lower(), row["note_nlp_concept_id"], row["note_nlp_source_concept_id"])
        for row in pq.read_table(tmp_path / "omop" / "note_nlp.parquet").to_pylist()
        if row["lexical_variant"].lower() in ("sarcoidosis", "cough", "fever")
    }
    assert found == {("sarcoidosis", 9100, 91), ("cough", 0, 92), ("fever", 0, 0)}


def test_what_cannot_be_exported_is_said(lake: Lake, tmp_path: Path) -> None:
    wrong = tmp_path / "person.csv"
    wrong.write_text("id,name\n1,CANARY\n")
    number = tmp_path / "number.csv"
    number.write_text("person_id,person_source_value\nCANARY,p1\n")
    for options, code in (
        ({"persons": wrong}, "TABLE_INVALID"), ({"persons": number}, "TABLE_INVALID"),
        ({"persons": tmp_path / "none.csv"}, "INPUT_NOT_FOUND"), ({"vocabulary": tmp_path}, "INPUT_NOT_FOUND"),
        ({"format": "xlsx"}, "SETTING_INVALID"), ({"partition": "2020-01-01"}, "WAREHOUSE_INVALID"),
    ):  # fmt: skip
        with pytest.raises(MedpipeError) as caught:
            export_omop(lake.root, tmp_path / "omop", **options)  # type: ignore[arg-type]
        assert caught.value.code == code and "CANARY" not in str(caught.value)
        assert not (tmp_path / "omop").exists()


def test_one_partition(lake: Lake, tmp_path: Path) -> None:
    rows = lake.nights[0][1]["documents"]
    counts = export_omop(lake.root, tmp_path / "omop", partition=NIGHTS[0])
    assert counts["note"] == sum(row["patient_id"] is not None for row in rows)


def test_duckdb_counts_code_points() -> None:
    # Snippets are cut in SQL: a character of two UTF-16 units or of several code points must not shift them.
    text = "🩺👩🏽‍⚕️e\u0301x"
    assert duckdb.connect().execute("SELECT substring(?, 3, 2)", [text]).fetchone() == (text[2:4],)
