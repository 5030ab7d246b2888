"""From the work area into the tables: merged, looked at, published, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.lake import contracts, files, quality, warehouse
from medpipe.lake.publish import PublishInput, publish_partition, recover
from medpipe.pipeline.chunks import WRITES, failed_documents, read_done, sum_counts
from medpipe.pipeline.planning import partition_of, read_plan
from medpipe.pipeline.runs import runs_table
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location


def publish(work: str | Path, settings: Settings, *, accept: bool = False) -> dict[str, Any]:
    """Merges the chunks of all shards into the partition's tables, atomically, and clears the work area.

    Args:
        work: the work area.
        settings: those of the run.
        accept: publish a partition that is not like those before, see ``lake.quality``.

    Returns:
        ``rows`` and ``schema_versions`` per table, and ``counts``, the funnel of the run. Published already, and killed
        before it could say so, it returns the same but the counts of new rows.

    Raises:
        MedpipeError: WORK_MISSING where a work file is damaged or gone; PARTITION_CHANGED where the notes came from the
            tables and those were published anew since; PARTITION_BUSY, DISK_FULL, PERMISSION_DENIED, CONTRACT_BROKEN,
            QUALITY_HELD. The tables are then as before; but for PARTITION_CHANGED the work area stays.
    """
    work = as_location(work)
    if not (work / "plan.json").exists() and (published := published_outcome(work, settings)):
        return published  # this very run was published, and killed before it could say so
    try:
        return _publish(work, read_plan(work), settings, accept)
    except MedpipeError as error:
        if error.code == "PARTITION_CHANGED":  # nobody will ever go on with this plan
            files.remove_tree(work)
        raise
    except files.DamagedFileError as damaged:
        if work not in damaged.path.parents:
            raise MedpipeError("WAREHOUSE_INVALID", path=damaged.path, reason="it is damaged") from None
        # ``run_stage`` does the shards again that are not complete: the next run finds them so.
        for shard in work.glob("shard-*"):
            if shard.is_dir() and not _is_readable(shard):
                files.remove_tree(shard)
        reason = f"{damaged} is damaged or not there"
        raise MedpipeError("WORK_MISSING", partition=partition_of(work), reason=reason) from None


def published_outcome(work: Path, settings: Settings) -> dict[str, Any] | None:
    """Returns what ``publish`` returned, if the partition was published last from this work area."""
    manifest = warehouse.read_manifest(settings.warehouse.resolve(), partition_of(work))
    if manifest is None or manifest["facts"].get("work") != work.name:
        return None
    return _outcome(manifest, {})


def _is_readable(shard: Path) -> bool:
    """Says whether all of a shard's files can be read."""
    try:
        for path in shard.rglob("*.parquet"):
            files.read_table(path)
        for path in shard.rglob("*.json"):
            files.read_json(path)
        return (shard / "ingest.json").exists()
    except (files.DamagedFileError, OSError):
        return False


def _publish(work: Path, night: Mapping[str, Any], settings: Settings, accept: bool) -> dict[str, Any]:
    if "base" in night:
        recover(as_location(night["warehouse"]), night["partition"])
        if published := published_outcome(work, settings):  # it was this run that changed the tables
            files.remove_tree(work)
            return published
    chunks = sorted(work.glob("shard-*/chunk-*"))
    funnel = sum_counts(
        files.read_json(work / f"shard-{index:05d}" / "ingest.json")["counts"] for index in range(len(night["shards"]))
    )
    tables = {
        name: [chunk / f"{name}.parquet" for chunk in chunks] for name in ("documents", "sections", *WRITES.values())
    }
    tables["quarantine"] = [chunk / f"quarantine.{stage}.parquet" for chunk in chunks for stage in STAGES]
    new_rows = {WRITES[stage]: sum(read_done(chunk, stage)["rows"] for chunk in chunks) for stage in WRITES}
    new_rows["quarantined"] = sum(files.count_rows(path) for path in tables["quarantine"])
    if "attempted" in night:
        _count_attempts(night, tables["quarantine"])
    runs = work / "runs.parquet"
    files.write_table(runs, runs_table(night, chunks, settings))
    tables["runs"] = [runs]
    shard_sources = [name for shard in night["shards"] for name in shard]
    digests = {source["name"]: source["digest"] for source in night["sources"]}
    root, partition = as_location(night["warehouse"]), night["partition"]
    manifest = publish_partition(
        PublishInput(
            warehouse=root,
            partition=partition,
            tables=tables,
            sources=frozenset(shard_sources),
            keep=frozenset(key for path in sorted(work.glob("shard-*/keep.json")) for key in files.read_json(path)),
            failed=frozenset(key for chunk in chunks for key in failed_documents(chunk, STAGES).to_pylist()),
            facts={"fingerprint": night["fingerprint"], "sources": digests, "funnel": funnel, "work": work.name},
            gate=lambda staged: quality.gate(
                staged, root, partition, settings, report=work / "quality.json", accept=accept
            ),
            base=night.get("base"),
        )
    )
    files.remove_tree(work)
    return _outcome(manifest, new_rows)


def _count_attempts(night: Mapping[str, Any], paths: Iterable[Path]) -> None:
    """Writes into rejects that the published tables hold already how often they were tried; once, whenever called."""
    columns = ["record_id", "stage", "attempt"]
    root = as_location(night["warehouse"])
    published = warehouse.read_table(root, "quarantine", partition=night["partition"], columns=columns)
    tried = pc.is_in(published["stage"], pa.array(night["attempted"], pa.string())).cast(pa.int32())
    attempts = pc.add(published["attempt"], tried)
    for path in paths:
        if not files.count_rows(path):
            continue
        rows = files.read_table(path)
        place = pc.index_in(rows["record_id"], published["record_id"].combine_chunks())
        index = rows.schema.get_field_index("attempt")
        counted = pc.fill_null(attempts.take(place), 1).cast(pa.int32())
        files.write_table(path, rows.set_column(index, rows.schema.field(index), counted))


def _outcome(manifest: Mapping[str, Any], new_rows: Mapping[str, int]) -> dict[str, Any]:
    facts = manifest["facts"]
    return {
        "partition": manifest["partition"],
        "rows": {name: manifest["tables"][name]["rows"] for name in contracts.TABLES},
        "schema_versions": facts["fingerprint"]["schemas"],
        "counts": facts["funnel"] | new_rows,
    }
