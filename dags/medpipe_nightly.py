"""The nightly DAG: thin. It reads settings, plans shards and calls the pipeline; parsing it imports no torch.

Each of the four stages is a GPU task (pool and queue ``gpu``); the setting ``cpu_stages`` routes a stage to the queue
``cpu`` instead. Between tasks go paths and counts, never text.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, Param, dag, get_current_context, task, task_group

from medpipe.settings import load_settings

SETTINGS = load_settings()
TABLES = ("documents", "sections", "entities", "relations", "summaries", "quarantine", "runs")
ASSETS = [Asset(name=f"medpipe.{table}", uri=f"x-medpipe://tables/{table}") for table in TABLES]


def place(stage: str) -> dict[str, Any]:
    """Returns where a stage's tasks run: pool, queue and, on Kubernetes, the GPU that their pod asks for."""
    if stage in SETTINGS.cpu_stages:
        return {"queue": "cpu"}
    return {"pool": "gpu", "queue": "gpu", "executor_config": gpu_pod()}


def gpu_pod() -> dict[str, Any]:
    """Returns a pod override with one GPU, where the Kubernetes provider is installed; else nothing."""
    if find_spec("airflow.providers.cncf") is None or find_spec("kubernetes") is None:
        return {}
    from kubernetes.client import models as k8s

    gpu = k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": "1"})
    return {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", resources=gpu)]))}


def settings_of_run() -> Any:
    """Returns the settings with what the run's parameters change."""
    params = get_current_context()["params"]
    return load_settings(landing=params["landing"], warehouse=params["warehouse"])


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
    },
    default_args={
        "owner": "medpipe",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=6),
    },
    doc_md=__doc__,
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
        partition = resolve_partition(
            context["params"],
            run_after=run.run_after,
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
