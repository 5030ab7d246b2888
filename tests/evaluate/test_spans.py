"""Scores by hand, and the maps between a corpus's types and a model's labels."""

from pathlib import Path

import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import corpus_name, find_inner, find_label_map, find_style, make_label_map, score_spans
from medpipe.learn.corpora import AnnotatedDocument
from medpipe.records import Entity


def test_scores_by_hand():
    gold = [{(0, 4, "A"), (5, 9, "A"), (5, 7, "B")}, {(0, 2, "B")}]
    predicted = [{(0, 4, "A"), (5, 8, "A"), (5, 7, "B")}, {(0, 2, "A")}]
    result = score_spans(gold, predicted)
    assert result["micro"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 4}
    assert result["labels"]["A"] == {
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "f1": pytest.approx(0.4),
        "support": 2,
    }
    assert result["labels"]["B"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    # (5, 7, B) lies in another entity on both sides.
    assert result["nested"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}


def test_nothing_predicted_and_nothing_annotated():
    zero = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert score_spans([], []) == {"micro": zero, "labels": {}, "nested": zero}
    assert score_spans([{(0, 1, "A")}], [set()])["micro"] == zero | {"support": 1}


def test_inner_entities():
    outer, inner, same, crossing, apart = (0, 9, "A"), (2, 5, "A"), (2, 5, "B"), (4, 12, "A"), (20, 21, "A")
    assert find_inner({outer, inner, crossing, apart}) == {inner}
    assert find_inner({outer, inner, same}) == {inner, same}
    assert find_inner({inner, same}) == {inner, same}
    assert find_inner({outer, (0, 9, "B"), (0, 3, "A")}) == {outer, (0, 9, "B"), (0, 3, "A")}


def make_document():
    entities = (
        Entity(0, 4, "pain", "Disease"),
        Entity(5, 12, "aspirin", "Chemical"),
        Entity(13, 16, "ECG", "Other"),
        Entity(17, 30, "", "Disease", fragments=((17, 20), (25, 30))),
    )
    return AnnotatedDocument("d", "x" * 40, entities, (), {})


def test_style_is_that_of_the_corpus_or_the_first():
    config = {"styles": ["clinical", "letter"], "corpora": [{"folder": "a"}, {"folder": "b", "style": "letter"}]}
    assert find_style(Path("b/dev.jsonl"), config, None) == 1
    assert find_style(Path("a/dev.jsonl"), config, None) == find_style(Path("c/dev.jsonl"), config, None) == 0
    assert find_style(Path("b/dev.jsonl"), config, "clinical") == 0
    with pytest.raises(MedpipeError, match="clinical, letter"):
        find_style(Path("b/dev.jsonl"), config, "poem")


def test_map_drops_types_on_both_sides():
    label_map = make_label_map({"Disease": "DISEASE", "Chemical": "DRUG"}, None, {})
    assert label_map.map_gold(make_document()) == {(0, 4, "DISEASE"), (5, 12, "DRUG"), (17, 30, "DISEASE")}
    assert label_map.map_predicted([(0, 4, "DISEASE"), (13, 16, "TEST")]) == {(0, 4, "DISEASE")}


def test_either_part_counts_as_the_whole():
    label_map = make_label_map({"Disease": "CONDITION"}, None, {"CONDITION": ["DISEASE", "SYMPTOM"]})
    found = [(0, 4, "DISEASE"), (0, 4, "SYMPTOM"), (17, 30, "SYMPTOM"), (5, 12, "DRUG")]
    assert label_map.map_predicted(found) == {(0, 4, "CONDITION"), (17, 30, "CONDITION")}


def test_map_of_a_file_of_the_config_or_identity(tmp_path):
    config = {
        "corpora": [{"folder": "known", "labels": {"Disease": "DISEASE"}, "annotates": ["DISEASE"]}],
        "auxiliary": {},
    }
    known = find_label_map(tmp_path / "known" / "dev.jsonl", config, None)
    assert known.map_gold(make_document()) == {(0, 4, "DISEASE"), (17, 30, "DISEASE")}
    unknown = find_label_map(tmp_path / "unknown" / "dev.jsonl", config, None)
    assert len(unknown.map_gold(make_document())) == 4
    renamed = find_label_map(tmp_path / "unknown" / "dev.jsonl", config, None, frozenset({"Disease"}))
    assert renamed.map_gold(make_document()) == known.map_gold(make_document())
    other = find_label_map(tmp_path / "unknown" / "dev.jsonl", config, None, frozenset({"Disease", "Chemical"}))
    assert len(other.map_gold(make_document())) == 4
    given = tmp_path / "map.toml"
    given.write_text('annotates = ["DRUG", "TEST"]\n[labels]\nChemical = "DRUG"\n')
    mapped = find_label_map(tmp_path / "known" / "dev.jsonl", config, given)
    assert mapped.map_gold(make_document()) == {(5, 12, "DRUG")}
    assert mapped.map_predicted([(13, 16, "TEST"), (0, 4, "DISEASE")]) == {(13, 16, "TEST")}


@pytest.mark.parametrize("text", ["labels = 3", "x = 1", "[[[", None])
def test_a_map_that_is_none(tmp_path, text):
    given = tmp_path / "map.toml"
    if text is not None:
        given.write_text(text)
    with pytest.raises(MedpipeError, match="CONFIG_INVALID"):
        find_label_map(tmp_path / "dev.jsonl", {}, given)


def test_a_corpus_is_known_by_its_folder_or_its_name(tmp_path):
    known = ["bc5cdr", "raredis", "raredis_full"]
    assert corpus_name(tmp_path / "raredis" / "test.jsonl", known) == "raredis"
    assert corpus_name(tmp_path / "bc5cdr" / "sealed" / "raredis.jsonl", known) == "bc5cdr"
    assert corpus_name(tmp_path / "raredis_full_test.jsonl", known) == "raredis_full"
    assert corpus_name(tmp_path / "notes.jsonl", known) is None
