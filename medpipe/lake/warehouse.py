"""The read side of a warehouse: partitions, manifests, tables, and whether they keep their contracts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from medpipe.errors import MedpipeError
from medpipe.lake import contracts, files
from medpipe.lake.checks import check_tables
from medpipe.storage import as_store, store_faults

PART = "part-0.parquet"
# The order of rows within a partition; the first column is what files are merged by.
ORDER = {
    "documents": ("document_id",),
    "sections": ("document_id", "start", "end", "section_id"),
    "entities": ("document_id", "start", "end", "entity_id"),
    "relations": ("document_id", "relation_id"),
    "summaries": ("document_id", "summary_id"),
    "quarantine": ("record_id",),
    "runs": ("run_id",),
}


def table_path(root: Path, table: str, partition: str) -> Path:
    """Returns where a partition of a table lies."""
    return root / table / f"v{contracts.major(table)}" / f"dt={partition}" / PART


def published_path(root: Path, table: str, partition: str) -> Path:
    """Returns where the published file of a partition lies: by its manifest, perhaps in an earlier major version."""
    manifest = read_manifest(root, partition)
    told = manifest["tables"].get(table) if manifest and "tables" in manifest else None
    return root / told["path"] if told else table_path(root, table, partition)


def manifest_path(root: Path, partition: str) -> Path:
    """Returns where the manifest of a partition lies: it is written last, so what it names is whole."""
    return root / "_manifests" / f"dt={partition}.json"


def journal_path(root: Path, partition: str, number: int | None = None) -> Path:
    """Returns where the journal of a publish lies: while it stands, files of the partition are being replaced.

    On a store, journals have the number of the manifest that they lead to (``generation``).
    """
    return root / "_manifests" / f".dt={partition}.{'' if number is None else f'{number:09d}.'}publishing"


def generation(manifest: Mapping[str, Any] | None) -> int:
    """Returns how many times a partition was published; 0 also on a disk, where nobody counts."""
    return int(manifest.get("generation", 0)) if manifest else 0


def partitions(root: Path) -> list[str]:
    """Returns the published partitions, oldest first."""
    return sorted(path.stem.removeprefix("dt=") for path in (root / "_manifests").glob("dt=????-??-??.json"))


def read_manifest(root: Path, partition: str) -> dict[str, Any] | None:
    """Returns the manifest of a partition; ``None`` where it was never published."""
    path = manifest_path(root, partition)
    with files.damage_found(path):
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def read_settled_manifest(root: Path, partition: str) -> dict[str, Any] | None:
    """Returns the manifest of a partition whose files are not being replaced; else, or if there is none, ``None``.

    What is read between two calls that return the same manifest is what it names, also while others publish.
    """
    return _look(root, partition)[1]


def _look(root: Path, partition: str) -> tuple[bool, dict[str, Any] | None]:
    """Returns whether a partition's files are as they will stay until the next publish, and then its manifest.

    The journal is looked at first: a publish that ends after that changes the manifest.
    """
    if as_store(root) is None:
        if journal_path(root, partition).exists():
            return False, None
        return True, read_manifest(root, partition)
    before = read_manifest(root, partition)
    if journal_path(root, partition, generation(before) + 1).exists():
        return False, None
    manifest = read_manifest(root, partition)
    return (True, manifest) if manifest == before else (False, None)


def read_table(
    root: Path,
    table: str,
    *,
    partition: str | None = None,
    columns: Sequence[str] | None = None,
    filters: pc.Expression | None = None,
) -> pa.Table:
    """Reads a table of a warehouse, or one partition of it; a table without partitions has no rows.

    Args:
        root: the warehouse.
        table: one of ``contracts.TABLES``.
        partition: ``YYYY-MM-DD``; all if not given, with a column ``dt`` that says which.
        columns: all if not given.
        filters: rows to keep; row groups that cannot hold any are not read.
    """
    schema = contracts.arrow_schema(table)
    wanted = [partition] if partition is not None else partitions(root)
    paths = {one: path for one in wanted if (path := published_path(root, table, one)).is_file()}
    names = list(columns) if columns is not None else schema.names + (["dt"] if partition is None else [])
    # Files of earlier major versions are migrated before they are filtered; they are the older ones.
    earlier = {one: path for one, path in paths.items() if path != table_path(root, table, one)}
    found = []
    for one, path in earlier.items():
        rows = contracts.upgrade(table, files.read_table(path))
        rows = rows.append_column("dt", pa.repeat(pa.scalar(one, pa.string()), len(rows)))
        found.append((rows if filters is None else rows.filter(filters)).select(names))
    hive = ds.partitioning(pa.schema([("dt", pa.string())]), flavor="hive")
    current = [path for one, path in paths.items() if one not in earlier]
    store = as_store(root)
    with store_faults(root):
        data = ds.dataset(
            current if store is None else [path.key for path in map(as_store, current) if path is not None],
            schema=schema.append(pa.field("dt", pa.string())),
            partitioning=hive,
            format="parquet",
            filesystem=store.fs if store is not None else None,
        )
        return pa.concat_tables([*found, data.to_table(columns=names, filter=filters)])


def read_partition(root: Path, partition: str, tables: Sequence[str] = contracts.TABLES) -> dict[str, pa.Table]:
    """Reads tables of one partition that belong together, also while others publish it.

    Raises:
        MedpipeError: PARTITION_BUSY where it is replaced again and again for a minute.
    """
    deadline = time.monotonic() + files.LOCK_SECONDS
    while True:
        look = _look(root, partition)
        if look[0]:
            try:
                found = {table: read_table(root, table, partition=partition) for table in tables}
            except (OSError, pa.ArrowException, files.DamagedFileError):
                if _look(root, partition) == look:  # else it was replaced while it was read
                    raise
            else:
                if _look(root, partition) == look:
                    return found
        if time.monotonic() > deadline:
            raise MedpipeError("PARTITION_BUSY", partition=partition)
        time.sleep(0.02)


def iter_rows(
    root: Path, table: str, partition: str, batch_rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yields the published rows of a partition, as the current version has them, at most ``batch_rows`` at a time."""
    path = published_path(root, table, partition)
    current = files.read_schema(path).equals(contracts.arrow_schema(table))
    for block in files.iter_file(path, batch_rows, columns if current else None):
        rows = block if current else contracts.upgrade(table, block)
        yield rows if columns is None else rows.select(list(columns))


