"""Minimum Bayes risk decoding: of several summaries the one that is most like what the network would say on average.

The most probable summary need not be a typical one. Expected similarity is estimated on samples of the network
(Kumar and Byrne 2004; on samples: Eikema and Aziz 2020). Similarity is that of ROUGE-1 and ROUGE-L: the mean of the
F-measures of common words and of the longest common subsequence, here without stemming.
"""

from __future__ import annotations

from collections import Counter

import numpy as np


def least_risk(candidates: np.ndarray, evidence: np.ndarray, marks: int) -> int:
    """Returns which candidate is most like the evidence; of equal ones the first.

    Args:
        candidates: shape: (candidates, steps), int64, identifiers of words.
        evidence: shape: (samples, steps), int64.
        marks: identifiers below are marks, not words.
    """
    spoken = [tuple(row[row >= marks].tolist()) for row in candidates]
    heard = Counter(tuple(row[row >= marks].tolist()) for row in evidence)
    texts = list(dict.fromkeys(spoken))
    gains = similarity(texts, list(heard)) @ np.array(list(heard.values()), dtype=np.float64)
    return spoken.index(texts[int(gains.argmax())])


def similarity(texts: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> np.ndarray:
    """Returns how alike the texts of two lists are, 0 to 1; shape: (texts, others). Two empty ones are equal."""
    lengths = np.array([len(text) for text in texts])[:, None] + np.array([len(text) for text in others])[None, :]
    common = common_words(texts, others) + common_subsequence(texts, others)
    return np.where(lengths > 0, common / np.maximum(lengths, 1), 1.0)  # the mean of two F-measures: 2 x / n each


def common_words(texts: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> np.ndarray:
    """Returns how many words two texts have in common, repeated ones as often as both; shape: (texts, others)."""
    types = {word: place for place, word in enumerate({word: None for text in [*texts, *others] for word in text})}
    counts = np.zeros((len(texts) + len(others), len(types)), dtype=np.int32)
    for row, text in enumerate([*texts, *others]):
        np.add.at(counts[row], [types[word] for word in text], 1)
    ours, theirs = counts[: len(texts)], counts[len(texts) :]
    return np.stack([np.minimum(row, theirs).sum(axis=1) for row in ours])


def common_subsequence(texts: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> np.ndarray:
    """Returns the length of the longest common subsequence of every two texts; shape: (texts, others).

    The usual table, all pairs and a whole row of it at once: a row is the running maximum of what its cells get from
    the row before.
    """
    ours, theirs = _pad(texts, -1), _pad(others, -2)
    row = np.zeros((len(texts), len(others), theirs.shape[1] + 1), dtype=np.int16)
    for words in ours.T:  # shape: (texts,)
        equal = words[:, None, None] == theirs[None]  # shape: (texts, others, steps)
        np.maximum(row[:, :, 1:], row[:, :, :-1] + equal, out=row[:, :, 1:])
        np.maximum.accumulate(row, axis=2, out=row)
    return row[:, :, -1].astype(np.int64)


def _pad(texts: list[tuple[int, ...]], padding: int) -> np.ndarray:
    """Returns the texts as rows; shape: (texts, steps), int64."""
    rows = np.full((len(texts), max((len(text) for text in texts), default=0)), padding, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows
