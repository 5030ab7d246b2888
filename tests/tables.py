"""The tables of a partition as comparable rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medpipe.lake import contracts, warehouse

# Columns of runs that differ from run to run of the same input; counts of batches depend on how it was cut.
VOLATILE = {"started_at", "finished_at", "seconds", "peak_memory_mb", "counts", "device"}
VOLATILE |= {"tokens_per_s", "useful_tokens", "gpu_busy", "gpu_fragmentation"}


def tables_of(root: Path, partition: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of a partition without what may differ between equal runs; scores to two decimals."""
    found = {table: warehouse.read_table(root, table, partition=partition).to_pylist() for table in contracts.TABLES}
    found["runs"] = [{name: value for name, value in row.items() if name not in VOLATILE} for row in found["runs"]]
    return {
        table: [{name: rounded(value) for name, value in row.items()} for row in rows] for table, rows in found.items()
    }


def rounded(value: Any) -> Any:
    """Rounds floats, also inside lists and dicts: another cut into batches adds up in another order."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return value
