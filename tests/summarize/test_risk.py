from __future__ import annotations

import itertools
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.summarize.risk import common_subsequence, common_words, least_risk, similarity

texts = st.lists(st.lists(st.integers(3, 7), max_size=7).map(tuple), min_size=1, max_size=5)


def longest(some: tuple[int, ...], more: tuple[int, ...]) -> int:
    """The definition, read aloud."""

    @cache
    def rest(i: int, j: int) -> int:
        if i == len(some) or j == len(more):
            return 0
        if some[i] == more[j]:
            return 1 + rest(i + 1, j + 1)
        return max(rest(i + 1, j), rest(i, j + 1))

    return rest(0, 0)


def alike(some: tuple[int, ...], more: tuple[int, ...]) -> float:
    """The mean of two F-measures, from precision and recall."""
    if not some or not more:
        return float(some == more)
    measures = []
    for common in ((Counter(some) & Counter(more)).total(), longest(some, more)):
        precision, recall = common / len(some), common / len(more)
        measures.append(2 * precision * recall / (precision + recall) if common else 0.0)
    return sum(measures) / 2


@given(texts, texts)
def test_counts_are_those_of_the_definition(some: list[tuple[int, ...]], more: list[tuple[int, ...]]) -> None:
    pairs = [[((Counter(a) & Counter(b)).total(), longest(a, b)) for b in more] for a in some]
    assert np.stack([common_words(some, more), common_subsequence(some, more)], axis=-1).tolist() == [
        [list(pair) for pair in row] for row in pairs
    ]


@given(texts, texts)
def test_similarity_is_the_mean_of_two_f_measures(some: list[tuple[int, ...]], more: list[tuple[int, ...]]) -> None:
    assert similarity(some, more) == pytest.approx(np.array([[alike(a, b) for b in more] for a in some]))


@given(texts, texts)
def test_the_candidate_of_least_risk_is_chosen(some: list[tuple[int, ...]], more: list[tuple[int, ...]]) -> None:
    chosen = least_risk(rows(some), rows(more), marks=3)
    expected = [sum(alike(a, b) for b in more) for a in some]
    assert expected[chosen] == pytest.approx(max(expected))


def test_a_typical_summary_beats_the_most_probable_one() -> None:
    probable = [(9, 9, 9)] * 4  # four of ten; the other six are all alike, but no two equal
    spread = [(3, 4, 5, word) for word in range(10, 16)]
    assert least_risk(rows([(9, 9, 9), spread[0]]), rows(probable + spread), marks=3) == 1


def test_marks_and_empty_summaries_count_as_no_words() -> None:
    assert similarity([()], [(), (3,)]).tolist() == [[1.0, 0.0]]
    assert least_risk(np.array([[3, 2, 0, 0], [3, 4, 2, 0]]), np.array([[3, 4, 2, 0, 0, 0]]), marks=3) == 1


def rows(said: list[tuple[int, ...]]) -> np.ndarray:
    """Summaries as the network writes them: with an end mark, padded."""
    return np.array(list(itertools.zip_longest(*((*text, 2) for text in said), fillvalue=0))).T
