"""Airflow with the CeleryExecutor on one machine, for a person to try and for the tests: no Docker needed.

Starts PostgreSQL and Redis (of the distribution's packages ``postgresql`` and ``redis-server``), Airflow's API server,
scheduler and DAG processor, and two workers, one on the queue ``cpu`` and one on ``gpu``. All of it listens on loopback
and ends with this program. On many machines the same processes run under their service managers; the settings are
those of ``environment``, with addresses that all machines reach.

    python deploy/airflow_celery.py [--home FOLDER] [--port 8080]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
QUEUES = {"cpu": 1, "gpu": 1}  # queue -> tasks that its worker runs at a time; for ``gpu``: one process a device
READY_SECONDS = 240


class Cluster:
    """The processes of one Airflow.

    Args:
        home: Airflow's home, with the database and the logs; it is used again if it is there.
        port: of the API server; 0: any that is free.
        more: variables for all processes: settings of medpipe and of Airflow.
    """

    def __init__(self, home: Path, *, port: int = 0, more: dict[str, str] | None = None) -> None:
        self.home = home.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.ports = {name: free_port() for name in ("postgres", "redis", "triggerer", *QUEUES)}
        self.ports["api"] = port or free_port()
        self.url = f"http://127.0.0.1:{self.ports['api']}"
        self.secrets = load_secrets(self.home / "secrets.json")
        self.env = os.environ | environment(self.home, self.ports, self.secrets) | (more or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts everything and returns when the DAG can be run."""
        self.start_postgres()
        self.start_redis()
        self.airflow("db", "migrate")
        self.airflow("pools", "set", "gpu", str(QUEUES["gpu"]), "a slot for each GPU")
        for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
            self.launch(name, [*AIRFLOW, name])
        for queue in QUEUES:
            self.start_worker(queue)
        self.wait_until_ready()

    def start_postgres(self) -> None:
        """Starts the database server; its files lie below the home."""
        data = self.home / "postgres"
        if not (data / "PG_VERSION").exists():
            data.mkdir(exist_ok=True)
            password = data.parent / "postgres-password"
            password.write_text(self.secrets["postgres"], encoding="utf-8")
            if os.geteuid() == 0:
                shutil.chown(data, "postgres")
                shutil.chown(password, "postgres")
            options = ["-A", "scram-sha-256", "-U", "airflow", f"--pwfile={password}", "--encoding=UTF8"]
            run([*as_postgres(), find_program("initdb"), "-D", str(data), *options])
            password.unlink()
        server = [find_program("postgres"), "-D", str(data), "-p", str(self.ports["postgres"])]
        self.launch("postgres", [*as_postgres(), *server, "-h", "127.0.0.1", "-c", "unix_socket_directories="])
        wait_for_port(self.ports["postgres"], "PostgreSQL")

    def start_redis(self) -> None:
        """Starts the broker; it keeps nothing on disk: Airflow's state is in the database."""
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", self.secrets["redis"]]
        self.launch("redis", [find_program("redis-server"), "--port", str(self.ports["redis"]), *options])
        wait_for_port(self.ports["redis"], "Redis")

    def start_worker(self, queue: str) -> None:
        """Starts the worker of a queue, at first and when it has died."""
        command = [*AIRFLOW, "celery", "worker", "-q", queue, "-c", str(QUEUES[queue]), "-H", f"{queue}@%h"]
        self.launch(f"worker-{queue}", command, AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(self.ports[queue]))

    def airflow(self, *command: str) -> None:
        """Runs a command of Airflow to its end."""
        run([*AIRFLOW, *command], env=self.env, cwd=self.home)

    def launch(self, name: str, command: list[str], **more: str) -> None:
        """Starts a process in a group of its own, with its output in the home."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.env | more,
                cwd=self.home,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Waits until the API server answers and knows the DAG."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended; see {self.home / name}.log")
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError, KeyError):
                token = self.call("/auth/token")["access_token"]
                self.call("/api/v2/dags/medpipe_nightly", token)
                return
            time.sleep(1)
        raise SystemExit(f"Airflow was not ready in {READY_SECONDS} s; see the logs in {self.home}")

    def call(self, path: str, token: str | None = None, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Calls the REST API."""
        request = urllib.request.Request(f"{self.url}{path}", method="GET" if body is None else "POST")
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, None if body is None else json.dumps(body).encode(), timeout=60) as answer:
            return dict(json.loads(answer.read()))

    def supervise(self) -> None:
        """Starts workers that have died again, as a service manager would, until the program is interrupted."""
        while True:
            for queue in QUEUES:
                if self.processes[f"worker-{queue}"].poll() is not None:
                    print(f"The worker of the queue {queue} has ended; it is started again.", file=sys.stderr)
                    self.start_worker(queue)
            time.sleep(2)

    def stop(self) -> None:
        """Ends all processes, the servers last."""
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            # SIGINT is PostgreSQL's fast shutdown, and ends Airflow's and Celery's processes warmly.
            for kind, patience in ((signal.SIGINT, 20), (signal.SIGKILL, 10)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, kind)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break


AIRFLOW = [sys.executable, "-m", "airflow"]


def environment(home: Path, ports: dict[str, int], keys: dict[str, str]) -> dict[str, str]:
    """Returns the variables that all components share; on many machines, with the servers' names for 127.0.0.1."""
    database = f"airflow:{keys['postgres']}@127.0.0.1:{ports['postgres']}/postgres"
    url = f"http://127.0.0.1:{ports['api']}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # on loopback, for one person
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports["api"]),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{database}",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{keys['redis']}@127.0.0.1:{ports['redis']}/0",
        "AIRFLOW__OPERATORS__DEFAULT_QUEUE": "cpu",
        # Longer than any task may take (the DAG's execution_timeout): then the broker gives a task to another worker.
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(7 * 3600),
        # A worker takes no task that it cannot start: those would be lost with it until the time-out.
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["triggerer"]),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        # How soon a task of a worker that died is tried again: no sign of life, or taken from the queue and not begun.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "300",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
    }


def load_secrets(path: Path) -> dict[str, str]:
    """Returns the keys and passwords of a home; made at random when it is new."""
    if not path.exists():
        made = {name: secrets.token_hex(32) for name in ("postgres", "redis", "jwt")}
        made["fernet"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        path.touch(mode=0o600)
        path.write_text(json.dumps(made), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def find_program(name: str) -> str:
    """Returns the path of a program; Debian keeps PostgreSQL's off the search path."""
    places = [os.environ.get("PATH", ""), *(str(one) for one in sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise SystemExit(f"{name} is not installed: on Debian, `apt-get install postgresql redis-server`")
    return found


def as_postgres() -> list[str]:
    """Returns what goes before a command of PostgreSQL, which refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def run(command: list[str], **options: Any) -> None:
    """Runs a command to its end; where it fails, what it said is shown."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def free_port() -> int:
    """Returns a port of loopback on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for_port(port: int, name: str) -> None:
    """Waits until something listens on a port of loopback."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise SystemExit(f"{name} did not start")


def main() -> None:
    """Starts the cluster and keeps it until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Airflow with CeleryExecutor, PostgreSQL and Redis on this machine.")
    parser.add_argument("--home", type=Path, default=ROOT / ".airflow-celery", help="database, logs, secrets")
    parser.add_argument("--port", type=int, default=8080, help="of the web page and API")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = Cluster(options.home, port=options.port)
    try:
        cluster.start()
        print(f"Airflow is at {cluster.url}; logs in {cluster.home}. Ctrl-C stops everything.")
        cluster.supervise()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
