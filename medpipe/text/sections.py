"""Sections of a note: headings on a line of their own or before a colon, with canonical names.

A heading is known (a table of clinical headings, with LOINC codes of C-CDA R2.1 sections where they exist) in any
casing where it begins a line and ends with a colon or with the line, and in capitals with a colon anywhere in a line;
or it is unknown, in capitals, on a line of its own or with a colon at its beginning: then its name is ``other``.
Sections do not nest yet; together they cover the text.
"""

from __future__ import annotations

import re
from itertools import pairwise

from medpipe.records import Section

# name: (LOINC code, headings)
HEADINGS: dict[str, tuple[str | None, str]] = {
    "chief_complaint": (
        "10154-3",
        "chief complaint|cc|presenting complaint|reason for visit|reason for consultation|presenting problem",
    ),
    "reason_for_admission": (
        "46241-6",
        "reason for admission|admission diagnosis|admitting diagnosis|admission diagnoses",
    ),
    "history_of_present_illness": (
        "10164-2",
        "history of present illness|hpi|history of the present illness|present illness|history of presenting complaint|"
        "interval history|subjective|history",
    ),
    "past_medical_history": (
        "11348-0",
        "past medical history|pmh|pmhx|medical history|past history|previous medical history|past medical and surgical history|history of past illness|"
        "comorbidities|problem list|active problems|past medical problems",
    ),
    "past_surgical_history": ("47519-4", "past surgical history|psh|surgical history|prior surgeries|procedures"),
    "medications": (
        "10160-0",
        "medications|current medications|home medications|medication list|meds|medications on admission|admission medications|"
        "outpatient medications|medications prior to admission",
    ),
    "discharge_medications": ("10183-2", "discharge medications|medications on discharge|medications at discharge"),
    "allergies": ("48765-2", "allergies|allergies and adverse reactions|drug allergies|allergy|adverse reactions"),
    "family_history": ("10157-6", "family history|fh|fhx|family medical history"),
    "social_history": ("29762-2", "social history|sh|shx|social|habits|personal and social history"),
    "immunizations": ("11369-6", "immunizations|immunization history|vaccinations"),
    "review_of_systems": ("10187-3", "review of systems|ros|systems review|system review"),
    "vital_signs": ("8716-3", "vital signs|vitals|vital signs on admission"),
    "physical_exam": (
        "29545-1",
        "physical exam|physical examination|examination|exam|on examination|pe|objective|physical findings|admission exam|"
        "discharge exam|general examination",
    ),
    "results": (
        "30954-2",
        "results|laboratory data|laboratory results|labs|lab results|laboratory|laboratory studies|pertinent results|data|"
        "laboratory findings|diagnostic data|studies|diagnostics|test results",
    ),
    "imaging": (
        "18748-4",
        "imaging|radiology|imaging studies|radiographic studies|diagnostic imaging|x-ray|ct|mri|ultrasound",
    ),
    "technique": (None, "technique|procedure technique"),
    "comparison": (None, "comparison|comparisons"),
    "indication": (
        "18785-6",
        "indication|indications|clinical indication|reason for exam|clinical history|clinical information",
    ),
    "findings": ("59776-5", "findings|operative findings|procedure findings"),
    "impression": ("19005-8", "impression|impressions|conclusion|conclusions|interpretation|opinion"),
    "assessment": (
        "51848-0",
        "assessment|diagnosis|diagnoses|clinical impression|summary|problem assessment|medical decision making",
    ),
    "assessment_and_plan": (
        "51847-2",
        "assessment and plan|assessment & plan|assessment/plan|a/p|a&p|impression and plan",
    ),
    "plan": (
        "18776-5",
        "plan|plan of care|recommendations|recommendation|treatment plan|treatment|plan of treatment|management",
    ),
    "hospital_course": (
        "8648-8",
        "hospital course|brief hospital course|clinical course|course|course in hospital|ed course",
    ),
    "discharge_diagnosis": (
        "11535-2",
        "discharge diagnosis|discharge diagnoses|final diagnosis|final diagnoses|principal diagnosis|primary diagnosis",
    ),
    "discharge_instructions": (
        "8653-8",
        "discharge instructions|instructions|patient instructions|discharge plan|follow-up instructions",
    ),
    "discharge_condition": (None, "discharge condition|condition on discharge|condition at discharge"),
    "follow_up": (None, "follow-up|follow up|followup|disposition|discharge disposition"),
    "operation": ("10223-6", "operation|operation performed|procedure performed|procedure|operative procedure"),
    "preoperative_diagnosis": ("10219-4", "preoperative diagnosis|pre-operative diagnosis|preop diagnosis"),
    "postoperative_diagnosis": ("10218-6", "postoperative diagnosis|post-operative diagnosis|postop diagnosis"),
    "specimen": (None, "specimen|specimens|gross description|microscopic description"),
}
NAMES = {heading: name for name, (_, headings) in HEADINGS.items() for heading in headings.split("|")}
LONGEST_HEADING = 60


def one_of(headings: list[str]) -> str:
    """Returns a pattern for any of the headings, the longest first, with any white space between their words."""
    return "|".join(re.escape(heading).replace(r"\ ", r"\s+") for heading in sorted(headings, key=len, reverse=True))


# At the beginning of a line: list numbers, Markdown marks, the words, marks again, then a colon or the line's end.
BEFORE = r"^[ \t]*(?:#{1,6}[ \t]*|\d{1,2}[.)][ \t]+)?[*_]{0,3}"
BEHIND = r"[*_]{0,3}[ \t]*(?::[*_]{0,3}|(?=[ \t]*\r?$))"
LINE_HEADING = re.compile(rf"{BEFORE}(?P<title>{one_of(list(NAMES))}){BEHIND}", re.IGNORECASE | re.MULTILINE)
# In capitals, inside a line, behind the end of a sentence: "… clear. IMPRESSION: normal".
INNER_HEADING = re.compile(rf"(?<=[.;?!)\]])[ \t]+(?P<title>{one_of([heading.upper() for heading in NAMES])})[ \t]*:")
UNKNOWN_HEADING = re.compile(
    rf"{BEFORE}(?P<title>[A-Z][A-Z0-9/&,()' \-]{{2,{LONGEST_HEADING}}}[A-Z)]){BEHIND}", re.MULTILINE
)


def find_sections(text: str) -> list[Section]:
    """Returns the sections of a note in order; a text without headings is one section ``body``, an empty one none."""
    found: dict[int, tuple[int, int, str, str]] = {}  # start of the title -> start, end of the heading; title; name
    for pattern in (UNKNOWN_HEADING, INNER_HEADING, LINE_HEADING):
        for match in pattern.finditer(text):
            title = match["title"]
            name = NAMES.get(" ".join(title.lower().split()), "other")
            marks = len(match[0]) - len(
                match[0].lstrip()
            )  # white space before the heading belongs to the text before it
            found[match.start("title")] = (match.start() + marks, match.end(), title, name)
    headings = [found[place] for place in sorted(found)]
    first = headings[0][0] if headings else len(text)
    sections = []
    if text[:first].strip() or (text and not headings):
        sections.append(Section("body", 0, first, 0))
    elif headings:
        headings[0] = (0, *headings[0][1:])
    starts = [heading[0] for heading in headings]
    for (_, body, title, name), (start, end) in zip(headings, pairwise([*starts, len(text)]), strict=True):
        code = HEADINGS[name][0] if name in HEADINGS else None
        sections.append(Section(name, start, end, body, title=title, code=code))
    return sections
