"""The form of a clinical summary: which part each of its sentences belongs to, and in which order the parts stand.

A clinical note's summary has problems with their symptoms, pertinent negatives, findings and results, treatment, plan
and follow-up, as far as there are sentences for them; that of a report has an impression of one or two sentences.
What decides is the section that a sentence comes from, then words that look ahead
("follow-up", "will"), then the entities in it.

Cannot do: cut a sentence that belongs to two parts; it stands in the one that most of its entities name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from medpipe.records import ASSERTIONS, LABELS
from medpipe.summarize.decode import Said, extract_sentence
from medpipe.summarize.features import Source, among, hash_words, token_intervals

PARTS = ("problems", "pertinent_negatives", "findings", "treatment", "plan")
WHOLE, IMPRESSION = "summary", "impression"
PROBLEMS, NEGATIVES, FINDINGS, TREATMENT, PLAN = range(len(PARTS))

# Canonical names of sections (``text/headings.toml``) that decide the part of what stands in them.
OF_SECTION = {
    FINDINGS: """objective vital_signs physical_exam general heent head eyes ears_nose_throat neck respiratory
        cardiovascular breasts abdomen genitourinary musculoskeletal extremities back skin neurologic psychiatric
        lymphatic endocrine allergic_immunologic mental_status functional_status results imaging findings
        gross_description microscopic_description specimen""",
    TREATMENT: """medications admission_medications medications_administered discharge_medications procedures
        interventions operation procedure_description anesthesia""",
    PLAN: """plan goals instructions disposition follow_up discharge_instructions discharge_diet activity
        planned_procedure consultations""",
    PROBLEMS: """chief_complaint reason_for_visit reason_for_referral reason_for_admission problems
        encounter_diagnoses discharge_diagnosis impression pathology_diagnosis indication""",
}
REPORT_SECTIONS = frozenset(
    """findings impression technique comparison gross_description microscopic_description
    pathology_diagnosis""".split()  # noqa: SIM905 - as in template_words
)
NOTE_SECTIONS = frozenset(
    """history_of_present_illness chief_complaint subjective assessment assessment_and_plan plan hospital_course
    medications past_medical_history""".split()  # noqa: SIM905 - as in template_words
)
CONCLUSIONS = frozenset(("impression", "pathology_diagnosis"))
AHEAD = (
    "will", "recommend", "recommended", "recommends", "advised", "scheduled", "return", "discharged", "plan", "planned",
)  # fmt: skip
TO_DO = (
    "hold", "continue", "start", "stop", "repeat", "check", "recheck", "monitor", "increase", "decrease", "consult",
    "refer", "arrange", "schedule", "admit", "obtain", "order", "resume", "give",
)  # fmt: skip
FOLLOW = ("follow", "followed", "following")
OF_LABEL = {
    "DISEASE": PROBLEMS, "SYMPTOM": PROBLEMS, "TEST": FINDINGS, "LAB_VALUE": FINDINGS, "DRUG": TREATMENT,
    "DOSAGE": TREATMENT, "PROCEDURE": TREATMENT,
}  # fmt: skip
# A line that begins with who speaks: "Doctor: …", "[patient] …", "Guest_family: …", "Dr. Vance: …".
SPEAKERS = (
    "doctor|dr|physician|clinician|nurse|provider|therapist|interviewer|patient|family|mother|father|parent|wife|husband"
    "|daughter|son|speaker|caller"
)
NAMED = r"(?:[ ._]+[A-Z0-9][\w'-]*){0,2}"
TURN = re.compile(rf"(?i:guest[ _])?(?:(?i:{SPEAKERS})\b{NAMED}|[DP])\s*:|\[(?i:{SPEAKERS}){NAMED}\]")
NEGATED = ASSERTIONS.index("negated")


@cache
def _section_part(name: str) -> int:
    return next((part for part, names in OF_SECTION.items() if name in names.split()), -1)


def is_report(source: Source) -> bool:
    """Says whether a note is the report of an examination (imaging, pathology) by its sections."""
    names = set(source.sections)
    return bool(names & REPORT_SECTIONS) and not names & NOTE_SECTIONS


def is_conversation(text: str) -> bool:
    """Says whether a text is what people said to each other: most of its lines, and two at least, name a speaker."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    turns = sum(TURN.match(line) is not None for line in lines)
    return turns >= 2 and 2 * turns > len(lines)


def impression_sentences(source: Source, order: Sequence[int], most: int = 2) -> list[int]:
    """Returns the sentences that an impression of a report rests on, in the order of the note.

    Those of its conclusion, if it has one, else all; affirmed diseases and symptoms first, then as ``order`` says.
    """
    concluding = [index for index in order if source.sections[index] in CONCLUSIONS]
    telling = _telling(source)
    ranked = sorted(concluding or order, key=lambda index: not telling[index])
    return sorted(ranked[:most])


