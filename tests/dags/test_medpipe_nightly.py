"""The nightly DAG: whole, thin, in the right pools; and its rows are those of ``medpipe run``."""

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


def environment(home: Path, **more: str) -> dict[str, str]:
    return os.environ | {
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False", "PYTHONPATH": str(ROOT), "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    } | more  # fmt: skip


def python(code: str, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow home with an empty database and the pool of the GPU."""
    folder = tmp_path_factory.mktemp("airflow")
    for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "one slot a GPU"]):
        subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=environment(folder),
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


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
heavy = [name for name in ("torch", "pandas", "pyarrow", "torch_geometric", "kubernetes") if name in sys.modules]
dag = bag.dags["medpipe_nightly"]
tasks = {{task.task_id: {{"pool": task.pool, "queue": task.queue, "retries": task.retries, "owner": task.owner,
          "timeout": task.execution_timeout.total_seconds(), "after": sorted(task.upstream_task_ids)}} for task in dag.tasks}}
print("LOOK" + json.dumps({{"errors": bag.import_errors, "seconds": seconds, "heavy": heavy, "tasks": tasks, "tags": sorted(dag.tags), "doc": bool(dag.doc_md),
      "params": sorted(dag.params), "max_active_runs": dag.max_active_runs, "timetable": type(dag.timetable).__name__,
      "outlets": [asset.name for asset in dag.task_dict["publish"].outlets]}}))
"""


def look(home: Path, **more: str) -> dict[str, Any]:
    import json

    out = python(LOOK.format(dags=str(ROOT / "dags")), environment(home, **more), home)
    return dict(json.loads(next(line for line in out.splitlines() if line.startswith("LOOK"))[4:]))


def test_the_dag_is_whole_and_thin(home: Path) -> None:
    seen = look(home)
    assert seen["errors"] == {}
    assert seen["heavy"] == [] and seen["seconds"] < 2, "parsing the DAG must stay light"
    assert seen["timetable"] == "CronDataIntervalTimetable"
    assert seen["max_active_runs"] == 1 and seen["tags"] == ["medpipe"] and seen["doc"]
    assert seen["params"] == ["accept", "landing", "partition", "profile", "warehouse"]
    tasks = seen["tasks"]
    assert set(tasks) == {"plan", "list_shards", *(f"process.{stage}" for stage in STAGES), "publish"}
    for task in tasks.values():
        assert task["retries"] >= 1 and task["owner"] == "medpipe" and task["timeout"] > 0
    for stage in STAGES:
        assert (tasks[f"process.{stage}"]["pool"], tasks[f"process.{stage}"]["queue"]) == ("gpu", "gpu")
    for before, after in zip(
        ["list_shards", *(f"process.{stage}" for stage in STAGES)],
        [*(f"process.{stage}" for stage in STAGES), "publish"],
        strict=True,
    ):
        assert before in tasks[after]["after"]
    assert "medpipe.entities" in seen["outlets"] and len(seen["outlets"]) == 7


def test_a_setting_routes_a_stage_to_cpu_workers(home: Path) -> None:
    tasks = look(home, MEDPIPE_CPU_STAGES='["ingest"]')["tasks"]
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
import runpy
module = runpy.run_path({dag!r})
print("POD" + json.dumps([module["place"](stage)["executor_config"]["pod_override"] for stage in ("ingest", "tag", "relate", "summarize")]))
"""


def test_on_kubernetes_the_pod_of_a_stage_asks_for_a_gpu(home: Path) -> None:
    """With stand-ins for the models of Kubernetes: the provider need not be installed."""
    import json

    env = environment(home, AIRFLOW__CORE__EXECUTOR="KubernetesExecutor")
    out = python(POD.format(dag=str(ROOT / "dags" / "medpipe_nightly.py")), env, home)
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
    env = environment(home, MEDPIPE_LANDING=str(tmp_path), MEDPIPE_WAREHOUSE=str(tmp_path / "lake"), CANARY=CANARY)
    code = FAIL.format(dags=str(ROOT / "dags"), day=DAY)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=home, capture_output=True, text=True, timeout=300)
    out = done.stdout + done.stderr
    assert done.returncode == 0 and out.count("STATE failed") + out.count("STATE DagRunState.FAILED") == 3, out[-2000:]
    assert CANARY not in out
    assert_nowhere_below(home)
    assert out.count("ValueError at medpipe_nightly.py:") >= 3, "the kind and the place are told"


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
        MEDPIPE_SHARDS="3", MEDPIPE_SHARD_BYTES="1", OMP_NUM_THREADS="1",
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
