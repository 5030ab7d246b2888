"""Training of the relation model: gold, disturbance, thresholds; and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.learn.config import list_configs, load_config
from medpipe.learn.corpora import make_document, read_documents
from medpipe.learn.relations import (
    SamplingConfig,
    best_threshold,
    choose_thresholds,
    disturb,
    fit_temperature,
    gold_relations,
    label_of,
    make_batch,
    make_example,
    parse_config,
    score_groups,
    train,
)
from medpipe.relate.network import RelationNetwork, pool_groups
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
    "network": {"buckets": 512, "width": 8, "hidden": 8, "node": 16, "heads": 2, "layers": 1, "dropout": 0.0, "encoder_dropout": 0.0, "word_dropout": 0.0},
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


def first_example(invented: Path, **changes: object):
    document = read_documents(invented / "invented" / "dev.jsonl")[0]
    return make_example(document, ENTRY | changes, CONFIG["labels"], parse_config(CONFIG).types)


def test_anaphors_are_resolved(invented: Path) -> None:
    example = first_example(invented)
    words = [example.text[a:b] for a, b in zip(example.mentions.start, example.mentions.end, strict=True)]
    assert words == ["Disease1", "pain", "rash", "cough"]
    assert example.gold == {("has_symptom", 0, 1), ("has_symptom", 0, 2)}
    assert example.lost == (0,) and example.annotated == (True,)


def test_relations_of_an_anaphor_that_stands_for_nothing_count_as_missed(invented: Path) -> None:
    example = first_example(invented, anaphora=None)
    assert example.gold == {("has_symptom", 0, 1)} and example.lost == (1,)
    rows = make_rows([example.text], WordTable(512))
    rules = [one.rule(CONFIG["labels"]) for one in parse_config(CONFIG).types]
    assert make_batch([example], rows, [0], 2, ["has_symptom"], rules).missed.tolist() == [1]


def document(text: str, entities: dict[str, tuple[str, str]], relations: list[tuple[str, str, str]], **more: object):
    """A document whose entities are given as id -> (type, words)."""
    placed = [
        {"id": name, "type": kind, "spans": [[text.index(words), text.index(words) + len(words)]]}
        for name, (kind, words) in entities.items()
    ]
    related = [{"type": kind, "head": head, "tail": tail} for kind, head, tail in relations]
    return make_document({"doc_id": "1", "text": text, "entities": placed, "relations": related} | more, Path(), 1)


def test_a_modifier_becomes_the_type_whose_labels_fit_whichever_way_round() -> None:
    types = parse_config(
        CONFIG
        | {
            "labels": ["TEST", "LAB_VALUE", "DRUG", "DOSAGE"],
            "types": [
                {"name": "has_value", "head": "TEST", "tail": "LAB_VALUE"},
                {"name": "has_dosage", "head": ["DRUG"], "tail": "DOSAGE"},
            ],
            "corpora": [{"folder": "x", "relations": {"MODIFY": ["has_value", "has_dosage"]}}],
        }
    ).types
    labels = {name: name for name in ("TEST", "LAB_VALUE", "DRUG", "DOSAGE")}
    found = document(
        "Sodium 140 and aspirin 100 mg here",
        {"t": ("TEST", "Sodium"), "v": ("LAB_VALUE", "140"), "d": ("DRUG", "aspirin"), "g": ("DOSAGE", "100 mg"), "o": ("OTHER", "here")},
        [("MODIFY", "v", "t"), ("MODIFY", "d", "g"), ("MODIFY", "v", "d"), ("MODIFY", "o", "t"), ("AFTER", "t", "d")],
    )  # fmt: skip
    entry = {"labels": labels, "relations": {"MODIFY": ["has_value", "has_dosage"]}}
    assert gold_relations(found, entry, types) == {("has_value", "t", "v"), ("has_dosage", "d", "g")}
    alone = {"labels": labels, "relations": {"MODIFY": "has_value"}}
    assert gold_relations(found, alone, types) == {
        ("has_value", "t", "v"), ("has_value", "d", "g"), ("has_value", "v", "d"), ("has_value", "o", "t"),
    }  # fmt: skip


def test_chains_join_what_an_event_joins() -> None:
    found = document(
        "Aspirin and ibuprofen caused a rash",
        {"e": ("EVENT", "caused"), "t": ("TREAT", "Aspirin and ibuprofen"), "a": ("DRUG", "Aspirin"),
         "i": ("DRUG", "ibuprofen"), "r": ("EFFECT", "a rash")},
        [("Treatment", "e", "t"), ("Drug", "t", "a"), ("Drug", "t", "i"), ("Effect", "e", "r")],
    )  # fmt: skip
    entry = {
        "labels": {}, "relations": {},
        "chains": [{"name": "has_symptom", "head": ["Treatment", "Drug"], "tail": ["Effect"]}],
    }  # fmt: skip
    assert gold_relations(found, entry, []) == {("has_symptom", "a", "r"), ("has_symptom", "i", "r")}


def test_a_type_that_may_be_either_of_two_labels_is_one_of_them_by_its_words() -> None:
    labels = {"Condition": ["DISEASE", "SYMPTOM"]}
    names = [f"word{number}" for number in range(40)]
    found = document(" ".join(names) + " ", {name: ("Condition", name + " ") for name in names}, [])
    chosen = [label_of(entity, labels) for entity in found.entities]
    assert set(chosen) == {"DISEASE", "SYMPTOM"}
    assert chosen == [label_of(entity, labels) for entity in found.entities], "always the same"
    assert label_of(found.entities[0], {}) is None


CONCEPTS = {"folder": "x", "relations": {"CID": "has_symptom"}, "labels": ENTRY["labels"], "concepts": True}


def concepts():
    """Two mentions of one disease, one of another, and a symptom that belongs to the first alone."""
    text = "Gout hurts. Podagra again. Asthma. Pain. Unseen."
    entities = {"g": ("D", "Gout"), "p": ("D", "Podagra"), "a": ("D", "Asthma"), "s": ("S", "Pain")}
    found = document(text, entities, [], concept_relations=[
        {"type": "CID", "head": "M1", "tail": "M3"}, {"type": "CID", "head": "M1", "tail": "M9"},
    ])  # fmt: skip
    found.norms.update({"g": ["M1"], "p": ["M1", "M2"], "a": ["M2"], "s": ["M3"]})
    return make_example(found, CONCEPTS, CONFIG["labels"], parse_config(CONFIG).types)


def test_concepts_are_related_through_all_their_mentions() -> None:
    example = concepts()
    assert example.mentions.codes == ("M1", "M1", "M2", "M2", "M3"), "a mention of two codes is two mentions"
    assert example.gold == {("has_symptom", 0, 4), ("has_symptom", 1, 4)} and example.lost == (1,)
    parsed = parse_config(CONFIG | {"candidates": {"sentence_window": 9, "heads_per_tail": 9}})
    rules = [one.rule(CONFIG["labels"]) for one in parsed.types]
    table = WordTable(512)
    rows = make_rows([example.text], table)
    batch = make_batch([example], rows, [0], 2, ["has_symptom"], rules)
    assert batch.gold.tolist() == [[1.0], [0.0]] and batch.counted.all() and batch.missed.tolist() == [1]
    torch.manual_seed(0)
    network = RelationNetwork(parsed.network, labels=2, types=1).eval()
    features = torch.from_numpy(table.features.copy())
    logits = network(batch.graph, features[torch.from_numpy(batch.graph.vocabulary)])
    both = score_groups(network, batch, features)
    assert torch.allclose(both[0], logits[batch.group == 0].exp().sum().log(), atol=1e-5)


def test_a_relation_between_concepts_is_missed_only_where_all_its_pairs_are() -> None:
    example = concepts()
    for window, missed in ((2, 1), (1, 2)):  # the second mention of M1 stands two sentences before the symptom
        parsed = parse_config(CONFIG | {"candidates": {"sentence_window": window, "heads_per_tail": 9}})
        rules = [one.rule(CONFIG["labels"]) for one in parsed.types]
        rows = make_rows([example.text], WordTable(512))
        assert make_batch([example], rows, [0], 2, ["has_symptom"], rules).missed.tolist() == [missed]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-30, 30)), min_size=1, max_size=12))
def test_pooled_logits_equal_a_loop(pairs: list[tuple[int, float]]) -> None:
    numbers = sorted({group for group, _ in pairs})
    group = torch.tensor([numbers.index(one) for one, _ in pairs])
    logits = torch.tensor([[value] for _, value in pairs], dtype=torch.float64)
    pooled = pool_groups(logits, group, len(numbers))
    for place in range(len(numbers)):
        assert torch.allclose(pooled[place], torch.logsumexp(logits[group == place], 0))
    hard = pool_groups(logits, group, len(numbers), smooth=False)
    assert [hard[place] for place in range(len(numbers))] == [logits[group == i].max() for i in range(len(numbers))]


def test_rare_types_have_the_threshold_of_all() -> None:
    random = np.random.default_rng(0)
    gold = (random.random((400, 2)) < [0.4, 0.01]).astype(np.float32)
    logits = (2 * gold - 1 + random.normal(size=gold.shape)).astype(np.float32)
    counted = np.ones(gold.shape, dtype=bool)
    thresholds, temperatures, figures = choose_thresholds(["a", "b"], logits, gold, counted, np.array([3, 0]))
    assert figures["a"]["support"] == gold[:, 0].sum() + 3 and figures["b"]["support"] < 30
    assert thresholds[0] != thresholds[1] and temperatures[0] != temperatures[1]
    pooled = choose_thresholds(
        ["all"], logits.reshape(-1, 1), gold.reshape(-1, 1), counted.reshape(-1, 1), np.array([3])
    )
    assert thresholds[1] == pooled[0][0] and temperatures[1] == pooled[1][0]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), drop=st.floats(0, 1), jitter=st.floats(0, 1))
def test_disturbed_mentions_stay_sorted_and_gold_true(invented: Path, seed: int, drop: float, jitter: float) -> None:
    example = first_example(invented)
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


@pytest.mark.parametrize(
    "change",
    [
        {"types": [{"name": "t", "head": "GHOST", "tail": "SYMPTOM"}]},
        {"types": []},
        {"corpora": []},
        {"corpora": [ENTRY | {"labels": {"D": "GHOST"}}]},
        {"corpora": [ENTRY | {"relations": {"Produces": ["has_symptom", "ghost"]}}]},
        {"corpora": [ENTRY | {"chains": [{"name": "ghost", "head": [], "tail": []}]}]},
        {"sampling": {"ghost": 1}},
        {"candidates": {"ghost": 1}},
        {"network": {"mentions": False}},
    ],
)
def test_what_a_config_may_not_say(change: dict) -> None:
    with pytest.raises(MedpipeError) as caught:
        parse_config(CONFIG | change)
    assert caught.value.code == "CONFIG_INVALID"


def test_an_encoder_of_another_shape_is_refused(invented: Path, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        train(CONFIG | {"encoder": "tagger"}, corpora=invented, out=tmp_path)
    assert caught.value.code == "CONFIG_INVALID"


def test_the_config_without_graph_differs_in_nothing_else() -> None:
    with_graph, without = load_config("relations"), load_config("relations-without-graph")
    assert without == with_graph | {"name": without["name"], "network": with_graph["network"] | {"layers": 0}}


@pytest.mark.parametrize("name", [name for name in list_configs() if name.startswith("relations")])
def test_shipped_configs_are_valid(name: str) -> None:
    config = parse_config(load_config(name))
    assert config.name == name
    if config.tagger is not None:  # whose entities it gets end to end
        assert set(config.labels) <= set(load_config(config.tagger)["labels"])
