from __future__ import annotations

import numpy as np

from medpipe.summarize.features import read_source
from medpipe.summarize.select import extract, extract_order, weigh, within_budget


def test_the_best_sentences_within_the_budget_in_the_order_of_the_note() -> None:
    scores = np.array([0.1, 3.0, 2.0, 1.0])
    lengths = np.array([5, 30, 40, 20])
    everywhere = np.ones(4, dtype=bool)
    assert within_budget(scores, lengths, everywhere, 60).tolist() == [0, 1, 3]
    assert within_budget(scores, lengths, everywhere, 1).tolist() == [1], "the best one is always there"
    assert within_budget(scores, lengths, np.array([True, False, True, True]), 60).tolist() == [2, 3]
    assert within_budget(scores, lengths, np.zeros(4, dtype=bool), 60).tolist() == []


def test_weighed_by_length_a_long_sentence_comes_before_a_short_one_that_is_a_little_more_probable() -> None:
    logits, lengths = np.array([1.0, 0.8, -40.0]), np.array([5, 30, 400])
    assert np.allclose(np.exp(weigh(logits, lengths, 0.0)), 1 / (1 + np.exp(-logits)))
    assert np.argsort(-weigh(logits, lengths, 0.0)).tolist() == [0, 1, 2]
    assert np.argsort(-weigh(logits, lengths, 0.3)).tolist() == [1, 0, 2]
    assert np.isfinite(weigh(np.array([-1000.0, 1000.0]), np.array([0, 1]), 0.5)).all()


def test_repetitions_are_left_out_of_an_extract() -> None:
    source = read_source("Chronic heart failure was found. Heart failure was found. Fever began on Sunday.")
    assert extract_order(source, np.array([2.0, 1.0, 0.0]), overlap=0.6) == [0, 2]
    assert extract_order(source, np.array([2.0, 1.0, 0.0]), overlap=1.0) == [0, 1, 2]
    assert extract_order(source, np.array([2.0, 1.0, 0.0]), overlap=0.6, room=6) == [0]
    assert extract_order(source, np.array([2.0, 1.0, 0.0]), overlap=0.6, room=7) == [0, 2]


def test_an_extract_keeps_to_its_length_and_has_at_least_one_sentence() -> None:
    lengths = np.array([10, 10, 10])
    assert extract([2, 0, 1], lengths, 25) == [0, 2]
    assert extract([2, 0, 1], lengths, 3) == [2]
    assert extract([], lengths, 25) == []
