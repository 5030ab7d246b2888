"""The tagger's trainer, on an invented corpus of two kinds of annotation."""

import json

import numpy as np
import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import evaluate_tagger, tag_texts
from medpipe.learn.config import list_configs, load_config
from medpipe.learn.divide import fit_divider
from medpipe.learn.tagger import (
    calibration_error,
    chance_error,
    fit_calibration,
    make_batches,
    make_training_rows,
    parse_config,
    reliability,
    train,
)
from medpipe.learn.tagger_card import draw_reliability
from medpipe.tag.crf import BEGIN, SINGLE
from medpipe.tag.decode import calibrate
from medpipe.tag.stage import Tagger
from medpipe.text.features import WordTable

SYMPTOMS = ["fever", "severe cough", "nausea", "chest pain", "itching", "dizziness"]
DRUGS = ["aspirin", "ramipril", "metformin", "warfarin"]


def make_document(number, *, drugs):
    """An invented sentence or two with symptoms and, where the corpus has them, drugs."""
    rng = np.random.default_rng(number)
    symptom, drug = rng.choice(SYMPTOMS), rng.choice(DRUGS)
    text = f"The patient had {symptom} today. She took {drug} for {symptom}."
    entities = []
    for word, kind in ((symptom, "Finding"), (drug, "Medicine")):
        if kind == "Finding" or drugs:
            start = text.find(word)
            while start >= 0:
                entities.append({"id": f"T{len(entities)}", "type": kind, "spans": [[start, start + len(word)]]})
                start = text.find(word, start + 1)
    return {"doc_id": str(number), "text": text, "entities": entities, "relations": []}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small matrices on several threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    for name, drugs, first in (("notes", True, 0), ("letters", False, 1000)):
        (folder / name).mkdir()
        for split, count in (("train", 60), ("dev", 12)):
            lines = [
                json.dumps(make_document(first + number + 500 * (split == "dev"), drugs=drugs))
                for number in range(count)
            ]
            (folder / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


CONFIG = {
    "name": "little",
    "version": "0.0.1",
    "labels": ["SYMPTOM", "DRUG"],
    "network": {"buckets": 512, "width": 8, "hidden": 12, "layers": 2, "dropout": 0.1},
    "ablations": [{"what": "as it is", "corpus": "notes", "f1": 91.04}],
    "training": {"epochs": 3, "learning_rate": 2e-2, "average_decay": 0.9},
    "sampling": {"batch_tokens": 128, "upper_case": 0.1, "lower_case": 0.1, "plain_style": 0.5},
    "corpora": [
        {"folder": "notes", "labels": {"Finding": "SYMPTOM", "Medicine": "DRUG"}, "repeat": 2},
        {"folder": "letters", "labels": {"Finding": "SYMPTOM"}, "style": "letter"},
    ],
}


@pytest.fixture(scope="module")
def trained(corpora, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    lines = []
    result = train(CONFIG, corpora=corpora, out=out, device="cpu", resume=False, report=lines.append)
    return out, result, lines


def test_training_learns(trained):
    out, result, lines = trained
    assert result["score"] > 0.9
    assert len(lines) == 4
    assert {path.name for path in out.iterdir()} >= {"model.safetensors", "config.json", "MODEL_CARD.md"}
    assert "| **notes** | **all** |" in (out / "MODEL_CARD.md").read_text()
    assert "| as it is | notes | 91.0 |" in (out / "MODEL_CARD.md").read_text()


def test_trained_model_is_loaded_and_scores_the_same(trained, corpora):
    out, result, _ = trained
    for folder in ("notes", "letters"):
        scores = evaluate_tagger(corpora / folder / "dev.jsonl", model=out)
        assert {name: scores[name] for name in ("micro", "labels", "nested")} == result["dev"][folder]
    spans = tag_texts(Tagger.load(out, device="cpu"), ["She took ramipril for nausea."])[0]
    assert list(spans) == [(9, 17, "DRUG"), (22, 28, "SYMPTOM")]


def test_unannotated_labels_are_not_counted(trained, corpora):
    _, result, _ = trained
    assert set(result["dev"]["letters"]["labels"]) == {"SYMPTOM"}
    assert set(result["dev"]["notes"]["labels"]) == {"SYMPTOM", "DRUG"}


def test_config_of_the_model_has_the_label_maps(trained):
    config = json.loads((trained[0] / "config.json").read_text())
    assert config["corpora"][0] == {
        "folder": "notes",
        "annotates": ["DRUG", "SYMPTOM"],
        "labels": {"Finding": "SYMPTOM", "Medicine": "DRUG"},
    }
    assert config["styles"] == ["clinical", "letter"]


def test_model_has_a_calibration_for_each_label(trained):
    out, result, _ = trained
    table = json.loads((out / "config.json").read_text())["calibration"]
    assert set(table) == {"SYMPTOM", "DRUG"}
    assert Tagger.load(out, device="cpu").calibration.tolist() == [list(table["SYMPTOM"]), list(table["DRUG"])]
    assert result["calibration_error"] < 0.1


def test_discontinuous_mentions_are_found_with_their_parts(tmp_path):
    kinds = ["fever", "cough", "rash", "pain", "itch"]
    sides = ["left", "right", "upper", "lower"]
    for split, count in (("train", 80), ("dev", 12)):
        lines = []
        for number in range(count):
            rng = np.random.default_rng(number + 1000 * (split == "dev"))
            kind, (one, other) = rng.choice(kinds), rng.choice(sides, 2, replace=False)
            text = f"She had {kind} in the {one} and {other} arm."
            first, middle, last = text.index(kind), text.index(" and "), text.index(f"{other} arm")
            spans = [[[first, middle], [last + len(other) + 1, len(text) - 1]], [[last, len(text) - 1]]]
            types = ["Finding", "Place"]
            entities = [
                {"id": f"T{place}", "type": kind, "spans": parts}
                for place, (kind, parts) in enumerate(zip(types, spans, strict=True))
            ]
            lines.append(json.dumps({"doc_id": str(number), "text": text, "entities": entities, "relations": []}))
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "notes" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    config = CONFIG | {
        "labels": ["Finding", "Place"],
        "auxiliary": {"GAP": []},
        "corpora": [{"folder": "notes", "discontinuous": True}],
        "training": {"epochs": 8, "learning_rate": 3e-2, "average_decay": 0.9},
    }
    result = train(config, corpora=tmp_path, out=tmp_path / "m", device="cpu", resume=False, report=lambda line: None)
    assert result["discontinuous"]["notes"]["support"] == 12
    scores = evaluate_tagger(tmp_path / "notes" / "dev.jsonl", model=tmp_path / "m")
    assert scores["discontinuous"] == result["discontinuous"]["notes"]
    assert scores["discontinuous"]["f1"] > 0.8
    [found] = tag_texts(Tagger.load(tmp_path / "m", device="cpu"), ["She had pain in the left and right arm."])
    assert found[(8, 38, "Finding")] == [(8, 24), (35, 38)]
    assert found[(29, 38, "Place")] == []
    assert "Discontinuous mentions on dev" in (tmp_path / "m" / "MODEL_CARD.md").read_text()


def test_killed_and_resumed_gives_the_same_weights(trained, corpora, tmp_path):
    class KilledError(Exception):
        pass

    seen = []

    def report(line):
        seen.append(line)
        if len(seen) == 3:  # after the second epoch, whose checkpoint is not written yet
            raise KilledError

    with pytest.raises(KilledError):
        train(CONFIG, corpora=corpora, out=tmp_path, device="cpu", resume=False, report=report)
    assert not (tmp_path / "model.safetensors").exists()
    train(CONFIG, corpora=corpora, out=tmp_path, device="cpu", resume=True, report=lambda line: None)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "config.json").read_bytes() == (trained[0] / "config.json").read_bytes()


def test_rows_mask_what_a_corpus_does_not_annotate(corpora):
    table = WordTable(512)
    rows, facts = make_training_rows(parse_config(CONFIG), corpora, table)
    notes, letters = facts["notes"]["sentences"], facts["letters"]["sentences"]
    assert len(rows.start) == 2 * notes + letters
    assert rows.annotated[: 2 * notes].all()
    assert rows.annotated[2 * notes :, 0].all()
    assert not rows.annotated[2 * notes :, 1].any()
    assert np.array_equal(rows.start[:notes], rows.start[notes : 2 * notes])  # met twice, kept once
    assert rows.words.shape == (3, facts["notes"]["tokens"] + facts["letters"]["tokens"])


def test_mentions_of_a_coarse_label_train_the_likelier_part(corpora):
    config = CONFIG | {
        "auxiliary": {"THING": ["SYMPTOM", "DRUG"]},
        "divided": ["THING"],
        "corpora": [
            {"folder": "notes", "labels": {"Finding": "SYMPTOM", "Medicine": "DRUG"}},
            {"folder": "letters", "labels": {"Finding": "THING"}, "style": "letter"},
        ],
    }
    parsed = parse_config(config)
    rows, facts = make_training_rows(parsed, corpora, WordTable(512))
    notes = facts["notes"]["sentences"]
    assert parsed.all_labels == ["SYMPTOM", "DRUG", "THING"]
    assert rows.annotated[:notes].tolist() == [[True, True, False]] * notes
    assert rows.annotated[notes:].all()
    tags = rows.tags[rows.start[notes] :]  # shape: (tokens, labels, levels)
    assert np.array_equal(tags[:, 0], tags[:, 2])  # all of these findings are symptoms
    assert not tags[:, 1].any()
    assert facts["letters"]["entities"] == int(np.isin(tags[:, 2], [BEGIN, SINGLE]).sum())  # none counted twice
    undivided, _ = make_training_rows(parse_config(config | {"divided": []}), corpora, WordTable(512))
    assert not undivided.annotated[notes:, :2].any()


def test_divider_knows_words_it_has_seen_and_words_like_them():
    mentions = ["severe pain", "chest pain", "nausea", "lung carcinoma", "adenocarcinoma", "carcinoma of the lung"]
    divider = fit_divider(mentions, ["S", "S", "S", "D", "D", "D"], ["D", "S"])
    assert divider.divide(mentions) == ["S", "S", "S", "D", "D", "D"]
    assert divider.divide(["back pain", "osteocarcinomas", ""])[:2] == ["S", "D"]
    assert divider.divide([]) == []
    again = fit_divider(mentions, ["S", "S", "S", "D", "D", "D"], ["D", "S"])
    assert torch.equal(again.weights, divider.weights)


def test_batches_hold_every_row_once_and_depend_on_the_generator_alone(corpora):
    rows, _ = make_training_rows(parse_config(CONFIG), corpora, WordTable(512))
    sampling = parse_config(CONFIG).sampling
    one, other = (make_batches(rows, sampling, np.random.default_rng(4)) for _ in range(2))
    assert sorted(np.concatenate([batch.rows for batch in one]).tolist()) == list(range(len(rows.start)))
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first.rows, second.rows)
        assert np.array_equal(first.case, second.case)
        assert np.array_equal(first.style, second.style)
    assert {0, 1, 2} == set(np.concatenate([batch.case for batch in one]).tolist())


