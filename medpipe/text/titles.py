"""Titles of sections: what a title as written, or a LOINC code, is called here.

The table of names, codes and titles is ``headings.toml``. Titles are compared without regard to case, white space and
"&"; ``section_name`` also knows titles that are a known one with words around it ("Hospital Discharge Labs",
"PROBLEM LIST (ACTIVE)", "HPI/CC").
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path


def words_of(text: str) -> frozenset[str]:
    """Returns the words of a text."""
    return frozenset(text.split())


LONGEST_TITLE = 72  # characters; what is longer is prose
LOINC = re.compile(r"\d{1,7}-\d")

# Words that may stand around a known title without making another one of it.
BEFORE = words_of("""
    a active additional ambulatory brief clinic clinical complete current detailed discharge documented ed er final
    focused full home hospital icu initial inpatient interim interval known last list medical most my new non non-va
    nursing of other outpatient patient patient's pertinent post pre present prior pt recent relevant reported self
    significant the today's updated va visit your
""")
BEHIND = words_of("""
    (s) continued cont cont'd data details entries form information list narrative needed note notes only overview
    record report reported required reviewed section sections summary today update updated
""")
IN_BRACKETS = re.compile(r"\s*\([^()]*\)|\s*\[[^\[\]]*\]")
JOINED = re.compile(r"\s*(?:[/,;+]|\band\b|\bwith\b|\s-\s)\s*")
WHEN = re.compile(r"\s+(?:on|at|upon|during|prior to|after|before|per|from|by)\s.*")  # "LABORATORIES ON ADMISSION"
EDGES = " \t\r\n\v\f\xa0:;.,-–—*_#=~|[]<>\"'“”"
# Joins and fillers say nothing about whether words are a title.
FILLERS = words_of("a an and at by for from in of on or per prior s the to upon us with")

MOST_WORDS = 8  # of an unknown title
WORDS = re.compile(r"[a-z][a-z'-]{2,}")
CREDENTIALS = re.compile(
    r"\b(?:m\.?d|d\.?o|ph\.?d|r\.?n|n\.?p|pa-c|d\.?d\.?s|mbbs|facc|facs|lcsw|dpm|pharm\.?d)\b\.?$", re.IGNORECASE
)
# Words that make an unknown title a field, whatever else it holds.
FIELD_WORDS = words_of("""
    accession account address admitted age assistant attending author birth birthdate cell city clinician copies county
    country created date dated day days dictated dictating dob doctor doctors dose duration effective email ethnicity
    expiration facility fax first frequency gender height identifier job last location middle mrn name number
    occupation pager phone physician postal provider race received referring relationship room sex signed size source
    ssn start state street suffix surgeon telephone time title transcribed transcriptionist type unit weight year zip
""")
# Words of which no title is made: what is stamped on a page, days, and who speaks.
NO_TITLES = words_of("""
    confidential copy draft page end preliminary final amended unsigned electronically redacted deleted doctor dr
    patient nurse clinician physician provider interviewer interviewee interpreter speaker guest mother father mom dad
    wife husband spouse daughter son caregiver therapist pharmacist receptionist note warning important attention
    caution stat urgent yes none unknown nkda monday tuesday wednesday thursday friday saturday sunday january february
    march april may june july august september october november december
