"""Definitions of abbreviations, after the cases of Schwartz and Hearst; all texts are invented."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.tag.abbreviations import (
    Abbreviations,
    common_abbreviations,
    expand_mentions,
    find_definitions,
    match_long_form,
)

DEFINED = [
    ("She has chronic kidney disease (CKD).", "CKD", "chronic kidney disease"),
    ("History of congestive heart failure [CHF].", "CHF", "congestive heart failure"),
    ("Seen for COPD (chronic obstructive pulmonary disease).", "COPD", "chronic obstructive pulmonary disease"),
    ("the gamma-glutamyl transferase (GGT) was high", "GGT", "gamma-glutamyl transferase"),
    ("ataxia-telangiectasia (A-T)", "A-T", "ataxia-telangiectasia"),
    ("Type 2 diabetes mellitus (T2DM; since 2010)", "T2DM", "Type 2 diabetes mellitus"),
    ("She denies pain. Deep vein thrombosis (DVT, left)", "DVT", "Deep vein thrombosis"),
    ("known coronary artery disease ( CAD )", "CAD", "coronary artery disease"),
    ("heat shock transcription factor (HSF)", "HSF", "heat shock transcription factor"),
    ("transient ischemic attacks (TIAs)", "TIAs", "transient ischemic attacks"),
]


@pytest.mark.parametrize(("text", "short", "long"), DEFINED)
def test_a_definition_is_found(text: str, short: str, long: str) -> None:
    (found,) = find_definitions(text)
    assert (found.short, found.long) == (short, long)


@pytest.mark.parametrize(
    "text",
    [
        "pain in the knee (see below)",
        "fever (38.5 C)",
        "seen by the team (Dr. Example)",
        "a fracture (left)",
        "the disease. (CKD)",  # nothing before it in its sentence
        "(CKD)",
        "the CKD (CKD)",
        "kidney disease (XYZ)",
        "she takes one (1)",
        "()",
        "((((",
        "chronic kidney\n\ndisease (CKD",
    ],
)
def test_no_definition(text: str) -> None:
    assert find_definitions(text) == []


def test_the_long_form_is_the_shortest_that_has_the_letters() -> None:
    text = "continued care of chronic kidney disease (CKD)"
    assert find_definitions(text)[0].long == "chronic kidney disease"


def test_letters_are_found_from_the_right_and_the_first_begins_a_word() -> None:
    assert match_long_form("ckd", "acute chronic kidney disease") == 6
    assert match_long_form("cd", "acd") is None
    assert match_long_form("", "abc") is None
    assert match_long_form("abc", "") is None


def test_a_definition_in_another_sentence_does_not_count() -> None:
    assert find_definitions("A chronic state. Has kidney disease (CKD)") == []


def test_the_last_definition_before_a_mention_counts_else_the_first_behind() -> None:
    text = "MS. mitral stenosis (MS) and MS, then multiple sclerosis (MS) and MS"
    abbreviations = Abbreviations(text)
    assert abbreviations.meaning("MS", 0) == "mitral stenosis"
    assert abbreviations.meaning("MS", text.index("MS,")) == "mitral stenosis"
    assert abbreviations.meaning("MS", len(text) - 2) == "multiple sclerosis"
    assert abbreviations.meaning("XKD", 5) is None
    assert abbreviations.meaning("ms", 5) is None


def test_a_mention_is_expanded_word_by_word() -> None:
    text = "chronic kidney disease (CKD) and CKD stage 3, CKDs, pre-CKD"
    mentions = ["CKD stage 3", "CKDs", "pre-CKD", "kidney"]
    starts = [text.index("CKD stage"), text.index("CKDs"), text.index("pre-CKD"), text.index("kidney")]
    assert expand_mentions(text, mentions, starts) == [
        "chronic kidney disease stage 3", "chronic kidney disease", "pre-CKD", "kidney",
    ]  # fmt: skip
    assert expand_mentions("XKD", ["XKD"], [0]) == ["XKD"]


def test_common_abbreviations_need_no_definition_but_yield_to_one() -> None:
    assert expand_mentions("HTN, TIAs", ["HTN", "TIAs"], [0, 5]) == ["hypertension", "transient ischemic attack"]
    assert expand_mentions("hereditary telangiectatic nodes (HTN)", ["HTN"], [0]) == ["hereditary telangiectatic nodes"]
    assert expand_mentions("nodes of some kind (HTN)", ["HTN"], [0]) == ["HTN"]  # defined, but not understood
    assert expand_mentions("htn", ["htn"], [0]) == ["htn"]


def test_common_abbreviations_are_short_forms() -> None:
    for short, long in common_abbreviations().items():
        assert 2 <= len(short) <= 7 and " " not in short
        assert len(long) > len(short) and long.strip() == long


PIECES = [
    "chronic",
    "kidney",
    "disease",
    "(CKD)",
    "(",
    ")",
    "[",
    "]",
    "CKD (",
    "İ",
    "ß",
    ".",
    "; ",
    "\n",
    "A",
    "(AB; c)",
]


@given(st.lists(st.sampled_from(PIECES)).map(" ".join) | st.text(alphabet="aAbB (){}[]-.;1İß", max_size=60))
def test_forms_are_slices_of_the_text(text: str) -> None:
    for found in find_definitions(text):
        assert text[found.short_start : found.short_start + len(found.short)] == found.short
        assert text[found.long_start : found.long_start + len(found.long)] == found.long
        assert len(found.long) > len(found.short)


@pytest.mark.parametrize(
    "piece", ["(", "(A", "(AB)", "a a a (AAA) ", "A(", "AB (", "(((((AB)))))", "[(", "A-", "\u0130 (I\u0130I) "]
)
def test_a_hostile_note_takes_no_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    expand_mentions(text, [text], [0])
    assert time.process_time() - started < 5
