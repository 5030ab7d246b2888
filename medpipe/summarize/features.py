"""From a note and its rows to arrays, and from the arrays of several notes to the tensors of one batch.

A word is known by the 64-bit hash of its lower-cased characters: on the source side there is no vocabulary and
no unknown word. The embedding rows of a word are two buckets of that hash (Bloom embeddings, Svenstrup et al. 2017).
Everything is computed on whole arrays of code points; there is no Python loop over tokens.

Cannot do: lower-case letters outside the Basic Multilingual Plane's first 1,536 code points; they count as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from medpipe.ids import make_id
from medpipe.records import ASSERTIONS, LABELS
from medpipe.summarize.template_words import TEMPLATE_WORDS
from medpipe.text.batches import bucket_batches
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import Tokens, tokenize

SMALL_TABLE = 64  # entries; ``among`` compares with each
WORD_BUCKETS = 1 << 15
SUFFIX_BUCKETS = 1 << 11
SHAPES = 4 * 3 * 6  # class of the first character, of the second, length
POSITIONS = 16
SECTION_BUCKETS = 64
FLAGS = len(LABELS) + len(ASSERTIONS) + 1  # the last: the mention stands in a relation
HEADING_WORDS = 4
FOLDED = 0x600  # code points below are lower-cased by a table
BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Mentions:
    """The entities of one note as columns."""

    start: np.ndarray  # shape: (mentions,), int32, code points
    end: np.ndarray  # shape: (mentions,), int32
    label: np.ndarray  # shape: (mentions,), int64, index into LABELS, -1 for a label of another model
    assertions: np.ndarray  # shape: (mentions, ASSERTIONS), bool
    related: np.ndarray  # shape: (mentions,), bool: in at least one relation

    def __len__(self) -> int:
        return len(self.start)

    @property
    def negated(self) -> np.ndarray:
        """Says which mentions are negated; shape: (mentions,), bool."""
        return self.assertions[:, ASSERTIONS.index("negated")]


def no_mentions() -> Mentions:
    """Returns the columns of a note without entities."""
    none = np.zeros(0, dtype=np.int32)
    return Mentions(none, none, none.astype(np.int64), np.zeros((0, len(ASSERTIONS)), dtype=bool), none.astype(bool))


@dataclass(frozen=True, slots=True)
class Headings:
    """The sections of one note as columns: where each begins, where its body begins, what it is called."""

    start: np.ndarray  # shape: (sections,), int32
    body_start: np.ndarray  # shape: (sections,), int32
    end: np.ndarray  # shape: (sections,), int32
    names: Sequence[str]


def no_headings() -> Headings:
    """Returns the columns of a note without sections."""
    none = np.zeros(0, dtype=np.int32)
    return Headings(none, none, none, ())


@dataclass(frozen=True, slots=True)
class Source:
    """One note as arrays, one entry a token or a sentence."""

    text: str = field(repr=False)
    tokens: Tokens
    types: np.ndarray  # shape: (tokens,), uint64, hash of the lower-cased token
    suffixes: np.ndarray  # shape: (tokens,), int64, bucket of the last three characters
    shapes: np.ndarray  # shape: (tokens,), int64
    wordlike: np.ndarray  # shape: (tokens,), bool: a letter or a digit, not a mark
    flags: np.ndarray  # shape: (tokens, FLAGS), float32
    sentences: np.ndarray  # shape: (sentences, 2), int32, token intervals
    sentence_of: np.ndarray  # shape: (tokens,), int64
    places: np.ndarray  # shape: (sentences, 4), int64: index, share of the note, distance from the end, section
    eligible: np.ndarray  # shape: (sentences,), bool: a sentence of the body with a word, no heading
    sections: Sequence[str]  # the canonical name of every sentence's section; "body" where it has none
    mentions: Mentions

    @property
    def lengths(self) -> np.ndarray:
        """Returns the tokens of every sentence; shape: (sentences,), int64."""
        return (self.sentences[:, 1] - self.sentences[:, 0]).astype(np.int64)


@cache
def _fold_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns lower case and character class (0 mark, 1 lower, 2 upper, 3 digit) of the first code points."""
    lower = np.arange(FOLDED, dtype=np.uint64)
    classes = np.zeros(FOLDED, dtype=np.int64)
    for point in range(FOLDED):
        letter = chr(point)
        if len(letter.lower()) == 1:
            lower[point] = ord(letter.lower())
        classes[point] = 3 if letter.isdigit() else 2 if letter.isupper() else 1 if letter.isalpha() else 0
    return lower, classes


