"""Discontinuous mentions from mentions and gaps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medpipe.tag.decode import Spans
from medpipe.tag.fragments import cut_out, find_fragments, find_gaps, split_gaps

TEXT = "Pain in the left and right arm, and weakness."


def make_spans(*spans):
    """Spans of (text, start, end, label), sorted by text and start."""
    columns = np.array(sorted(spans), dtype=np.int64).reshape(-1, 4)
    return Spans(*columns.T, score=np.zeros(len(columns)))


def test_gaps_are_what_lies_between_the_parts_white_space_aside():
    parts = [(0, 11), (12, 16), (27, 30)]  # "Pain in the", "left", "arm"
    gaps = find_gaps(parts, TEXT)
    assert [TEXT[start:end] for start, end in gaps] == ["and right"]
    assert [TEXT[start:end] for start, end in cut_out(0, 30, gaps, TEXT)] == ["Pain in the left", "arm"]
    assert find_gaps([], TEXT) == find_gaps([(0, 4)], TEXT) == find_gaps([(0, 11), (12, 16)], TEXT) == []


def test_parts_in_any_order_and_overlapping():
    assert find_gaps([(27, 30), (0, 16), (8, 11)], TEXT) == [(17, 26)]


def test_a_gap_is_of_the_smallest_mention_around_it():
    spans = make_spans((0, 0, 44, 0), (0, 0, 30, 1), (0, 21, 30, 2), (1, 0, 30, 1))
    found = find_fragments(spans, make_spans((0, 17, 26, 9)), [TEXT, TEXT])
    assert found == {0: [(0, 16), (27, 30)]}  # sorted by start, then end: 0 is the one that ends at 30


def test_a_gap_at_the_end_of_a_mention_or_in_none_is_nobody_s():
    spans = make_spans((0, 0, 26, 0), (0, 17, 30, 0), (1, 0, 30, 0))
    assert find_fragments(spans, make_spans((0, 17, 26, 9), (2, 17, 26, 9)), [TEXT] * 3) == {}
    assert find_fragments(make_spans(), make_spans((0, 17, 26, 9)), [TEXT]) == {}


def test_mentions_and_gaps_part_by_label():
    spans, gaps = split_gaps(make_spans((0, 0, 30, 1), (0, 17, 26, 2)), 2)
    assert spans.label.tolist() == [1]
    assert gaps.start.tolist() == [17]
    spans, gaps = split_gaps(make_spans((0, 0, 30, 1)), 2)
    assert (len(spans), len(gaps)) == (1, 0)


@given(st.lists(st.tuples(st.integers(1, 18), st.integers(1, 18)), max_size=5))
def test_parts_are_the_mention_without_its_holes(limits):
    text = "ab cd efg h ijkl mno"
    holes = [(min(one), max(one) + 1) for one in limits if max(one) + 1 < len(text)]
    parts = cut_out(0, len(text), holes, text)
    kept = {place for start, end in parts for place in range(start, end)}
    free = {place for place in range(len(text)) if not any(start <= place < end for start, end in holes)}
    assert kept == {place for place in free if not text[place].isspace()} | {
        place for start, end in parts for place in range(start, end) if text[place].isspace()
    }
    assert kept <= free
    assert all(text[start:end].strip() == text[start:end] != "" for start, end in parts)
    # What it leaves out again is what was cut out, white space aside.
    assert set(find_gaps(parts, text)) == set(find_gaps(cut_out(0, len(text), find_gaps(parts, text), text), text))
