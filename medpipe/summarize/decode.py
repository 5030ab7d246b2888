"""From the generator's words and the selector's sentences to the text of a summary, and to rows.

A run of words copied from neighbouring places keeps the note's own spacing; other words get the spacing of print.
Every token remembers the source token that it was copied from. A word whose first letter was raised at the
beginning of a sentence is no longer equal to its source, so its row says that it was generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from medpipe.summarize.faithfulness import Claim, Findings
from medpipe.summarize.features import Source, Vocabulary, Words, describe_words, token_intervals
from medpipe.text.tokens import Tokens

NO_SPACE_BEFORE = frozenset(".,;:)]}%!?-/")
NO_SPACE_AFTER = frozenset("([{-/")
NOTHING = Findings()
ENDS_SENTENCE = frozenset(".!?")
INITIAL = re.compile(r"\b[^\W\d]\.$")
LIST_NUMBER = re.compile(r"\d{1,2}[.)]\s+[^\W\d]")
OPENING = frozenset("([{\"“‘'<>≥≤±~+-−")  # marks that belong to the word after them


@dataclass(frozen=True, slots=True)
class Said:
    """Words of a summary: one sentence, or a whole draft."""

    words: list[str]
    sources: np.ndarray  # shape: (words,), int64: source token, -1 for a generated word
    probabilities: np.ndarray  # shape: (words,), float32
    extract: int = -1  # the sentence of the note that this is, -1 for one that was written

    def part(self, first: int, end: int) -> Said:
        """Returns the words from ``first`` to ``end``."""
        return Said(self.words[first:end], self.sources[first:end], self.probabilities[first:end], self.extract)


@dataclass(frozen=True, slots=True)
class Composed:
    """A text and where its tokens lie and come from."""

    text: str
    start: np.ndarray  # shape: (words,), int32, in the summary
    end: np.ndarray
    source: np.ndarray  # shape: (words,), int64: source token, -1 for a generated word
    probability: np.ndarray  # shape: (words,), float32


def read_draft(
    source: Source,
    slots: np.ndarray,
    vocabulary: Vocabulary,
    words: np.ndarray,
    copied: np.ndarray,
    probabilities: np.ndarray,
) -> Said:
    """Returns what the generator wrote, up to its end mark or, where it found no end, to its last full sentence.

    Args:
        source: the note.
        slots: shape: (slots,), source tokens that it attended to.
        vocabulary: of the generator.
        words: shape: (steps,), extended identifiers.
        copied: shape: (steps,), slot of each word, -1 for a generated one.
        probabilities: shape: (steps,).
    """
    over = np.flatnonzero((words == Vocabulary.END) | (words == Vocabulary.PAD))
    count = int(over[0]) if len(over) else len(words)
    sources = np.where(copied[:count] >= 0, slots[np.maximum(copied[:count], 0)], -1)
    starts, ends = source.tokens.start[sources].tolist(), source.tokens.end[sources].tolist()
    said = [
        source.text[start:end] if origin >= 0 else vocabulary.words[word]
        for origin, start, end, word in zip(sources.tolist(), starts, ends, words[:count].tolist(), strict=True)
    ]
    draft = Said(said, sources, probabilities[:count])
    if len(over) == 0 and len(ends_of_sentences := sentence_limits(source, draft)) > 2:
        return draft.part(0, ends_of_sentences[-2])
    return draft


def extract_sentence(source: Source, sentence: int, score: float) -> Said:
    """Returns a sentence of the note as a sentence of the summary: without a list mark, with a full stop."""
    first, end = source.sentences[sentence].tolist()
    starts, ends = source.tokens.start, source.tokens.end
    if LIST_NUMBER.match(source.text, starts[first], ends[end - 1]) and end - first > 3:
        first += 2  # "2. Asthma", but not "2.5 mg"
    # A list mark or a stray closing bracket is left behind; what stands close to the first word and opens it stays.
    while first < end - 1 and not source.wordlike[first]:
        if ends[first] == starts[first + 1] and source.text[starts[first]] in OPENING:
            break
        first += 1
    sources = np.arange(first, end, dtype=np.int64)
    words = source.tokens
    said = [
        source.text[a:b] for a, b in zip(words.start[first:end].tolist(), words.end[first:end].tolist(), strict=True)
    ]
    if said and said[-1] not in ENDS_SENTENCE and not (len(said) > 1 and said[-2] in ENDS_SENTENCE):
        if said[-1] in ",;:":
            said, sources = said[:-1], sources[:-1]
        said, sources = [*said, "."], np.append(sources, -1)
    return Said(said, sources, np.full(len(said), score, dtype=np.float32), extract=sentence)


def spell(source: Source, said: Said) -> Composed:
    """Returns the text of ``said``."""
    words, sources = said.words, said.sources.tolist()
    starts, ends = source.tokens.start, source.tokens.end
    pieces: list[str] = []
    limits = np.zeros((len(words), 2), dtype=np.int32)
    place = 0
    for index, word in enumerate(words):
        origin = sources[index]
        if index == 0:
            gap = ""
        elif origin > 0 and sources[index - 1] == origin - 1:
            gap = "" if starts[origin] == ends[origin - 1] else " "
        else:
            gap = "" if word in NO_SPACE_BEFORE or words[index - 1] in NO_SPACE_AFTER else " "
        pieces += (gap, word)
        place += len(gap)
        limits[index] = place, place + len(word)
        place += len(word)
    return Composed("".join(pieces), limits[:, 0], limits[:, 1], said.sources, said.probabilities)


def sentence_limits(source: Source, draft: Said) -> list[int]:
    """Returns where the sentences of a draft begin, and its end.

    A full stop ends a sentence unless the note goes on in the same sentence and so does the copy ("2.5", "Dr. Lee").
    """
    count = len(draft.words)
    if count == 0:
        return [0]
    stop = np.array([word in ENDS_SENTENCE for word in draft.words[:-1]], dtype=bool)
    here, there = draft.sources[:-1], draft.sources[1:]
    inside = (here >= 0) & (there == here + 1) & (source.sentence_of[here] == source.sentence_of[there])
    return [0, *(np.flatnonzero(stop & ~inside) + 1).tolist(), count]


def cut_sentences(source: Source, draft: Said) -> list[Said]:
    """Cuts a draft into sentences; each begins with a capital letter and ends with a full stop."""
    limits = sentence_limits(source, draft)
    pieces = (draft.part(first, end) for first, end in pairwise(limits))
    return [polish(piece) for piece in pieces if any(word[0].isalnum() for word in piece.words)]


def polish(said: Said) -> Said:
    """Raises the first letter, drops marks that open nothing, and adds the full stop that is missing."""
    first = 0
    while said.words[first] in NO_SPACE_BEFORE:
        first += 1
    end = len(said.words)
    while said.words[end - 1] in ",;:-/(":
        end -= 1
    said = said.part(first, end)
    words, sources, probabilities = list(said.words), said.sources, said.probabilities
    if words[0].islower():
        words[0] = words[0][0].upper() + words[0][1:]
    if words[-1] not in ENDS_SENTENCE:
        words.append(".")
        sources = np.append(sources, -1)
        probabilities = np.append(probabilities, np.float32(1.0))
    return Said(words, sources, probabilities, said.extract)


def describe(composed: Composed) -> Words:
    """Returns what the tokens of a text that was spelled are."""
    return describe_words(composed.text, Tokens(composed.start, composed.end))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A summary of one note, before it is a row."""

    sentences: list[Said]
    method: str  # "abstractive", "extractive", "mixed"
    faithful: bool
    parts: Sequence[str] = ()  # the part of the summary that each sentence stands in; none: one part
    findings: Findings = NOTHING  # the sums over the sentences of the draft
    replaced: int = 0  # sentences that gave way to one of the note
    dropped: int = 0  # sentences that were left out
    checks: Sequence[str] = ()  # what the sentences were checked for

    @property
    def repaired(self) -> int:
        """How many sentences were replaced or dropped."""
        return self.replaced + self.dropped


