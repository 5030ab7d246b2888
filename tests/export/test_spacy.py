"""spaCy: DocBin files that hold every mention exactly, and the component (make test-tools)."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.export import spacy_docs
from medpipe.export.notes import NoteRows
from medpipe.records import ASSERTIONS
from tests.conftest import ROOT
from tests.export.warehouses import NIGHTS, make_warehouse

pytestmark = pytest.mark.tools

CHARACTERS = st.sampled_from(
    ["a", "Z", " ", "  ", "\t", "\n", "\r\n", "é", "e\u0301", "🩺", "-", ".", "\u2028", "'s", "mg/dL"]
)


def note_of(text: str, spans: list[tuple[int, int]]) -> NoteRows:
    row: dict[str, Any] = {
        "label": "DRUG", "score": 0.5, "fragments": None, "code": None, "code_system": None, "depth": 0, **dict.fromkeys(ASSERTIONS, False),
    }  # fmt: skip
    entities = [
        row | {"entity_id": f"{number:032x}", "start": start, "end": end} for number, (start, end) in enumerate(spans)
    ]
    return NoteRows(NIGHTS[0], {"document_id": "d", "text": text, "status": "processed"}, entities, [], None)


@cache
def blank() -> Any:
    import spacy

    return spacy.blank("en")


@settings(max_examples=100, deadline=None)
@given(st.lists(CHARACTERS, max_size=30).map("".join), st.data())
def test_every_span_is_exactly_the_mention(text: str, data: st.DataObject) -> None:
    places = (
        st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
        .map(sorted)
        .filter(lambda pair: pair[0] < pair[1])
    )
    spans = data.draw(st.lists(places.map(tuple), max_size=4, unique=True)) if text else []
    spacy_docs.register_extensions()
    doc = spacy_docs.make_doc(blank(), note_of(text, spans))
    assert doc.text == text
    assert sorted((span.start_char, span.end_char) for span in doc.spans["medpipe"]) == sorted(spans)


def test_a_warehouse_becomes_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spacy.tokens import DocBin

    root = tmp_path / "lake"
    nights = make_warehouse(root, tmp_path / "work")
    monkeypatch.setattr(spacy_docs, "NOTES_A_FILE", 7)
    counts = spacy_docs.export_spacy(root, tmp_path / "docs")
    last = {row["document_id"]: rows for _, rows in nights for row in rows["documents"]}
    documents = {
        row["document_id"]: row for _, rows in nights for row in rows["documents"] if row["status"] == "processed"
    }
    paths = sorted((tmp_path / "docs").iterdir())
    assert counts["documents"] == len(documents) and len(paths) == -(-len(documents) // 7)
    docs = [doc for path in paths for doc in DocBin().from_disk(path).get_docs(blank().vocab)]
    assert len(docs) == len(documents) and counts["left_out"] == len(last) - len(documents)
    for doc in docs:
        key = doc._.medpipe_document_id
        entities = {row["entity_id"]: row for row in last[key]["entities"] if row["document_id"] == key}
        assert doc.text == documents[key]["text"]
        assert {span.id_ for span in doc.spans["medpipe"]} == set(entities)
        for span in doc.spans["medpipe"]:
            row = entities[span.id_]
            assert (span.text, span.start_char, span.label_) == (row["text"], row["start"], row["label"])
            assert span.kb_id_ == (f"ICD-10-CM:{row['code']}" if row["code"] else "")
            facts = doc._.medpipe_entities[span.id_]
            assert all(facts[name] == row[name] for name in ASSERTIONS) and facts["score"] == pytest.approx(
                row["score"]
            )
            assert facts["fragments"] == (
                row["fragments"] and tuple((part["start"], part["end"]) for part in row["fragments"])
            )
            if len({(one["start"], one["end"]) for one in entities.values()}) == len(entities):
                assert all(span._.get(name) == row[name] for name in ASSERTIONS)
        assert len(doc.ents) <= len(doc.spans["medpipe"])
        pairs = {(one["head"], one["tail"]) for one in doc._.medpipe_relations}
        assert pairs == {
            (row["head_entity_id"], row["tail_entity_id"])
            for row in last[key]["relations"]
            if row["document_id"] == key
        }
        assert doc._.medpipe_summary == "Note"


def test_the_component(tmp_path: Path) -> None:
    import spacy

    import medpipe.api.spacy_component

    nlp = spacy.blank("en")
    nlp.add_pipe("medpipe", config={"settings": {"device": "cpu"}})
    doc = nlp("Patients with celiac disease have diarrhea, bloating and weight loss. No fever.")
    assert ("celiac disease", "DISEASE") in {(ent.text, ent.label_) for ent in doc.ents}
    fever = next(span for span in doc.spans["medpipe"] if span.text == "fever")
    assert fever._.negated and 0 < fever._.score <= 1
    ids = {span.id_ for span in doc.spans["medpipe"]}
    assert doc._.medpipe_relations and all({one["head"], one["tail"]} <= ids for one in doc._.medpipe_relations)
    assert doc._.medpipe_status == "processed" and "celiac disease" in doc._.medpipe_summary
    both = list(nlp.pipe([doc.text, "", "Asthma."], batch_size=2))
    assert [len(one.ents) for one in both] == [len(doc.ents), 0, 1]
    assert both[1]._.medpipe_status == "failed"
    assert spacy.tokens.Doc(nlp.vocab).from_bytes(doc.to_bytes())._.medpipe_summary == doc._.medpipe_summary
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")
    assert [ent.text for ent in again("Asthma.").ents] == ["Asthma"]
    assert isinstance(again.get_pipe("medpipe"), medpipe.api.spacy_component.Component)


def test_without_spacy_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MedpipeError) as caught:
        spacy_docs.export_spacy(tmp_path, tmp_path / "out")
    assert caught.value.code == "EXTRA_MISSING" and "medpipe[spacy]" in str(caught.value)


def test_importing_medpipe_does_not_import_spacy() -> None:
    code = "import sys, medpipe.api, medpipe.export.spacy_docs; print('spacy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
