"""What the relations of a note rest on, from its rows to the terminal."""

from __future__ import annotations

import io
from typing import Any

import torch
from rich.console import Console

from medpipe.records import ModelId
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.relate.stage import Relater
from medpipe.report.explain import explain_notes, path_line
from medpipe.report.notes import Note
from medpipe.report.terminal import print_note

TEXT = "Gout hurts. The patient has \x1b[31mpain."
CONFIG: dict[str, Any] = {
    "labels": ["DISEASE", "SYMPTOM"],
    "types": [{"name": "has_symptom", "head": "DISEASE", "tail": "SYMPTOM"}],
    "candidates": {"sentence_window": 3, "heads_per_tail": 4},
    "temperatures": [1.0],
}


def relater() -> Relater:
    torch.manual_seed(1)
    sizes = NetworkConfig(buckets=64, width=4, hidden=4, node=8, heads=2, layers=2)
    network = RelationNetwork(sizes, labels=2, types=1)
    return Relater(network, CONFIG, ModelId("r", "0", "h" * 32), device=torch.device("cpu"), token_budget=512)


def note(*, model: str) -> Note:
    document = {
        "document_id": "d", "text": TEXT, "source": "s", "record": "0", "note_type": None, "patient_id": None,
        "authored_at": None, "authored_at_text": None, "n_chars": len(TEXT), "status": "processed",
    }  # fmt: skip
    entities = [
        {"entity_id": word, "document_id": "d", "start": TEXT.index(word), "end": TEXT.index(word) + len(word),
         "text": word, "label": label, "score": 0.9, "parent_entity_id": None, "depth": 0, "negated": False,
         "uncertain": False, "hypothetical": False, "historical": False, "family": False}
        for word, label in (("Gout", "DISEASE"), ("pain", "SYMPTOM"))
    ]  # fmt: skip
    relation = {
        "relation_id": "r", "document_id": "d", "type": "has_symptom", "head_entity_id": "Gout",
        "tail_entity_id": "pain", "score": 0.5, "negated": False, "model": model,
    }  # fmt: skip
    return Note(document, [], entities, [relation], None)


def test_a_relation_is_explained_by_its_sentences_and_a_path() -> None:
    judge = relater()
    (explained,) = explain_notes(iter([note(model=str(judge.model))]), judge)
    (relation,) = explained.relations
    found = relation["explanation"]
    assert [TEXT[start:end] for start, end in found["evidence"]] == ["Gout hurts.", "The patient has \x1b[31mpain."]
    line = path_line(found, TEXT)
    assert line.startswith("Gout ─") and line.endswith("→ pain")
    shown = io.StringIO()
    print_note(Console(file=shown, width=100), explained)
    assert "“Gout hurts.”" in shown.getvalue() and "attention 0." in shown.getvalue()
    assert "\x1b" not in shown.getvalue(), "a note moves no cursor"


def test_what_another_model_told_is_not_explained() -> None:
    (explained,) = explain_notes(iter([note(model="other@1")]), relater())
    assert explained.relations[0]["explanation"] is None
    shown = io.StringIO()
    print_note(Console(file=shown, width=100), explained)
    assert "“" not in shown.getvalue()


def test_a_note_without_relations_passes() -> None:
    one = note(model="x")
    empty = Note(one.document, [], [], [], None)
    assert list(explain_notes(iter([empty]), relater())) == [empty]
