"""A real Airflow (scheduler, API server, DAG processor on SQLite, LocalExecutor) runs a night of real files.

Slow: ``make test-airflow``. Everything listens on loopback, and all processes are stopped at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow is not installed (pip install '.[airflow]')")

from tests.tables import tables_of

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parent.parent.parent
DAY = "2026-01-31"
LIMIT = 900.0  # seconds for a night
CANARY = "Zyxwvutine"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Airflow:
    """``airflow standalone`` in a process group of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = os.environ | {
            "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1", "AIRFLOW__API__PORT": str(self.port), "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test-" * 4, "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "MEDPIPE_LANDING": str(home / "landing" / "{date}"), "MEDPIPE_WAREHOUSE": str(home / "lake"),
            "MEDPIPE_SHARDS": "3", "MEDPIPE_SHARD_BYTES": "1",
        }  # fmt: skip
        airflow = [sys.executable, "-m", "airflow"]
        for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "one slot a GPU"]):
            subprocess.run([*airflow, *command], env=self.env, cwd=home, check=True, capture_output=True)
        self.log = (home / "standalone.log").open("wb")
        # The executable's own folder first: standalone starts its parts by the name `airflow`.
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        self.process = subprocess.Popen(
            [*airflow, "standalone"],
            env=self.env,
            cwd=home,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.token: str | None = None

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Calls the REST API."""
        request = urllib.request.Request(f"{self.url}{path}", method="GET" if body is None else "POST")
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=120) as answer:
            return json.loads(answer.read())

    def wait_until_ready(self) -> None:
        """Waits until the API answers and the DAG was parsed."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "airflow standalone ended"
            try:
                self.token = self.call("/auth/token")["access_token"]
                self.call("/api/v2/dags/medpipe_nightly")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError, KeyError):
                time.sleep(2)
        raise AssertionError("Airflow was not ready in time")

    def run_night(self) -> dict[str, Any]:
        """Triggers a manual run for DAY, waits for its end and returns its task instances by name and map index."""
        body = {"logical_date": None, "conf": {"partition": DAY}}
        run = self.call("/api/v2/dags/medpipe_nightly/dagRuns", body)["dag_run_id"]
        state = "unknown"
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError, urllib.error.URLError):  # a busy machine answers late
                state = self.call(f"/api/v2/dags/medpipe_nightly/dagRuns/{run}")["state"]
            if state in ("success", "failed"):
                break
            time.sleep(3)
        instances = self.call(f"/api/v2/dags/medpipe_nightly/dagRuns/{run}/taskInstances")["task_instances"]
        return {"state": state, "tasks": {(one["task_id"], one["map_index"]): one for one in instances}}

    def stop(self) -> None:
        """Stops all processes of the group."""
        for kind, patience in ((signal.SIGINT, 15), (signal.SIGTERM, 10), (signal.SIGKILL, 5)):
            try:
                os.killpg(self.process.pid, kind)
                self.process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "landing" / DAY).mkdir(parents=True)
    one = Airflow(home)
    try:
        one.wait_until_ready()
        yield one
    finally:
        one.stop()


def test_a_night_under_a_real_scheduler(airflow: Airflow, samples: Path, tmp_path: Path) -> None:
    landing = Path(airflow.env["MEDPIPE_LANDING"].replace("{date}", DAY))
    shutil.copytree(samples, landing, dirs_exist_ok=True)
    real = Path(os.environ.get("MEDPIPE_EHR") or ROOT.parent / "shared" / "ehr") / "fhir"
    if real.is_dir():  # real FHIR files, where they are at hand
        shutil.copytree(real, landing / "fhir")
    note = {"document_id": "canary", "text": f"The patient took {CANARY} 5 mg for fever."}
    (landing / "canary.json").write_text(json.dumps(note))
    night = airflow.run_night()
    states = {key: one["state"] for key, one in night["tasks"].items()}
    assert night["state"] == "success", states
    assert set(states.values()) == {"success"}
    for stage in ("ingest", "tag", "relate", "summarize"):
        mapped = [one for (task, index), one in night["tasks"].items() if task == f"process.{stage}"]
        assert {one["map_index"] for one in mapped} == {0, 1, 2}
        assert {(one["pool"], one["queue"]) for one in mapped} == {("gpu", "gpu")}
    env = os.environ | {"PYTHONPATH": str(ROOT)}
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
    assert tables_of(Path(airflow.env["MEDPIPE_WAREHOUSE"]), DAY) == tables_of(tmp_path / "cli", DAY)
    # Logs, database (XCom, rendered fields, events): the note's words stand in the tables and nowhere else.
    tables = Path(airflow.env["MEDPIPE_WAREHOUSE"])
    assert any(CANARY in row["text"] for row in tables_of(tables, DAY)["documents"])
    kept = [path for path in airflow.home.rglob("*") if path.is_file() and "log" in path.parts[len(airflow.home.parts)]]
    assert any(path.stat().st_size for path in kept), "there are logs to look into"
    for path in airflow.home.rglob("*"):
        if path.is_file() and not path.is_relative_to(tables) and not path.is_relative_to(landing):
            assert CANARY.encode() not in path.read_bytes(), path
    events = airflow.call("/api/v2/assets/events")["asset_events"]
    extra = {event["name"]: event["extra"] for event in events}
    assert extra["medpipe.documents"]["partition"] == DAY and extra["medpipe.documents"]["rows"] > 12
    assert extra["medpipe.documents"]["schema_version"]


def test_the_same_night_again_changes_nothing(airflow: Airflow) -> None:
    lake = Path(airflow.env["MEDPIPE_WAREHOUSE"])
    before = {path: path.stat().st_mtime_ns for path in lake.rglob("part-0.parquet")}
    night = airflow.run_night()
    assert night["state"] == "success"
    assert night["tasks"]["publish", -1]["state"] == "skipped", "there was nothing new to publish"
    assert {path: path.stat().st_mtime_ns for path in lake.rglob("part-0.parquet")} == before
