"""The four stages in their order, and the one function that runs a stage over a shard.

A run of a partition is: ``plan`` (list the sources, leave out what was done before, cut the rest into
shards), ``run_stage`` for every stage and shard, ``publish``. The command line walks these functions over
one shard in one process, the DAG over many shards on many workers; the rows are the same.

The work area of a run lies outside the tables, at a place that depends on nothing but its input, so that a
run that was killed finds it again::

    WAREHOUSE/_work/dt=2026-01-31/<digest>/plan.json
                                           shard-00000/ingest.json
                                                       chunk-00000/documents.parquet, sections.parquet, …
                                                                   tag.json

A chunk is a few hundred whole documents, sorted by document id: what a stage holds in memory at a time. Files
are written aside and renamed; a stage's ``<stage>.json`` comes last and says that the chunk is done.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import medpipe
from medpipe.device import peak_memory_mb, release_memory, resolve_device
from medpipe.errors import MedpipeError, reject_message, split_message
from medpipe.gpu import Meter, claimed_device, find_token_budget
from medpipe.ids import make_id
from medpipe.ingest.sources import Source, fetched, find_sources
from medpipe.ingest.tables.mapping import ColumnMapping, load_mapping
from medpipe.lake import contracts, files, quality, warehouse
from medpipe.lake.publish import PublishInput, publish_partition, recover
from medpipe.lake.reread import reread_chunks
from medpipe.lake.reuse import FinishedNotes
from medpipe.lake.warehouse import ORDER
from medpipe.records import ModelId, Reject, StageOutput
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location
from medpipe.summarize.profiles import identify_summarizer
from medpipe.tag.codes import Coder, identify_codes
from medpipe.tag.profiles import identify_tagger
from medpipe.tag.terminology import as_paths, find_icd10cm
from medpipe.weights import find_model, identify

# What a stage reads of a chunk, and the table that it writes.
READS = {
    "tag": ("documents", "sections"),
    "relate": ("documents", "sections", "entities"),
    "summarize": ("documents", "sections", "entities", "relations"),
}
WRITES = {"tag": "entities", "relate": "relations", "summarize": "summaries"}

# Chunks in which finished notes are looked for together: one pass over the published rows serves them all.
GROUP_CHUNKS = 16
GROUP_BYTES = 32 << 20

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # stage, documents done, documents in all (0: not known yet)


class Stage(Protocol):
    """What tag, relate and summarize have in common: Arrow in, Arrow out, nothing kept between calls."""

    name: str
    model: ModelId
    device: Any

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Processes a chunk of whole documents."""
        ...


# --- plan -----------------------------------------------------------------------------------


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
        raise MedpipeError("WORK_MISSING", partition=_partition_of(place), reason="it has no plan") from error


def _partition_of(work: Path) -> str:
    return work.parent.name.removeprefix("dt=")


# --- stages ---------------------------------------------------------------------------------


def run_stage(
    stage: str, work: str | Path, shard: int, settings: Settings, progress: Progress | None = None
) -> dict[str, float]:
    """Runs a stage over a shard and returns its counts; what was done before a kill is not done again.

    Raises:
        MedpipeError: MODEL_CHANGED where the settings name another model than the plan was made with, and what the
            stage raises about its device, its model or the disk. A bad document raises nothing: it goes to quarantine.
    """
    work = as_location(work)
    if not (work / "plan.json").exists() and _published_outcome(work, settings):
        return {}  # another run of the same notes was faster
    night = read_plan(work)
    folder = work / f"shard-{shard:05d}"
    with files.locked(work / f"{folder.name}.lock", MedpipeError("WORK_BUSY", partition=night["partition"])):
        try:
            return _run_stage(stage, night, folder, shard, settings, progress)
        except files.DamagedFileError as damaged:
            log.warning("%s of shard %d is damaged or gone: the shard is done again", damaged, shard)
        files.remove_tree(folder)
        for earlier in STAGES[: STAGES.index(stage)]:
            _run_stage(earlier, night, folder, shard, settings, progress)
        return _run_stage(stage, night, folder, shard, settings, progress)