def test_late_repeats_are_seen_late(corpora):
    notes, letters = CONFIG["corpora"]
    config = CONFIG | {
        "sampling": {"batch_tokens": 128, "late_epoch": 2},
        "corpora": [notes | {"repeat": 1}, letters | {"late_repeat": 3}],
    }
    parsed = parse_config(config)
    rows, facts = make_training_rows(parsed, corpora, WordTable(512))
    early, once = facts["notes"]["sentences"] + facts["letters"]["sentences"], facts["letters"]["sentences"]
    for epoch, count in ((0, early), (1, early), (2, early + 2 * once)):
        batches = make_batches(rows, parsed.sampling, np.random.default_rng(4), epoch)
        assert sum(len(batch.rows) for batch in batches) == count
    plain, _ = make_training_rows(parse_config(config | {"corpora": [notes | {"repeat": 1}, letters]}), corpora, WordTable(512))
    for one, other in zip(
        make_batches(rows, parsed.sampling, np.random.default_rng(4), 1),
        make_batches(plain, parsed.sampling, np.random.default_rng(4), 1),
        strict=True,
    ):
        assert np.array_equal(rows.start[one.rows], plain.start[other.rows])


def test_sentences_with_unsure_types_say_nothing_about_some_labels(tmp_path):
    text = "Had asthma as a child. Has cough. Well."
    record = {
        "doc_id": "1",
        "text": text,
        "entities": [
            {"id": "T1", "type": "History", "spans": [[4, 21]]},
            {"id": "T2", "type": "Finding", "spans": [[27, 32]]},
        ],
    }
    for split in ("train", "dev"):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    config = CONFIG | {
        "corpora": [
            {
                "folder": "c",
                "labels": {"Finding": "SYMPTOM"},
                "annotates": ["SYMPTOM", "DRUG"],
                "unsure": {"History": ["SYMPTOM"]},
            }
        ]
    }
    rows, _ = make_training_rows(parse_config(config), tmp_path, WordTable(512))
    assert rows.annotated.tolist() == [[False, True], [True, True], [True, True]]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["DRUG"]},  # SYMPTOM is mapped to
        {"corpora": []},
        {"network": {"depth": 3}},
        {"training": {"epoch": 3}},
        {"corpora": [{"style": "x"}]},  # no folder
        {"divided": ["DRUG"]},  # no auxiliary label
    ],
)
def test_invalid_configs(change):
    with pytest.raises(MedpipeError, match="CONFIG_INVALID"):
        parse_config(CONFIG | change)


