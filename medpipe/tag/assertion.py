"""Assertion: is a mention negated, uncertain, hypothetical, historical, or about the family?

The method of NegEx (Chapman et al. 2001, J Biomed Inform 34) and ConText (Harkema et al. 2009, J Biomed Inform 42):
a cue opens a scope before or after itself, which ends with the sentence, after ``reach`` tokens, or at the first stop
(a contrast, a new clause, a heading); a mention in the scope has the cue's assertion. Some sections assert by
themselves: what stands under "Family history" is family. The cues are data: ``cues.toml`` beside this module.

``historical`` means the patient's background rather than the present episode (past, status post, past medical and
social history), ``hypothetical`` what has not happened (return precautions, risks, "as needed for"), ``family``
anyone of the family.

It cannot follow a scope into the next sentence, nor tell two mentions of one scope apart by what they mean; a finding
that was there and is gone ("has resolved") counts as negated; a test that came out negative is negated like a finding.

Quality, F1: 0.992 negated and 0.886 historical on the first half of the sentences of Chapman et al. (254 and 132 of
1,177). The cues were written with those sentences in view, so expect less elsewhere. On Chia's dev criteria 0.570
negated (precision 0.430, recall 0.846 of 65; Chia leaves many plain negations unmarked). A small trained network over
hashed words around the mention (with Chia, PHEE, MACCROBAT and the answers of these cues), added to the cues, was
tried and is not shipped: alone it had 0.66 and 0.54, and the sum that gained most on Chia (0.658) fell to 0.944 and
0.844 on the sentences of Chapman et al.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.records import ASSERTIONS
from medpipe.text.tokens import Tokens

CUES_FILE = Path(__file__).parent / "cues.toml"
SHIPPED = "assertion"  # the name of the shipped cues

UNKNOWN, NUMBER = 0, 1  # numbers of words: one that is in no phrase; a run of digits (``#`` in a phrase)
DEAD, ROOT = 0, 1  # states of the trie
NO_SECTION = "body"
IDLE = 0  # the kind of phrase that only hides the cues in it


@dataclass(frozen=True, slots=True)
class Cues:
    """The compiled cues: a trie over words, and what each kind of phrase does.

    A *kind* is one table of the file: 0 is ``[[idle]]``, then come the lists of ``[stops]``, then the ``[[cues]]``.
    """

    words: dict[str, int]  # word -> number
    edges: np.ndarray  # shape: (edges,), int64, ascending: state * (words + 2) + word
    targets: np.ndarray  # shape: (edges,), int64: the state that the edge leads to
    kinds: np.ndarray  # shape: (states, kinds), bool: the kinds of the phrase that ends in the state
    accepts: np.ndarray  # shape: (states,), bool: a phrase ends in the state
    hides: np.ndarray  # shape: (states,), bool: it is idle or a cue with a scope, and hides the phrases within it
    longest: int  # words of the longest phrase
    asserts: np.ndarray  # shape: (kinds, ASSERTIONS), bool
    before: np.ndarray  # shape: (kinds,), bool: the cue stands before the mention
    reach: np.ndarray  # shape: (kinds,), int64: tokens; 0 for what is no cue
    begins: np.ndarray  # shape: (kinds,), bool: it counts where a mention begins with it
    alone: np.ndarray  # shape: (kinds,), bool: the same, for a mention that has its sentence for itself
    stopped_by: np.ndarray  # shape: (kinds, kinds), bool: [cue, stop]
    sections: dict[str, np.ndarray]  # canonical name -> shape: (ASSERTIONS,), bool

    def next_states(self, states: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns the states that ``words`` lead to from ``states``; DEAD where no phrase goes on so."""
        wanted = states * (len(self.words) + 2) + words
        places = np.minimum(np.searchsorted(self.edges, wanted), len(self.edges) - 1)
        return np.where(self.edges[places] == wanted, self.targets[places], DEAD)


