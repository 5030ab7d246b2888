"""Tells what the mentions of a coarse label are, by corpora that annotate its parts.

Some corpora annotate conditions, others diseases and symptoms. A linear classifier over the mention's words and their
character n-grams (Joulin et al. 2017, *Bag of tricks for efficient text classification*) learns the difference from
the training mentions of the latter, and names those of the former: so "nausea" of a corpus of abstracts trains
SYMPTOM. Its guess is wrong for some; whether they are mentions, and where they end, is known in any case.

It sees the mention alone, not its sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from medpipe.text.features import PADDING, word_features
from medpipe.text.tokens import tokenize

BUCKETS = 1 << 15
MOST_WORDS = 8  # of a mention, the last ones: its head is among them
STEPS = 60
RATE = 0.05


@dataclass(frozen=True, slots=True)
class Divider:
    """A classifier of mentions. ``weights`` shape: (BUCKETS, parts)."""

    weights: Tensor
    parts: list[str]

    def divide(self, mentions: Sequence[str]) -> list[str]:
        """Returns the part that every mention most likely is."""
        if not mentions:
            return []
        scores = nn.functional.embedding_bag(encode_mentions(mentions), self.weights, padding_idx=PADDING)
        return [self.parts[number] for number in scores.argmax(1).tolist()]


def encode_mentions(mentions: Sequence[str]) -> Tensor:
    """Returns the features of the words of mentions, those of the last word twice: once as any, once as the last.

    Returns:
        shape: (mentions, features), int64, ``PADDING`` behind.
    """
    rows = []
    for mention in mentions:
        words = tokenize(mention).strings(mention)[-MOST_WORDS:] or [""]
        features = [number for word in words for number in word_features(word, BUCKETS) if number != PADDING]
        # The last word's hashes, moved by a fixed step, are features of their own.
        last = [1 + (number + BUCKETS // 3) % (BUCKETS - 1) for number in word_features(words[-1], BUCKETS) if number]
        rows.append(np.array(features + last))
    encoded = np.full((len(rows), max(map(len, rows))), PADDING)
    for row, numbers in zip(encoded, rows, strict=True):
        row[: len(numbers)] = numbers
    return torch.from_numpy(encoded)


def fit_divider(mentions: Sequence[str], labels: Sequence[str], parts: Sequence[str]) -> Divider:
    """Fits a classifier to mentions and the part that each of them is; the same mentions give the same one."""
    features = encode_mentions(mentions)
    target = torch.tensor([parts.index(label) for label in labels])
    weights = torch.zeros(BUCKETS, len(parts), requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=RATE, weight_decay=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scores = nn.functional.embedding_bag(features, weights, padding_idx=PADDING)
        loss = cross_entropy(scores * 10, target)  # the mean of many features is small
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Divider(weights.detach(), list(parts))
