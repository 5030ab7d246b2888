"""Ids: the same parts give the same id, other parts another."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from medpipe.ids import ID_LENGTH, hash_text, make_id, make_ids

PARTS = st.lists(st.one_of(st.none(), st.integers(), st.text()), max_size=5)


@given(PARTS, PARTS)
def test_ids_are_equal_where_parts_are_and_only_there(first: list, second: list) -> None:
    def same(a: list, b: list) -> bool:
        return [None if x is None else str(x) for x in a] == [None if x is None else str(x) for x in b]

    assert (make_id("entity", *first) == make_id("entity", *second)) == same(first, second)
    assert make_id("entity", *first) != make_id("relation", *first)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)  # Arrow's strings hold no lone surrogates


@given(st.lists(st.tuples(st.one_of(st.none(), WORDS), st.integers(-(2**63), 2**63 - 1), WORDS)), WORDS)
def test_many_ids_at_once_are_as_one_by_one(rows: list, shared: str) -> None:
    columns = [
        pa.array([row[place] for row in rows], kind)
        for place, kind in enumerate((pa.string(), pa.int64(), pa.string()))
    ]
    ids = make_ids("entity", columns[0], shared, columns[1], 7, columns[2].dictionary_encode())
    assert ids.type == pa.string()
    ids.validate(full=True)
    assert ids.to_pylist() == [make_id("entity", first, shared, number, 7, last) for first, number, last in rows]
    # A part of a column, too.
    assert make_ids("entity", columns[0][1:], columns[1][1:]).to_pylist() == [
        make_id("entity", first, number) for first, number, _ in rows[1:]
    ]


def test_ids_do_not_change_between_releases() -> None:
    # An id that changes orphans every row that was published before: these values may never change.
    assert make_id("document", "a.json", "0", None, hash_text("x")) == GOLDEN
    assert len(GOLDEN) == ID_LENGTH


def test_parts_cannot_run_together() -> None:
    assert make_id("x", "ab", "c") != make_id("x", "a", "bc")
    assert make_id("x", None) != make_id("x", "") != make_id("x")


GOLDEN = "1012a5df457b39eda42274492ac2a66f"
