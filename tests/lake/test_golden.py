"""One small Parquet file per released schema version: today's reader, pandas and DuckDB all read it, with equal values.

A golden file is written once, when its version is released (``python -m tests.lake.test_golden``), and never again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from medpipe.lake import contracts, files, warehouse
from tests.lake.invented import PARTITION, as_table, rows_of

GOLDEN = Path(__file__).parent.parent / "golden"
RELEASED = [(table, version) for table in contracts.TABLES for version in contracts.versions(table)]


def expected(table: str, version: str) -> list[dict]:
    """The rows that the golden file of a version holds: those of today without the columns that came later."""
    rows = as_table(table, rows_of("golden.txt", 3)[table]).to_pylist()
    names = contracts.arrow_schema(table, version).names
    return [{name: row[name] for name in names} | {"schema_version": version} for row in rows]


@pytest.mark.parametrize(("table", "version"), RELEASED)
def test_golden_file_is_read_as_it_was_written(table: str, version: str) -> None:
    path = GOLDEN / f"{table}-{version}.parquet"
    assert path.is_file(), "a released version without a golden file"
    read = files.read_table(path)
    assert read.to_pylist() == expected(table, version)
    assert read.schema.equals(contracts.arrow_schema(table, version))
    assert pq.read_schema(path).metadata[contracts.VERSION_KEY].decode() == version
    assert set(read["schema_version"].to_pylist()) == {version}


@pytest.mark.parametrize(("table", "version"), RELEASED)
def test_golden_file_reads_as_the_version_of_today(table: str, version: str, tmp_path: Path) -> None:
    if contracts.version_numbers(version)[0] != contracts.major(table):
        pytest.skip("of an earlier major version")
    path = GOLDEN / f"{table}-{version}.parquet"
    assert not warehouse.check_file(table, path)
    upgraded = contracts.upgrade(table, files.read_table(path))
    assert upgraded.schema.equals(contracts.arrow_schema(table))
    for row, old in zip(upgraded.to_pylist(), expected(table, version), strict=True):
        assert row == dict.fromkeys(upgraded.column_names) | old
    partition = warehouse.table_path(tmp_path, table, PARTITION)
    partition.parent.mkdir(parents=True)
    shutil.copy(path, partition)
    files.write_json(warehouse.manifest_path(tmp_path, PARTITION), {})
    assert warehouse.read_table(tmp_path, table, partition=PARTITION).to_pylist() == upgraded.to_pylist()


@pytest.mark.parametrize(("table", "version"), RELEASED)
def test_pandas_and_duckdb_read_equal_values(table: str, version: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = GOLDEN / f"{table}-{version}.parquet"
    wanted = files.read_table(path)
    frame = pd.read_parquet(path)
    found = duckdb.sql(f"SELECT * FROM read_parquet('{path}')").to_arrow_table()
    assert list(frame.columns) == found.column_names == wanted.column_names
    for name in wanted.column_names:
        values = wanted[name].to_pylist()
        if name.endswith("_at"):
            values = [value and value.timestamp() for value in values]
            assert [value and value.timestamp() for value in found[name].to_pylist()] == values
            continue
        assert found[name].to_pylist() == values, name
        if not isinstance(values[0], list) and None not in values:
            assert frame[name].tolist() == values, name


def write() -> None:
    """Writes the golden files that are not there yet."""
    for table, version in RELEASED:
        path = GOLDEN / f"{table}-{version}.parquet"
        if not path.exists():
            files.write_table(path, as_table(table, rows_of("golden.txt", 3)[table]))


if __name__ == "__main__":
    write()
