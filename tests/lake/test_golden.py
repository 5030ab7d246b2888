"""One small Parquet file per released schema version: pyarrow, pandas, DuckDB, polars and Spark read equal values.

A golden file is written once, when its version is released (``python -m tests.lake.test_golden``), and never again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow.parquet as pq
import pytest

from medpipe.lake import checks, contracts, files, warehouse
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
    path = GOLDEN / f"{table}-{version}.parquet"
    assert not checks.check_file(table, path)
    upgraded = contracts.upgrade(table, files.read_table(path))
    assert upgraded.schema.equals(contracts.arrow_schema(table))
    number = contracts.version_numbers(version)[0]
    if number == contracts.major(table):
        for row, old in zip(upgraded.to_pylist(), expected(table, version), strict=True):
            assert row == dict.fromkeys(upgraded.column_names) | old
    else:  # migrated to what a row of today says
        assert upgraded.to_pylist() == as_table(table, rows_of("golden.txt", 3)[table]).to_pylist()
    partition = tmp_path / table / f"v{number}" / f"dt={PARTITION}" / warehouse.PART
    partition.parent.mkdir(parents=True)
    shutil.copy(path, partition)
    told = {table: {"path": str(partition.relative_to(tmp_path))}}
    files.write_json(warehouse.manifest_path(tmp_path, PARTITION), {"tables": told})
    assert warehouse.read_table(tmp_path, table, partition=PARTITION).to_pylist() == upgraded.to_pylist()


@pytest.mark.parametrize(("table", "version"), RELEASED)
def test_other_readers_read_equal_values(table: str, version: str) -> None:
    path = GOLDEN / f"{table}-{version}.parquet"
    wanted = files.read_table(path)
    rows = plain(wanted.to_pylist())
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM read_parquet('{path}')").to_arrow_table()
    assert found.column_names == wanted.column_names
    assert plain(found.to_pylist()) == rows
    assert plain(polars.read_parquet(path).to_dicts()) == rows
    frame = pd.read_parquet(path)
    assert list(frame.columns) == wanted.column_names
    assert plain(frame.to_dict("records")) == rows


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    local = str(tmp_path_factory.mktemp("spark"))
    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.local.dir", local)
        .config("spark.sql.warehouse.dir", local)
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.mark.tools
@pytest.mark.parametrize(("table", "version"), RELEASED)
def test_spark_reads_equal_values(table: str, version: str, spark: Any) -> None:
    path = GOLDEN / f"{table}-{version}.parquet"
    found = [row.asDict(recursive=True) for row in spark.read.parquet(str(path)).collect()]
    assert plain(found) == plain(files.read_table(path).to_pylist())


def plain(value: Any) -> Any:
    """A value as Python has it, whoever read it: times as seconds since 1970, arrays as lists, what is missing as None."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, datetime):  # Spark gives local time without a zone
        return value.timestamp()
    return value


def write() -> None:
    """Writes the golden files that are not there yet."""
    for table, version in RELEASED:
        path = GOLDEN / f"{table}-{version}.parquet"
        if not path.exists():
            files.write_table(path, as_table(table, rows_of("golden.txt", 3)[table]))


if __name__ == "__main__":
    write()
