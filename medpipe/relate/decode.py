"""Logits of candidate pairs -> scores -> rows of ``relations``; and attention -> what a relation rests on."""

from __future__ import annotations

from collections.abc import Sequence
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


def strongest_path(
    edges: np.ndarray, attention: Sequence[np.ndarray], head: int, tail: int, nodes: int
) -> tuple[list[int], float]:
    """Returns the nodes through which head and tail hear most of one another, or of a third, and the product.

    What a layer passes along an edge is weighted with its attention; a node also keeps what it had (weight 1). A path
    leads from a node that both hear of, or from one of the two, along at most as many edges as there are layers to
    each; its strength is the product of the weights on both branches.

    Args:
        edges: shape: (2, edges); from, to.
        attention: of each layer, shape: (edges,).
        head: a node.
        tail: another.
        nodes: how many nodes there are.

    Returns:
        The nodes from head to tail, and the strength; no nodes and 0 where no path connects them.
    """
    ways = [best_ways(edges, attention, end, nodes) for end in (head, tail)]
    both = ways[0][-1] * ways[1][-1]
    middle = int(np.argmax(both))
    if not both[middle]:
        return [], 0.0
    one, two = (follow(edges, attention, way, middle) for way in ways)
    return [*reversed(one), *two[1:]], float(both[middle])


def best_ways(edges: np.ndarray, attention: Sequence[np.ndarray], end: int, nodes: int) -> list[np.ndarray]:
    """Returns the strength of the best path from every node to ``end``, after no layer, the last, the last two, …"""
    ways = [np.zeros(nodes)]
    ways[0][end] = 1
    for weights in reversed(attention):
        further = ways[-1].copy()
        np.maximum.at(further, edges[0], weights * ways[-1][edges[1]])
        ways.append(further)
    return ways


def follow(edges: np.ndarray, attention: Sequence[np.ndarray], ways: list[np.ndarray], start: int) -> list[int]:
    """Returns the nodes of the best path from ``start`` to the end of ``ways``."""
    path = [start]
    for layer, weights in enumerate(attention):
        before, after = ways[len(attention) - layer], ways[len(attention) - layer - 1]
        node = path[-1]
        if after[node] < before[node]:  # else it stays where it is
            going = np.flatnonzero(edges[0] == node)
            path.append(int(edges[1, going[np.argmax(weights[going] * after[edges[1, going]])]]))
    return path
