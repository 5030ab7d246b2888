"""What a person is told when a run of Airflow failed or is late: which partition, and what to do. Never note text.

It goes to the log and, with the setting ``alert_url``, to a web hook as ``{"text": …}``. Airflow calls these functions:
``run_failed`` in its DAG processor, ``run_late`` in its triggerer. Imports neither Airflow nor torch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.partition import partitions_of_run
from medpipe.settings import load_settings

log = logging.getLogger(__name__)

SECONDS = 10.0  # how long the web hook may take
# What to do, by DAG.
REMEDIES = {
    "medpipe_nightly": (
        "The tables are as they were before. The log of the failed task names a code and what to do; then clear the "
        "failed task, or trigger medpipe_nightly with this partition: what was done is not done twice."
    ),
    "medpipe_maintenance": (
        "The tables are right: a partition is done again whole or not at all. The log of the failed task names a code "
        "and what to do; then clear the failed task, or wait for the next maintenance."
    ),
    "medpipe_retrain": (
        "The model in use is the one before. The log of the failed task names a code and what to do; then clear the "
        "failed task: training goes on from its last checkpoint."
    ),
}
LATE = (
    "It goes on. Look at its grid for tasks that wait: a pool without free slots, a queue without a worker. If a task "
    "hangs, clear it: what was done is not done twice."
)


def run_failed(context: Mapping[str, Any]) -> None:
    """Tells that a run failed; ``on_failure_callback`` of the DAGs."""
    run = context.get("dag_run")
    dag_id = str(context["dag"].dag_id)
    events = context.get("triggering_asset_events") or {}
    extras = [event.extra for some in events.values() for event in some]
    what = f"{dag_id} failed{_day(dag_id, run, extras)} (run {context.get('run_id')}"
    task = getattr(context.get("ti"), "task_id", None)
    tell(f"{what}{f', last task {task}' if task else ''}). {REMEDIES.get(dag_id, '')}".rstrip())


async def run_late(context: Mapping[str, Any]) -> None:
    """Tells that a run is not done at its deadline; callback of a ``DeadlineAlert``."""
    facts = context["dag_run"]
    dates = ("run_after", "logical_date", "data_interval_start")
    run = SimpleNamespace(**dict(facts) | {name: _date(facts.get(name)) for name in dates})
    late = f"{run.dag_id} is late{_day(run.dag_id, run, None)} (run {run.dag_run_id}): it should have been done by "
    text = f"{late}{context['deadline']['deadline_time']}. {LATE}"
    await asyncio.to_thread(tell, text)


def _date(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _day(dag_id: str, run: Any, extras: list[Mapping[str, Any]] | None) -> str:
    """Returns the words that name the partition of a night; none of other DAGs.

    ``extras`` is None where it is not known what the asset events said that triggered the run.
    """
    if dag_id != "medpipe_nightly" or run is None:
        return ""
    params = getattr(run, "conf", None) or {}
    if extras is None and run.run_type == "asset_triggered" and not params.get("partition"):
        return " for the partition that its asset event names"
    try:
        return f" for the partition {partitions_of_run(run, params, extras or ())[0]}"
    except MedpipeError as error:
        return f" before it had a partition ({error})"


def tell(text: str) -> None:
    """Logs a message and posts it to the web hook of the settings; a hook that fails is logged, no more."""
    log.error(text)
    url = load_settings().alert_url
    if url is None:
        return
    request = urllib.request.Request(
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except OSError as error:  # also what urllib raises; its message may hold the address, which may be a secret
        log.error("the web hook of alert_url did not take the message (%s)", type(error).__name__)
