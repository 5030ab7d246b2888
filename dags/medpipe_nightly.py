"""The nightly DAG: thin. It reads settings, plans shards and calls the pipeline; parsing it imports no torch.

Each of the four stages is a GPU task (pool and queue ``gpu``); the setting ``cpu_stages`` routes a stage to the queue
``cpu`` instead. Between tasks go paths and counts, never text.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import (
    AssetOrTimeSchedule,
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    Param,
    dag,
    get_current_context,
    task,
)

from medpipe import alerts
from medpipe.orchestrate import (
    ASSETS,
    COMMON,
    LANDING,
    SETTINGS,
    announce,
    by_the_clock,
    list_work,
    pin_tagger,
    settings_of_run,
    shard_group,
    without_note_text,
)

# Airflow drops events that come while a run of theirs is made, or is the one run at a time (apache/airflow#56050): the
# runs of the clock and of events look for those of about a day that began none.
MISSED = timedelta(hours=26)
# What Airflow's page of the DAG shows.
GUIDE = """
### medpipe, every night

Reads the sources of a day from the landing folder and writes the seven tables of that day's partition. It begins by
the clock (setting `nightly_cron`), by hand, in a backfill, or with an event of the asset `medpipe.landing`.

- `partition`: the day, `YYYY-MM-DD`. If empty: of a run that an asset event began, the day that its extra names
  (`{"partition": "2026-01-31"}`; of several days one is worked on, and runs are triggered for the others); of a
  scheduled run or a backfill, the day on which its data interval begins; of a run by hand, the day of its logical date
  or, while that is not over, yesterday (UTC).
- `landing`: folder or URL of the sources, where `{date}` stands for the day; the setting `landing` if empty.
- `warehouse`: where the tables lie, a folder or a URL of a store; the setting `warehouse` if empty. The setting
  `storage_connection` names the connection that has the store's credentials.
- `profile`: `fast`, `standard` or `accurate`; the setting `profile` if empty.
- `accept`: publish the partition though it is not like those before, after a run that failed with `QUALITY_HELD`.

Every other knob is a setting (`MEDPIPE_*`, `medpipe.toml`): `nightly_cron`, `nightly_deadline_hours`, `alert_url`,
`shards`, `cpu_stages`, `tagger`, ... With `MEDPIPE_TAGGER=models/tagger/current` a night uses the model that
`medpipe_retrain` promoted last (once it has promoted one).

**Before the first night**: a pool `gpu` with a slot for each GPU (`airflow pools set gpu 1 "a slot a GPU"`), and
workers on the queue `gpu`. `MEDPIPE_CPU_STAGES='["ingest"]'` sends a stage to the queue `cpu` and the default pool. The
deadline is watched by the scheduler and told by the triggerer: one must run.

**Skipped** tasks after `list_shards`: every source was done before, there is nothing to publish. `other_days` is
skipped where no asset event named another day.
**Failed**: the log names a code and what to do. Clear the failed task or trigger the day again: what was done is not
done twice, and the tables stay as they were until `publish` replaces them at once. **Late**: an alert says so
`nightly_deadline_hours` after the run was queued.
"""


def deadline(hours: float) -> DeadlineAlert | None:
    """Returns the alert of a night that takes longer than ``hours``; none for 0."""
    if not hours:
        return None
    late = AsyncCallback(alerts.run_late)
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(hours=hours), callback=late)


@dag(
    dag_id="medpipe_nightly",
    schedule=AssetOrTimeSchedule(timetable=by_the_clock(SETTINGS.nightly_cron), assets=[LANDING]),
    start_date=datetime(2026, 1, 1),
    params={
        "partition": Param(
            None, type=["null", "string"], format="date", description="Day to process; the run's own day if empty."
        ),
        "landing": Param(
            None, type=["null", "string"], description="Folder of the sources; {date} stands for the day."
        ),
        "warehouse": Param(None, type=["null", "string"], description="Where the tables lie."),
        "profile": Param(
            None, type=["null", "string"], enum=[None, "fast", "standard", "accurate"], description="Speed or accuracy."
        ),
        "accept": Param(False, type="boolean", description="Publish a partition that is not like those before."),
    },
    deadline=deadline(SETTINGS.nightly_deadline_hours),
    doc_md=GUIDE,
    **COMMON,
)
def medpipe_nightly() -> None:
    """plan -> (ingest -> tag -> relate -> summarize) for each shard -> publish."""

    @task(inlets=[LANDING])
    def plan(*, inlet_events: Any) -> dict[str, Any]:
        """Lists the sources of the day and cuts what is new into shards."""
        from medpipe.partition import partitions_of_run
        from medpipe.pipeline import plan_night

        context = get_current_context()
        settings = settings_of_run("landing", "warehouse", "profile")
        run = context["dag_run"]
        extras = [event.extra for some in context["triggering_asset_events"].values() for event in some]
        missed = []
        if run.run_type in ("scheduled", "asset_triggered"):
            recent = inlet_events[LANDING].after((run.run_after - MISSED).isoformat())
            missed = [event.extra or {} for event in recent if not event.created_dagruns]
        with without_note_text():
            partition, *others = partitions_of_run(run, context["params"], extras, missed)
            tagger = pin_tagger(settings)
            night = plan_night(settings.model_copy(update={"tagger": tagger}), partition)
        return night | {"tagger": tagger, "others": others}

    @task
    def list_shards(night: dict[str, Any]) -> list[dict[str, Any]]:
        """Names the work of each shard; none where there is nothing new: then the rest is skipped."""
        return list_work(night, night["tagger"])

    @task
    def list_other_days(night: dict[str, Any]) -> list[dict[str, Any]]:
        """Names the other days that asset events named; each gets a run by hand, which looks for no others."""
        params = {name: value for name, value in get_current_context()["params"].items() if value is not None}
        return [params | {"partition": day} for day in night["others"]]

    @task(outlets=ASSETS)
    def publish(night: dict[str, Any], done: Any, *, outlet_events: Any) -> dict[str, Any]:
        """Merges the shards into the tables, atomically, and says so to whoever waits for the assets."""
        from medpipe import pipeline

        settings = settings_of_run("landing", "warehouse", "profile", tagger=night["tagger"])
        with without_note_text():
            outcome = pipeline.publish(night["work"], settings, accept=get_current_context()["params"]["accept"])
        announce(outcome, outlet_events)
        return outcome

    night = plan()
    process = shard_group("landing", "warehouse", "profile")
    publish(night, process.expand(shard=list_shards(night)))
    TriggerDagRunOperator.partial(task_id="other_days", trigger_dag_id="medpipe_nightly").expand(
        conf=list_other_days(night)
    )


medpipe_nightly()
