"""Tokens are offsets into the raw text, whatever the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.text.tokens import span_to_tokens, tokenize


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


def test_span_to_tokens():
    tokens = tokenize("No acute distress.")
    assert span_to_tokens(tokens, 3, 8) == (1, 2)
    assert span_to_tokens(tokens, 4, 12) == (1, 3)
    assert span_to_tokens(tokens, 2, 3)[0] == span_to_tokens(tokens, 2, 3)[1]
    assert span_to_tokens(tokens, 0, 18) == (0, 4)