""")
NOT_FIRST = words_of("dr mr mrs ms prof end page draft confidential speaker electronically")


@dataclass(frozen=True, slots=True)
class Kind:
    """A section of the table."""

    name: str
    code: str | None
    inside: frozenset[str]  # names of the sections that hold it
    part: bool  # it is no section of its own


@dataclass(frozen=True, slots=True)
class Table:
    """The table of titles, ready to be looked up by normal form (``normal``)."""

    kinds: dict[str, Kind]
    titles: dict[str, str]  # title -> name
    weak: dict[str, str]  # titles that also name fields
    parts: dict[str, dict[str, str]]  # titles that count inside other sections only -> name of that -> name
    codes: dict[str, str]
    containers: frozenset[str]  # names of the sections that have parts
    all: frozenset[str]  # all titles
    words: frozenset[str]  # the words of the titles of sections
    last_words: frozenset[str]  # and the last ones of all titles


def normal(title: str) -> str:
    """Returns a title in the form in which titles are compared."""
    text = title.casefold().replace("&", " and ").replace("’", "'")
    return re.sub(r"\s*/\s*", "/", " ".join(text.split())).strip(EDGES)


@cache
def table() -> Table:
    """Returns the table of titles, read once.

    Raises:
        ValueError: where a title or a code names two sections.
    """
    source = tomllib.loads((Path(__file__).parent / "headings.toml").read_text(encoding="utf-8"))
    kinds: dict[str, Kind] = {}
    titles: dict[str, str] = {}
    weak: dict[str, str] = {}
    parts: dict[str, dict[str, str]] = {}
    codes: dict[str, str] = {}

    def add(to: dict[str, str], key: str, name: str) -> None:
        if to.setdefault(key, name) != name:
            raise ValueError(f"{key!r} names both {to[key]} and {name}")

    for name, entry in source.items():
        part = bool(entry.get("part"))
        kinds[name] = Kind(name, entry.get("code"), frozenset(entry.get("inside", ())), part)
        for code in [entry.get("code"), *entry.get("also", ())]:
            if code is not None:
                add(codes, code, name)
        for title in entry["titles"]:
            if part:
                for around in entry["inside"]:
                    add(parts.setdefault(normal(title), {}), around, name)
            else:
                add(titles, normal(title), name)
        for title in entry.get("weak", ()):
            add(weak, normal(title), name)
        for around, only_there in entry.get("titles_inside", {}).items():
            for title in only_there:
                add(parts.setdefault(normal(title), {}), around, name)
    words = {word for title in (*titles, *weak) for word in re.findall(r"[a-z'-]{3,}", title)} - FILLERS
    every = frozenset((*titles, *weak, *parts))
    last = frozenset(title.split()[-1] for title in every)
    containers = frozenset(name for kind in kinds.values() if kind.part for name in kind.inside)
    return Table(kinds, titles, weak, parts, codes, containers, every, frozenset(words), last)


@dataclass(frozen=True, slots=True)
class Title:
    """What the words of a title say by themselves."""

    capitals: bool
    lower: bool  # it begins with a small letter
    strict: tuple[str, bool] | None  # the section that it names, and whether it is a weak title; ``None`` for none
    loose: tuple[str, bool] | None  # the same, for a title with words around a known one
    parts: dict[str, str] | None  # section around it -> the part of it that the title names
    unknown: bool  # where it is not known, it may be a title all the same
    field: bool  # but rather is a field: it has a number or a word such as "date"
    medical: bool  # it has a word that known titles have
    named: bool  # its words begin with capitals
    columns: bool  # it is no title but a row of a table


@lru_cache(maxsize=1 << 14)
def read_title(title: str) -> Title:
    """Returns what a title as written says; those of a note are mostly those of other notes."""
    known = table()
    key = normal(title)
    strict = _look_up(key)
    loose = strict or next((found for form in _forms(key) if (found := _look_up(form))), None)
    words = title.split()
    spelled = WORDS.findall(title.lower())
    return Title(
        capitals=title.isupper(),
        lower=not title[:1].isupper(),
        strict=strict,
        loose=loose,
        parts=known.parts.get(key),
        unknown=bool(spelled)
        and len(words) <= MOST_WORDS
        and words[0].lower().strip(".,") not in NOT_FIRST
        and not NO_TITLES.issuperset(spelled)
        and title[-1] not in ".,;?!"
        and CREDENTIALS.search(title) is None,
        field=any(letter.isdigit() for letter in title) or not FIELD_WORDS.isdisjoint(spelled),
        medical=not known.words.isdisjoint(spelled),
        named=all(word[0].isupper() for word in words if len(word) > 3),
        columns="\t" in title or "|" in title or "   " in title,
    )


def _look_up(key: str) -> tuple[str, bool] | None:
    """Returns the section of a title in its normal form, and whether it is a weak title."""
    known = table()
    name = known.titles.get(key)
    if name is not None:
        return name, False
    name = known.weak.get(key)
    return None if name is None else (name, True)


def _forms(key: str) -> Iterator[str]:
    """Yields a title as it is, without brackets, without words around it, and the first of joined titles."""
    yield key
    bare = IN_BRACKETS.sub("", key).strip(EDGES)
    yield bare
    words = bare.split()
    yield from _without(words)
    if (when := WHEN.search(bare)) and when.start():
        yield bare[: when.start()]
        yield from _without(bare[: when.start()].split())
    pieces = [piece for piece in JOINED.split(bare) if piece]
    if len(pieces) > 1 and words:
        # All pieces must be titles, or become one with the last word: "family and social history".
        whole = [piece if _is_title(piece) else f"{piece} {words[-1]}" for piece in pieces]
        if all(_is_title(piece) for piece in whole):
            yield whole[0]
            yield from _without(whole[0].split())


def _without(words: list[str]) -> Iterator[str]:
    """Yields titles from which words at the edges are taken away that say nothing."""
    while words and words[-1] in BEHIND:
        words = words[:-1]
        yield " ".join(words)
    while words and words[0] in BEFORE:
        words = words[1:]
        yield " ".join(words)


def _is_title(piece: str) -> bool:
    known = table()
    forms = [piece, *_without(piece.split())]
    return any(form in known.titles or form in known.weak for form in forms)


def section_name(title: str | None, code: str | None = None) -> tuple[str, str | None]:
    """Returns the canonical name and the LOINC code of a section that a structured document tells.

    A code that is known decides. With an unknown one the title says the name, and the code stays as it is given. A
    code that is none of LOINC's (DICOM's) gives way to that of the name.

    Args:
        title: as written, where there is one.
        code: that of the section in its source, where there is one.

    Returns:
        The name (``other`` where neither code nor title is known) and the code, where there is one.
    """
    known = table()
    code = (code or "").strip() or None
    name = known.codes.get(code) if code else None
    if name is None and title:
        words = read_title(title[: 2 * LONGEST_TITLE].strip())
        name = words.loose[0] if words.loose else next(iter((words.parts or {}).values()), None)
    if name is None:
        return "other", code
    if code and LOINC.fullmatch(code):
        return name, code
    return name, known.kinds[name].code
