"""Sentences as token intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.text.sentences import MAX_TOKENS, split_sentences
from medpipe.text.tokens import tokenize


def sentences(text, **options):
    tokens = tokenize(text)
    return [
        text[tokens.start[first] : tokens.end[last - 1]]
        for first, last in split_sentences(text, tokens, **options).tolist()
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("Fever", ["Fever"]),
        ("No fever. Cough since May.", ["No fever.", "Cough since May."]),
        ("Seen by Dr. Smith today. Well.", ["Seen by Dr. Smith today.", "Well."]),
        ("Hb was 7.5 g/dl. Stable.", ["Hb was 7.5 g/dl.", "Stable."]),
        ("Plan:\n- Rest\n- Fluids", ["Plan:", "- Rest", "- Fluids"]),
        ("a line that goes\non here", ["a line that goes\non here"]),
        ("first\n\nsecond", ["first", "second"]),
        ("Pain (worse at night.) Sleeps badly.", ["Pain (worse at night.)", "Sleeps badly."]),
        ("J. Doe came. He left.", ["J. Doe came.", "He left."]),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


@given(st.text(alphabet="aB.!? \n-1é😀", max_size=120))
def test_sentences_hold_every_token_once(text):
    tokens = tokenize(text)
    cut = split_sentences(text, tokens)
    assert cut.shape[1] == 2
    assert (cut[:, 0] < cut[:, 1]).all()
    assert np.array_equal(np.concatenate([np.arange(a, b) for a, b in cut] or [np.zeros(0)]), np.arange(len(tokens)))


def test_a_text_without_full_stops_is_cut():
    text = "word " * (2 * MAX_TOKENS + 5)
    assert [len(part.split()) for part in sentences(text)] == [MAX_TOKENS, MAX_TOKENS, 5]
    assert [len(part.split()) for part in sentences("a b c d e", max_tokens=2)] == [2, 2, 1]


def test_the_number_of_a_list_is_no_sentence() -> None:
    text = "IMPRESSION:\n1. No embolism.\n 2. A nodule. She is 58. It grew."
    tokens = tokenize(text)
    found = [text[tokens.start[a] : tokens.end[b - 1]] for a, b in split_sentences(text, tokens).tolist()]
    assert found == ["IMPRESSION:", "1. No embolism.", "2. A nodule.", "She is 58.", "It grew."]
