"""The knowledge graph against a count by hand, and a page that is safe to open."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lxml import etree

from medpipe.errors import MedpipeError
from medpipe.export.knowledge_graph import SCHEMA, draw, export_knowledge_graph
from medpipe.lake import contracts, files, warehouse

DAYS = ("2026-01-05", "2026-01-06")


def filled(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows that name only what matters, with something in every other column that may not be null."""
    schema = contracts.arrow_schema(table)
    blank = {pa.string(): "x", pa.bool_(): False, pa.int32(): 0, pa.float32(): 0.5}
    made = [{field.name: None if field.nullable else blank[field.type] for field in schema} | row for row in rows]
    return pa.Table.from_pylist(made, schema=schema)


def write(root: Path, partition: str, tables: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("documents", "entities", "relations"):
        path = warehouse.table_path(root, name, partition)
        path.parent.mkdir(parents=True)
        files.write_table(path, filled(name, tables[name]))
    files.write_json(warehouse.manifest_path(root, partition), {})


def invent(seed: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Two partitions; some documents stand in both, with other relations."""
    chance = random.Random(seed)
    made: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for day in DAYS:
        tables: dict[str, list[dict[str, Any]]] = {"documents": [], "entities": [], "relations": []}
        for number in chance.sample(range(12), 8):
            document = f"d{number:02}"
            written = datetime(2025, 1, 1 + number, tzinfo=UTC) if number % 3 else None
            tables["documents"].append({"document_id": document, "authored_at": written, "status": "processed"})
            for place in range(chance.randrange(4)):
                ends = []
                for side, words in (("h", ["Gout", "gout ", "Asthma"]), ("t", ["pain", "Pain", "bad\n cough"])):
                    entity = f"{document}{day}{place}{side}"
                    code = {"code_system": "S", "code": "1"} if chance.random() < 0.3 else {}
                    text = chance.choice(words)
                    tables["entities"].append({"entity_id": entity, "document_id": document, "text": text} | code)
                    ends.append(entity)
                tables["relations"].append({
                    "relation_id": f"r{document}{day}{place}", "document_id": document,
                    "patient_id": f"p{number % 4}" if number else None, "type": "has_symptom",
                    "head_entity_id": ends[0], "tail_entity_id": ends[1], "score": round(chance.random(), 2),
                    "negated": chance.random() < 0.4,
                })  # fmt: skip
        made[day] = tables
    return made


def by_hand(made: dict[str, dict[str, list[dict[str, Any]]]], min_score: float) -> dict[tuple[str, str], dict]:
    later = {row["document_id"] for row in made[DAYS[1]]["documents"]}
    found: dict[tuple[str, str], dict[str, dict[str, list]]] = {}
    for day, tables in made.items():
        ends = {row["entity_id"]: row for row in tables["entities"]}
        when = {row["document_id"]: row["authored_at"] for row in tables["documents"]}
        for row in tables["relations"]:
            if row["score"] < min_score or (day == DAYS[0] and row["document_id"] in later):
                continue
            keys = tuple(
                "S|1" if ends[row[name]].get("code") else " ".join(ends[row[name]]["text"].lower().split())
                for name in ("head_entity_id", "tail_entity_id")
            )
            told = when[row["document_id"]].date() if when[row["document_id"]] else date.fromisoformat(day)
            found.setdefault(keys, {}).setdefault(row["document_id"], []).append((row, told))
    counted = {}
    for keys, documents in found.items():
        asserted = {name: rows for name, rows in documents.items() if any(not row["negated"] for row, _ in rows)}
        best = [max(row["score"] for row, _ in rows) for rows in asserted.values()]
        days = [day for rows in documents.values() for _, day in rows]
        counted[keys] = {
            "documents": len(asserted),
            "patients": len({rows[0][0]["patient_id"] for rows in asserted.values()} - {None}),
            "mean_score": pytest.approx(sum(best) / len(best), abs=1e-4) if best else None,
            "negated_documents": len(documents) - len(asserted),
            "first_seen": min(days),
            "last_seen": max(days),
            "example_ids": sorted(row["relation_id"] for rows in documents.values() for row, _ in rows)[:5],
        }
    return counted


@pytest.mark.parametrize("seed", range(8))
def test_the_table_equals_a_count_by_hand(tmp_path: Path, seed: int) -> None:
    made = invent(seed)
    for day, tables in made.items():
        write(tmp_path / "w", day, tables)
    for min_score in (0.0, 0.5):
        export_knowledge_graph(tmp_path / "w", tmp_path / "out", min_score=min_score)
        table = files.read_table(tmp_path / "out" / "knowledge-graph.parquet")
        assert table.schema.equals(SCHEMA)
        found = {}
        for row in table.to_pylist():
            keys = tuple("S|1" if row[f"{end}_code"] else row[end] for end in ("head", "tail"))
            assert keys not in found
            found[keys] = {
                name: row[name] for name in row if name not in ("type", "head", "tail", "head_code", "tail_code")
            }
        assert found == by_hand(made, min_score)
        assert table["documents"].to_pylist() == sorted(table["documents"].to_pylist(), reverse=True)


def test_one_partition_and_few_documents(tmp_path: Path) -> None:
    made = invent(1)
    for day, tables in made.items():
        write(tmp_path / "w", day, tables)
    alone = export_knowledge_graph(tmp_path / "w", tmp_path / "one", partition=DAYS[0])
    assert alone["relations"] == len(made[DAYS[0]]["relations"])
    export_knowledge_graph(tmp_path / "w", tmp_path / "often", min_documents=3)
    for row in files.read_table(tmp_path / "often" / "knowledge-graph.parquet").to_pylist():
        assert row["documents"] + row["negated_documents"] >= 3
    with pytest.raises(MedpipeError) as caught:
        export_knowledge_graph(tmp_path / "w", tmp_path / "none", partition="2020-01-01")
    assert caught.value.code == "WAREHOUSE_INVALID" and not (tmp_path / "none").exists()


def test_a_warehouse_without_relations(tmp_path: Path) -> None:
    write(tmp_path / "w", DAYS[0], {"documents": [], "entities": [], "relations": []})
    counts = export_knowledge_graph(tmp_path / "w", tmp_path / "out")
    assert counts == {"pairs": 0, "relations": 0, "documents": 0}
    etree.fromstring((tmp_path / "out" / "knowledge-graph.svg").read_bytes())


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    tables: dict[str, list[dict[str, Any]]] = {
        "documents": [{"document_id": "d", "status": "processed"}],
        "entities": [
            {"entity_id": "a", "document_id": "d", "text": "<script>alert(1)</script>"},
            {"entity_id": "b", "document_id": "d", "text": 'x" onload="y & {z}'},
        ],
        "relations": [{"relation_id": "r", "document_id": "d", "type": "has_symptom", "head_entity_id": "a", "tail_entity_id": "b"}],
    }  # fmt: skip
    write(tmp_path / "w", DAYS[0], tables)
    export_knowledge_graph(tmp_path / "w", tmp_path / "out")
    page = (tmp_path / "out" / "knowledge-graph.html").read_text()
    assert "<script>" not in page and 'x" onload' not in page and "&lt;script&gt;" in page
    drawing = etree.fromstring((tmp_path / "out" / "knowledge-graph.svg").read_bytes())
    assert {child.tag.split("}")[1] for child in drawing} == {"title", "path", "text"}


def test_the_picture_draws_the_top_concepts_only() -> None:
    rows = [
        {"type": "has_symptom", "head": f"disease {number}", "tail": f"symptom {tail}", "documents": 20 - number,
         "patients": 1, "mean_score": 0.5, "negated_documents": 0, "first_seen": date(2026, 1, 1),
         "last_seen": date(2026, 1, 1), "example_ids": []}
        for number in range(9) for tail in range(3)
    ]  # fmt: skip
    picture = draw(pa.Table.from_pylist(rows, schema=SCHEMA), 2)
    assert picture.count("<path") == 6 and "disease 1<" in picture and "disease 2<" not in picture


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medpipe.cli import app

    made = invent(2)
    write(tmp_path / "w", DAYS[0], made[DAYS[0]])
    command = ["export", "knowledge-graph", "--warehouse", str(tmp_path / "w"), "--out", str(tmp_path / "out")]
    app(command, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["relations"] == len(made[DAYS[0]]["relations"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "knowledge-graph.html", "knowledge-graph.parquet", "knowledge-graph.svg",
    ]  # fmt: skip