# --- health ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that breaks a contract."""

    partition: str
    table: str
    problem: str

    def __str__(self) -> str:
        return f"dt={self.partition} {self.table}: {self.problem}"


def check(root: Path) -> list[Finding]:
    """Checks every partition: schema, nulls, ranges and values, keys, references, offsets, and the manifest's figures.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where there is no warehouse.
    """
    if not root.is_dir():
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason="no such folder")
    return [finding for partition in partitions(root) for finding in check_partition(root, partition)]


def check_partition(root: Path, partition: str) -> list[Finding]:
    """Checks one partition; see ``check``."""
    manifest = read_manifest(root, partition)
    assert manifest is not None
    found = []
    for table in contracts.TABLES:
        path = published_path(root, table, partition)
        if not path.is_file():
            found.append(Finding(partition, table, "its file is missing"))
            continue
        told = manifest["tables"][table]
        if (files.count_rows(path), path.stat().st_size, files.hash_bytes_of(path)) != (
            told["rows"],
            told["bytes"],
            told["hash"],
        ):
            found.append(Finding(partition, table, "its file is not the one that the manifest names"))
    if found:
        return found
    paths = {table: published_path(root, table, partition) for table in contracts.TABLES}
    return [Finding(partition, table, problem) for table, problem in check_tables(paths)]
