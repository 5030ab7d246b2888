"""Training of the relation model: gold, disturbance, thresholds; and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.learn.config import load_config
from medpipe.learn.corpora import read_documents
from medpipe.learn.relations import (
    SamplingConfig,
    best_threshold,
    disturb,
    fit_temperature,
    make_batch,
    make_example,
    train,
)
from medpipe.text.features import WordTable
from medpipe.text.rows import make_rows

ENTRY = {
    "folder": "invented",
    "labels": {"D": "DISEASE", "S": "SYMPTOM"},
    "relations": {"Produces": "has_symptom"},
    "anaphora": "Anaphora",
}
CONFIG = {
    "name": "relations", "version": "0", "labels": ["DISEASE", "SYMPTOM"],
    "types": [{"name": "has_symptom", "head": "DISEASE", "tail": "SYMPTOM"}],
    "candidates": {"sentence_window": 3, "heads_per_tail": 4}, "corpora": [ENTRY],
    "network": {"buckets": 512, "width": 8, "hidden": 8, "node": 16, "heads": 2, "layers": 1, "dropout": 0.0, "word_dropout": 0.0},
    "sampling": {"batch_documents": 4}, "training": {"epochs": 6, "learning_rate": 1e-2, "average_decay": 0.5},
}  # fmt: skip


def line(number: int) -> str:
    """A disease that has the symptom it causes, and not the one that is only mentioned."""
    text = f"Disease{number % 7} causes pain. It also brings rash. Unrelated to it is cough."
    entities = [
        {"id": "d", "type": "D", "spans": [[0, 8]]}, {"id": "a", "type": "A", "spans": [[text.index("It"), text.index("It") + 2]]},
        *({"id": word, "type": "S", "spans": [[text.index(word), text.index(word) + len(word)]]} for word in ("pain", "rash", "cough")),
    ]  # fmt: skip
    relations = [
        {"type": "Produces", "head": "d", "tail": "pain"}, {"type": "Produces", "head": "a", "tail": "rash"},
        {"type": "Anaphora", "head": "d", "tail": "a"}, {"type": "Is_a", "head": "d", "tail": "d"},
    ]  # fmt: skip
    return json.dumps({"doc_id": str(number), "text": text, "entities": entities, "relations": relations})


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    (root / "invented").mkdir()
    for split, numbers in (("train", range(24)), ("dev", range(50, 54))):
        (root / "invented" / f"{split}.jsonl").write_text("\n".join(line(number) for number in numbers) + "\n")
    return root


def test_anaphors_are_resolved(invented: Path) -> None:
    example = make_example(read_documents(invented / "invented" / "dev.jsonl")[0], ENTRY, CONFIG["labels"])
    words = [example.text[a:b] for a, b in zip(example.mentions.start, example.mentions.end, strict=True)]
    assert words == ["Disease1", "pain", "rash", "cough"]
    assert example.gold == {("has_symptom", 0, 1), ("has_symptom", 0, 2)}
    assert example.lost == 0


def test_relations_of_an_anaphor_that_stands_for_nothing_count_as_missed(invented: Path) -> None:
    document = read_documents(invented / "invented" / "dev.jsonl")[0]
    without = ENTRY | {"anaphora": None}
    example = make_example(document, without, CONFIG["labels"])
    assert example.gold == {("has_symptom", 0, 1)} and example.lost == 1
    rows = make_rows([example.text], WordTable(512))
    assert make_batch([example], rows, [0], CONFIG)[0].missed == 1


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), drop=st.floats(0, 1), jitter=st.floats(0, 1))
def test_disturbed_mentions_stay_sorted_and_gold_true(invented: Path, seed: int, drop: float, jitter: float) -> None:
    example = make_example(read_documents(invented / "invented" / "dev.jsonl")[0], ENTRY, CONFIG["labels"])
    other = disturb(example, np.random.default_rng(seed), SamplingConfig(drop_mentions=drop, jitter=jitter))
    assert (np.diff(other.mentions.start) >= 0).all() and (other.mentions.end > other.mentions.start).all()
    for _, head, tail in other.gold:
        assert other.text[other.mentions.start[head] :].startswith("Disease")
        assert other.text[other.mentions.start[tail] :].startswith(("pain", "rash"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9]), st.booleans()), max_size=12), st.integers(0, 3))
def test_best_threshold_equals_trying_all(pairs: list[tuple[float, bool]], missed: int) -> None:
    scores = np.array([one for one, _ in pairs])
    gold = np.array([float(two) for _, two in pairs])

    def f1(threshold: float) -> float:
        told = scores >= threshold
        support = gold.sum() + missed
        return float(2 * (told * gold).sum() / (told.sum() + support)) if told.sum() + support else 0.0

    threshold, best = best_threshold(scores, gold, missed)
    assert best == pytest.approx(max((f1(one) for one in scores), default=0.0))
    if pairs:
        assert f1(threshold) == pytest.approx(best)


def test_temperature_of_overconfident_logits() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=4000)
    gold = (random.random(4000) < 1 / (1 + np.exp(-truth))).astype(float)
    assert fit_temperature(truth * 3, gold) == pytest.approx(3, rel=0.15)


def test_it_learns_and_can_be_resumed(invented: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    figures = train(CONFIG, corpora=invented, out=tmp_path / "whole", device="cpu", report=lines.append)
    assert figures["has_symptom"]["f1"] > 0.9
    assert len(lines) == 6

    def kill(line: str) -> None:
        if line.startswith("epoch 4/"):
            raise KeyboardInterrupt

    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, corpora=invented, out=again, device="cpu", report=kill)
    assert not (again / "model.safetensors").exists()
    resumed: list[str] = []
    train(CONFIG, corpora=invented, out=again, device="cpu", resume=True, report=resumed.append)
    assert resumed[0].startswith("resumed at epoch 4,") and len(resumed) == 4
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (again / name).read_bytes(), "as if it had not been killed"


def test_wrong_config(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        train(CONFIG | {"network": {"depth": 3}}, corpora=invented, out=tmp_path)
    assert caught.value.code == "CONFIG_INVALID"


def test_the_config_without_graph_differs_in_nothing_else() -> None:
    with_graph, without = load_config("relations"), load_config("relations-without-graph")
    assert without == with_graph | {"name": without["name"], "network": with_graph["network"] | {"layers": 0}}
