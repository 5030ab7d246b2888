"""The search gives what comparing with every term would give."""

from __future__ import annotations

from collections import Counter
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.tag.retrieval import DIGITS, LEAST, TermIndex, word_grams

WORDS = ["acute", "chronic", "renal", "renol", "failure", "failures", "a", "ab", "pain", "paint", "x", "zz"]
TERMS = st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(tuple), max_size=12)


def grams(words: tuple[str, ...]) -> Counter[str]:
    return Counter(gram for word in words for gram in word_grams(word))


def all_cosines(terms: list[tuple[str, ...]], query: tuple[str, ...]) -> list[float]:
    """The cosines, from the definition, one term at a time."""
    frequency = Counter(gram for term in terms for gram in grams(term))

    def weight(gram: str) -> float:
        return log((1 + len(terms)) / (1 + frequency[gram])) + 1

    def length(counts: Counter[str]) -> float:
        return sqrt(sum((times * weight(gram)) ** 2 for gram, times in counts.items()))

    wanted = grams(query)
    cosines = []
    for term in terms:
        have = grams(term)
        dot = sum(times * have[gram] * weight(gram) ** 2 for gram, times in wanted.items())
        cosines.append(dot / (length(wanted) * length(have)) if dot else 0.0)
    return cosines


@settings(deadline=None)
@given(TERMS, st.lists(st.sampled_from([*WORDS, "unseen"]), max_size=4).map(tuple), st.integers(1, 6), st.sampled_from([0.1, 0.4, LEAST, 0.9]))
def test_the_nearest_are_those_of_an_exhaustive_search(
    terms: list[tuple[str, ...]], query: tuple[str, ...], most: int, least: float
) -> None:
    found, cosines = TermIndex(terms).search(query, most, least=least)
    wanted = all_cosines(terms, query)
    assert np.allclose(cosines, [wanted[term] for term in found], atol=2e-5)
    assert (cosines >= least - 10.0**-DIGITS).all()
    assert (np.diff(cosines) <= 0).all()
    near = [cosine for cosine in wanted if cosine >= least + 2e-5]
    assert len(found) >= min(most, len(near))
    if len(found) == most and most < len(near):
        assert cosines[-1] >= sorted(near)[-most] - 2e-5


def test_equal_cosines_come_in_the_order_of_the_terms() -> None:
    terms = [("pain",), ("chronic", "pain"), ("pain",), ("pain", "chronic"), ("pain",)]
    for most in range(1, 6):
        found, cosines = TermIndex(terms).search(("pain",), most, least=0.1)
        assert found.tolist() == [0, 2, 4, 1, 3][:most]
        assert cosines[0] == pytest.approx(1, abs=1e-5)


def test_a_slip_of_spelling_is_near() -> None:
    terms = [("pneumonia",), ("pneumothorax",), ("anemia",)]
    found, cosines = TermIndex(terms).search(("pneumoniae",), 3)
    assert found.tolist()[0] == 0
    assert cosines[0] > 0.7


@pytest.mark.parametrize("terms", [[], [()], [("a",)]])
def test_an_index_of_next_to_nothing(terms: list[tuple[str, ...]]) -> None:
    index = TermIndex(terms)
    assert index.search((), 3)[0].tolist() == []
    assert index.search(("unseen",), 3)[0].tolist() == []
    assert index.search(("a",), 3)[0].tolist() == [place for place, term in enumerate(terms) if term]


def test_two_runs_give_the_same_bits() -> None:
    random = np.random.default_rng(5)
    terms = [tuple(random.choice(WORDS, 3)) for _ in range(500)]
    one, other = TermIndex(terms), TermIndex(terms)
    for query in terms[:50]:
        for left, right in zip(one.search(query, 20), other.search(query, 20), strict=True):
            assert left.tobytes() == right.tobytes()
