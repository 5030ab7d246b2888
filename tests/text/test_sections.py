"""Sections: headings as clinicians write them, canonical names, nesting, and what is no heading."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.records import Section
from medpipe.text.sections import find_sections, is_part, telling_names


def names(text: str) -> list[str]:
    return [section.name for section in find_sections(text)]


def outline(text: str) -> list[str]:
    """The names of the sections, two blanks before those one level below."""
    sections = find_sections(text)
    depths: list[int] = []
    for section in sections:
        depths.append(0 if section.parent is None else depths[section.parent] + 1)
    return ["  " * depth + section.name for depth, section in zip(depths, sections, strict=True)]


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
        # Forms of headings
        ("Physical Exam: Well.\nDischarge Labs: sodium normal", ["physical_exam", "results"]),
        ("**Plan**: rest\n__Allergies__\nnone\n*Medications:* none", ["plan", "allergies", "medications"]),
        ("Plan\n----\nRest\n\nAllergies\n=========\nnone", ["plan", "allergies"]),
        ("--- ALLERGIES ---\nnone\n=== Plan ===\nrest\n***** CARDIAC REHAB *****\nnone", ["allergies", "plan", "other"]),
        ("-------\nMedications\n\n-------\nnone\n", ["medications"]),
        ("[Chief Complaint]\nCough\n[PLAN]:\nRest", ["chief_complaint", "plan"]),
        ("PMH - nil\nFamily History – nil of note\nPlan - rest", ["past_medical_history", "family_history"]),
        ("IV. PLAN\nrest\nB. ALLERGIES: none\n2) Medications: none", ["plan", "allergies", "medications"]),
        ("CHIEF COMPLAINT :\nCough\nHPI\n She coughs", ["chief_complaint", "history_of_present_illness"]),
        ("S: Coughs.\nO: BP 120/80\nA: Cold\nP: Rest", ["subjective", "objective", "assessment", "plan"]),
        ("hpi: coughs for a week\n\nsocial history: smokes", ["history_of_present_illness", "social_history"]),
        ("\u2028PLAN:\x0bRest\x0cALLERGIES:\u2029none", ["plan", "allergies"]),
        # Notes without line ends
        ("CC: Cough. PAST MEDICAL HISTORY: Asthma.  PLAN: Rest.", ["chief_complaint", "past_medical_history", "plan"]),
        ("Chief Complaint: cough. Past Medical History: asthma. Plan: rest", ["chief_complaint", "past_medical_history"]),
        ("HISTORY: CHIEF COMPLAINT: Cough.", ["history_of_present_illness", "chief_complaint"]),
    ],
)  # fmt: skip
def test_headings(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Aspirin: 81 mg\nMetformin: 500 mg twice daily",
        "ASPIRIN: 81 mg\nLISINOPRIL: take one tablet every day\nMETFORMIN: take two tablets every day",
        "BP: 120/80\nP: 80\nTemp: 98.6\nPULSE: 80\nWEIGHT: 80 kg\nO2 SAT: 98 %",
        "Name\tMedications\tDose\nAllergies\tnone\t-\n",
        "Medications | Dose\nAllergies | none\nProcedure: Colonoscopy | 2015 | done",
        "[doctor] how are you ?\n[patient] my plan : rest .\n[nurse] okay",
        "Doctor: And the history?\nPatient: Long.\nDR. ROE: SO WHAT IS THE PLAN TODAY THEN\nPATIENT: I HAVE NO PLAN AT ALL",
        "Patient Name: Jane Roe\nDate of Birth: 01/02/1950\nMRN: 12345\nAttending Physician: J. Roe, MD",
        "PATIENT NAME: JANE ROE\nDATE OF SERVICE: 01/02/2020\nADMISSION DATE: 01/02/2020\nDICTATED BY: J. ROE",
        "JANE ROE, MD\n\nJANE ROE\n\nTuesday\n\nMARCH 2020\n\nPage 1 of 2",
        "THE PATIENT IS WELL\nSHE HAS NO COMPLAINTS OF NOTE\nSHE WILL RETURN IN A WEEK\nWITH HER DAUGHTER\nJ. ROE",
        "- rest\n- fluids\n* Labs: ordered\n1. Aspirin 81 mg\n2. We will see her in a week.",
        "12/05/2020: called\n2020-12-05: called again\n10:30: seen",
        "She was told of the plan\nand of the results: they were normal.",
        "Type: Condition\nTreatment: Avoidance\nSeverity: Severe\nDiagnosis: Yes\nOnset: 2010",
        "CC: Dr. Roe\n\nC.C.: J. Smith, M.D.",
        "------\nName   Dose\n------\nNaming   81",
        "[NAME] was seen on [DATE].\n[REDACTED]\n",
        "WARNING:\nCONFIDENTIAL\n***** CONFIDENTIAL *****\n",
        "Thank you for this referral\n---\nJane Roe\n---\n",
    ],
)
def test_no_headings(text: str) -> None:
    assert names(text) == ["body"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "PHYSICAL EXAM:\nVITAL SIGNS: stable\nHEENT: normal. Lungs: clear.\n  Heart: regular\nRIGHT GROIN: Dry and intact\nPLAN: rest",
            ["physical_exam", "  vital_signs", "  heent", "  respiratory", "  cardiovascular", "  other", "plan"],
        ),
        ("Review of Systems\n• Eyes: well\nNeurological\nwell\nExam\nLungs - clear", ["review_of_systems", "  eyes", "  neurologic", "physical_exam", "  respiratory"]),
        ("ASSESSMENT AND PLAN\n1. Asthma: stable\n2. Gout\nColchicine.\nPLAN: as above", ["assessment_and_plan", "  problem", "  problem", "  plan"]),
        ("A/P:\n#Asthma: stable\n# Gout\n- colchicine\n#3 Obesity\n", ["assessment_and_plan", "  problem", "  problem", "  problem"]),
        ("PLAN\n\nHeart failure.\n• Lasix daily\n\nGout\nShe will take colchicine for a week.\n", ["plan", "  problem", "  problem"]),
        ("PLAN\n1. Rest and fluids.\n2. Return in a week.\n3. Aspirin: 81 mg", ["plan"]),
        ("# Note\n## HPI\ncough\n## Exam\n### Lungs\nclear\n**Heart:** regular\n# Letter\ntext", ["other", "  history_of_present_illness", "  physical_exam", "    other", "    cardiovascular", "other"]),
        ("PAST HISTORY\n\nMedical\nAsthma\n\nSurgical\nnone\n\nSOCIAL HISTORY\n\nTobacco: never\nAlcohol: never", ["past_medical_history", "  past_medical_history", "  past_surgical_history", "social_history", "  tobacco_use", "  alcohol_use"]),
        ("SUBJECTIVE:\nCC: cough\nHPI: a week\nOBJECTIVE:\nVitals: stable\nPE: well\nLungs: clear\nASSESSMENT: cold", ["subjective", "  chief_complaint", "  history_of_present_illness", "objective", "  vital_signs", "  physical_exam", "    respiratory", "assessment"]),
        ("DISCHARGE INSTRUCTIONS:\n1. Diet: low salt\n2. Follow-up: in a week\nALLERGIES: none", ["discharge_instructions", "  nutrition", "  follow_up", "allergies"]),
        ("Past Medical History:\n    Past Surgical History:\n        none\n    Allergies:\n        none\nPlan:\n    rest", ["past_medical_history", "  past_surgical_history", "  allergies", "plan"]),
        ("--- RESULTS ---\nIMAGING:\nnormal\n\nMY CARE TEAM\n------------\nDr. Roe\n--- PLAN ---\nrest", ["results", "  imaging", "  care_team", "plan"]),
        ("RESULTS\n\nLabs: normal\nCT: normal\n\nMEDICATIONS\nMEDICATIONS\nnone", ["results", "  results", "  imaging", "medications", "  medications"]),
        ("PHYSICAL EXAM\n\nLungs clear.\n\nVITALS\n\nstable", ["physical_exam", "vital_signs"]),
        ("VITALS: stable\nGeneral: well\nLUNGS: clear", ["vital_signs", "general", "respiratory"]),
    ],
)  # fmt: skip
def test_nesting(text: str, expected: list[str]) -> None:
    assert outline(text) == expected


def test_title_body_and_code() -> None:
    text = "Seen today.\n**Plan:** rest"
    body, plan = find_sections(text)
    assert (body.title, body.code) == (None, None)
    assert (plan.title, plan.code, plan.name) == ("Plan", "18776-5", "plan")
    assert text[plan.body_start :] == " rest"


@pytest.mark.parametrize(
    ("text", "heading", "title"),
    [
        ("x\n\n  2. ALLERGIES : none", "2. ALLERGIES :", "ALLERGIES"),
        ("x\n== Plan ==\nrest", "== Plan ==", "Plan"),
        ("x\n-----\nAllergies\n\n-----\nnone", "-----\nAllergies\n\n-----", "Allergies"),
        ("x\n\nPlan\r\n----\r\nrest", "Plan\r\n----", "Plan"),
        ("x\n- **Plan**: rest", "- **Plan**:", "Plan"),
        ("x. **PAST MEDICAL HISTORY**: none", "PAST MEDICAL HISTORY**:", "PAST MEDICAL HISTORY"),
        ("🤒 x\n### Plan ###\nrest", "### Plan ###", "Plan"),
    ],
)
def test_where_headings_stand(text: str, heading: str, title: str) -> None:
    section = find_sections(text)[1]
    assert text[section.start : section.body_start] == heading
    assert section.title == title


def test_codes_of_body_systems_are_those_of_findings() -> None:
    ros, lungs, exam, heart = find_sections("ROS:\nLungs: well\nEXAM:\nHeart: regular")
    assert (ros.code, lungs.code, exam.code, heart.code) == ("10187-3", None, "29545-1", "10200-4")


def test_what_a_part_says_comes_from_the_section_around_it() -> None:
    sections = [
        Section("family_history", 0, 50, 15),
        Section("other", 15, 30, 20, parent=0),
        Section("problem", 20, 30, 22, parent=1),
        Section("medications", 30, 50, 35, parent=0),
        Section("other", 50, 60, 55),
    ]
    assert telling_names(sections) == ["family_history"] * 3 + ["medications", "other"]
    assert is_part("respiratory") and is_part("other") and not is_part("plan")


PIECES = st.lists(
    st.sampled_from(
        [
            *("PLAN:", "Impression", "\n", " ", "cough. ", "HPI: ", "## ", "# ", "**", "ABC DEF", "\r\n", "🤒", "x" * 90),
            *("CC:", ".", "PHYSICAL EXAM:\n", "Lungs: ", "1. ", "- ", "----\n", "====\n", "--- ", " ---", "[Plan]", "\t"),
            *("ASSESSMENT AND PLAN\n", "Asthma\n", "\n\n", "    ", "S:", "O:", "A:", "P:", "RESULTS\n", "Labs: ", "|", "\x0b"),
            *("Subjective:\n", "___", "*Plan*", "SOCIAL HISTORY: ", "Tobacco: ", ", "),
        ]
    )
)  # fmt: skip


@given(st.one_of(PIECES.map("".join), st.text()))
def test_sections_cover_the_text_and_nest(text: str) -> None:
    sections = find_sections(text)
    assert bool(sections) == bool(text)
    outer = [section for section in sections if section.parent is None]
    if outer:
        assert outer[0].start == 0 and outer[-1].end == len(text)
    assert all(one.end == two.start for one, two in pairwise(outer))
    assert all(one.start < two.start for one, two in pairwise(sections))
    for number, section in enumerate(sections):
        assert section.start <= section.body_start <= section.end
        if section.title is not None:
            assert section.title in text[section.start : section.body_start]
            assert section.title == section.title.strip() != ""
        if section.parent is not None:
            assert section.parent < number
            parent = sections[section.parent]
            assert parent.body_start <= section.start <= section.end <= parent.end
    for one in sections:  # those of one parent follow each other
        children = [section for section in sections if section.parent is not None and sections[section.parent] is one]
        assert all(a.end == b.start for a, b in pairwise(children))
        assert not children or children[-1].end == one.end


HOSTILE = {
    "capitals": "A" * 100_000,
    "blanks": " " * 100_000,
    "colons": ":" * 100_000,
    "hashes": "#" * 100_000,
    "hash lines": "# \n" * 33_000,
    "headings": "PLAN\n" * 20_000,
    "headings in a line": "PLAN: " * 16_000,
    "sentences": ". PLAN:" * 14_000,
    "commas": ", PAST MEDICAL HISTORY:" * 4_000,
    "boxes": "---\nABCD\n---\n" * 8_000,
    "frames": "- " * 50_000,
    "problems": "PLAN:\n" + "1. Asthma\n text\n" * 6_000,
    "ever deeper": "".join(" " * depth + "Plan:\n" for depth in range(440)),
    "parts": "PHYSICAL EXAM:\n" + "Lungs: clear. Heart: ok\n" * 4_000,
    "fields": "Ab cd:\n" * 14_000,
    "brackets": "(" * 50_000 + ")" * 50_000,
    "tables": ("x" + " " * 70 + "|") * 1_300,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_work_is_linear(kind: str) -> None:
    began = time.process_time()
    find_sections(HOSTILE[kind])
    assert time.process_time() - began < 2  # seconds for 100,000 characters; none takes more than a fifth of one
