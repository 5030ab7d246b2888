from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.learn.config import list_configs, load_config
from medpipe.learn.loop import LoopConfig
from medpipe.learn.summarizer import (
    Example,
    LossConfig,
    TargetConfig,
    begin_with,
    choose_slots,
    example_batches,
    frequent_words,
    make_example,
    make_targets,
    overlap_f,
    shuffle_sentences,
    summary_loss,
    train,
)
from medpipe.summarize.features import Source, Vocabulary, collate, read_source
from medpipe.summarize.network import NetworkConfig, SummaryNetwork
from medpipe.summarize.repair import DecodeConfig
from medpipe.summarize.stage import Summarizer
from medpipe.summarize.template_words import TEMPLATE_WORDS
from medpipe.weights import read_config

VOCABULARY = Vocabulary(sorted(TEMPLATE_WORDS))
SMALL = {"word_size": 16, "token_hidden": 12, "sentence_hidden": 10, "memory_size": 24, "decoder_hidden": 24, "output_size": 16}
DRUGS = ("aspirin", "heparin", "insulin", "warfarin")
PLACES = ("knee", "elbow", "ankle", "wrist")


def invent(index: int) -> dict[str, str]:
    """Makes a pair whose summary copies two facts of its source."""
    drug, place = DRUGS[index % 4], PLACES[index // 4 % 4]
    source = f"The weather was fine. The patient had a swollen {place}. Nobody minded. We gave {drug} 5 mg at once. He left."
    return {"id": str(index), "source": source, "summary": f"Swollen {place}. We gave {drug} 5 mg."}


def make(summary: str, source: str | None = None, **config: Any) -> Example:
    example = make_example(read_source(source or invent(0)["source"]), summary, VOCABULARY, TargetConfig(**config))
    assert example is not None
    return example


def test_foreign_sentences_teach_the_selector_alone() -> None:
    example = make("Swollen knee. Zebras dance over xylophones.", min_supported=0.5)
    assert len(example.types) == 3
    assert example.sentence_labels.tolist() == [0, 1, 0, 0, 0]
    assert len(make("Zebras dance.").types) == 0
    assert make_example(read_source(""), "x", VOCABULARY, TargetConfig()) is None
    assert make_example(read_source("Fever."), "--", VOCABULARY, TargetConfig()) is None


def test_a_long_reference_is_cut_at_the_end_of_a_sentence() -> None:
    assert len(make("Swollen knee. We gave aspirin 5 mg.", max_words=8).types) == 3


def test_the_sentences_that_are_copied_are_always_attended_to() -> None:
    example = make("We gave aspirin 5 mg.")
    logits = np.array([5.0, 0.0, 5.0, -5.0, 0.0])
    slots = choose_slots(example, logits, budget=14)
    assert set(np.flatnonzero(example.source.sentence_of == 3)) <= set(slots.tolist())
    assert len(slots) <= 14


def test_targets_say_where_each_word_is_copied_from() -> None:
    example = make("Swollen knee was zebra. We gave aspirin.", min_supported=0.1)
    network = SummaryNetwork(NetworkConfig(**SMALL), torch.from_numpy(VOCABULARY.buckets))
    batch = collate([example.source], torch.device("cpu"))
    slots = np.arange(len(example.source.tokens))
    targets = make_targets([example], network.encode(batch), batch.token_counts, [slots], VOCABULARY)
    words = ["swollen", "knee", "was", "zebra", ".", "we", "gave", "aspirin", "."]
    strings = [word.lower() for word in example.source.tokens.strings(example.source.text)]
    for step, word in enumerate(words):
        if targets.copied[0, step + 1]:
            assert strings[int(targets.last[0, step + 1])] == word
    assert targets.copied[0].tolist()[1:5] == [True, True, False, False]
    assert targets.last[0, 0] == -1
    assert targets.last[0, 4] == targets.last[0, 2], "after a generated word the last copy stays"
    assert targets.weight[0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1], "zebra has no source; the end counts"
    assert targets.said[0, -1] == Vocabulary.END
    assert targets.inputs[0, 1:].tolist() == targets.said[0, :-1].tolist()


def test_the_loss_falls_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    network = SummaryNetwork(NetworkConfig(**SMALL, dropout=0.0, feature_dropout=0.0), torch.from_numpy(VOCABULARY.buckets))
    examples = [make(invent(index)["summary"], invent(index)["source"]) for index in range(8)]
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(15):
        loss = summary_loss(network, examples, VOCABULARY, targets=TargetConfig(), weights=LossConfig())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    missing = {name for name, value in network.named_parameters() if value.grad is None}
    assert missing == set()


def test_batches_hold_every_example_once_and_depend_on_their_random_numbers_alone() -> None:
    examples = [make(invent(index)["summary"], invent(index)["source"]) for index in range(10)]
    batches = example_batches(examples, 4, np.random.default_rng(1))
    assert sorted(id(example) for batch in batches for example in batch) == sorted(map(id, examples))
    again = example_batches(examples, 4, np.random.default_rng(1))
    assert [[id(one) for one in batch] for batch in batches] == [[id(one) for one in batch] for batch in again]


def test_shuffled_sentences_keep_their_words_and_where_they_stand() -> None:
    source = read_source(invent(5)["source"])
    mixed = shuffle_sentences(source, np.random.default_rng(1))

    def sentences(one: Source) -> list[tuple[str, tuple[int, ...], bool]]:
        words = one.tokens.strings(one.text)
        rows = zip(one.sentences.tolist(), one.eligible.tolist(), strict=True)
        return [(" ".join(words[a:b]), tuple(one.types[a:b].tolist()), fit) for (a, b), fit in rows]

    assert sentences(mixed) != sentences(source) and sorted(sentences(mixed)) == sorted(sentences(source))
    assert (np.bincount(mixed.sentence_of) == mixed.lengths).all() and (np.diff(mixed.sentence_of) >= 0).all()
    assert (mixed.places[:, :3] == source.places[:, :3]).all(), "a sentence has the place where it stands now"
    example = make_example(mixed, invent(5)["summary"], VOCABULARY, TargetConfig())
    assert example is not None
    copied = example.aligned[example.aligned >= 0]
    said = [word.lower() for word in np.array(mixed.tokens.strings(mixed.text))[copied].tolist()]
    assert {"swollen", PLACES[1], DRUGS[1], "5", "mg"} <= set(said)
    none = shuffle_sentences(read_source(""), np.random.default_rng(1))
    assert len(none.tokens) == len(none.sentences) == 0


def test_overlap() -> None:
    assert overlap_f("The knee hurts", "the KNEE hurts.") == 1.0
    assert overlap_f("", "knee") == 0.0
    assert overlap_f("a b", "b a") == 0.5


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    folder = tmp_path / "corpora" / "invented"
    folder.mkdir(parents=True)
    for name, numbers in (("train", range(12)), ("dev", range(12, 16))):
        lines = (json.dumps(invent(number)) + "\n" for number in numbers)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "corpora"


def config(epochs: int) -> dict[str, Any]:
    return {
        "name": "toy",
        "version": "0.1",
        "corpora": [{"folder": "invented", "train": ["train.jsonl"], "dev": ["dev.jsonl"], "licence": "none"}],
        "network": SMALL,
        "targets": {"batch_notes": 4},
        "training": {"epochs": epochs, "learning_rate": 0.01},
        "decode": {"max_length": 12, "min_length": 2, "beams": 2},
    }


def test_a_trained_model_can_be_loaded_and_says_where_it_comes_from(corpora: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    scores = train(config(2), corpora=corpora, out=tmp_path / "m", device="cpu", report=lines.append)
    assert 0 <= scores["dev"] <= 1
    stage = Summarizer.load(tmp_path / "m", device="cpu")
    (outcome,) = stage.summarize([read_source(invent(3)["source"])])
    assert outcome.sentences  # type: ignore[union-attr]
    assert read_config(tmp_path / "m")["trained_on"][0]["folder"] == "invented"
    assert "invented" in (tmp_path / "m" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert any("12 of 12 pairs" in line for line in lines)
    assert not any("swollen" in line for line in lines), "no text of a corpus is reported"


def test_a_killed_training_ends_like_an_undisturbed_one(corpora: Path, tmp_path: Path) -> None:
    quiet = {"corpora": corpora, "device": "cpu", "report": lambda line: None}
    train(config(3), out=tmp_path / "whole", **quiet)

    class KilledError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KilledError

    with pytest.raises(KilledError):
        train(config(3), corpora=corpora, out=tmp_path / "parts", device="cpu", report=stop)
    train(config(3), out=tmp_path / "parts", resume=True, **quiet)
    names = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert names[0] == names[1]


def test_a_wrong_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="CONFIG_INVALID"):
        train(config(1) | {"network": {"size": 3}}, corpora=tmp_path, out=tmp_path / "m", device="cpu")
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        train(config(1), corpora=tmp_path, out=tmp_path / "m", device="cpu")


def test_the_shipped_config_is_valid_and_keeps_to_licences() -> None:
    shipped = load_config("summarizer")
    NetworkConfig(**shipped["network"])
    TargetConfig(**shipped["targets"])
    LossConfig(**shipped["loss"])
    assert not {"openi", "multiclinsum_ls"} & {part["folder"] for part in shipped["corpora"]}
    assert all(part["licence"] for part in shipped["corpora"])


def test_frequent_words_are_those_that_no_template_has() -> None:
    summaries = ["No acute disease.", "No acute finding.", "Acute disease of the heart."]
    assert frequent_words(summaries, most=3, count=2) == ["acute", "disease", "no"]
    assert frequent_words(summaries, most=1) == ["acute"]
    assert frequent_words(summaries) == []


def test_a_benchmark_writes_words_of_its_references(corpora: Path, tmp_path: Path) -> None:
    quiet = {"corpora": corpora, "device": "cpu", "report": lambda line: None}
    train(config(1), out=tmp_path / "first", **quiet)
    wide = config(1) | {"vocabulary": {"most": 3, "count": 2}, "initial": str(tmp_path / "first"), "choose_by": ["abstractive"]}
    scores = train(wide, out=tmp_path / "second", **quiet)
    assert set(scores) == {"dev", "epoch", "minutes"}
    words = read_config(tmp_path / "second")["vocabulary"]
    assert len(words) == len(TEMPLATE_WORDS) + 3
    assert {"swollen", "gave"} & set(words)


def test_a_network_begins_with_the_weights_of_another(corpora: Path, tmp_path: Path) -> None:
    train(config(1), out=tmp_path / "m", corpora=corpora, device="cpu", report=lambda line: None)
    stage = Summarizer.load(tmp_path / "m", device="cpu")
    wider = Vocabulary(["zebra", *sorted(TEMPLATE_WORDS)])
    network = SummaryNetwork(NetworkConfig(**SMALL), torch.from_numpy(wider.buckets))
    begin_with(network, str(tmp_path / "m"), wider)
    assert torch.equal(network.query.weight, stage.network.query.weight)
    assert torch.equal(network.output.weight[4:], stage.network.output.weight[3:]), "moved by the word that is new"
    assert torch.equal(network.output.weight[:3], stage.network.output.weight[:3])


@pytest.mark.parametrize("name", [name for name in list_configs() if name.startswith("summarizer-")])
def test_benchmark_configs_are_valid(name: str) -> None:
    loaded = load_config(name)
    assert loaded["name"] == name
    NetworkConfig(**loaded["network"])
    TargetConfig(**loaded["targets"])
    LossConfig(**loaded["loss"])
    LoopConfig(**loaded["training"])
    assert DecodeConfig(**loaded["decode"]).mode in ("abstractive", "extractive")
