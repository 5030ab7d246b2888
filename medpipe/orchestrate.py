"""What the DAGs in ``dags/`` share: where tasks run, what a shard goes through, what a person is told.

They import it from the package, so that a DAG file can lie in any DAG folder by itself. Imports Airflow's SDK, but
nothing heavy: the DAG processor reads it again and again.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, get_current_context, task, task_group
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from medpipe import alerts
from medpipe.connections import connect
from medpipe.errors import EXIT_CONTRACT, EXIT_USAGE, MedpipeError
from medpipe.settings import STAGES, Settings, load_settings

SETTINGS = load_settings()
TABLES = ("documents", "sections", "entities", "relations", "summaries", "quarantine", "runs")
ASSETS = [Asset(name=f"medpipe.{table}", uri=f"x-medpipe://tables/{table}") for table in TABLES]
# Whoever finishes an export says so with an event of this asset, {"partition": "2026-01-31"}: then the night begins.
LANDING = Asset(name="medpipe.landing", uri="x-medpipe://landing")
MODEL = Asset(name="medpipe.model.tagger", uri="x-medpipe://models/tagger")

DEFAULTS: dict[str, Any] = {
    "owner": "medpipe",
    "retries": 2,
    "retry_delay": timedelta(minutes=SETTINGS.retry_minutes),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
    "execution_timeout": timedelta(hours=6),
}
# What all our DAGs have in common.
COMMON: dict[str, Any] = {
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["medpipe"],
    "default_args": DEFAULTS,
    "on_failure_callback": alerts.run_failed,
}


def by_the_clock(cron: str) -> CronDataIntervalTimetable | None:
    """Returns the schedule of a cron expression, in UTC, with the interval that a run is about; empty: by hand only."""
    return CronDataIntervalTimetable(cron, timezone="UTC") if cron else None


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


def settings_of_run(*names: str, **more: Any) -> Settings:
    """Returns the settings with what the run's parameters of these names change, and ``more``.

    The credentials of their store, from Airflow's connection, are those of the process from then on.

    Raises:
        AirflowFailException: where a parameter is wrong; the task is not tried again.
    """
    params = get_current_context()["params"]
    with without_note_text():
        settings = load_settings(**{name: params.get(name) for name in names}, **more)
        connect(settings.storage_connection)
        return settings


@contextmanager
def without_note_text() -> Iterator[None]:
    """Keeps note text out of the log, into which Airflow writes an error's message and those of its causes.

    An error of ours names no text and passes alone; of any other the kind and the places are told, not the message,
    which may quote a note. Wrong usage, a date that is none, say, is not tried again, nor is a partition held back.
    """
    try:
        yield
    except MedpipeError as error:
        if error.exit_code in (EXIT_USAGE, EXIT_CONTRACT):
            raise AirflowFailException(str(error)) from None
        raise error from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        raise RuntimeError(f"{type(error).__name__} at {places}; please report it") from None


def shard_group(*params: str) -> Any:
    """Makes the task group that takes one shard through the four stages; it does not wait for the other shards.

    A shard is ``{"work", "shard", "tagger"}``; ``params`` are names of parameters that change settings of the stages.
    """

    def stage_task(name: str) -> Any:
        @task(task_id=name, **place(name))
        def run(shard: dict[str, Any]) -> dict[str, Any]:
            from medpipe.pipeline import run_stage, stage_metrics

            settings = settings_of_run(*params, tagger=shard["tagger"])
            with without_note_text():
                counts = run_stage(name, shard["work"], shard["shard"], settings)
                emit(name, stage_metrics(name, shard["work"], shard["shard"]))
            return shard | {"counts": counts}

        return run

    @task_group
    def process(shard: dict[str, Any]) -> Any:
        """Takes one shard through the four stages; it does not wait for the other shards."""
        done = shard
        for name in STAGES:
            done = stage_task(name)(done)
        return done

    return process


def emit(stage: str, figures: dict[str, float]) -> None:
    """Sends figures of a shard to where Airflow sends its own: StatsD or OpenTelemetry, as its section [metrics] says.

    ``medpipe.<stage>.notes``, ``.rejects``, ``.batches_halved`` are counters, the others gauges of the shard done last.
    """
    try:
        from airflow.sdk.observability import stats
    except ImportError:  # before Airflow 3.2
        from airflow.stats import Stats as stats  # noqa: N813  (a class with the methods of the module)
    for name, value in figures.items():
        if name in ("notes", "rejects", "batches_halved"):
            stats.incr(f"medpipe.{stage}.{name}", int(value))
        else:
            stats.gauge(f"medpipe.{stage}.{name}", value)


def list_work(night: Mapping[str, Any], tagger: str) -> list[dict[str, Any]]:
    """Returns the shards of a plan, as ``shard_group`` takes them."""
    return [{"work": night["work"], "shard": shard["index"], "tagger": tagger} for shard in night["shards"]]


def pin_tagger(settings: Settings) -> str:
    """Returns the tagger of a run: of a registry's ``current`` the version that it is now.

    So a run that has begun ends with the model it began with, also where another is promoted meanwhile.
    """
    path = Path(settings.tagger)
    return str(path.resolve()) if path.is_symlink() else settings.tagger


def announce(outcome: Mapping[str, Any], outlet_events: Any) -> None:
    """Writes into the events of the tables' assets what was published."""
    for asset, table in zip(ASSETS, TABLES, strict=True):
        outlet_events[asset].extra = {
            "partition": outcome["partition"],
            "rows": outcome["rows"][table],
            "schema_version": outcome["schema_versions"][table],
        }
