from __future__ import annotations

import numpy as np
import pytest

from medpipe.records import ASSERTIONS, LABELS
from medpipe.summarize.decode import extract_sentence
from medpipe.summarize.features import Headings, Mentions, Source, read_source
from medpipe.summarize.form import PARTS, Form, impression_sentences, is_conversation, is_report

NOTE = (
    "HPI:\nShe came with cough for a week. She denies fever.\nEXAM:\nA rash was seen on the arm.\nRESULTS:\nSodium was 131.\n"
    "MEDICATIONS:\nLisinopril ten milligrams each morning.\nPLAN:\nRepeat sodium on Friday.\n"
)
NAMES = {"HPI": "history_of_present_illness", "EXAM": "physical_exam", "RESULTS": "results", "MEDICATIONS": "medications", "PLAN": "plan"}


def read(text: str, names: dict[str, str], found: list[tuple[str, str, bool]]) -> Source:
    """Reads a note whose headings are ``names`` and whose mentions are (words, label, negated)."""
    starts = [text.index(f"{title}:\n") for title in names]
    bodies = [start + len(title) + 2 for start, title in zip(starts, names, strict=True)]
    ends = [*starts[1:], len(text)] if starts else []
    headings = Headings(*(np.array(column, dtype=np.int32) for column in (starts, bodies, ends)), list(names.values()))
    places = np.array([text.index(words) for words, _, _ in found], dtype=np.int32)
    lengths = np.array([len(words) for words, _, _ in found], dtype=np.int32)
    assertions = np.zeros((len(found), len(ASSERTIONS)), dtype=bool)
    assertions[:, ASSERTIONS.index("negated")] = [negated for _, _, negated in found]
    label = np.array([LABELS.index(name) for _, name, _ in found], dtype=np.int64)
    mentions = Mentions(places, places + lengths, label, assertions, np.zeros(len(found), dtype=bool))
    return read_source(text, headings, mentions)


FOUND = [
    ("cough", "SYMPTOM", False), ("fever", "SYMPTOM", True), ("rash", "SYMPTOM", False), ("Sodium", "TEST", False),
    ("131", "LAB_VALUE", False), ("Lisinopril", "DRUG", False),
]  # fmt: skip


def parts_of(source: Source, order: list[int]) -> list[tuple[str, str]]:
    sentences, parts = Form(source).arrange([extract_sentence(source, place, 0.5) for place in order])
    return [(" ".join(one.words), part) for one, part in zip(sentences, parts, strict=True)]


def test_a_note_with_sections_is_summarized_part_by_part() -> None:
    source = read(NOTE, NAMES, FOUND)
    bodies = np.flatnonzero(source.eligible).tolist()
    found = parts_of(source, bodies[::-1])
    assert [part for _, part in found] == ["problems", "pertinent_negatives", "findings", "findings", "treatment", "plan"]
    assert list(dict.fromkeys(part for _, part in found)) == list(PARTS)
    assert found[0][0].startswith("She came with cough")
    assert found[1][0] == "She denies fever ."
    assert found[-1][0] == "Repeat sodium on Friday ."


def test_a_story_keeps_its_order_and_names_its_parts() -> None:
    text = "He had cough. A scan showed a mass. Cisplatin was given. No fever came up. He will return in May."
    found = [("cough", "SYMPTOM", False), ("scan", "TEST", False), ("mass", "LAB_VALUE", False), ("Cisplatin", "DRUG", False), ("fever", "SYMPTOM", True)]
    told = parts_of(read(text, {}, found), [0, 1, 2, 3, 4])
    assert [words.split()[0] for words, _ in told] == ["He", "A", "Cisplatin", "No", "He"]
    assert [part for _, part in told] == ["problems", "findings", "treatment", "pertinent_negatives", "plan"]


def test_a_text_without_anything_known_has_one_part() -> None:
    assert [part for _, part in parts_of(read("Nothing is known. Nobody came.", {}, []), [0, 1])] == ["summary"] * 2


@pytest.mark.parametrize(
    ("names", "report"),
    [(["findings", "impression"], True), (["technique", "findings"], True), (["findings", "plan"], False), ([], False)],
)
def test_reports_are_known_by_their_sections(names: list[str], report: bool) -> None:
    text = "".join(f"{name.upper()}:\nThe lungs are clear today.\n" for name in names) or "The lungs are clear."
    assert is_report(read(text, {name.upper(): name for name in names}, [])) is report


def test_an_impression_rests_on_the_conclusion_and_on_what_is_there() -> None:
    text = "FINDINGS:\nA nodule lies in the lobe. The heart is normal.\nIMPRESSION:\nThe heart is fine. No effusion is seen. Nodule of the lung.\n"
    source = read(text, {"FINDINGS": "findings", "IMPRESSION": "impression"}, [("effusion", "SYMPTOM", True), ("Nodule", "DISEASE", False)])
    order = np.flatnonzero(source.eligible).tolist()
    chosen = impression_sentences(source, order)
    said = [" ".join(extract_sentence(source, place, 0.5).words) for place in chosen]
    assert said == ["The heart is fine .", "Nodule of the lung ."]


def test_a_note_with_sections_has_the_best_sentence_of_each_part_first() -> None:
    source = read(NOTE, NAMES, FOUND)
    order = np.flatnonzero(source.eligible).tolist()
    covering = Form(source).covering(order)
    assert sorted(covering) == sorted(order)
    leading = [PARTS[Form(source).part(extract_sentence(source, place, 1.0))] for place in covering[: len(PARTS)]]
    assert sorted(leading) == sorted(PARTS)
    story = read("He had cough. A mass was seen. Cisplatin was given.", {}, [])
    assert Form(story).covering([2, 0, 1]) == [2, 0, 1]


@pytest.mark.parametrize(
    ("sentence", "part"),
    [("Hold lisinopril while sodium is low.", "plan"), ("2. Continue lisinopril.", "plan"), ("Follow-up in two weeks.", "plan"), ("Follow-up of cough.", "problems"), ("Follow up on Friday.", "plan"), ("He took lisinopril.", "treatment")],
)
def test_what_to_do_is_the_plan(sentence: str, part: str) -> None:
    source = read(f"He came with cough. {sentence}", {}, [("lisinopril", "DRUG", False)] if "lisinopril" in sentence else [("cough", "SYMPTOM", False)])
    place = len(source.sentences) - 1
    assert PARTS[Form(source).part(extract_sentence(source, place, 1.0))] == part


@pytest.mark.parametrize(
    ("text", "conversation"),
    [
        ("Doctor: How are you?\nPatient: Not so well.\nI cough.", True),
        ("[doctor] hi there\n[patient] hello\n", True),
        ("D: Any pain?\n\nP: No.", True),
        ("Guest_family: She fell.\nDr. Vance: When?\nMother: On Sunday.", True),
        ("Doctor: Dr. Vance\nHistory: cough\nPlan: rest\nMedications: none", False),
        ("Patient: Mrs. Okafor", False),
        ("The patient said: I cough.\nThe doctor asked: Since when?\nPlan: rest.", False),
        ("HISTORY:\nCough for a week.\nPLAN:\nRest.", False),
        ("", False),
    ],
)
def test_a_conversation_is_told_by_its_speakers(text: str, conversation: bool) -> None:
    assert is_conversation(text) is conversation
