"""Abbreviations that a note defines: "chronic kidney disease (CKD)" gives ``CKD`` a meaning for the whole note.

The algorithm of Schwartz and Hearst (2003), "A simple algorithm for identifying abbreviation definitions in
biomedical text", Pacific Symposium on Biocomputing: a short form stands in parentheses behind its long form, or the
long form in parentheses behind the short one; the letters of the short form are found in the long one from right to
left, the first of them at the beginning of a word.

It sees definitions in parentheses only, and not those whose letters are not all in the long form (``Rx``). For a few
dozen abbreviations that notes use without a definition, ``abbreviations.toml`` beside this module has one.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COMMON_FILE = Path(__file__).parent / "abbreviations.toml"

PARENTHESIS = re.compile(r"\(([^()\[\]\n]{2,120})\)|\[([^()\[\]\n]{2,120})\]")
CUT = re.compile(r"[;,:]\s|\s[-\u2013=]\s")  # in a parenthesis, what follows is no part of the short form
SENTENCE_END = re.compile(r"[.!?;:]\s|\n\s*\n|[()\[\]]")
SHORT_FORM = re.compile(r"[^\W_][^\s]*(?:\s[^\s]+)?")
LAST_WORD = re.compile(r"([^\W_][^\s(),;]*)\s*$")
TOKEN = re.compile(r"[^\W_](?:[\w\-/+.]*[\w+])?")
REACH = 200  # characters before a parenthesis in which the long form may lie


@dataclass(frozen=True, slots=True)
class Definition:
    """A short form and the long form that it stands for; both are slices of the text by their offsets."""

    short: str
    long: str
    short_start: int
    long_start: int

    @property
    def start(self) -> int:
        """Where the definition begins."""
        return min(self.short_start, self.long_start)


def is_short_form(text: str) -> bool:
    """Returns whether ``text`` may be an abbreviation: 2 to 10 characters, two words at most, a capital letter."""
    return (
        2 <= len(text) <= 10
        and SHORT_FORM.fullmatch(text) is not None
        and any(char.isupper() for char in text)
        and sum(char.isalpha() for char in text) >= 2
    )


def match_long_form(short: str, candidate: str) -> int | None:
    """Returns where in ``candidate`` the long form of ``short`` begins, or None where the letters are not there.

    The letters and digits of ``short`` are looked for from the right; the first must begin a word. The match that
    begins furthest to the right is taken.
    """
    low = candidate.lower()
    place = len(low)
    letters = [char for char in short.lower() if char.isalnum()]
    if not letters or len(low) != len(candidate):  # a letter whose lower case is two characters
        return None
    for number in range(len(letters) - 1, -1, -1):
        place -= 1
        while place >= 0 and (
            low[place] != letters[number] or (number == 0 and place > 0 and low[place - 1].isalnum())
        ):
            place -= 1
        if place < 0:
            return None
    return place


def is_long_form(short: str, long: str) -> bool:
    """Returns whether a match is plausible: longer than the short form, not too many words, without it as a word."""
    words = long.split()
    letters = sum(char.isalnum() for char in short)
    return (
        len(long) > len(short)
        and 1 <= len(words) <= min(letters + 5, letters * 2)
        and short not in words
        and not (len(words) == 1 and len(long) < letters + 2)
    )


def find_definitions(text: str) -> list[Definition]:
    """Returns the definitions of a text in the order of their places."""
    found = []
    for match in PARENTHESIS.finditer(text):
        group = 1 if match.group(1) is not None else 2
        definition = _short_inside(text, match, group) or _long_inside(text, match, group)
        if definition is not None:
            found.append(definition)
    return found


def _short_inside(text: str, match: re.Match[str], group: int) -> Definition | None:
    """Returns the definition of ``long form (SF)``, if that is what it is."""
    short = CUT.split(match.group(group), maxsplit=1)[0].rstrip()
    short_start = match.start(group) + len(short) - len(short.lstrip())
    short = short.strip()
    if not is_short_form(short):
        return None
    before = text[max(0, match.start() - REACH) : match.start()].rstrip()
    letters = sum(char.isalnum() for char in short)
    most = min(letters + 5, letters * 2)
    words = before.rsplit(maxsplit=most)
    first = len(words[0]) if len(words) > most else 0  # where the last words begin, no more than the long form may have
    cut = max((end.end() for end in SENTENCE_END.finditer(before, first)), default=first)
    place = match_long_form(short, before[cut:])
    if place is None:
        return None
    long = before[cut + place :]
    if not is_long_form(short, long):
        return None
    return Definition(short, long, short_start, max(0, match.start() - REACH) + cut + place)


def _long_inside(text: str, match: re.Match[str], group: int) -> Definition | None:
    """Returns the definition of ``SF (long form)``, if that is what it is."""
    before = text[max(0, match.start() - 40) : match.start()]
    word = LAST_WORD.search(before)
    if word is None or not is_short_form(word.group(1)):
        return None
    short = word.group(1)
    inside = CUT.split(match.group(group), maxsplit=1)[0]
    long = inside.strip()
    # All of the parenthesis is the long form, not its end.
    if match_long_form(short, long) != 0 or not is_long_form(short, long):
        return None
    long_start = match.start(group) + len(inside) - len(inside.lstrip())
    return Definition(short, long, match.start() - len(before) + word.start(1), long_start)


@cache
def common_abbreviations() -> dict[str, str]:
    """Returns abbreviations that need no definition, and what they stand for: ``abbreviations.toml``."""
    return tomllib.loads(COMMON_FILE.read_text(encoding="utf-8"))


class Abbreviations:
    """What the abbreviations of one text stand for, ready to expand its mentions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.common: dict[str, str | None] = {}
        self.places: dict[str, list[int]] = {}
        self.longs: dict[str, list[str]] = {}
        for definition in find_definitions(text) if "(" in text or "[" in text else ():
            self.places.setdefault(definition.short, []).append(definition.start)
            self.longs.setdefault(definition.short, []).append(definition.long)

    def meaning(self, short: str, at: int) -> str | None:
        """Returns what ``short`` stands for at an offset; None where nothing says so.

        The last definition before the offset counts, else the first one behind; without one, what is common, unless
        the text has the abbreviation in parentheses: then it defines it in a way that is not understood here.
        """
        for form in (short, short.removesuffix("s")):  # TIAs
            if form in self.places:
                return self.longs[form][max(0, bisect_right(self.places[form], at) - 1)]
            if form in common_abbreviations():
                if form not in self.common:
                    self.common[form] = None if f"({form}" in self.text else common_abbreviations()[form]
                return self.common[form]
        return None

    def expand(self, mention: str, start: int) -> str:
        """Returns a mention with the abbreviations in it replaced by what they stand for.

        Args:
            mention: as written.
            start: its offset in the text.
        """
        return TOKEN.sub(lambda token: self.meaning(token.group(), start + token.start()) or token.group(), mention)


def expand_mentions(text: str, mentions: Sequence[str], starts: Sequence[int]) -> list[str]:
    """Returns the mentions of a text with the abbreviations in them replaced by what they stand for."""
    abbreviations = Abbreviations(text)
    return [abbreviations.expand(mention, start) for mention, start in zip(mentions, starts, strict=True)]
