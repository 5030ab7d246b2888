from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluate import summaries
from medpipe.evaluate.summaries import (
    entity_faithfulness,
    evaluate_summarizer,
    rouge_scorer,
    unsupported_numbers,
    words_of,
)


def test_rouge_of_equal_and_of_foreign_texts() -> None:
    score = rouge_scorer()
    assert score("The cats sat.", "the cat sat") == [1.0, 1.0, 1.0], "stemmed, case folded"
    assert score("The cat sat.", "Dogs bark") == [0.0, 0.0, 0.0]
    one, two, longest = score("a b c d", "a b x d")
    assert (one, two, longest) == pytest.approx((0.75, 1 / 3, 0.75))


def test_numbers_are_compared_whole() -> None:
    assert unsupported_numbers(["BP 120/80, Hb 2.5"], ["Hb 2.5, BP 120/80."]) == 0
    assert unsupported_numbers(["BP 120/80, Hb 2.5"], ["Hb 5, BP 120/80."]) == 0.5
    assert unsupported_numbers(["x"], ["none here"]) == 0
    assert unsupported_numbers(["No effusion."], ["1. No effusion. 2) Old fracture."]) == 0, "a list counts itself"
    assert unsupported_numbers(["Sodium was low."], ["Sodium was 131. Then 5. And 7) mg."]) == 1


def test_entities_without_a_source_and_with_another_polarity() -> None:
    source = "He has asthma. No fever, no rash. Pain in the left-sided chest."
    in_source = [(("asthma",), False), (("fever",), True), (("rash",), True)]
    in_summary = [
        (("asthma",), False),
        (("fever",), False),
        (("left", "chest"), False),
        (("left", "sided", "chest"), False),
    ]
    found = entity_faithfulness([source], [in_source], ["…"], [in_summary])
    assert found == {"unsupported_entities": 0.25, "polarity_errors": 0.5}
    assert entity_faithfulness([], [], [], []) == {"unsupported_entities": 0.0, "polarity_errors": 0.0}


def test_words_have_no_marks_and_no_case() -> None:
    assert words_of("Left-sided (2.5 CM)") == ("left", "sided", "2", "5", "cm")


def test_the_scores_of_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "dev.jsonl"
    pairs = [
        {"id": "1", "source": "Fever of 39. Cough.", "summary": "Fever of 39."},
        {"id": "2", "source": "", "summary": "x"},
    ]
    corpus.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    monkeypatch.setattr(summaries, "summarize", lambda tables, **_: ["Fever of 39.", ""][: len(tables["documents"])])
    scores = evaluate_summarizer(corpus, tagger=None)
    assert scores == {
        "rouge1": 0.5,
        "rouge2": 0.5,
        "rougeL": 0.5,
        "unsupported_entities": 0.0,
        "polarity_errors": 0.0,
        "unsupported_numbers": 0.0,
        "n": 2,
    }
    assert evaluate_summarizer(corpus, tagger=None, limit=1)["rouge1"] == 1.0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MedpipeError, match="EXTRA_MISSING"):
        rouge_scorer()
