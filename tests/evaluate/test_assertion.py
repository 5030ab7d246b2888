"""Scores of assertion, on invented mentions; on the corpus where it is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluate.assertion import evaluate_assertion, score


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(text: str, mention: str, negated: bool, historical: bool) -> dict:
    start = text.index(mention)
    return {"text": text, "start": start, "end": start + len(mention), "negated": negated, "historical": historical}


def test_scores_are_counted() -> None:
    predicted = np.array([True, True, True, False, False])
    gold = np.array([True, True, False, True, False])
    assert score(predicted, gold) == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})


def test_nothing_to_score_is_zero() -> None:
    nothing = np.zeros(3, dtype=bool)
    assert score(nothing, nothing) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_a_corpus_is_scored(tmp_path: Path) -> None:
    rows = [
        row("No fever.", "fever", True, False),
        row("Cough since Monday.", "Cough", True, False),  # on purpose: a miss
        row("History of gout.", "gout", False, True),
        row("Denies pain.", "pain", False, False),  # on purpose: a false alarm
    ]
    scores = evaluate_assertion(write(tmp_path / "corpus.jsonl", rows))
    assert scores["negated"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert scores["historical"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}


def test_sections_are_found(tmp_path: Path) -> None:
    text = "PAST MEDICAL HISTORY:\nAsthma is well controlled.\n\nPLAN:\nTreat the pneumonia."
    rows = [row(text, "Asthma", False, True), row(text, "pneumonia", False, False)]
    assert evaluate_assertion(write(tmp_path / "corpus.jsonl", rows))["historical"]["f1"] == 1.0


def test_an_empty_corpus_has_no_support(tmp_path: Path) -> None:
    assert evaluate_assertion(write(tmp_path / "corpus.jsonl", []))["negated"]["support"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"text": "No fever.", "start": 3, "end": 8},
        {"text": "No fever.", "start": 3, "end": 80, "negated": True, "historical": False},
        {"text": "No fever.", "start": "x", "end": 8, "negated": True, "historical": False},
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: dict) -> None:
    good = row("No fever.", "fever", True, False)
    with pytest.raises(MedpipeError) as caught:
        evaluate_assertion(write(tmp_path / "corpus.jsonl", [good, bad]))
    assert caught.value.code == "CORPUS_INVALID"
    assert "Line 2" in str(caught.value)
    assert "fever" not in str(caught.value)


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        evaluate_assertion(tmp_path / "none.jsonl")
    assert caught.value.code == "CORPUS_NOT_FOUND"


@pytest.mark.corpora
def test_negex_dev(corpora: Path) -> None:
    scores = evaluate_assertion(corpora / "negex" / "dev.jsonl")
    assert scores["negated"]["f1"] > 0.97
    assert scores["historical"]["f1"] > 0.85
