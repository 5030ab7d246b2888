"""The stage on awkward notes: nothing crashes, nothing depends on what else is in the chunk."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.ids import make_id
from medpipe.lake import contracts
from medpipe.tag.codes import EXACT_FEATURES, NEAR_FEATURES, Coder, Reranker
from medpipe.tag.decode import Spans, drop_headings
from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.tag.stage import Tagger, _headings, _place_in_sections
from medpipe.tag.terminology import Terms
from medpipe.weights import save_model

LABELS = ["DISEASE", "SYMPTOM", "DRUG"]
NOTES = {
    "plain": "Mr. Example has had chest pain for 3 days. He takes 20 mg of something. No fever.",
    "empty": "",
    "blank": " \n\t \u00a0 ",
    "one": "Fever",
    "full stop": ".",
    "capitals": "PATIENT SEEN TODAY. SEVERE HEADACHE AND VOMITING SINCE MONDAY. PLAN: REST.",
    "emoji": "😀 pain 😀😀 since 👩‍⚕️ visit\u200b, naïve cafe\u0301 5µg – “ok”",
    "surrogate": "broken \ud83d half and pain",
    "long": "pain and itching and fever and cough " * 700,
    "long word": "x" * 20_000,
    "lines": "\r\n".join(["Temp 37.5", "", "BP 120/80"] * 5),
    "right to left": "ألم في الصدر منذ ثلاثة أيام",
    "nul": "pain\x00fever\x0ccough",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small untrained model that finds entities everywhere."""
    torch.manual_seed(3)
    shape = {"buckets": 256, "width": 8, "hidden": 16}
    network = TaggerNetwork(NetworkConfig(**shape), labels=len(LABELS) + 1, styles=2)
    with torch.no_grad():
        network.output.weight *= 6
    config = {
        "name": "random",
        "version": "0",
        "labels": LABELS,
        "auxiliary": {"CONDITION": ["DISEASE", "SYMPTOM"]},
        "styles": ["clinical", "other"],
        "network": shape,
        "calibration": [0.8, 0.1],
    }
    path = tmp_path_factory.mktemp("model")
    save_model(path, network.state_dict(), config)
    return path


@pytest.fixture(scope="module")
def tagger(folder):
    return Tagger.load(folder, device="cpu")


