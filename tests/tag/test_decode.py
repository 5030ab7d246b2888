"""From tags to sorted, nested, calibrated spans."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.tag.crf import BEGIN, END, INSIDE, SINGLE
from medpipe.tag.decode import (
    Spans,
    calibrate,
    choose_chains,
    collect,
    decode_chains,
    drop_headings,
    find_sections,
    join_chains,
    nest,
    sort_spans,
)
from medpipe.tag.network import NetworkConfig, TaggerNetwork


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TaggerNetwork(NetworkConfig(buckets=50, width=4, hidden=4), labels=3, styles=1).eval()


def decode(network, emissions, lengths, labels):
    return collect([decode_chains(network, choose_chains(network, emissions, lengths, labels))])


def test_decoding_reads_every_label_and_level(network):
    emissions = torch.zeros(2, 4, 3, 2, 5)
    emissions[..., 0] = 8  # outside
    for row, label, level, tags in (
        (0, 0, 0, [BEGIN, INSIDE, END]),
        (0, 0, 1, [0, SINGLE]),
        (1, 1, 0, [SINGLE]),
        (1, 2, 0, [SINGLE]),
    ):
        for step, tag in enumerate(tags):
            emissions[row, step, label, level, tag] += 20 * (tag > 0)
    places, logs = decode(network, emissions, torch.tensor([4, 1]), labels=2)
    assert places.tolist() == [[0, 0, 2, 0], [0, 1, 1, 0], [1, 0, 0, 1]]  # label 2 is not wanted
    assert (np.exp(logs) > 0.99).all()


def test_nothing_found(network):
    emissions = torch.zeros(1, 3, 3, 2, 5)
    emissions[..., 0] = 30
    places, logs = decode(network, emissions, torch.tensor([3]), labels=3)
    assert (places.shape, logs.shape) == ((0, 4), (0,))
    assert [part.shape for part in collect([])] == [(0, 4), (0,)]


def test_batches_decoded_together_are_as_decoded_alone(network):
    """Also the way for a GPU, on which no chain is left out: the same entities, and lines that are none."""
    emissions = torch.randn(9, 7, 3, 2, 5) * 3
    lengths = torch.tensor([7, 7, 5, 5, 4, 3, 2, 1, 1])
    alone = [
        choose_chains(network, emissions[part, : lengths[part].max()], lengths[part], 3)
        for part in (slice(0, 4), slice(4, 9))
    ]
    places, logs = collect([decode_chains(network, join_chains(alone, [0, 4]))])
    order = np.lexsort(places.T)
    whole, expected = decode(network, emissions, lengths, labels=3)
    other = np.lexsort(whole.T)
    assert len(places) > 20
    assert (places[order] == whole[other]).all()
    assert np.allclose(logs[order], expected[other])


def slow_parents(starts, ends, labels):
    """The definition, in so many words."""
    parents = []
    for one in range(len(starts)):
        size = ends[one] - starts[one]
        around = [
            (ends[other] - starts[other], labels[other], starts[other], other)
            for other in range(len(starts))
            if starts[other] <= starts[one] and ends[other] >= ends[one] and ends[other] - starts[other] > size
        ]
        parents.append(min(around)[3] if around else -1)
    return parents


def nest_lists(starts, ends, labels):
    """Nests the entities of a text, with others of the same places in the texts around it."""
    count = len(starts)
    text = np.repeat([0, 1, 2], count)
    spans = Spans(
        text, *(np.tile(np.array(values, dtype=np.int64), 3) for values in (starts, ends, labels)), np.ones(3 * count)
    )
    parents, depths = nest(spans)
    assert (parents[:count] == parents[count : 2 * count] - np.where(parents[count : 2 * count] < 0, 0, count)).all()
    return parents[:count].tolist(), depths[2 * count :].tolist()


intervals = st.sets(st.tuples(st.integers(0, 12), st.integers(1, 6), st.integers(0, 2)), max_size=25)


@given(intervals)
def test_parents_equal_the_definition(chosen):
    spans = sorted((start, start + size, label) for start, size, label in chosen)
    starts, ends, labels = ([span[part] for span in spans] for part in range(3))
    parents, depths = nest_lists(starts, ends, labels)
    assert parents == slow_parents(starts, ends, labels)
    assert depths == [0 if parent < 0 else depths[parent] + 1 for parent in parents]


def test_equal_spans_are_not_each_others_parents():
    parents, depths = nest_lists([0, 0, 0, 2], [9, 5, 5, 3], [0, 1, 2, 0])
    assert parents == [-1, 0, 0, 1]
    assert depths == [0, 1, 1, 2]


def test_nesting_work_does_not_grow_with_the_square():
    count = 200_000
    parents, depths = nest_lists(list(range(count)), list(range(1, count + 1)), [0] * count)
    assert set(parents) == {-1}
    assert set(depths) == {0}


def test_sort_spans_keeps_the_more_probable_of_equal_ones():
    spans = sort_spans(
        text=np.array([1, 0, 0, 0]),
        start=np.array([0, 5, 5, 2]),
        end=np.array([1, 7, 7, 9]),
        label=np.array([0, 1, 1, 0]),
        score=np.array([-0.1, -2.0, -1.0, -0.5]),
    )
    assert list(zip(spans.text, spans.start, spans.end, spans.label, spans.score, strict=True)) == [
        (0, 2, 9, 0, -0.5),
        (0, 5, 7, 1, -1.0),
        (1, 0, 1, 0, -0.1),
    ]
    assert spans.of_text(0) == slice(0, 2)
    assert spans.of_text(1) == slice(2, 3)
    assert spans.of_text(2) == slice(3, 3)


def test_calibrate():
    logs = np.log(np.array([0.2, 0.5, 0.9, 1.0]))
    assert calibrate(logs, 1.0, 0.0).tolist() == [0.2, 0.5, 0.9, 1.0]
    softer = calibrate(logs, 0.5, 0.0)
    assert softer[0] > 0.2
    assert softer[2] < 0.9
    assert (calibrate(np.array([-1e9]), 1.0, 0.0) >= 0).all()


def test_find_sections_takes_the_innermost():
    # Section 0 holds section 1; section 2 follows; between 30 and 40 there is none.
    start, end = np.array([0, 5, 20, 40]), np.array([20, 10, 30, 50])
    starts = np.array([0, 5, 9, 10, 19, 20, 35, 45, 60])
    none = np.zeros(0, dtype=int)
    # The same sections in text 0 and in text 2; text 1 has none.
    owner, twice = np.repeat([0, 2], 4), (np.tile(start, 2), np.tile(end, 2))
    expected = [0, 1, 1, 0, 0, 2, -1, 3, -1]
    assert find_sections(np.zeros(9, dtype=int), starts, owner, *twice).tolist() == expected
    assert find_sections(np.full(9, 1), starts, owner, *twice).tolist() == [-1] * 9
    assert find_sections(np.full(9, 2), starts, owner, *twice).tolist() == [
        place + 4 * (place >= 0) for place in expected
    ]
    assert find_sections(np.array([0]), np.array([3]), none, none, none).tolist() == [-1]


def test_what_lies_within_a_heading_is_no_entity() -> None:
    text, start, end = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 5, 12, 0, 40, 0]), np.array([5, 9, 20, 5, 45, 5])
    spans = Spans(text, start, end, np.zeros(6, dtype=np.int64), np.ones(6))
    # Text 0 has headings at 0–10 and 12–15, text 1 one at 30–50.
    kept = drop_headings(spans, np.array([1, 0, 0]), np.array([30, 0, 12]), np.array([50, 10, 15]))
    assert list(zip(kept.text.tolist(), kept.start.tolist(), strict=True)) == [(0, 12), (1, 0), (2, 0)]
    none = np.zeros(0, dtype=np.int64)
    assert len(drop_headings(spans, none, none, none)) == 6
