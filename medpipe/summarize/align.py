"""Where a reference summary came from: the oracle sentences, and the source token of each summary token.

These are the targets that the selector and the copy attention learn from. References are written freely, so the
alignment is a guess: the longest run of equal words wins, in the sentence that shares most with the reference.
"""

from __future__ import annotations

import numpy as np

from medpipe.summarize.features import Source, Words

MAX_ORACLE = 12  # sentences


def oracle_sentences(source: Source, target: np.ndarray) -> np.ndarray:
    """Returns the sentences that greedily raise the F-measure of shared words and word pairs the most.

    Args:
        source: the note.
        target: shape: (words,), uint64, hashes of the reference's words.

    Returns:
        shape: (chosen,), int64, in the order in which they were chosen (Nallapati et al. 2017).
    """
    wanted, counts = np.unique(np.concatenate([target, _pairs(target)]), return_counts=True)
    shared = np.zeros((len(source.sentences), len(wanted)))  # shape: (sentences, wanted n-grams)
    sizes = np.zeros(len(source.sentences))
    for index, (first, end) in enumerate(source.sentences.tolist()):
        words = source.types[first:end][source.wordlike[first:end]]
        grams = np.concatenate([words, _pairs(words)])
        place = np.minimum(np.searchsorted(wanted, grams), max(0, len(wanted) - 1))
        hits = place[wanted[place] == grams] if len(wanted) else place[:0]
        np.add.at(shared[index], hits, 1)
        sizes[index] = len(grams)
    chosen: list[int] = []
    total, size, best = np.zeros(len(wanted)), 0.0, 0.0
    while len(chosen) < MAX_ORACLE and len(wanted):
        overlap = np.minimum(total + shared, counts).sum(axis=1)
        score = 2 * overlap / (size + sizes + counts.sum())
        score[chosen] = 0
        score[~source.eligible] = 0
        index = int(score.argmax())
        if score[index] <= best:
            break
        chosen.append(index)
        total, size, best = total + shared[index], size + sizes[index], float(score[index])
    return np.array(chosen, dtype=np.int64)


def _pairs(types: np.ndarray) -> np.ndarray:
    """Returns a hash of every pair of neighbours."""
    return types[:-1] * np.uint64(0x9E3779B97F4A7C15) + types[1:] if len(types) > 1 else types[:0]


def align_tokens(source: Source, words: Words, template: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Returns the source token that each summary token is taken to be copied from, -1 where it is none.

    Args:
        source: the note.
        words: of the summary.
        template: shape: (tokens,), bool: the summary token is a word that the generator may write by itself; alone it
            is no copy, within a run it is.
        oracle: the sentences to prefer.
    """
    n_target, n_source = len(words.types), len(source.types)
    aligned = np.full(n_target, -1, dtype=np.int64)
    if n_target == 0 or n_source == 0:
        return aligned
    runs = np.zeros((n_target + 1, n_source + 1), dtype=np.int32)
    for row in range(n_target - 1, -1, -1):
        equal = source.types == words.types[row]
        runs[row, :-1] = np.where(equal, runs[row + 1, 1:] + 1, 0)
    preferred = np.zeros(len(source.sentences))
    preferred[oracle] = 0.6
    bonus = preferred[source.sentence_of]
    last, row = -1, 0
    while row < n_target:
        value = runs[row, :-1] + np.where(runs[row, :-1] > 0, bonus, 0)
        if 0 <= last < n_source - 1:
            # Stay near what was copied last: first on the very next words, then in the same sentence.
            near = source.sentence_of == source.sentence_of[last]
            value = value + np.where((runs[row, :-1] > 0) & near, 0.3, 0)
            window = slice(last + 1, min(n_source, last + 4))
            value[window] += np.where(runs[row, :-1][window] > 0, 0.5, 0)
        place = int(value.argmax())
        length = int(runs[row, place])
        content = (~template[row : row + length] & words.wordlike[row : row + length]).any()
        goes_on = 0 <= place - last <= 3 and last >= 0
        if length and (content or goes_on or length >= 3):
            aligned[row : row + length] = np.arange(place, place + length)
            last, row = place + length - 1, row + length
        else:
            row += max(1, length)
    return aligned