def _run_stage(
    stage: str, night: Mapping[str, Any], folder: Path, shard: int, settings: Settings, progress: Progress | None
) -> dict[str, float]:
    run_id = make_run_id(stage, night)
    if stage == "ingest":
        return _ingest_shard(folder, night, shard, settings, run_id, progress)
    files.read_json(folder / "ingest.json")  # the chunks are all there
    chunks = sorted(folder.glob("chunk-*"))
    sizes = {chunk: read_done(chunk, "ingest")["documents"] for chunk in chunks}
    waiting = [chunk for chunk in chunks if not (chunk / f"{stage}.json").exists()]
    with ExitStack() as held:
        worker, meter = None, Meter("none")
        if any(sizes[chunk] for chunk in waiting):
            device = held.enter_context(claimed_device(settings.device, settings.device_wait_seconds))
            worker = load_stage(stage, settings.model_copy(update={"device": device}))
            meter = held.enter_context(Meter(device))
            _check_model(worker, stage, night, settings)
        for number, chunk in enumerate(chunks, 1):
            if chunk in waiting:
                _run_chunk(worker, chunk, stage, run_id, meter)
            if progress:
                progress(stage, sum(sizes[one] for one in chunks[:number]), sum(sizes.values()))
        del worker
        release_memory()
    return _sum_counts(read_done(chunk, stage)["counts"] for chunk in chunks)


def _check_model(worker: Stage, stage: str, night: Mapping[str, Any], settings: Settings) -> None:
    """Raises MODEL_CHANGED where a stage is not what the night was planned with."""
    if str(worker.model) != night["fingerprint"]["models"][stage]:
        raise MedpipeError("MODEL_CHANGED", stage=stage)
    codes = night["fingerprint"]["settings"]["codes"]
    if stage == "tag" and identify_codes(as_paths(settings.terminology)) != codes:
        raise MedpipeError("MODEL_CHANGED", stage="tag (its terminology)")


def read_done(chunk: Path, stage: str) -> dict[str, Any]:
    """Returns what a stage noted when it had done a chunk."""
    return dict(files.read_json(chunk / f"{stage}.json"))


def load_stage(stage: str, settings: Settings) -> Stage:
    """Loads a stage with the model and device of the settings. Imports torch only here."""
    device = settings.device
    budget = find_token_budget(stage, resolve_device(device), settings.token_budget)
    if stage == "tag":
        from medpipe.tag.stage import Tagger

        coder = Coder.load(as_paths(settings.terminology), icd10cm=find_icd10cm())
        return Tagger.load(settings.tagger, device=device, profile=settings.profile, token_budget=budget, coder=coder)
    if stage == "relate":
        from medpipe.relate.stage import Relater

        return Relater.load(
            settings.relations, device=device, token_budget=budget, min_score=settings.min_relation_score
        )
    if stage == "summarize":
        from medpipe.summarize.stage import Summarizer
        from medpipe.tag.assertion import Assertion

        # The assertion of the tagger reads the summaries too: what they negate is compared with the entities.
        return Summarizer.load(
            settings.summarizer,
            device=device,
            profile=settings.profile,
            token_budget=budget,
            engine=Assertion.load(),
        )
    raise ValueError(f"no stage {stage}")


def make_run_id(stage: str, night: Mapping[str, Any]) -> str:
    """Returns the id of a stage's run over a partition: the same for the same input, code and models."""
    inputs = source_keys(night["sources"])
    if "base" in night:  # from the tables, as they were: other rows than those that reading these sources gave
        inputs.append(night["base"])
    return make_id("run", stage, night["partition"], json.dumps(night["fingerprint"], sort_keys=True), *inputs)


