"""Logits of candidate pairs -> scores -> rows of ``relations``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the sentences of a pair lie, and how far apart they are. All arrays: shape (pairs,)."""

    start: np.ndarray  # int64, characters
    end: np.ndarray  # int64, half-open
    distance: np.ndarray  # int64, sentences


def calibrate(logits: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Returns probabilities, to four decimals: float noise of another batch or device does not show.

    Guo et al. (2017), *On calibration of modern neural networks*: one temperature a type, fitted on dev.

    Args:
        logits: shape: (pairs, types).
        temperatures: shape: (types,).
    """
    scaled = np.clip(logits.astype(np.float64) / temperatures, -60, 60)
    return np.asarray(np.round(1 / (1 + np.exp(-scaled)), 4))


def find_evidence(
    pairs: np.ndarray, sentence: np.ndarray, sentence_starts: np.ndarray, sentence_ends: np.ndarray
) -> Evidence:
    """Returns the text from the first to the last of the sentences in which head and tail begin.

    Args:
        pairs: shape: (pairs, 2), mentions.
        sentence: shape: (mentions,).
        sentence_starts: shape: (sentences,), characters of the first token.
        sentence_ends: shape: (sentences,), characters behind the last token.
    """
    one, two = sentence[pairs[:, 0]], sentence[pairs[:, 1]]
    low, high = np.minimum(one, two), np.maximum(one, two)
    return Evidence(sentence_starts[low], sentence_ends[high], high - low)
