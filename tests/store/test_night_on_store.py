"""A night of the real DAG from and into an S3 server, with the credentials of a connection of Airflow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe.lake import warehouse
from medpipe.storage import as_location, on_store
from tests.dags.test_medpipe_nightly import CANARY, DAY, NO_DEADLINE, TEST, assert_nowhere_below, environment
from tests.store.conftest import ROOT

pytestmark = pytest.mark.airflow
SECRET = "canary-secret-of-the-store"


def test_a_night_with_a_connection(s3_environment: dict[str, str], bucket: str, tmp_path: Path) -> None:
    notes = [{"document_id": f"n{number}", "text": f"{CANARY} has asthma with cough {number}."} for number in range(3)]
    lines = "".join(json.dumps(note) + "\n" for note in notes)
    on_store(as_location(f"{bucket}/landing/{DAY}/notes.ndjson")).write_bytes(lines.encode())
    connection = {
        "conn_type": "aws", "login": "invented", "password": SECRET,
        "extra": {"endpoint_url": s3_environment["AWS_ENDPOINT_URL"], "region_name": "us-east-1"},
    }  # fmt: skip
    told = {
        "MEDPIPE_WAREHOUSE": f"{bucket}/lake", "MEDPIPE_LANDING": f"{bucket}/landing/{{date}}", "MEDPIPE_DEVICE": "cpu",
        "MEDPIPE_STORAGE_CONNECTION": "hospital_store", "AIRFLOW_CONN_HOSPITAL_STORE": json.dumps(connection),
    }  # fmt: skip
    home = tmp_path / "airflow"
    home.mkdir()
    env = {name: value for name, value in environment(home, **told, **NO_DEADLINE).items() if not name.startswith("AWS_")}
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=env, cwd=home, check=True, capture_output=True)
    code = TEST.format(dags=str(ROOT / "dags"), day=DAY)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=home, capture_output=True, text=True, timeout=500)
    out = done.stdout + done.stderr
    assert done.returncode == 0 and "STATE" in out and "success" in out.rsplit("STATE", 1)[1].lower(), out[-3000:]
    assert SECRET not in out and CANARY not in out
    assert_nowhere_below(home)
    for path in home.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path.name
    root = as_location(f"{bucket}/lake")
    assert warehouse.read_table(root, "documents", partition=DAY).num_rows == 3
    assert warehouse.read_table(root, "entities", partition=DAY).num_rows >= 6 and warehouse.check(root) == []
    assert not [key for key in on_store(root).objects() if "/_work/" in key]
    shutil.rmtree(home)
