"""Tokens as offsets into the raw text.

A token is a run of letters (with their combining marks), a run of digits, or one other visible
character: ``q6h`` is ``q 6 h``, ``2.5mg/day`` is ``2 . 5 mg / day``. So nearly every annotated span
falls on token limits, and nothing is normalised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

# [^\W\d_] is a letter; combining marks (Mn) are no \w in Python, so they are joined to their letter here.
TOKEN = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u1dc0-\u1dff\u20d0-\u20ff])*|\d+|[^\s\w]|_", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text: ``text[start[i]:end[i]]``."""

    start: np.ndarray  # shape: (tokens,), int32, code points
    end: np.ndarray  # shape: (tokens,), int32

    def __len__(self) -> int:
        return len(self.start)

    def strings(self, text: str) -> list[str]:
        """Returns the tokens as strings."""
        return [text[start:end] for start, end in zip(self.start.tolist(), self.end.tolist(), strict=True)]


def tokenize(text: str) -> Tokens:
    """Returns the tokens of ``text``; none for an empty or blank one."""
    spans = [match.span() for match in TOKEN.finditer(text)]
    limits = np.array(spans, dtype=np.int32).reshape(-1, 2)
    return Tokens(np.ascontiguousarray(limits[:, 0]), np.ascontiguousarray(limits[:, 1]))


SPACE, LETTER, DIGIT, OTHER, MARK, UNKNOWN = range(6)  # kinds of characters
KINDS = np.full(0x110000, UNKNOWN, dtype=np.uint8)  # of every code point; filled in where texts have them
BLOCK = 256  # code points that are looked at together


def tokenize_all(texts: Sequence[str]) -> tuple[list[Tokens], list[str], np.ndarray]:
    """Does ``tokenize`` for many texts at once, without a Python object for each token.

    Returns:
        The tokens of every text; the different words, in the order in which they first occur; and for the tokens of
        all texts, one behind the other, the number of their word, shape: (tokens,), int64.
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    points, kinds, begins = _lay_out(texts)
    limits = np.append(np.flatnonzero(begins), len(points))
    visible = kinds[limits[:-1]] != SPACE
    starts, ends = limits[:-1][visible], limits[1:][visible]
    bases = np.cumsum(np.append(0, lengths + 1))
    bounds = np.searchsorted(starts, bases)
    tokens = [
        Tokens((starts[first:last] - base).astype(np.int32), (ends[first:last] - base).astype(np.int32))
        for first, last, base in zip(bounds[:-1].tolist(), bounds[1:].tolist(), bases[:-1].tolist(), strict=True)
    ]
    # What is no space is all tokens, one behind the other: a column of Arrow as it stands.
    letters = points[kinds != SPACE]
    wide = letters.max(initial=0) > 127
    offsets = np.append(0, np.cumsum(ends - starts)) * (letters.itemsize if wide else 1)
    content = pa.py_buffer(letters if wide else letters.astype(np.uint8))
    column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(offsets.astype(np.int64)), content]
    ).dictionary_encode()
    encoding = "utf-32-le" if wide else "ascii"
    words = [word.decode(encoding, "surrogatepass") for word in column.dictionary.to_pylist()]
    return tokens, words, column.indices.to_numpy().astype(np.int64)


def count_tokens(texts: Sequence[str]) -> int:
    """Returns how many tokens some texts have together."""
    _, kinds, begins = _lay_out(texts)
    return int(np.count_nonzero(begins & (kinds != SPACE)))


def _lay_out(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns code points, kinds and where tokens begin, of all characters, text after text, a line end behind each."""
    # The line end keeps a token from going on into the next text.
    points = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _kinds(points)
    # A token begins where the kind changes, and with every character that is a token of its own.
    begins = np.ones(len(points), dtype=bool)
    begins[1:] = (kinds[1:] != kinds[:-1]) | (kinds[1:] == OTHER)
    return points, kinds, begins


def _kinds(points: np.ndarray) -> np.ndarray:
    """Returns the kinds of characters, combining marks as what they are joined to; shape: (characters,), uint8."""
    kinds = KINDS[points]
    if (kinds == UNKNOWN).any():
        for block in np.unique(points[kinds == UNKNOWN] // BLOCK).tolist():
            members = range(block * BLOCK, (block + 1) * BLOCK)
            KINDS[members.start : members.stop] = [_kind(chr(point)) for point in members]
        kinds = KINDS[points]
    if (kinds == MARK).any():
        # The character that a run of marks stands behind; a mark behind no letter is a token of its own.
        base = np.maximum.accumulate(np.where(kinds != MARK, np.arange(len(kinds)), 0))
        kinds = np.where(kinds == MARK, np.where(kinds[base] == LETTER, LETTER, OTHER), kinds).astype(np.uint8)
    return kinds


def _kind(char: str) -> int:
    """Returns the kind of a character, as ``TOKEN`` has it."""
    if TOKEN.fullmatch("a" + char) and not TOKEN.fullmatch(char + char):
        return MARK
    if TOKEN.fullmatch(char + char):
        return DIGIT if char.isdecimal() else LETTER
    return OTHER if TOKEN.fullmatch(char) else SPACE


def span_to_tokens(tokens: Tokens, start: int, end: int) -> tuple[int, int]:
    """Returns the half-open token interval that covers the characters ``[start, end)``; empty where none does."""
    first = int(np.searchsorted(tokens.end, start, side="right"))
    last = int(np.searchsorted(tokens.start, end, side="left"))
    return first, max(first, last)
