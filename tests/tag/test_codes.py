"""Codes where they can be given, null where not; the same whatever else is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.tag import codes as module
from medpipe.tag import terminology
from medpipe.tag.codes import (
    EXACT_FEATURES,
    NEAR_FEATURES,
    Candidates,
    CodeList,
    Coder,
    Reranker,
    code_columns,
    contradict,
    identify_codes,
    make_lists,
    make_mention,
)
from medpipe.tag.terminology import CODED, Terms

ROWS = [
    ("D1", "type 2 diabetes mellitus", ("DISEASE",), 4.0),
    ("D2", "type 1 diabetes mellitus", ("DISEASE",), 4.0),
    ("D3", "chronic kidney disease", ("DISEASE",), 4.0),
    ("D4", "acute kidney failure", ("DISEASE",), 1.0),
    ("D5", "thromboembolism", ("DISEASE",), 1.0),
    ("D6", "cold", ("DISEASE",), 1.0),
    ("D7", "cold", ("DISEASE",), 1.0),
    ("D8", "mitral stenosis", ("DISEASE",), 1.0),
    ("D8", "MS", ("DISEASE",), 1.0),
    ("S1", "knee pain", ("SYMPTOM",), 1.0),
    ("R1", "examplin", ("DRUG",), 1.0),
    ("X1", "anything", CODED, 1.0),
]


def make_terms(rows: list[tuple[str, str, tuple[str, ...], float]]) -> Terms:
    terms = Terms()
    for code, term, labels, weight in rows:
        terms.add(code, "TEST", term, labels, weight)
    return terms


@pytest.fixture
def coder() -> Coder:
    return Coder(make_terms(ROWS), Reranker.load())


def code(coder: Coder, text: str, label: str = "DISEASE") -> str | None:
    found = coder.code(text, label)
    return found.code if found else None


@pytest.mark.parametrize(
    ("text", "label", "wanted"),
    [
        ("Type II diabetes mellitus", "DISEASE", "D1"),
        ("diabetes mellitus type 1", "DISEASE", "D2"),
        ("diabetes mellitus type 3", "DISEASE", None),
        ("chronic renal disease", "DISEASE", "D3"),
        ("chronic kidney disease (CKD)", "DISEASE", "D3"),
        ("Chronic kidney failure", "DISEASE", None),  # not the acute one
        ("thrombo-embolism", "DISEASE", "D5"),
        ("cold", "DISEASE", None),  # two codes have it
        ("pain in the knee", "SYMPTOM", "S1"),
        ("knee pain", "DISEASE", None),
        ("Examplin", "DRUG", "R1"),
        ("examplin", "ANATOMY", None),
        ("anything", "DRUG", "X1"),
        ("anything", "SYMPTOM", "X1"),
        ("disease", "DISEASE", None),
        ("", "DISEASE", None),
        ("17", "DISEASE", None),
        ("…", "DISEASE", None),
        ("\x00\ud83d", "DISEASE", None),
        ("x" * 100_000, "DISEASE", None),
        ("cold " * 30, "DISEASE", None),
    ],
)
def test_codes(coder: Coder, text: str, label: str, wanted: str | None) -> None:
    assert code(coder, text, label) == wanted


def test_a_preferred_term_settles_what_two_codes_share() -> None:
    coder = Coder(make_terms([*ROWS, *[("D7", "cold", ("DISEASE",), 4.0)] * 20]), Reranker.load())
    assert code(coder, "cold") == "D7"


def test_scores_are_probabilities_and_reach_the_threshold(coder: Coder) -> None:
    for _, term, labels, _ in ROWS:
        ranked = coder.rank(term, labels[0])
        assert 0 <= sum(one.score for one in ranked) <= 1 + 1e-3
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
        given_code = coder.code(term, labels[0])
        if given_code is not None:
            assert given_code.score >= coder.reranker.threshold


def test_equal_candidates_come_in_the_order_of_their_codes(coder: Coder) -> None:
    assert [(one.code, one.score) for one in coder.rank("cold", "DISEASE")] == [
        ("D6", coder.rank("cold", "DISEASE")[0].score), ("D7", coder.rank("cold", "DISEASE")[0].score),
    ]  # fmt: skip
    turned = Coder(make_terms(ROWS[::-1]), Reranker.load())
    assert turned.rank("cold", "DISEASE") == coder.rank("cold", "DISEASE")


def test_abbreviations_of_the_note_come_before_those_of_the_terminology(coder: Coder) -> None:
    note = "Type 2 diabetes mellitus (T2DM). T2DM is stable."
    (found,) = coder.code_text(note, ["T2DM"], [note.index("T2DM is")], ["DISEASE"])
    assert found is not None and found.code == "D1"
    assert coder.code_text("T3XM is stable", ["T3XM"], [0], ["DISEASE"]) == [None]
    (plain,) = coder.code_text("MS is known", ["MS"], [0], ["DISEASE"])
    assert plain is not None and plain.code == "D8"
    note = "mild kidney scarring; chronic kidney disease (CKD)"
    assert [one.code if one else None for one in coder.code_text(note, ["CKD"], [46], ["DISEASE"])] == ["D3"]


def test_a_site_serves_its_labels_and_icd10cm_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "list.xml"
    path.write_text(
        "<t><diag><name>A00</name><desc>Examplitis</desc></diag><diag><name>R00</name><desc>Knee pain</desc></diag></t>"
    )
    site = make_terms([row for row in ROWS if row[2] == ("SYMPTOM",)])
    coder = Coder(site, Reranker.load(), icd10cm=path)
    assert "DISEASE" not in coder.lists  # read when it is needed
    assert code(coder, "Examplitis", "SYMPTOM") is None
    assert code(coder, "knee pain", "SYMPTOM") == "S1"
    assert code(coder, "Examplitis") == "A00"
    assert code(coder, "knee pain") == "R00"
    assert code(coder, "Examplitis", "DRUG") is None


def test_without_a_terminology_there_are_no_codes() -> None:
    coder = Coder.load()
    assert coder.code_text("knee pain", ["knee pain"], [0], ["SYMPTOM"]) == [None]
    nought = np.zeros(1, dtype=np.int64)
    columns = code_columns(None, ["x"], nought, nought, pa.array(["x"]), nought, ["DISEASE"])
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "code_system": [None], "code": [None], "code_score": [None],
    }  # fmt: skip


MENTIONS = st.sampled_from([term for _, term, _, _ in ROWS]) | st.text(alphabet="kidney chroaut-()12", max_size=30)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(MENTIONS, st.sampled_from([*CODED, "TEST"])), max_size=8))
def test_a_mention_has_the_same_code_whatever_is_asked_before(asked: list[tuple[str, str]]) -> None:
    shared = SHARED
    together = [shared.code(text, label) for text, label in asked]
    alone = Coder(make_terms(ROWS), Reranker.load())
    assert together[::-1] == [alone.code(text, label) for text, label in reversed(asked)]
    assert all(found is None or 0 <= found.score <= 1 for found in together)


SHARED = Coder(make_terms(ROWS), Reranker.load())


def test_memory_of_mentions_is_bounded(coder: Coder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 5)
    first = [coder.code(f"kidney pain {number}", "DISEASE") for number in range(20)]
    assert len(coder.known) <= 5
    assert first == [coder.code(f"kidney pain {number}", "DISEASE") for number in range(20)]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("type 1 diabetes", "type 2 diabetes", True),
        ("type 1 diabetes", "diabetes", False),
        ("acute pancreatitis", "chronic pancreatitis", True),
        ("acute pancreatitis", "pancreatitis", False),
        ("hyperkalemia", "hypokalemia", True),
        ("hypokalemia", "hyperkalemia", True),
        ("dementia without delirium", "dementia delirium", True),
        ("left arm pain", "right arm pain", True),
        ("hepatitis B", "hepatitis C", True),
        ("hypertension", "tension", False),
    ],
)
def test_terms_that_contradict(one: str, other: str, wanted: bool) -> None:
    left, right = make_mention(one), make_mention(other)
    assert left is not None and right is not None
    assert contradict(set(left.words), set(right.words)) is wanted


def test_probabilities_are_those_of_a_conditional_logit() -> None:
    random = np.random.default_rng(1)
    reranker = Reranker(random.normal(size=len(EXACT_FEATURES)), random.normal(size=len(NEAR_FEATURES)), 0.5)
    for exact, names in ((True, EXACT_FEATURES), (False, NEAR_FEATURES)):
        features = random.normal(size=(4, len(names)))
        odds = np.exp(features @ (reranker.exact if exact else reranker.near))
        found = reranker.probabilities(Candidates(np.arange(4), features, exact))
        assert np.allclose(found, odds / (1 + odds.sum()))
    huge = reranker.probabilities(Candidates(np.arange(1), np.full((1, len(EXACT_FEATURES)), 1e4), True))
    assert np.isfinite(huge).all()


def test_near_candidates_never_have_all_words_and_hidden_codes_are_hidden() -> None:
    lists = make_lists(make_terms(ROWS))
    mention = make_mention("renal failure, acute")
    assert mention is not None
    near = lists["DISEASE"].find_near(mention)
    assert near is None or "D4" not in {lists["DISEASE"].codes[one][1] for one in near.codes}
    mention = make_mention("kidney failure")
    assert mention is not None
    near = lists["DISEASE"].find_near(mention)
    assert near is not None
    assert "D4" in {lists["DISEASE"].codes[one][1] for one in near.codes}
    assert near.features.shape == (len(near.codes), len(NEAR_FEATURES))
    hidden = lists["DISEASE"].find_near(mention, hidden={"D4"})
    assert hidden is None or "D4" not in {lists["DISEASE"].codes[one][1] for one in hidden.codes}


def test_labels_with_the_same_terms_share_a_list() -> None:
    lists = make_lists(make_terms([("X", "a b", ("DISEASE", "SYMPTOM"), 1.0)]))
    assert lists["DISEASE"] is lists["SYMPTOM"]
    assert "DRUG" not in lists
    assert isinstance(lists["DISEASE"], CodeList)


def test_weights_are_complete_and_the_threshold_is_a_probability() -> None:
    raw = json.loads(module.WEIGHTS_FILE.read_text())
    assert tuple(raw["exact"]) == EXACT_FEATURES
    assert tuple(raw["near"]) == NEAR_FEATURES
    assert 0.5 <= raw["threshold"] < 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"threshold": "x"}'])
def test_broken_weights_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text(content)
    with pytest.raises(MedpipeError) as caught:
        Reranker.load(tmp_path / "codes.json")
    assert caught.value.code == "MODEL_INVALID"


def test_identity_of_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminology, "find_icd10cm", lambda: None)
    assert identify_codes([]) == []
    (tmp_path / "t.csv").write_text("code,system,term\nA,B,c\n")
    one = identify_codes([tmp_path / "t.csv"])
    (tmp_path / "t.csv").write_text("code,system,term\nA,B,d\n")
    assert len(one) == 2 and identify_codes([tmp_path / "t.csv"])[0] != one[0]
