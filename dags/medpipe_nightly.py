"""The nightly DAG: thin. It reads settings, plans shards and calls the pipeline; parsing it imports no torch.

Each of the four stages is a GPU task (pool and queue ``gpu``); the setting ``cpu_stages`` routes a stage to the queue
``cpu`` instead. Between tasks go paths and counts, never text.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, Param, dag, get_current_context, task, task_group
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from medpipe.errors import EXIT_USAGE, MedpipeError
from medpipe.settings import load_settings

# What Airflow's page of the DAG shows.
GUIDE = """
### medpipe, every night

Reads the sources of a day from the landing folder and writes the seven tables of that day's partition.

- `partition`: the day, `YYYY-MM-DD`. If empty: of a scheduled run or a backfill, the day on which its data interval
  begins; of a run by hand, the day of its logical date or, while that is not over, yesterday (UTC).
- `landing`: folder of the sources, where `{date}` stands for the day; the setting `landing` if empty.
- `warehouse`: where the tables lie; the setting `warehouse` if empty.
- `profile`: `fast`, `standard` or `accurate`; the setting `profile` if empty.

**Before the first night**: a pool `gpu` with a slot for each GPU (`airflow pools set gpu 1 "a slot a GPU"`), and
workers on the queue `gpu`. `MEDPIPE_CPU_STAGES='["ingest"]'` sends a stage to the queue `cpu` and the default pool.

**Skipped** tasks after `list_shards`: every source was done before, there is nothing to publish.
**Failed**: the log names a code and what to do. Clear the failed task or trigger the day again: what was done is not
done twice, and the tables stay as they were until `publish` replaces them at once.
"""

SETTINGS = load_settings()
TABLES = ("documents", "sections", "entities", "relations", "summaries", "quarantine", "runs")
ASSETS = [Asset(name=f"medpipe.{table}", uri=f"x-medpipe://tables/{table}") for table in TABLES]


def place(stage: str) -> dict[str, Any]:
    """Returns where a stage's tasks run: pool, queue and, on Kubernetes, the GPU that their pod asks for."""
    if stage in SETTINGS.cpu_stages:
        return {"queue": "cpu"}
    return {"pool": "gpu", "queue": "gpu", "executor_config": gpu_pod()}


def gpu_pod() -> dict[str, Any]:
    """Returns a pod override with one GPU for the KubernetesExecutor; for others nothing: its models load slowly."""
    if "Kubernetes" not in conf.get("core", "executor"):
        return {}
    from kubernetes.client import models as k8s

    gpu = k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": "1"})
    return {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", resources=gpu)]))}


def settings_of_run() -> Any:
    """Returns the settings with what the run's parameters change."""
    params = get_current_context()["params"]
    return load_settings(landing=params["landing"], warehouse=params["warehouse"], profile=params["profile"])


@contextmanager
def without_note_text() -> Iterator[None]:
    """Keeps note text out of the log, into which Airflow writes an error's message and those of its causes.

    An error of ours names no text and passes alone; of any other the kind and the places are told, not the message,
    which may quote a note. Wrong usage, a date that is none, say, is not tried again.
    """
    try:
        yield
    except MedpipeError as error:
        if error.exit_code == EXIT_USAGE:
            raise AirflowFailException(str(error)) from None
        raise error from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        raise RuntimeError(f"{type(error).__name__} at {places}; please report it") from None


@dag(
    dag_id="medpipe_nightly",
    schedule=CronDataIntervalTimetable("0 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["medpipe"],
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
    },
    default_args={
        "owner": "medpipe",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
        "execution_timeout": timedelta(hours=6),
    },
    doc_md=GUIDE,
)
def medpipe_nightly() -> None:
    """plan -> (ingest -> tag -> relate -> summarize) for each shard -> publish."""

    @task
    def plan() -> dict[str, Any]:
        """Lists the sources of the day and cuts what is new into shards."""
        from medpipe.partition import resolve_partition
        from medpipe.pipeline import plan_night

        context = get_current_context()
        run = context["dag_run"]
        with without_note_text():
            partition = resolve_partition(
                context["params"],
                run_after=run.run_after,
                # By hand, the interval is the whole one before the logical date: not the day that was asked for.
                data_interval_start=run.data_interval_start if run.run_type in ("scheduled", "backfill") else None,
                logical_date=run.logical_date,
                partition_key=getattr(run, "partition_key", None),
            )
            return plan_night(settings_of_run(), partition)

    @task
    def list_shards(night: dict[str, Any]) -> list[dict[str, Any]]:
        """Names the work of each shard; none where there is nothing new: then the rest is skipped."""
        return [{"work": night["work"], "shard": shard["index"]} for shard in night["shards"]]

    def stage_task(name: str) -> Any:
        @task(task_id=name, **place(name))
        def run(shard: dict[str, Any]) -> dict[str, Any]:
            from medpipe.pipeline import run_stage

            with without_note_text():
                counts = run_stage(name, shard["work"], shard["shard"], settings_of_run())
            return {"work": shard["work"], "shard": shard["shard"], "counts": counts}

        return run

    @task_group
    def process(shard: dict[str, Any]) -> Any:
        """Takes one shard through the four stages; it does not wait for the other shards."""
        done = shard
        for name in ("ingest", "tag", "relate", "summarize"):
            done = stage_task(name)(done)
        return done

    @task(outlets=ASSETS)
    def publish(night: dict[str, Any], done: Any, *, outlet_events: Any) -> dict[str, Any]:
        """Merges the shards into the tables, atomically, and says so to whoever waits for the assets."""
        from medpipe import pipeline

        with without_note_text():
            outcome = pipeline.publish(night["work"], settings_of_run())
        for asset, table in zip(ASSETS, TABLES, strict=True):
            outlet_events[asset].extra = {
                "partition": outcome["partition"],
                "rows": outcome["rows"][table],
                "schema_version": outcome["schema_versions"][table],
            }
        return outcome

    night = plan()
    publish(night, process.expand(shard=list_shards(night)))


medpipe_nightly()
