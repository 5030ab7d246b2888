"""The contracts: parsed, fingerprinted, kept."""

from __future__ import annotations

import copy

import pyarrow as pa
import pytest
import yaml

from medpipe.errors import MedpipeError
from medpipe.lake import contracts
from tests.lake.invented import as_table, rows_of


@pytest.mark.parametrize("table", contracts.TABLES)
def test_released_contracts_do_not_change_silently(table: str) -> None:
    released = contracts.released_fingerprints()[table]
    assert set(released) == set(contracts.versions(table)), "a version without a fingerprint, or the other way round"
    for version, value in released.items():
        assert contracts.fingerprint(table, version) == value, f"{table} {version} changed: make a new version instead"


@pytest.mark.parametrize("table", contracts.TABLES)
def test_contract_file_says_what_it_is(table: str) -> None:
    for version in contracts.versions(table):
        raw = yaml.safe_load((contracts.schema_root() / table / f"{version}.yaml").read_text(encoding="utf-8"))
        assert (raw["name"], raw["version"], raw["kind"], raw["apiVersion"]) == (
            table,
            version,
            "DataContract",
            "v3.1.0",
        )
        columns = contracts.properties(table, version)
        assert all(column["description"].endswith(".") for column in columns)
        assert [column["name"] for column in columns if column.get("primaryKey")] == [columns[0]["name"]]
        for column in columns:
            for relationship in column.get("relationships", ()):
                other, _, key = relationship["to"].partition(".")
                assert key in contracts.arrow_schema(other).names


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("int32", pa.int32()),
        ("timestamp_tz", pa.timestamp("us", tz="UTC")),
        ("list<string>", pa.list_(pa.string())),
        ("list<struct<start: int32, end: int32>>", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))),
        ("struct<a: list<float>, b: boolean>", pa.struct([("a", pa.list_(pa.float32())), ("b", pa.bool_())])),
    ],
)
def test_types_are_read_as_arrow_writes_them(written: str, kind: pa.DataType) -> None:
    assert contracts.parse_type(written) == kind


@pytest.mark.parametrize("table", contracts.TABLES)
def test_invented_rows_conform(table: str) -> None:
    made = as_table(table, rows_of("a.txt", 3)[table])
    assert made.schema.equals(contracts.arrow_schema(table), check_metadata=True)
    assert set(made["schema_version"].to_pylist()) == {contracts.current_version(table)}
    assert contracts.empty_table(table).schema == made.schema


def test_conform_names_the_column_and_never_the_value() -> None:
    row = rows_of("a.txt", 1)["entities"][0]
    columns = {name: [value] for name, value in row.items()}
    for change, word in (
        ({"start": ["CANARY"]}, "start"),
        ({"text": [None]}, "text"),
        ({"text": ["\ud800"]}, "text"),
        ({"extra": [1]}, "extra"),
        ({"end": [2**70]}, "end"),
        ({"label": ["DISEASE", "DISEASE"]}, "label"),
    ):
        with pytest.raises(MedpipeError) as caught:
            contracts.conform("entities", columns | change)
        assert caught.value.code == "CONTRACT_BROKEN"
        assert word in str(caught.value)
        assert "CANARY" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_unknown_contracts() -> None:
    for call in (lambda: contracts.versions("poems"), lambda: contracts.load_contract("documents", "9.9.9")):
        with pytest.raises(MedpipeError) as caught:
            call()
        assert caught.value.code == "CONTRACT_UNKNOWN"


def test_what_a_change_means() -> None:
    old = contracts.properties("entities")

    def changed(level: str, edit) -> None:
        new = copy.deepcopy(old)
        edit(new)
        assert contracts.compare(old, new).level == level

    by_name = {column["name"]: number for number, column in enumerate(old)}
    changed("none", lambda new: None)
    changed("major", lambda new: new.pop())
    changed("major", lambda new: new[by_name["text"]].update(name="mention"))
    changed("major", lambda new: new[by_name["start"]].update(physicalType="int64"))
    changed("major", lambda new: new[by_name["patient_id"]].update(required=True))
    changed("major", lambda new: new[by_name["start"]].update(description="Counts bytes."))
    changed("patch", lambda new: new[by_name["text"]].update(description="The words."))
    changed(
        "minor",
        lambda new: new.append({"name": "note", "physicalType": "string", "required": False, "description": "x."}),
    )
    changed(
        "major",
        lambda new: new.append({"name": "note", "physicalType": "string", "required": True, "description": "x."}),
    )
    changed("minor", lambda new: new[by_name["label"]]["quality"][0]["arguments"]["validValues"].append("GENE"))
    changed("major", lambda new: new[by_name["label"]]["quality"][0]["arguments"]["validValues"].pop())
    changed("major", lambda new: new[by_name["score"]]["logicalTypeOptions"].update(maximum=100))