def _mix(values: np.ndarray) -> np.ndarray:
    """Spreads the bits of 64-bit hashes (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _segment_hash(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns a polynomial hash of ``points[start[i]:end[i]]`` for every i; no interval may be empty."""
    lengths = (end - start).astype(np.int64)
    firsts = np.cumsum(lengths) - lengths
    within = np.arange(int(lengths.sum())) - np.repeat(firsts, lengths)
    powers = np.ones(int(lengths.max()), dtype=np.uint64)
    np.multiply.accumulate(np.full(len(powers) - 1, BASE), out=powers[1:])
    letters = points[np.repeat(start, lengths) + within] + np.uint64(1)
    return _mix(np.add.reduceat(letters * powers[within], firsts) + lengths.astype(np.uint64))


@dataclass(frozen=True, slots=True)
class Words:
    """What the network sees of tokens by themselves; see ``Source``."""

    types: np.ndarray
    suffixes: np.ndarray
    shapes: np.ndarray
    wordlike: np.ndarray

    @property
    def digits(self) -> np.ndarray:
        """Says which tokens are numbers; shape: (tokens,), bool."""
        return self.shapes // (3 * 6) == 3


def describe_words(text: str, tokens: Tokens) -> Words:
    """Returns hash, suffix, shape and kind of every token of ``text``."""
    if len(tokens) == 0:
        none = np.zeros(0, dtype=np.int64)
        return Words(none.astype(np.uint64), none, none, none.astype(bool))
    lower, classes = _fold_table()
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    folded = points.astype(np.uint64)
    low = points < FOLDED
    folded[low] = lower[points[low]]
    kinds = np.ones(len(points), dtype=np.int64)
    kinds[low] = classes[points[low]]
    start, end = tokens.start.astype(np.int64), tokens.end.astype(np.int64)
    types = _segment_hash(folded, start, end)
    suffixes = (_segment_hash(folded, np.maximum(start, end - 3), end) % SUFFIX_BUCKETS).astype(np.int64)
    length = np.minimum(end - start, 6) - 1
    second = np.where(end - start > 1, np.minimum(kinds[np.minimum(start + 1, len(points) - 1)], 2), 0)
    # A character above the table is a letter only if the tokenizer joined it or it is alphabetic; symbols there
    # (arrows, emoji) are rare enough to be counted as words.
    return Words(types, suffixes, (kinds[start] * 3 + second) * 6 + length, kinds[start] > 0)


