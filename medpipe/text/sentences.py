"""Sentences as token intervals.

Rules, not a model: a sentence ends at a blank line, at a line end before a capital, digit or list mark, and
after ``.``, ``!`` or ``?`` (with closing brackets and quotes) before white space and a capital, digit or
opening bracket, unless the full stop belongs to an abbreviation, an initial or a number. Sentences longer
than ``MAX_TOKENS`` are cut, so that a table without full stops does not become one row of 10,000 tokens.
"""

from __future__ import annotations

import re

import numpy as np

from medpipe.text.tokens import Tokens

MAX_TOKENS = 192

# Abbreviations of clinical English that end in a full stop and are mostly followed by more of the sentence.
ABBREVIATIONS = frozenset(
    [
        *("dr", "mr", "mrs", "ms", "prof", "st", "sr", "jr", "mt", "pt", "pts", "dept", "inc"),
        *("vs", "eg", "ie", "e.g", "i.e", "cf", "al", "fig", "figs", "no", "approx", "resp", "ca", "ref", "sp", "spp"),
        *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
    ]
)
# A place where a sentence may end: end punctuation and what closes with it, then space; or a line end.
BOUNDARY = re.compile(r"""[.!?]+["'”’)\]]*(?=\s)\s*|\n\s*""")
STARTS_SENTENCE = re.compile(r"""["'“‘(\[]?[A-Z0-9À-ÖØ-Þ]|[-•*·–—#]""")
LIST_NUMBER = re.compile(r"[ \t]*\d{1,2}")
LAST_WORD = re.compile(r"([\w.]+)\.$")


def sentence_ends(text: str) -> list[int]:
    """Returns the character offsets at which a sentence ends, the end of the text last."""
    ends: list[int] = []
    for match in BOUNDARY.finditer(text):
        after = match.end()
        if "\n" in match.group():
            # A wrapped line goes on in lower case; a blank line always ends a sentence.
            if match.group().count("\n") == 1 and after < len(text) and text[after].islower():
                continue
        elif (
            not STARTS_SENTENCE.match(text, after)
            or _is_abbreviation(text[max(0, match.start() - 12) : match.start() + 1])
            or _is_list_number(text, match.start())
        ):
            continue
        ends.append(after)
    if not ends or ends[-1] != len(text):
        ends.append(len(text))
    return ends


def _is_abbreviation(before: str) -> bool:
    """Says whether the full stop at the end of ``before`` belongs to an abbreviation or an initial."""
    match = LAST_WORD.search(before)
    if match is None:
        return False
    word = match.group(1)
    return word.lower() in ABBREVIATIONS or (len(word) == 1 and word.isupper())


def _is_list_number(text: str, stop: int) -> bool:
    """Says whether the full stop at ``stop`` belongs to the number of a list: it begins its line."""
    return bool(LIST_NUMBER.fullmatch(text, text.rfind("\n", 0, stop) + 1, stop))


def split_sentences(text: str, tokens: Tokens, max_tokens: int = MAX_TOKENS) -> np.ndarray:
    """Returns the sentences of a text as token intervals.

    Returns:
        shape: (sentences, 2), int32; half-open, in order, together all tokens, none empty.
    """
    if len(tokens) == 0:
        return np.zeros((0, 2), dtype=np.int32)
    limits = np.searchsorted(tokens.start, np.array(sentence_ends(text)), side="left")
    limits = np.unique(np.concatenate([[0], limits, [len(tokens)]]))
    pieces = [
        np.arange(start, end, max_tokens) for start, end in zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True)
    ]
    starts = np.concatenate(pieces)
    return np.stack([starts, np.append(starts[1:], len(tokens))], axis=1).astype(np.int32)