def _ingest_shard(
    folder: Path, night: Mapping[str, Any], shard: int, settings: Settings, run_id: str, progress: Progress | None
) -> dict[str, float]:
    done = folder / "ingest.json"
    if done.exists():
        return dict(files.read_json(done)["counts"])
    files.remove_tree(folder)  # half an ingest: reading again is cheaper than finding the place
    known = _published_ids(night) if night["reuse"] else None
    totals: Counter[str] = Counter()
    kept: list[str] = []
    outputs = _read_shard(night, shard, settings, run_id)
    finished = FinishedNotes(
        as_location(night["warehouse"]),
        night["fingerprint"],
        stage_models(settings),
        {one: make_run_id(one, night) for one in STAGES},
        partitions=settings.reuse_partitions,
    )
    index = 0
    clock = Clock()
    rest: list[StageOutput] = []  # of chunks of which most was done before: joined, they fill a chunk

    def write_rest() -> None:
        nonlocal index, rest
        if rest:
            one = _join_outputs(rest)
            chunk = folder / f"chunk-{index:05d}"
            write_output(chunk, "ingest", one.rows, one.rejects, one.counts, clock.lap(), run_id, "cpu")
            index, rest = index + 1, []

    for group in _group_outputs(outputs, documents=GROUP_CHUNKS * settings.chunk_documents if finished.places else 1):
        for output in group:
            totals.update(output.counts)
            if known is not None:
                kept += _take_out(output, known).to_pylist()
        reused = list(finished.take(*_join(group))) if finished.places else []
        for one in reused:
            totals["reused"] += len(one.rows["documents"])
            for output in group:
                _take_out(output, one.rows["documents"]["document_id"].combine_chunks())
            for rows in _cut_rows(one.rows, settings):
                _write_reused(folder / f"chunk-{index:05d}", one.stages, rows, clock, night)
                index += 1
        for output in group:
            if len(output.rows["documents"]) or output.rejects:
                if not _fit_together([*rest, output], settings):
                    write_rest()
                rest.append(output)
        if progress:
            progress("ingest", int(totals["documents"]), 0)
    write_rest()
    if "base" not in night:
        _check_unchanged(night, shard)
    totals["unchanged"] = len(kept)
    files.write_json(folder / "keep.json", kept)
    files.write_json(done, {"counts": totals})
    return dict(totals)


def _read_shard(night: Mapping[str, Any], shard: int, settings: Settings, run_id: str) -> Iterator[StageOutput]:
    """Yields the notes of a shard in chunks: from its sources, or from the tables where the plan says so.

    Sources in a store lie on local scratch meanwhile.
    """
    from medpipe.ingest.inputs import Inputs
    from medpipe.ingest.stage import read_chunks

    common: dict[str, Any] = {
        "languages": settings.languages,
        "chunk_documents": settings.chunk_documents,
        "chunk_chars": settings.chunk_chars,
        "run_id": run_id,
    }
    if "base" in night:
        yield from reread_chunks(as_location(night["warehouse"]), night["partition"], night["shards"][shard], **common)
        return
    by_name = {source["name"]: Source(as_location(source["path"]), source["name"]) for source in night["sources"]}
    with fetched([by_name[name] for name in night["shards"][shard]]) as sources:
        by_name |= {source.name: source for source in sources}
        yield from read_chunks(
            sources,
            format=settings.format,
            max_note_chars=settings.max_note_chars,
            max_file_bytes=settings.max_file_bytes,
            inputs=Inputs(list(by_name.values())),
            mapping=table_mapping(settings),
            **common,
        )


def _check_unchanged(night: Mapping[str, Any], shard: int) -> None:
    """Raises SOURCE_CHANGED where a source is not, after it was read, what it was when the night was planned."""
    planned = {source["name"]: source for source in night["sources"]}
    for name in night["shards"][shard]:
        source = planned[name]
        try:
            digest = files.digest_of(as_location(source["path"]))
        except OSError:
            digest = ""
        if digest != source["digest"]:
            raise MedpipeError("SOURCE_CHANGED", source=name)