def make_tables(notes):
    """Documents and one section over the second half of each."""
    names = sorted(notes)
    documents = {
        "document_id": names,
        "patient_id": [f"p-{name}" for name in names],
        "text": [notes[name] for name in names],
        "source": ["s"] * len(names),
        "record": names,
    }
    sections = {
        "document_id": names,
        "section_id": [f"section-{name}" for name in names],
        "parent_section_id": pa.nulls(len(names), pa.string()),
        "name": ["plan"] * len(names),
        "start": [len(notes[name]) // 2 for name in names],
        "end": [len(notes[name]) for name in names],
        "body_start": [len(notes[name]) // 2 for name in names],
    }
    return {"documents": pa.table(documents), "sections": pa.table(sections)}


def encodable(notes):
    """Arrow strings are UTF-8: a lone surrogate cannot reach the stage through a table."""
    return {name: text for name, text in notes.items() if name != "surrogate"}


@pytest.fixture(scope="module")
def entities(tagger):
    return tagger.run(make_tables(encodable(NOTES)), run_id="r").rows["entities"]


def test_rows_obey_the_contract(entities):
    assert entities.schema.equals(contracts.arrow_schema("entities"))
    rows = entities.to_pylist()
    assert len(rows) > 100
    for row in rows:
        assert NOTES[row["document_id"]][row["start"] : row["end"]] == row["text"]
        assert row["text"].strip() == row["text"] != ""
        assert row["label"] in LABELS
        assert 0 <= row["score"] <= 1
        assert row["patient_id"] == f"p-{row['document_id']}"
        assert row["run_id"] == "r"
    keys = [(row["document_id"], row["start"], row["end"], row["label"]) for row in rows]
    order = [(document, start, end, LABELS.index(label)) for document, start, end, label in keys]
    assert order == sorted(order)
    assert len(set(keys)) == len(keys)


def test_notes_without_words_have_no_entities(entities):
    found = set(entities["document_id"].to_pylist())
    assert not found & {"empty", "blank"}
    assert {"plain", "long", "capitals"} <= found


def test_ids_are_those_of_the_contract(entities, tagger):
    for row in entities.to_pylist()[:20]:
        weights = tagger.model.weights_hash
        assert row["entity_id"] == make_id(
            "entity", row["document_id"], weights, row["start"], row["end"], row["label"]
        )
        assert row["model"] == str(tagger.model)


def test_rows_are_what_a_plain_loop_makes_of_the_spans(tagger, entities):
    """Column by column, one entity at a time."""
    tables = make_tables(encodable(NOTES))
    names = tables["documents"]["document_id"].to_pylist()
    spans, *_ = tagger.find([NOTES[name] for name in names])
    spans = drop_headings(spans, *_headings(tables["sections"], names))
    rows = entities.to_pylist()
    assert len(rows) == len(spans)
    for place, row in enumerate(rows):
        name, start, end = names[spans.text[place]], int(spans.start[place]), int(spans.end[place])
        parts = (name, tagger.model.weights_hash, start, end, LABELS[spans.label[place]])
        assert row["entity_id"] == make_id("entity", *parts)
        assert (row["document_id"], row["patient_id"]) == (name, f"p-{name}")
        assert (row["start"], row["end"], row["label"]) == (start, end, LABELS[spans.label[place]])
        assert row["text"] == NOTES[name][start:end]
        assert row["score"] == np.float32(spans.score[place])
        assert (row["subtype"], row["fragments"]) == (None, None)
    for row in (row for row in rows if row["document_id"] != "long"):
        size = row["end"] - row["start"]
        around = [
            (other["end"] - other["start"], LABELS.index(other["label"]), other["start"], other["entity_id"])
            for other in rows
            if other["document_id"] == row["document_id"]
            and other["start"] <= row["start"]
            and row["end"] <= other["end"]
            and other["end"] - other["start"] > size
        ]
        assert row["parent_entity_id"] == (min(around)[3] if around else None)


def test_discontinuous_mentions_have_their_parts_in_rows_and_ids(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["auxiliary"] = {"GAP": []}
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    tagger = Tagger.load(tmp_path, device="cpu")
    rows = tagger.run(make_tables(encodable(NOTES)), run_id="r").rows["entities"].to_pylist()
    assert {row["fragments"] is None for row in rows} == {True, False}
    for row in rows:
        flat = [part[limit] for part in row["fragments"] or () for limit in ("start", "end")]
        parts = (row["document_id"], tagger.model.weights_hash, row["start"], row["end"], row["label"], *flat)
        assert row["entity_id"] == make_id("entity", *parts)
        assert not flat or (flat[0], flat[-1]) == (row["start"], row["end"])


def test_parents_contain_their_children(entities):
    rows = {row["entity_id"]: row for row in entities.to_pylist()}
    children = [row for row in rows.values() if row["parent_entity_id"]]
    assert children
    for row in children:
        parent = rows[row["parent_entity_id"]]
        assert parent["document_id"] == row["document_id"]
        assert parent["start"] <= row["start"] < row["end"] <= parent["end"]
        assert parent["end"] - parent["start"] > row["end"] - row["start"]
        assert row["depth"] == parent["depth"] + 1


def test_sections(entities):
    for row in entities.to_pylist():
        half = len(NOTES[row["document_id"]]) // 2
        assert row["section_id"] == (f"section-{row['document_id']}" if row["start"] >= half else None)


def test_nested_sections():
    """A part of a section has its own id; what it says of its text comes from the section around it."""
    rows = [
        ("d", "history", None, "family_history", 0, 15, 60),
        ("d", "mother", "history", "other", 16, 23, 40),
        ("d", "plan", None, "plan", 60, 65, 90),
    ]
    names = ("document_id", "section_id", "parent_section_id", "name", "start", "body_start", "end")
    sections = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    spans = Spans(
        np.zeros(4, int), np.array([15, 24, 45, 70]), np.array([16, 25, 46, 71]), np.zeros(4, int), np.ones(4)
    )
    ids, place, names = _place_in_sections(sections, ["d"], spans)
    assert ids.take(pa.array(place)).to_pylist() == ["history", "mother", "history", "plan"]
    assert [names[one] for one in place] == ["family_history", "family_history", "family_history", "plan"]
    assert names[-1] == "body"
    owner, start, end = _headings(sections, ["d"])
    assert list(zip(start.tolist(), end.tolist(), strict=True)) == [(0, 15), (60, 65)]
    assert owner.tolist() == [0, 0]


@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_output_does_not_depend_on_the_batches(folder, entities, budget):
    notes = encodable(NOTES)
    if budget == 1:  # a row a batch
        notes = {name: text for name, text in notes.items() if name != "long"}
    other = Tagger.load(folder, device="cpu", token_budget=budget).run(make_tables(notes), run_id="r").rows["entities"]
    expected = entities.filter(pa.array([name in notes for name in entities["document_id"].to_pylist()]))
    same_rows(other, expected)


def test_what_never_waits_for_a_gpu_finds_the_same(folder, entities, monkeypatch):
    monkeypatch.setattr("medpipe.tag.decode.has_to_wait", lambda values: True)
    same_rows(
        Tagger.load(folder, device="cpu").run(make_tables(encodable(NOTES)), run_id="r").rows["entities"], entities
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_output_does_not_depend_on_the_threads(folder, entities, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tagger = Tagger.load(folder, device="cpu", token_budget=500)
        assert tagger.run(make_tables(encodable(NOTES)), run_id="r").rows["entities"].equals(entities)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_output_does_not_depend_on_the_other_notes(tagger, entities):
    for name in ("plain", "capitals", "emoji", "one"):
        alone = tagger.run(make_tables({name: NOTES[name]}), run_id="r").rows["entities"]
        same_rows(alone, entities.filter(pa.array([one == name for one in entities["document_id"].to_pylist()])))


def same_rows(one, other):
    """Equal, scores included: on one device nothing rounds otherwise in another batch."""
    assert one.equals(other)


def test_order_of_documents_does_not_matter(tagger, entities):
    tables = make_tables(encodable(NOTES))
    turned = {name: table.take(list(range(len(table)))[::-1]) for name, table in tables.items()}
    same_rows(tagger.run(turned, run_id="r").rows["entities"], entities)


def test_any_string_can_be_searched(tagger):
    spans, *_ = tagger.find(list(NOTES.values()))
    for number, text in enumerate(NOTES.values()):
        part = spans.of_text(number)
        assert all(text[start:end].strip() for start, end in zip(spans.start[part], spans.end[part], strict=True))


def test_no_documents(tagger):
    output = tagger.run(make_tables({}), run_id="r")
    assert len(output.rows["entities"]) == 0
    assert output.counts["tokens"] == 0


def test_counts(tagger):
    output = tagger.run(make_tables({"a": "one two three. Four", "b": "five"}), run_id="r")
    assert output.counts["tokens"] == 6
    assert output.counts["padded_tokens"] >= 6


def test_words_are_forgotten_when_there_are_too_many(folder, monkeypatch, entities):
    monkeypatch.setattr("medpipe.tag.stage.KEPT_WORDS", 3)
    tagger = Tagger.load(folder, device="cpu")
    tagger.find(["alpha beta gamma delta"])
    tagger.find(["epsilon"])
    assert len(tagger.table) == len(tagger.vectors) == 1
    same_rows(
        tagger.run(make_tables({"plain": NOTES["plain"]}), run_id="r").rows["entities"],
        entities.filter(pa.array([one == "plain" for one in entities["document_id"].to_pylist()])),
    )


def test_out_of_memory_costs_one_document(folder, entities, monkeypatch):
    tagger = Tagger.load(folder, device="cpu")
    network_forward = TaggerNetwork.forward

    def forward(self, vectors, lengths, style):
        if vectors.shape[1] > 100 or len(vectors) > 8:
            raise torch.OutOfMemoryError
        return network_forward(self, vectors, lengths, style)

    monkeypatch.setattr(TaggerNetwork, "forward", forward)
    output = tagger.run(make_tables(encodable(NOTES)), run_id="r")
    assert output.counts["batches_halved"] >= 2 and tagger.token_budget == 4096, "the next chunk has smaller batches"
    assert [(reject.code, reject.stage, reject.document_id) for reject in output.rejects] == [
        ("OUT_OF_MEMORY", "tag", "long")
    ]
    same_rows(
        output.rows["entities"],
        entities.filter(pa.array([one != "long" for one in entities["document_id"].to_pylist()])),
    )


def test_broken_models(folder, tmp_path):
    with pytest.raises(MedpipeError, match="MODEL_NOT_FOUND"):
        Tagger.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for config in (
        '{"name": "x", "version": "0"}',
        (folder / "config.json").read_text().replace('"hidden": 16', '"hidden": 17'),
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(MedpipeError, match="MODEL_INVALID"):
            Tagger.load(tmp_path)


def test_codes_fill_their_columns_and_change_nothing_else(folder, entities):
    coded = sorted({row["text"] for row in entities.to_pylist() if row["text"].isalpha()})
    terms = Terms()
    for number, text in enumerate(coded):
        terms.add(f"C{number}", "TEST", text)
    weights = Reranker(np.array([9.0] + [0.0] * (len(EXACT_FEATURES) - 1)), np.zeros(len(NEAR_FEATURES)), 0.95)
    tagger = Tagger.load(folder, device="cpu", coder=Coder(terms, weights))
    found = tagger.run(make_tables(encodable(NOTES)), run_id="r").rows["entities"]
    columns = ["code_system", "code", "code_score"]
    assert found.drop_columns(columns).equals(entities.drop_columns(columns))
    assert entities["code"].null_count == len(entities)
    rows = found.to_pylist()
    assert {row["code"] is None for row in rows} == {True, False}
    for row in rows:
        assert (row["code"] is None) == (row["code_system"] is None) == (row["code_score"] is None)
        assert row["code"] is None or (row["code_system"] == "TEST" and 0.95 <= row["code_score"] <= 1)
    for name in ("plain", "one", "capitals"):
        alone = tagger.run(make_tables({name: NOTES[name]}), run_id="r").rows["entities"]
        assert alone["code"].to_pylist() == [row["code"] for row in rows if row["document_id"] == name]