def expand_phrase(phrase: str, choices: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Yields the words of all that a phrase stands for.

    ``<a|b|>`` is a choice, here with nothing as the third; in a choice, ``{name}`` stands for all of ``choices[name]``.
    """
    flat = re.sub(r"\{(\w+)\}", lambda match: "|".join(choices[match.group(1)]), phrase)
    pieces = re.split(r"<([^<>]*)>", flat)
    for chosen in itertools.product(*(piece.split("|") for piece in pieces)):
        yield tuple(" ".join(chosen).split())


def compile_cues(source: Mapping[str, Any]) -> Cues:
    """Compiles the tables of a cue file; see ``cues.toml``."""
    stops = list(source["stops"])
    kinds = [source["idle"], *source["stops"].values(), *(cue["phrases"] for cue in source["cues"])]
    ends: dict[int, set[int]] = {}  # state -> kinds
    tree: dict[tuple[int, str], int] = {}  # state, word -> state
    longest = 1
    for kind, phrases in enumerate(kinds):
        for words in (words for phrase in phrases for words in expand_phrase(phrase, source["words"])):
            longest = max(longest, len(words))
            state = ROOT
            for word in words:
                state = tree.setdefault((state, word), len(tree) + ROOT + 1)
            ends.setdefault(state, set()).add(kind)
    if not tree:
        raise ValueError("no phrases")
    vocabulary = sorted({word for _, word in tree} - {"#"})
    numbers = {word: number for number, word in enumerate(vocabulary, NUMBER + 1)}
    edges = np.array([state * (len(numbers) + 2) + numbers.get(word, NUMBER) for state, word in tree])
    order = np.argsort(edges)
    members = np.zeros((len(tree) + ROOT + 1, len(kinds)), dtype=bool)
    for state, of in ends.items():
        members[state, list(of)] = True
    rules: dict[str, np.ndarray] = {
        "asserts": np.zeros((len(kinds), len(ASSERTIONS)), dtype=bool),
        "before": np.zeros(len(kinds), dtype=bool),
        "reach": np.zeros(len(kinds), dtype=np.int64),
        "begins": np.zeros(len(kinds), dtype=bool),
        "alone": np.zeros(len(kinds), dtype=bool),
        "stopped_by": np.zeros((len(kinds), len(kinds)), dtype=bool),
    }
    for kind, cue in enumerate(source["cues"], 1 + len(stops)):
        rules["asserts"][kind] = [name in cue["of"] for name in ASSERTIONS]
        rules["before"][kind] = cue["side"] == "before"
        rules["reach"][kind] = cue.get("reach", 0)
        rules["begins"][kind] = cue["side"] == "start" or cue.get("start", False)
        rules["alone"][kind] = cue["side"] == "alone"
        rules["stopped_by"][kind, [1 + stops.index(name) for name in cue.get("stops", [])]] = True
    sections: dict[str, np.ndarray] = {}
    for name, of in source["sections"].items():
        for section in of:
            sections.setdefault(section, np.zeros(len(ASSERTIONS), dtype=bool))[ASSERTIONS.index(name)] = True
    return Cues(
        words=numbers,
        edges=edges[order],
        targets=np.array(list(tree.values()))[order],
        kinds=members,
        accepts=np.any(members, axis=1),
        hides=members[:, IDLE] | (members & (rules["reach"] > 0)).any(axis=1),
        longest=longest,
        sections=sections,
        **rules,
    )


def read_cues(path: Path) -> Cues:
    """Returns the compiled cues of a file.

    Raises:
        MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID.
    """
    if not path.is_file():
        raise MedpipeError("MODEL_NOT_FOUND", path=path)
    try:
        return compile_cues(tomllib.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise MedpipeError("MODEL_INVALID", path=path, reason=type(error).__name__) from error


@lru_cache(maxsize=1)
def shipped_cues() -> Cues:
    """Returns the cues of ``cues.toml``."""
    return read_cues(CUES_FILE)


@dataclass(frozen=True, slots=True)
class Matches:
    """Where phrases stand in a text: one row for each phrase and kind."""

    start: np.ndarray  # shape: (matches,), int64, tokens
    end: np.ndarray  # shape: (matches,), int64
    kind: np.ndarray  # shape: (matches,), int64


def describe_words(strings: Sequence[str], words: Mapping[str, int]) -> np.ndarray:
    """Returns what the cues have to know of words.

    Args:
        strings: the words, or tokens.
        words: the vocabulary of the cues.

    Returns:
        shape: (len(strings), 2), int64: its number in the vocabulary; 1 if it begins with a letter, else 0.
    """
    described = np.empty((len(strings), 2), dtype=np.int64)
    letters = np.fromiter(map(ord, map(itemgetter(0), strings)), dtype=np.int64, count=len(strings))
    found = map(words.get, map(str.lower, strings), itertools.repeat(UNKNOWN))
    described[:, 0] = np.fromiter(found, dtype=np.int64, count=len(strings))
    described[(letters >= ord("0")) & (letters <= ord("9")), 0] = NUMBER
    described[:, 1] = letters >= ord("A")
    return described


def find_phrases(cues: Cues, numbers: np.ndarray, sentence: np.ndarray) -> Matches:
    """Finds all phrases within a sentence; one that lies within a longer idle phrase or cue is left out.

    Args:
        cues: the compiled cues.
        numbers: shape: (tokens,); of ``describe_words``.
        sentence: shape: (tokens,); the sentence of every token.
    """
    start = np.flatnonzero(numbers != UNKNOWN)
    state = np.full(len(start), ROOT)
    found = [np.zeros((3, 0), dtype=np.int64)]
    for length in range(1, cues.longest + 1):
        state = cues.next_states(state, numbers[start + length - 1])
        hit = cues.accepts[state]
        found.append(np.stack([start[hit], start[hit] + length, state[hit]]))
        alive = (state != DEAD) & (start + length < len(numbers))
        alive[alive] = sentence[start[alive]] == sentence[start[alive] + length]
        start, state = start[alive], state[alive]
    start, end, state = np.concatenate(found, axis=1)
    order = np.lexsort((-end, start))
    start, end, state = start[order], end[order], state[order]
    covered = np.maximum.accumulate(np.append(0, np.where(cues.hides[state], end, 0)))[:-1]
    free = end > covered
    row, kind = np.nonzero(cues.kinds[state[free]])
    return Matches(start[free][row], end[free][row], kind)


def paint_scopes(
    cues: Cues, matches: Matches, limits: np.ndarray, sentence: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is asserted of a mention that begins with a token, and of one that ends with it.

    Args:
        cues: the compiled cues.
        matches: what ``find_phrases`` gave.
        limits: shape: (sentences, 2); token intervals.
        sentence: shape: (tokens,); the sentence of every token.

    Returns:
        Two arrays of shape (tokens, ASSERTIONS), bool: by cues before the mention, by cues after it.
    """
    tokens = len(sentence)
    is_cue = cues.reach[matches.kind] > 0
    # shape: (cues,)
    start, end, kind = matches.start[is_cue], matches.end[is_cue], matches.kind[is_cue]
    before, reach = cues.before[kind], cues.reach[kind]
    low = np.where(before, end, np.maximum(limits[sentence[start], 0], start - reach))
    high = np.where(before, np.minimum(limits[sentence[start], 1], end + reach), start)
    for stop in np.flatnonzero(cues.stopped_by.any(axis=0)):
        chosen = matches.kind == stop
        # the first stop at or after the cue, the last one that ends at or before it
        starts, ends = np.append(matches.start[chosen], tokens), np.append(0, np.sort(matches.end[chosen]))
        following = starts[np.searchsorted(starts, end, side="left")]
        preceding = ends[np.searchsorted(ends, start, side="right") - 1]
        stopped = cues.stopped_by[kind, stop]
        high = np.where(stopped & before, np.minimum(high, following), high)
        low = np.where(stopped & ~before, np.maximum(low, preceding), low)
    painted = []
    for side in (before & (low < high), ~before & (low < high)):
        asserts = cues.asserts[kind[side]].astype(np.int64)
        change = np.zeros((tokens + 1, len(ASSERTIONS)), dtype=np.int64)
        np.add.at(change, low[side], asserts)
        np.subtract.at(change, high[side], asserts)
        painted.append(np.cumsum(change[:-1], axis=0) > 0)
    return painted[0], painted[1]


def asserted_at(cues: Cues, matches: Matches, kinds: np.ndarray, tokens: int) -> np.ndarray:
    """Returns what the phrases of some kinds assert of the token they begin with; shape: (tokens, ASSERTIONS), bool."""
    chosen = kinds[matches.kind]
    asserted = np.zeros((tokens, len(ASSERTIONS)), dtype=bool)
    np.logical_or.at(asserted, matches.start[chosen], cues.asserts[matches.kind[chosen]])
    return asserted


class Assertion:
    """Asserts the mentions of texts; see the module's docstring. It keeps nothing from one text to the next."""

    def __init__(self, cues: Cues) -> None:
        self.cues = cues

    @classmethod
    def load(cls, model: str | Path = SHIPPED) -> Assertion:
        """Returns the shipped assertion, or one with the cues of a file of one's own.

        Raises:
            MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID.
        """
        return cls(shipped_cues() if model == SHIPPED else read_cues(Path(model)))

    def assert_entities(
        self,
        text: str,
        tokens: Tokens,
        sentences: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        section_names: Sequence[str],
    ) -> np.ndarray:
        """Returns what is asserted of the mentions ``text[starts[i]:ends[i]]``.

        Args:
            text: the raw text.
            tokens: its tokens.
            sentences: shape: (sentences, 2); token intervals that together hold every token, in order.
            starts: shape: (entities,); code points.
            ends: shape: (entities,).
            section_names: the canonical name of each entity's section; "body" where it has none.

        Returns:
            shape: (entities, ASSERTIONS), bool.
        """
        return self.assert_batch([text], [tokens], [sentences], [starts], [ends], [section_names])[0]

    def assert_batch(
        self,
        texts: Sequence[str],
        tokens: Sequence[Tokens],
        sentences: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
        ends: Sequence[np.ndarray],
        section_names: Sequence[Sequence[str]],
    ) -> list[np.ndarray]:
        """Does ``assert_entities`` for many texts at once: the same answers, sooner."""
        names = list(dict.fromkeys(name for of in section_names for name in of))
        numbers = {name: number for number, name in enumerate(names)}
        strings = [word for text, of in zip(texts, tokens, strict=True) for word in of.strings(text)]
        words = describe_words(strings, self.cues.words)
        counts = np.array([len(of) for of in starts], dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        asserted = self.assert_mentions(
            words,
            tokens,
            sentences,
            np.repeat(np.arange(len(texts)), counts),
            np.concatenate([none, *starts]),
            np.concatenate([none, *ends]),
            np.array([numbers[name] for of in section_names for name in of], dtype=np.int64),
            names,
        )
        return np.split(asserted, np.cumsum(counts)[:-1]) if len(texts) else []

    def assert_mentions(
        self,
        words: np.ndarray,
        tokens: Sequence[Tokens],
        sentences: Sequence[np.ndarray],
        text: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        section: np.ndarray,
        section_names: Sequence[str],
    ) -> np.ndarray:
        """Returns what is asserted of the mentions of some texts.

        Args:
            words: shape: (tokens of all texts, 2), int64; what ``describe_words`` says of each.
            tokens: of every text.
            sentences: of every text; shape: (sentences, 2); token intervals.
            text: shape: (entities,), int64; which text each is of.
            starts: shape: (entities,), int64; code points.
            ends: shape: (entities,), int64.
            section: shape: (entities,), int64; the place of the name of each entity's section in ``section_names``.
            section_names: canonical names; "body" for what is in no section.

        Returns:
            shape: (entities, ASSERTIONS), bool.
        """
        cues = self.cues
        count = len(words)
        if count == 0 or len(text) == 0:
            return np.zeros((len(text), len(ASSERTIONS)), dtype=bool)
        numbers, is_word = words[:, 0], words[:, 1]
        sizes = [len(of) for of in tokens]
        shift = np.cumsum([0, *sizes])
        # shape: (sentences of all texts, 2)
        limits = np.concatenate([of + by for of, by in zip(sentences, shift[:-1], strict=True)])
        sentence = np.repeat(np.arange(len(limits)), limits[:, 1] - limits[:, 0])
        matches = find_phrases(cues, numbers, sentence)
        before, after = paint_scopes(cues, matches, limits, sentence)
        by_start = asserted_at(cues, matches, cues.begins, count)
        # One key for text and character, so that all texts are looked up at once.
        base = np.repeat(np.arange(len(tokens)) << 32, sizes)
        # shape: (entities of all texts,); a mention's first token, and the one after its last
        first = np.searchsorted(base + np.concatenate([of.end for of in tokens]), (text << 32) + starts, side="right")
        stop = np.searchsorted(base + np.concatenate([of.start for of in tokens]), (text << 32) + ends, side="left")
        empty = first >= stop  # no token is in it: nothing but its section says anything of it
        first, stop = np.where(empty, 0, first), np.where(empty, 1, stop)
        before_it = np.append(0, np.cumsum(is_word))  # how many words stand before a token
        around = limits[sentence[first]]
        others = before_it[around[:, 1]] - before_it[around[:, 0]] - (before_it[stop] - before_it[first])
        alone = (others == 0) & np.array([name == NO_SECTION for name in section_names])[section]
        by_itself = asserted_at(cues, matches, cues.alone, count)[first] & alone[:, None]
        silent = np.zeros(len(ASSERTIONS), dtype=bool)
        by_section = np.array([cues.sections.get(name, silent) for name in section_names])[section]
        asserted = before[first] | after[stop - 1] | by_start[first] | by_itself
        return (asserted & ~empty[:, None]) | by_section
