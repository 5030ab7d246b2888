"""What other documents tell of two concepts: counted, looked up, and without what a document told itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.export.knowledge_graph import SCHEMA as EXPORTED
from medpipe.lake import contracts
from medpipe.relate.knowledge import FEATURES, FILE, SCHEMA, Knowledge, Told, concept_key
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.relate.stage import Relater
from medpipe.weights import hash_model, save_model
from tests.relate.conftest import CONFIG
from tests.relate.test_stage import TEXTS, tables

TYPES = ("has_symptom", "causes")
KEYS = ("gout", "pain", "fever", "\0ICD10CM|M10")
TOLD = st.sets(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), st.sampled_from(KEYS)), max_size=6)


def naive(documents: list[set[Told]], keys: list[str], pairs: np.ndarray) -> np.ndarray:
    """Counts in the other documents, one after the other."""
    counts = np.zeros((len(pairs), len(TYPES), FEATURES))
    for told in documents:
        for row, (head, tail) in enumerate(pairs):
            for kind, one, two in told:
                counts[row, kind, 0] += (one, two) == (keys[head], keys[tail])
                counts[row, kind, 1] += one == keys[head]
                counts[row, kind, 2] += two == keys[tail]
    return np.log1p(counts)


@given(st.lists(TOLD, max_size=5), st.permutations([*KEYS, "unknown"]), st.integers(0, 4))
def test_features_equal_a_naive_count_of_the_other_documents(
    documents: list[set[Told]], keys: list[str], left_out: int
) -> None:
    pairs = np.array([(head, tail) for head in range(5) for tail in range(5)])
    knowledge = Knowledge.count(TYPES, documents)
    assert np.allclose(knowledge.features(keys, pairs), naive(documents, keys, pairs))
    if left_out < len(documents):
        others = documents[:left_out] + documents[left_out + 1 :]
        found = knowledge.features(keys, pairs, own=documents[left_out])
        assert np.allclose(found, naive(others, keys, pairs)), "what a document told itself is none of its features"


def test_it_is_read_as_it_was_written_and_as_a_warehouse_exports_it(tmp_path: Path) -> None:
    knowledge = Knowledge.count(TYPES, [{(0, "gout", "pain"), (1, "\0ICD10CM|M10", "fever")}, {(0, "gout", "pain")}])
    knowledge.write(tmp_path / FILE)
    assert Knowledge.read(tmp_path / FILE, TYPES) == knowledge
    assert Knowledge.read(tmp_path / FILE, TYPES[:1]).told == (((0, "gout", "pain"), 2),)
    assert all(EXPORTED.field(field.name).type == field.type for field in SCHEMA)
    assert concept_key(" Back\n pain", None) == "back pain" and concept_key("x", "ICD10CM|M10") == KEYS[3]


@pytest.fixture
def knowing(tmp_path: Path) -> Path:
    """A model whose knowledge decides: a pair that another document tells is certain."""
    config = {**CONFIG, "network": {**CONFIG["network"], "knowledge": True}}
    torch.manual_seed(3)
    network = RelationNetwork(NetworkConfig(**config["network"]), labels=3, types=3)
    with torch.no_grad():
        network.knowledge[:, 0] = 100
    save_model(tmp_path, network.state_dict(), config)
    Knowledge.count(("has_symptom",), [{(0, "asthma", "cough")}]).write(tmp_path / FILE)
    return tmp_path


def scores(folder: Path) -> dict[tuple[str, str], float]:
    found = Relater.load(folder, device="cpu").run(tables([0]), run_id="r").rows["relations"]
    assert found.schema.equals(contracts.arrow_schema("relations"))
    entities = tables([0])["entities"].to_pylist()
    names = {row["entity_id"]: TEXTS[0][row["start"] : row["end"]].lower() for row in entities}
    return {(names[row["head_entity_id"]], names[row["tail_entity_id"]]): row["score"] for row in found.to_pylist()}


def test_a_model_leans_on_what_it_knows(knowing: Path) -> None:
    found = scores(knowing)
    assert found["asthma", "cough"] > 0.9999
    assert all(score < 0.9999 for pair, score in found.items() if pair != ("asthma", "cough"))
    before = hash_model(knowing)
    pq.write_table(SCHEMA.empty_table(), knowing / FILE)
    assert hash_model(knowing) != before, "what a model knows is part of what it is"
    assert scores(knowing)["asthma", "cough"] < 0.9999


def test_a_model_without_its_table_is_refused(knowing: Path) -> None:
    (knowing / FILE).write_bytes(b"no table")
    with pytest.raises(MedpipeError, match="MODEL_INVALID"):
        Relater.load(knowing)
    (knowing / FILE).unlink()
    with pytest.raises(MedpipeError, match="MODEL_INVALID"):
        Relater.load(knowing)
