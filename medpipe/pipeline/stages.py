"""The other three stages over a shard, chunk by chunk, and the one function that runs any of the four."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.device import release_memory, resolve_device
from medpipe.errors import MedpipeError, reject_message
from medpipe.gpu import Meter, claimed_device, find_token_budget
from medpipe.lake import contracts, files
from medpipe.pipeline import planning
from medpipe.pipeline.chunks import (
    READS,
    WRITES,
    Clock,
    Progress,
    failed_documents,
    of_documents,
    read_done,
    sum_counts,
    write_output,
)
from medpipe.pipeline.planning import read_plan
from medpipe.pipeline.publishing import published_outcome
from medpipe.pipeline.reading import ingest_shard
from medpipe.records import ModelId, Reject, StageOutput
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location
from medpipe.tag.codes import Coder, identify_codes
from medpipe.tag.terminology import as_paths, find_icd10cm

log = logging.getLogger(__name__)


class Stage(Protocol):
    """What tag, relate and summarize have in common: Arrow in, Arrow out, nothing kept between calls."""

    name: str
    model: ModelId
    device: Any

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Processes a chunk of whole documents."""
        ...


def run_stage(
    stage: str, work: str | Path, shard: int, settings: Settings, progress: Progress | None = None
) -> dict[str, float]:
    """Runs a stage over a shard and returns its counts; what was done before a kill is not done again.

    Raises:
        MedpipeError: MODEL_CHANGED where the settings name another model than the plan was made with, and what the
            stage raises about its device, its model or the disk. A bad document raises nothing: it goes to quarantine.
    """
    work = as_location(work)
    if not (work / "plan.json").exists() and published_outcome(work, settings):
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
    run_id = planning.make_run_id(stage, night)
    if stage == "ingest":
        return ingest_shard(folder, night, shard, settings, run_id, progress)
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
    return sum_counts(read_done(chunk, stage)["counts"] for chunk in chunks)


def _check_model(worker: Stage, stage: str, night: Mapping[str, Any], settings: Settings) -> None:
    """Raises MODEL_CHANGED where a stage is not what the night was planned with."""
    if str(worker.model) != night["fingerprint"]["models"][stage]:
        raise MedpipeError("MODEL_CHANGED", stage=stage)
    codes = night["fingerprint"]["settings"]["codes"]
    if stage == "tag" and identify_codes(as_paths(settings.terminology)) != codes:
        raise MedpipeError("MODEL_CHANGED", stage="tag (its terminology)")


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


def _run_chunk(worker: Stage | None, chunk: Path, stage: str, run_id: str, meter: Meter) -> None:
    """Runs a stage over a chunk; ``worker`` is None where no chunk has documents."""
    clock = Clock()
    tables = {name: files.read_table(chunk / f"{name}.parquet") for name in READS[stage]}
    documents = tables["documents"]
    failed = pc.is_in(documents["document_id"], failed_documents(chunk, STAGES[: STAGES.index(stage)]))
    intact = pc.and_not(pc.equal(documents["status"], "processed"), failed)
    if not pc.all(intact).as_py():
        ids = documents["document_id"].filter(intact)
        tables = {name: of_documents(table, ids) for name, table in tables.items()}
    if worker is None or not len(tables["documents"]):
        output = StageOutput({WRITES[stage]: contracts.empty_table(WRITES[stage])})
    else:
        output = run_isolated(worker, tables, run_id=run_id)
    device = str(worker.device) if worker else "none"
    lap = clock.lap()
    write_output(chunk, stage, output.rows, output.rejects, output.counts, lap, run_id, device, **meter.lap())
    release_memory()


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
        run_isolated(worker, {name: of_documents(table, ids) for name, table in tables.items()}, run_id=run_id)
        for ids in (documents["document_id"].slice(0, middle), documents["document_id"].slice(middle))
    ]
    table = WRITES[worker.name]
    return StageOutput(
        {table: pa.concat_tables([half.rows[table] for half in halves])},
        [reject for half in halves for reject in half.rejects],
        sum_counts(half.counts for half in halves),
    )


def _failed_output(stage: str, documents: pa.Table, kind: str) -> StageOutput:
    message = reject_message("STAGE_FAILED", stage=stage, kind=kind)
    rejects = [
        Reject(row["source"], row["record"], stage, "STAGE_FAILED", message, row["document_id"])
        for row in documents.select(["source", "record", "document_id"]).to_pylist()
    ]
    return StageOutput({WRITES[stage]: contracts.empty_table(WRITES[stage])}, rejects)
