"""The document graph against a naive builder, and the limits on its size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.relate.features import (
    ADJACENT,
    EDGE_KINDS,
    NEAR,
    PAIR_FEATURES,
    Mentions,
    TypeRule,
    build_edges,
    build_graph,
    candidate_pairs,
    number_concepts,
    pair_features,
)
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import tokenize


@st.composite
def layouts(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Sentences of 5 tokens, mentions with token limits inside a sentence, keys, sections."""
    sentences = draw(st.integers(1, 5))
    spans = draw(st.lists(st.tuples(st.integers(0, sentences - 1), st.integers(0, 4), st.integers(0, 2)), max_size=9))
    rows = sorted((5 * s + a, min(5 * s + a + n, 5 * s + 4), s) for s, a, n in spans)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    keys = np.array(draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))), dtype=np.int64)
    section = np.sort(
        np.array(draw(st.lists(st.integers(0, 2), min_size=sentences, max_size=sentences)), dtype=np.int64)
    )
    return columns[:, 0], columns[:, 1], columns[:, 2], section, keys


def naive_edges(first, last, sentence, section, keys) -> set[tuple[str, int, int, float]]:
    mentions, sentences = len(first), len(section)
    found = set()
    for i in range(mentions):
        found.add(("inside", i, mentions + sentence[i], 0.0))
        for j in range(i + 1, min(i + NEAR + 1, mentions)):
            if sentence[i] == sentence[j]:
                found.add(("near", i, j, float(max(0, first[j] - last[i] - 1))))
        found.add(
            (
                "topic",
                i,
                mentions + sentences + section[sentence[i]],
                float(sum(section[: sentence[i]] == section[sentence[i]])),
            )
        )
        for j in [j for j in range(mentions) if sentence[j] == sentence[i] + 1][:ADJACENT]:
            found.add(("adjacent", i, j, float(max(0, first[j] - last[i] - 1))))
        later = [j for j in range(i + 1, mentions) if keys[j] == keys[i]]
        if later:
            found.add(("same", i, later[0], float(sentence[later[0]] - sentence[i])))
        around = [
            j for j in range(mentions)
            if first[j] <= first[i] and last[i] <= last[j] and (first[j], last[j]) != (first[i], last[i])
        ]  # fmt: skip
        if around:
            size = min(last[j] - first[j] for j in around)
            j = min(j for j in around if last[j] - first[j] == size)
            found.add(("nested", i, j, float(size - (last[i] - first[i]))))
    for s in range(sentences):
        found.add(("section", mentions + s, mentions + sentences + section[s], 0.0))
        if s + 1 < sentences:
            found.add(("order", mentions + s, mentions + s + 1, 1.0))
    return found


@settings(max_examples=400, deadline=None)
@given(layouts())
def test_edges_equal_a_naive_builder(layout: tuple[np.ndarray, ...]) -> None:
    edges, kinds, distances = build_edges(*layout)
    half = edges.shape[1] // 2
    ahead = [(EDGE_KINDS[kinds[e] // 2], int(edges[0, e]), int(edges[1, e]), float(distances[e])) for e in range(half)]
    assert len(ahead) == len(set(ahead))
    assert set(ahead) == naive_edges(*layout)
    assert (kinds[:half] % 2 == 0).all() and (kinds[half:] == kinds[:half] + 1).all()
    assert (edges[:, half:] == edges[::-1, :half]).all() and (distances[half:] == distances[:half]).all()


@settings(max_examples=300, deadline=None)
@given(layouts(), st.data())
def test_pairs_equal_a_naive_choice(layout: tuple[np.ndarray, ...], data: st.DataObject) -> None:
    first, _, sentence, _, _ = layout
    label = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(first), max_size=len(first))), dtype=np.int64)
    ends = st.sampled_from([(0,), (1,), (0, 1), (1, 2)])
    rules = [
        TypeRule(data.draw(ends), data.draw(ends), data.draw(st.integers(0, 4)), data.draw(st.integers(1, 3)))
        for _ in range(2)
    ]
    pairs, allowed, cut = candidate_pairs(label, first, sentence, rules)
    assert pairs.tolist() == sorted(pairs.tolist(), key=lambda pair: (pair[1], pair[0]))
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) and allowed.any(axis=1).all()
    left_out = 0
    for column, rule in enumerate(rules):
        ours = {tuple(pair) for pair in pairs[allowed[:, column]].tolist()}
        heads = [i for i in range(len(first)) if label[i] in rule.heads]
        for tail in (i for i in range(len(first)) if label[i] in rule.tails):
            distance = {head: abs(int(first[head] - first[tail])) for head in heads if head != tail}
            taken = {head for head, end in ours if end == tail}
            near = {head for head in distance if abs(int(sentence[head] - sentence[tail])) <= rule.sentence_window}
            # Where several heads are equally near, any of them may be the last that is taken.
            surely = {
                head
                for head in near
                if sum(other <= distance[head] for other in distance.values()) <= rule.heads_per_tail
            }
            farthest = sorted(distance.values())[: rule.heads_per_tail][-1:] or [-1]
            possibly = {head for head in near if distance[head] <= farthest[0]}
            assert surely <= taken <= possibly and len(taken) <= rule.heads_per_tail
            left_out += len(distance) - len(taken)
    assert cut == left_out


