"""Does a sentence of a summary say only what the note says?

Three checks against the note, each on words, none on meaning:

- *entities*: every word that is not one of the generator's template words stands in the note; and two such words
  that follow each other in the sentence follow each other in the note ("left kidney" is no support for "left lung");
- *numbers*: every number stands in the note as a whole ("2.5" is no support for "5"), with the same word after it;
- *polarity*: a word that the note only negates is negated here, and one that it never negates is not. Negation is
  read from the scope of cue words (after NegEx, Chapman et al. 2001), on both sides alike, and from the entities.

Cannot do: notice a wrong link between two right facts, a change of time or person, or a negation without a cue word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from medpipe.summarize.features import Source, Vocabulary, Words, hash_words, token_intervals

NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
SCOPE = 12  # words that a cue before them may reach
BACK_SCOPE = 6  # words that a cue after them may reach

CUES_BEFORE = (
    "no",
    "not",
    "without",
    "denies",
    "denied",
    "deny",
    "denying",
    "never",
    "nor",
    "neither",
    "none",
    "absence",
    "negative",
)
CUES_AFTER = ("absent", "negative", "excluded", "unlikely")
STOPS = (
    "but",
    "however",
    "although",
    "except",
    "which",
    "who",
    "because",
    "despite",
    ".",
    ";",
    ":",
    "•",
    "presents",
    "presented",
    "reports",
    "reported",
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with one sentence; all zero: nothing."""

    entities: int = 0
    numbers: int = 0
    polarity: int = 0

    @property
    def clean(self) -> bool:
        """Says whether nothing was found."""
        return not (self.entities or self.numbers or self.polarity)


@cache
def _cue_hashes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return hash_words(CUES_BEFORE), hash_words(CUES_AFTER), hash_words(STOPS)


def negation_scope(types: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """Returns which tokens stand in the scope of a negation; the cue itself does not.

    Args:
        types: shape: (tokens,), uint64, hashes of the lower-cased words.
        sentences: shape: (sentences, 2), token intervals; no scope leaves its sentence.

    Returns:
        shape: (tokens,), bool.
    """
    before, after, stops = _cue_hashes()
    negated = np.zeros(len(types), dtype=bool)
    if len(types) == 0:
        return negated
    stop = np.append(np.flatnonzero(np.isin(types, stops)), len(types))
    ends = np.repeat(sentences[:, 1], sentences[:, 1] - sentences[:, 0])
    starts = np.repeat(sentences[:, 0], sentences[:, 1] - sentences[:, 0])
    for cue in np.flatnonzero(np.isin(types, before)).tolist():
        end = min(int(ends[cue]), cue + 1 + SCOPE, int(stop[np.searchsorted(stop, cue, side="right")]))
        negated[cue + 1 : end] = True
    for cue in np.flatnonzero(np.isin(types, after)).tolist():
        place = int(np.searchsorted(stop, cue))
        start = max(int(starts[cue]), cue - BACK_SCOPE, int(stop[place - 1]) + 1 if place else 0)
        negated[start:cue] = True
    return negated & ~np.isin(types, before)


def _pairs(types: np.ndarray) -> np.ndarray:
    """Returns a hash of each word and its follower; shape: (tokens - 1,)."""
    return types[:-1] * np.uint64(0x9E3779B97F4A7C15) + types[1:]


class Checker:
    """The checks against one note."""

    def __init__(self, source: Source, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.types = np.unique(source.types)
        self.pairs = np.unique(_pairs(source.types))
        self.numbers = frozenset(NUMBER.findall(source.text))
        negated = negation_scope(source.types, source.sentences)
        self.always, self.never = _polarity(source.types, negated)
        first, end = token_intervals(source.tokens, source.mentions.start, source.mentions.end)
        self.negated_mentions, self.affirmed_mentions = _mention_polarity(source, first, end)

    def check(self, text: str, words: Words) -> Findings:
        """Returns what is wrong with one sentence of a summary, given its text and its words."""
        types = words.types
        if len(types) == 0:
            return Findings()
        content = words.wordlike & (self.vocabulary.lookup(types) < 0)
        missing = content & ~np.isin(types, self.types)
        follow = content[:-1] & content[1:] & ~missing[:-1] & ~missing[1:]
        broken = follow & ~np.isin(_pairs(types), self.pairs)
        # A number with another word after it is a wrong number; any other wrong pair is a wrong entity.
        measures = words.digits[:-1] & broken
        entities = int((missing & ~words.digits).sum() + (broken & ~measures).sum())
        numbers = self._numbers(text) + int(measures.sum())
        negated = negation_scope(types, np.array([[0, len(types)]]))
        affirmed_here = np.unique(types[content & ~negated])
        negated_here = np.unique(types[content & negated])
        turned = np.isin(affirmed_here, self.always).sum() + np.isin(negated_here, self.never).sum()
        turned += _find_mentions(types, ~negated, self.negated_mentions) + _find_mentions(
            types, negated, self.affirmed_mentions
        )
        return Findings(entities, numbers, int(turned))

    def _numbers(self, text: str) -> int:
        """Counts the numbers of a sentence that the note does not have."""
        return sum(number not in self.numbers for number in NUMBER.findall(text))


def _polarity(types: np.ndarray, negated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words that are negated wherever they stand, and those that are nowhere; sorted hashes."""
    unique, inverse, counts = np.unique(types, return_inverse=True, return_counts=True)
    times = np.bincount(inverse, weights=negated, minlength=len(unique))
    return unique[times == counts], unique[times == 0]


Phrase = tuple[int, ...]


def _mention_polarity(
    source: Source, first: np.ndarray, end: np.ndarray
) -> tuple[frozenset[Phrase], frozenset[Phrase]]:
    """Returns the mentions' words that are always negated, and those that never are."""
    seen: dict[Phrase, set[bool]] = {}
    for start, stop, negated in zip(first.tolist(), end.tolist(), source.mentions.negated.tolist(), strict=True):
        if stop > start:
            seen.setdefault(tuple(source.types[start:stop].tolist()), set()).add(bool(negated))
    always = frozenset(phrase for phrase, kinds in seen.items() if kinds == {True})
    never = frozenset(phrase for phrase, kinds in seen.items() if kinds == {False})
    return always, never


def _find_mentions(types: np.ndarray, where: np.ndarray, phrases: frozenset[Phrase]) -> int:
    """Counts the phrases that stand in a sentence, wholly where ``where`` says."""
    if not phrases:
        return 0
    words, inside = types.tolist(), where.tolist()
    found = 0
    for length in {len(phrase) for phrase in phrases}:
        for start in range(len(words) - length + 1):
            found += all(inside[start : start + length]) and tuple(words[start : start + length]) in phrases
    return found
