"""Continuing a tagger on corrections: what is forgotten, what is held, and what is promoted. All texts are invented."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medpipe import cli
from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import evaluate_tagger, make_label_map, tag_texts
from medpipe.export.brat import write_document
from medpipe.ids import hash_text
from medpipe.lake import contracts, files, warehouse
from medpipe.learn import continual
from medpipe.learn.continual import (
    ContinualConfig,
    HeldSet,
    choose_keep,
    continue_training,
    distillation_loss,
    exchange,
    hold_out,
    make_rows_to_train,
    name_apart,
    promote,
    read_corrections,
    read_notes,
    refusal,
    sample_batches,
)
from medpipe.learn.corpora import make_document
from medpipe.learn.tagger import train
from medpipe.tag.stage import Tagger
from medpipe.text.features import WordTable
from medpipe.weights import read_config

SYMPTOMS = ["fever", "severe cough", "nausea", "chest pain", "itching", "dizziness"]
DRUGS = ["aspirin", "ramipril", "metformin", "warfarin"]
NEW_SYMPTOMS = ["blurred vision", "tremor", "hoarseness", "numb toes", "ringing ears"]


def write_corpus(path: Path, first: int, count: int) -> None:
    """Notes of the old kind: symptoms and drugs, both annotated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        symptom, drug = str(rng.choice(SYMPTOMS)), str(rng.choice(DRUGS))
        text = f"The patient had {symptom} today. She took {drug} for {symptom}."
        lines.append(record(str(number), text, {symptom: "SYMPTOM", drug: "DRUG"}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def record(doc_id: str, text: str, kinds: dict[str, str]) -> dict[str, Any]:
    entities = []
    for word, kind in kinds.items():
        start = text.find(word)
        while start >= 0:
            entities.append({"id": f"T{len(entities) + 1}", "type": kind, "spans": [[start, start + len(word)]]})
            start = text.find(word, start + 1)
    return {"doc_id": doc_id, "text": text, "entities": entities, "relations": []}


def corrections(kind: str = "SYMPTOM", count: int = 60) -> list[dict[str, Any]]:
    """Notes of a site: other symptoms in other words; the drugs stand in them, but nobody has annotated them."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(10_000 + number)
        symptom, drug = str(rng.choice(NEW_SYMPTOMS)), str(rng.choice(DRUGS))
        made.append(
            record(f"c{number}", f"Complains of {symptom} since day {number}, on {drug} daily.", {symptom: kind})
        )
    return made


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder / "notes" / "train.jsonl", 0, 80)
    write_corpus(folder / "notes" / "dev.jsonl", 500, 30)
    return folder


@pytest.fixture(scope="module")
def old(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {
        "name": "little",
        "version": "0.0.1",
        "labels": ["SYMPTOM", "DRUG"],
        "network": {"buckets": 512, "width": 8, "hidden": 12, "layers": 1, "dropout": 0.1},
        "training": {"epochs": 6, "learning_rate": 2e-2, "average_decay": 0.9},
        "sampling": {"batch_tokens": 128},
        "corpora": [{"folder": "notes", "labels": {"SYMPTOM": "SYMPTOM", "DRUG": "DRUG"}}],
    }
    out = tmp_path_factory.mktemp("models") / "old"
    result = train(config, corpora=corpora, out=out, device="cpu", resume=False, report=lambda line: None)
    assert result["score"] > 0.95
    return out


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "corrections.jsonl", corrections())


# Few sentences and a small network: larger steps than a real model wants.
FAST = {"epochs": 6, "learning_rate": 1e-2, "average_decay": 0.9, "batch_tokens": 128, "keep": 0.0}
# Nothing holds what was learned before, and the steps are large enough to lose it from any beginning.
NAIVE = FAST | {"distillation": 0.0, "elastic": 0.0, "train_transitions": True, "epochs": 12, "learning_rate": 4e-2}


def go(
    source: Path, old: Path, held: Path, out: Path, knobs: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    defaults: dict[str, Any] = {"model": old, "hold": [held], "device": "cpu", "report": lambda line: None}
    return continue_training(
        source, out=out, config={"continual": FAST if knobs is None else knobs}, **defaults | options
    )


def drug_score(model: Path, corpora: Path) -> float:
    return float(evaluate_tagger(corpora / "notes" / "dev.jsonl", model=model, device="cpu")["labels"]["DRUG"]["f1"])


# --- forgetting -----------------------------------------------------------------------------


def test_naive_training_forgets_and_is_refused(source: Path, old: Path, corpora: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(MedpipeError, match=r"PROMOTION_REFUSED.*falls by") as refused:
        go(source, old, corpora, out, NAIVE)
    assert refused.value.exit_code == 4
    assert not out.exists()
    candidate = tmp_path / "model.candidate"
    assert {path.name for path in candidate.iterdir()} >= {
        "model.safetensors",
        "config.json",
        "MODEL_CARD.md",
        "promotion.json",
    }
    told = json.loads((candidate / "promotion.json").read_text())
    assert told["after"]["corrections"] > told["before"]["corrections"]  # it has learned, at the others' cost
    assert drug_score(candidate, corpora) < drug_score(old, corpora) - 0.1
    assert "Promoted: no" in (candidate / "MODEL_CARD.md").read_text()


def test_distillation_holds_what_nobody_annotated(source: Path, old: Path, corpora: Path, tmp_path: Path) -> None:
    figures = go(source, old, corpora, tmp_path / "model")
    assert figures["promoted"]
    assert figures["labels"] == ["SYMPTOM"]
    assert figures["after"]["corrections"] > figures["before"]["corrections"] + 0.3
    assert figures["after"]["notes"] >= figures["before"]["notes"] - 0.005
    assert drug_score(tmp_path / "model", corpora) >= drug_score(old, corpora) - 0.005
    text = "Complains of numb toes since day 3."
    assert list(tag_texts(Tagger.load(tmp_path / "model", device="cpu"), [text])[0]) == [(13, 22, "SYMPTOM")]


def test_replay_holds_it_too(source: Path, old: Path, corpora: Path, tmp_path: Path) -> None:
    knobs = NAIVE | {"replay": 2.0, "train_transitions": False}
    figures = go(source, old, corpora, tmp_path / "model", knobs, corpora=corpora, hold=())
    assert figures["after"]["notes"] >= figures["before"]["notes"] - 0.005
    assert figures["continued"]["replayed"] == 160  # two sentences a note


def test_the_old_models_answers_on_other_notes_hold_them_as_well(
    source: Path, old: Path, corpora: Path, tmp_path: Path
) -> None:
    """Notes of the old kind, without their annotation."""
    lines = [json.loads(line) for line in (corpora / "notes" / "train.jsonl").open()]
    notes = write_lines(tmp_path / "notes.jsonl", [{"text": line["text"]} for line in lines])
    figures = go(source, old, corpora, tmp_path / "model", FAST | {"replay": 2.0}, notes=notes)
    assert figures["after"]["notes"] >= figures["before"]["notes"] - 0.005
    assert figures["after"]["corrections"] > figures["before"]["corrections"] + 0.3


def test_notes_are_read_from_a_warehouse_without_what_was_corrected(tmp_path: Path) -> None:
    write_documents(tmp_path, "2026-01-31", {"one": "processed", "two": "failed", "three": "processed"})
    write_documents(tmp_path, "2026-02-01", {"three": "processed", "four": "processed"})
    found = read_notes(tmp_path, {hash_text("one")}, most=10)
    assert sorted(found) == ["four", "three"]
    assert len(read_notes(tmp_path, set(), most=2)) == 2
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        read_notes(tmp_path / "2026", set(), most=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        read_notes(tmp_path / "empty", set(), most=2)


def write_documents(root: Path, partition: str, texts: dict[str, str]) -> None:
    """A partition whose documents have these texts and states."""
    schema = contracts.arrow_schema("documents")
    rows = []
    for text, status in texts.items():
        row = {
            field.name: None
            if field.nullable or field.name == "schema_version"
            else 0
            if field.name.startswith("n_")
            else "x"
            for field in schema
        }
        rows.append(row | {"document_id": f"d-{text}", "text": text, "text_hash": hash_text(text), "status": status})
    columns = {name: [row[name] for row in rows] for name in schema.names if name != "schema_version"}
    files.write_table(warehouse.table_path(root, "documents", partition), contracts.conform("documents", columns))
    files.write_json(warehouse.manifest_path(root, partition), {})


def test_a_silent_label_has_no_loss_and_a_map_may_say_that_it_is_not_silent(
    source: Path, old: Path, tmp_path: Path
) -> None:
    config = read_config(old)
    found = read_corrections(source, config, None)
    rows, first = make_rows_to_train(found, config, WordTable(512))
    assert first == len(rows.start)
    assert rows.annotated[:, 0].all() and not rows.annotated[:, 1].any()
    mapping = tmp_path / "map.toml"
    mapping.write_text('annotates = ["SYMPTOM", "DRUG"]\n[labels]\nSYMPTOM = "SYMPTOM"\n')
    rows, _ = make_rows_to_train(read_corrections(source, config, mapping), config, WordTable(512))
    assert rows.annotated.all()


def test_distillation_looks_at_silent_labels_alone_and_at_differences_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(2, 3, 2, 2, 5, generator=generator)
    silent = torch.zeros(2, 3, 2, dtype=torch.bool)
    silent[0, :, 1] = True
    elsewhere = target.clone()
    elsewhere[:, :, 0] += 3 * torch.randn(2, 3, 2, 5, generator=generator)
    elsewhere[0, :, 1] += 7.0  # the same for all tags: no other distribution
    assert float(distillation_loss(elsewhere, target, silent)) == pytest.approx(0, abs=1e-4)
    moved = target.clone()
    moved[0, 1, 1, 0, 2] += 1.0
    assert float(distillation_loss(moved, target, silent)) > 0.01


def test_batches_hold_all_corrections_and_a_sample_of_the_old(source: Path, old: Path, corpora: Path) -> None:
    config = read_config(old)
    rows, first = make_rows_to_train(read_corrections(source, config, None), config, WordTable(512), corpora=corpora)
    knobs = ContinualConfig(batch_tokens=128, replay=0.5)
    one, again, other = (sample_batches(rows, first, knobs, np.random.default_rng(seed)) for seed in (1, 1, 2))
    drawn = np.concatenate([batch.rows for batch in one])
    assert sorted(drawn[drawn < first]) == list(range(first))
    assert 0.3 < rows.length[drawn[drawn >= first]].sum() / rows.length[:first].sum() <= 0.5
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(one, again, strict=True))
    assert set(drawn) != set(np.concatenate([batch.rows for batch in other]))
    # What is replayed is what the corpus says: its own words, its own tags, all of its labels.
    place = drawn[drawn >= first][0]
    assert rows.annotated[place].all()
    assert rows.tags[rows.start[place] : rows.start[place] + rows.length[place]].any()


def test_elastic_penalty_and_interpolation_stay_near_the_start(
    source: Path, old: Path, corpora: Path, tmp_path: Path
) -> None:
    def moved(name: str, **knobs: float) -> float:
        try:
            go(source, old, corpora, tmp_path / name, NAIVE | knobs)
            folder = tmp_path / name
        except MedpipeError:
            folder = tmp_path / f"{name}.candidate"
        before, after = (Tagger.load(one, device="cpu").network.state_dict() for one in (old, folder))
        return float(sum((after[key] - before[key]).square().sum() for key in before))

    free = moved("free")
    assert moved("elastic", elastic=1.0) < free / 2
    assert moved("between", keep=0.5) == pytest.approx(free / 4, rel=0.05)


def test_as_few_old_weights_are_kept_as_hold_the_old_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(tagger: float, sets: list[str]) -> dict[str, Any]:
        """Of an invented model: the nearer to the old one (1.0), the better, and worse on letters than on notes."""
        return {
            name: {"micro": {"f1": 0.7 - (1 - tagger) * fall}}
            for name, fall in zip(sets, (0.001, 0.0098), strict=False)
        }

    monkeypatch.setattr(continual, "score_sets", score)
    tried: list[float] = []

    def write(keep: float) -> float:
        tried.append(keep)
        return keep

    lines: list[str] = []
    assert choose_keep(1.0, write, ["notes"], report=lines.append) == 0.0  # type: ignore[arg-type]
    assert choose_keep(1.0, write, ["notes", "letters"], report=lines.append) == 0.6  # type: ignore[arg-type]
    assert tried == [0.0, *continual.KEEPS[:7]]
    assert lines[0] == "with 0% of the old weights the old labels' F1 changes by -0.10"


def test_sets_of_the_same_name_are_told_apart() -> None:
    label_map = make_label_map(None, ["SYMPTOM"], {})
    sets = name_apart([HeldSet(name, [], label_map) for name in ("notes", "corrections", "notes", "letters")])
    assert [one.name for one in sets] == ["notes", "corrections 2", "notes 2", "letters"]


# --- promotion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corrected", "old_labels", "word"),
    [
        ((0.5, 0.6), (0.7, 0.7), None),
        ((0.5, 0.6), (0.7, 0.6951), None),
        ((0.5, 0.6), (0.7, 0.694), "0.6 on notes"),
        ((0.5, 0.5), (0.7, 0.9), "not more"),
        ((0.5, 0.4), (0.7, 0.9), "not more"),
    ],
)
def test_what_is_refused(corrected: tuple[float, float], old_labels: tuple[float, float], word: str | None) -> None:
    reason = refusal(*({"corrections": one, "notes": other} for one, other in zip(corrected, old_labels, strict=True)))
    assert reason is None if word is None else word in str(reason)


def test_corrections_that_teach_nothing_are_refused(old: Path, corpora: Path, tmp_path: Path) -> None:
    same = write_lines(
        tmp_path / "same.jsonl", [json.loads(line) for line in (corpora / "notes" / "train.jsonl").open()]
    )
    with pytest.raises(MedpipeError, match=r"PROMOTION_REFUSED.*not more"):
        go(same, old, corpora, tmp_path / "model", FAST | {"epochs": 1, "learning_rate": 1e-6})


def test_the_promoted_folder_is_whole_and_says_where_it_comes_from(
    source: Path, old: Path, corpora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    figures = go(source, old, corpora, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "MODEL_CARD.md",
        "config.json",
        "model.safetensors",
        "promotion.json",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrections.jsonl", "model"]
    config = read_config(out)
    assert config["continued"][0]["weights_hash"] == Tagger.load(old, device="cpu").model.weights_hash
    assert {name: value for name, value in config.items() if name != "continued"} == read_config(old)
    card = (out / "MODEL_CARD.md").read_text()
    assert "Continued from little 0.0.1" in card and "### little 0.0.1" in card
    assert (
        f"| **notes** | **all** | {100 * figures['before']['notes']:.1f} | {100 * figures['after']['notes']:.1f} |"
        in card
    )
    assert "Complains" not in card + json.dumps(config) + (out / "promotion.json").read_text()


def test_a_second_round_replaces_the_first_and_keeps_it_beside(
    source: Path, old: Path, corpora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    go(source, old, corpora, out)
    first = (out / "model.safetensors").read_bytes()
    # A hold that this model does not know by name: each type is the label of the same name.
    hold = tmp_path / "hold.jsonl"
    shutil.copy(corpora / "notes" / "dev.jsonl", hold)
    more = [
        record(f"m{n}", f"Reports {word} at visit {n}.", {word: "SYMPTOM"})
        for n in range(30)
        for word in ("odd gait", "pallor")
    ]
    figures = go(write_lines(tmp_path / "more.jsonl", more), out, corpora, out, corpora=corpora, hold=[hold])
    assert figures["promoted"]
    assert set(figures["after"]) == {"corrections", "hold"}
    assert (tmp_path / "model.previous" / "model.safetensors").read_bytes() == first
    assert (out / "model.safetensors").read_bytes() != first
    assert len(read_config(out)["continued"]) == 2
    assert not (tmp_path / "model.candidate").exists()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_promotion_replaces_the_folder(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "model.candidate", "model.previous"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    if not can_exchange:
        monkeypatch.setattr(continual, "exchange", lambda one, other: False)
    promote(tmp_path / "model.candidate", tmp_path / "model")
    assert {path.name: (path / "which").read_text() for path in tmp_path.iterdir()} == {
        "model": "model.candidate",
        "model.previous": "model",
    }


def test_folders_are_exchanged_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_command_line_says_what_was_promoted_and_ends_with_4_where_nothing_was(
    source: Path,
    old: Path,
    corpora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(out: str, knobs: dict[str, Any]) -> int:
        config = tmp_path / f"{out}.toml"
        lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in knobs.items()]
        config.write_text("[continual]\n" + "\n".join(lines) + "\n")
        options = {
            "--from": source,
            "--model": old,
            "--hold": corpora,
            "--config": config,
            "--out": tmp_path / out,
            "--device": "cpu",
        }
        arguments = [str(part) for option in options.items() for part in option]
        monkeypatch.setattr("sys.argv", ["medpipe", "train", "tagger", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(str(stopped.value.code))

    assert call("good", FAST) == 0
    assert json.loads(capsys.readouterr().out)["promoted"] is True
    assert call("bad", NAIVE) == 4
    shown = capsys.readouterr()
    assert shown.out == "" and "PROMOTION_REFUSED" in shown.err and "bad.candidate" in shown.err


# --- input and resume -----------------------------------------------------------------------


def test_a_brat_folder_and_lines_give_the_same_model(old: Path, corpora: Path, tmp_path: Path) -> None:
    folder = tmp_path / "brat"
    folder.mkdir()
    made = sorted(corrections(), key=lambda one: str(one["doc_id"]))  # the order in which a folder is read
    for one in made:
        write_document(folder, one["doc_id"], one["text"], one["entities"], [])
    go(write_lines(tmp_path / "lines.jsonl", made), old, corpora, tmp_path / "one")
    go(folder, old, corpora, tmp_path / "two", hold=[folder, corpora])
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_killed_and_resumed_gives_the_same_weights(source: Path, old: Path, corpora: Path, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    seen: list[str] = []

    def report(line: str) -> None:
        seen.append(line)
        if len([one for one in seen if one.startswith("epoch")]) == 3:
            raise KilledError

    go(source, old, corpora, tmp_path / "whole")
    with pytest.raises(KilledError):
        go(source, old, corpora, tmp_path / "model", report=report)
    lines: list[str] = []
    go(source, old, corpora, tmp_path / "model", resume=True, report=lines.append)
    assert any(line.startswith("resumed at epoch 3") for line in lines)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_other_corrections_is_not_resumed(
    source: Path, old: Path, corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedpipeError, match="PROMOTION_REFUSED"):
        go(source, old, corpora, tmp_path / "model", NAIVE)
    other = write_lines(tmp_path / "other.jsonl", corrections(count=50))
    lines: list[str] = []
    go(other, old, corpora, tmp_path / "model", resume=True, report=lines.append)
    assert any("starting anew" in line for line in lines)
    assert not any(line.startswith("resumed") for line in lines)


def test_types_without_a_label_are_told_and_left_out(old: Path, corpora: Path, tmp_path: Path) -> None:
    made = corrections()
    made[0]["entities"].append({"id": "T9", "type": "Allergy", "spans": [[0, 9]]})
    lines: list[str] = []
    go(write_lines(tmp_path / "c.jsonl", made), old, corpora, tmp_path / "model", report=lines.append)
    assert "types without a label of the model are left out: Allergy (1)" in lines
    source = write_lines(tmp_path / "finding.jsonl", corrections("Finding"))
    with pytest.raises(MedpipeError, match=r"SETTING_INVALID.*no entity"):
        go(source, old, corpora, tmp_path / "other")
    mapping = tmp_path / "map.toml"
    mapping.write_text('[labels]\nFinding = "SYMPTOM"\n')
    assert go(source, old, corpora, tmp_path / "other", labels=mapping)["labels"] == ["SYMPTOM"]
    mapping.write_text('[labels]\nFinding = "NEWS"\n')
    with pytest.raises(MedpipeError, match=r"CONFIG_INVALID.*NEWS"):
        go(source, old, corpora, tmp_path / "third", labels=mapping)


def test_without_held_out_data_of_the_old_labels_nothing_is_trained(
    source: Path, old: Path, corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedpipeError, match=r"SETTING_INVALID.*--hold"):
        go(source, old, corpora, tmp_path / "model", hold=())
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        go(source, old, corpora, tmp_path / "model", hold=[tmp_path])
    with pytest.raises(MedpipeError, match="CONFIG_INVALID"):
        go(source, old, corpora, tmp_path / "model", {"epoch": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrections.jsonl"]


def test_documents_are_held_out_by_their_texts() -> None:
    documents = [make_document(one, Path("x"), 1) for one in corrections(count=200)]
    copies = [replace(document, doc_id=f"copy of {document.doc_id}") for document in documents]
    train_part, held_out = hold_out([*documents, *copies])
    assert 0.1 < len(held_out) / 400 < 0.3
    assert not {document.text for document in train_part} & {document.text for document in held_out}
    fewer, _ = hold_out(documents[:100])
    assert {document.doc_id for document in fewer} <= {document.doc_id for document in train_part}
    for count in (2, 3, 4):  # chance must leave no side empty
        assert all(hold_out(documents[at : at + count])[side] for at in range(50) for side in (0, 1))


def test_one_document_is_too_few(old: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "one.jsonl", corrections(count=1))
    with pytest.raises(MedpipeError, match=r"SETTING_INVALID.*fewer than two"):
        read_corrections(source, read_config(old), None)
