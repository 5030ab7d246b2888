"""Tokens are offsets into the raw text, whatever the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.text.tokens import count_tokens, span_to_tokens, tokenize, tokenize_all


def words(text):
    return tokenize(text).strings(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("q6h", ["q", "6", "h"]),
        ("2.5mg/day", ["2", ".", "5", "mg", "/", "day"]),
        ("T-cell_x", ["T", "-", "cell", "_", "x"]),
        ("37.5°C", ["37", ".", "5", "°", "C"]),
        ("naïve", ["naïve"]),
        ("nai\u0308ve β-blocker", ["nai\u0308ve", "β", "-", "blocker"]),
        ("😀pain😀😀", ["😀", "pain", "😀", "😀"]),
        ("пульс 80", ["пульс", "80"]),
        ("发热3天", ["发热", "3", "天"]),
    ],
)
def test_tokens(text, expected):
    assert words(text) == expected


@given(st.text(max_size=200))
def test_tokens_cover_all_that_is_no_space(text):
    tokens = tokenize(text)
    assert (tokens.start < tokens.end).all()
    assert (tokens.start[1:] >= tokens.end[:-1]).all()
    covered = "".join(tokens.strings(text))
    # Some control characters count as white space for str.isspace and not for the expression, or the other way round.
    assert [char for char in text if char.isalnum()] == [char for char in covered if char.isalnum()]


# What the kinds of characters are about: marks, digits of other scripts, numbers that are no digits, spaces, surrogates.
AWKWARD = "aZ\u00e9 \n\t_-.\u0301\u0300\u1dc0\u20d0\u0903\u0669\u00b2\u00bd\u2167\u3000\u200b\u00a0\x00\x1c\x85\ufeff\ud83d\udc1f\U0001f600\U0001d7d8\u5929"


@settings(deadline=None)  # blocks of characters are looked at once in a process
@given(st.lists(st.one_of(st.text(max_size=60), st.text(alphabet=AWKWARD, max_size=60)), max_size=6))
def test_many_texts_at_once_are_as_one_by_one(texts):
    tokens, words, which = tokenize_all(texts)
    expected = [tokenize(text) for text in texts]
    assert [list(zip(part.start.tolist(), part.end.tolist(), strict=True)) for part in tokens] == [
        list(zip(part.start.tolist(), part.end.tolist(), strict=True)) for part in expected
    ]
    strings = [word for text, part in zip(texts, expected, strict=True) for word in part.strings(text)]
    assert [words[number] for number in which] == strings
    assert words == list(dict.fromkeys(strings))
    assert all(part.start.dtype == part.end.dtype == "int32" for part in tokens)


def test_every_character_is_of_its_kind():
    text = "".join(f"a{chr(point)}b {chr(point)}{chr(point)} 1{chr(point)}2 " for point in range(0x3100))
    tokens, _, _ = tokenize_all([text])
    expected = tokenize(text)
    assert tokens[0].start.tolist() == expected.start.tolist()
    assert tokens[0].end.tolist() == expected.end.tolist()


def test_span_to_tokens():
    tokens = tokenize("No acute distress.")
    assert span_to_tokens(tokens, 3, 8) == (1, 2)
    assert span_to_tokens(tokens, 4, 12) == (1, 3)
    assert span_to_tokens(tokens, 2, 3)[0] == span_to_tokens(tokens, 2, 3)[1]
    assert span_to_tokens(tokens, 0, 18) == (0, 4)


@given(st.lists(st.text(max_size=60), max_size=5))
def test_counting_equals_tokenizing(texts):
    assert count_tokens(texts) == sum(len(tokenize(text)) for text in texts)
