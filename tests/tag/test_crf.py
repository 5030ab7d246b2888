"""The dynamic programmes against the enumeration of all tag sequences, and against pytorch-crf."""

from itertools import pairwise, product

import pytest
import torch
from torchcrf import CRF

from medpipe.tag.crf import (
    BEGIN,
    END,
    FORBIDDEN,
    INSIDE,
    OUTSIDE,
    SINGLE,
    TAGS,
    allowed_transitions,
    every_span,
    may_hold_entities,
    read_spans,
    span_log_probabilities,
    viterbi,
)


def make_chains(lengths, seed=0):
    """Random emissions and constrained transitions."""
    generator = torch.Generator().manual_seed(seed)
    allowed, may_start, may_end = allowed_transitions()
    emissions = torch.randn(max(lengths), len(lengths), len(TAGS), generator=generator) * 2
    transitions = torch.randn(len(TAGS), len(TAGS), generator=generator).masked_fill(~allowed, FORBIDDEN)
    starts = torch.randn(len(TAGS), generator=generator).masked_fill(~may_start, FORBIDDEN)
    ends = torch.randn(len(TAGS), generator=generator).masked_fill(~may_end, FORBIDDEN)
    return emissions, torch.tensor(lengths), transitions, starts, ends


def all_paths(emissions, length, transitions, starts, ends):
    """Every path of one chain with its score."""
    for path in product(range(len(TAGS)), repeat=length):
        score = starts[path[0]] + ends[path[-1]] + sum(emissions[step, tag] for step, tag in enumerate(path))
        score = score + sum(transitions[one, other] for one, other in pairwise(path))
        yield path, float(score)


def spans_of(path):
    """The plain way to read spans off a path."""
    found, start = [], 0
    for step, tag in enumerate(path):
        if tag in (BEGIN, SINGLE):
            start = step
        if tag in (END, SINGLE):
            found.append((start, step))
    return found


