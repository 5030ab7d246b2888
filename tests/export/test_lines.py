"""JSON lines and CSV: nothing of the tables is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from medpipe.errors import MedpipeError
from medpipe.export.catalog import literal
from medpipe.export.comma_separated import export_csv
from medpipe.export.lines import export_jsonl
from medpipe.lake import contracts, warehouse
from medpipe.learn.corpora import read_documents
from tests.export.test_catalog import Lake, comparable


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(tmp_path_factory.mktemp("lines"))


def test_jsonl_is_the_corpus_format(lake: Lake, tmp_path: Path) -> None:
    counts = export_jsonl(lake.root, tmp_path / "notes.jsonl")
    notes = {key: note for key, note in lake.latest.items() if note["document"]["status"] == "processed"}
    documents = {document.doc_id: document for document in read_documents(tmp_path / "notes.jsonl")}
    assert set(documents) == set(notes)
    assert counts["left_out"] == len(lake.latest) - len(notes) > 0
    for key, document in documents.items():
        wanted = {row["entity_id"]: row for row in notes[key]["entities"]}
        assert document.text == notes[key]["document"]["text"]
        assert {one.entity_id for one in document.entities} == set(wanted)
        for one in document.entities:
            row = wanted[one.entity_id]
            parts = row["fragments"] or []
            assert (one.start, one.end, one.label) == (row["start"], row["end"], row["label"])
            assert one.fragments == tuple((part["start"], part["end"]) for part in parts)
        assert {(one.head, one.tail) for one in document.relations} == {
            (row["head_entity_id"], row["tail_entity_id"]) for row in notes[key]["relations"]
        }
    lines = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    for line in lines:
        row = notes[line["doc_id"]]["document"]
        assert line["patient_id"] == row["patient_id"] and line["summary"] == "Note"
        assert line["authored_at"] == (row["authored_at"] and row["authored_at"].isoformat())
    with pytest.raises(MedpipeError) as caught:
        export_jsonl(lake.root, tmp_path / "x.jsonl", partition="2020-01-01")
    assert caught.value.code == "WAREHOUSE_INVALID"


def test_csv_comes_back_as_the_tables(lake: Lake, tmp_path: Path) -> None:
    counts = export_csv(lake.root, tmp_path / "csv")
    for table in contracts.TABLES:
        wanted = warehouse.read_table(lake.root, table)
        assert counts[table] == len(wanted)
        path = literal(str(tmp_path / "csv" / f"{table}.csv"))
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = connection.sql(
                f"SELECT * FROM read_csv({path}, header = true, all_varchar = true)"
            ).to_arrow_table()
        assert found.column_names == wanted.column_names
        for column in wanted.schema:
            values = wanted[column.name].to_pylist()
            texts = found[column.name].to_pylist()
            if str(column.type).startswith("list"):
                assert [text and json.loads(text) for text in texts] == rounded(values)
            elif str(column.type) in ("string", "int32", "int64"):
                assert texts == [None if value is None else str(value) for value in values]
            elif str(column.type) == "bool":
                assert texts == [str(value).lower() for value in values]
            elif str(column.type) in ("float", "double"):
                assert [text and float(text) for text in texts] == pytest.approx(values)
            else:
                assert [text is None for text in texts] == [comparable(value) is None for value in values]


def rounded(values: list) -> list:
    return [json.loads(json.dumps(value)) for value in values]