def _group_outputs(outputs: Iterable[StageOutput], *, documents: int) -> Iterator[list[StageOutput]]:
    """Joins chunks until they hold ``documents`` documents or a good part of what a stage may hold."""
    group: list[StageOutput] = []
    for output in outputs:
        group.append(StageOutput(dict(output.rows), output.rejects, output.counts))
        if sum(len(one.rows["documents"]) for one in group) >= documents or (
            sum(one.rows["documents"].nbytes for one in group) >= GROUP_BYTES
        ):
            yield group
            group = []
    if group:
        yield group


def _fit_together(outputs: Sequence[StageOutput], settings: Settings) -> bool:
    """Says whether a stage may hold the documents of some outputs together."""
    documents = [one.rows["documents"] for one in outputs]
    chars = sum(pc.sum(table["n_chars"]).as_py() or 0 for table in documents)
    rejects = sum(len(one.rejects) for one in outputs)
    return (
        sum(map(len, documents)) <= settings.chunk_documents
        and chars <= settings.chunk_chars
        and rejects <= 100 * settings.chunk_documents
    )


def _join_outputs(outputs: Sequence[StageOutput]) -> StageOutput:
    """Returns several outputs of ingest as one."""
    documents, sections = _join(outputs)
    return StageOutput(
        {"documents": documents, "sections": sections},
        [reject for one in outputs for reject in one.rejects],
        _sum_counts(one.counts for one in outputs),
    )


def _join(group: Sequence[StageOutput]) -> tuple[pa.Table, pa.Table]:
    """Returns the documents and the sections of some chunks, in the order of the tables."""
    documents, sections = (
        pa.concat_tables([one.rows[name] for one in group]).sort_by([(key, "ascending") for key in ORDER[name]])
        for name in ("documents", "sections")
    )
    return documents, sections


def _take_out(output: StageOutput, document_ids: pa.Array) -> pa.Array:
    """Takes documents and their sections out of a chunk; returns the ids of those that were there."""
    rows = dict(output.rows)
    there = pc.is_in(rows["documents"]["document_id"], document_ids)
    taken = rows["documents"].filter(there)["document_id"].combine_chunks()
    rows["documents"] = rows["documents"].filter(pc.invert(there))
    rows["sections"] = _of_documents(rows["sections"], rows["documents"]["document_id"])
    output.rows = rows
    return taken


def _cut_rows(rows: Mapping[str, pa.Table], settings: Settings) -> Iterator[dict[str, pa.Table]]:
    """Cuts rows of whole documents into chunks that later stages may hold."""
    sizes = np.cumsum(rows["documents"]["n_chars"].to_numpy()) // settings.chunk_chars
    places = np.arange(len(sizes)) // settings.chunk_documents
    edges = np.flatnonzero(np.diff(sizes) | np.diff(places)) + 1
    for first, last in pairwise([0, *edges.tolist(), len(sizes)]):
        ids = rows["documents"]["document_id"].slice(first, last - first)
        yield {name: _of_documents(table, ids) for name, table in rows.items()}


def _write_reused(
    chunk: Path, stages: Sequence[str], rows: Mapping[str, pa.Table], clock: Clock, night: Mapping[str, Any]
) -> None:
    """Writes a chunk that the first ``stages`` need not look at again."""
    counts = {"reused": float(len(rows["documents"]))}
    lap = clock.lap()
    ingested = {name: rows[name] for name in ("documents", "sections")}
    write_output(chunk, "ingest", ingested, [], counts, lap, make_run_id("ingest", night), "cpu")
    for stage in stages:
        table = WRITES[stage]
        write_output(chunk, stage, {table: rows[table]}, [], counts, clock.lap(), make_run_id(stage, night), "none")


