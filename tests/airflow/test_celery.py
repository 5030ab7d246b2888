"""Airflow on PostgreSQL and Redis with two Celery workers: one is killed in the middle of a night of 16 shards.

Slow: ``make test-workers``, which needs the distribution's packages ``postgresql`` and ``redis-server``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.providers.celery", reason="no Celery provider (pip install '.[airflow,celery]')")

import psutil

from tests.tables import tables_of

pytestmark = pytest.mark.workers

ROOT = Path(__file__).parent.parent.parent
DAY = "2026-01-31"
LIMIT = 1500.0  # seconds for a night
SHARDS = 16


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("airflow_celery", ROOT / "deploy" / "airflow_celery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    script = load_script()
    for program in ("postgres", "initdb", "redis-server"):
        try:
            script.find_program(program)
        except SystemExit as missing:
            pytest.skip(str(missing))
    home = Path(tempfile.mkdtemp(prefix="medpipe-celery-"))
    home.chmod(0o755)  # the user postgres has to get to its files
    (home / "landing" / DAY).mkdir(parents=True)
    # The DAG's schedule is on: the run of the interval that has just ended is the first to come, and needs a note.
    for days in (1, 2):
        folder = home / "landing" / str(datetime.now(UTC).date() - timedelta(days=days))
        folder.mkdir()
        (folder / "note.json").write_text('{"text": "She has a fever."}')
    more = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MEDPIPE_LANDING": str(home / "landing" / "{date}"),
        "MEDPIPE_WAREHOUSE": str(home / "lake"),
        "MEDPIPE_SHARDS": str(SHARDS),
        "MEDPIPE_SHARD_BYTES": "1",
        "MEDPIPE_CPU_STAGES": '["ingest"]',
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
    }
    one = script.Cluster(home, more=more)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(home, ignore_errors=True)


def kill_worker(cluster: Any, queue: str) -> None:
    """Kills a worker with all that it has started, as the loss of its machine does."""
    worker = psutil.Process(cluster.processes[f"worker-{queue}"].pid)
    for process in [worker, *worker.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    cluster.processes[f"worker-{queue}"].wait(30)


def test_a_worker_is_killed_and_the_rows_are_those_of_medpipe_run(cluster: Any, samples: Path, tmp_path: Path) -> None:
    landing = cluster.home / "landing" / DAY
    shutil.copytree(samples, landing, dirs_exist_ok=True)
    real = Path(os.environ.get("MEDPIPE_EHR") or ROOT.parent / "shared" / "ehr") / "fhir"
    if real.is_dir():  # real FHIR files, where they are at hand
        shutil.copytree(real, landing / "fhir")
    token = cluster.call("/auth/token")["access_token"]
    body = {"logical_date": None, "conf": {"partition": DAY}}
    run = cluster.call("/api/v2/dags/medpipe_nightly/dagRuns", token, body)["dag_run_id"]
    path = f"/api/v2/dags/medpipe_nightly/dagRuns/{run}"
    killed_at: set[tuple[str, int]] = set()
    state = "unknown"
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, TimeoutError):
            state = cluster.call(path, token)["state"]
            tasks = cluster.call(f"{path}/taskInstances?limit=200", token)["task_instances"]
            if state in ("success", "failed"):
                break
            running = {(one["task_id"], one["map_index"]) for one in tasks if one["state"] == "running"}
            on_gpu = {one for one in running if one[0] in ("process.tag", "process.relate", "process.summarize")}
            if not killed_at and on_gpu and sum(one["state"] == "success" for one in tasks) > SHARDS + 6:
                kill_worker(cluster, "gpu")
                killed_at = on_gpu
                time.sleep(5)
                cluster.start_worker("gpu")  # as its service manager does
        time.sleep(1)
    ended = {(one["task_id"], one["map_index"]): one for one in tasks}
    assert state == "success", {key: one["state"] for key, one in ended.items()}
    assert killed_at, "the worker was killed while it ran a task"
    assert any(ended[key]["try_number"] > 1 for key in killed_at), "what it ran was tried again"
    for stage in ("ingest", "tag", "relate", "summarize"):
        mapped = [one for (task, _), one in ended.items() if task == f"process.{stage}"]
        assert len(mapped) == SHARDS
        assert {one["queue"] for one in mapped} == {"cpu" if stage == "ingest" else "gpu"}
        workers = {one["hostname"] for one in mapped}
        assert workers and all(workers)
    command = [sys.executable, "-m", "medpipe.cli", "run", str(landing), "--out", str(tmp_path / "cli"), "--date", DAY]
    subprocess.run([*command, "--quiet"], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=True)
    rows = tables_of(cluster.home / "lake", DAY)
    assert rows == tables_of(tmp_path / "cli", DAY)
    assert len(rows["documents"]) >= SHARDS
    print(json.dumps({"killed at": sorted(killed_at), "documents": len(rows["documents"])}))
