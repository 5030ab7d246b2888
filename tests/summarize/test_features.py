from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.records import ASSERTIONS, LABELS
from medpipe.summarize.features import (
    FLAGS,
    Headings,
    Mentions,
    Vocabulary,
    among,
    collate,
    describe_words,
    hash_words,
    is_template,
    mention_flags,
    read_source,
)
from medpipe.summarize.template_words import TEMPLATE_WORDS
from medpipe.text.tokens import tokenize


def make_mentions(*rows: tuple[int, int, str, bool]) -> Mentions:
    negated = np.zeros((len(rows), len(ASSERTIONS)), dtype=bool)
    negated[:, 0] = [row[3] for row in rows]
    return Mentions(
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int32),
        np.array([LABELS.index(row[2]) if row[2] in LABELS else -1 for row in rows]),
        negated,
        np.zeros(len(rows), dtype=bool),
    )


@given(st.text(max_size=60))
def test_equal_hashes_are_equal_words(text: str) -> None:
    tokens = tokenize(text)
    words = tokens.strings(text)
    types = describe_words(text, tokens).types
    folded = ["".join(c.lower() if ord(c) < 0x600 and len(c.lower()) == 1 else c for c in word) for word in words]
    for a, first in zip(folded, types.tolist(), strict=True):
        for b, second in zip(folded, types.tolist(), strict=True):
            assert (a == b) == (first == second)


def test_a_hash_does_not_depend_on_what_stands_around() -> None:
    alone = hash_words(["fever", "Fever", "2", "é"])
    text = "High FEVER of 2 days, é."
    within = describe_words(text, tokenize(text)).types
    assert alone[0] == alone[1] == within[1]
    assert alone[2] == within[3]
    assert alone[3] == within[6]
    assert len(set(within.tolist())) == len(within)


def test_numbers_and_marks_are_told_apart() -> None:
    text = "BP 120/80 mmHg"
    words = describe_words(text, tokenize(text))
    assert words.digits.tolist() == [False, True, False, True, False]
    assert words.wordlike.tolist() == [True, True, False, True, True]


def test_mention_flags_cover_the_tokens_of_each_mention() -> None:
    text = "No chest pain, but fever."
    tokens = tokenize(text)
    mentions = make_mentions(
        (3, 13, "SYMPTOM", True), (3, 8, "ANATOMY", False), (19, 24, "SYMPTOM", False), (0, 2, "?", False)
    )
    flags = mention_flags(tokens, mentions)
    assert flags.shape == (7, FLAGS)
    symptom, anatomy, negated = LABELS.index("SYMPTOM"), LABELS.index("ANATOMY"), len(LABELS)
    assert flags[:, symptom].tolist() == [0, 1, 1, 0, 0, 1, 0]
    assert flags[:, anatomy].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert flags[:, negated].tolist() == [0, 1, 1, 0, 0, 0, 0]


def test_headings_are_no_sentences_to_extract() -> None:
    text = "PLAN:\nRest and fluids at home."
    headings = Headings(
        np.array([0], dtype=np.int32), np.array([6], dtype=np.int32), np.array([len(text)], dtype=np.int32), ["plan"]
    )
    source = read_source(text, headings)
    assert source.eligible.tolist() == [False, True]
    assert source.places[0, 3] == source.places[1, 3] != 0
    assert read_source(text).places[0, 3] == 0


def test_a_heading_with_text_behind_it_is_a_sentence_of_the_innermost_section() -> None:
    text = "EXAM:\nLungs: clear to auscultation on both sides.\nWell at rest today."
    at, end = text.index("Lungs"), text.index("Well")
    columns = [np.array(column, dtype=np.int32) for column in ([at, 0], [at + 6, 5], [end, len(text)])]
    source = read_source(text, Headings(*columns, ["respiratory", "physical_exam"]))
    assert source.eligible.tolist() == [False, True, True]
    exam, lungs, last = source.places[:, 3].tolist()
    assert exam == last != lungs


@pytest.mark.parametrize("text", ["", "  \n ", "...", "x"])
def test_hardly_any_text(text: str) -> None:
    source = read_source(text)
    assert len(source.sentence_of) == len(source.tokens) == len(source.flags)
    assert source.eligible.any() == (text == "x")


def test_rows_of_a_batch_hold_every_token_once(note: str) -> None:
    sources = [read_source(note), read_source("One line."), read_source(note[50:200])]
    batch = collate(sources, torch.device("cpu"), budget=64)
    held = torch.cat([rows.forward[rows.mask] for rows in batch.token_rows])
    assert sorted(held.tolist()) == list(range(int(batch.token_counts.sum())))
    for rows in batch.token_rows:
        lengths = rows.mask.sum(dim=1)
        for row, length in enumerate(lengths.tolist()):
            assert rows.backward[row, :length].tolist() == rows.forward[row, :length].flip(0).tolist()


def test_vocabulary_extends_by_the_words_of_a_note() -> None:
    vocabulary = Vocabulary(["the", "CT", "of"])
    types = hash_words(["the", "spleen", "ct", "spleen", "of", "mass"])
    ids, own = vocabulary.extend(types)
    assert [vocabulary.words[i] for i in ids[[0, 2, 4]]] == ["the", "CT", "of"]
    assert ids[1] == ids[3] >= vocabulary.size
    assert ids[5] != ids[1]
    assert own[ids[1] - vocabulary.size] == types[1]
    assert len(own) == 2


@given(st.lists(st.integers(0, 200), max_size=30), st.lists(st.integers(0, 200), max_size=90))
def test_words_among_others_are_those_that_numpy_finds(values: list[int], table: list[int]) -> None:
    ours, theirs = np.array(values, dtype=np.uint64), np.array(table, dtype=np.uint64)
    assert among(ours, theirs).tolist() == np.isin(ours, theirs).tolist()


def test_template_words_are_found_among_others() -> None:
    words = ["the", "gout", "was", "zzzz", "aaaa"]
    assert is_template(hash_words(words)).tolist() == [word in TEMPLATE_WORDS for word in words]
