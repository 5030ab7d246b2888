from __future__ import annotations

import numpy as np
import pyarrow as pa

from medpipe.summarize.decode import (
    Said,
    compose,
    copied_exactly,
    cut_sentences,
    extract_sentence,
    read_draft,
    spell,
    supporting_mentions,
    token_array,
)
from medpipe.summarize.features import Source, Vocabulary, read_source
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import tokenize
from tests.summarize.test_features import make_mentions


def say(source: Source, *words: str | int) -> Said:
    """Makes a draft: numbers are source tokens, strings are generated."""
    strings = source.tokens.strings(source.text)
    return Said(
        [strings[word] if isinstance(word, int) else word for word in words],
        np.array([word if isinstance(word, int) else -1 for word in words], dtype=np.int64),
        np.full(len(words), 0.5, dtype=np.float32),
    )


SOURCE = read_source("CBC: Hb 2.5g/dL  (low).\nNo fever, no left-sided\npain was seen.")
# tokens: 0 CBC 1 : 2 Hb 3 2 4 . 5 5 6 g 7 / 8 dL 9 ( 10 low 11 ) 12 . 13 No 14 fever 15 , 16 no 17 left 18 - 19 sided 20 pain …


def test_a_copied_run_keeps_its_spacing_and_other_words_get_that_of_print() -> None:
    said = say(SOURCE, "the", 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "was", 17, 18, 19, 20, ",", "(", 14, ")", ".")
    assert spell(SOURCE, said).text == "the Hb 2.5g/dL (low) was left-sided pain, (fever)."


def test_a_full_stop_within_a_copied_number_ends_no_sentence() -> None:
    said = say(SOURCE, 2, "was", 3, 4, 5, ".", "no", 14, 12, 13, 20)
    sentences = cut_sentences(SOURCE, said)
    assert [spell(SOURCE, one).text for one in sentences] == ["Hb was 2.5.", "No fever.", "No pain."]


def test_a_raised_letter_is_no_exact_copy() -> None:
    (sentence,) = cut_sentences(SOURCE, say(SOURCE, 14, "was", 10, "."))
    composed = compose(SOURCE, [sentence])
    assert composed.text == "Fever was low."
    assert copied_exactly(SOURCE, composed).tolist() == [False, False, True, False]


def test_an_extract_loses_its_list_mark_and_gains_a_full_stop() -> None:
    source = read_source("- Aspirin 81 mg daily\n- Rest,\n(See below.)")
    texts = [spell(source, extract_sentence(source, index, 0.9)).text for index in range(len(source.sentences))]
    assert texts == ["Aspirin 81 mg daily.", "Rest.", "(See below.)"]


def test_rows_lead_back_to_the_note() -> None:
    said = say(SOURCE, "The", 10, 2, "was", 3, 4, 5, 6, ".")
    composed = compose(SOURCE, [said, extract_sentence(SOURCE, 1, 0.7)])
    column = token_array([SOURCE], [composed])
    (tokens,) = pa.chunked_array([column]).to_pylist()
    rebuilt = 0
    for token in tokens:
        if token["source_start"] is None:
            assert token["source_end"] is None
            continue
        rebuilt += 1
        there = SOURCE.text[token["source_start"] : token["source_end"]]
        assert composed.text[token["start"] : token["end"]] == there
    assert rebuilt == 6 + 11  # all copies of the first sentence, all words of the second but no added mark
    assert [token["start"] for token in tokens] == sorted(token["start"] for token in tokens)


def test_no_summaries_at_all_give_an_empty_column() -> None:
    assert len(token_array([], [])) == 0
    empty = read_source("")
    assert token_array([empty], [compose(empty, [])]).to_pylist() == [[]]


def test_a_mention_supports_a_summary_only_as_a_whole() -> None:
    text = "No chest pain, but fever."
    source = read_source(text, mentions=make_mentions((3, 13, "SYMPTOM", True), (19, 24, "SYMPTOM", False)))
    composed = spell(source, say(source, 0, 1, 5))
    assert supporting_mentions(source, composed).tolist() == [False, True]


def test_a_draft_ends_at_its_end_mark_or_its_last_full_sentence() -> None:
    vocabulary = Vocabulary(["was", "."])
    slots = np.array([14, 20])
    was, stop, end = vocabulary.words.index("was"), vocabulary.words.index("."), Vocabulary.END
    words, copied = np.array([5, was, stop, 6, was, end, 0]), np.array([0, -1, -1, 1, -1, -1, -1])
    probabilities = np.ones(7, dtype=np.float32)
    draft = read_draft(SOURCE, slots, vocabulary, words, copied, probabilities)
    assert draft.words == ["fever", "was", ".", "pain", "was"]
    draft = read_draft(SOURCE, slots, vocabulary, words[:5], copied[:5], probabilities[:5])
    assert draft.words == ["fever", "was", "."]


def test_a_list_number_is_left_behind_and_a_number_is_not() -> None:
    source = read_source("2. Asthma since childhood\n2.5 mg of salt were given\n3) Gout in the knee")
    said = [" ".join(extract_sentence(source, place, 1.0).words) for place in range(len(source.sentences))]
    assert said == ["Asthma since childhood .", "2 . 5 mg of salt were given .", "Gout in the knee ."]


def test_no_two_sentences_are_read_as_one() -> None:
    source = read_source("As told in Annex I.\nVitamin deficiency was found.")
    text = compose(source, [extract_sentence(source, place, 1.0) for place in range(2)]).text
    assert text == "As told in Annex I.\nVitamin deficiency was found."
    assert len(split_sentences(text, tokenize(text))) == 2
