"""Batches of rows of about equal length."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medpipe.text.batches import bucket_batches, useful_fraction


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 200), st.integers(1, 20))
def test_every_row_once_and_within_the_budget(lengths, budget, most):
    sizes = np.array(lengths, dtype=np.int64)
    batches = bucket_batches(sizes, budget, most)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or sizes[batch].max() * len(batch) <= budget


def test_rows_of_equal_length_leave_no_padding():
    sizes = np.array([5, 2, 5, 2, 2])
    batches = bucket_batches(sizes, budget=10)
    assert useful_fraction(sizes, batches) > 0.9
    assert useful_fraction(sizes[:0], []) == 1.0
