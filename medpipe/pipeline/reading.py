"""The first stage over a shard: sources, or the tables themselves, in; chunks out, what was done before apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.ingest.sources import Source, fetched
from medpipe.lake import files, warehouse
from medpipe.lake.reread import reread_chunks
from medpipe.lake.reuse import FinishedNotes
from medpipe.lake.warehouse import ORDER
from medpipe.pipeline import planning
from medpipe.pipeline.chunks import WRITES, Clock, Progress, of_documents, sum_counts, write_output
from medpipe.pipeline.planning import table_mapping
from medpipe.records import StageOutput
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location

# Chunks in which finished notes are looked for together: one pass over the published rows serves them all.
GROUP_CHUNKS = 16
GROUP_BYTES = 32 << 20


def ingest_shard(
    folder: Path, night: Mapping[str, Any], shard: int, settings: Settings, run_id: str, progress: Progress | None
) -> dict[str, float]:
    """Reads a shard into chunks and returns the stage's counts; arguments as of ``run_stage``, whose shard it is."""
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
        planning.stage_models(settings),
        {one: planning.make_run_id(one, night) for one in STAGES},
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
        sum_counts(one.counts for one in outputs),
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
    rows["sections"] = of_documents(rows["sections"], rows["documents"]["document_id"])
    output.rows = rows
    return taken


def _cut_rows(rows: Mapping[str, pa.Table], settings: Settings) -> Iterator[dict[str, pa.Table]]:
    """Cuts rows of whole documents into chunks that later stages may hold."""
    sizes = np.cumsum(rows["documents"]["n_chars"].to_numpy()) // settings.chunk_chars
    places = np.arange(len(sizes)) // settings.chunk_documents
    edges = np.flatnonzero(np.diff(sizes) | np.diff(places)) + 1
    for first, last in pairwise([0, *edges.tolist(), len(sizes)]):
        ids = rows["documents"]["document_id"].slice(first, last - first)
        yield {name: of_documents(table, ids) for name, table in rows.items()}


def _write_reused(
    chunk: Path, stages: Sequence[str], rows: Mapping[str, pa.Table], clock: Clock, night: Mapping[str, Any]
) -> None:
    """Writes a chunk that the first ``stages`` need not look at again."""
    counts = {"reused": float(len(rows["documents"]))}
    lap = clock.lap()
    ingested = {name: rows[name] for name in ("documents", "sections")}
    write_output(chunk, "ingest", ingested, [], counts, lap, planning.make_run_id("ingest", night), "cpu")
    for stage in stages:
        table = WRITES[stage]
        write_output(
            chunk, stage, {table: rows[table]}, [], counts, clock.lap(), planning.make_run_id(stage, night), "none"
        )


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
