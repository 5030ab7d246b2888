"""Figures of codes on a corpus small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluate import codes as module
from medpipe.evaluate.codes import evaluate_codes

TERMS = "code,system,term\nM:1,T,chronic kidney disease\nM:2,T,knee pain\nM:3,T,examplin\n"
MENTIONS = [
    ("Disease", "chronic renal disease", ["M:1"]),  # right
    ("Disease", "CHRONIC KIDNEY DISEASE", ["M:9"]),  # wrong: another concept with this name
    ("Disease", "flu", ["M:8"]),  # not in the terminology
    ("Disease", "knee pain", ["M:1", "M:2"]),  # two concepts: no code is right
    ("Chemical", "Examplin", ["M:3"]),  # right
    ("Chemical", "other", []),
    ("Gene", "examplin", ["M:3"]),  # no kind of mention that has codes
]


def write_corpus(path: Path, mentions: list[tuple[str, str, list[str]]]) -> Path:
    text, entities = "", []
    for number, (kind, mention, norm) in enumerate(mentions):
        spans = [[len(text), len(text) + len(mention)]]
        entities.append({"id": f"T{number}", "type": kind, "spans": spans, "norm": norm})
        text += mention + " . "
    path.write_text(json.dumps({"doc_id": "1", "text": text, "entities": entities}) + "\n")
    return path


def evaluate(tmp_path: Path, **options: Any) -> dict[str, Any]:
    (tmp_path / "terms.csv").write_text(TERMS)
    corpus = write_corpus(tmp_path / "corpus.jsonl", MENTIONS)
    return evaluate_codes(corpus, terminology=[tmp_path / "terms.csv"], **options)


def test_figures(tmp_path: Path) -> None:
    figures = evaluate(tmp_path)
    assert figures["mentions"] == 6
    assert figures["precision"] == pytest.approx(2 / 4)
    assert figures["coverage"] == pytest.approx(4 / 6)
    assert figures["recall"] == pytest.approx(2 / 5)
    assert figures["known"] == pytest.approx(2 / 5)
    assert figures["near"] == 0
    assert figures["DRUG"]["precision"] == 1
    assert figures["DISEASE"]["recall"] == pytest.approx(1 / 4)


def test_types_of_another_corpus(tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('Gene = "DRUG"')
    figures = evaluate(tmp_path, labels=tmp_path / "labels.toml")
    assert (figures["mentions"], figures["recall"]) == (1, 1)
    (tmp_path / "labels.toml").write_text("Gene =")
    with pytest.raises(MedpipeError, match="SETTING_INVALID"):
        evaluate(tmp_path, labels=tmp_path / "labels.toml")


def test_a_corpus_is_a_terminology_too(tmp_path: Path) -> None:
    known = [("Disease", "renal colic", ["M:7"]), ("Disease", "x y", ["A", "B"])]
    train = write_corpus(tmp_path / "train.jsonl", known)
    dev = write_corpus(tmp_path / "dev.jsonl", [("Disease", "Kidney colics", ["M:7"]), ("Disease", "x y", ["A"])])
    figures = evaluate_codes(dev, terminology=train)
    assert (figures["precision"], figures["recall"]) == (1, 0.5)


def test_without_any_terminology_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_icd10cm", lambda: None)
    corpus = write_corpus(tmp_path / "corpus.jsonl", MENTIONS)
    with pytest.raises(MedpipeError, match="EXTRA_MISSING"):
        evaluate_codes(corpus)


BROKEN = [
    {"type": "Disease"},
    {"type": "Disease", "spans": []},
    {"type": "Disease", "spans": [[0, 99]]},
    {"spans": [[0, 1]]},
]


@pytest.mark.parametrize("entity", BROKEN)
def test_a_broken_corpus_is_refused(entity: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "short", "entities": [entity]}))
    with pytest.raises(MedpipeError, match="CORPUS_INVALID"):
        evaluate_codes(tmp_path / "corpus.jsonl", terminology=tmp_path / "corpus.jsonl")


@pytest.mark.corpora
@pytest.mark.parametrize(("corpus", "recall"), [("bc5cdr", 0.65), ("ncbi_disease", 0.66)])
def test_precision_is_what_is_promised(corpus: str, recall: float, corpora: Path) -> None:
    figures = evaluate_codes(corpora / corpus / "dev.jsonl", terminology=corpora / corpus / "train.jsonl")
    assert figures["precision"] >= 0.8
    assert figures["recall"] >= recall
    assert figures["ece"] <= 0.05
    assert figures["near_precision"] >= 0.8


@pytest.mark.corpora
@pytest.mark.parametrize(("corpus", "terms"), [("bc5cdr", "ncbi_disease"), ("ncbi_disease", "bc5cdr")])
def test_precision_holds_where_the_terminology_lacks_most_concepts(corpus: str, terms: str, corpora: Path) -> None:
    figures = evaluate_codes(corpora / corpus / "dev.jsonl", terminology=corpora / terms / "train.jsonl")
    assert figures["known"] < 0.3
    assert figures["precision"] >= 0.8
