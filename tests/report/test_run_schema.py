"""The JSON of `medpipe run --json`: what was promised stays, and what is printed is what is promised."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from medpipe.cli import note_json
from medpipe.report.run_schema import run_schema, value_schema
from tests.conftest import ROOT
from tests.lake.invented import as_table, rows_of
from tests.report.invented_notes import Note

PROMISED = json.loads((ROOT / "schemas" / "medpipe.run.1.json").read_text(encoding="utf-8"))


def breaks(old: Any, new: Any, path: str = "") -> list[str]:
    """Where ``new`` no longer gives what ``old`` promised: a key is gone, may be missing, or has another type."""
    found = []
    for key in old.get("properties", {}):
        if key not in new.get("properties", {}):
            found.append(f"{path}/{key} is gone")
        else:
            found += breaks(old["properties"][key], new["properties"][key], f"{path}/{key}")
    found += [f"{path}/{key} may be missing" for key in set(old.get("required", ())) - set(new.get("required", ()))]
    for name in ("type", "format", "const", "$ref", "anyOf"):
        if name in old and old[name] != new.get(name):
            found.append(f"{path}: {name} changed")
    if "items" in old:
        found += breaks(old["items"], new.get("items", {}), f"{path}[]")
    for name, definition in old.get("$defs", {}).items():
        found += breaks(definition, new.get("$defs", {}).get(name, {}), f"#{name}")
    return found


def test_what_was_promised_stays() -> None:
    assert breaks(PROMISED, run_schema()) == []


def test_a_break_would_be_seen() -> None:
    changed = run_schema()
    del changed["$defs"]["entity"]["properties"]["score"]
    changed["$defs"]["document"]["properties"]["n_chars"]["type"] = "string"
    changed["required"].remove("counts")
    assert sorted(breaks(PROMISED, changed)) == [
        "#document/n_chars: type changed",
        "#entity/score is gone",
        "/counts may be missing",
    ]


def printed() -> dict[str, Any]:
    """One note as the command line prints it, from rows that keep the contracts."""
    rows = {table: as_table(table, found).to_pylist() for table, found in rows_of("a", 1).items()}
    note = Note(rows["documents"][0], rows["sections"], rows["entities"], rows["relations"], rows["summaries"][0])
    counts = {"records": 1, "documents": 1, "rejected:TEXT_EMPTY": 1.0}
    head = {
        "schema": "medpipe.run/1",
        "warehouse": "lake",
        "partition": "2026-01-31",
        "sources": 1,
        "unchanged": 0,
        "counts": counts,
    }
    versions = {"documents": "1.1.0"}
    made = head | {"rows": {"documents": 1}, "schema_versions": versions, "documents": [note_json(note)]}
    return dict(json.loads(json.dumps(made, default=lambda value: value.isoformat())))


@pytest.mark.parametrize("schema", [PROMISED, run_schema()], ids=["promised", "today"])
def test_what_is_printed_keeps_the_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = printed()
    validator.validate(good)
    for break_it in (
        lambda one: one.pop("documents"), lambda one: one.update(schema="medpipe.run/2"),
        lambda one: one["documents"][0]["entities"][0].update(start="3"), lambda one: one["documents"][0].pop("summary"),
        lambda one: one["documents"][0]["summary"]["tokens"][0].pop("source_start"),
    ):  # fmt: skip
        bad = json.loads(json.dumps(good))
        break_it(bad)
        assert not validator.is_valid(bad)


def test_every_key_of_a_row_is_documented() -> None:
    for definition in run_schema()["$defs"].values():
        assert all(one["description"] for one in definition["properties"].values())


def test_arrow_types_as_json_has_them() -> None:
    row = pa.table({"t": pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))})
    assert value_schema(row.schema.field("t").type, nullable=True) == {
        "type": ["string", "null"],
        "format": "date-time",
    }
    assert value_schema(pa.list_(pa.int32()), nullable=False) == {"type": "array", "items": {"type": "integer"}}
