"""The DAGs: whole, thin, in the right pools; and the night's rows are those of ``medpipe run``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow is not installed (pip install '.[airflow]')")

ROOT = Path(__file__).parent.parent.parent
STAGES = ["ingest", "tag", "relate", "summarize"]
DAY = "2026-01-31"
CANARY = "Zyxwvutine"
TABLES = [
    f"medpipe.{name}" for name in ("documents", "entities", "quarantine", "relations", "runs", "sections", "summaries")
]


def environment(home: Path, **more: str) -> dict[str, str]:
    return os.environ | {
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False", "PYTHONPATH": str(ROOT), "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "MEDPIPE_LANDING": str(home / "landing"), "MEDPIPE_WAREHOUSE": str(home / "lake"),
    } | more  # fmt: skip


# Airflow 3.3.2: `dag.test()` of a DAG with a deadline fails after the run has succeeded (apache/airflow#73428).
NO_DEADLINE = {"MEDPIPE_NIGHTLY_DEADLINE_HOURS": "0"}


def python(code: str, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def assert_nowhere_below(home: Path) -> None:
    for path in home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path.name


LOOK = """
import json, sys, time
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
started = time.process_time()
bag = DagBag({dags!r})
seconds = time.process_time() - started
heavy = [name for name in ("torch", "pandas", "pyarrow", "torch_geometric", "kubernetes", "numpy") if name in sys.modules]

def look(dag):
    from airflow.serialization.serialized_objects import DagSerialization
    DagSerialization.to_dict(dag)  # as the scheduler wants it
    tasks = {{task.task_id: {{"pool": task.pool, "queue": task.queue, "retries": task.retries, "owner": task.owner,
        "timeout": task.execution_timeout.total_seconds(), "after": sorted(task.upstream_task_ids),
        "outlets": sorted(asset.name for asset in task.outlets)}} for task in dag.tasks}}
    params = {{name: dag.params.get_param(name) for name in dag.params}}
    return {{"tasks": tasks, "tags": sorted(dag.tags), "doc": dag.doc_md, "max_active_runs": dag.max_active_runs, "catchup": dag.catchup,
        "params": {{name: [param.schema.get("type"), param.description] for name, param in params.items()}},
        "timetable": type(dag.timetable).__name__, "failed": dag.on_failure_callback.__name__ if dag.on_failure_callback else None,
        "deadlines": [[one.callback.path, one.interval.total_seconds()] for one in dag.deadline or ()]}}

