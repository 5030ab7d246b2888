"""Contracts that live: versions side by side, migration, and what a change may not be called."""

from __future__ import annotations

import contextlib
import shutil
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml

from medpipe.errors import CODES, MedpipeError, reject_message, split_message
from medpipe.export.catalog import FILE, literal, write_catalog
from medpipe.ids import hash_file
from medpipe.lake import contracts, files, warehouse
from medpipe.lake.dictionary import write_dictionary
from medpipe.lake.migrations import MIGRATIONS
from medpipe.lake.publish import migrate, publish_partition, recover
from tests.conftest import ROOT
from tests.lake.invented import PARTITION, publish_input, rows_of

LATER = "2026-02-01"


def old_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of quarantine 2 as version 1 had it."""
    old = {name: value for name, value in row.items() if name != "remedy"}
    return old | {"message": f"{row['message']} {row['remedy']}", "schema_version": "1.0.0"}


def turn_back(root: Path, partition: str) -> None:
    """Makes of a partition's quarantine what version 1 would have published."""
    path = warehouse.table_path(root, "quarantine", partition)
    rows = [old_row(row) for row in files.read_table(path).to_pylist()]
    old = root / "quarantine" / "v1" / path.relative_to(root / "quarantine" / "v2")
    files.write_table(old, pa.Table.from_pylist(rows, schema=contracts.arrow_schema("quarantine", "1.0.0")))
    path.unlink()
    manifest = warehouse.read_manifest(root, partition)
    assert manifest is not None
    manifest["tables"]["quarantine"] |= {
        "path": str(old.relative_to(root)), "bytes": old.stat().st_size, "hash": hash_file(str(old)), "schema_version": "1.0.0",
    }  # fmt: skip
    files.write_json(warehouse.manifest_path(root, partition), manifest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A warehouse with a partition of version 1 of quarantine and a later one of version 2."""
    place = tmp_path / "lake"
    publish_partition(publish_input(place, tmp_path / "w1", rows_of("a.txt", 3)))
    turn_back(place, PARTITION)
    publish_partition(replace(publish_input(place, tmp_path / "w2", rows_of("b.txt", 2)), partition=LATER))
    return place


def quarantine(root: Path) -> list[dict[str, Any]]:
    return warehouse.read_table(root, "quarantine").to_pylist()


def test_versions_stand_side_by_side_and_read_as_today(root: Path) -> None:
    assert sorted(path.name for path in (root / "quarantine").iterdir()) == ["v1", "v2"]
    rows = quarantine(root)
    assert [(row["dt"], row["source"]) for row in rows] == [(PARTITION, "a.txt"), (LATER, "b.txt")]
    for row in rows:
        assert (row["message"], row["remedy"]) == ("The note is empty.", CODES["TEXT_EMPTY"].remedy)
        assert row["schema_version"] == "2.0.0"
    assert warehouse.check(root) == []
    one = warehouse.read_table(
        root, "quarantine", partition=PARTITION, columns=["remedy"], filters=pa.compute.field("source") == "a.txt"
    )
    assert one.to_pydict() == {"remedy": [CODES["TEXT_EMPTY"].remedy]}
    none = warehouse.read_table(root, "quarantine", filters=pa.compute.field("source") == "c.txt")
    assert len(none) == 0 and none.column_names == [*contracts.arrow_schema("quarantine").names, "dt"]
    assert [len(block) for block in warehouse.iter_rows(root, "quarantine", PARTITION, 10, ["message"])] == [1]


def test_the_catalogue_reads_both_versions(root: Path) -> None:
    write_catalog(root)
    with duckdb.connect(str(root / FILE), read_only=True) as catalog:
        found = (
            catalog.sql("SELECT * REPLACE (dt::VARCHAR AS dt) FROM quarantine ORDER BY dt").to_arrow_table().to_pylist()
        )
    assert found == quarantine(root)


def test_migration_rewrites_the_files_and_no_row_changes(root: Path) -> None:
    before, manifest = quarantine(root), warehouse.read_manifest(root, PARTITION)
    others = {path: hash_file(str(path)) for path in root.glob("[der]*/v1/*/*.parquet")}
    assert migrate(root) == [PARTITION]
    assert quarantine(root) == before and warehouse.check(root) == []
    assert not list(root.glob("quarantine/v1/*/*.parquet"))
    assert {path: hash_file(str(path)) for path in others} == others  # tables of the same version keep their bytes
    after = warehouse.read_manifest(root, PARTITION)
    assert manifest and after and after["facts"] == manifest["facts"]
    assert after["tables"]["quarantine"]["schema_version"] == "2.0.0"
    assert migrate(root) == []
    with pytest.raises(MedpipeError) as caught:
        migrate(root / "nowhere")
    assert caught.value.code == "WAREHOUSE_INVALID"


def test_publishing_into_an_old_partition_migrates_it(root: Path, tmp_path: Path) -> None:
    publish_partition(publish_input(root, tmp_path / "w3", rows_of("c.txt", 1)))
    rows = warehouse.read_table(root, "quarantine", partition=PARTITION).to_pylist()
    assert sorted(row["source"] for row in rows) == ["a.txt", "c.txt"]
    assert len({(row["message"], row["remedy"], row["schema_version"]) for row in rows}) == 1
    assert not list(root.glob("quarantine/v1/*/*.parquet")) and warehouse.check(root) == []


@pytest.mark.parametrize("step", range(0, 24, 3))
def test_killed_migration_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    class Killed(BaseException):
        pass

    before, calls, real = quarantine(root), 0, files.sync

    def sync(path: Path) -> None:
        nonlocal calls
        if calls == step:
            raise Killed
        calls += 1
        real(path)

    monkeypatch.setattr(files, "sync", sync)
    with contextlib.suppress(Killed):
        migrate(root)
    monkeypatch.setattr(files, "sync", real)
    recover(root, PARTITION)
    assert quarantine(root) == before and warehouse.check(root) == []
    migrate(root)
    assert quarantine(root) == before and not list(root.glob("quarantine/v1/*/*.parquet"))
    assert not warehouse.journal_path(root, PARTITION).exists()


def test_sql_and_arrow_migrate_alike() -> None:
    example = old_row(rows_of("a.txt", 1)["quarantine"][0])
    texts = [text for kind in CODES.values() for text in (kind.sentence, kind.remedy)]
    fields = {name: "x" for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}
    rows = []
    for code in [*CODES, "GONE_CODE"]:
        known = CODES.get(code)
        told = reject_message(code, **fields) if known else "What?"
        remedy = known.remedy if known else "x"
        for message in (told, "", remedy, f" {remedy}", f"é {remedy} ", f"{told} {remedy}", told + "🩺"):
            rows.append(example | {"code": code, "message": message, "record_id": f"{len(rows):032x}"})
    old = pa.Table.from_pylist(rows, schema=contracts.arrow_schema("quarantine", "1.0.0"))
    new = contracts.upgrade("quarantine", old)
    assert new.schema.equals(contracts.arrow_schema("quarantine"))
    sql = ", ".join(f"{text} AS {name}" for name, text in MIGRATIONS["quarantine", 1].columns.items())
    with duckdb.connect() as connection:  # its own: that of the module is everybody's
        found = connection.sql(f"SELECT record_id, {sql} FROM old ORDER BY record_id").to_arrow_table()
    for name in ("message", "remedy"):
        assert found[name].to_pylist() == new[name].to_pylist()
    for row, made in zip(rows, new.to_pylist(), strict=True):
        if (
            row["code"] in CODES
            and row["message"] == reject_message(row["code"], **fields)
            and "{" not in made["remedy"]
        ):
            assert (made["message"], made["remedy"]) == split_message(row["code"], row["message"])
            assert made["message"] == CODES[row["code"]].sentence.format(**fields)


def test_every_major_version_has_its_migration() -> None:
    wanted = {(table, number) for table in contracts.TABLES for number in range(1, contracts.major(table))}
    assert wanted == set(MIGRATIONS) and literal("it's") == "'it''s'"


# --- what a change may be called ------------------------------------------------------------


def test_versions_say_what_changed() -> None:
    assert contracts.review() == []


@pytest.fixture
def schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the contracts that may be changed."""
    caches = (contracts.current_version, contracts.load_contract, contracts.arrow_schema)
    copy = tmp_path / "schemas"
    shutil.copytree(contracts.schema_root(), copy)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(contracts, "schema_root", lambda: copy)
    yield copy
    for cache in caches:
        cache.cache_clear()


def add_version(
    schemas: Path, version: str, edit: Callable[[list[dict[str, Any]]], Any], *, release: bool = True
) -> None:
    """Adds a version of `entities` that is the current one, edited."""
    contract = contracts.load_contract("entities")
    edit(contract["schema"][0]["properties"])
    (schemas / "entities" / f"{version}.yaml").write_text(yaml.safe_dump(contract | {"version": version}))
    contracts.load_contract.cache_clear()
    contracts.current_version.cache_clear()
    if release:
        released = contracts.released_fingerprints()
        released["entities"][version] = contracts.fingerprint("entities", version)
        files.write_json(schemas / "fingerprints.json", released)


def column(columns: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(one for one in columns if one["name"] == name)


NEW = {"name": "laterality", "physicalType": "string", "required": False, "description": "Side."}


@pytest.mark.parametrize(
    ("step", "edit", "problem"),
    [
        ("minor", lambda columns: columns.append(NEW), None),
        ("patch", lambda columns: columns.append(NEW), "is a patch version"),
        ("minor", lambda columns: columns.pop(), "is a minor version"),
        ("minor", lambda columns: columns.append(NEW | {"required": True}), "is a minor version"),
        ("minor", lambda columns: column(columns, "score").update(customProperties=[{"property": "meaningSince", "value": "9"}]), "is a minor version"),
        ("patch", lambda columns: column(columns, "text").update(description="Other words."), None),
        ("major", lambda columns: columns.append(NEW), "has no migration"),
    ],
)  # fmt: skip
def test_a_change_without_its_bump_is_found(schemas: Path, step: str, edit: Any, problem: str | None) -> None:
    numbers = contracts.version_numbers(contracts.current_version("entities"))
    major, minor, patch = numbers
    version = {"major": f"{major + 1}.0.0", "minor": f"{major}.{minor + 1}.0", "patch": f"{major}.{minor}.{patch + 1}"}[
        step
    ]
    add_version(schemas, version, edit)
    found = contracts.review()
    assert [one for one in found if problem is None or problem not in one] == []
    assert bool(found) == (problem is not None)


def test_a_released_version_stays_as_it_is(schemas: Path) -> None:
    path = schemas / "entities" / "1.0.0.yaml"
    path.write_text(path.read_text().replace("Finer kind, where known.", "Another."))
    assert any("make it a new version" in one for one in contracts.review())
    (schemas / "sections" / "1.0.0.yaml").unlink()
    add_version(schemas, "1.99.0", lambda columns: columns.append(NEW), release=False)
    found = "\n".join(contracts.review())
    assert "sections 1.0.0 was released and is gone" in found and "entities 1.99.0 has no fingerprint" in found


def test_the_data_dictionary_is_that_of_the_contracts() -> None:
    page = (ROOT / "schemas" / "README.md").read_text(encoding="utf-8")
    assert page == write_dictionary(), "run `medpipe schema docs > schemas/README.md`"
    for table in contracts.TABLES:
        for one in contracts.properties(table):
            assert f"| `{one['name']}` |" in page
