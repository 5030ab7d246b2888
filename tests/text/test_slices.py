"""Slices of texts as a column are the slices that Python makes."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from medpipe.text.slices import slice_texts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5)


@given(TEXTS, st.data())
def test_slices_equal_pythons(texts, data):
    chosen = [
        (number, start, data.draw(st.integers(start, len(texts[number]))))
        for number in (data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=8)) if texts else [])
        for start in [data.draw(st.integers(0, len(texts[number])))]
    ]
    number, start, end = (np.array([one[part] for one in chosen], dtype=np.int64) for part in range(3))
    found = slice_texts(pa.array(texts, pa.string()), number, start, end)
    found.validate(full=True)
    assert found.to_pylist() == [texts[one][first:last] for one, first, last in chosen]


def test_a_part_of_a_column():
    column = pa.array(["before", "nai\u0308ve \U0001f600!", "plain"], pa.string())[1:]
    found = slice_texts(column, np.array([0, 1, 0]), np.array([7, 0, 2]), np.array([8, 5, 4]))
    assert found.to_pylist() == ["\U0001f600", "plain", "i\u0308"]
