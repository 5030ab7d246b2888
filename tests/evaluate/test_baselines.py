from __future__ import annotations

import json
from pathlib import Path

from medpipe.evaluate.baselines import constant, evaluate_baselines, lead, textrank
from medpipe.summarize.features import read_source

NOTE = "The weather was fine. Fever and cough began in May. Cough and fever came back in May. Fever in May was high."


def test_lead_and_textrank_take_whole_sentences_in_their_order() -> None:
    source = read_source(NOTE)
    assert lead(source, 2) == "The weather was fine. Fever and cough began in May."
    assert textrank(source, 2) == "Fever and cough began in May. Cough and fever came back in May."
    assert lead(source, 9) == textrank(source, 9) == NOTE
    assert textrank(read_source(""), 2) == ""


def test_the_best_length_is_shown_and_the_constant_comes_from_train(tmp_path: Path) -> None:
    def write(name: str, summaries: list[str]) -> Path:
        lines = [{"id": str(number), "source": NOTE, "summary": summary} for number, summary in enumerate(summaries)]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    train = write("train.jsonl", ["Fever.", "Cough.", "Cough."])
    scores = evaluate_baselines(write("dev.jsonl", ["The weather was fine.", "The weather was fine."]), train)
    assert scores["lead-1"] == [1.0, 1.0, 1.0]
    assert set(scores) == {"lead-1", "constant", next(name for name in scores if name.startswith("textrank"))}
    assert constant(["a", "b", "b"]) == "b"
    assert scores["constant"] == [0.0, 0.0, 0.0]
