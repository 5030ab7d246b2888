"""What the stages of a run did, with what and how fast: rows of ``runs``, and figures for monitoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from medpipe.device import peak_memory_mb
from medpipe.lake import contracts, files
from medpipe.pipeline import planning
from medpipe.pipeline.chunks import read_done, sum_counts
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location


def runs_table(night: Mapping[str, Any], chunks: Sequence[Path], settings: Settings) -> pa.Table:
    """Returns one row a stage: what it did, with what, how long it took."""
    rows = [_run_row(stage, night, chunks, settings) for stage in STAGES]
    rows.sort(key=lambda row: str(row["run_id"]))
    names = [name for name in contracts.arrow_schema("runs").names if name != "schema_version"]
    return contracts.conform("runs", {name: [row[name] for row in rows] for name in names})


def _run_row(stage: str, night: Mapping[str, Any], chunks: Sequence[Path], settings: Settings) -> dict[str, Any]:
    done = [read_done(chunk, stage) for chunk in chunks]
    model = planning.stage_models(settings).get(stage)
    now = datetime.now(UTC)
    counts = sum_counts(one["counts"] for one in done)
    return {
        "run_id": planning.make_run_id(stage, night),
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
    counts = sum_counts(one["counts"] for one in done)
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
        "batches_halved": sum_counts(one["counts"] for one in done).get("batches_halved", 0.0),
    }
    return figures | {name: value for name, value in _speed(done).items() if value is not None}