print("LOOK" + json.dumps({{"errors": bag.import_errors, "seconds": seconds, "heavy": heavy, "dags": {{name: look(dag) for name, dag in bag.dags.items()}}}}))
"""


def look(home: Path, **more: str) -> dict[str, Any]:
    import json

    out = python(LOOK.format(dags=str(ROOT / "dags")), environment(home, **more), home)
    return dict(json.loads(next(line for line in out.splitlines() if line.startswith("LOOK"))[4:]))


@pytest.fixture(scope="module")
def seen(home: Path) -> dict[str, Any]:
    return look(home)


def test_all_dags_are_whole_and_thin(home: Path, seen: dict[str, Any]) -> None:
    assert seen["errors"] == {}
    assert seen["heavy"] == [] and seen["seconds"] < 2, "parsing the DAGs must stay light"
    assert sorted(seen["dags"]) == ["medpipe_maintenance", "medpipe_nightly", "medpipe_retrain"]
    pools = subprocess.run(
        [sys.executable, "-m", "airflow", "pools", "list", "-o", "plain"],
        env=environment(home), cwd=home, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name, dag in seen["dags"].items():
        assert dag["max_active_runs"] == 1 and not dag["catchup"] and dag["tags"] == ["medpipe"]
        assert dag["failed"] == "run_failed"
        for task_id, task in dag["tasks"].items():
            assert task["retries"] >= 1 and task["owner"] == "medpipe" and task["timeout"] > 0, task_id
            assert f"{task['pool']} " in pools, f"{name}.{task_id}: the pool {task['pool']} is made by nobody"
            assert task["queue"] in ("default", "cpu", "gpu")
        for param, (kind, description) in dag["params"].items():
            assert kind and description, f"{name}: {param} has no type or no description"
            assert f"`{param}`" in dag["doc"], f"{name}: {param} is not in its guide"


def test_the_night_has_its_order_its_triggers_and_its_deadline(seen: dict[str, Any]) -> None:
    night = seen["dags"]["medpipe_nightly"]
    assert night["timetable"] == "AssetOrTimeSchedule"
    assert night["deadlines"] == [["medpipe.alerts.run_late", 6 * 3600.0]]
    assert sorted(night["params"]) == ["accept", "landing", "partition", "profile", "warehouse"]
    tasks = night["tasks"]
    others = {"list_other_days", "other_days"}
    assert set(tasks) == {"plan", "list_shards", *(f"process.{stage}" for stage in STAGES), "publish"} | others
    check_stages(tasks)
    assert tasks["publish"]["outlets"] == TABLES


def check_stages(tasks: dict[str, Any]) -> None:
    for stage in STAGES:
        assert (tasks[f"process.{stage}"]["pool"], tasks[f"process.{stage}"]["queue"]) == ("gpu", "gpu")
    for before, after in zip(
        ["list_shards", *(f"process.{stage}" for stage in STAGES)],
        [*(f"process.{stage}" for stage in STAGES), "publish"],
        strict=True,
    ):
        assert before in tasks[after]["after"]


def test_maintenance_has_its_order(seen: dict[str, Any]) -> None:
    dag = seen["dags"]["medpipe_maintenance"]
    assert dag["timetable"] == "CronDataIntervalTimetable"
    assert dag["tasks"]["find"]["after"] == ["clear"] and dag["tasks"]["publish"]["outlets"] == TABLES
    check_stages(dag["tasks"])


def test_retraining_has_its_order(seen: dict[str, Any]) -> None:
    dag = seen["dags"]["medpipe_retrain"]
    assert dag["timetable"] == "NullTimetable", "by hand, until a setting says when"
    assert (dag["tasks"]["train"]["pool"], dag["tasks"]["train"]["queue"]) == ("gpu", "gpu")
    assert dag["tasks"]["promote"]["after"] == ["plan_round", "train"]
    assert dag["tasks"]["promote"]["outlets"] == ["medpipe.model.tagger"]


def test_settings_say_when(home: Path) -> None:
    dags = look(
        home, MEDPIPE_RETRAIN_CRON="0 3 1 * *", MEDPIPE_MAINTENANCE_CRON="30 4 * * *", MEDPIPE_NIGHTLY_CRON="0 1 * * *",
        MEDPIPE_NIGHTLY_DEADLINE_HOURS="2.5",
    )["dags"]  # fmt: skip
    assert dags["medpipe_retrain"]["timetable"] == "CronDataIntervalTimetable"
    assert dags["medpipe_nightly"]["deadlines"][0][1] == 2.5 * 3600


def test_a_setting_routes_a_stage_to_cpu_workers(home: Path) -> None:
    tasks = look(home, MEDPIPE_CPU_STAGES='["ingest"]')["dags"]["medpipe_nightly"]["tasks"]
    assert (tasks["process.ingest"]["pool"], tasks["process.ingest"]["queue"]) == ("default_pool", "cpu")
    assert (tasks["process.tag"]["pool"], tasks["process.tag"]["queue"]) == ("gpu", "gpu")


POD = """
import json, sys, types
from collections import namedtuple
models = types.ModuleType("kubernetes.client.models")
for name, fields in (("V1ResourceRequirements", "limits"), ("V1Pod", "spec"), ("V1PodSpec", "containers"), ("V1Container", "name resources")):
    setattr(models, name, namedtuple(name, fields))
