"""A real Airflow (scheduler, API server, DAG processor, triggerer on SQLite, LocalExecutor) runs all our DAGs.

A night of real files, nights whose tasks are killed, nights that an asset event begins, a late one and a failed one,
maintenance, and retraining with a little model.

Slow: ``make test-airflow``. Everything listens on loopback, and all processes are stopped at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
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
KILLS = int(os.environ.get("MEDPIPE_KILLS", "6"))  # of tasks of one night


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Airflow:
    """``airflow standalone`` in a process group of its own."""

    def __init__(self, home: Path, hook: str) -> None:
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
            "MEDPIPE_SHARDS": "3", "MEDPIPE_SHARD_BYTES": "1", "MEDPIPE_RETRY_MINUTES": "0.05",
            # Every night is late after 15 seconds, and all that is told is heard.
            "MEDPIPE_NIGHTLY_DEADLINE_HOURS": str(15 / 3600), "MEDPIPE_ALERT_URL": hook,
            "MEDPIPE_REGISTRY": str(home / "models"), "MEDPIPE_HOLD": json.dumps([str(home / "corpora/notes/dev.jsonl")]),
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

    def start(self, dag: str, **conf: Any) -> str:
        """Triggers a manual run and returns its id."""
        body = {"logical_date": None, "conf": conf}
        return str(self.call(f"/api/v2/dags/{dag}/dagRuns", body)["dag_run_id"])

    def state(self, dag: str, run: str) -> str:
        """Returns a run's state; a busy machine answers late."""
        with contextlib.suppress(TimeoutError, urllib.error.URLError):
            return str(self.call(f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])
        return "unknown"

    def tasks(self, dag: str, run: str) -> dict[tuple[str, int], dict[str, Any]]:
        """Returns a run's task instances by name and map index."""
        found = self.call(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {(one["task_id"], one["map_index"]): one for one in found}

    def wait(self, dag: str, run: str, each: Callable[[], None] = lambda: None, pause: float = 3) -> dict[str, Any]:
        """Waits for a run's end, calling ``each`` in between; returns its state and task instances."""
        state = "unknown"
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and (state := self.state(dag, run)) not in ("success", "failed"):
            each()
            time.sleep(pause)
        return {"state": state, "tasks": self.tasks(dag, run)}

    def run_night(self, day: str = DAY) -> dict[str, Any]:
        """Triggers a night by hand and waits for its end."""
        return self.wait("medpipe_nightly", self.start("medpipe_nightly", partition=day))

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
def told() -> Iterator[tuple[str, list[str]]]:
    """A web hook on loopback: its address, and what it is told."""
    messages: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", messages
    server.shutdown()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, told: tuple[str, list[str]]) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "landing" / DAY).mkdir(parents=True)
    one = Airflow(home, told[0])
    try:
        one.wait_until_ready()
        yield one
    finally:
        one.stop()


def medpipe(*command: Any, cwd: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "medpipe.cli", *map(str, command)], env=env, cwd=cwd, check=True)


def assert_no_note_text(airflow: Airflow) -> None:
    """Logs, database (XCom, rendered fields, events): the note's words stand in the tables and nowhere else."""
    tables, landing = (airflow.home / name for name in ("lake", "landing"))
    for path in airflow.home.rglob("*"):
        if path.is_file() and not path.is_relative_to(tables) and not path.is_relative_to(landing):
            assert path.suffix == ".jsonl" or CANARY.encode() not in path.read_bytes(), path


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
    assert states.pop(("other_days", -1)) == "skipped"
    assert set(states.values()) == {"success"}
    for stage in ("ingest", "tag", "relate", "summarize"):
        mapped = [one for (task, index), one in night["tasks"].items() if task == f"process.{stage}"]
        assert {one["map_index"] for one in mapped} == {0, 1, 2}
        assert {(one["pool"], one["queue"]) for one in mapped} == {("gpu", "gpu")}
    medpipe("run", landing, "--out", tmp_path / "cli", "--date", DAY, "--quiet", cwd=tmp_path)
    assert tables_of(Path(airflow.env["MEDPIPE_WAREHOUSE"]), DAY) == tables_of(tmp_path / "cli", DAY)
    tables = Path(airflow.env["MEDPIPE_WAREHOUSE"])
    assert any(CANARY in row["text"] for row in tables_of(tables, DAY)["documents"])
    kept = [path for path in airflow.home.rglob("*") if path.is_file() and "log" in path.parts[len(airflow.home.parts)]]
    assert any(path.stat().st_size for path in kept), "there are logs to look into"
    assert_no_note_text(airflow)
    events = airflow.call("/api/v2/assets/events?limit=100")["asset_events"]
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


