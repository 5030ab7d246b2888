"""Does a sentence of a summary say only what the note says?

Checks against the note, on words and on the assertions of the note's entities:

- *entities*: every word that is no template word stands in the note, and words that follow each other in the sentence
  ("left lower lobe pneumonia", with "of", "in", "and" between them and "treatment" behind them) follow each other in
  one sentence of the note: "left kidney" is no support for "left lung". Sides are counted apart as well;
- *numbers*: every number stands in the note as a whole ("2.5" is no support for "5"), with the same word after it and,
  where a verb links it to a name ("creatinine was 2.1"), after that name in one sentence of the note;
- *negation*: a mention that the note negates is negated here, and one that it affirms is not. The note's side comes
  from its entities, the summary's from the same assertion that made those, where the pipeline gives it; words that
  are no mention, and everything where there is none, from the scope of cue words (after NegEx, Chapman et al. 2001).
  Words copied from a place are held to that place, others to all places of the same words;
- *family*: what the note says of the family alone is not said of the patient.

Sentences taken over from the note are held to the last two: out of their section or their list they may read otherwise.

Cannot do: notice a wrong link between two right facts, a change of time or person, or a finding turned round that
neither the tagger nor the cues know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from medpipe.records import ASSERTIONS
from medpipe.summarize.features import Source, Words, among, hash_words, is_template, token_intervals
from medpipe.text.tokens import Tokens

NEGATED, FAMILY = ASSERTIONS.index("negated"), ASSERTIONS.index("family")
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
MIX = np.uint64(0x9E3779B97F4A7C15)  # of hashes of neighbouring words
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


SIDES = ("left", "right", "bilateral", "bilaterally", "unilateral", "leftward", "rightward")
# Template words that may belong to a name, in it ("shortness of breath") or behind it ("steroid therapy").
# "and" is among them: "nausea and vomiting" is a name, and a pair that the note does not have is better not written.
INNER = ("of", "in", "the", "to", "on", "at", "for", "and", "or", "with", "'", "’", "-", "/")
BEHIND = (
    "treatment", "treatments", "therapy", "management", "examination", "evaluation", "assessment", "investigation",
    "investigations", "symptom", "symptoms", "sign", "signs", "finding", "findings", "complaint", "complaints",
    "diagnosis", "condition", "course", "result", "results", "history",
)  # fmt: skip
JOINING = ("-", "/", "'", "’", "%", "°", "+", "<", ">", "=", "~", "±", "≥", "≤", "&", "#")  # marks that cut no name
LINK = 4  # template words that may stand between a name and its number
REACH = 12  # tokens within which the note has the same name and number
BREAK = np.uint64(0)


class AssertionEngine(Protocol):
    """What asserts the mentions of the ``entities`` table; the pipeline hands it over (``medpipe.tag.assertion``)."""

    def assert_batch(
        self,
        texts: Sequence[str],
        tokens: Sequence[Tokens],
        sentences: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
        ends: Sequence[np.ndarray],
        section_names: Sequence[Sequence[str]],
    ) -> list[np.ndarray]:
        """Returns for each text what is asserted of its mentions; shape: (mentions, ASSERTIONS), bool."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence to be checked."""

    text: str
    tokens: Tokens
    words: Words
    sources: np.ndarray  # shape: (words,), int64: the note's token that each was copied from, -1 for none


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with one sentence; all zero: nothing."""

    entities: int = 0
    numbers: int = 0
    polarity: int = 0
    sides: int = 0  # of ``entities``, those with a side
    family: int = 0

    @property
    def clean(self) -> bool:
        """Says whether nothing was found."""
        return not (self.entities or self.numbers or self.polarity or self.family)


@cache
def _hashes(words: tuple[str, ...]) -> np.ndarray:
    return hash_words(words)


def negation_scope(types: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """Returns which tokens stand in the scope of a negation; the cue itself does not.

    Args:
        types: shape: (tokens,), uint64, hashes of the lower-cased words.
        sentences: shape: (sentences, 2), token intervals; no scope leaves its sentence.

    Returns:
        shape: (tokens,), bool.
    """
    before, after, stops = _hashes(CUES_BEFORE), _hashes(CUES_AFTER), _hashes(STOPS)
    negated = np.zeros(len(types), dtype=bool)
    if len(types) == 0:
        return negated
    stop = np.append(np.flatnonzero(among(types, stops)), len(types))
    ends = np.repeat(sentences[:, 1], sentences[:, 1] - sentences[:, 0])
    starts = np.repeat(sentences[:, 0], sentences[:, 1] - sentences[:, 0])
    for cue in np.flatnonzero(among(types, before)).tolist():
        end = min(int(ends[cue]), cue + 1 + SCOPE, int(stop[np.searchsorted(stop, cue, side="right")]))
        negated[cue + 1 : end] = True
    for cue in np.flatnonzero(among(types, after)).tolist():
        place = int(np.searchsorted(stop, cue))
        start = max(int(starts[cue]), cue - BACK_SCOPE, int(stop[place - 1]) + 1 if place else 0)
        negated[start:cue] = True
    return negated & ~among(types, before)


def _pairs(types: np.ndarray) -> np.ndarray:
    """Returns a hash of each word and its follower; shape: (tokens - 1,)."""
    return types[:-1] * MIX + types[1:]


def _windows(types: np.ndarray, length: int) -> np.ndarray:
    """Returns a hash of every ``length`` neighbours; shape: (tokens - length + 1,), uint64."""
    total = np.zeros(max(0, len(types) - length + 1), dtype=np.uint64)
    for place in range(length):
        total = total * MIX + types[place : place + len(total)]
    return total


def _running(types: np.ndarray, wordlike: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the words one after the other, a ``BREAK`` for a mark that parts them and at every sentence's end.

    Args:
        types: shape: (tokens,), uint64.
        wordlike: shape: (tokens,), bool.
        ends: shape: (sentences,), the token after each sentence.
    """
    kept = wordlike | ~among(types, _hashes(JOINING))
    running = np.where(wordlike, types, BREAK)
    place = np.concatenate([[0], np.cumsum(kept)])[ends]
    return np.insert(running[kept], place, BREAK)