def test_gaps_are_the_first_auxiliary_label_or_an_error():
    corpora = [{"folder": "notes", "discontinuous": True}]
    for auxiliary in ({}, {"OTHER": [], "GAP": []}):
        with pytest.raises(MedpipeError, match=r"CONFIG_INVALID.*GAP"):
            parse_config(CONFIG | {"corpora": corpora, "auxiliary": auxiliary})
    assert "GAP" in parse_config(CONFIG | {"corpora": corpora, "auxiliary": {"GAP": []}}).corpora[0]["annotates"]


def test_missing_corpus(tmp_path):
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        train(CONFIG, corpora=tmp_path, out=tmp_path / "m", device="cpu", resume=False)


@pytest.mark.parametrize("name", [name for name in list_configs() if name.startswith("tagger")])
def test_shipped_configs_are_valid(name):
    config = parse_config(load_config(name))
    assert config.name == name
    assert config.network.levels >= 2


def test_config_takes_from_the_included_file_what_it_lacks(tmp_path):
    (tmp_path / "shared.toml").write_text("a = 1\n[part]\nx = 1\n[other]\ny = 2\n")
    (tmp_path / "whole.toml").write_text('include = "shared.toml"\na = 3\n[part]\nz = 4\n')
    assert load_config(str(tmp_path / "whole.toml")) == {"a": 3, "part": {"z": 4}, "other": {"y": 2}}
    (tmp_path / "shared.toml").unlink()
    with pytest.raises(MedpipeError, match="CONFIG_INVALID"):
        load_config(str(tmp_path / "whole.toml"))


