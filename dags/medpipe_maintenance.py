"""The maintenance DAG: thin. What it does is ``medpipe.maintain``, which ``medpipe maintain`` does by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from medpipe.orchestrate import (
    ASSETS,
    COMMON,
    SETTINGS,
    announce,
    by_the_clock,
    list_work,
    pin_tagger,
    settings_of_run,
    shard_group,
    without_note_text,
)

ACTIONS = ("work", "compact", "reprocess", "quarantine")
KNOBS = ("warehouse", "landing", "profile", "work_days", "maintenance_partitions", "max_attempts")
MOST_SHARDS = 1024  # that Airflow maps at once (core.max_map_length)

# What Airflow's page of the DAG shows.
GUIDE = """
### medpipe: what a warehouse needs besides its nights

By the clock (setting `maintenance_cron`) or by hand. Each action can be called again at any time, and does nothing
twice.

- `actions`:
  - `work` removes work areas of runs that were published, and those that nobody touched for `work_days` days; one that
    a process holds the lock of stays.
  - `compact` finishes a publish that was killed, removes files that no manifest names any more and old temporary files,
    and rewrites tables of an earlier major version. A partition is one file a table: there are no small files to merge.
  - `reprocess` takes what another model made than the settings name through the stages again, from the text in
    `documents`; where only the summarizer is new, only summaries are made.
  - `quarantine` tries documents again that a stage refused, `max_attempts` times in all and once with every new
    release, and records whose file, limit, format or reader has changed, from their sources in the landing folder
    where these still exist.
- `dry_run`: only tells in the logs and in the results of `clear` and `find` what would be done.
- `maintenance_partitions`: how many partitions are done again at most, the newest first; the rest the next time.
- `warehouse`, `landing`, `profile`, `work_days`, `max_attempts`: the settings of the same names if empty.

**Skipped**: there was nothing to do again; or, of `publish`, the partition was published by a night meanwhile: the next
maintenance looks at it again. **Failed**: the log names a code and what to do; other partitions are not affected.
"""


@dag(
    dag_id="medpipe_maintenance",
    schedule=by_the_clock(SETTINGS.maintenance_cron),
    start_date=datetime(2026, 1, 1),
    params={
        "actions": Param(
            list(ACTIONS), type="array", items={"type": "string", "enum": list(ACTIONS)}, examples=list(ACTIONS),
            description="What to do.",
        ),
        "dry_run": Param(False, type="boolean", description="Only tell what would be done."),
        "work_days": Param(
            None, type=["null", "number"], minimum=0, description="Remove work areas untouched for so many days."
        ),
        "maintenance_partitions": Param(
            None, type=["null", "integer"], minimum=1, maximum=365, description="Partitions done again at most."
        ),
        "max_attempts": Param(
            None, type=["null", "integer"], minimum=1, description="How often a document is tried in all."
        ),
        "warehouse": Param(None, type=["null", "string"], description="Where the tables lie."),
        "landing": Param(
            None, type=["null", "string"], description="Folder of the sources; {date} stands for the day."
        ),
        "profile": Param(
            None, type=["null", "string"], enum=[None, "fast", "standard", "accurate"], description="Speed or accuracy."
        ),
    },
    doc_md=GUIDE,
    **COMMON,
)  # fmt: skip
def medpipe_maintenance() -> None:
    """clear -> find -> (ingest -> tag -> relate -> summarize) for each shard -> publish each partition."""

    @task
    def clear() -> dict[str, Any]:
        """Removes old work areas and what is left over; returns counts."""
        from medpipe.maintain import maintain

        params, settings = get_current_context()["params"], settings_of_run(*KNOBS)
        actions = [one for one in ("work", "compact") if one in params["actions"]]
        if not settings.warehouse.is_dir():
            raise AirflowSkipException(f"there is no warehouse at {settings.warehouse} yet")
        with without_note_text():
            return maintain(settings, actions, dry_run=params["dry_run"], report=print)

    @task
    def find(cleared: dict[str, Any]) -> dict[str, Any]:
        """Plans what is to be done again, a partition once, and tells what was found."""
        from medpipe import maintain

        params, settings = get_current_context()["params"], settings_of_run(*KNOBS)
        with without_note_text():
            tagger = pin_tagger(settings)
            settings = settings.model_copy(update={"tagger": tagger})
            found = maintain.find_again(settings, params["actions"])
            nights: list[dict[str, Any]] = []
            for again in found:
                print(again)
                if params["dry_run"]:
                    continue
                night = maintain.plan_again(settings, again) | {"tagger": tagger}
                if sum(len(one["shards"]) for one in [*nights, night]) > MOST_SHARDS:
                    break  # the next time
                nights.append(night)
        return {"found": [str(one) for one in found], "nights": [one for one in nights if one["shards"]]}

    @task
    def list_shards(plans: dict[str, Any]) -> list[dict[str, Any]]:
        """Names the work of each shard of all partitions; none where there is nothing to do."""
        return [shard for night in plans["nights"] for shard in list_work(night, night["tagger"])]

    @task
    def list_nights(plans: dict[str, Any]) -> list[dict[str, Any]]:
        """Names the partitions that are done again."""
        return [{"work": night["work"], "tagger": night["tagger"]} for night in plans["nights"]]

    @task(outlets=ASSETS, trigger_rule="all_done")
    def publish(night: dict[str, Any], *, outlet_events: Any) -> dict[str, Any]:
        """Publishes one partition, whether or not the shards of others failed."""
        from medpipe import pipeline
        from medpipe.errors import MedpipeError

        settings = settings_of_run(*KNOBS, tagger=night["tagger"])
        with without_note_text():
            try:
                outcome = pipeline.publish(night["work"], settings)
            except MedpipeError as error:
                if error.code != "PARTITION_CHANGED":
                    raise
                outcome = None
                print(error)
        if outcome is None:
            raise AirflowSkipException("another run published the partition meanwhile")
        announce(outcome, outlet_events)
        return outcome

    plans = find(clear())
    done = shard_group(*KNOBS).expand(shard=list_shards(plans))
    published = publish.expand(night=list_nights(plans))
    done >> published


medpipe_maintenance()