class Checker:
    """The checks against one note.

    Args:
        source: the note.
        engine: asserts the mentions of the summary; ``None``: cue words do.
    """

    def __init__(self, source: Source, engine: AssertionEngine | None = None) -> None:
        self.engine = engine
        self.source = source
        self.types = np.unique(source.types)
        self.pairs = np.unique(_pairs(source.types))
        self.numbers = frozenset(NUMBER.findall(source.text))
        self.running = _running(source.types, source.wordlike, source.sentences[:, 1]).tobytes()
        first, end = token_intervals(source.tokens, source.mentions.start, source.mentions.end)
        self.covered, negated = self._of_mentions(first, end)
        scope = negation_scope(source.types, source.sentences)
        self.negated = np.where(self.covered, negated, scope)  # shape: (tokens,), bool
        self.always, self.never = _polarity(source.types, self.negated)
        self.phrases = _phrases(source, first, end)

    def _of_mentions(self, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which tokens of the note a mention covers, and which a negated one; shape: (tokens,), bool, each."""
        change = np.zeros((len(self.source.tokens) + 1, 2), dtype=np.int64)
        columns = np.stack([np.ones(len(first), dtype=np.int64), self.source.mentions.negated.astype(np.int64)], axis=1)
        np.add.at(change, first, columns)
        np.subtract.at(change, end, columns)
        covered, negated = (np.cumsum(change[:-1], axis=0) > 0).T
        return covered, negated

    def check(self, claims: Sequence[Claim], *, taken: bool = False) -> list[Findings]:
        """Returns what is wrong with each sentence; ``taken``: they stand in the note word for word."""
        found = [self._mentions(claim) for claim in claims]
        asserted = self._assert(claims, found)
        return [
            self._judge(claim, mentions, flags, taken)
            for claim, mentions, flags in zip(claims, found, asserted, strict=True)
        ]

    def _judge(self, claim: Claim, mentions: np.ndarray, flags: np.ndarray, taken: bool) -> Findings:
        turned, family = self._compare(claim, mentions, flags, taken)
        if taken or len(claim.words.types) == 0:
            return Findings(polarity=turned, family=family)
        words, types = claim.words, claim.words.types
        content = words.wordlike & ~is_template(types)
        missing = content & ~among(types, self.types)
        follow = content[:-1] & content[1:] & ~missing[:-1] & ~missing[1:]
        broken = follow & ~among(_pairs(types), self.pairs)
        # A number with another word after it is a wrong number; any other wrong pair is a wrong entity.
        measures = words.digits[:-1] & broken
        wrong = missing.copy()
        wrong[:-1] |= broken
        runs, sided = self._foreign_runs(words, content, wrong)
        side = among(types, _hashes(SIDES))
        entities = int((missing & ~words.digits).sum() + (broken & ~measures).sum()) + runs
        sides = int((missing & side).sum() + (broken & (side[:-1] | side[1:])).sum()) + sided
        numbers = self._numbers(claim.text) + int(measures.sum()) + self._foreign_links(words, content)
        inside = np.zeros(len(types), dtype=bool)
        for start, end, _ in mentions.tolist():
            inside[start:end] = True
        negated = negation_scope(types, np.array([[0, len(types)]]))
        affirmed_here = np.unique(types[content & ~negated & ~inside])
        negated_here = np.unique(types[content & negated & ~inside])
        turned += int(among(affirmed_here, self.always).sum() + among(negated_here, self.never).sum())
        return Findings(entities, numbers, turned, sides, family)

    def _numbers(self, text: str) -> int:
        """Counts the numbers of a sentence that the note does not have."""
        return sum(number not in self.numbers for number in NUMBER.findall(text))

    def _foreign_runs(self, words: Words, content: np.ndarray, wrong: np.ndarray) -> tuple[int, int]:
        """Counts the names of several words that no sentence of the note has, all in all and with a side.

        What holds a word that is ``wrong`` already is not counted again.
        """
        types = words.types
        joined = content | (among(types, _hashes(BEHIND)) & np.append(False, content[:-1]))
        joined |= among(types, _hashes(INNER)) | (~words.wordlike & among(types, _hashes(JOINING)))
        edges = np.flatnonzero(np.diff(np.concatenate([[0], joined.astype(np.int8), [0]])))
        runs = sided = 0
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            while start < end and not content[start]:
                start += 1
            while start < end and (_hashes(INNER) == types[end - 1]).any():
                end -= 1
            if end - start < 2 or wrong[start:end].any():
                continue
            run = types[start:end][words.wordlike[start:end]]
            if not _holds(self.running, run):
                runs += 1
                sided += bool(among(run, _hashes(SIDES)).any())
        return runs, sided

    def _foreign_links(self, words: Words, content: np.ndarray) -> int:
        """Counts the numbers that the sentence gives to a name which has them in no sentence of the note."""
        source, types = self.source, words.types
        linked = 0
        for place in np.flatnonzero(words.digits & words.wordlike).tolist():
            before = np.flatnonzero(content[max(0, place - LINK) : place])
            if len(before) == 0:
                continue
            name = max(0, place - LINK) + int(before[-1])
            if words.digits[name] or name == place - 1:
                continue  # a range, or neighbours: checked as such
            names = np.flatnonzero(source.types == types[name])
            there = np.flatnonzero(source.types == types[place])
            if len(names) == 0 or len(there) == 0:
                continue  # counted as missing
            apart = there[None, :] - names[:, None]
            together = source.sentence_of[there][None, :] == source.sentence_of[names][:, None]
            linked += not bool((together & (apart > 0) & (apart <= REACH)).any())
        return linked

    # --- mentions -----------------------------------------------------------------------------

    def _mentions(self, claim: Claim) -> np.ndarray:
        """Returns where the sentence has words of the note's mentions, without those inside others.

        Returns:
            shape: (found, 3), int64: first word, end, row of ``phrases``.
        """
        types, tables = claim.words.types, self.phrases.by_length
        rows = []
        hashes = np.zeros(len(types), dtype=np.uint64)
        for length in range(1, min(len(types), max(tables, default=0)) + 1):
            hashes = hashes[: len(types) - length + 1] * MIX + types[length - 1 :]  # ``_windows``, one word longer
            if (table := tables.get(length)) is not None:
                place = np.minimum(np.searchsorted(table.hashes, hashes), len(table.hashes) - 1)
                start = np.flatnonzero(table.hashes[place] == hashes)
                if len(start):
                    rows.append(np.stack([start, start + length, table.rows[place[start]]], axis=1))
        if not rows:
            return np.zeros((0, 3), dtype=np.int64)
        found = np.concatenate(rows)
        found = found[np.lexsort((-found[:, 1], found[:, 0]))]
        furthest = np.maximum.accumulate(np.append(0, found[:, 1]))[:-1]
        return found[found[:, 1] > furthest]

    def _assert(self, claims: Sequence[Claim], found: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns what each sentence says of its mentions: shape (mentions, ASSERTIONS), bool."""
        if self.engine is None:
            flags = []
            for claim, mentions in zip(claims, found, strict=True):
                scope = negation_scope(claim.words.types, np.array([[0, len(claim.words.types)]]))
                rows = np.zeros((len(mentions), len(ASSERTIONS)), dtype=bool)
                rows[:, NEGATED] = [scope[start:end].all() for start, end, _ in mentions.tolist()]
                flags.append(rows)
            return flags
        return self.engine.assert_batch(
            [claim.text for claim in claims],
            [claim.tokens for claim in claims],
            [np.array([[0, len(claim.tokens)]]) for claim in claims],
            [claim.tokens.start[mentions[:, 0]] for claim, mentions in zip(claims, found, strict=True)],
            [claim.tokens.end[mentions[:, 1] - 1] for claim, mentions in zip(claims, found, strict=True)],
            [["body"] * len(mentions) for mentions in found],
        )

    def _compare(self, claim: Claim, mentions: np.ndarray, flags: np.ndarray, taken: bool) -> tuple[int, int]:
        """Counts the mentions negated otherwise than in the note, and those of the family said of the patient."""
        turned = family = 0
        for (start, end, row), said in zip(mentions.tolist(), flags, strict=True):
            allowed = self.phrases.polarity[row]  # shape: (2,): affirmed, negated
            sources = claim.sources[start:end]
            if (sources >= 0).all() and self.covered[sources].all():
                there = self.negated[sources]
                if there.all() or not there.any():
                    allowed = np.array([not there[0], there[0]])
            elif taken:
                continue  # the same words as a mention elsewhere, but no mention here
            turned += not allowed[int(said[NEGATED])]
            if self.engine is not None:
                family += bool(self.phrases.family[row]) and not said[FAMILY]
        return turned, family


def _holds(running: bytes, run: np.ndarray) -> bool:
    """Says whether words follow each other in a running text, both as the bytes of 64-bit hashes."""
    wanted = run.tobytes()
    place = running.find(wanted)
    while place >= 0 and place % 8:
        place = running.find(wanted, place + 1)
    return place >= 0


def _polarity(types: np.ndarray, negated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words that are negated wherever they stand, and those that are nowhere; sorted hashes."""
    unique, inverse, counts = np.unique(types, return_inverse=True, return_counts=True)
    times = np.bincount(inverse, weights=negated, minlength=len(unique))
    return unique[times == counts], unique[times == 0]


@dataclass(frozen=True, slots=True)
class _Table:
    hashes: np.ndarray  # shape: (phrases,), uint64, ascending
    rows: np.ndarray  # shape: (phrases,), int64: of ``Phrases``


@dataclass(frozen=True, slots=True)
class Phrases:
    """The words of a note's mentions, each once."""

    by_length: dict[int, _Table]  # words -> the phrases of so many
    polarity: np.ndarray  # shape: (phrases, 2), bool: the note has it affirmed, has it negated
    family: np.ndarray  # shape: (phrases,), bool: wherever the note has it, it is the family's


def _phrases(source: Source, first: np.ndarray, end: np.ndarray) -> Phrases:
    """Returns the words of the mentions that lie in tokens ``first`` to ``end``."""
    asserted = source.mentions.assertions
    tables: dict[int, _Table] = {}
    polarity, family = [np.zeros((0, 2), dtype=bool)], [np.zeros(0, dtype=bool)]
    count = 0
    for length in np.unique((end - first)[end > first]).tolist():
        chosen = np.flatnonzero(end - first == length)
        hashes, inverse = np.unique(_windows(source.types, length)[first[chosen]], return_inverse=True)
        kinds = np.zeros((len(hashes), 2), dtype=bool)
        kinds[inverse, asserted[chosen, NEGATED].astype(np.int64)] = True
        own = np.zeros(len(hashes), dtype=bool)
        own[inverse[~asserted[chosen, FAMILY]]] = True
        tables[length] = _Table(hashes, count + np.arange(len(hashes)))
        polarity.append(kinds)
        family.append(~own)
        count += len(hashes)
    return Phrases(tables, np.concatenate(polarity), np.concatenate(family))
