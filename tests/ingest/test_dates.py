"""Dates to UTC, with the original kept."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.ingest.dates import LONGEST, parse_date, read_precision

NINE = "2010-10-12T09:00:00+00:00"
DAY = "2010-10-12T00:00:00+00:00"


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        # ISO 8601, as FHIR and databases write it
        ("2026-01-30T21:40:00+01:00", "2026-01-30T20:40:00+00:00"),
        ("2026-01-30T21:40:00Z", "2026-01-30T21:40:00+00:00"),
        ("2015-02-07T13:28:17.239+02:00", "2015-02-07T11:28:17.239000+00:00"),
        ("2026-01-30", "2026-01-30T00:00:00+00:00"),
        ("2026-01-30T08:00:00", "2026-01-30T08:00:00+00:00"),
        ("2026-01-30 08:00:00.1234567 -05:00", "2026-01-30T13:00:00.123456+00:00"),
        ("2026-01-30T0800", "2026-01-30T08:00:00+00:00"),
        ("20260130T080000.5Z", "2026-01-30T08:00:00.500000+00:00"),
        ("2010/10/12", DAY),
        ("2010/10/12 09:00", NINE),
        ("2010.10.12", DAY),
        ("2010-1-2", "2010-01-02T00:00:00+00:00"),
        # HL7 v2 time stamps of 8, 10, 12 and 14 digits
        ("20140915", "2014-09-15T00:00:00+00:00"),
        ("2014091510", "2014-09-15T10:00:00+00:00"),
        ("201409151030", "2014-09-15T10:30:00+00:00"),
        ("20140915103026", "2014-09-15T10:30:26+00:00"),
        ("20140915103026.1234-0500", "2014-09-15T15:30:26.123400+00:00"),
        ("201409151030+0215", "2014-09-15T08:15:00+00:00"),
        ("20140915103026-05", "2014-09-15T15:30:26+00:00"),
        ("20140915103026Z", "2014-09-15T10:30:26+00:00"),
        ("20140915-0500", "2014-09-15T05:00:00+00:00"),
        # as people write it
        ("12 Oct 2010 @ 0900", NINE),
        ("12-Oct-2010 09:00", NINE),
        ("12 October 2010", DAY),
        ("12th Oct. 2010", DAY),
        ("Oct 12, 2010", DAY),
        ("October 12, 2010 9:00 AM", NINE),
        ("OCT 12, 2010@09:00:00", NINE),
        ("12OCT2010:09:00:00", NINE),
        ("Oct 12 2010  9:00AM", NINE),
        ("Tuesday, October 12, 2010 at 9 a.m.", NINE),
        ("2010-Oct-12 0900 hrs", NINE),
        ("Tue, 12 Oct 2010 09:00:00 +0000", NINE),
        ("Tue, 12 Oct 2010 04:00:00 EST", NINE),
        ("10/12/2010", DAY),
        ("10/12/2010 09:00 AM", NINE),
        ("10/12/2010 12:05 am", "2010-10-12T00:05:00+00:00"),
        ("10/12/2010 12:05 PM", "2010-10-12T12:05:00+00:00"),
        ("12.10.2010", DAY),
        ("12.10.2010 09:00 Uhr", NINE),
        ("9.1.2010, 07:05:30", "2010-01-09T07:05:30+00:00"),
        # between slashes the month is first, unless there is no such month
        ("01/02/2010", "2010-01-02T00:00:00+00:00"),
        ("13/02/2010", "2010-02-13T00:00:00+00:00"),
        ("2010/13/02", None),
        ("13/13/2010", None),
        # coarser than a day
        ("2026-01", None),
        ("2026", None),
        ("201409", None),
        ("Oct 2010", None),
        ("10/2010", None),
        # lengths that HL7 does not have
        ("201409151", None),
        ("20140915103", None),
        ("2014091510302", None),
        ("201409151030261", None),
        # two readings, or none
        ("10/12/10", None),
        ("10-12-2010", None),
        ("1410777000", None),
        ("1410777000123", None),
        ("09:00", None),
        ("12 Oct 2010 bed 9", None),
        ("12 Oct 2010 9", None),
        ("last week", None),
        ("٢٠١٤٠٩١٥", None),
        # no such day, hour or zone
        ("2026-13-40", None),
        ("2026-02-30", None),
        ("20260230", None),
        ("202601302500", None),
        ("10/12/2010 13:00 PM", None),
        ("10/12/2010 0:30 AM", None),
        ("201409151030+9999", None),
        ("201409151030-1300", None),
        ("2014-09-15T10:30:00+05:75", None),
        ("2014-09-15T10:30:00 CET", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("1612121200", None),  # an epoch, not the year 1612
        ("9999-12-31T23:59:59-05:00", None),
    ],
)
def test_dates(written: str, utc: str | None) -> None:
    moment, original = parse_date(f" {written}\n")
    assert original == written
    assert (moment.isoformat() if moment else None) == utc


@pytest.mark.parametrize("written", [None, True, float("nan"), float("inf"), pd.NaT, "", "  ", [], {}])
def test_no_date(written: object) -> None:
    assert parse_date(written) == (None, None)


@pytest.mark.parametrize(
    ("written", "utc", "original"),
    [
        (datetime(2010, 10, 12, 9), NINE, "2010-10-12 09:00:00"),
        (datetime(2010, 10, 12, 4, tzinfo=timezone(timedelta(hours=-5))), NINE, "2010-10-12 04:00:00-05:00"),
        (pd.Timestamp("2010-10-12 09:00"), NINE, "2010-10-12 09:00:00"),
        (date(2010, 10, 12), DAY, "2010-10-12"),
        (20101012, DAY, "20101012"),
        (20101012.0, DAY, "20101012"),
        (20101312, None, "20101312"),
        (5, None, "5"),
        (1.5, None, "1.5"),
    ],
)
def test_dates_of_tables(written: Any, utc: str | None, original: str) -> None:
    moment, kept = parse_date(written)
    assert ((moment.isoformat() if moment else None), kept) == (utc, original)


def test_what_is_long_is_cut_and_no_date() -> None:
    assert parse_date("2010-10-12" + " " * LONGEST + "09:00") == (None, ("2010-10-12" + " " * LONGEST)[:LONGEST])


def test_default_zone_is_for_times_and_moves_no_day() -> None:
    east = timezone(timedelta(hours=8))
    assert parse_date("201010120900", east)[0] == datetime(2010, 10, 12, 1, tzinfo=UTC)
    assert parse_date("20101012", east)[0] == datetime(2010, 10, 12, tzinfo=UTC)
    assert parse_date("201010120900+0000", east)[0] == datetime(2010, 10, 12, 9, tzinfo=UTC)
    assert parse_date(datetime(2010, 10, 12, 9), east)[0] == datetime(2010, 10, 12, 1, tzinfo=UTC)


MOMENTS = st.datetimes(datetime(1900, 1, 2), datetime(9999, 12, 30))
OFFSETS = st.integers(-12 * 4, 14 * 4).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))
# A form, and what it keeps of a moment.
FORMS = [
    ("%Y-%m-%dT%H:%M:%S.%f%z", {}),
    ("%Y-%m-%d %H:%M:%S%z", {"microsecond": 0}),
    ("%Y%m%d%H%M%S.%f%z", {}),
    ("%Y%m%d%H%M%S%z", {"microsecond": 0}),
    ("%Y%m%d%H%M%z", {"microsecond": 0, "second": 0}),
    ("%Y%m%d%H%z", {"microsecond": 0, "second": 0, "minute": 0}),
    ("%d %b %Y @ %H%M%z", {"microsecond": 0, "second": 0}),
    ("%d-%b-%Y %H:%M%z", {"microsecond": 0, "second": 0}),
    ("%a, %d %b %Y %H:%M:%S %z", {"microsecond": 0}),
    ("%A, %B %d, %Y %I:%M:%S %p %z", {"microsecond": 0}),
    ("%m/%d/%Y %I:%M %p%z", {"microsecond": 0, "second": 0}),
    ("%d.%m.%Y %H:%M:%S%z", {"microsecond": 0}),
    ("%Y/%m/%d, %H:%M%z", {"microsecond": 0, "second": 0}),
]


@given(MOMENTS, OFFSETS, st.sampled_from(FORMS))
def test_what_is_written_is_read(moment: datetime, offset: timezone, form: tuple[str, dict[str, int]]) -> None:
    written_form, kept = form
    moment = moment.replace(tzinfo=offset)
    written = f"{moment.year:04}".join(moment.strftime(part) for part in written_form.split("%Y"))
    assert parse_date(written) == (moment.replace(**kept).astimezone(UTC), written)


@given(MOMENTS, st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%m/%d/%Y", "%d.%m.%Y", "%d%b%Y", "%B %d, %Y", "%Y/%m/%d"]))
def test_a_day_is_its_midnight(moment: datetime, form: str) -> None:
    written = moment.strftime(form)
    assert parse_date(written) == (datetime(moment.year, moment.month, moment.day, tzinfo=UTC), written)
    assert parse_date(moment.date())[0] == parse_date(written)[0]


@given(
    st.one_of(st.text(max_size=80), st.text("0123456789 -+:./TZAPMOctJan@,", max_size=40), st.floats(), st.integers())
)
def test_anything_is_a_date_or_kept(written: Any) -> None:
    moment, original = parse_date(written)
    assert moment is None or (moment.tzinfo is UTC and original)
    if isinstance(written, str) and written.strip():
        assert original == written.strip()[:LONGEST]


@pytest.mark.parametrize(
    ("written", "precision"),
    [
        ("2010-10-12", "day"), ("20101012", "day"), (20101012, "day"), ("12 Oct 2010", "day"), (date(2010, 10, 12), "day"),
        ("2010101209", "hour"), ("10/12/2010 9 AM", "hour"), ("12 Oct 2010 @ 0900", "minute"), ("2010-10-12T09:00Z", "minute"),
        ("2010-10-12T00:00:00Z", "second"), ("20101012090000.25-0500", "second"), (datetime(2010, 10, 12), "second"),
        ("2010-10", None), ("last week", None), ("", None), (None, None), (True, None), (float("nan"), None),
    ],
)  # fmt: skip
def test_precision_is_what_was_written(written: Any, precision: str | None) -> None:
    assert read_precision(written) == precision
    assert (precision is None) == (parse_date(written)[0] is None)
