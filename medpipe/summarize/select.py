"""Which sentences of a note matter: for the generator to attend to, and for an extract."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpipe.summarize.features import Source

LONGEST_EXTRACT = 48  # sentences that are ever compared with each other for repetition


def within_budget(scores: np.ndarray, lengths: np.ndarray, eligible: np.ndarray, budget: int) -> np.ndarray:
    """Returns the best sentences that together hold at most ``budget`` tokens, in the order of the note.

    A sentence that no longer fits is passed over for a shorter one. The best sentence is always there, whatever
    its length; sentences are never cut.

    Args:
        scores: shape: (sentences,), higher is better; ties go to the earlier sentence.
        lengths: shape: (sentences,), tokens.
        eligible: shape: (sentences,), bool.
        budget: tokens.
    """
    chosen: list[int] = []
    left = budget
    for index in np.argsort(-scores, kind="stable").tolist():
        if eligible[index] and (not chosen or lengths[index] <= left):
            chosen.append(index)
            left -= int(lengths[index])
    return np.array(sorted(chosen), dtype=np.int64)


def content_types(source: Source, sentence: int) -> set[int]:
    """Returns the hashes of the words of one sentence of three letters or more, and of its numbers."""
    first, end = source.sentences[sentence].tolist()
    long = (source.tokens.end[first:end] - source.tokens.start[first:end] >= 3) & source.wordlike[first:end]
    return set(source.types[first:end][long].tolist())


def weigh(logits: np.ndarray, lengths: np.ndarray, weight: float) -> np.ndarray:
    """Returns log probabilities of sentences, plus ``weight`` times the logs of their lengths.

    The selector scores a sentence by itself; a budget of tokens is better spent on one long sentence than on several
    short ones that are each a little more probable. Without weight, the order is that of the logits.

    Args:
        logits: shape: (sentences,).
        lengths: shape: (sentences,), tokens.
        weight: 0 or more.
    """
    return -np.logaddexp(0, -logits.astype(np.float64)) + weight * np.log(np.maximum(lengths, 3))


def extract_order(source: Source, scores: np.ndarray, overlap: float, room: float = np.inf) -> list[int]:
    """Returns the best eligible sentences, best first, without those that repeat a better one.

    Args:
        source: the note.
        scores: shape: (sentences,).
        overlap: a sentence more than this part of whose words stand in one better sentence is a repetition.
        room: tokens; once the sentences hold so many, no more are taken.
    """
    kept: list[int] = []
    seen: list[set[int]] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if not source.eligible[index]:
            continue
        words = content_types(source, index)
        if any(len(words & other) > overlap * max(1, len(words)) for other in seen):
            continue
        kept.append(index)
        seen.append(words)
        room -= float(source.lengths[index])
        if room <= 0 or len(kept) == LONGEST_EXTRACT:
            break
    return kept


def extract(order: Sequence[int], lengths: np.ndarray, budget: int) -> list[int]:
    """Returns the first sentences of ``order`` that fit in ``budget`` tokens, at least one, sorted by place."""
    chosen: list[int] = []
    left = budget
    for index in order:
        if not chosen or lengths[index] <= left:
            chosen.append(index)
            left -= int(lengths[index])
    return sorted(chosen)
