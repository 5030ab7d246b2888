"""Profiles: what they compute with, what they call themselves, and what stays the same in all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.lake import contracts
from medpipe.pipeline.planning import make_fingerprint, make_run_id
from medpipe.settings import load_settings
from medpipe.tag import profiles
from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.tag.profiles import find_tagger, has_bfloat16, identify_tagger
from medpipe.tag.stage import Tagger
from medpipe.weights import load_weights, read_config, save_model

CPU = torch.device("cpu")
NOTES = ["Mr. Example has chest pain, fever and cough. He takes 20 mg.", "fever", "", "COUGH " * 400 + "\nTemp 37.5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model that finds entities everywhere, of which some are nearly no entities."""
    torch.manual_seed(5)
    shape = {"buckets": 256, "width": 8, "hidden": 16}
    network = TaggerNetwork(NetworkConfig(**shape), labels=2, styles=1)
    with torch.no_grad():
        network.output.weight *= 6
    config = {
        "name": "random", "version": "0", "labels": ["DISEASE", "DRUG"], "auxiliary": {}, "styles": ["clinical"],
        "network": shape, "calibration": [1.0, 0.0],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "random"
    save_model(path, network.state_dict(), config)
    return path


def spans_of(tagger: Tagger, notes: list[str]) -> list[tuple]:
    spans, *_ = tagger.find(notes)
    return list(
        zip(
            spans.text.tolist(),
            spans.start.tolist(),
            spans.end.tolist(),
            spans.label.tolist(),
            spans.score.tolist(),
            strict=True,
        )
    )


def make_tables(notes: list[str]) -> dict[str, pa.Table]:
    names = [f"d{number}" for number in range(len(notes))]
    documents = dict.fromkeys(("document_id", "patient_id", "source", "record"), names) | {"text": notes}
    return {"documents": pa.table(documents), "sections": contracts.empty_table("sections")}


def test_fast_computes_in_bfloat16_where_the_processor_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device: True)
    fast, standard = (Tagger.load(folder, device="cpu", profile=profile) for profile in ("fast", "standard"))
    assert (fast.reduced, standard.reduced) == (True, False)
    found, exact = spans_of(fast, NOTES), spans_of(standard, NOTES)
    assert [span[4] for span in found] != [span[4] for span in exact]  # it is computed otherwise …
    common = {span[:4] for span in found} & {span[:4] for span in exact}
    assert len(common) > 0.9 * max(len(found), len(exact)) > 50  # … and finds about the same
    monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device: False)
    slow = Tagger.load(folder, device="cpu", profile="fast")
    assert not slow.reduced
    assert spans_of(slow, NOTES) == exact


def test_fast_does_not_depend_on_the_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device: True)
    together = spans_of(Tagger.load(folder, device="cpu", profile="fast"), NOTES)
    for budget in (1, 40, 512):
        assert spans_of(Tagger.load(folder, device="cpu", profile="fast", token_budget=budget), NOTES) == together
    backwards = spans_of(Tagger.load(folder, device="cpu", profile="fast"), NOTES[::-1])
    assert sorted((len(NOTES) - 1 - text, *rest) for text, *rest in backwards) == sorted(together)
    for number, note in enumerate(NOTES):
        alone = spans_of(Tagger.load(folder, device="cpu", profile="fast"), [note])
        assert [span[1:] for span in alone] == [span[1:] for span in together if span[0] == number]


# A million characters each, few of them tokens, so that the tests are quick.
MILLION = {
    "sentences": ("Pain and fever since Monday. He takes 20 mg." + " " * 7_956 + "\n") * 125,
    "no sentence end": ("x" * 1_999 + " ") * 500,
    "no space": "x" * 1_000_000,
    "no letter": "-" * 500 + "\n" * 999_500,
    "emoji": ("\U0001f600 pain" + " " * 3_994) * 250,
}


@pytest.mark.parametrize("profile", ["standard", "fast"])
@pytest.mark.parametrize("kind", MILLION)
def test_notes_of_a_million_characters(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, profile: str) -> None:
    monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device: True)
    tagger = Tagger.load(folder, device="cpu", profile=profile)
    whole = spans_of(tagger, [MILLION[kind]])
    assert len(MILLION[kind]) == (1_000_125 if kind == "sentences" else 1_000_000)
    assert all(0 <= start < end <= len(MILLION[kind]) for _, start, end, _, _ in whole)
    if kind == "sentences":  # the first notes' worth is as it is alone
        short = spans_of(tagger, [MILLION[kind][:8_001]])
        assert short == [span for span in whole if span[2] <= 8_001] and short
    if kind == "no space":
        assert {(start, end) for _, start, end, _, _ in whole} <= {(0, 1_000_000)}


