from __future__ import annotations

import numpy as np
import pytest

from medpipe.records import ASSERTIONS
from medpipe.summarize.faithfulness import Checker, Claim, Findings, negation_scope
from medpipe.summarize.features import Mentions, describe_words, read_source
from medpipe.text.tokens import tokenize

NOTE = (
    "The patient has pain in the left knee and swelling of the right hand. He denies fever, chills or night sweats. "
    "Furosemide 40 mg and 2.5 ml of syrup were given. No fracture was seen on the X-ray; the joint is swollen."
)


def as_claim(sentence: str) -> Claim:
    tokens = tokenize(sentence)
    return Claim(sentence, tokens, describe_words(sentence, tokens), np.full(len(tokens), -1))


def check(sentence: str, note: str = NOTE, mentions: Mentions | None = None) -> Findings:
    checker = Checker(read_source(note, mentions=mentions))
    return checker.check([as_claim(sentence)])[0]


@pytest.mark.parametrize(
    "sentence",
    [
        "The patient has pain in the left knee.",
        "Furosemide 40 mg was given.",
        "The patient presented with swelling of the right hand, denies fever.",
        "No fracture was seen.",
        "",
    ],
)
def test_what_the_note_says_passes(sentence: str) -> None:
    assert check(sentence).clean


@pytest.mark.parametrize(
    "sentence",
    [
        "The patient has pneumonia.",
        "The patient has pain in the right knee.",
        "The patient has swelling of the left hand.",
        "The patient has knee swelling.",
    ],
)
def test_an_entity_or_a_side_that_the_note_does_not_have(sentence: str) -> None:
    assert check(sentence).entities > 0


@pytest.mark.parametrize(
    "sentence",
    ["Furosemide 80 mg was given.", "Furosemide 40 ml was given.", "5 ml of syrup were given.", "2 mg of syrup."],
)
def test_a_number_that_the_note_does_not_have(sentence: str) -> None:
    assert check(sentence).numbers > 0


@pytest.mark.parametrize(
    "sentence",
    ["The patient has fever.", "The patient has no pain.", "The patient had a fracture.", "He denies swelling."],
)
def test_a_negation_turned_round(sentence: str) -> None:
    assert check(sentence).polarity > 0


def test_entities_decide_where_there_is_no_cue() -> None:
    note = "Asthma: ruled out by spirometry last year."
    negated = np.zeros((1, len(ASSERTIONS)), dtype=bool)
    negated[0, ASSERTIONS.index("negated")] = True
    mentions = Mentions(
        np.array([0], dtype=np.int32), np.array([6], dtype=np.int32), np.array([0]), negated, np.array([False])
    )
    assert check("The patient has asthma.", note).polarity == 0
    assert check("The patient has asthma.", note, mentions).polarity == 1


def scope(text: str) -> list[str]:
    tokens = tokenize(text)
    types = describe_words(text, tokens).types
    inside = negation_scope(types, np.array([[0, len(tokens)]]))
    return [word for word, there in zip(tokens.strings(text), inside.tolist(), strict=True) if there and word.isalpha()]


def test_the_scope_of_a_negation() -> None:
    assert scope("No fever or cough but pain") == ["fever", "or", "cough"]
    assert scope("Pain without swelling; fever") == ["swelling"]
    assert scope("Cultures were negative") == ["Cultures", "were"]
    assert scope("Pain") == []


def test_no_scope_leaves_its_sentence() -> None:
    text = "Denies pain Fever began"
    types = describe_words(text, tokenize(text)).types
    assert negation_scope(types, np.array([[0, 2], [2, 4]])).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("sentence", "sides"), [("Pain in the right knee.", 1), ("The right knee is swollen.", 1), ("Pneumonia.", 0), ("Pain in the left knee.", 0)]
)
def test_sides_are_counted_apart(sentence: str, sides: int) -> None:
    found = check(sentence)
    assert bool(found.sides) == bool(sides)
    assert found.entities >= found.sides


def test_a_name_of_several_words_stands_in_one_sentence_of_the_note() -> None:
    note = "She has shortness of breath and night sweats. Sweats of breath. Breath of night."
    assert check("Shortness of breath.", note).clean
    assert check("Shortness of night sweats.", note).entities == 1
    assert check("Sweats and shortness of breath.", note).entities == 1, "the words of an order that the note does not have"


def test_a_number_belongs_to_the_name_that_the_note_gives_it_to() -> None:
    note = "Sodium was 131 and creatinine was 2.1 on Monday. The glucose was checked."
    assert check("Creatinine was 2.1.", note).clean
    assert check("Glucose was 131.", note).numbers == 1


def mention(text: str, word: str, *assertions: str) -> tuple[int, int, list[bool]]:
    start = text.index(word)
    return start, start + len(word), [name in assertions for name in ASSERTIONS]


class NothingAsserted:
    """An engine for which every mention is affirmed and the patient's own."""

    def assert_batch(self, texts, tokens, sentences, starts, ends, section_names):  # type: ignore[no-untyped-def]
        assert [len(one) for one in starts] == [len(one) for one in section_names]
        return [np.zeros((len(one), len(ASSERTIONS)), dtype=bool) for one in starts]


def test_what_the_family_has_is_not_said_of_the_patient() -> None:
    note = "Family history: diabetes and stroke. He has stroke himself. No gout."
    found = [mention(note, "diabetes", "family"), mention(note, "stroke", "family"), mention(note, "gout", "negated")]
    start = note.rindex("stroke")
    found.append((start, start + 6, [False] * len(ASSERTIONS)))
    starts, ends, assertions = zip(*found, strict=True)
    mentions = Mentions(
        np.array(starts, dtype=np.int32), np.array(ends, dtype=np.int32), np.zeros(4, dtype=np.int64),
        np.array(assertions), np.zeros(4, dtype=bool),
    )  # fmt: skip
    checker = Checker(read_source(note, mentions=mentions), NothingAsserted())
    diabetes, stroke, gout = checker.check([as_claim("He has diabetes."), as_claim("He has stroke."), as_claim("He has gout.")])
    assert (diabetes.family, stroke.family, gout.polarity > 0) == (1, 0, True)


def test_words_copied_from_a_place_are_held_to_that_place() -> None:
    note = "There was fever. Later no fever was seen."
    first, second = mention(note, "fever"), (note.rindex("fever"), note.rindex("fever") + 5, [True] + [False] * 4)
    mentions = Mentions(
        np.array([first[0], second[0]], dtype=np.int32), np.array([first[1], second[1]], dtype=np.int32),
        np.zeros(2, dtype=np.int64), np.array([first[2], second[2]]), np.zeros(2, dtype=bool),
    )  # fmt: skip
    source = read_source(note, mentions=mentions)
    checker = Checker(source)
    places = np.flatnonzero(source.types == source.types[2]).tolist()
    for place, turned in zip(places, (0, 1), strict=True):
        free = as_claim("There was fever.")
        assert checker.check([free])[0].polarity == 0, "the note has both"
        held = Claim(free.text, free.tokens, free.words, np.array([-1, -1, place, -1]))
        assert checker.check([held])[0].polarity == turned
