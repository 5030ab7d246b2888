"""What a person is told of a run that failed or is late: the partition, what to do, and no more."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from medpipe import alerts
from tests.test_partition import NIGHT, run_of


def context(run: Any, dag_id: str = "medpipe_nightly", **more: Any) -> dict[str, Any]:
    return {"dag": SimpleNamespace(dag_id=dag_id), "dag_run": run, "run_id": "manual__1"} | more


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.ERROR)
    return caplog


@pytest.fixture
def hook() -> Iterator[tuple[str, list[bytes]]]:
    """A web hook on loopback and what it was sent."""
    sent: list[bytes] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", sent
    server.shutdown()


def test_a_failed_night_names_its_partition_and_what_to_do(
    said: pytest.LogCaptureFixture, hook: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDPIPE_ALERT_URL", hook[0])
    run = run_of("manual", conf={"partition": "2026-01-15"})
    alerts.run_failed(context(run, ti=SimpleNamespace(task_id="process.tag")))
    text = said.records[0].getMessage()
    for part in ("medpipe_nightly failed", "partition 2026-01-15", "process.tag", "manual__1", "clear the failed task"):
        assert part in text
    assert [json.loads(body) for body in hook[1]] == [{"text": text}]


@pytest.mark.parametrize(
    ("run", "extras", "day"),
    [
        (run_of("scheduled", data_interval_start=NIGHT.replace(month=1, day=5)), [], "2026-01-05"),
        (run_of("asset_triggered"), [{"partition": "2026-01-03"}], "2026-01-03"),
        (run_of("manual"), [], "2026-01-31"),
        (run_of("manual", conf={"partition": "soon"}), [], "DATE_INVALID"),
    ],
    ids=["scheduled", "asset", "manual", "invalid"],
)
def test_every_kind_of_run_is_named(run: Any, extras: list[Any], day: str, said: pytest.LogCaptureFixture) -> None:
    events = {"medpipe.landing": [SimpleNamespace(extra=extra) for extra in extras]}
    alerts.run_failed(context(run, triggering_asset_events=events))
    assert day in said.records[0].getMessage()


@pytest.mark.parametrize("dag_id", ["medpipe_maintenance", "medpipe_retrain"])
def test_the_other_dags_have_no_partition_but_say_what_to_do(dag_id: str, said: pytest.LogCaptureFixture) -> None:
    alerts.run_failed(context(run_of("scheduled"), dag_id))
    text = said.records[0].getMessage()
    assert f"{dag_id} failed (run" in text and "partition 20" not in text and "clear the failed task" in text


def late(**changes: Any) -> dict[str, Any]:
    """What Airflow's triggerer gives: JSON, dates as text."""
    run = vars(run_of("scheduled", data_interval_start=NIGHT.replace(month=1, day=30)))
    facts = {"dag_id": "medpipe_nightly", "dag_run_id": "scheduled__1"} | run | changes
    return {"dag_run": json.loads(json.dumps(facts, default=lambda one: one.isoformat())),
            "deadline": {"id": "1", "deadline_time": NIGHT}}  # fmt: skip


def test_a_late_night_names_its_partition_and_what_to_do(said: pytest.LogCaptureFixture) -> None:
    asyncio.run(alerts.run_late(late()))
    text = said.records[0].getMessage()
    for part in ("medpipe_nightly is late", "partition 2026-01-30", "scheduled__1", "done by 2026-02-01", "pool"):
        assert part in text


def test_a_late_night_of_an_asset_event_is_not_given_a_wrong_day(said: pytest.LogCaptureFixture) -> None:
    asyncio.run(alerts.run_late(late(run_type="asset_triggered", data_interval_start=None)))
    assert "the partition that its asset event names" in said.records[0].getMessage()


def test_a_web_hook_that_fails_is_told_without_its_address(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDPIPE_ALERT_URL", "http://127.0.0.1:1/secret")
    alerts.tell("medpipe_nightly failed")
    assert len(said.records) == 2 and "secret" not in said.text and "did not take" in said.text
