"""The partition of a night, for the four ways of starting it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from medpipe.errors import MedpipeError
from medpipe.partition import resolve_partition

NIGHT = datetime(2026, 2, 1, 2, 0, 5, tzinfo=UTC)


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
