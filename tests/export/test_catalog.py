"""The catalogue: README's questions have the answers that Python finds in the rows, and comments come from contracts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from medpipe.errors import MedpipeError
from medpipe.export.catalog import FILE, sql_type, write_catalog
from medpipe.lake import contracts, files, warehouse
from medpipe.lake.publish import publish_partition
from tests.conftest import ROOT
from tests.export.warehouses import NIGHTS, make_warehouse
from tests.lake.invented import publish_input, rows_of

SQL = re.search(r"^```sql\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
assert SQL
QUESTIONS = [one.strip() for one in SQL[1].split(";\n") if one.strip()]


class Lake:
    """A warehouse with its rows as Python has them, and its catalogue."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "it's a [lake]"  # quoted, and no pattern
        self.nights = make_warehouse(self.root, folder / "work")
        write_catalog(self.root)
        self.sql = duckdb.connect(str(self.root / FILE), read_only=True)
        self.latest: dict[str, dict[str, Any]] = {}  # document -> rows of its last night
        for night, rows in self.nights:
            for document in rows["documents"]:
                mine = {
                    table: [row for row in rows[table] if row["document_id"] == document["document_id"]]
                    for table in ("entities", "relations", "summaries", "sections")
                }
                self.latest[document["document_id"]] = mine | {"document": document, "night": night}

    def timeline(self) -> list[dict[str, Any]]:
        found = []
        for note in self.latest.values():
            document = note["document"]
            at = document["authored_at"]
            names = {row["section_id"]: row["name"] for row in note["sections"]}
            found += [
                row
                | {
                    "noted_at": at.replace(tzinfo=None) if at else datetime.fromisoformat(note["night"]),
                    "concept": concept(row),
                    "present": not (row["negated"] or row["uncertain"] or row["hypothetical"] or row["family"]),
                    "section": names[row["section_id"]],
                }
                for row in note["entities"]
                if row["label"] in ("DISEASE", "SYMPTOM", "DRUG", "PROCEDURE", "TEST")
            ]
        return found


def concept(row: dict[str, Any]) -> str:
    return f"{row['code_system']} {row['code']}" if row["code"] else row["text"].lower()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(tmp_path_factory.mktemp("catalog"))


def prevalence(lake: Lake) -> list[tuple]:
    present = [row for row in lake.timeline() if row["present"]]
    sick = {row["patient_id"] for row in present if row["label"] == "DISEASE" and row["text"].lower() == "sarcoidosis"}
    cough = {row["patient_id"] for row in present if row["label"] == "SYMPTOM" and "cough" in row["text"]}
    both = {patient for patient in sick & cough if patient is not None}
    assert both and both < sick  # some have none: the question is a question
    return [(len(sick), len(both), round(len(both) / len(sick), 3))]


def first_mentions(lake: Lake) -> list[tuple]:
    first: dict[tuple, tuple] = {}
    for row in lake.timeline():
        if row["label"] == "DISEASE" and row["present"] and row["patient_id"] is not None:
            key = (row["patient_id"], row["concept"])
            first[key] = min(first.get(key, (datetime.max, "")), (row["noted_at"], row["document_id"]))
    return sorted((*key, *value) for key, value in first.items())


def nothing_found(lake: Lake) -> list[tuple]:
    found = [note["document"] for note in lake.latest.values() if not note["entities"]]
    return [
        tuple(row[name] for name in ("document_id", "source", "record", "n_chars", "status"))
        for row in sorted(found, key=lambda row: (row["status"], -row["n_chars"]))
    ]


def changes(lake: Lake) -> list[tuple]:
    (_, old), (_, new) = lake.nights
    twice = {row["document_id"] for row in old["documents"]} & {row["document_id"] for row in new["documents"]}
    before, after = (
        {
            (row["document_id"], row["label"], row["start"], row["end"])
            for row in rows["entities"]
            if row["document_id"] in twice
        }
        for rows in (old, new)
    )
    gained, lost, kept = (Counter(key[1] for key in keys) for keys in (after - before, before - after, before & after))
    return [(label, gained[label], lost[label], kept[label]) for label in sorted({key[1] for key in before | after})]