def _published_ids(night: Mapping[str, Any]) -> pa.Array:
    """Returns the ids of the notes of changed sources that the partition holds and that no stage refused."""
    table = warehouse.read_table(
        as_location(night["warehouse"]),
        "documents",
        partition=night["partition"],
        columns=["document_id"],
        filters=(pc.field("status") != "failed") & pc.field("source").isin(night["reuse"]),
    )
    return table["document_id"].combine_chunks()


def _of_documents(table: pa.Table, document_ids: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["document_id"], document_ids.combine_chunks()))


def _run_chunk(worker: Stage | None, chunk: Path, stage: str, run_id: str, meter: Meter) -> None:
    """Runs a stage over a chunk; ``worker`` is None where no chunk has documents."""
    clock = Clock()
    tables = {name: files.read_table(chunk / f"{name}.parquet") for name in READS[stage]}
    documents = tables["documents"]
    failed = pc.is_in(documents["document_id"], failed_documents(chunk, STAGES[: STAGES.index(stage)]))
    intact = pc.and_not(pc.equal(documents["status"], "processed"), failed)
    if not pc.all(intact).as_py():
        ids = documents["document_id"].filter(intact)
        tables = {name: _of_documents(table, ids) for name, table in tables.items()}
    if worker is None or not len(tables["documents"]):
        output = StageOutput({WRITES[stage]: contracts.empty_table(WRITES[stage])})
    else:
        output = run_isolated(worker, tables, run_id=run_id)
    device = str(worker.device) if worker else "none"
    lap = clock.lap()
    write_output(chunk, stage, output.rows, output.rejects, output.counts, lap, run_id, device, **meter.lap())
    release_memory()


def failed_documents(chunk: Path, stages: Sequence[str]) -> pa.Array:
    """Returns the ids of the chunk's documents that one of ``stages`` (ingest apart) could not take."""
    paths = [chunk / f"quarantine.{stage}.parquet" for stage in stages if stage != "ingest"]
    columns = [files.read_table(path)["document_id"] for path in paths if path.exists()]
    ids = [value for column in columns for value in column.to_pylist() if value is not None]
    return pa.array(sorted(set(ids)), pa.string())