LENGTHS = [[1], [2], [1, 1], [2, 1, 2], [1, 2, 3, 4, 4], [5, 1, 3]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("seed", range(5))
def test_viterbi_equals_brute_force(lengths, seed):
    emissions, sizes, transitions, starts, ends = make_chains(lengths, seed)
    paths = viterbi(emissions, sizes, transitions, starts, ends)
    assert paths.shape == (len(lengths), max(lengths))
    for chain, length in enumerate(lengths):
        best, _ = max(all_paths(emissions[:, chain], length, transitions, starts, ends), key=lambda pair: pair[1])
        assert paths[chain, :length].tolist() == list(best)
        assert (paths[chain, length:] == OUTSIDE).all()


@pytest.mark.parametrize("lengths", [[1, 1], [2, 1], [9, 4, 1, 7, 9, 2]])
def test_viterbi_equals_pytorch_crf(lengths):
    emissions, sizes, transitions, starts, ends = make_chains(lengths, seed=11)
    crf = CRF(len(TAGS))
    with torch.no_grad():
        crf.transitions.copy_(transitions)
        crf.start_transitions.copy_(starts)
        crf.end_transitions.copy_(ends)
    mask = torch.arange(max(lengths))[:, None] < sizes
    expected = crf.decode(emissions, mask=mask)
    paths = viterbi(emissions, sizes, transitions, starts, ends)
    assert [paths[chain, :length].tolist() for chain, length in enumerate(lengths)] == expected


def test_viterbi_obeys_the_constraints_whatever_the_emissions():
    emissions, sizes, transitions, starts, ends = make_chains([30] * 50, seed=3)
    allowed, may_start, may_end = allowed_transitions()
    paths = viterbi(emissions * 50, sizes, transitions, starts, ends)
    assert allowed[paths[:, :-1], paths[:, 1:]].all()
    assert may_start[paths[:, 0]].all()
    assert may_end[paths[:, -1]].all()


@pytest.mark.parametrize("lengths", [*LENGTHS, [6] * 200])
@pytest.mark.parametrize("outside", [0.0, 2.0, 6.0])
def test_chains_that_are_left_out_hold_no_entity(lengths, outside):
    emissions, sizes, transitions, starts, ends = make_chains(lengths, seed=int(outside))
    emissions[:, :, OUTSIDE] += outside
    some = may_hold_entities(emissions, transitions, starts, ends)
    filled = (viterbi(emissions, sizes, transitions, starts, ends) != OUTSIDE).any(1)
    assert some[filled].all()
    if outside == 6 and len(lengths) == 200:
        assert some.sum() < 100  # it leaves out what it should


@pytest.mark.parametrize("lengths", LENGTHS)
def test_span_probability_equals_brute_force(lengths):
    emissions, sizes, transitions, starts, ends = make_chains(lengths, seed=5)
    # Make entities likely, so that there are some.
    emissions[:, :, OUTSIDE] -= 9
    path = viterbi(emissions, sizes, transitions, starts, ends)
    spans = read_spans(path)
    logs = span_log_probabilities(emissions, sizes, transitions, starts, ends, path, spans)
    assert len(spans)
    for (chain, first, last), log in zip(spans.tolist(), logs.tolist(), strict=True):
        weights = [
            (torch.tensor(score).double().exp().item(), (first, last) in spans_of(one))
            for one, score in all_paths(emissions[:, chain], lengths[chain], transitions, starts, ends)
        ]
        expected = sum(weight for weight, holds in weights if holds) / sum(weight for weight, _ in weights)
        assert torch.tensor(log).exp().item() == pytest.approx(expected, abs=1e-5)


def test_span_probability_far_into_a_long_chain():
    emissions, sizes, transitions, starts, ends = make_chains([150, 3], seed=2)
    path = viterbi(emissions, sizes, transitions, starts, ends)
    spans = read_spans(path)
    logs = span_log_probabilities(emissions, sizes, transitions, starts, ends, path, spans)
    assert torch.isfinite(logs).all()
    assert (logs <= 0).all()
    # The same emissions in double precision.
    double = [values.double() for values in (emissions, transitions, starts, ends)]
    exact = span_log_probabilities(double[0], sizes, *double[1:], path, spans)
    assert torch.allclose(logs.double(), exact, atol=1e-3)


def test_read_spans():
    path = torch.tensor([[BEGIN, INSIDE, END, SINGLE, OUTSIDE], [SINGLE, SINGLE, BEGIN, END, OUTSIDE], [OUTSIDE] * 5])
    assert read_spans(path).tolist() == [[0, 0, 2], [0, 3, 3], [1, 0, 0], [1, 1, 1], [1, 2, 3]]
    assert read_spans(torch.zeros(0, 4, dtype=torch.long)).shape == (0, 3)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_span_holds_those_that_are(lengths):
    emissions, sizes, transitions, starts, ends = make_chains(lengths, seed=8)
    emissions[:, :, OUTSIDE] -= 5
    path = viterbi(emissions, sizes, transitions, starts, ends)
    spans, kept = every_span(path)
    assert len(spans) == path.numel()
    assert spans[kept].tolist() == read_spans(path).tolist()
    logs = span_log_probabilities(emissions, sizes, transitions, starts, ends, path, spans)
    assert (
        logs[kept].tolist()
        == span_log_probabilities(emissions, sizes, transitions, starts, ends, path, spans[kept]).tolist()
    )


def test_allowed_transitions():
    transitions, starts, ends = allowed_transitions()
    allowed = {(TAGS[one], TAGS[other]) for one, other in transitions.nonzero().tolist()}
    assert allowed == {
        ("O", "O"), ("O", "B"), ("O", "S"), ("B", "I"), ("B", "E"), ("I", "I"), ("I", "E"),
        ("E", "O"), ("E", "B"), ("E", "S"), ("S", "O"), ("S", "B"), ("S", "S"),
    }  # fmt: skip
    assert [TAGS[tag] for tag in starts.nonzero().flatten()] == ["O", "B", "S"]
    assert [TAGS[tag] for tag in ends.nonzero().flatten()] == ["O", "E", "S"]
