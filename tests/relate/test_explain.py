"""What a relation rests on: the strongest path against all paths, and its sentences."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.relate.decode import strongest_path
from medpipe.relate.features import Mentions
from medpipe.relate.stage import Relater


def all_walks(edges: list[tuple[int, int]], layers: list[list[float]], start: int) -> list[tuple[list[int], float]]:
    """Every way to go from a node through the layers: along an edge, or staying."""
    found = []
    for choice in product([None, *range(len(edges))], repeat=len(layers)):
        path, strength = [start], 1.0
        for weights, edge in zip(layers, choice, strict=True):
            if edge is None:
                continue
            if edges[edge][0] != path[-1]:
                strength = 0
                break
            path.append(edges[edge][1])
            strength *= weights[edge]
        if strength:
            found.append((path, strength))
    return found


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_strongest_path_beats_all_others(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(2, 5))
    node = st.integers(0, nodes - 1)
    edges = data.draw(st.lists(st.tuples(node, node).filter(lambda edge: edge[0] != edge[1]), max_size=6, unique=True))
    weight = st.floats(0.01, 1)
    layers = data.draw(st.lists(st.lists(weight, min_size=len(edges), max_size=len(edges)), min_size=0, max_size=2))
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    path, strength = strongest_path(ends, [np.array(one) for one in layers], 0, 1, nodes)
    walks = [
        one * two
        for middle in range(nodes)
        for (first, one), (second, two) in product(all_walks(edges, layers, middle), repeat=2)
        if first[-1] == 0 and second[-1] == 1
    ]
    assert np.isclose(strength, max(walks, default=0.0))
    if not walks:
        assert path == []
        return
    assert path[0] == 0 and path[-1] == 1 and len(path) <= 2 * len(layers) + 1
    known = {*edges, *((two, one) for one, two in edges)}
    assert all(step in known for step in pairwise(path))


def test_sentences_and_steps_of_a_relation(relater: Relater) -> None:
    text = "Gout hurts. Nothing else. The patient has pain. PLAN: rest."
    mentions = Mentions(np.array([0, text.index("pain")]), np.array([4, text.index("pain") + 4]), np.array([0, 1]))
    (found,) = relater.explain(text, np.array([0, text.index("PLAN")]), mentions, [(0, 1)])
    assert [text[a:b] for a, b in found.evidence] == ["Gout hurts.", "The patient has pain."]
    assert 0 < found.attention <= 1
    first, last = found.path[0], found.path[-1]
    assert (first.node, text[first.start : first.end]) == ("mention", "Gout")
    assert (last.node, text[last.start : last.end], last.edge) == ("mention", "pain", None)
    assert all(step.edge is not None for step in found.path[:-1])
    assert all(text[step.start : step.end] for step in found.path)


def test_to_explain_changes_no_score(relater: Relater) -> None:
    text = "Gout brings pain."
    mentions = Mentions(np.array([0, 12]), np.array([4, 16]), np.array([0, 1]))
    before = relater.score([text], [np.array([0])], [mentions])[1][0]
    relater.explain(text, np.array([0]), mentions, [(0, 1)])
    assert np.array_equal(before, relater.score([text], [np.array([0])], [mentions])[1][0])
