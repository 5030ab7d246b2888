"""Dates of records, to UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

LONGEST = 40  # characters; what is longer is no date


def parse_date(written: Any) -> tuple[datetime | None, str | None]:
    """Returns a date in UTC and the date as written.

    Understands ISO 8601 as FHIR writes it. A date without a time is its midnight, a time without a zone is UTC.
    What is coarser than a day, or no date at all, gives ``None`` beside the original.
    """
    if not isinstance(written, str) or not written.strip():
        return None, None
    original = written.strip()[:LONGEST]
    if len(original) < len("2026-01-31"):
        return None, original
    try:
        moment = datetime.fromisoformat(original)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None, original
    return moment, original
