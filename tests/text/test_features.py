"""Words as hashes: the same in every process, and close for words that look alike."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medpipe.text.features import GRAMS, PADDING, WHOLE, WordTable, word_features, word_shape


def test_shapes():
    words = {
        "Pain": "Xxx",
        "HIV": "XX",
        "the": "xx",
        "mRNA": "xXX",
        "2014": "dd",
        "β": "x",
        "–": "–",
        "Émile": "Xxx",
        "I": "X",
    }
    assert {word: word_shape(word) for word in words} == words


def test_features_do_not_depend_on_the_process():
    code = "from medpipe.text.features import word_features; print(word_features('Lisinopril', 65536))"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert runs == {f"{word_features('Lisinopril', 65536)}\n"}


def test_case_shows_in_the_shape_alone():
    plain, capital = word_features("fever", 65536), word_features("FEVER", 65536)
    assert [one == other for one, other in zip(plain, capital, strict=True)] == [True, True, False] + [True] * (
        len(plain) - 3
    )


def test_drugs_of_a_family_share_subwords():
    def grams(word):
        return set(word_features(word, 1 << 20)[WHOLE:]) - {PADDING}

    assert len(grams("lisinopril") & grams("enalapril")) >= 3
    assert not grams("lisinopril") & grams("warfarin")


@given(st.text(max_size=80), st.integers(2, 1 << 16))
def test_any_word_fits_the_table(word, buckets):
    features = word_features(word, buckets)
    assert len(features) == WHOLE + GRAMS
    assert all(0 <= feature < buckets for feature in features)
    assert PADDING not in features[:WHOLE]


def test_table_numbers_words_in_order_and_grows():
    table = WordTable(1000)
    assert table.look_up(["a", "b", "a", "c"]).tolist() == [0, 1, 0, 2]
    assert table.look_up([]).tolist() == []
    many = table.look_up([f"w{number}" for number in range(3000)])
    assert many.tolist() == list(range(3, 3003))
    assert table.features.shape == (3003, WHOLE + GRAMS)
    assert table.features[many[17]].tolist() == word_features("w17", 1000)
    table.clear()
    assert len(table) == 0
    assert np.array_equal(table.look_up(["c"]), [0])


def test_lone_surrogates_are_words_too():
    assert len(WordTable(100).look_up(["\ud800x"])) == 1