def claim(source: Source, said: Said) -> Claim:
    """Returns a sentence as the check reads it."""
    spelled = spell(source, said)
    return Claim(spelled.text, Tokens(spelled.start, spelled.end), describe(spelled), said.sources)


def join(sentences: Sequence[Said]) -> Said:
    """Returns the sentences as one run of words."""
    if not sentences:
        return Said([], np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    return Said(
        [word for sentence in sentences for word in sentence.words],
        np.concatenate([sentence.sources for sentence in sentences]),
        np.concatenate([sentence.probabilities for sentence in sentences]),
    )


def compose(source: Source, sentences: Sequence[Said]) -> Composed:
    """Returns the text of a summary: its sentences with a blank between them.

    A line end where the last word might be an initial ("Annex I."): nobody shall read two sentences as one.
    """
    parts = [spell(source, sentence) for sentence in sentences]
    offset = 0
    starts, ends = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    for part in parts:
        starts.append(part.start + np.int32(offset))
        ends.append(part.end + np.int32(offset))
        offset += len(part.text) + 1
    joined = join(sentences)
    return Composed(
        "".join(part.text + ("\n" if INITIAL.search(part.text) else " ") for part in parts)[:-1],
        np.concatenate(starts),
        np.concatenate(ends),
        joined.sources,
        joined.probabilities,
    )


def part_spans(outcome: Outcome, text: Composed) -> list[dict[str, Any]] | None:
    """Returns the column ``sections``: the parts of a summary that was composed, in code points of its text."""
    if not outcome.sentences:
        return None
    limits = np.concatenate([[0], np.cumsum([len(one.words) for one in outcome.sentences])]).tolist()
    spans: list[dict[str, Any]] = []
    for name, first, end in zip(outcome.parts, limits[:-1], limits[1:], strict=True):
        if not spans or spans[-1]["name"] != name:
            spans.append({"name": name, "start": int(text.start[first])})
        spans[-1]["end"] = int(text.end[end - 1])
    return spans


def copied_exactly(source: Source, composed: Composed) -> np.ndarray:
    """Returns which tokens of a summary equal their source; a capital letter that was raised makes the difference."""
    origin = composed.source
    starts, ends = source.tokens.start[origin].tolist(), source.tokens.end[origin].tolist()
    equal = [
        place >= 0 and composed.text[a:b] == source.text[c:d]
        for place, a, b, c, d in zip(
            origin.tolist(), composed.start.tolist(), composed.end.tolist(), starts, ends, strict=True
        )
    ]
    return np.array(equal, dtype=bool)


def supporting_mentions(source: Source, composed: Composed) -> np.ndarray:
    """Returns which mentions of the note the summary copied as a whole; shape: (mentions,), bool."""
    covered = np.zeros(len(source.tokens) + 1, dtype=np.int64)
    covered[composed.source[composed.source >= 0] + 1] = 1
    total = np.cumsum(covered)
    first, end = token_intervals(source.tokens, source.mentions.start, source.mentions.end)
    return (total[end] - total[first] == end - first) & (end > first)


def token_array(
    sources: Sequence[Source], texts: Sequence[Composed], begins: Sequence[np.ndarray | None] | None = None
) -> pa.Array:
    """Returns the column ``tokens``: for each summary its tokens with their offsets here and in the note.

    Args:
        sources: the notes.
        texts: their summaries.
        begins: where the notes of an encounter begin in its source, from where their offsets count; ``None``: one note.
    """
    offsets = np.concatenate([[0], np.cumsum([len(text.start) for text in texts])]).astype(np.int32)
    exact = _join([copied_exactly(source, text) for source, text in zip(sources, texts, strict=True)], bool)

    def from_source(name: str) -> pa.Array:
        values = []
        for source, text, begin in zip(sources, texts, begins or [None] * len(texts), strict=True):
            value = getattr(source.tokens, name)[text.source]
            if begin is not None:
                start = source.tokens.start[text.source]
                value = value - begin[np.searchsorted(begin, start, side="right") - 1]
            values.append(value)
        return pa.array(_join(values, np.int32), mask=~exact, type=pa.int32())

    fields = {
        "start": pa.array(_join([text.start for text in texts], np.int32)),
        "end": pa.array(_join([text.end for text in texts], np.int32)),
        "source_start": from_source("start"),
        "source_end": from_source("end"),
        "probability": pa.array(np.round(_join([text.probability for text in texts], np.float32), 4)),
    }
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(list(fields.values()), list(fields)))


def _join(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=dtype), *arrays]).astype(dtype)