def hash_words(words: Sequence[str]) -> np.ndarray:
    """Returns the hash of every word, as ``Source.types`` holds it; no word may be empty."""
    lengths = np.array([len(word) for word in words], dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    return describe_words("".join(words), Tokens(ends - lengths, ends)).types


def among(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns which values stand in a table, as ``np.isin`` does; shape: (values,), bool.

    A sentence has a few dozen words and most tables do: comparing all with all takes a fifth of the time of sorting.
    """
    if len(table) <= SMALL_TABLE:
        return np.asarray((values[:, None] == table).any(axis=1))
    return np.isin(values, table)


@cache
def _template_hashes() -> np.ndarray:
    return np.sort(hash_words(sorted(TEMPLATE_WORDS)))


def is_template(types: np.ndarray) -> np.ndarray:
    """Returns which words hold a sentence together and state no clinical fact; shape: (words,), bool."""
    table = _template_hashes()
    return np.asarray(table[np.minimum(np.searchsorted(table, types), len(table) - 1)] == types)


def word_buckets(types: np.ndarray) -> np.ndarray:
    """Returns the two embedding rows of every word; shape: (words, 2), int64."""
    first = types % np.uint64(WORD_BUCKETS)
    second = (types >> np.uint64(32)) % np.uint64(WORD_BUCKETS)
    return np.stack([first, second], axis=-1).astype(np.int64)


@cache
def section_bucket(name: str) -> int:
    """Returns the embedding row of a section's name; 0 is no section."""
    return 1 + int(make_id("section name", name), 16) % (SECTION_BUCKETS - 1)


def read_source(text: str, headings: Headings | None = None, mentions: Mentions | None = None) -> Source:
    """Returns the arrays of one note."""
    headings = headings or no_headings()
    mentions = mentions or no_mentions()
    tokens = tokenize(text)
    sentences = split_sentences(text, tokens)
    words = describe_words(text, tokens)
    count = len(sentences)
    sentence_of = np.repeat(np.arange(count), (sentences[:, 1] - sentences[:, 0]).astype(np.int64))
    index = np.arange(count)
    starts = tokens.start[sentences[:, 0]] if count else np.zeros(0, dtype=np.int32)
    stops = tokens.end[sentences[:, 1] - 1] if count else np.zeros(0, dtype=np.int32)
    number, in_heading = _sections_of(starts, stops, headings)
    sections = [headings.names[one] if one >= 0 else "body" for one in number.tolist()]
    section = np.array([section_bucket(headings.names[one]) if one >= 0 else 0 for one in number.tolist()], np.int64)
    places = np.stack(
        [
            np.minimum(index, POSITIONS - 1),
            index * POSITIONS // max(1, count),
            np.minimum(count - 1 - index, POSITIONS - 1),
            section,
        ],
        axis=1,
    )
    return Source(
        text=text,
        tokens=tokens,
        types=words.types,
        suffixes=words.suffixes,
        shapes=words.shapes,
        wordlike=words.wordlike,
        flags=mention_flags(tokens, mentions),
        sentences=sentences,
        sentence_of=sentence_of,
        places=places.astype(np.int64),
        eligible=_eligible(words, sentences, sentence_of, in_heading),
        sections=sections,
        mentions=mentions,
    )


def _eligible(words: Words, sentences: np.ndarray, sentence_of: np.ndarray, in_heading: np.ndarray) -> np.ndarray:
    """Returns which sentences a summary may rest on: with a word, no heading, and not what looks like one.

    A line of up to four words without a number, a list mark or an end looks like a heading that nobody marked. Where
    there is nothing else, it is taken as it is.
    """
    if len(sentences) == 0:
        return np.zeros(0, dtype=bool)
    n_words = np.bincount(sentence_of[words.wordlike], minlength=len(sentences))
    n_numbers = np.bincount(sentence_of[words.digits], minlength=len(sentences))
    open_ended = words.wordlike[sentences[:, 0]] & words.wordlike[sentences[:, 1] - 1]
    looks_like_heading = open_ended & (n_words <= HEADING_WORDS) & (n_numbers == 0)
    for eligible in (~in_heading & ~looks_like_heading, ~in_heading, np.ones_like(in_heading)):
        if (eligible & (n_words > 0)).any():
            return eligible & (n_words > 0)
    return np.zeros(len(sentences), dtype=bool)


def _sections_of(starts: np.ndarray, stops: np.ndarray, headings: Headings) -> tuple[np.ndarray, np.ndarray]:
    """Returns the innermost section of every sentence, -1 for none, and whether it is nothing but a heading."""
    section = np.full(len(starts), -1, dtype=np.int64)
    inside = np.zeros(len(starts), dtype=bool)
    # Sections are few; an inner one comes after the one around it and overwrites it.
    for number in np.lexsort((-headings.end.astype(np.int64), headings.start)).tolist():
        start, body, end = headings.start[number], headings.body_start[number], headings.end[number]
        section[(starts >= start) & (starts < end)] = number
        inside |= (starts >= start) & (stops <= body)  # "Lungs: clear." is more than its heading
    return section, inside


def token_intervals(tokens: Tokens, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the end token of every character interval."""
    first = np.searchsorted(tokens.end, start, side="right")
    return first, np.maximum(first, np.searchsorted(tokens.start, end, side="left"))


def mention_flags(tokens: Tokens, mentions: Mentions) -> np.ndarray:
    """Returns which labels, assertions and relations cover each token; shape: (tokens, FLAGS), float32 of 0 and 1."""
    change = np.zeros((len(tokens) + 1, FLAGS), dtype=np.int32)
    if len(mentions):
        first, end = token_intervals(tokens, mentions.start, mentions.end)
        columns = np.zeros((len(mentions), FLAGS), dtype=np.int32)
        known = np.flatnonzero(mentions.label >= 0)
        columns[known, mentions.label[known]] = 1
        columns[:, len(LABELS) : -1] = mentions.assertions
        columns[:, -1] = mentions.related
        np.add.at(change, first, columns)
        np.subtract.at(change, end, columns)
    return (np.cumsum(change[:-1], axis=0) > 0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Rows:
    """Sentences (or notes) of about one length, as positions in a flat list of items."""

    forward: Tensor  # shape: (rows, width), int64; padding points at item 0
    backward: Tensor  # shape: (rows, width), int64; each row reversed by its own length
    mask: Tensor  # shape: (rows, width), bool
    rows: Tensor  # shape: (rows,), int64: which sentence (or note) each row is


def make_rows(lengths: np.ndarray, budget: int, device: torch.device) -> list[Rows]:
    """Cuts a flat list of items, ``lengths`` of which belong together, into padded rows of about equal length."""
    starts = np.cumsum(lengths) - lengths
    made = []
    for chosen in bucket_batches(lengths, budget):
        width = max(1, int(lengths[chosen].max()))
        column = np.arange(width)
        mask = column < lengths[chosen][:, None]
        forward = np.where(mask, starts[chosen][:, None] + column, 0)
        backward = np.where(mask, (starts + lengths)[chosen][:, None] - 1 - column, 0)
        tensors = (torch.from_numpy(array).to(device) for array in (forward, backward, mask, chosen.astype(np.int64)))
        made.append(Rows(*tensors))
    return made


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Notes laid end to end; what belongs to which note is in the counts."""

    words: Tensor  # shape: (tokens, 2), int64
    suffixes: Tensor  # shape: (tokens,), int64
    shapes: Tensor  # shape: (tokens,), int64
    flags: Tensor  # shape: (tokens, FLAGS), float32
    places: Tensor  # shape: (sentences, 4), int64
    sentence_of: Tensor  # shape: (tokens,), int64, counted over the batch
    token_rows: list[Rows]  # sentences as rows of tokens
    sentence_rows: list[Rows]  # notes as rows of sentences
    token_counts: np.ndarray  # shape: (notes,)
    sentence_counts: np.ndarray  # shape: (notes,)


def collate(sources: Sequence[Source], device: torch.device, budget: int = 4096) -> SourceBatch:
    """Returns the tensors of several notes, each with at least one token."""
    sentence_counts = np.array([len(source.sentences) for source in sources])
    firsts = np.cumsum(sentence_counts) - sentence_counts
    sentence_of = np.concatenate(
        [source.sentence_of + first for source, first in zip(sources, firsts.tolist(), strict=True)]
    )
    lengths = np.concatenate([source.lengths for source in sources])

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(source, name) for source in sources])).to(device)

    return SourceBatch(
        words=torch.from_numpy(word_buckets(np.concatenate([source.types for source in sources]))).to(device),
        suffixes=tensor("suffixes"),
        shapes=tensor("shapes"),
        flags=tensor("flags"),
        places=tensor("places"),
        sentence_of=torch.from_numpy(sentence_of).to(device),
        token_rows=make_rows(lengths, budget, device),
        sentence_rows=make_rows(sentence_counts, budget, device),
        token_counts=np.array([len(source.tokens) for source in sources]),
        sentence_counts=sentence_counts,
    )