def _telling(source: Source) -> np.ndarray:
    """Returns which sentences affirm a disease or a symptom; shape: (sentences,), bool."""
    telling = np.zeros(len(source.sentences), dtype=bool)
    mentions = source.mentions
    condition = np.isin(mentions.label, [LABELS.index("DISEASE"), LABELS.index("SYMPTOM")]) & ~mentions.negated
    first, end = token_intervals(source.tokens, mentions.start, mentions.end)
    telling[source.sentence_of[first[condition & (end > first)]]] = True
    return telling


class Form:
    """Which part of a summary each of its sentences belongs to, for one note."""

    def __init__(self, source: Source) -> None:
        self.source = source
        mentions = source.mentions
        self.first, self.end = token_intervals(source.tokens, mentions.start, mentions.end)
        parts = [OF_LABEL.get(LABELS[label], -1) if label >= 0 else -1 for label in mentions.label.tolist()]
        self.known = np.array(parts, dtype=np.int64)  # shape: (mentions,): the part that each speaks for, -1 for none

    @property
    def formless(self) -> bool:
        """Says whether nothing tells the parts of this note apart."""
        return not (self.known >= 0).any() and not self.sectioned

    @property
    def sectioned(self) -> bool:
        """Says whether the note has headings that clinicians divide notes by."""
        return any(name != "body" for name in self.source.sections)

    def part(self, said: Said) -> int:
        """Returns the place in ``PARTS`` of a sentence of the summary."""
        source = self.source
        copied = said.sources[said.sources >= 0]
        if len(copied) == 0:
            return PROBLEMS
        origin = int(np.bincount(source.sentence_of[copied]).argmax())
        by_section = _section_part(source.sections[origin])
        if by_section >= 0 and by_section != FINDINGS:
            return by_section
        covered = np.zeros(len(source.tokens) + 1, dtype=np.int64)
        covered[copied + 1] = 1
        total = np.cumsum(covered)
        whole = (self.known >= 0) & (self.end > self.first)
        whole &= total[self.end] - total[self.first] == self.end - self.first
        kinds = self.known[whole]
        conditions = whole & (self.known == PROBLEMS)
        if conditions.any() and source.mentions.negated[conditions].all() and (kinds == PROBLEMS).all():
            return NEGATIVES
        if by_section >= 0:
            return by_section
        if _looks_ahead(source.types[copied], source.types[source.sentences[origin][0] :]):
            return PLAN
        if len(kinds) == 0:
            return PROBLEMS
        return int(np.bincount(kinds, minlength=len(PARTS)).argmax())

    def arrange(self, sentences: Sequence[Said]) -> tuple[list[Said], list[str]]:
        """Returns the sentences and the part of each: part by part where the note has sections, else as they came.

        What has no headings is a story (a case report, a dialogue): its order says what came first, so it stays.
        """
        if self.formless or not sentences:
            return list(sentences), [WHOLE] * len(sentences)
        parts = np.array([self.part(one) for one in sentences])
        begins = [int(one.sources[one.sources >= 0].min(initial=len(self.source.tokens))) for one in sentences]
        if parts[np.argmin(begins)] == PLAN:  # "Follow-up of sarcoidosis.": why somebody came
            parts[np.argmin(begins)] = PROBLEMS
        order = np.argsort(parts, kind="stable").tolist() if self.sectioned else range(len(parts))
        return [sentences[index] for index in order], [PARTS[parts[index]] for index in order]

    def covering(self, order: Sequence[int]) -> list[int]:
        """Returns sentences of the note with the best of each part before all others; as given where it has no form.

        Args:
            order: sentences, best first.
        """
        if not self.sectioned:
            return list(order)
        parts = [self.part(extract_sentence(self.source, index, 1.0)) for index in order]
        first = {part: place for place, part in reversed(list(enumerate(parts)))}
        leading = sorted(first.values())
        return [order[place] for place in leading] + [
            index for place, index in enumerate(order) if place not in set(leading)
        ]


@cache
def _ahead() -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    up, of = hash_words(("up", "of")).tolist()
    return hash_words(AHEAD), hash_words(TO_DO), hash_words(FOLLOW), up, of


def _looks_ahead(types: np.ndarray, sentence: np.ndarray) -> bool:
    """Says whether words speak of what comes after the visit, or the sentence that they are from says what to do."""
    ahead, to_do, follow, up, of = _ahead()
    if among(types, ahead).any() or among(sentence[:3], to_do).any():  # "Hold …", "2. Hold …"
        return True
    places = np.flatnonzero(among(types, follow))
    for place in places.tolist():
        after = types[place + 1 : place + 4].tolist()
        if up in after[:2]:  # "follow up", "follow - up"
            return of not in after[after.index(up) + 1 :][:1]  # "Follow-up of sarcoidosis": why somebody came
    return False
