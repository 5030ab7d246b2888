"""Baselines for summaries, and a breakdown of what a model gets: `python -m medpipe.evaluate.baselines FILE`.

Lead-k takes the first k sentences, TextRank (Mihalcea and Tarau 2004) the k most central ones by shared words; the
constant is the most frequent reference of a training file. Every one of them is as good as its k: the best is shown.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medpipe.evaluate.summaries import ROUGE, rouge_scorer
from medpipe.learn.corpora import read_pairs
from medpipe.summarize.decode import compose, extract_sentence
from medpipe.summarize.features import Source, read_source
from medpipe.summarize.select import content_types

LENGTHS = (1, 2, 3, 5, 8)
DAMPING, ROUNDS = 0.85, 50


def lead(source: Source, k: int) -> str:
    """Returns the first ``k`` sentences with words."""
    return _text(source, np.flatnonzero(source.eligible)[:k])


def textrank(source: Source, k: int) -> str:
    """Returns the ``k`` most central sentences, in their order: PageRank over shared words, by the logs of lengths."""
    places = np.flatnonzero(source.eligible)
    words = [content_types(source, place) for place in places.tolist()]
    weights = np.array(
        [
            [
                len(one & other) / (np.log(len(one) + 1) + np.log(len(other) + 1)) if one and other else 0.0
                for other in words
            ]
            for one in words
        ]
    ).reshape(len(words), len(words))
    np.fill_diagonal(weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    steps = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    rank = np.ones(len(words))
    for _ in range(ROUNDS):
        rank = (1 - DAMPING) + DAMPING * rank @ steps
    return _text(source, np.sort(places[np.argsort(-rank, kind="stable")[:k]]))


def _text(source: Source, sentences: np.ndarray) -> str:
    return compose(source, [extract_sentence(source, place, 1.0) for place in sentences.tolist()]).text


def constant(references: Sequence[str]) -> str:
    """Returns the most frequent reference."""
    return Counter(references).most_common(1)[0][0]


def evaluate_baselines(corpus: Path, train: Path | None = None) -> dict[str, list[float]]:
    """Returns ROUGE-1, -2 and -L of each baseline on a file of pairs, with the k that is best for it.

    Args:
        corpus: JSON lines with ``source`` and ``summary``.
        train: pairs to take the constant from; ``None``: without it.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, EXTRA_MISSING.
    """
    score = rouge_scorer()
    pairs = read_pairs(corpus)
    sources = [read_source(pair.source) for pair in pairs]

    def mean(texts: Sequence[str]) -> list[float]:
        values = np.array([score(pair.summary, text) for pair, text in zip(pairs, texts, strict=True)])
        return [float(one) for one in values.reshape(-1, len(ROUGE)).mean(axis=0)] if len(pairs) else [0.0] * len(ROUGE)

    scores: dict[str, list[float]] = {}
    for name, baseline in (("lead", lead), ("textrank", textrank)):
        found = {f"{name}-{k}": mean([baseline(source, k) for source in sources]) for k in LENGTHS}
        best = max(found, key=lambda one: found[one][-1])
        scores[best] = found[best]
    if train is not None:
        scores["constant"] = mean([constant([pair.summary for pair in read_pairs(train)])] * len(pairs))
    return scores


if __name__ == "__main__":
    print(json.dumps(evaluate_baselines(*map(Path, sys.argv[1:3])), indent=1))
