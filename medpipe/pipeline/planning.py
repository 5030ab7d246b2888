"""What a run has to do: its sources, what of them was done before, shards, and where the work lies."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

import medpipe
from medpipe.errors import MedpipeError
from medpipe.ids import make_id
from medpipe.ingest.sources import Source, find_sources
from medpipe.ingest.tables.mapping import ColumnMapping, load_mapping
from medpipe.lake import contracts, files, warehouse
from medpipe.lake.publish import recover
from medpipe.records import ModelId
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location
from medpipe.summarize.profiles import identify_summarizer
from medpipe.tag.codes import identify_codes
from medpipe.tag.profiles import identify_tagger
from medpipe.tag.terminology import as_paths
from medpipe.weights import find_model, identify


def plan_night(settings: Settings, partition: str) -> dict[str, Any]:
    """Plans the sources of the landing folder for a partition; see ``plan``."""
    return plan(settings, partition, [settings.landing.replace("{date}", partition)], shards=settings.shards)


def plan(
    settings: Settings, partition: str, inputs: Sequence[str], *, shards: int = 1, only: Collection[str] | None = None
) -> dict[str, Any]:
    """Lists the sources, leaves out what the partition holds already, and cuts the rest into shards.

    A source whose bytes the partition holds already, made by the same code, models and schemas, is not read again,
    unless another source is new or changed and may hold what this one refers to, or refer to what this one holds.
    A run that was killed finds its plan again and goes on with it. ``only`` names the sources to read, of those that
    are new or changed: the records of theirs that were quarantined are tried again (``medpipe.maintain``).

    Returns:
        ``partition``, ``work`` (path of the work area), ``sources``, ``unchanged`` (counts) and ``shards``, a list of
        ``{"index", "sources", "bytes"}``; no shards where there is nothing to do. Paths and counts only.

    Raises:
        MedpipeError: INPUT_NOT_FOUND, INPUT_EMPTY, INPUT_UNREADABLE; WAREHOUSE_INVALID, DISK_FULL, PERMISSION_DENIED.
    """
    root = settings.warehouse.resolve()
    if root.exists() and not root.is_dir():
        raise MedpipeError("WAREHOUSE_INVALID", path=settings.warehouse, reason="it is a file")
    recover(root, partition)
    sources: list[dict[str, Any]] = [
        {"name": source.name, "path": str(source.path.resolve()), "bytes": size, "digest": digest}
        for source in find_sources(inputs)
        for size, digest in [_measure(source)]
    ]
    fingerprint = make_fingerprint(settings)
    done = _sources_done(root, partition, fingerprint)
    changed = [source for source in sources if done.get(source["name"]) != source["digest"]]
    if changed and done:
        open_ends = _sources_with_open_ends(root, partition)
        changed = [source for source in sources if source in changed or source["name"] in open_ends]
    if only is not None:
        changed = [source for source in changed if source["name"] in only]
    work = work_area(
        root, partition, fingerprint, *source_keys(sources), *(f"only {name}" for name in sorted(only or ()))
    )
    summary = {
        "partition": partition,
        "work": str(work),
        "sources": len(sources),
        "unchanged": len(sources) - len(changed),
    }
    if not changed:
        # Left by a kill between the manifest and the clean-up.
        files.remove_tree(work)
        work.with_suffix(".lock").unlink(missing_ok=True)
        return summary | {"shards": []}
    if (earlier := _read_earlier_plan(work)) is not None:
        night = earlier | {"sources": sources}  # the same bytes, perhaps at another path
    else:
        total = sum(source["bytes"] for source in changed)
        count = max(1, min(shards, len(changed), -(-total // settings.shard_bytes)))
        night = {
            "partition": partition,
            "warehouse": str(root),
            "fingerprint": fingerprint,
            # Notes of a changed source that were done before are kept as they are.
            "reuse": sorted(source["name"] for source in changed if source["name"] in done),
            "sources": sources,
            "shards": [[source["name"] for source in shard] for shard in cut_shards(changed, count)],
        }
        if only is not None:
            night["attempted"] = list(STAGES)
    files.write_json(work / "plan.json", night)
    return summary | {"shards": describe_shards(night)}


def work_area(root: Path, partition: str, fingerprint: Mapping[str, Any], *inputs: str) -> Path:
    """Returns the work area of a run: the same for the same inputs, code, models and settings."""
    digest = make_id("work", partition, json.dumps(fingerprint, sort_keys=True), *inputs)
    return root / "_work" / f"dt={partition}" / digest


def source_keys(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns what tells sources apart: their names and contents."""
    return sorted(f"{source['name']}\0{source['digest']}" for source in sources)


def describe_shards(night: Mapping[str, Any]) -> list[dict[str, int]]:
    """Returns what is told of each shard of a plan: ``index``, ``sources``, ``bytes``."""
    sizes = {source["name"]: source["bytes"] for source in night["sources"]}
    return [
        {"index": index, "sources": len(names), "bytes": sum(sizes[name] for name in names)}
        for index, names in enumerate(night["shards"])
    ]


def cut_shards(sources: Sequence[dict[str, Any]], count: int) -> list[list[dict[str, Any]]]:
    """Cuts sources into ``count`` shards of about equal size: the largest first, each into the emptiest shard."""
    shards: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    filled = [0] * count
    for source in sorted(sources, key=lambda source: (-source["bytes"], source["name"])):
        emptiest = min(range(count), key=lambda index: (filled[index], len(shards[index])))
        shards[emptiest].append(source)
        filled[emptiest] += source["bytes"]
    return [sorted(shard, key=lambda source: str(source["name"])) for shard in shards]


