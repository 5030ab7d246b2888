"""Sections: headings as clinicians write them, canonical names, the whole text covered."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.text.sections import HEADINGS, NAMES, find_sections


def names(text: str) -> list[str]:
    return [section.name for section in find_sections(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HISTORY OF PRESENT ILLNESS:\nCough.\nPLAN: Rest.", ["history_of_present_illness", "plan"]),
        ("Chief Complaint\nCough\n\nAssessment and Plan\nRest", ["chief_complaint", "assessment_and_plan"]),
        ("## Impression\nNormal.\n**Plan:** none", ["impression", "plan"]),
        ("She came by car.\nPMH: asthma", ["body", "past_medical_history"]),
        ("Lungs clear. IMPRESSION: Normal.", ["body", "impression"]),
        ("1. Allergies: none\n2. Medications: none", ["allergies", "medications"]),
        ("NEUROLOGIC STATUS:\nalert", ["other"]),
        ("Her plan is to go home.\nThe findings: normal", ["body"]),
        ("  \nPLAN: rest", ["plan"]),
        ("ALLERGIES:\nPLAN:\n", ["allergies", "plan"]),
        ("Assessment\r\nAsthma\r\nPlan\r\nRest\r\n", ["assessment", "plan"]),
        ("no headings at all", ["body"]),
        ("", []),
    ],
)
def test_headings(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_title_body_and_code() -> None:
    body, plan = find_sections("Seen today.\n**Plan:** rest")
    assert (body.title, body.code) == (None, None)
    assert (plan.title, plan.code, plan.name) == ("Plan", "18776-5", "plan")
    assert "Seen today.\n**Plan:** rest"[plan.body_start :] == " rest"


PIECES = st.lists(
    st.sampled_from(
        [
            "PLAN:",
            "Impression",
            "\n",
            " ",
            "cough. ",
            "HPI: ",
            "## ",
            "**",
            "ABC DEF",
            "\r\n",
            "🤒",
            "x" * 90,
            "CC:",
            ".",
        ]
    )
)


@given(st.one_of(PIECES.map("".join), st.text()))
def test_sections_cover_the_text(text: str) -> None:
    sections = find_sections(text)
    assert bool(sections) == bool(text)
    if sections:
        assert sections[0].start == 0 and sections[-1].end == len(text)
    assert all(one.end == two.start for one, two in pairwise(sections))
    for section in sections:
        assert section.start <= section.body_start <= section.end
        if section.title is not None:
            assert section.title in text[section.start : section.body_start]


def test_table_of_headings() -> None:
    assert len(NAMES) == sum(len(headings.split("|")) for _, headings in HEADINGS.values()), "a heading stands twice"
    codes = [code for code, _ in HEADINGS.values() if code]
    assert len(codes) == len(set(codes))
