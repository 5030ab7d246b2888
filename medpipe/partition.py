"""Which partition a night's run works on, for every way in which Airflow may start it.

Manual and asset-triggered runs of Airflow 3 have no logical date and no data interval. A scheduled run at 02:00 works
on the day before; so does a run that says nothing: the last whole day before it was started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from medpipe.errors import MedpipeError


def resolve_partition(
    params: Mapping[str, Any],
    *,
    run_after: datetime,
    data_interval_start: datetime | None = None,
    logical_date: datetime | None = None,
    partition_key: str | None = None,
    named_by_assets: Iterable[str] = (),
) -> str:
    """Returns the partition, ``YYYY-MM-DD``, from the first of these that is given.

    1. the parameter ``partition`` (manual runs and backfills that name a day);
    2. the run's partition key (partitioned assets);
    3. what the events of the assets that triggered the run name, of several days the last;
    4. the start of the data interval (scheduled runs, backfills);
    5. the logical date, if its day is over when the run is started: Airflow's page of a run by hand puts the moment
       of the click there, and nobody means half a day by it;
    6. the day before ``run_after`` in UTC (manual and asset-triggered runs that name none).

    Raises:
        MedpipeError: DATE_INVALID where the parameter, the key or an event's partition is no date.
    """
    for named in (params.get("partition"), partition_key, max(named_by_assets, default=None)):
        if named:
            return parse_partition(str(named))
    if data_interval_start is not None:
        return data_interval_start.astimezone(UTC).date().isoformat()
    today = run_after.astimezone(UTC).date()
    if logical_date is not None and logical_date.astimezone(UTC).date() < today:
        return logical_date.astimezone(UTC).date().isoformat()
    return (today - timedelta(days=1)).isoformat()


def partitions_of_run(
    run: Any,
    params: Mapping[str, Any],
    extras: Iterable[Mapping[str, Any]] = (),
    missed: Iterable[Mapping[str, Any]] = (),
) -> list[str]:
    """Returns the partitions that an Airflow run is asked for: first the one it works on.

    Others follow where asset events name other days: those want runs of their own.

    Args:
        run: the DAG run; its type, dates and key are read.
        params: its parameters.
        extras: what the asset events that triggered it say (``{"partition": "2026-01-31"}``).
        missed: what events say that triggered no run; those that name no date are passed over.

    Raises:
        MedpipeError: DATE_INVALID.
    """
    named = sorted({parse_partition(str(extra["partition"])) for extra in extras if extra.get("partition")})
    others = {str(extra.get("partition")) for extra in missed if _is_date(str(extra.get("partition")))}
    first = resolve_partition(
        params,
        run_after=run.run_after,
        # By hand, the interval is the whole one before the logical date: not the day that was asked for.
        data_interval_start=run.data_interval_start if run.run_type in ("scheduled", "backfill") else None,
        logical_date=run.logical_date,
        partition_key=getattr(run, "partition_key", None),
        named_by_assets=named,
    )
    return [first, *sorted({*named, *others} - {first})]


def parse_partition(value: str) -> str:
    """Returns ``value`` if it is a date of the form YYYY-MM-DD.

    Raises:
        MedpipeError: DATE_INVALID.
    """
    if not _is_date(value):
        raise MedpipeError("DATE_INVALID", value=value)
    return value


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
