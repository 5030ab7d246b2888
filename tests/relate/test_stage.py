"""The relation stage: rows that keep their contract and do not depend on what else is in the chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.ids import make_id
from medpipe.lake import contracts
from medpipe.records import ModelId
from medpipe.relate.features import Mentions
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.relate.stage import Relater
from tests.relate.conftest import CONFIG

TEXTS = [
    "Asthma causes wheezing. The patient has a cough at night. Gout was excluded; no fever.",
    "No finding.",
    "",
    "Psoriasis with itching.\n\nPLAN: Rest.\n" + "Migraine and nausea came back. " * 30,
    "Fever.",
]
WORDS = {"Asthma": "DISEASE", "Gout": "DISEASE", "Psoriasis": "DISEASE", "Migraine": "DISEASE", "wheezing": "SYMPTOM",
         "cough": "SYMPTOM", "fever": "SYMPTOM", "itching": "SYMPTOM", "nausea": "SYMPTOM", "night": "TEMPORAL",
         "Rest": "DRUG"}  # fmt: skip


def tables(numbers: list[int]) -> dict[str, pa.Table]:
    documents, sections, entities = [], [], []
    for number in numbers:
        text, document = TEXTS[number], make_id("document", str(number))
        documents.append(
            {"document_id": document, "patient_id": "p", "text": text, "source": "a", "record": str(number)}
        )
        sections.append({"document_id": document, "name": "body", "start": 0})
        # A part of a section, which is no section to the model.
        part = {"parent_section_id": "x", "name": "respiratory", "start": text.find(" ") + 1}
        sections.append({"document_id": document, **part})
        for word, label in WORDS.items():
            at = text.find(word)
            while at >= 0:
                entities.append({
                    "document_id": document, "entity_id": make_id("entity", document, at), "start": at, "end": at + len(word),
                    "label": label, "negated": word == "fever", "family": word == "Gout", "score": 0.5,
                    "uncertain": word == "cough", "hypothetical": False, "code": None, "code_system": None,
                })  # fmt: skip
                at = text.find(word, at + 1)
    kinds = pa.schema([("document_id", pa.string()), ("entity_id", pa.string()), ("start", pa.int32()), ("end", pa.int32()),
                       ("label", pa.string()), ("negated", pa.bool_()), ("family", pa.bool_()), ("score", pa.float32()),
                       ("uncertain", pa.bool_()), ("hypothetical", pa.bool_()), ("code", pa.string()), ("code_system", pa.string())])  # fmt: skip
    return {
        "documents": pa.Table.from_pylist(documents, schema=pa.schema([(n, pa.string()) for n in ("document_id", "patient_id", "text", "source", "record")])),
        "sections": pa.Table.from_pylist(sections, schema=pa.schema([("document_id", pa.string()), ("parent_section_id", pa.string()), ("name", pa.string()), ("start", pa.int32())])),
        "entities": pa.Table.from_pylist(entities, schema=kinds),
    }  # fmt: skip


def rows(relater: Relater, numbers: list[int]) -> list[dict[str, Any]]:
    output = relater.run(tables(numbers), run_id="r")
    assert output.rows["relations"].schema.equals(contracts.arrow_schema("relations"))
    assert output.rejects == []
    return output.rows["relations"].to_pylist()


def test_rows_are_right(relater: Relater) -> None:
    found = rows(relater, [0])
    entities = {row["entity_id"]: row for row in tables([0])["entities"].to_pylist()}
    pairs = {}
    for row in found:
        head, tail = entities[row["head_entity_id"]], entities[row["tail_entity_id"]]
        assert (head["label"], tail["label"]) == ("DISEASE", "SYMPTOM")
        evidence = TEXTS[0][row["evidence_start"] : row["evidence_end"]]
        words = TEXTS[0][head["start"] : head["end"]], TEXTS[0][tail["start"] : tail["end"]]
        assert all(word in evidence for word in words)
        pairs[words] = row
    assert set(pairs) == {(d, s) for d in ("Asthma", "Gout") for s in ("wheezing", "cough", "fever")}
    assert pairs["Asthma", "wheezing"]["sentence_distance"] == 0 and not pairs["Asthma", "wheezing"]["negated"]
    assert pairs["Asthma", "fever"]["sentence_distance"] == 2 and pairs["Asthma", "fever"]["negated"]
    assert pairs["Gout", "cough"]["negated"], "a disease of the family"
    sides = {
        words: [row[name] for name in ("head_negated", "tail_negated", "family", "uncertain")]
        for words, row in pairs.items()
    }
    assert sides["Asthma", "wheezing"] == [False, False, False, False]
    assert sides["Asthma", "fever"] == [False, True, False, False]
    assert sides["Gout", "cough"] == [False, False, True, True]
    assert all(0 <= row["score"] <= 1 for row in found)


def test_rows_do_not_depend_on_the_chunk_or_its_order(relater: Relater) -> None:
    together = rows(relater, [0, 1, 2, 3, 4])
    assert together == rows(relater, [4, 3, 2, 1, 0])
    alone = sorted(
        (row for number in range(5) for row in rows(relater, [number])),
        key=lambda row: (row["document_id"], row["relation_id"]),
    )
    assert [{k: v for k, v in row.items() if k != "score"} for row in alone] == [
        {k: v for k, v in row.items() if k != "score"} for row in together
    ]
    assert np.allclose([row["score"] for row in alone], [row["score"] for row in together], atol=2e-4)
    relater.token_budget = 1
    assert [row["relation_id"] for row in rows(relater, [0, 1, 2, 3, 4])] == [row["relation_id"] for row in together]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_do_not_depend_on_the_threads(relater: Relater, threads: int) -> None:
    relater.token_budget = 20  # several batches
    expected = rows(relater, [0, 1, 2, 3, 4])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert rows(relater, [0, 1, 2, 3, 4]) == expected
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_out_of_memory_halves_the_batch_and_costs_one_document(
    relater: Relater, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(relater, [0, 1, 2, 3, 4])
    forward = type(relater.network).forward
    sizes: list[int] = []

    def too_large(self, batch, features):  # type: ignore[no-untyped-def]
        sizes.append(int(batch.pair_document.max()) + 1)
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError
        return forward(self, batch, features)

    monkeypatch.setattr(type(relater.network), "forward", too_large)
    output = relater.run(tables([0, 1, 2, 3, 4]), run_id="r")
    assert output.rejects == [] and max(sizes) == 2
    assert output.counts["batches_halved"] >= 1 and relater.token_budget == 4096
    assert [row["relation_id"] for row in output.rows["relations"].to_pylist()] == [
        row["relation_id"] for row in expected
    ]

    def never(self, batch, features):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(relater.network), "forward", never)
    output = relater.run(tables([0, 1]), run_id="r")
    assert {reject.code for reject in output.rejects} == {"OUT_OF_MEMORY"} and not len(output.rows["relations"])


def test_ids_are_hashes_of_what_a_row_means(relater: Relater) -> None:
    found = rows(relater, [0, 3])
    for row in found:
        meaning = (
            row["document_id"],
            relater.model.weights_hash,
            row["type"],
            row["head_entity_id"],
            row["tail_entity_id"],
        )
        assert row["relation_id"] == make_id("relation", *meaning)
    assert len({row["relation_id"] for row in found}) == len(found)


def test_relations_stay_within_their_document(relater: Relater) -> None:
    data = tables([0, 3])
    home = dict(
        zip(data["entities"]["entity_id"].to_pylist(), data["entities"]["document_id"].to_pylist(), strict=True)
    )
    for row in relater.run(data, run_id="r").rows["relations"].to_pylist():
        assert home[row["head_entity_id"]] == home[row["tail_entity_id"]] == row["document_id"]


def test_every_type_joins_its_own_labels(relater: Relater) -> None:
    labels = {row["entity_id"]: row["label"] for row in tables([3])["entities"].to_pylist()}
    found = {(row["type"], labels[row["head_entity_id"]], labels[row["tail_entity_id"]]) for row in rows(relater, [3])}
    assert found == {
        ("has_symptom", "DISEASE", "SYMPTOM"),
        ("treats_or_induces", "DRUG", "DISEASE"),
        ("treats_or_induces", "DRUG", "SYMPTOM"),
    }, "and a type whose threshold is beyond reach is never told"


def test_unsure_entities_have_no_relations_where_the_model_says_so(relater: Relater) -> None:
    scores = [row["score"] for row in rows(relater, [0])]
    relater.joint_threshold = 0.25 * max(scores) - 1e-6  # both entities of every pair have the score 0.5
    assert len(rows(relater, [0])) == scores.count(max(scores)) < len(scores)


def test_nothing_to_relate(relater: Relater) -> None:
    assert rows(relater, [1, 2, 4]) == []
    assert rows(relater, []) == []


def test_min_score_takes_the_place_of_the_threshold(folder: Path) -> None:
    scores = sorted(row["score"] for row in rows(Relater.load(folder, device="cpu"), [0, 3]))
    middle = scores[len(scores) // 2]
    kept = rows(Relater.load(folder, device="cpu", min_score=middle), [0, 3])
    assert 0 < len(kept) < len(scores) and min(row["score"] for row in kept) >= middle
    assert rows(Relater.load(folder, device="cpu", min_score=1.0), [0, 3]) == []


def test_out_of_memory_costs_one_document(relater: Relater, monkeypatch: pytest.MonkeyPatch) -> None:
    real = relater.network.forward

    def forward(batch, features):
        if len(batch.words) > 100:
            raise MemoryError
        return real(batch, features)

    monkeypatch.setattr(relater.network, "forward", forward)
    output = relater.run(tables([0, 3]), run_id="r")
    assert [(reject.code, reject.record) for reject in output.rejects] == [("OUT_OF_MEMORY", "3")]
    assert set(output.rows["relations"]["document_id"].to_pylist()) == {make_id("document", "0")}


def test_scores_of_nested_and_two_thousand_mentions(relater: Relater) -> None:
    text = "Asthma causes wheezing and cough. " * 700
    starts = sorted(
        [at * 34 for at in range(700)] + [at * 34 + 14 for at in range(700)] + [at * 34 for at in range(700)]
    )
    ends = [start + (6 if i % 3 == 0 else 22 if i % 3 == 1 else 8) for i, start in enumerate(starts)]
    mentions = Mentions(np.array(starts), np.array(ends), np.array([i % 2 for i in range(len(starts))]))
    graphs, scores, _, counts = relater.score([text], [np.array([0])], [mentions])
    assert scores[0] is not None and len(scores[0]) == len(graphs[0].pairs) <= 4 * len(starts)
    assert counts["candidates_cut"] > 0


def test_mentions_of_white_space_stay_in_their_document(relater: Relater) -> None:
    texts = ["Asthma. Cough.  ", " ", "Gout. Fever."]
    mentions = [
        Mentions(np.array([0, 14]), np.array([6, 16]), np.array([0, 1])),
        Mentions(np.array([0, 0]), np.array([1, 1]), np.array([0, 1])),
        Mentions(np.array([0, 6]), np.array([4, 11]), np.array([0, 1])),
    ]
    starts = [np.array([0])] * 3
    graphs, scores, *_ = relater.score(texts, starts, mentions)
    assert graphs[0].last.tolist() == [0, 3], "the last token of the first text, not the first of the next"
    assert [len(one) for one in scores if one is not None] == [1, 0, 1]
    _, alone, *_ = relater.score(texts[:1], starts[:1], mentions[:1])
    assert np.allclose(scores[0], alone[0], atol=2e-4)


def test_a_folder_that_is_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        Relater.load(tmp_path)
    assert caught.value.code == "MODEL_NOT_FOUND"
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(MedpipeError) as caught:
        Relater.load(tmp_path)
    assert caught.value.code == "MODEL_INVALID"


def test_a_network_of_concepts_judges_all_mentions_of_two_alike() -> None:
    torch.manual_seed(3)
    shape = CONFIG["network"] | {"mentions": False}
    network = RelationNetwork(NetworkConfig(**shape), labels=3, types=3)
    model = ModelId("relations", "0", "0")
    relater = Relater(network, CONFIG, model, device=torch.device("cpu"), token_budget=4096)
    text = "Lupus caused fever. The fever of gout fell. It was lupus, not gout."
    words = [("Lupus", 0), ("fever", 1), ("fever", 1), ("gout", 0), ("lupus", 0), ("gout", 0)]
    spans, at = [], 0
    for word, label in words:
        at = text.index(word, at)
        spans.append((at, at + len(word), label))
        at += len(word)
    mentions = Mentions(*np.array(spans, dtype=np.int64).T)
    (graph,), (logits,), *_ = relater.score([text], [np.array([0])], [mentions])
    of_lupus, of_gout = (
        {
            round(float(logits[row, 0]), 4)
            for row, pair in enumerate(graph.pairs.tolist())
            if pair[0] in heads and pair[1] in (1, 2)
        }
        for heads in ((0, 4), (3, 5))
    )
    assert len(of_lupus) == len(of_gout) == 1 and of_lupus != of_gout
