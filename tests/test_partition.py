"""The partition of a night, for all ways of starting it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from medpipe.errors import MedpipeError
from medpipe.partition import partitions_of_run, resolve_partition

NIGHT = datetime(2026, 2, 1, 2, 0, 5, tzinfo=UTC)


def run_of(run_type: str, **facts: Any) -> SimpleNamespace:
    """A DAG run as Airflow gives it to a task."""
    none = dict.fromkeys(("logical_date", "data_interval_start", "partition_key", "conf"))
    return SimpleNamespace(run_type=run_type, run_after=NIGHT, **none | facts)


def test_scheduled_run_works_on_the_day_of_its_interval() -> None:
    interval = datetime(2026, 1, 31, 2, tzinfo=UTC)
    assert (
        resolve_partition({"partition": None}, run_after=NIGHT, data_interval_start=interval, logical_date=interval)
        == "2026-01-31"
    )


def test_backfill_works_on_the_day_of_its_interval() -> None:
    interval = datetime(2025, 6, 3, 2, tzinfo=UTC)
    assert resolve_partition({}, run_after=NIGHT, data_interval_start=interval, logical_date=interval) == "2025-06-03"


def test_manual_run_works_on_the_day_it_names_or_the_last_whole_one() -> None:
    assert resolve_partition({"partition": "2024-02-29"}, run_after=NIGHT) == "2024-02-29"
    assert resolve_partition({"partition": None}, run_after=NIGHT) == "2026-01-31"


def test_manual_run_with_a_logical_date_works_on_that_day_if_it_is_over() -> None:
    # Airflow's page puts the moment of the click there; the day of the click is not over.
    assert resolve_partition({"partition": None}, run_after=NIGHT, logical_date=NIGHT) == "2026-01-31"
    assert resolve_partition({}, run_after=NIGHT, logical_date=datetime(2026, 3, 1, tzinfo=UTC)) == "2026-01-31"
    assert resolve_partition({}, run_after=NIGHT, logical_date=datetime(2025, 6, 3, 14, tzinfo=UTC)) == "2025-06-03"


def test_a_scheduled_run_is_not_moved_by_the_clock() -> None:
    midnight = datetime(2026, 2, 1, 0, tzinfo=UTC)
    assert resolve_partition({}, run_after=midnight, data_interval_start=midnight) == "2026-02-01"


def test_asset_triggered_run_works_on_its_key_or_the_last_whole_day() -> None:
    assert resolve_partition({}, run_after=NIGHT, partition_key="2026-01-15") == "2026-01-15"
    assert resolve_partition({}, run_after=NIGHT) == "2026-01-31"


def test_days_are_those_of_utc() -> None:
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    assert resolve_partition({}, run_after=datetime(2026, 2, 1, 3, tzinfo=kathmandu)) == "2026-01-30"


@pytest.mark.parametrize("value", ["yesterday", "2026-2-1", "20260201", "2026-02-30", "../../etc"])
def test_no_date(value: str) -> None:
    with pytest.raises(MedpipeError) as caught:
        resolve_partition({"partition": value}, run_after=NIGHT)
    assert caught.value.code == "DATE_INVALID"


@pytest.mark.parametrize(
    ("run_type", "days", "expected"),
    [
        ("asset_triggered", [], ["2026-01-31"]),
        ("asset_triggered", ["2026-01-03"], ["2026-01-03"]),
        ("asset_triggered", ["2026-01-03", "2026-01-03"], ["2026-01-03"]),
        # Events that came while a night was running are given to one run: the last day first, no day is lost.
        ("asset_triggered", ["2026-01-04", "2026-01-02", "2026-01-03"], ["2026-01-04", "2026-01-02", "2026-01-03"]),
        ("scheduled", [], ["2026-01-30"]),
        ("backfill", [], ["2026-01-30"]),
        ("manual", [], ["2026-01-31"]),
    ],
)
def test_a_run_of_airflow(run_type: str, days: list[str], expected: list[str]) -> None:
    interval = NIGHT - timedelta(days=2)
    dates = {"data_interval_start": interval, "logical_date": interval} if run_type in ("scheduled", "backfill") else {}
    extras: list[dict[str, Any]] = [{"partition": day} for day in days]
    assert partitions_of_run(run_of(run_type, **dates), {"partition": None}, [*extras, {}]) == expected


def test_days_of_events_that_triggered_no_run_follow() -> None:
    missed = [{"partition": day} for day in ("2026-01-02", "today", None, "2026-01-03")] + [{}]
    interval = {"data_interval_start": NIGHT - timedelta(days=2)}
    days = partitions_of_run(run_of("scheduled", **interval), {}, [], missed)
    assert days == ["2026-01-30", "2026-01-02", "2026-01-03"]
    days = partitions_of_run(run_of("asset_triggered"), {}, [{"partition": "2026-01-02"}], missed)
    assert days == ["2026-01-02", "2026-01-03"]


def test_a_manual_run_on_the_page_has_an_interval_that_is_not_meant() -> None:
    run = run_of("manual", data_interval_start=NIGHT - timedelta(days=9), logical_date=NIGHT)
    assert partitions_of_run(run, {}) == ["2026-01-31"]


def test_the_parameter_and_the_key_win_over_events() -> None:
    extras = [{"partition": "2026-01-03"}]
    assert partitions_of_run(run_of("manual"), {"partition": "2026-01-01"}, extras) == ["2026-01-01", "2026-01-03"]
    run = run_of("asset_triggered", partition_key="2026-01-02")
    assert partitions_of_run(run, {}, extras) == ["2026-01-02", "2026-01-03"]


def test_an_event_that_names_no_date() -> None:
    with pytest.raises(MedpipeError, match="DATE_INVALID"):
        partitions_of_run(run_of("asset_triggered"), {}, [{"partition": "today"}])