@settings(max_examples=200, deadline=None)
@given(layouts(), st.data())
def test_counts_between_a_pair_equal_naive_ones(layout: tuple[np.ndarray, ...], data: st.DataObject) -> None:
    first, last, sentence, section, concept = layout
    label = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(first), max_size=len(first))), dtype=np.int64)
    pairs = np.array([(i, j) for i in range(len(first)) for j in range(len(first)) if i != j], np.int64).reshape(-1, 2)
    found = pair_features(pairs, first, last, sentence, section, concept, label)
    assert found.shape == (len(pairs), PAIR_FEATURES) and np.isfinite(found).all()
    for (head, tail), row in zip(pairs.tolist(), found, strict=True):
        between = label[min(head, tail) + 1 : max(head, tail)]
        assert np.isclose(row[9], min(5, (between == label[head]).sum()) / 5)
        assert np.isclose(row[11], min(5, (between == label[tail]).sum()) / 5)
        alike = [
            abs(int(sentence[i] - sentence[j]))
            for i, j in pairs.tolist()
            if (concept[i], concept[j]) == (concept[head], concept[tail])
        ]
        assert np.isclose(row[-1], np.log1p(min(alike)) / 2)


def graph_of(text: str, spans: list[tuple[str, int]], *rules: TypeRule):
    """The graph of a text with mentions given by their words, in order, and labels."""
    found, at = [], 0
    for words, label in spans:
        at = text.index(words, at)
        found.append((at, at + len(words), label))
    columns = np.array(found, dtype=np.int64).reshape(-1, 3)
    tokens = tokenize(text)
    return build_graph(text, tokens, split_sentences(text, tokens), np.array([0]), Mentions(*columns.T), rules)


def test_two_thousand_mentions_stay_small() -> None:
    text = "Asthma causes wheezing and cough. " * 700
    spans = [one for _ in range(700) for one in (("Asthma", 0), ("wheezing", 1), ("cough", 1))]
    graph = graph_of(text, spans, TypeRule((0,), (1,), sentence_window=5, heads_per_tail=8))
    assert len(graph.pairs) <= 1400 * 8
    assert graph.pairs_cut == 700 * 1400 - len(graph.pairs)
    assert graph.edges.shape[1] < 16 * graph.nodes
    assert graph.pair_features.shape[0] == len(graph.pairs) and np.isfinite(graph.pair_features).all()


def test_mentions_with_the_same_words_are_joined() -> None:
    graph = graph_of("Asthma. Cough. ASTHMA.", [("Asthma", 0), ("Cough", 1), ("ASTHMA", 0)], TypeRule((0,), (1,)))
    same = [
        tuple(edge)
        for edge, kind in zip(graph.edges.T.tolist(), graph.edge_kind, strict=True)
        if EDGE_KINDS[kind // 2] == "same"
    ]
    assert same == [(0, 2), (2, 0)]


def test_mentions_with_the_same_code_are_joined_and_others_not() -> None:
    text = "Gout. gout. Podagra. Gout."
    starts = np.array([0, 6, 12, 21])
    ends = np.array([4, 10, 19, 25])
    label = np.zeros(4, dtype=np.int64)
    assert number_concepts(text, Mentions(starts, ends, label))[1].tolist() == [0, 0, 1, 0]
    coded = Mentions(starts, ends, label, ("ICD|M10", None, "ICD|M10", "gout"))
    assert number_concepts(text, coded)[1].tolist() == [0, 1, 0, 2], "a code is no word"


def test_types_have_limits_of_their_own() -> None:
    rules = TypeRule((0,), (1,), sentence_window=0), TypeRule((0,), (0, 1), sentence_window=9)
    graph = graph_of("Asthma. Cough. Gout.", [("Asthma", 0), ("Cough", 1), ("Gout", 0)], *rules)
    kinds = {tuple(pair): allowed for pair, allowed in zip(graph.pairs.tolist(), graph.allowed.tolist(), strict=True)}
    assert kinds == {
        (0, 1): [False, True],
        (0, 2): [False, True],
        (2, 0): [False, True],
        (2, 1): [False, True],
    }
    assert graph.pairs_cut == 2
