"""Tables with notes: every row is a note, a counted non-note or a broken row; texts are those of the table."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.content import Content, bytes_content
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.notes import Reading
from medpipe.ingest.read import read_content, read_source
from medpipe.ingest.sniff import sniff
from medpipe.ingest.sources import Source, find_sources
from medpipe.ingest.stage import read_chunks
from medpipe.ingest.tables import parquet
from medpipe.ingest.tables.mapping import ColumnMapping
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped


def read(content: str | bytes, name: str = "a.csv", *, format: str = "auto", **options: Any) -> list[Item]:
    raw = content if isinstance(content, bytes) else content.encode()
    return list(read_content(bytes_content(name, raw), Reading(name, "unknown", 1_000_000, **options), format))


def sniffed(content: str | bytes, name: str, mapping: ColumnMapping | None = None) -> str | None:
    return sniff(bytes_content(name, content if isinstance(content, bytes) else content.encode()), mapping)


def kinds(items: Sequence[Item]) -> list[str]:
    return [
        item.code if isinstance(item, Reject) else item.kind if isinstance(item, Skipped) else "note" for item in items
    ]


def notes(items: Sequence[Item]) -> list[Document]:
    assert all(isinstance(item, Document) for item in items), items
    return [item for item in items if isinstance(item, Document)]


def table(*rows: Sequence[Any], **options: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows(rows)
    return file.getvalue()


def packed(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


# --- known exports ------------------------------------------------------------------------------


def test_mimic_noteevents() -> None:
    text = "Reason for visit: [**Name 1**] has a cough.\n\nPlan:\nRest.\n"
    names = [
        "ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME", "CATEGORY", "DESCRIPTION", "CGID",
        "ISERROR", "TEXT",
    ]  # fmt: skip
    items = read(
        table(
            names,
            [1, 20, "300.0", "2151-08-04", "", "", "Discharge summary", "Report", "", "", text],
            [2, 20, 300, "2151-08-04", "2151-08-04 10:20:00", "", "Nursing ", "Report", "", "1", "wrong"],
            [3, 20, "", "2151-08-05", "2151-08-05 10:20:00", "", "Nursing ", "Report", "", "", ""],
        )
    )
    assert kinds(items) == ["note", "note marked as an error", "TEXT_EMPTY"]
    (note,) = notes(items[:1])
    assert (note.record, note.patient_id, note.encounter_id) == ("NOTEEVENTS/1", "20", "300")
    assert (note.note_type, note.authored_at_text, note.text) == ("Discharge summary", "2151-08-04", text)
    assert note.format == "table" and note.encoding == "utf-8"
    assert isinstance(items[2], Reject) and items[2].record == "NOTEEVENTS/3"


def test_i2b2_facts_with_and_without_notes() -> None:
    names = ["ENCOUNTER_NUM", "PATIENT_NUM", "CONCEPT_CD", "START_DATE", "INSTANCE_NUM", "TVAL_CHAR", "OBSERVATION_BLOB"]
    items = read(
        table(
            names,
            [7, 3, "LOINC:11506-3", "2021-06-23 18:50:30", 1, "Visit note", "No fever,\nno cough."],
            [7, 3, "ICD10:J45", "2021-06-23 18:50:30", 1, "", ""],
            [7, 3, "NOTE:5", "2021-06-24 00:00:00", 1, "", "Second note."],
            [7, 3, "NOTE:5", "2021-06-25 00:00:00", 1, "", "[NULL]"],
            quoting=csv.QUOTE_ALL,
        )
    )
    skipped = "i2b2 observation_fact row without text"
    assert kinds(items) == ["note", skipped, "note", skipped]
    first, second = notes([items[0], items[2]])
    assert (first.record, second.record) == ("fact/1", "fact/1 (row 3)")
    assert (first.note_type, first.note_type_code) == ("Visit note", "11506-3")
    assert (second.note_type, second.note_type_code) == ("NOTE:5", None)
    assert (first.encounter_id, first.patient_id) == ("7", "3")


def test_tables_that_hold_no_notes_are_counted_by_row() -> None:
    items = read("patient_num,vital_status_cd,patient_blob\n1,N,\n2,N,\"a\nb\"\n3,N\n4,N,,,,9\n\n")
    assert kinds(items) == ["i2b2 patient_dimension"] * 4


def test_notes_in_lines_of_epic() -> None:
    rows = [
        ["NOTE_ID", "NOTE_CSN_ID", "LINE", "NOTE_TEXT"],
        [1, 11, 1, "one"], [1, 11, 2, "two"], [1, 12, 1, "changed"], [2, 21, 10, "last"], [2, 21, 9, "before"], [2, "", 1, "alone"],
        [3, 31, "x", "no number"],
    ]  # fmt: skip
    items = notes(read(table(*rows)))
    assert [(note.record, note.text) for note in items] == [
        ("note/11", "one\ntwo"), ("note/12", "changed"), ("note/21", "before\nlast"), ("note/2", "alone"), ("note/31", "no number"),
    ]  # fmt: skip
    joined = notes(read(table(*rows), mapping=ColumnMapping(line=("LINE",), join="")))
    assert joined[0].text == "onetwo"


def test_corpora_in_csv() -> None:
    medec = read(table(["Text ID", "Text", "Sentences", "Corrected Text"], ["m-1", "As written.", "0 As written.", "Corrected."]))
    assert [(note.record, note.text) for note in notes(medec)] == [("note/m-1", "As written.")]
    aci = read(table(["dataset", "encounter_id", "dialogue", "note"], ["v", "D2N1", "[doctor] hi\n[patient] hi", "CC\n\nCough."]))
    assert [(note.record, note.encounter_id, note.text) for note in notes(aci)] == [("note/D2N1", "D2N1", "CC\n\nCough.")]


def test_files_that_a_table_names_are_read_from_the_same_input(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(
        "ID\tPID\tDATE\tTITLE\tMIME_TYPE\tFILE_NAME\n1\tp1\t2020-01-02\tVisit\ttext/plain\tn/one.txt\n"
        "2\tp1\t2020-01-03\tVisit\ttext/plain\tgone.txt\n3\tp1\t2020-01-03\tVisit\ttext/plain\t../../etc/passwd\n"
        "4\tp1\t2020-01-03\tVisit\ttext/plain\t\n5\tp1\t\tVisit\timage/png\tn/one.txt\n"
    )
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "one.txt").write_text("Cough.")
    sources = find_sources([str(tmp_path)])
    items = list(read_source(sources[0], max_note_chars=1000, inputs=Inputs(sources)))
    assert kinds(items) == ["note", *["ATTACHMENT_UNRESOLVED"] * 3, "note"]  # what is called an image is text
    (note,) = notes(items[:1])
    assert (note.text, note.patient_id, note.note_type, note.media_type) == ("Cough.", "p1", "Visit", "text/plain")


# --- tables that nobody knows -------------------------------------------------------------------


def test_generic_table_with_one_plausible_column() -> None:
    (note,) = notes(read("DocID;MRN;Visit;Service Date;Doc Type;LOINC;Lang;Status;Report_Text\n9;p;e;2020-05-01;ER;34133-9;de-at;final;Husten.\n"))
    assert (note.record, note.patient_id, note.encounter_id, note.text) == ("note/9", "p", "e", "Husten.")
    assert (note.note_type, note.note_type_code, note.language) == ("ER", "34133-9", "de-AT")
    assert note.authored_at_text == "2020-05-01"


def test_status_of_notes() -> None:
    items = read("note_id,note_text,note_status\n1,a,Final\n2,b,Entered in error\n3,c,superseded\n4,d,\n")
    assert kinds(items) == ["note", "note (entered in error)", "note (superseded)", "note"]
    assert notes(items[:1])[0].note_status == "Final"


@pytest.mark.parametrize("names", ["lab,value,unit", "id,report,text", "12,2020-01-01,a text without names"])
def test_no_plausible_column_is_one_row_in_quarantine(names: str) -> None:
    (item,) = read(f"{names}\n1,2,3\n4,5,6\n")
    assert isinstance(item, Reject) and item.code == "COLUMN_MISSING" and item.record == "0"
    assert "a text" not in item.message and "--text-column" in item.message


def test_a_table_of_comments_has_notes_where_they_are_filled() -> None:
    items = read("id,procedure,notes\n1,x,normal\n2,y,\n3,z,\n")
    assert kinds(items) == ["note", "table row without text", "table row without text"]
    assert kinds(read("id,note_text\n1,x\n2,\n3,NULL\n4,\\N\n5,None\n")) == ["note", *["TEXT_EMPTY"] * 3, "note"]


def test_mapping() -> None:
    content = "KEY|WHO|BODYX|WHEN\n1|p|first|2020\n2|p|second|2021\n"
    mapping = ColumnMapping(text=("bodyx",), id=("KEY",), patient=("2",), date=("WHEN",))
    for items in (read(content, mapping=mapping), read(content, "a.txt", format="table", mapping=mapping)):
        assert [(n.record, n.patient_id, n.text, n.authored_at_text) for n in notes(items)] == [
            ("note/1", "p", "first", "2020"), ("note/2", "p", "second", "2021"),
        ]  # fmt: skip
    assert kinds(read(content)) == ["COLUMN_MISSING"]
    (reject,) = read(content, mapping=ColumnMapping(text=("nothere",)))
    assert isinstance(reject, Reject) and "nothere" in reject.message


def test_mapping_without_a_line_of_names() -> None:
    mapping = ColumnMapping(text=("3",), id=("1",), header=False)
    items = notes(read('1,2,"a, b"\n2,3,c\n', mapping=mapping))
    assert [(note.record, note.text) for note in items] == [("note/1", "a, b"), ("note/2", "c")]
    assert kinds(read("a,b\nc,d\n", mapping=mapping)) == ["COLUMN_MISSING"]


def test_parts_of_reports_become_one_text_with_sections() -> None:
    first, second, third = read("id,FINDINGS,IMPRESSION\n1,Clear lungs.,Normal.\n2,,Only.\n3,,\n")
    assert isinstance(first, Document) and isinstance(second, Document) and isinstance(third, Reject)
    assert first.text == "FINDINGS:\nClear lungs.\n\nIMPRESSION:\nNormal."
    assert [section.title for section in first.sections] == ["FINDINGS", "IMPRESSION"]
    assert second.text == "IMPRESSION:\nOnly." and third.code == "TEXT_EMPTY"


def test_the_first_filled_date_and_a_time_beside_it() -> None:
    mapping = ColumnMapping(date=("signed", "day"), time=("at",))
    items = notes(read("text,signed,day,at\na,2020-01-02 10:00,,11:00\nb,,2020-01-03,11:30\nc,NaT,nan,\n", mapping=mapping))
    assert [note.authored_at_text for note in items] == ["2020-01-02 10:00", "2020-01-03 11:30", None]


def test_names_that_stand_again_are_no_row() -> None:
    items = notes(read("note_id,note_text\n1,a\nnote_id,note_text\n2,b\n"))
    assert [(note.record, note.text) for note in items] == [("note/1", "a"), ("note/2", "b")]


def test_rows_with_names_as_r_writes_them() -> None:
    items = notes(read('"note_id" "note_text"\n"1" 7 "a b"\n"2" 8 "c"\n'.replace(" ", ",").replace("a,b", "a b")))
    assert [(note.record, note.text) for note in items] == [("note/7", "a b"), ("note/8", "c")]


def test_names_of_records_are_unique_and_stable() -> None:
    content = "note_id,note_text\n1,a\n1,a\n1,b\n1,b\n,c\n2.0,d\nrow 5,e\n"
    items = notes(read(content))
    assert [note.record for note in items] == [
        "note/1", "note/1", "note/1 (row 3)", "note/1 (row 4)", "row 5", "note/2", "note/row 5",
    ]  # fmt: skip
    assert items[0].document_id == items[1].document_id  # the same row twice is a duplicate
    assert len({note.document_id for note in items}) == 6


def test_documents_in_cells() -> None:
    document = (
        '<ClinicalDocument xmlns="urn:hl7-org:v3"><component><structuredBody><component><section><title>Plan</title>'
        "<text>Rest at home.</text></section></component></structuredBody></component></ClinicalDocument>"
    )
    (note,) = notes(read(table(["note_id", "person_id", "note_text"], [1, 2, document])))
    assert "Rest at home." in note.text and "<" not in note.text
    assert (note.record, note.patient_id) == ("NOTE/1", "2")


def test_markup_and_media_in_cells() -> None:
    rows = [
        ["note_id", "note_text", "mime_type"],
        [1, "<html><body><p>No <b>fever</b>.</p></body></html>", ""], [2, "<p>One</p><p>Two</p>", "text/html; charset=utf-8"],
        [3, "<5 mg and <p> are signs", "text/plain"], [4, "Tm8gZmV2ZXI=", "application/octet-stream"], [5, "!", "application/pdf"],
    ]  # fmt: skip
    items = read(table(*rows))
    assert [note.text for note in notes(items[:3])] == ["No fever.", "One\n\nTwo", "<5 mg and <p> are signs"]
    assert notes(items[3:4])[0].text == "No fever"  # what the bytes are decides
    assert kinds(items)[4] == "BASE64_INVALID"


# --- how files are recognised ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "a,b\n1,2\n", "table"),
        ("a.tsv", "anything at all", "table"),
        ("NOTE.CSV", "note_id\tperson_id\tnote_text\n1\t2\tx\n", "omop"),
        ("export", "note_id,person_id,note_text\n", "omop"),
        ("person.dat", "person_id|gender_concept_id|year_of_birth\n", "omop"),
        ("a.txt", "id\tpid\tnote\n1\t2\tCough.\n", "table"),
        ("a.txt", "A\tB\tC\n" + "1\t2\t3\n" * 3, "table"),
        ("a.txt", "A\tB\tC\n" + "1\t2\t3\n" * 2, "text"),
        ("a.txt", "PID\tDATE\tCODE\tVALUE\n1\t2\t3\t4\n", "table"),
        ("a.txt", "Na,K,Cl\n140,4,100\nnext, visit\n", "text"),
        ("a.txt", "Fever, cough, chills\nNa, 140, mmol\n", "text"),
        ("a.txt", "Assessment, Plan\nstable, continue\n", "text"),
        ("a.txt", "note, text\nThis note, text it is\n", "text"),
        ("a.txt", "Test|Result\nNa|140\nK|4\n", "text"),
        ("a.txt", "note, text\nThis note, of text, is prose\nand goes on.\n", "text"),
        ("a.csv", "<ClinicalDocument/>", "ccda"),
        ("a.csv", "MSH|^~\\&|A\r", "hl7v2"),
        ("a.jsonl", '{"note_id": 1, "person_id": 2, "note_text": "x"}\n{"note_id": 2}\n', "omop"),
        ("a.jsonl", '{"note_id": 1, "subject_id": 2, "text": "x"}\n', "table"),
        ("a.jsonl", '{"id": 1, "report": "x"}\n{"id": 2, "report": "y"}\n', "table"),
        ("a.jsonl", '{"id": 1, "text": "x"}\n{"id": 2, "text": "y"}\n', "ndjson"),
        ("a.jsonl", '{"resourceType": "Patient", "text": {}}\n{"resourceType": "Patient"}\n', "ndjson"),
        ("a.json", '{"text": "x"}', "json"),
    ],
)
def test_tables_are_found_by_content(name: str, content: str, expected: str | None) -> None:
    assert sniffed(content, name) == expected


def test_a_mapping_makes_tables_of_lines_of_json() -> None:
    lines = '{"BODYX": "a", "n": 1}\n{"BODYX": "b", "n": 2}\n'
    assert sniffed(lines, "a.jsonl") == "ndjson"
    assert sniffed(lines, "a.jsonl", ColumnMapping(text=("BODYX",))) == "table"
    assert sniffed('{"text": "a"}\n{"text": "b"}\n', "a.jsonl", ColumnMapping(text=("text",))) == "table"


# --- lines of JSON --------------------------------------------------------------------------------


def test_lines_of_json() -> None:
    lines = [
        {"note_id": 7, "person_id": 2.0, "note_text": "one\nline", "note_title": None, "visit_occurrence_id": 12345678901234567890},
        {"person_id": 3, "note_text": "no id"},
    ]  # fmt: skip
    content = "\n".join([*map(json.dumps, lines), "", "[1]", "{broken", '{"note_id": 8, "note_text": {"a": 1}}', "9" * 5000, '{"note_id": 9}', "[" * 100_000])
    items = read(content, "a.jsonl", format="omop")
    assert kinds(items) == [
        "note", "note", "RECORD_NOT_OBJECT", "JSON_INVALID", "TEXT_MISSING", "JSON_INVALID", "TEXT_EMPTY", "JSON_TOO_DEEP",
    ]  # fmt: skip
    first, second = notes(items[:2])
    assert (first.record, first.patient_id, first.encounter_id, first.text) == ("NOTE/7", "2", "12345678901234567890", "one\nline")
    assert second.record == "row 2"


# --- Parquet ----------------------------------------------------------------------------------------


def test_parquet_columns_of_any_flat_type() -> None:
    day = dt.datetime(2020, 5, 17, 8, 30, 15)
    texts: list[Any] = ["first", "zweite — 🤒", None]
    for column in (
        pa.array(texts), pa.array(texts, pa.large_string()), pa.array(texts).dictionary_encode(), pa.array(texts, pa.string_view()),
        pa.array([text and text.encode() for text in texts]), pa.array([text and text.encode() for text in texts], pa.large_binary()),
    ):  # fmt: skip
        items = read(packed({
            "note_text": column, "note_id": pa.array([1, 2, 3], pa.uint8()), "person_id": pa.array([1.0, 2.0, None]),
            "note_datetime": pa.array([day, None, None], pa.timestamp("ns", "Europe/Berlin")),
            "note_date": pa.array([day.date(), day.date(), None]), "note_title": pa.array(["A", "B", "A"]).dictionary_encode(),
            "visit_occurrence_id": pa.array([decimal.Decimal("5"), None, None], pa.decimal128(10, 0)), "extra": [[1], [2], []],
        }), "x.bin")  # fmt: skip
        assert kinds(items) == ["note", "note", "TEXT_EMPTY"]
        first, second = notes(items[:2])
        assert (first.text, second.text) == ("first", "zweite — 🤒")
        assert (first.record, first.patient_id, first.encounter_id, first.note_type) == ("NOTE/1", "1", "5", "A")
        assert (first.authored_at_text, second.authored_at_text) == ("2020-05-17 08:30:15Z", "2020-05-17")
        assert first.format == "omop" and first.encoding is None


def test_parquet_with_a_mapping_and_bytes_that_are_no_utf_8() -> None:
    raw = packed({"KEY": ["a", "b"], "BODYX": pa.array([b"caf\xe9", b"\x81"])})
    items = read(raw, "a.parquet", mapping=ColumnMapping(text=("BODYX",), id=("KEY",)))
    assert kinds(items) == ["note", "TEXT_UNDECODABLE"]
    assert notes(items[:1])[0].text == "café" and notes(items[:1])[0].encoding == "windows-1252"
    assert kinds(read(raw, "a.parquet")) == ["COLUMN_MISSING"]
    assert kinds(read(packed({"note_text": [["a"]], "note_id": [1]}), "a.parquet")) == ["TABLE_INVALID"]


def test_parquet_of_other_tables_is_counted() -> None:
    raw = packed({"person_id": range(5000), "gender_concept_id": [1] * 5000}, row_group_size=700)
    assert Counter(kinds(read(raw, "a.parquet"))) == {"OMOP person": 5000}
    assert read(packed({"person_id": [], "gender_concept_id": []}), "a.parquet") == [Skipped("table without rows")]


def test_damaged_parquet_costs_its_row_group() -> None:
    texts = [f"note {number} " * 50 for number in range(300)]
    options = {"row_group_size": 100, "compression": "none", "use_dictionary": False, "write_page_checksum": True}
    raw = bytearray(packed({"note_id": range(300), "note_text": texts}, **options))
    at = raw.index(b"note 150 ")
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    # A checksum that is not looked at leaves the damage to the text: the bytes are told from UTF-8.
    items = read(bytes(raw), "a.parquet")
    assert kinds(items).count("note") + kinds(items).count("TEXT_UNDECODABLE") == 300
    for size in (10, len(raw) // 2, len(raw) - 3):
        assert kinds(read(bytes(raw[:size]), "a.parquet")) == ["TABLE_INVALID"]
    del raw[at : at + 400]
    assert "TABLE_INVALID" in kinds(read(bytes(raw), "a.parquet"))


def test_parquet_that_unpacks_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 4 << 20)
    bomb = packed({"note_id": range(4), "note_text": ["x" * 1_000_000] * 4}, compression="zstd", use_dictionary=False)
    assert kinds(read(bomb, "a.parquet")) == ["TABLE_INVALID"]
    monkeypatch.setattr(parquet, "MOST_ROWS_A_BYTE", 0)
    many = packed({"person_id": [1] * 30_000, "gender_concept_id": [1] * 30_000})
    assert len(read(many, "a.parquet")) < 12_000


# --- in all -----------------------------------------------------------------------------------------


def test_encodings_are_recorded() -> None:
    names = "note_id,person_id,note_text\n"
    for encoding, expected in (("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("cp1252", "windows-1252")):
        (note,) = notes(read((names + "1,2,café – ok\n").encode(encoding)))
        assert (note.text, note.encoding) == ("café – ok", expected)
    said = read((names + "1,2,žluťoučký\n").encode("cp1250"), mapping=ColumnMapping(encoding="cp1250"))
    assert (notes(said)[0].text, notes(said)[0].encoding) == ("žluťoučký", "windows-1250")
    assert kinds(read(names.encode() + b"1,2,\x81\n2,\xe9,ok\n")) == ["TEXT_UNDECODABLE", "note"]


def test_what_is_no_table_is_refused() -> None:
    for raw in (b"", b"\n\n", b" "):
        assert kinds(read(raw)) == ["TABLE_INVALID"]
    for raw in (b"\x00\x05\x16\x07" * 100, b"a,b\n" + bytes(range(32)) * 9):
        assert kinds(read(raw)) == ["TEXT_BINARY"]
    assert kinds(read(b"PK\x03\x04....", "a.csv", format="table")) == ["ARCHIVE_INVALID"]
    assert read("note_id,person_id,note_text\n") == [Skipped("table without rows")]


def test_no_reject_holds_a_word_of_a_note() -> None:
    bad = [
        'note_id,person_id,note_text\n1,2,"CANARY\n', "note_id,person_id,note_text\n1,2,CANARY,CANARY\n", "CANARY,CANARY\n1,2\n",
        '{"note_id": 1, "person_id": 2, "note_text": {"CANARY": 1}}\n{"CANARY',
    ]  # fmt: skip
    for content, name in ((content, "a.jsonl" if content.startswith("{") else "a.csv") for content in bad):
        items = read(content, name)
        assert items and all(isinstance(item, Reject) for item in items)
        assert "CANARY" not in repr(items)


def test_rows_are_accounted_for_in_the_stage(tmp_path: Path) -> None:
    (tmp_path / "note.csv").write_text("note_id,person_id,note_text\n1,2,a\n1,2,a\n2,2\n3,2,\n")
    (tmp_path / "person.csv").write_text("person_id,gender_concept_id\n1,8507\n2,8532\n")
    sources = find_sources([str(tmp_path)])
    (output,) = read_chunks(
        sources, format="auto", max_note_chars=1000, chunk_documents=100, chunk_chars=10**6, run_id="r",
        mapping=ColumnMapping(patient=("person_id",)),
    )  # fmt: skip
    assert output.counts["records"] == 6
    assert (output.counts["documents"], output.counts["duplicates"], output.counts["rejected"]) == (1, 1, 2)
    assert output.counts["not_a_note:OMOP person"] == 2


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\r\n"), min_size=1, max_size=40).filter(
    lambda text: text.strip("\ufeff\u200b \t\r\n\v\f\x00") and not text.strip().startswith(("<", "{\\rtf"))
)


@settings(max_examples=100, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=6))
def test_texts_are_those_of_the_table(texts: list[str]) -> None:
    rows = [["note_id", "person_id", "note_text"], *([n, 1, text] for n, text in enumerate(texts))]
    forms = {
        "a.csv": table(*rows, quoting=csv.QUOTE_ALL).encode(),
        "a.tsv": table(*rows, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").encode("utf-16"),
        "a.jsonl": "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]).encode(),
        "a.parquet": packed({"note_id": range(len(texts)), "person_id": [1] * len(texts), "note_text": texts}),
    }
    nulls = {"\\N", "NULL", "null", "[NULL]", "(null)", "<null>", "<NULL>"}
    kept = [text for text in texts if text.strip(" \t\r\n") not in nulls]
    for name, raw in forms.items():
        items = [item for item in read(raw, name, format="omop") if isinstance(item, Document)]
        assert [item.text for item in items] == kept, name


@pytest.mark.corpora
@pytest.mark.parametrize("folder", ["omop", "csv_notes"])
def test_real_files_are_accounted_for(ehr: Path, folder: str) -> None:
    files = [path for path in sorted((ehr / folder).rglob("*")) if path.suffix in (".csv", ".tsv", ".txt", ".parquet")]
    for path in files:
        if path.name == "manifest.csv":
            continue
        items = list(read_source(Source(path, path.name), max_note_chars=10**6))
        texts = texts_of(path)
        if texts is not None:
            assert [item.text for item in items if isinstance(item, Document)] == texts, path
            assert len(items) == len(texts)
        assert "TABLE_INVALID" not in kinds(items), path


def texts_of(path: Path) -> list[str] | None:
    """The texts of a table as pandas reads them; ``None`` where it has none."""
    import pandas as pd

    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        separator = "\t" if "\t" in path.read_text(encoding="utf-8-sig").partition("\n")[0] else ","
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    column = next((name for name in frame if name.lower() in ("note_text", "text", "note", "observation_blob")), None)
    return None if column is None else [str(text) for text in frame[column]]


def test_a_stream_is_closed_and_never_held(tmp_path: Path) -> None:
    opened: list[io.BytesIO] = []

    def open_it() -> io.BytesIO:
        opened.append(io.BytesIO(b"note_id,person_id,note_text\n1,2,a\n2,3,b\n"))
        return opened[-1]

    rows = read_content(Content("a.csv", open_it), Reading("a.csv", "unknown", 1000))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert opened and all(stream.closed for stream in opened)