client = types.ModuleType("kubernetes.client")
client.models = models
sys.modules |= {{"kubernetes": types.ModuleType("kubernetes"), "kubernetes.client": client, "kubernetes.client.models": models}}
from medpipe.orchestrate import place
print("POD" + json.dumps([place(stage)["executor_config"]["pod_override"] for stage in ("ingest", "tag", "relate", "summarize")]))
"""


def test_on_kubernetes_the_pod_of_a_stage_asks_for_a_gpu(home: Path) -> None:
    """With stand-ins for the models of Kubernetes: the provider need not be installed."""
    import json

    env = environment(home, AIRFLOW__CORE__EXECUTOR="KubernetesExecutor")
    out = python(POD.format(), env, home)
    pods = json.loads(next(line for line in out.splitlines() if line.startswith("POD"))[3:])
    assert pods == [[[[["base", [{"nvidia.com/gpu": "1"}]]]]]] * 4


FAIL = """
import os
from airflow.dag_processing.dagbag import DagBag
from medpipe import pipeline
dag = DagBag({dags!r}).dags["medpipe_nightly"]
for task in dag.tasks:
    task.retries = 0
def fail(*_, **__):
    raise ValueError(os.environ["CANARY"]) from KeyError(os.environ["CANARY"])
for name in ("publish", "run_stage", "plan_night"):  # the later fails before the earlier
    setattr(pipeline, name, fail)
    print("STATE", dag.test(run_conf={{"partition": {day!r}}}).state)
"""


def test_an_error_that_quotes_a_note_is_not_quoted(home: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(" ")  # an empty note: no stage loads a model
    env = environment(
        home, MEDPIPE_LANDING=str(tmp_path), MEDPIPE_WAREHOUSE=str(tmp_path / "lake"), CANARY=CANARY, **NO_DEADLINE
    )
    code = FAIL.format(dags=str(ROOT / "dags"), day=DAY)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=home, capture_output=True, text=True, timeout=300)
    out = done.stdout + done.stderr
    assert done.returncode == 0 and out.count("STATE failed") + out.count("STATE DagRunState.FAILED") == 3, out[-2000:]
    assert CANARY not in out
    assert_nowhere_below(home)
    assert out.count("ValueError at medpipe_nightly.py:") + out.count("ValueError at orchestrate.py:") >= 3, (
        "the kind and the place are told"
    )


TEST = """
from airflow.dag_processing.dagbag import DagBag
dag = DagBag({dags!r}).dags["medpipe_nightly"]
run = dag.test(run_conf={{"partition": {day!r}}})
print("STATE", run.state)
"""


def test_rows_equal_those_of_medpipe_run_and_no_text_leaves_the_tables(
    home: Path, samples: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    from tests.tables import tables_of

    landing = tmp_path / "landing" / DAY
    shutil.copytree(samples, landing)
    (landing / "canary.json").write_text(
        json.dumps({"document_id": "c", "text": f"The patient took {CANARY} 5 mg for fever."})
    )
    env = environment(
        home, MEDPIPE_LANDING=str(tmp_path / "landing" / "{date}"), MEDPIPE_WAREHOUSE=str(tmp_path / "dag"),
        MEDPIPE_SHARDS="3", MEDPIPE_SHARD_BYTES="1", OMP_NUM_THREADS="1", **NO_DEADLINE,
    )  # fmt: skip
    out = python(TEST.format(dags=str(ROOT / "dags"), day=DAY), env, home)
    assert "STATE success" in out or "STATE DagRunState.SUCCESS" in out, out[-2000:]
    command = [
        sys.executable,
        "-m",
        "medpipe.cli",
        "run",
        str(landing),
        "--out",
        str(tmp_path / "cli"),
        "--date",
        DAY,
        "--quiet",
    ]
    subprocess.run(command, env=env, cwd=tmp_path, check=True)
    ours, theirs = tables_of(tmp_path / "cli", DAY), tables_of(tmp_path / "dag", DAY)
    assert ours == theirs
    assert any(CANARY in row["text"] for row in ours["documents"])
    # Neither the tasks' output nor the metadata database (XCom, logs, rendered templates) holds a word of the note.
    assert CANARY not in out
    assert_nowhere_below(home)
