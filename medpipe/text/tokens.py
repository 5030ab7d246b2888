"""Tokens as offsets into the raw text.

A token is a run of letters (with their combining marks), a run of digits, or one other visible
character: ``q6h`` is ``q 6 h``, ``2.5mg/day`` is ``2 . 5 mg / day``. So nearly every annotated span
falls on token limits, and nothing is normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

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


def span_to_tokens(tokens: Tokens, start: int, end: int) -> tuple[int, int]:
    """Returns the half-open token interval that covers the characters ``[start, end)``; empty where none does."""
    first = int(np.searchsorted(tokens.end, start, side="right"))
    last = int(np.searchsorted(tokens.start, end, side="left"))
    return first, max(first, last)