def test_shipped_tagger_gives_the_labels_of_the_vocabulary():
    from medpipe.records import LABELS

    assert tuple(load_config("tagger")["labels"]) == LABELS


def test_calibration_finds_the_slope():
    rng = np.random.default_rng(0)
    logit = rng.normal(1, 2, size=20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit - 0.3)))
    slope, intercept = fit_calibration(np.log(1 / (1 + np.exp(-logit))), right)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert intercept == pytest.approx(-0.3, abs=0.05)
    assert fit_calibration(np.log([0.5, 0.6]), np.array([True, True])) == (1.0, 0.0)


def test_calibration_of_a_label_leaves_that_of_all_as_far_as_its_entities_say():
    log_probability = np.log(np.full(2000, 0.6))
    right = np.arange(2000) % 10 < 2  # 0.6 said, 0.2 true
    few, many = (fit_calibration(log_probability[:n], right[:n], (1.0, 0.0)) for n in (10, 2000))
    shown = [calibrate(log_probability[:1], *one)[0] for one in ((1.0, 0.0), few, many)]
    assert shown[0] == pytest.approx(0.6, abs=1e-3)
    assert 0.4 < shown[1] < 0.58
    assert shown[2] == pytest.approx(0.2, abs=0.02)
    assert fit_calibration(log_probability[:0], right[:0], (0.7, -0.3)) == (0.7, -0.3)


def test_reliability_counts_scores_by_bin():
    probability = np.array([0.05, 0.31, 0.39, 1.0])
    bins = reliability(probability, np.array([False, True, False, True]))
    assert bins == [(1, 0.05, 0.0), (2, pytest.approx(0.35), 0.5), (1, 1.0, 1.0)]
    drawn = draw_reliability(bins)
    assert len([line for line in drawn if "%" in line]) == 4
    assert "┃" in drawn[2]


def test_chance_parts_even_exact_scores_from_what_is_right():
    few, many = (chance_error(np.full(count, 0.5)) for count in (10, 10_000))
    assert 0.05 < few < 0.25
    assert many < 0.01
    assert chance_error(np.zeros(0)) == 0


def test_calibration_error():
    assert calibration_error(np.array([0.95] * 10), np.array([True] * 5 + [False] * 5)) == pytest.approx(0.45)
    assert calibration_error(np.array([0.5] * 10), np.array([True] * 5 + [False] * 5)) == 0
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0
