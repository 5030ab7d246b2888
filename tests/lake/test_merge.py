"""The merge gives what sorting everything at once gives, whatever the blocks."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.lake.merge import align_sorted, merge_sorted

KEYS = st.text("abc", min_size=1, max_size=2)
STREAM = st.tuples(st.lists(KEYS, max_size=12), st.integers(1, 5))


def blocks(keys: list[str], size: int, tag: int):
    for first in range(0, len(keys), size):
        part = keys[first : first + size]
        yield pa.table(
            {"k": pa.array(part, pa.string()), "n": pa.array([tag * 100 + first + i for i in range(len(part))])}
        )
        yield pa.table({"k": pa.array([], pa.string()), "n": pa.array([], pa.int64())})  # an empty block in between


@settings(max_examples=300, deadline=None)
@given(st.lists(STREAM, max_size=5))
def test_merge_equals_sorting_everything(streams: list[tuple[list[str], int]]) -> None:
    parts = [(sorted(keys), size) for keys, size in streams]
    merged = list(merge_sorted([blocks(keys, size, tag) for tag, (keys, size) in enumerate(parts)], ["k", "n"]))
    rows = [(row["k"], row["n"]) for table in merged for row in table.to_pylist()]
    everything = [
        row for tag, (keys, size) in enumerate(parts) for block in blocks(keys, size, tag) for row in block.to_pylist()
    ]
    assert rows == sorted((row["k"], row["n"]) for row in everything)
    # All rows of a key come out in one table.
    homes: dict[str, set[int]] = {}
    for number, table in enumerate(merged):
        for key in table["k"].to_pylist():
            homes.setdefault(key, set()).add(number)
    assert all(len(numbers) == 1 for numbers in homes.values())


def test_no_streams() -> None:
    assert list(merge_sorted([], ["k"])) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(STREAM, min_size=1, max_size=4))
def test_aligned_streams_have_all_rows_of_a_key_together(streams: list[tuple[list[str], int]]) -> None:
    parts = [(sorted(keys), size) for keys, size in streams]
    found = list(align_sorted([blocks(keys, size, 0) for keys, size in parts], "k"))
    for number, (keys, _) in enumerate(parts):
        assert [key for row in found if row[number] is not None for key in row[number]["k"].to_pylist()] == keys
    intervals = [{key for part in row if part is not None for key in part["k"].to_pylist()} for row in found]
    assert all(max(one) < min(other) for one, other in pairwise(intervals))
