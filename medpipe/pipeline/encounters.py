"""Summaries of whole encounters of a published partition."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.device import release_memory
from medpipe.errors import MedpipeError
from medpipe.gpu import claimed_device
from medpipe.ids import make_id
from medpipe.lake import contracts, files, warehouse
from medpipe.pipeline import stages
from medpipe.pipeline.chunks import READS
from medpipe.settings import Settings


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
        stage = stages.load_stage("summarize", settings.model_copy(update={"device": device}))
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