def make_fingerprint(settings: Settings) -> dict[str, Any]:
    """Returns all that decides the rows of a note besides the note: code, models, schemas, settings."""
    models = {stage: str(model) for stage, model in stage_models(settings).items()}
    schemas = {table: contracts.current_version(table) for table in contracts.TABLES}
    knobs: dict[str, Any] = {
        "format": settings.format,
        "max_note_chars": settings.max_note_chars,
        "max_file_bytes": settings.max_file_bytes,
        "languages": list(settings.languages),
        "min_relation_score": settings.min_relation_score,
        "codes": identify_codes(as_paths(settings.terminology)),
    }
    mapping = table_mapping(settings)
    if mapping is not None:
        knobs["mapping"] = mapping.describe()  # what the file says, not where it lies
    return {"code": medpipe.__version__, "models": models, "schemas": schemas, "settings": knobs}


def table_mapping(settings: Settings) -> ColumnMapping | None:
    """Returns what the settings say of tables' columns.

    Raises:
        MedpipeError: SETTING_INVALID where the mapping file cannot be read or is wrong.
    """
    return load_mapping(
        settings.mapping,
        text=settings.text_column,
        id=settings.id_column,
        patient=settings.patient_column,
        encounter=settings.encounter_column,
        date=settings.date_column,
        type=settings.type_column,
    )


def stage_models(settings: Settings) -> dict[str, ModelId]:
    """Returns the identity of each stage's model, without loading it."""
    return {
        "tag": identify_tagger(settings.tagger, settings.profile),
        "relate": identify(find_model(settings.relations)),
        "summarize": identify_summarizer(settings.summarizer, settings.profile),
    }


def _read_earlier_plan(work: Path) -> dict[str, Any] | None:
    """Returns the plan of a run that was killed; none where it cannot be read: then nothing of that run is kept."""
    try:
        return read_plan(work)
    except MedpipeError:
        files.remove_tree(work)
        return None


def _measure(source: Source) -> tuple[int, str]:
    try:
        return source.path.stat().st_size, files.digest_of(source.path)
    except OSError as error:
        raise MedpipeError("INPUT_UNREADABLE", path=source.path, reason=error.strerror) from error


def _sources_done(root: Path, partition: str, fingerprint: dict[str, Any]) -> dict[str, str]:
    """Returns the digests of the sources that the partition holds, if it was made as it would be made now."""
    manifest = warehouse.read_manifest(root, partition)
    if manifest is None or manifest["facts"]["fingerprint"] != fingerprint:
        return {}
    # No digest: made of the text in the tables, not read as it would be read now (``medpipe.maintain``).
    return {name: digest for name, digest in manifest["facts"]["sources"].items() if digest}


def _sources_with_open_ends(root: Path, partition: str) -> set[str]:
    """Returns the sources whose rows another source may change.

    It may bring an attachment that was missing, or the document that a Binary, taken for a note of its own, belongs to.
    """
    missing = warehouse.read_table(
        root,
        "quarantine",
        partition=partition,
        columns=["source"],
        filters=pc.field("code") == "ATTACHMENT_UNRESOLVED",
    )
    alone = warehouse.read_table(
        root,
        "documents",
        partition=partition,
        columns=["source"],
        filters=pc.match_substring_regex(pc.field("record"), r"(^|!)Binary/")
        & pc.field("format").isin(["fhir", "ndjson"]),
    )
    return {name for table in (missing, alone) for name in pc.unique(table["source"]).to_pylist()}


def read_plan(work: str | Path) -> dict[str, Any]:
    """Returns the plan of a work area.

    Raises:
        MedpipeError: WORK_MISSING where there is none, or none that can be read.
    """
    place = as_location(work)
    try:
        return dict(files.read_json(place / "plan.json"))
    except files.DamagedFileError as error:
        raise MedpipeError("WORK_MISSING", partition=partition_of(place), reason="it has no plan") from error


def partition_of(work: Path) -> str:
    """Returns the partition that a work area is of."""
    return work.parent.name.removeprefix("dt=")


def make_run_id(stage: str, night: Mapping[str, Any]) -> str:
    """Returns the id of a stage's run over a partition: the same for the same input, code and models."""
    inputs = source_keys(night["sources"])
    if "base" in night:  # from the tables, as they were: other rows than those that reading these sources gave
        inputs.append(night["base"])
    return make_id("run", stage, night["partition"], json.dumps(night["fingerprint"], sort_keys=True), *inputs)


def find_work(settings: Settings, partition: str) -> str:
    """Returns the work area of the one unfinished run of a partition.

    Raises:
        MedpipeError: INPUT_EMPTY where there is none, SETTING_INVALID where there are several.
    """
    folder = settings.warehouse.resolve() / "_work" / f"dt={partition}"
    areas = sorted(path.parent for path in folder.glob("*/plan.json"))
    if not areas:
        raise MedpipeError("INPUT_EMPTY", path=f"the work area of {partition}; `medpipe ingest` comes first")
    if len(areas) > 1:
        raise MedpipeError(
            "SETTING_INVALID", name="--date", reason=f"{len(areas)} unfinished runs; remove the older under _work"
        )
    return str(areas[0])
