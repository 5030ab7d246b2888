"""Relation scores by hand: what counts as found, what the corpus's anaphors cost, and the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.evaluate import relations
from medpipe.evaluate.relations import evaluate_baselines, evaluate_relations, score
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.weights import save_model

CONFIG: dict[str, Any] = {
    "name": "relations",
    "version": "0",
    "labels": ["DISEASE", "SYMPTOM"],
    "types": [{"name": "has_symptom", "head": "DISEASE", "tail": "SYMPTOM", "threshold": 0.0}],
    "candidates": {"sentence_window": 3, "heads_per_tail": 4},
    "temperature": 1.0,
    "network": {"buckets": 256, "width": 8, "hidden": 8, "node": 16, "heads": 2, "layers": 1},
    "corpora": {
        "invented": {
            "labels": {"Illness": "DISEASE", "Sign": "SYMPTOM"},
            "relations": {"Produces": "has_symptom"},
            "anaphora": "Anaphora",
        }
    },
}
TEXT = "Asthma causes wheezing. It brings cough. This causes fever."


def entity(name: str, kind: str, words: str) -> dict[str, Any]:
    return {"id": name, "type": kind, "spans": [[TEXT.index(words), TEXT.index(words) + len(words)]]}


DOCUMENT = {
    "doc_id": "1",
    "text": TEXT,
    "entities": [
        entity("asthma", "Illness", "Asthma"),
        entity("it", "Anaphor", "It"),
        entity("this", "Anaphor", "This"),
        entity("wheezing", "Sign", "wheezing"),
        entity("cough", "Sign", "cough"),
        entity("fever", "Sign", "fever"),
    ],
    "relations": [
        {"type": "Produces", "head": "asthma", "tail": "wheezing"},
        {"type": "Produces", "head": "it", "tail": "cough"},
        {"type": "Produces", "head": "this", "tail": "fever"},
        {"type": "Anaphora", "head": "asthma", "tail": "it"},
    ],
}
EMPTY = [
    {"doc_id": "2", "text": "Nothing.", "entities": [], "relations": []},
    {"doc_id": "3", "text": "", "entities": [], "relations": []},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that tells all candidates."""
    out = tmp_path_factory.mktemp("relations")
    torch.manual_seed(3)
    save_model(out, RelationNetwork(NetworkConfig(**CONFIG["network"]), labels=2, types=1).state_dict(), CONFIG)
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "invented"
    folder.mkdir()
    (folder / "dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [DOCUMENT, *EMPTY]))
    return folder / "dev.jsonl"


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tagger that finds Asthma and wheezing, cough as a disease, and of fever half."""
    spans = {(0, 6, "DISEASE"), (14, 22, "SYMPTOM"), (34, 39, "DISEASE"), (53, 55, "SYMPTOM"), (7, 13, "DRUG")}
    monkeypatch.setattr(relations.Tagger, "load", lambda *_, **__: None)
    monkeypatch.setattr(relations, "tag_texts", lambda _, texts: [spans if text == TEXT else set() for text in texts])


@pytest.mark.usefixtures("tagged")
def test_gold_and_end_to_end_by_hand(model: Path, corpus: Path) -> None:
    found = evaluate_relations(corpus, model=model, device="cpu")
    two_thirds = pytest.approx(2 / 3)
    # Asthma with each of the three signs is told; "This" stands for nothing that is annotated, so fever is missed.
    both = {"precision": two_thirds, "recall": two_thirds, "f1": two_thirds, "support": 3}
    assert found["gold"] == found["types"]["has_symptom"] == both
    # Told: Asthma or the false disease with wheezing or the half of fever; one of the four is right.
    assert found["end_to_end"] == {"precision": 0.25, "recall": pytest.approx(1 / 3), "f1": pytest.approx(2 / 7), "support": 3}  # fmt: skip
    assert found["gold_same_sentence"] == {"precision": 1.0, "recall": 0.5, "f1": two_thirds, "support": 2}
    assert found["gold_across_sentences"] == {"precision": 0.5, "recall": 1.0, "f1": two_thirds, "support": 1}
    # As annotated, cough belongs to "It", which the model cannot tell.
    third = pytest.approx(1 / 3)
    assert found["gold_as_annotated"] == {"precision": third, "recall": third, "f1": third, "support": 3}
    assert found["end_to_end_same_sentence"]["support"] == 2
    assert found["end_to_end_across_sentences"]["recall"] == 0.0


@pytest.mark.usefixtures("tagged")
def test_a_map_from_a_file(model: Path, corpus: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "map.toml"
    mapping.write_text('labels = { Illness = "DISEASE", Sign = "SYMPTOM" }\nrelations = { Produces = "has_symptom" }\n')
    found = evaluate_relations(corpus, model=model, device="cpu", labels=mapping)
    assert found["gold"] == found["gold_as_annotated"], "without the type of anaphora they are not resolved"
    mapping.write_text("labels = 3")
    with pytest.raises(MedpipeError) as caught:
        evaluate_relations(corpus, model=model, device="cpu", labels=mapping)
    assert caught.value.code == "CONFIG_INVALID"


@pytest.mark.usefixtures("tagged")
def test_a_corpus_in_our_own_labels_needs_no_map(model: Path, tmp_path: Path) -> None:
    names = {"Illness": "DISEASE", "Sign": "SYMPTOM", "Produces": "has_symptom"}
    ours = {
        key: [{**one, "type": names.get(one["type"], one["type"])} for one in value] if isinstance(value, list) else value
        for key, value in DOCUMENT.items()
    }  # fmt: skip
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps(ours) + "\n")
    assert evaluate_relations(path, model=model, device="cpu")["gold"]["support"] == 3


def test_baselines_by_hand(model: Path, corpus: Path) -> None:
    found = evaluate_baselines(corpus, model=model, without_graph=model)
    assert found["all_pairs_in_a_sentence"] == {"precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5, "support": 3}  # fmt: skip
    assert found["nearest_head"]["recall"] == pytest.approx(2 / 3)
    assert found["without_graph"] == found["nearest_head"], "both tell the one disease of each sign"


def test_scores_of_nothing() -> None:
    a, b, c = (("t", (0, 1, "D"), (i, i + 1, "S")) for i in range(3))
    assert score([{a, b}], [{a, c}]) == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert score([set()], [set()]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


@pytest.mark.corpora
def test_the_shipped_model_keeps_its_quality(corpora: Path) -> None:
    found = evaluate_relations(corpora / "raredis" / "dev.jsonl", device="cpu")
    assert found["gold"]["f1"] > 0.75
    assert found["end_to_end"]["f1"] > 0.40
