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
        "The patient presented with swelling of the right hand and denies fever.",
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
