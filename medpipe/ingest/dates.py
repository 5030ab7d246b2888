"""Dates of records, to UTC.

One table of forms, each of which can be read in one way only; what fits none of them stays as written. A library that
guesses (python-dateutil was tried) fills what is missing with today: ``2014`` and ``May`` become days of this year, it
takes ``20140915-05`` for five o'clock, and does not know HL7's time stamps at all. A wrong date is worse than none.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from math import isfinite
from numbers import Real
from typing import Any

LONGEST = 64  # characters; what is longer is no date
FIRST_YEAR = 1900  # what is earlier is a placeholder of some database, or no date (ten digits may be an epoch)
FARTHEST_ZONES = timedelta(hours=-12), timedelta(hours=14)

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("jan", "january"), ("feb", "february"), ("mar", "march"), ("apr", "april"), ("may",), ("jun", "june"),
            ("jul", "july"), ("aug", "august"), ("sep", "sept", "september"), ("oct", "october"), ("nov", "november"),
            ("dec", "december"),
        ),
        1,
    )
    for name in names
}  # fmt: skip
# Hours from UTC of the zones that RFC 2822 (section 4.3) names; other abbreviations mean several zones.
ZONES = {"z": 0, "ut": 0, "utc": 0, "gmt": 0} | {
    f"{zone}{letter}t": hours + (letter == "d")
    for zone, hours in {"e": -5, "c": -6, "m": -7, "p": -8}.items()
    for letter in "sd"
}

YEAR, MONTH, DAY = r"(?P<year>\d{4})", r"(?P<month>\d\d?)", r"(?P<day>\d\d?)"
MONTH_NAME = rf"(?P<month>{'|'.join(sorted(MONTHS, key=len, reverse=True))})\.?"
WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
ORDINAL = r"(?:st|nd|rd|th)?"
ZONE = rf"(?:\s*(?P<zone>[+-]\d\d(?::?\d\d)?|{'|'.join(sorted(ZONES, key=len, reverse=True))}))?"
FRACTION = r"(?:[.,](?P<fraction>\d+))?"

DATES = (
    rf"{YEAR}-{MONTH}-{DAY}",  # ISO 8601
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)",
    rf"{YEAR}/{MONTH}/{DAY}",
    rf"{YEAR}\.{MONTH}\.{DAY}",
    rf"{DAY}\.{MONTH}\.{YEAR}",
    rf"{MONTH}/{DAY}/{YEAR}",  # as in the USA
    rf"{WEEKDAY}{DAY}{ORDINAL}[\s-]*{MONTH_NAME},?[\s-]*{YEAR}",  # 12 Oct 2010, 12-Oct-2010, 12OCT2010
    rf"{WEEKDAY}{MONTH_NAME}[\s-]*{DAY}{ORDINAL},?[\s-]+{YEAR}",  # Oct 12, 2010
    rf"{YEAR}-{MONTH_NAME}-{DAY}",
)
BEFORE_TIME = r"(?:t|\s*@\s*|:|,?\s+at\s+|,?\s+)"
TIMES = (
    rf"(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d){FRACTION})?(?:\s*(?P<half>[ap])\.?m\.?|\s*uhr)?{ZONE}",
    rf"(?P<hour>\d\d)(?P<minute>\d\d)(?:(?P<second>\d\d){FRACTION})?(?:\s*h(?:rs|ours)?)?{ZONE}",  # 0900
    r"(?P<hour>\d\d?)\s*(?P<half>[ap])\.?m\.?",  # 9 AM
)
FORMS = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        # HL7 v2 TS and DTM (chapter 2A): YYYYMMDD[HH[MM[SS[.S+]]]][zone]
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
        rf"(?:(?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d){FRACTION})?)?)?{ZONE}",
        *(f"{form}(?:{BEFORE_TIME}{time})?" for form in DATES for time in TIMES),
    )
)


def parse_date(written: Any, default_zone: tzinfo = UTC) -> tuple[datetime | None, str | None]:
    """Returns a date in UTC and the date as written.

    Understands HL7 v2 time stamps, ISO 8601 as FHIR writes it, and what people and other programs write (``12 Oct 2010
    @ 0900``, ``10/12/2010 9:00 AM``, ``12.10.2010``). Numbers between slashes are month, day, year, unless the first is
    above 12. A time without a zone is in ``default_zone``; a date without a time is its midnight in UTC, and so stays
    the day it is. Dates of tables (``datetime``, ``date``, the number 20101012) are taken too.

    What is coarser than a day, has two digits for a year, does not exist, or is no date at all, gives ``None`` beside
    the original.
    """
    if isinstance(written, datetime | date):
        if written != written:  # pandas' NaT
            return None, None
        if isinstance(written, datetime):
            return _utc(written, default_zone), str(written)
        return _utc(datetime(written.year, written.month, written.day), UTC), str(written)
    if isinstance(written, Real) and not isinstance(written, bool):
        if not isfinite(written):
            return None, None
        written = str(int(written)) if int(written) == written else str(written)  # type: ignore[call-overload]
    if not isinstance(written, str) or not written.strip():
        return None, None
    original = written.strip()
    if len(original) > LONGEST:
        return None, original[:LONGEST]
    for form in FORMS:
        if found := form.fullmatch(original):
            return _moment(found, default_zone), original
    return None, original


def read_precision(written: Any) -> str | None:
    """Returns the smallest unit that a date which ``parse_date`` understands is written to.

    Returns:
        ``day``, ``hour``, ``minute`` or ``second``; ``None`` of what is no date. A ``datetime`` has its seconds.
    """
    if parse_date(written)[0] is None:
        return None
    if isinstance(written, datetime | date):
        return "second" if isinstance(written, datetime) else "day"
    original = str(int(written)) if isinstance(written, Real) else str(written).strip()  # type: ignore[call-overload]
    found = next(found for form in FORMS if (found := form.fullmatch(original)))
    return next((unit for unit in ("second", "minute", "hour") if found.groupdict().get(unit)), "day")


def _moment(found: re.Match[str], default_zone: tzinfo) -> datetime | None:
    part = found.groupdict()
    month, day = MONTHS.get(part["month"].lower()) or int(part["month"]), int(part["day"])
    if month > 12 and found.start("month") == 0:  # day/month/year: there is no 13th month
        month, day = day, month
    hour = int(part.get("hour") or 0)
    if half := part.get("half"):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half.lower() == "p")
    try:
        zone = _zone(part["zone"]) if part.get("zone") else default_zone if part.get("hour") else UTC
        moment = datetime(
            int(part["year"]), month, day, hour, int(part.get("minute") or 0), int(part.get("second") or 0),
            int((part.get("fraction") or "")[:6].ljust(6, "0")), zone,
        )  # fmt: skip
    except ValueError:  # no such day, hour or zone
        return None
    return _utc(moment, zone)


def _zone(written: str) -> tzinfo:
    """Returns the zone of ``-0500``, ``-05:00``, ``-05``, ``Z`` or ``EST``.

    Raises:
        ValueError: there is no such zone.
    """
    if written[0] not in "+-":
        return timezone(timedelta(hours=ZONES[written.lower()]))
    minutes = int(written[3:].lstrip(":") or 0)
    offset = timedelta(hours=int(written[1:3]), minutes=minutes) * (-1 if written[0] == "-" else 1)
    if minutes > 59 or not FARTHEST_ZONES[0] <= offset <= FARTHEST_ZONES[1]:
        raise ValueError
    return timezone(offset)


def read_zone(written: str) -> tzinfo | None:
    """Returns the zone that an HL7 time stamp ends with (``20140915103026-0500``); ``None`` where it has none."""
    found = re.search(r"\d{8}(?:\.\d+)?([+-]\d{4})$", written.strip()[:LONGEST], re.ASCII)
    try:
        return _zone(found[1]) if found else None
    except ValueError:
        return None


def _utc(moment: datetime, default_zone: tzinfo) -> datetime | None:
    if moment.year < FIRST_YEAR:
        return None
    try:
        return (moment.replace(tzinfo=default_zone) if moment.tzinfo is None else moment).astimezone(UTC)
    except OverflowError:  # the last hours of the year 9999
        return None
