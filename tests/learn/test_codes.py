"""The reranker learns what its examples show, and the same from the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medpipe.learn.codes import (
    Answers,
    Example,
    GoldMention,
    calibration_error,
    choose_threshold,
    cross_examples,
    fit,
    hidden_examples,
    make_terms,
    save,
    score_answers,
    train,
)
from medpipe.tag.codes import WEIGHTS_FILE, Candidates, Reranker


def gold(document: int, text: str, *codes: str, label: str = "DISEASE") -> GoldMention:
    return GoldMention(document, text, text, label, frozenset(codes))


MENTIONS = [
    gold(0, "renal failure", "A"), gold(1, "failure of the kidney", "A"), gold(2, "kidney failures, acute", "B"),
    gold(3, "renal colic", "C"), gold(4, "colic", "D"), gold(5, "kidney and liver failure", "A", "E"),
]  # fmt: skip


def answers(score: list[float], right: list[bool], exact: list[bool] | None = None) -> Answers:
    flags = np.array(right, dtype=bool)
    matched = np.array([True] * len(right) if exact is None else exact, dtype=bool)
    return Answers(np.array(score), flags, matched, flags, np.ones(len(right), dtype=bool))


def test_a_terminology_of_mentions_has_each_pair_once_and_no_mention_of_two() -> None:
    terms = make_terms([*MENTIONS, MENTIONS[0]])
    assert sorted(zip(terms.code, terms.term, strict=True)) == [
        ("A", "failure of the kidney"), ("A", "renal failure"), ("B", "kidney failures, acute"), ("C", "renal colic"),
        ("D", "colic"),
    ]  # fmt: skip
    assert terms.labels == [("DISEASE",)] * 5


def test_a_mention_is_not_its_own_term() -> None:
    examples = cross_examples(MENTIONS, folds=6)
    exact = [one for one in examples if one.candidates.exact]
    assert len(exact) == 2  # the two ways to write kidney failure find each other
    assert all(one.right == 0 for one in exact)


def test_hidden_codes_leave_none_as_the_right_answer() -> None:
    examples = hidden_examples(MENTIONS)
    assert all(not one.candidates.exact for one in examples)
    assert any(one.right == -1 for one in examples)


def test_fit_finds_the_known_optimum() -> None:
    # One feature that is always 1 and one candidate: the share of right ones is the probability.
    one = Candidates(np.zeros(1, dtype=np.int64), np.ones((1, 1)), True)
    weights = fit([Example(one, 0)] * 30 + [Example(one, -1)] * 10, 1)
    assert 1 / (1 + np.exp(-weights[0])) == pytest.approx(0.75, abs=0.01)


def test_threshold_is_the_lowest_with_the_wanted_precision_everywhere() -> None:
    good = answers([0.9, 0.8, 0.7, 0.6], [True] * 4)
    mixed = answers([0.95, 0.75, 0.65], [True, True, False])
    assert choose_threshold([good], precision=0.9) == 0.5
    assert choose_threshold([good, mixed], precision=0.9) == 0.66
    near = answers([0.95, 0.72, 0.55], [True, False, False], [True, False, False])
    assert choose_threshold([good, near], precision=0.2, precision_near=0.8) == 0.73
    assert choose_threshold([answers([0.9], [False])]) == 1.0


def test_figures_and_calibration() -> None:
    figures = score_answers(answers([0.9, 0.8, 0.2], [True, False, True]), 0.5)
    assert figures["precision"] == pytest.approx(0.5)
    assert figures["coverage"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(1 / 3)
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert calibration_error(np.array([0.75] * 4), np.array([True, True, True, False])) == pytest.approx(0)
    assert calibration_error(np.array([1.0] * 4), np.array([False] * 4)) == pytest.approx(1)
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0
    empty = score_answers(answers([], []), 0.5)
    assert (empty["mentions"], empty["precision"], empty["f1"]) == (0, 0, 0)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    shipped = Reranker.load()
    save(shipped, {"corpus": {"precision": 0.123456}}, tmp_path / "codes.json")
    again = Reranker.load(tmp_path / "codes.json")
    assert again.threshold == shipped.threshold
    assert again.exact.tolist() == shipped.exact.tolist() and again.near.tolist() == shipped.near.tolist()


@pytest.mark.corpora
def test_training_gives_the_shipped_weights(corpora: Path, tmp_path: Path) -> None:
    save(*train(corpora), tmp_path / "codes.json")
    made, shipped = Reranker.load(tmp_path / "codes.json"), Reranker.load(WEIGHTS_FILE)
    assert np.allclose(made.exact, shipped.exact, atol=0.01) and np.allclose(made.near, shipped.near, atol=0.01)
    assert made.threshold == pytest.approx(shipped.threshold, abs=0.01)
