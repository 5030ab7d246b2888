"""Dates to UTC, with the original kept."""

from __future__ import annotations

import pytest

from medpipe.ingest.dates import parse_date


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("2026-01-30T21:40:00+01:00", "2026-01-30T20:40:00+00:00"),
        ("2026-01-30T21:40:00Z", "2026-01-30T21:40:00+00:00"),
        ("2015-02-07T13:28:17.239+02:00", "2015-02-07T11:28:17.239000+00:00"),
        ("2026-01-30", "2026-01-30T00:00:00+00:00"),
        ("2026-01-30T08:00:00", "2026-01-30T08:00:00+00:00"),
        ("2026-01", None),
        ("2026", None),
        ("last week", None),
        ("2026-13-40", None),
        ("0001-01-01T00:00:00+14:00", None),
    ],
)
def test_dates(written: str, utc: str | None) -> None:
    moment, original = parse_date(written)
    assert original == written
    assert (moment.isoformat() if moment else None) == utc


@pytest.mark.parametrize("written", [None, 5, "", "  ", [], {}])
def test_no_date(written: object) -> None:
    assert parse_date(written) == (None, None)
