"""The whole line over some inputs, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.lake import files
from medpipe.pipeline.chunks import Progress
from medpipe.pipeline.planning import plan
from medpipe.pipeline.publishing import publish
from medpipe.pipeline.stages import run_stage
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location


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


def partition_of_today() -> str:
    """Returns today's date in UTC, the partition of a run that names none."""
    return datetime.now(UTC).date().isoformat()