def causes(lake: Lake) -> list[tuple]:
    first, last = (date.fromisoformat(night) for night in NIGHTS)
    return [("ingest", "OCR_NEEDED", 4, 1, first, last), ("ingest", "TEXT_EMPTY", 2, 1, first, last)]


def drugs(lake: Lake) -> list[tuple]:
    present = [row for row in lake.timeline() if row["present"]]
    sick = {row["patient_id"] for row in present if row["label"] == "DISEASE" and "diabetes" in row["text"]} - {None}
    patients, notes = defaultdict(set), defaultdict(set)
    for row in present:
        if row["label"] == "DRUG" and row["patient_id"] in sick:
            patients[row["concept"]].add(row["patient_id"])
            notes[row["concept"]].add(row["document_id"])
    rows = [(drug, drug, len(patients[drug]), len(notes[drug])) for drug in patients]
    return sorted(rows, key=lambda row: (-row[2], -row[3], row[0]))


def denied(lake: Lake) -> list[tuple]:
    said = defaultdict(list)
    for row in lake.timeline():
        if row["label"] == "SYMPTOM":
            said[row["text"].lower()].append(row["negated"])
    rows = [(symptom, len(all_), round(sum(all_) / len(all_), 2)) for symptom, all_ in said.items()]
    return sorted(rows, key=lambda row: (-row[2], -row[1], row[0]))


def pairs(lake: Lake) -> list[tuple]:
    found = defaultdict(list)
    for note in lake.latest.values():
        by_id = {row["entity_id"]: row for row in note["entities"]}
        for row in note["relations"]:
            found[concept(by_id[row["head_entity_id"]]), concept(by_id[row["tail_entity_id"]])].append(row)
    names = {"ICD-10-CM D86.9": "sarcoidosis", "ICD-10-CM R05.9": "cough"}
    rows = []
    for (disease, symptom), all_ in found.items():
        holds = [row for row in all_ if not row["negated"]]
        if holds:
            rows.append((
                names.get(disease, disease), names.get(symptom, symptom),
                len({row["patient_id"] for row in holds} - {None}), len({row["document_id"] for row in holds}),
                len({row["document_id"] for row in all_ if row["negated"]}), max(row["score"] for row in holds),
            ))  # fmt: skip
    return sorted(rows, key=lambda row: (-row[3], -row[5], row[0], row[1]))