# --- killed, begun by an event, late, failed ------------------------------------------------


def land(airflow: Airflow, day: str, notes: int = 1) -> Path:
    """Puts invented notes into the landing folder of a day."""
    folder = airflow.home / "landing" / day
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(notes):
        text = f"Note {number} of {day}: asthma with cough. No fever. She took {CANARY} {number + 1} mg daily."
        (folder / f"{number}.json").write_text(json.dumps({"document_id": f"{day}-{number}", "text": text}))
    return folder


def task_processes() -> dict[str, int]:
    """The processes that run a task, by the id of its instance, which Airflow writes into their titles."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            title = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if title.startswith("airflow worker -- "):
                found[title.removeprefix("airflow worker -- ")] = int(path.parent.name)
    return found


def test_tasks_killed_at_random_instants(airflow: Airflow, tmp_path: Path) -> None:
    day = "2026-02-03"
    landing = land(airflow, day, notes=6)
    dice = random.Random(7)
    run = airflow.start("medpipe_nightly", partition=day)
    killed: list[str] = []

    def kill_one() -> None:
        own = {one["id"]: task for (task, _), one in airflow.tasks("medpipe_nightly", run).items()}
        running = {own[key]: pid for key, pid in task_processes().items() if key in own}
        # Each task once: a handful of instants in different stages, and no task uses up its attempts.
        fresh = sorted(task for task in running if task not in killed)
        if len(killed) < KILLS and fresh:
            task = dice.choice(fresh)
            time.sleep(dice.random() * 3)
            with contextlib.suppress(ProcessLookupError):
                os.kill(running[task], signal.SIGKILL)
                killed.append(task)

    night = airflow.wait("medpipe_nightly", run, kill_one, pause=0.3)
    assert night["state"] == "success", {key: one["state"] for key, one in night["tasks"].items()}
    tried = sum(one["try_number"] - 1 for one in night["tasks"].values() if one["state"] == "success")
    print(f"killed {killed}, {tried} tasks were tried again")
    assert len(killed) >= min(KILLS, 4) and tried >= 3
    medpipe("run", landing, "--out", tmp_path / "cli", "--date", day, "--quiet", cwd=tmp_path)
    assert tables_of(airflow.home / "lake", day) == tables_of(tmp_path / "cli", day)
    assert not list((airflow.home / "lake" / "_work" / f"dt={day}").glob("*/plan.json"))


def test_an_event_of_the_landing_asset_begins_the_night_of_its_day(airflow: Airflow) -> None:
    days = ["2025-12-30", "2025-12-31"]
    for day in days:
        land(airflow, day)
    [asset] = airflow.call("/api/v2/assets?name_pattern=medpipe.landing")["assets"]
    for day in days:  # at once: Airflow may give both events to one run, or drop the second
        airflow.call("/api/v2/assets/events", {"asset_id": asset["id"], "extra": {"partition": day}})
    manifests = [airflow.home / "lake" / "_manifests" / f"dt={day}.json" for day in days]
    deadline = time.monotonic() + LIMIT / 2
    while time.monotonic() < deadline and not all(path.exists() for path in manifests):
        time.sleep(3)
    assert all(path.exists() for path in manifests), "every day that was named was worked on"
    runs = airflow.call("/api/v2/dags/medpipe_nightly/dagRuns?limit=100")["dag_runs"]
    by_event = [one for one in runs if one["run_type"] == "asset_triggered"]
    assert 1 <= len(by_event) <= 2
    for one in runs:
        if one["state"] not in ("success", "failed"):
            airflow.wait("medpipe_nightly", one["dag_run_id"])
    assert {airflow.state("medpipe_nightly", one["dag_run_id"]) for one in by_event} == {"success"}


def test_a_late_night_is_told_of_with_its_partition(airflow: Airflow, told: tuple[str, list[str]]) -> None:
    """Those before took longer than the deadline of this test."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any("is late" in one for one in told[1]):
        time.sleep(1)
    late = [one for one in told[1] if "medpipe_nightly is late" in one]
    assert any(f"for the partition {DAY}" in one and "Look at its grid" in one for one in late), told[1]


