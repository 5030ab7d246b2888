"""One small Parquet file per released schema version: today's reader, pandas and DuckDB all read it, with equal values.

A golden file is written once, when its version is released (``python -m tests.lake.test_golden``), and never again.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from medpipe.lake import contracts, files
from tests.lake.invented import as_table, rows_of

GOLDEN = Path(__file__).parent.parent / "golden"
RELEASED = [(table, version) for table in contracts.TABLES for version in contracts.versions(table)]


def expected(table: str) -> list[dict]:
    """The rows that the golden files of version 1.0.0 hold."""
    return as_table(table, rows_of("golden.txt", 3)[table]).to_pylist()


@pytest.mark.parametrize(("table", "version"), RELEASED)
def test_golden_file_is_read_as_it_was_written(table: str, version: str) -> None:
    path = GOLDEN / f"{table}-{version}.parquet"
    assert path.is_file(), "a released version without a golden file"
    read = files.read_table(path)
    assert read.to_pylist() == expected(table)
    assert read.schema.equals(contracts.arrow_schema(table, version))
    assert pq.read_schema(path).metadata[contracts.VERSION_KEY].decode() == version
    assert set(read["schema_version"].to_pylist()) == {version}


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