class Vocabulary:
    """The words that the generator may write without a source, with their casing.

    Identifiers: ``PAD``, ``START``, ``END``, then the words; above ``size`` come the words of a note that are not
    in the vocabulary, numbered anew for each note (the extended vocabulary of See et al. 2017).
    """

    PAD, START, END = 0, 1, 2

    def __init__(self, words: Sequence[str]) -> None:
        self.words = ["", "", "", *words]
        self.size = len(self.words)
        hashes = hash_words(words)
        self.order = np.argsort(hashes, kind="stable")
        self.sorted = hashes[self.order]
        # shape: (size, 2); the three marks have rows of their own in the network and borrow row 0 here
        self.buckets = np.concatenate([np.zeros((3, 2), dtype=np.int64), word_buckets(hashes)])

    def lookup(self, types: np.ndarray) -> np.ndarray:
        """Returns the identifier of every word, -1 where it is not in the vocabulary."""
        if len(self.sorted) == 0:
            return np.full(len(types), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.sorted, types), len(self.sorted) - 1)
        return np.where(self.sorted[place] == types, self.order[place] + 3, -1).astype(np.int64)

    def extend(self, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the extended identifier of every word of a note, and the hashes of its own words in their order."""
        known = self.lookup(types)
        own, inverse = np.unique(types[known < 0], return_inverse=True)
        ids = known.copy()
        ids[known < 0] = self.size + inverse
        return ids, own
