"""How rows get into a partition: all seven tables at once, or none; once, however often it is tried.

The new files are written aside; then a journal says what turns them into the partition; then that is done, the
manifest last; then the journal goes (``commit``: by renames on a disk, by copies on a store). A process that is killed
before the journal stands has changed nothing; one that is killed later has its work finished by whoever comes next
(``recover``), before anything else is done with the partition. So each table's file is whole at any instant, and the
manifest names a set of files that belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file, make_id
from medpipe.lake import contracts, files
from medpipe.lake.commit import commit_of
from medpipe.lake.merge import align_sorted, merge_sorted
from medpipe.lake.warehouse import (
    ORDER,
    iter_rows,
    partitions,
    published_path,
    read_manifest,
    table_path,
)

# Files that are merged at a time; rows that are held of all of them together, and of those with texts.
MERGE_FILES = 64
MERGE_ROWS = 1 << 16
MERGE_DOCUMENTS = 1 << 14
MERGE_BYTES = 1 << 20  # of a row group of what is merged again
DECISIONS = 10  # how often a publish begins anew where another one was faster
COUNTED = {"n_sections": "sections", "n_entities": "entities", "n_relations": "relations", "n_summaries": "summaries"}


@dataclass(frozen=True, slots=True)
class PublishInput:
    """What a run brings to a partition."""

    warehouse: Path
    partition: str  # YYYY-MM-DD
    tables: Mapping[str, Sequence[Path]]  # files of every table, each sorted by the first column of its ORDER
    sources: frozenset[str]  # their earlier rows are replaced; those of other sources stay
    keep: frozenset[str] = frozenset()  # documents of these sources whose rows stay as they are
    failed: frozenset[str] = frozenset()  # new documents that a stage could not take
    facts: Mapping[str, Any] | None = None  # goes into the manifest as it is; "sources" is joined with the earlier
    gate: Callable[[Mapping[str, Path]], Any] | None = None  # sees the staged files; the manifest has what it returns
    base: str | None = None  # ``identify_tables`` of the tables that the rows were made of, where they were


def publish_partition(new: PublishInput) -> dict[str, Any]:
    """Replaces the partition's rows of the run's sources and returns the manifest.

    Raises:
        MedpipeError: PARTITION_BUSY, DISK_FULL, PERMISSION_DENIED, CONTRACT_BROKEN, STORE_REFUSED, STORE_UNREACHABLE,
            PARTITION_CHANGED where the tables are not those of ``base``, and what the gate raises; the tables are then
            as before.
    """
    commit = commit_of(new.warehouse, new.partition)
    with partition_lock(new.warehouse, new.partition):
        for _ in range(DECISIONS):
            commit.settle()
            before = read_manifest(new.warehouse, new.partition)
            if new.base is not None and identify_tables(before) != new.base:
                raise MedpipeError("PARTITION_CHANGED", partition=new.partition)
            with commit.staging() as staging:
                try:
                    staged = _stage(new, staging)
                except (files.DamagedFileError, OSError):
                    if read_manifest(new.warehouse, new.partition) == before:
                        raise
                    continue  # what was read was replaced by one who had lost the lock
                quality = {"quality": new.gate(staged)} if new.gate else {}
                manifest = _make_manifest(new, staged, quality, before)
                if commit.decide(staged, manifest, before):
                    return manifest
    raise MedpipeError("PARTITION_BUSY", partition=new.partition)  # others who lost their lock were faster each time


def identify_tables(manifest: Mapping[str, Any] | None) -> str:
    """Returns an id of what a manifest names: the same for the same files."""
    tables = manifest["tables"] if manifest else {}
    return make_id("tables", *(f"{name} {tables[name]['hash']}" for name in sorted(tables)))


def migrate(root: Path) -> list[str]:
    """Rewrites the partitions that earlier major versions made, one after the other; each is as before, or done.

    Returns:
        The partitions that were rewritten.

    Raises:
        MedpipeError: WAREHOUSE_INVALID, PARTITION_BUSY, DISK_FULL, PERMISSION_DENIED.
    """
    if not partitions(root):
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason="no partition at all")
    done = []
    for partition in partitions(root):
        recover(root, partition)
        places = {table: published_path(root, table, partition) for table in contracts.TABLES}
        if all(path == table_path(root, table, partition) for table, path in places.items()):
            continue
        manifest = read_manifest(root, partition)
        nothing: dict[str, list[Path]] = {table: [] for table in contracts.TABLES}
        facts = manifest["facts"] if manifest else {}
        publish_partition(PublishInput(root, partition, nothing, frozenset(), facts=facts))
        done.append(partition)
    return done


def recover(warehouse: Path, partition: str) -> None:
    """Finishes what a killed publish had begun; does nothing where there is nothing to finish."""
    commit = commit_of(warehouse, partition)
    if commit.is_pending():
        with partition_lock(warehouse, partition):
            commit.settle()


@contextmanager
def partition_lock(warehouse: Path, partition: str) -> Iterator[None]:
    """Lets one process at a time change a partition; the lock of one that is killed is freed (``files.locked``).

    Raises:
        MedpipeError: PARTITION_BUSY after a minute.
    """
    path = warehouse / "_manifests" / f".dt={partition}.lock"
    with files.locked(path, MedpipeError("PARTITION_BUSY", partition=partition)):
        yield


# --- the new files --------------------------------------------------------------------------


def _stage(new: PublishInput, staging: Path) -> dict[str, Path]:
    """Writes the new file of every table aside and returns where."""
    staged = {table: staging / f"{table}.parquet" for table in contracts.TABLES}
    for table in ("sections", "entities", "relations", "summaries", "quarantine", "runs", "documents"):
        rows = _merged(new, table, staging)
        _write(staged[table], table, _counted(rows, staged, new.failed) if table == "documents" else rows)
        for merged in staging.glob(f".{table}-*"):  # of ``_merge_until_few``
            merged.unlink()
    return staged


def _merged(new: PublishInput, table: str, folder: Path) -> Iterator[pa.Table]:
    """Yields the table's rows: the published ones that stay and the new ones, in the table's order."""
    batch_rows = (MERGE_DOCUMENTS if table in ("documents", "summaries") else MERGE_ROWS) // MERGE_FILES
    paths = [path for path in new.tables[table] if files.count_rows(path)]
    streams = [files.iter_file(path, batch_rows) for path in _merge_until_few(paths, table, batch_rows, folder)]
    published = published_path(new.warehouse, table, new.partition)
    if published.exists():
        streams.append(_staying_rows(new, table, batch_rows))
    return merge_sorted(streams, ORDER[table])


def _merge_until_few(paths: list[Path], table: str, batch_rows: int, folder: Path) -> list[Path]:
    """Merges files into larger ones, MERGE_FILES at a time, until so few are left that all are read at once."""
    level = 0
    while len(paths) > MERGE_FILES:
        merged = []
        for first in range(0, len(paths), MERGE_FILES):
            group = paths[first : first + MERGE_FILES]
            path = folder / f".{table}-{level}-{first // MERGE_FILES:05d}.parquet"
            rows = merge_sorted([files.iter_file(one, batch_rows) for one in group], ORDER[table])
            files.write_once_read(path, contracts.arrow_schema(table), gather(rows, MERGE_ROWS, MERGE_BYTES))
            merged.append(path)
            for one in group if level else ():
                one.unlink()
        paths = merged
        level += 1
    return paths


def _staying_rows(new: PublishInput, table: str, batch_rows: int) -> Iterator[pa.Table]:
    """Yields the published rows that this run does not replace.

    Replaced are the rows of documents of the run's sources, but of those that it keeps; of ``quarantine`` those of its
    sources; of ``runs`` those of the same run.
    """
    rows = iter_rows(new.warehouse, table, new.partition, batch_rows)
    sources = pa.array(sorted(new.sources), pa.string())
    if table in ("quarantine", "runs"):
        column = "source" if table == "quarantine" else "run_id"
        replaced = sources if table == "quarantine" else pa.array(sorted(_new_keys(new, table, column)), pa.string())
        for block in rows:
            yield block.filter(pc.invert(pc.is_in(block[column], replaced)))
        return
    kept = pa.array(sorted(new.keep), pa.string())
    owners = iter_rows(new.warehouse, "documents", new.partition, batch_rows, ["document_id", "source"])
    for owner, block in align_sorted([owners, rows], "document_id"):
        if owner is not None and block is not None:
            stays = pc.or_(pc.invert(pc.is_in(owner["source"], sources)), pc.is_in(owner["document_id"], kept))
            yield block.filter(pc.is_in(block["document_id"], owner.filter(stays)["document_id"].combine_chunks()))


def _counted(documents: Iterator[pa.Table], staged: Mapping[str, Path], failed: frozenset[str]) -> Iterator[pa.Table]:
    """Yields documents with the counts of their rows in the staged tables, and the status of those that failed."""
    lost = pa.array(sorted(failed), pa.string())
    rows = [files.iter_file(staged[table], MERGE_ROWS, ["document_id"]) for table in COUNTED.values()]
    for block, *found in align_sorted([documents, *rows], "document_id"):
        if block is not None:
            yield fill_in(block, dict(zip(COUNTED, found, strict=True)), lost)


def _new_keys(new: PublishInput, table: str, column: str) -> set[str]:
    return {key for path in new.tables[table] for key in files.read_table(path)[column].to_pylist()}


def _write(path: Path, table: str, blocks: Iterator[pa.Table]) -> None:
    """Writes a staged file and syncs it.

    Raises:
        MedpipeError: CONTRACT_BROKEN where a key stands twice or the keys are not in order.
    """
    key = contracts.properties(table)[0]["name"]
    schema = contracts.arrow_schema(table)
    with files.open_writer(path, schema) as writer:
        for block in gather(blocks, files.ROW_GROUP_ROWS, files.ROW_GROUP_BYTES):
            if pc.count_distinct(block[key]).as_py() != len(block):
                raise MedpipeError("CONTRACT_BROKEN", table=table, reason=f"{key} is not unique")
            files.write_rows(writer, block.cast(schema))
    files.sync(path)


def gather(blocks: Iterator[pa.Table], rows: int, size: int) -> Iterator[pa.Table]:
    """Joins blocks until they fill a row group of ``rows`` rows or ``size`` bytes."""
    held: list[pa.Table] = []
    held_rows = held_bytes = 0
    for block in blocks:
        held.append(block)
        held_rows, held_bytes = held_rows + len(block), held_bytes + block.nbytes
        if held_rows >= rows or held_bytes >= size:
            yield pa.concat_tables(held)
            held, held_rows, held_bytes = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def fill_in(documents: pa.Table, rows: Mapping[str, pa.Table | None], failed: pa.Array) -> pa.Table:
    """Returns documents with the counts of their rows, and the status ``failed`` where a stage refused them.

    Args:
        documents: rows of ``documents``.
        rows: for each column of COUNTED the rows of these documents that it counts, with ``document_id``.
        failed: ids of documents.
    """
    for column, table in rows.items():
        counts = pa.repeat(pa.scalar(0, pa.int32()), len(documents))
        if table is not None and len(table):
            found = pc.value_counts(table["document_id"].combine_chunks())
            place = pc.index_in(documents["document_id"], found.field("values"))
            counts = pc.fill_null(pa.chunked_array([found.field("counts")]).take(place), 0).cast(pa.int32())
        index = documents.schema.get_field_index(column)
        documents = documents.set_column(index, documents.schema.field(index), counts)
    index = documents.schema.get_field_index("status")
    lost = pc.is_in(documents["document_id"], failed)
    return documents.set_column(index, documents.schema.field(index), pc.if_else(lost, "failed", documents["status"]))


def _make_manifest(
    new: PublishInput, staged: Mapping[str, Path], quality: Mapping[str, Any], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    facts = {**(new.facts or {}), **quality}
    if earlier is not None and earlier["facts"].get("fingerprint") == facts.get("fingerprint"):
        facts["sources"] = earlier["facts"]["sources"] | facts["sources"]
    facts["earlier"] = _earlier_facts(earlier["facts"] if earlier else {}, facts, new.sources)
    if not facts["earlier"]:
        del facts["earlier"]
    tables = {
        table: {
            "path": str(table_path(new.warehouse, table, new.partition).relative_to(new.warehouse)),
            "rows": files.count_rows(path),
            "bytes": path.stat().st_size,
            "hash": hash_file(str(path)),
            "schema_version": contracts.current_version(table),
        }
        for table, path in staged.items()
    }
    return {"partition": new.partition, "tables": tables, "facts": facts}


def _earlier_facts(old: Mapping[str, Any], new: Mapping[str, Any], replaced: frozenset[str]) -> list[dict[str, Any]]:
    """Returns which of the sources that stay were made otherwise than the new manifest says, and how."""
    made = [*old.get("earlier", ())]
    if "fingerprint" in old and old["fingerprint"] != new.get("fingerprint"):
        made.append({"fingerprint": old["fingerprint"], "sources": old.get("sources", {})})
    gone = replaced | frozenset(new.get("sources", {}))
    left = [one | {"sources": {name: key for name, key in one["sources"].items() if name not in gone}} for one in made]
    return [one for one in left if one["sources"]]
