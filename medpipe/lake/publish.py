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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file, make_id
from medpipe.lake import contracts, files
from medpipe.lake.commit import commit_of
from medpipe.lake.merge import merge_sorted
from medpipe.lake.warehouse import (
    ORDER,
    partitions,
    published_path,
    read_manifest,
    read_table,
    table_path,
)

# Rows held at a time over all files that are merged; less where they are many, and for long texts.
MERGE_ROWS = 1 << 16
MERGE_DOCUMENTS = 1 << 12
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
    staying = _staying_documents(new)
    staged = {table: staging / f"{table}.parquet" for table in contracts.TABLES}
    for table in ("sections", "entities", "relations", "summaries"):
        _write(staged[table], table, _merged(new, table, "document_id", staying))
    counts = {column: count_by_document(staged[table]) for column, table in COUNTED.items()}
    documents = (fill_in(block, counts, new.failed) for block in _merged(new, "documents", "document_id", staying))
    _write(staged["documents"], "documents", documents)
    _write(staged["quarantine"], "quarantine", _merged(new, "quarantine", "source", None))
    _write(staged["runs"], "runs", _merged(new, "runs", "run_id", None))
    return staged


def _staying_documents(new: PublishInput) -> pa.Array:
    """Returns the ids of the published documents that this run does not replace."""
    old = read_table(new.warehouse, "documents", partition=new.partition, columns=["document_id", "source"])
    other = pc.invert(pc.is_in(old["source"], pa.array(sorted(new.sources), pa.string())))
    kept = pc.is_in(old["document_id"], pa.array(sorted(new.keep), pa.string()))
    return old["document_id"].filter(pc.or_(other, kept)).combine_chunks()


def _merged(new: PublishInput, table: str, column: str, staying: pa.Array | None) -> Iterator[pa.Table]:
    """Yields the table's rows: the published ones that stay and the new ones, in the table's order."""
    paths = [path for path in new.tables[table] if files.count_rows(path)]
    most = MERGE_DOCUMENTS if table in ("documents", "summaries") else MERGE_ROWS
    batch_rows = max(64, most // (len(paths) + 1))
    streams = [files.iter_file(path, batch_rows) for path in paths]
    published = published_path(new.warehouse, table, new.partition)
    if published.exists():
        streams.append(_old_rows(new, table, published, column, staying, batch_rows))
    return merge_sorted(streams, ORDER[table])


def _old_rows(
    new: PublishInput, table: str, path: Path, column: str, staying: pa.Array | None, batch_rows: int
) -> Iterator[pa.Table]:
    if staying is None:  # rows of no document: those of the run's own sources, or of the same run, are replaced
        ids = new.sources if column == "source" else _new_keys(new, table, column)
        replaced = pa.array(sorted(ids), pa.string())
    for written in files.iter_file(path, batch_rows):
        block = contracts.upgrade(table, written)
        stays = (
            pc.is_in(block[column], staying) if staying is not None else pc.invert(pc.is_in(block[column], replaced))
        )
        yield block.filter(stays)


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
    for block in blocks:
        held.append(block)
        if sum(len(part) for part in held) >= rows or sum(part.nbytes for part in held) >= size:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def count_by_document(path: Path) -> tuple[pa.Array, np.ndarray]:
    """Returns the documents that have rows in a file sorted by ``document_id``, and how many rows each has."""
    ids: list[pa.Array] = []
    counts: list[np.ndarray] = []
    for block in files.iter_file(path, 1 << 18, ["document_id"]):
        found = pc.value_counts(block["document_id"].combine_chunks())
        ids.append(found.field("values"))
        counts.append(found.field("counts").to_numpy(zero_copy_only=False))
    if not ids:
        return pa.array([], pa.string()), np.zeros(0, np.int64)
    # A document may begin in one block and end in the next.
    table = pa.table({"id": pa.chunked_array(ids), "count": np.concatenate(counts)})
    joined = table.group_by("id").aggregate([("count", "sum")])
    return joined["id"].combine_chunks(), joined["count_sum"].to_numpy()


def fill_in(documents: pa.Table, counts: Mapping[str, tuple[pa.Array, np.ndarray]], failed: frozenset[str]) -> pa.Table:
    """Returns documents with the counts of their rows, and the status ``failed`` where a stage refused them."""
    for column, (ids, numbers) in counts.items():
        place = pc.index_in(documents["document_id"], ids)
        found = pa.chunked_array([pa.array(numbers, pa.int32())]).take(place)
        index = documents.schema.get_field_index(column)
        documents = documents.set_column(index, documents.schema.field(index), pc.fill_null(found, 0).cast(pa.int32()))
    index = documents.schema.get_field_index("status")
    lost = pc.is_in(documents["document_id"], pa.array(sorted(failed), pa.string()))
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
