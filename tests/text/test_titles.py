"""Titles of sections: the table, LOINC codes, titles with words around them."""

from __future__ import annotations

import pytest

from medpipe.text.titles import LOINC, normal, read_title, section_name, table

# Canonical names that were published before sections nested: readers of the tables rely on them.
KEPT = """chief_complaint reason_for_admission history_of_present_illness past_medical_history past_surgical_history
    medications discharge_medications allergies family_history social_history immunizations review_of_systems
    vital_signs physical_exam results imaging technique comparison indication findings impression assessment
    assessment_and_plan plan hospital_course discharge_diagnosis discharge_instructions discharge_condition follow_up
    operation preoperative_diagnosis postoperative_diagnosis specimen""".split()  # noqa: SIM905


def test_names_stay() -> None:
    assert set(KEPT) <= table().kinds.keys()


def check_digit(number: str) -> int:
    """The check digit of a LOINC code: that of Luhn, modulo 10."""
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(number))]
    return -sum(value - 9 if value > 9 else value for value in doubled) % 10


def test_codes_are_well_formed() -> None:
    codes = [code for code in table().codes if LOINC.fullmatch(code)]
    assert len(codes) > 100
    for code in codes:
        number, digit = code.split("-")
        # 8709-8 is what the C-CDA sample documents write for the skin.
        assert check_digit(number) == int(digit), code


def test_inside_names_sections() -> None:
    known = table()
    for kind in known.kinds.values():
        assert kind.inside <= known.kinds.keys(), kind.name
        assert kind.inside or not kind.part, kind.name
    for around in known.parts.values():
        assert around.keys() <= known.kinds.keys()
    assert all(title == normal(title) for title in known.all)


@pytest.mark.parametrize(
    ("title", "code", "expected"),
    [
        ("Chief Complaint", None, ("chief_complaint", "10154-3")),
        ("ALLERGIES, ADVERSE REACTIONS, ALERTS", "48765-2", ("allergies", "48765-2")),
        (None, "11450-4", ("problems", "11450-4")),
        ("Whatever it says", "8716-3", ("vital_signs", "8716-3")),
        ("Encounter Diagnosis", "46241-6", ("reason_for_admission", "46241-6")),
        ("Health Concerns Section", None, ("health_concerns", "75310-3")),
        ("HOSPITAL DISCHARGE MEDICATIONS", " 10183-2 ", ("discharge_medications", "10183-2")),
        ("Discharge Labs:", None, ("results", "30954-2")),
        ("Problem List (Active)", None, ("problems", "11450-4")),
        ("1. Plan of Care", None, ("other", None)),  # numbers are the business of whoever reads lines
        ("Family and Social History", None, ("social_history", "29762-2")),
        ("IMPRESSION/REPORT/PLAN", None, ("impression", "19005-8")),
        ("Assessment & Plan", None, ("assessment_and_plan", "51847-2")),
        ("A / P", None, ("assessment_and_plan", "51847-2")),
        ("Lungs", None, ("respiratory", "10207-9")),
        ("Reason for Visit", "29299-5", ("reason_for_visit", "29299-5")),
        ("Notes", "11506-3", ("notes", "11506-3")),
        ("Findings", "121070", ("findings", "59776-5")),  # DICOM: the code of the name instead
        ("Plan", "99999-9", ("plan", "99999-9")),
        ("Cardiac Rehabilitation", "12345-6", ("other", "12345-6")),
        ("Cardiac Rehabilitation", None, ("other", None)),
        ("  ", "", ("other", None)),
        (None, None, ("other", None)),
        ("x" * 10_000, None, ("other", None)),
        ("::", None, ("other", None)),
    ],
)
def test_section_name(title: str | None, code: str | None, expected: tuple[str, str | None]) -> None:
    assert section_name(title, code) == expected


def test_words_say_whether_an_unknown_title_is_one() -> None:
    assert read_title("NEUROLOGIC STATUS").unknown and read_title("NEUROLOGIC STATUS").medical
    assert not read_title("DR. SMITH").unknown
    assert not read_title("JANE ROE, MD").unknown
    assert not read_title("CONFIDENTIAL").unknown
    assert read_title("DATE OF BIRTH").field
    assert read_title("DAY 3").field
    assert read_title("Medications\tDose").columns
