"""A chunk in the work area: what stages read and write of it, and what they note when they have done it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.device import peak_memory_mb
from medpipe.errors import split_message
from medpipe.ids import make_id
from medpipe.lake import contracts, files
from medpipe.records import Reject

# What a stage reads of a chunk, and the table that it writes.
READS = {
    "tag": ("documents", "sections"),
    "relate": ("documents", "sections", "entities"),
    "summarize": ("documents", "sections", "entities", "relations"),
}
WRITES = {"tag": "entities", "relate": "relations", "summarize": "summaries"}

Progress = Callable[[str, int, int], None]  # stage, documents done, documents in all (0: not known yet)


def read_done(chunk: Path, stage: str) -> dict[str, Any]:
    """Returns what a stage noted when it had done a chunk."""
    return dict(files.read_json(chunk / f"{stage}.json"))


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


def failed_documents(chunk: Path, stages: Sequence[str]) -> pa.Array:
    """Returns the ids of the chunk's documents that one of ``stages`` (ingest apart) could not take."""
    paths = [chunk / f"quarantine.{stage}.parquet" for stage in stages if stage != "ingest"]
    columns = [files.read_table(path)["document_id"] for path in paths if path.exists()]
    ids = [value for column in columns for value in column.to_pylist() if value is not None]
    return pa.array(sorted(set(ids)), pa.string())


def of_documents(table: pa.Table, document_ids: pa.ChunkedArray) -> pa.Table:
    """Returns the rows of some documents."""
    return table.filter(pc.is_in(table["document_id"], document_ids.combine_chunks()))


def sum_counts(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the sums of figures by name."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


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