def test_a_failed_night_is_told_of_with_its_partition(airflow: Airflow, told: tuple[str, list[str]]) -> None:
    night = airflow.run_night("2025-01-01")  # a day without a landing folder
    assert night["state"] == "failed" and night["tasks"]["plan", -1]["try_number"] == 3
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any("failed for the partition 2025-01-01" in one for one in told[1]):
        time.sleep(1)
    [failed] = [one for one in told[1] if "failed for the partition 2025-01-01" in one]
    assert "last task plan" in failed and "clear the failed task" in failed


# --- maintenance and retraining -------------------------------------------------------------


def test_maintenance_does_a_partition_again(airflow: Airflow, tmp_path: Path) -> None:
    """With another profile, whose name is part of the model's: what the nights made is made by another model."""
    day, lake = "2026-02-03", airflow.home / "lake"
    before = tables_of(lake, day)
    old = lake / "_work" / f"dt={DAY}" / "abandoned"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    conf = {"profile": "fast", "maintenance_partitions": 1}
    done = airflow.wait("medpipe_maintenance", airflow.start("medpipe_maintenance", **conf))
    assert done["state"] == "success", {key: one["state"] for key, one in done["tasks"].items()}
    assert not old.exists()
    after = tables_of(lake, day)
    assert {row["model"].partition("@")[0] for row in after["entities"]} == {"tagger+fast"}
    assert [row["entity_id"] for row in after["entities"]] == [row["entity_id"] for row in before["entities"]]
    assert [row["text"] for row in after["documents"]] == [row["text"] for row in before["documents"]]
    medpipe("schema", "check", "--warehouse", lake, cwd=tmp_path)
    assert_no_note_text(airflow)


def test_retraining_puts_a_better_model_into_the_registry(airflow: Airflow) -> None:
    from medpipe.learn import registry
    from medpipe.learn.tagger import train
    from tests.learn.test_continual import FAST, corrections, write_corpus, write_lines

    corpora, folder = airflow.home / "corpora", airflow.home / "models" / "tagger"
    write_corpus(corpora / "notes" / "train.jsonl", 0, 80)
    write_corpus(corpora / "notes" / "dev.jsonl", 500, 30)
    little = {
        "name": "little", "version": "0.0.1", "labels": ["SYMPTOM", "DRUG"],
        "network": {"buckets": 512, "width": 8, "hidden": 12, "layers": 1, "dropout": 0.1},
        "training": {"epochs": 6, "learning_rate": 2e-2, "average_decay": 0.9}, "sampling": {"batch_tokens": 128},
        "corpora": [{"folder": "notes", "labels": {"SYMPTOM": "SYMPTOM", "DRUG": "DRUG"}}],
    }  # fmt: skip
    train(little, corpora=corpora, out=folder / "0.0.1", device="cpu", resume=False, report=lambda line: None)
    registry.use(folder, "0.0.1")
    rows = corrections()
    for row in rows:
        row["text"] = row["text"].replace(" daily", f" {CANARY} daily")
    write_lines(airflow.home / "corrections.jsonl", rows)
    config = airflow.home / "fast.toml"
    config.write_text("[continual]\n" + "".join(f"{name} = {value}\n" for name, value in FAST.items()))
    conf = {"corrections": str(airflow.home / "corrections.jsonl"), "config": str(config), "replay": False}
    done = airflow.wait("medpipe_retrain", airflow.start("medpipe_retrain", **conf))
    assert done["state"] == "success"
    assert {key: one["state"] for key, one in done["tasks"].items()} == {
        (task, -1): "success" for task in ("plan_round", "train", "promote")
    }
    [entry] = registry.history(folder)
    assert entry["promoted"] and registry.current(folder) == folder / entry["version"]
    events = airflow.call("/api/v2/assets/events?limit=100&order_by=-timestamp")["asset_events"]
    [event] = [one for one in events if one["name"] == "medpipe.model.tagger"]
    assert event["extra"]["version"] == entry["version"]
    assert_no_note_text(airflow)
