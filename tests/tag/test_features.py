"""Sentences as rows, entities as tags and back."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.tag.crf import read_spans
from medpipe.tag.features import encode_spans, entity_tokens
from medpipe.text.features import WordTable
from medpipe.text.rows import make_rows, pad_rows

TEXTS = ["Severe pain. No fever", "", "   \n ", "Cough", "He took 20 mg. He slept."]


def test_rows_cover_every_token_once():
    rows = make_rows(TEXTS, WordTable(1000))
    assert rows.offset.tolist() == [0, 5, 5, 5, 6, 14]
    covered = np.concatenate(
        [np.arange(start, start + length) for start, length in zip(rows.start, rows.length, strict=True)]
    )
    assert covered.tolist() == list(range(14))
    assert rows.text.tolist() == [0, 0, 3, 4, 4]


def test_no_texts():
    rows = make_rows([], WordTable(1000))
    assert len(rows.words) == len(rows.start) == 0


def test_pad_rows():
    positions, inside = pad_rows(np.array([4, 9]), np.array([3, 1]))
    assert positions.tolist() == [[4, 5, 6], [9, 0, 0]]
    assert inside.tolist() == [[True, True, True], [True, False, False]]


def test_longest_span_is_outermost_and_a_third_one_is_lost():
    tags, lost = encode_spans([(1, 2, 0), (0, 4, 0), (1, 3, 0), (1, 2, 1), (1, 2, 1)], tokens=4, labels=2, levels=2)
    assert tags[:, 0, 0].tolist() == [1, 2, 2, 3]
    assert tags[:, 0, 1].tolist() == [0, 1, 3, 0]
    assert tags[:, 1, 0].tolist() == [0, 4, 0, 0]
    assert not tags[:, 1, 1].any()
    assert lost == 1


spans = st.sets(
    st.tuples(st.integers(0, 8), st.integers(1, 4), st.integers(0, 1)).map(lambda s: (s[0], min(s[0] + s[1], 9), s[2]))
)


@given(spans)
def test_tags_give_back_what_was_encoded(chosen):
    tags, lost = encode_spans(sorted(chosen), tokens=9, labels=2, levels=3)
    # shape: (tokens, labels, levels) -> (chains, tokens)
    chains = torch.from_numpy(tags.reshape(9, 6).T.copy()).long()
    found = {(first, last + 1, chain // 3) for chain, first, last in read_spans(chains).tolist()}
    assert found <= chosen
    assert len(found) == len(chosen) - lost


def test_entity_tokens():
    text = "Severe pain. No fever"
    rows = make_rows([text], WordTable(1000))
    tokens, sentences = rows.tokens[0], rows.sentences[0]
    assert entity_tokens(tokens, sentences, 7, 11) == (1, 2)
    assert entity_tokens(tokens, sentences, 8, 10) == (1, 2)  # covers a part of a token
    assert entity_tokens(tokens, sentences, 7, 15) is None  # two sentences
    assert entity_tokens(tokens, sentences, 6, 7) is None  # white space
