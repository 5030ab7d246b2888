from __future__ import annotations

import numpy as np

from medpipe.summarize.align import align_tokens, oracle_sentences
from medpipe.summarize.features import Source, Vocabulary, describe_words, read_source
from medpipe.text.tokens import tokenize

TEXT = "The cat was seen on Monday. Fever of 39 degrees was measured at night. The dog had no fever at all."


def align(summary: str, source: Source, vocabulary: Vocabulary, oracle: list[int]) -> list[tuple[str, str | None]]:
    tokens = tokenize(summary)
    words = describe_words(summary, tokens)
    aligned = align_tokens(source, words, vocabulary.lookup(words.types) >= 0, np.array(oracle, dtype=np.int64))
    strings = source.tokens.strings(source.text)
    return [
        (word, f"{strings[place]}@{place}" if place >= 0 else None)
        for word, place in zip(tokens.strings(summary), aligned.tolist(), strict=True)
    ]


def test_the_longest_run_wins(vocabulary: Vocabulary) -> None:
    found = align("Fever of 39 degrees at night.", read_source(TEXT), vocabulary, [1])
    assert [source for _, source in found] == [
        "Fever@7", "of@8", "39@9", "degrees@10", "at@13", "night@14", ".@15",
    ]  # fmt: skip


def test_lone_template_words_are_generated_and_foreign_words_have_no_source(vocabulary: Vocabulary) -> None:
    found = dict(align("The parrot was ill", read_source(TEXT), vocabulary, []))
    assert found == {"The": None, "parrot": None, "was": None, "ill": None}


def test_the_oracle_sentence_is_preferred(vocabulary: Vocabulary) -> None:
    source = read_source(TEXT)
    assert align("fever", source, vocabulary, [1]) == [("fever", "Fever@7")]
    assert align("fever", source, vocabulary, [2]) == [("fever", "fever@20")]


def test_oracle_sentences_share_most_with_the_reference() -> None:
    source = read_source(TEXT)
    wanted = describe_words("no fever in the dog", tokenize("no fever in the dog")).types
    assert oracle_sentences(source, wanted)[0] == 2
    assert len(oracle_sentences(source, wanted[:0])) == 0
    nothing = describe_words("xylophone", tokenize("xylophone")).types
    assert len(oracle_sentences(source, nothing)) == 0