def run_isolated(worker: Stage, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
    """Runs a stage over a chunk; where that fails, over halves, so that one bad document costs one document."""
    try:
        return worker.run(tables, run_id=run_id)
    except (MedpipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        documents = tables["documents"]
        kind = type(error).__name__  # the message may quote the note
        if len(documents) <= 1:
            return _failed_output(worker.name, documents, kind)
    middle = len(documents) // 2
    halves = [
        run_isolated(worker, {name: _of_documents(table, ids) for name, table in tables.items()}, run_id=run_id)
        for ids in (documents["document_id"].slice(0, middle), documents["document_id"].slice(middle))
    ]
    table = WRITES[worker.name]
    return StageOutput(
        {table: pa.concat_tables([half.rows[table] for half in halves])},
        [reject for half in halves for reject in half.rejects],
        _sum_counts(half.counts for half in halves),
    )


def _failed_output(stage: str, documents: pa.Table, kind: str) -> StageOutput:
    message = reject_message("STAGE_FAILED", stage=stage, kind=kind)
    rejects = [
        Reject(row["source"], row["record"], stage, "STAGE_FAILED", message, row["document_id"])
        for row in documents.select(["source", "record", "document_id"]).to_pylist()
    ]
    return StageOutput({WRITES[stage]: contracts.empty_table(WRITES[stage])}, rejects)


def write_output(
    chunk: Path,
    stage: str,
    rows: Mapping[str, pa.Table],
    rejects: Sequence[Reject],
    counts: Mapping[str, float],
    lap: Lap,
    run_id: str,
    device: str,
    gpu_busy: float | None = None,
    gpu_fragmentation: float | None = None,
) -> None:
    """Writes a stage's tables of a chunk, its rejects, and last the file that says that it is done."""
    for name, table in rows.items():
        files.write_table(chunk / f"{name}.parquet", table)
    files.write_table(chunk / f"quarantine.{stage}.parquet", quarantine_table(rejects, run_id))
    done = {
        "documents": len(rows["documents"]) if stage == "ingest" else None,
        "rows": sum(len(table) for name, table in rows.items() if name != "sections"),
        "rejects": len(rejects),
        "counts": dict(counts),
        "device": device,
        "started_at": lap.started_at.isoformat(),
        "finished_at": lap.finished_at.isoformat(),
        "seconds": lap.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "gpu_busy": gpu_busy,
        "gpu_fragmentation": gpu_fragmentation,
    }
    files.write_json(chunk / f"{stage}.json", done)


def quarantine_table(rejects: Iterable[Reject], run_id: str) -> pa.Table:
    """Returns the rejects as rows of ``quarantine``, sorted by key, each key once."""
    rows = {}
    for reject in rejects:
        key = make_id("quarantine", reject.source, reject.record, reject.stage, reject.code)
        message, remedy = split_message(reject.code, reject.message)
        rows[key] = {
            "record_id": key, "source": reject.source, "record": reject.record, "document_id": reject.document_id,
            "stage": reject.stage, "code": reject.code, "message": message, "remedy": remedy, "attempt": 1,
            "run_id": run_id,
        }  # fmt: skip
    ordered = [rows[key] for key in sorted(rows)]
    names = [name for name in contracts.arrow_schema("quarantine").names if name != "schema_version"]
    return contracts.conform("quarantine", {name: [row[name] for row in ordered] for name in names})


@dataclass(frozen=True, slots=True)
class Lap:
    """How long a chunk took. ``seconds`` are of a clock that nobody sets; the times are the wall's, never backwards."""

    started_at: datetime
    finished_at: datetime
    seconds: float


class Clock:
    """Measures what was done since it was made, or since it was read last."""

    def __init__(self) -> None:
        self.started_at = datetime.now(UTC)
        self.started = time.monotonic()

    def lap(self) -> Lap:
        """Returns the time since the last call and starts again."""
        seconds = time.monotonic() - self.started
        lap = Lap(self.started_at, self.started_at + timedelta(seconds=seconds), seconds)
        self.started_at, self.started = lap.finished_at, time.monotonic()
        return lap


def _sum_counts(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


# --- publish --------------------------------------------------------------------------------


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
    if not (work / "plan.json").exists() and (published := _published_outcome(work, settings)):
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
        raise MedpipeError("WORK_MISSING", partition=_partition_of(work), reason=reason) from None


def _published_outcome(work: Path, settings: Settings) -> dict[str, Any] | None:
    """Returns what ``publish`` returned, if the partition was published last from this work area."""
    manifest = warehouse.read_manifest(settings.warehouse.resolve(), _partition_of(work))
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
        if published := _published_outcome(work, settings):  # it was this run that changed the tables
            files.remove_tree(work)
            return published
    chunks = sorted(work.glob("shard-*/chunk-*"))
    funnel = _sum_counts(
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
    files.write_table(runs, _runs_table(night, chunks, settings))
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


def _runs_table(night: Mapping[str, Any], chunks: Sequence[Path], settings: Settings) -> pa.Table:
    """Returns one row a stage: what it did, with what, how long it took."""
    rows = [_run_row(stage, night, chunks, settings) for stage in STAGES]
    rows.sort(key=lambda row: str(row["run_id"]))
    names = [name for name in contracts.arrow_schema("runs").names if name != "schema_version"]
    return contracts.conform("runs", {name: [row[name] for row in rows] for name in names})


def _run_row(stage: str, night: Mapping[str, Any], chunks: Sequence[Path], settings: Settings) -> dict[str, Any]:
    done = [read_done(chunk, stage) for chunk in chunks]
    model = stage_models(settings).get(stage)
    now = datetime.now(UTC)
    counts = _sum_counts(one["counts"] for one in done)
    return {
        "run_id": make_run_id(stage, night),
        "stage": stage,
        "partition": night["partition"],
        "started_at": min((datetime.fromisoformat(one["started_at"]) for one in done), default=now),
        "finished_at": max((datetime.fromisoformat(one["finished_at"]) for one in done), default=now),
        "code_version": night["fingerprint"]["code"],
        "model_name": model.name if model else None,
        "weights_hash": model.weights_hash if model else None,
        "schema_versions": list(night["fingerprint"]["schemas"].items()),
        "device": next((one["device"] for one in done if one["device"] != "none"), "none"),
        "rows_in": sum(read_done(chunk, "ingest")["documents"] for chunk in chunks),
        "rows_out": sum(one["rows"] for one in done),
        "rejects": sum(one["rejects"] for one in done),
        "seconds": sum(one["seconds"] for one in done),
        "peak_memory_mb": max((one["peak_memory_mb"] for one in done), default=peak_memory_mb()),
        "counts": [{"name": name, "value": float(value)} for name, value in sorted(counts.items())],
        **_speed(done),
    }


def _speed(done: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns how well the chunks of a stage used their device; what does not apply is None."""
    counts = _sum_counts(one["counts"] for one in done)
    tokens, padded = counts.get("tokens"), counts.get("padded_tokens")
    worked = sum(one["seconds"] for one in done if one["counts"].get("tokens"))
    watched = [one for one in done if one.get("gpu_busy") is not None]
    seconds = sum(one["seconds"] for one in watched)
    return {
        "tokens_per_s": tokens / worked if tokens and worked else None,
        "useful_tokens": tokens / padded if tokens and padded else None,
        "gpu_busy": sum(one["gpu_busy"] * one["seconds"] for one in watched) / seconds if seconds else None,
        "gpu_fragmentation": max(
            (one["gpu_fragmentation"] for one in done if one["gpu_fragmentation"] is not None), default=None
        ),
    }


def stage_metrics(stage: str, work: str | Path, shard: int) -> dict[str, float]:
    """Returns the figures of a stage over a shard that a monitoring system may have; no text, no names.

    ``seconds``, ``notes``, ``rejects``, ``peak_memory_mb``, ``batches_halved`` and, where they apply, ``tokens_per_s``,
    ``useful_tokens``, ``gpu_busy``, ``gpu_fragmentation``. Nothing where the shard was published already.
    """
    chunks = sorted((as_location(work) / f"shard-{shard:05d}").glob("chunk-*"))
    try:
        done = [read_done(chunk, stage) for chunk in chunks]
        notes = sum(read_done(chunk, "ingest")["documents"] for chunk in chunks)
    except files.DamagedFileError:  # another run of the same notes has published them meanwhile
        return {}
    if not done:
        return {}
    figures = {
        "seconds": sum(one["seconds"] for one in done),
        "notes": float(notes),
        "rejects": float(sum(one["rejects"] for one in done)),
        "peak_memory_mb": max(one["peak_memory_mb"] for one in done),
        "batches_halved": _sum_counts(one["counts"] for one in done).get("batches_halved", 0.0),
    }
    return figures | {name: value for name, value in _speed(done).items() if value is not None}


# --- the whole line -------------------------------------------------------------------------


def run(
    settings: Settings,
    partition: str,
    inputs: Sequence[str],
    *,
    accept: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs the whole line over the inputs in this process, as one shard; ``accept`` is that of ``publish``.

    Returns:
        What ``publish`` returns, with ``sources`` and ``unchanged`` of the plan; ``rows`` is absent where there was
        nothing to do.
    """
    night = plan(settings, partition, inputs)
    done: dict[str, Any] = {"counts": {}}
    if night["shards"]:
        lock = as_location(night["work"]).with_suffix(".lock")
        with files.locked(lock, MedpipeError("WORK_BUSY", partition=partition)) as waited:
            if waited or not (as_location(night["work"]) / "plan.json").exists():
                night = plan(settings, partition, inputs)  # whoever held the lock may have done it all
            try:
                for stage in STAGES if night["shards"] else ():
                    for shard in night["shards"]:
                        run_stage(stage, night["work"], shard["index"], settings, progress)
            except MedpipeError as error:
                if error.code == "SOURCE_CHANGED":  # nobody will ever go on with this plan
                    files.remove_tree(as_location(night["work"]))
                    lock.unlink(missing_ok=True)
                raise
            if night["shards"]:
                done = publish(night["work"], settings, accept=accept)
            lock.unlink(missing_ok=True)
    return {"partition": partition, "sources": night["sources"], "unchanged": night["unchanged"]} | done


def summarize_encounters(settings: Settings, partition: str, out: Path) -> dict[str, float]:
    """Summarizes each encounter of a published partition over all its notes there, in the order of time.

    Writes one Parquet file of the contract ``summaries`` (``scope`` is ``encounter``); the tables stay as they are.
    What is held at a time is whole encounters of ``chunk_documents`` notes and ``chunk_chars`` characters together.

    Returns:
        ``encounters``, ``notes``, ``failed`` (encounters), and the stage's counts.

    Raises:
        MedpipeError: INPUT_EMPTY where no note of the partition has an encounter, DISK_FULL, PERMISSION_DENIED.
    """
    columns = ["document_id", "encounter_id", "n_chars"]
    processed = (pc.field("status") == "processed") & pc.field("encounter_id").is_valid()
    index = warehouse.read_table(
        settings.warehouse, "documents", partition=partition, columns=columns, filters=processed
    ).sort_by([("encounter_id", "ascending"), ("document_id", "ascending")])
    if not len(index):
        raise MedpipeError("INPUT_EMPTY", path=f"the encounters of {partition} in {settings.warehouse}")
    totals: Counter[str] = Counter(notes=len(index))
    schema = contracts.arrow_schema("summaries")
    with (
        claimed_device(settings.device, settings.device_wait_seconds) as device,
        files.written_aside(out) as aside,
        files.open_writer(aside, schema) as writer,
    ):
        stage = load_stage("summarize", settings.model_copy(update={"device": device}))
        run_id = make_id("run", "summarize encounters", partition, str(stage.model), *index["document_id"].to_pylist())
        for ids in _whole_encounters(index, settings):
            wanted = pc.field("document_id").isin(ids)
            tables = {
                name: warehouse.read_table(settings.warehouse, name, partition=partition, filters=wanted)
                for name in READS["summarize"]
            }
            output = stage.run_encounters(tables, run_id=run_id)  # type: ignore[attr-defined]
            files.write_rows(writer, output.rows["summaries"])
            totals.update(output.counts)
            totals.update(encounters=len(output.rows["summaries"]), failed=len(output.rejects))
            release_memory()
    return dict(totals)


def _whole_encounters(index: pa.Table, settings: Settings) -> Iterable[list[str]]:
    """Yields the ids of documents of whole encounters, together within the chunk's limits where one alone is."""
    ids: list[str] = []
    chars = 0
    rows = zip(*(index[name].to_pylist() for name in ("encounter_id", "document_id", "n_chars")), strict=True)
    for _, group in itertools.groupby(rows, key=itemgetter(0)):
        own = list(group)
        size = sum(row[2] for row in own)
        if ids and (len(ids) + len(own) > settings.chunk_documents or chars + size > settings.chunk_chars):
            yield ids
            ids, chars = [], 0
        ids += [row[1] for row in own]
        chars += size
    yield ids


def partition_of_today() -> str:
    """Returns today's date in UTC, the partition of a run that names none."""
    return datetime.now(UTC).date().isoformat()


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