SHAPES = {
    "empty": "", "one token": "fever", "white space": " \n\t\u00a0\u2003 ", "emoji": "\U0001f600 pain \U0001f469\u200d\u2695\ufe0f\U0001f600",
    "scripts": "\u0431\u043e\u043b\u044c pain \u53d1\u70ed3\u5929 \u0623\u0644\u0645 na\u00efve cafe\u0301", "capitals": "PATIENT DENIES FEVER. TAKES 20 MG.",
    "table": "Test | Value | Unit\nNa | 140 | mmol/L\nK | 4.1 | mmol/L\n\tHb\t9.8\tg/dL\n" * 3, "dots": "." * 300, "break": "\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("profile", ["standard", "fast"])
def test_awkward_notes_alone_together_and_turned_round(
    folder: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device: True)
    tagger = Tagger.load(folder, device="cpu", profile=profile)
    names = list(SHAPES)
    together = spans_of(tagger, list(SHAPES.values()))
    assert {names[text] for text, *_ in together}.isdisjoint({"empty", "white space", "break"})
    for number, note in enumerate(SHAPES.values()):
        mine = [span[1:] for span in together if span[0] == number]
        assert [span[1:] for span in spans_of(tagger, [note])] == mine
        assert all(note[start:end].strip() == note[start:end] != "" for start, end, *_ in mine)
    turned = spans_of(tagger, list(SHAPES.values())[::-1])
    assert sorted((len(SHAPES) - 1 - text, *rest) for text, *rest in turned) == sorted(together)


def test_equal_spans_have_equal_ids_whatever_the_profile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device: True)
    rows = {}
    for profile in ("fast", "standard"):
        found = Tagger.load(folder, device="cpu", profile=profile).run(make_tables(NOTES), run_id="r").rows["entities"]
        columns = (found[name].to_pylist() for name in ("document_id", "start", "end", "label", "entity_id"))
        rows[profile] = {tuple(key): key_id for *key, key_id in zip(*columns, strict=True)}
    common = rows["fast"].keys() & rows["standard"].keys()
    assert len(common) > 50
    assert all(rows["fast"][key] == rows["standard"][key] for key in common)


def test_a_profile_that_may_give_other_rows_has_another_identity(folder: Path) -> None:
    fast, standard = (identify_tagger(folder, profile) for profile in ("fast", "standard"))
    assert fast.weights_hash == standard.weights_hash  # on which the ids of entities hang
    assert str(fast).startswith("random+fast@") and str(standard).startswith("random@")
    assert Tagger.load(folder, device="cpu", profile="fast").model == fast
    nights = [
        {
            "fingerprint": make_fingerprint(load_settings(tagger=str(folder), profile=profile)),
            "partition": "2026-01-01",
            "sources": [],
        }
        for profile in ("fast", "standard")
    ]
    ids = [[make_run_id(stage, night) for stage in ("tag", "relate")] for night in nights]
    assert ids[0][0] != ids[1][0] and ids[0][1] != ids[1][1]


def test_accurate_is_the_larger_model_beside_it(folder: Path) -> None:
    with pytest.raises(MedpipeError, match="PROFILE_UNAVAILABLE"):
        find_tagger(folder, "accurate")
    larger = folder.with_name("random-accurate")
    save_model(larger, {name: 2 * value for name, value in load_weights(folder).items()}, read_config(folder))
    try:
        assert find_tagger(folder, "accurate") == larger
        assert find_tagger(folder, "standard") == find_tagger(folder, "fast") == folder
        accurate = identify_tagger(folder, "accurate")
        assert accurate.weights_hash != identify_tagger(folder, "standard").weights_hash
        assert Tagger.load(folder, device="cpu", profile="accurate").model == accurate
    finally:
        shutil.rmtree(larger)
    with pytest.raises(MedpipeError, match="MODEL_NOT_FOUND"):
        find_tagger("no-such-model", "accurate")


def test_what_multiplies_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, expected in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert has_bfloat16(CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_bfloat16(CPU) is False
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert has_bfloat16(torch.device("cuda:0")) is False
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert profiles.has_bfloat16(torch.device("cuda:0")) is True


def test_reduced_tokens_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = make_tables(NOTES[:1])
    for able in (True, False):
        monkeypatch.setattr("medpipe.tag.stage.has_bfloat16", lambda device, able=able: able)
        output = Tagger.load(folder, device="cpu", profile="fast").run(tables, run_id="r")
        assert output.counts.get("bfloat16_tokens", 0) == (output.counts["tokens"] if able else 0)
        assert np.isin(output.rows["entities"]["model"].to_pylist(), [str(identify_tagger(folder, "fast"))]).all()