def sections(lake: Lake) -> list[tuple]:
    said = defaultdict(list)
    for row in lake.timeline():
        if row["label"] == "DISEASE":
            said[row["section"]].append(row)
    rows = [
        (name, len(all_), *(round(sum(row[flag] for row in all_) / len(all_), 2) for flag in ("historical", "family")))
        for name, all_ in said.items()
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def written(lake: Lake) -> list[tuple]:
    by_model = defaultdict(list)
    for note in lake.latest.values():
        for row in note["summaries"]:
            by_model[row["model"]].append(row)
    return [
        (
            model, len(all_), len(all_), sum(row["tokens"][0]["source_start"] is None for row in all_),
            sum(row["n_repaired"] > 0 for row in all_), 0,
        )
        for model, all_ in sorted(by_model.items())
    ]  # fmt: skip


ANSWERS: list[Callable[[Lake], list[tuple]]] = [
    prevalence, first_mentions, nothing_found, changes, causes, drugs, denied, pairs, sections, written,
]  # fmt: skip


@pytest.mark.parametrize("number", range(10))
def test_questions_of_readme(lake: Lake, number: int) -> None:
    assert QUESTIONS[number].startswith(f"-- {number + 1}. ")
    found = [
        tuple(float(f"{value:.2g}") if isinstance(value, float) and number == 7 else value for value in row)
        for row in lake.sql.execute(QUESTIONS[number]).fetchall()
    ]
    wanted = ANSWERS[number](lake)
    assert wanted
    if number == 2:  # equal lengths may come in any order
        found, wanted = sorted(found), sorted(wanted)
    assert found == wanted


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == len(ANSWERS) == 10


def test_comments_are_those_of_the_contracts(lake: Lake) -> None:
    comments = {
        (view, column): comment
        for view, column, comment in lake.sql.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    }
    for table in contracts.TABLES:
        for column in contracts.properties(table):
            assert comments[table, column["name"]] == column["description"]
            if (f"latest_{table}", "dt") in comments:
                assert comments[f"latest_{table}", column["name"]] == column["description"]
    # What is not explained where it is made bears the name and meaning of a column of entities.
    known = {column["name"] for column in contracts.properties("entities")}
    assert {column for (_, column), comment in comments.items() if comment is None} <= known
    views = dict(lake.sql.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall())
    assert all(views.values()) and {"patient_timeline", "disease_symptom", "manifests", "latest_summaries"} <= set(
        views
    )


@pytest.mark.parametrize("table", contracts.TABLES)
def test_a_view_of_a_table_is_the_table(lake: Lake, table: str) -> None:
    lake.sql.execute("SET TimeZone = 'UTC'")
    found = lake.sql.sql(f"SELECT * REPLACE (dt::VARCHAR AS dt) FROM {table}").to_arrow_table().to_pylist()
    wanted = warehouse.read_table(lake.root, table).to_pylist()
    key = contracts.properties(table)[0]["name"]

    def ordered(rows: list[dict]) -> list[dict]:
        return sorted(
            ({name: comparable(value) for name, value in row.items()} for row in rows),
            key=lambda row: (row["dt"], row[key]),
        )

    assert ordered(found) == ordered(wanted)


def comparable(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value


def test_what_is_published_later_is_seen_and_what_no_manifest_names_is_not(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    make_warehouse(root, tmp_path / "work")
    write_catalog(root, tmp_path / "elsewhere.duckdb")
    count = "SELECT count(*), count(DISTINCT dt) FROM documents"

    def counted() -> tuple:
        with duckdb.connect(str(tmp_path / "elsewhere.duckdb"), read_only=True) as catalog:
            return catalog.execute(count).fetchone()

    assert counted() == (80, 2)
    publish_partition(replace(publish_input(root, tmp_path / "w", rows_of("b.txt", 3)), partition="2026-02-01"))
    assert counted() == (83, 3)
    warehouse.manifest_path(root, NIGHTS[0]).unlink()
    assert counted() == (43, 2)


def test_columns_that_came_later_are_null_in_old_partitions(tmp_path: Path) -> None:
    path = warehouse.table_path(tmp_path, "documents", NIGHTS[0])
    for table in contracts.TABLES:
        files.write_table(warehouse.table_path(tmp_path, table, NIGHTS[0]), contracts.empty_table(table))
    files.write_table(path, files.read_table(ROOT / "tests" / "golden" / "documents-1.0.0.parquet"))
    told = {
        table: {"path": str(warehouse.table_path(tmp_path, table, NIGHTS[0]).relative_to(tmp_path))}
        for table in contracts.TABLES
    }
    files.write_json(warehouse.manifest_path(tmp_path, NIGHTS[0]), {"partition": NIGHTS[0], "tables": told})
    write_catalog(tmp_path)
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as catalog:
        found = catalog.execute("SELECT count(*), count(note_status), count(text) FROM latest_documents").fetchone()
    assert found == (3, 0, 3)


def test_nothing_to_catalogue(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        write_catalog(tmp_path)
    assert caught.value.code == "WAREHOUSE_INVALID"
    assert not list(tmp_path.iterdir())


def test_types_of_sql() -> None:
    assert sql_type("list<struct<start: int32, end: int32>>") == 'STRUCT("start" INTEGER, "end" INTEGER)[]'
    assert sql_type("list<string>") == "VARCHAR[]"
