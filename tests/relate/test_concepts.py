"""What a document says of two concepts, against naive counts."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.relate.concepts import CONCEPT_FEATURES, OF_ONE, concept_features, join_concepts, rank_among
from medpipe.relate.features import GraphBatch, Mentions, TypeRule, build_graph, collate
from medpipe.relate.network import ConceptJudge, NetworkConfig, group_maxima
from medpipe.text.features import WordTable
from medpipe.text.rows import make_rows

LABELS = 3
RULES = [TypeRule((0,), (1,), 5, 8), TypeRule((0, 2), (0, 1), 5, 8)]
WORDS = ["fever", "cough", "lupus", "aspirin", "rash"]


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, Mentions]:
    """A text of some sentences, of which some words are mentions; every word has one label or another."""
    sentences = draw(
        st.lists(st.lists(st.sampled_from([*WORDS, "and"]), min_size=1, max_size=5), min_size=1, max_size=4)
    )
    text = "\n".join("We saw " + " ".join(words) + "." for words in sentences)
    spans, at = [], 0
    for word in [word for words in sentences for word in words]:
        at = text.index(word, at)
        if word in WORDS:
            spans.append((at, at + len(word), draw(st.integers(0, LABELS - 1))))
        at += len(word)
    return text, Mentions(*np.array(spans, dtype=np.int64).reshape(-1, 3).T)


def batch_of(parts: list[tuple[str, Mentions]]) -> GraphBatch:
    table = WordTable(64)
    rows = make_rows([text for text, _ in parts], table)
    graphs = [
        build_graph(text, rows.tokens[i], rows.sentences[i], np.array([0]), mentions, RULES)
        for i, (text, mentions) in enumerate(parts)
    ]
    return collate(graphs, rows, range(len(parts)), LABELS, 4096)


def features_of(batch: GraphBatch) -> np.ndarray:
    joined = join_concepts(batch)
    return concept_features(batch, joined)[joined.group]


def naive(batch: GraphBatch, head: int, tail: int) -> dict[str, float]:
    """The counts of one pair, by loops."""
    ours = [i for i in range(len(batch.label)) if batch.document[i] == batch.document[head]]
    here = [s for s in range(len(batch.sentence_document)) if batch.sentence_document[s] == batch.document[head]]

    def places(mention: int) -> list[int]:
        return [int(batch.sentence[i]) for i in ours if batch.concept[i] == batch.concept[mention]]

    def alike(one: tuple[int, int]) -> tuple:
        return (*batch.concept[list(one)].tolist(), *batch.label[list(one)].tolist())

    def distance(one: tuple[int, int]) -> int:
        a, b = one
        gap = max(0, max(batch.first[b] - batch.last[a], batch.first[a] - batch.last[b]) - 1)
        return int(abs(batch.sentence[a] - batch.sentence[b]) * 1000 + gap)

    pairs = [(a, b) for a, b in batch.pairs.tolist() if a in ours]
    groups: dict[tuple, int] = {}
    for one in pairs:
        groups[alike(one)] = min(distance(one), groups.get(alike(one), 10**9))
    group = alike((head, tail))
    rivals = [value for other, value in groups.items() if other[1:] == group[1:]]
    both = set()
    for a, b in pairs:
        if alike((a, b)) == group and batch.sentence[a] == batch.sentence[b]:
            both.add(int(batch.sentence[a]))
    labelled = [i for i in ours if batch.label[i] == batch.label[head]]
    concepts = {int(batch.concept[i]) for i in labelled}
    return {
        "count": np.log(len(places(head))) / 2,
        "share": len(places(head)) / len(labelled),
        "most": float(len(places(head)) == max(len(places(i)) for i in labelled)),
        "first": float(min(places(head)) == here[0]),
        "last": float(max(places(head)) == here[-1]),
        "concepts": np.log(len(concepts)) / 2,
        "spread": len(set(places(head))) / len(here),
        "rank": float(min(i for i in labelled if batch.concept[i] == batch.concept[head]) == labelled[0]),
        "shared": np.log1p(len(both)) / 2,
        "at_start": float(here[0] in both),
        "at_end": float(here[-1] in both),
        "of_head": len(both) / len(set(places(head))),
        "closer": np.log1p(sum(value < groups[group] for value in rivals)) / 2,
    }


PLACES = {
    "count": 0, "share": 1, "most": 2, "first": 3, "last": 4, "concepts": 7, "spread": 8, "rank": 11,
    "shared": 2 * OF_ONE + 1, "of_head": 2 * OF_ONE + 2, "at_start": 2 * OF_ONE + 10, "at_end": 2 * OF_ONE + 11,
    "closer": 2 * OF_ONE + 14,
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(documents(), min_size=1, max_size=3))
def test_counts_equal_naive_ones(parts: list[tuple[str, Mentions]]) -> None:
    batch = batch_of(parts)
    found = features_of(batch)
    assert found.shape == (len(batch.pairs), CONCEPT_FEATURES) and np.isfinite(found).all()
    for (head, tail), row in zip(batch.pairs.tolist(), found, strict=True):
        for name, value in naive(batch, head, tail).items():
            assert np.isclose(row[PLACES[name]], value), name


@settings(max_examples=100, deadline=None)
@given(st.lists(documents(), min_size=2, max_size=3))
def test_a_document_is_counted_alone(parts: list[tuple[str, Mentions]]) -> None:
    batch = batch_of(parts)
    found = features_of(batch)
    for number, part in enumerate(parts):
        assert np.array_equal(found[batch.pair_document == number], features_of(batch_of([part])))


def test_all_pairs_of_two_concepts_are_told_the_same() -> None:
    text = "We saw lupus and fever.\nThe fever of lupus fell.\nIt was lupus."
    spans = [(text.index("lupus"), 0), (text.index("fever"), 1), (text.index("fever of"), 1)]
    spans += [(text.index("lupus fell"), 0), (text.rindex("lupus"), 0)]
    mentions = Mentions(*np.array([(at, at + 5, label) for at, label in spans], dtype=np.int64).T)
    found = features_of(batch_of([(text, mentions)]))
    batch = batch_of([(text, mentions)])
    pairs = [
        row for row, (head, tail) in enumerate(batch.pairs.tolist()) if batch.label[[head, tail]].tolist() == [0, 1]
    ]
    assert len(pairs) == 6 and (found[pairs] == found[pairs[0]]).all()
    assert np.isclose(found[pairs[0], 2 * OF_ONE + 1], np.log(3) / 2)  # two sentences hold both


def test_a_batch_without_pairs_has_no_counts() -> None:
    mentions = Mentions(*np.array([(0, 2, 2)], dtype=np.int64).T)
    batch = batch_of([("We saw fever.", mentions)])
    assert features_of(batch).shape == (0, CONCEPT_FEATURES)


def test_ranks_count_smaller_rivals_only() -> None:
    found = rank_among(np.array([4, 4, 4, 0, 4]), np.array([-3, 5, 5, 1, -9]))
    assert found.tolist() == [1, 2, 2, 0, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(documents(), min_size=1, max_size=3))
def test_rivals_share_document_and_labels_and_an_end(parts: list[tuple[str, Mentions]]) -> None:
    batch = batch_of(parts)
    joined = join_concepts(batch)
    ends = [(*batch.concept[[h, t]].tolist(), *batch.label[[h, t]].tolist()) for h, t in batch.pairs.tolist()]
    groups = sorted(set(ends))
    assert len(joined.head) == len(groups)
    of_group = {int(group): end for group, end in zip(joined.group, ends, strict=True)}
    documents_of = {end: int(batch.document[head]) for end, (head, _) in zip(ends, batch.pairs.tolist(), strict=True)}
    for one in range(len(groups)):
        for two in range(len(groups)):
            (h1, t1, a1, b1), (h2, t2, a2, b2) = of_group[one], of_group[two]
            alike = (a1, b1) == (a2, b2)
            assert (joined.for_tail[one] == joined.for_tail[two]) == (t1 == t2 and alike)
            assert (joined.for_head[one] == joined.for_head[two]) == (h1 == h2 and alike)
            same_document = documents_of[of_group[one]] == documents_of[of_group[two]]
            assert (joined.in_document[one] == joined.in_document[two]) == (same_document and alike)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9)), max_size=12))
def test_maxima_equal_a_loop(rows: list[tuple[int, float]]) -> None:
    numbers = {group: number for number, group in enumerate(dict.fromkeys(group for group, _ in rows))}
    group = torch.tensor([numbers[one] for one, _ in rows], dtype=torch.int64)
    values = torch.tensor([[value, -value] for _, value in rows]).view(-1, 2)
    found = group_maxima(values, group, len(numbers))
    for number in range(len(numbers)):
        assert torch.equal(found[number], values[group == number].amax(dim=0))


def test_a_rival_changes_what_is_said_of_a_pair() -> None:
    torch.manual_seed(5)
    judge = ConceptJudge(NetworkConfig(node=8, concepts=True, dropout=0.0), types=2)
    text = "We saw lupus and fever and cough."
    words = [("lupus", 0), ("fever", 1), ("cough", 1)]
    spans = [(text.index(word), text.index(word) + len(word), label) for word, label in words]
    batch = batch_of([(text, Mentions(*np.array(spans, dtype=np.int64).T))])
    of_fever = batch.pairs.tolist().index([0, 1])
    of_cough = batch.pairs.tolist().index([0, 2])
    hidden = torch.zeros(len(batch.pairs), 8)
    _, before = judge(batch, hidden)
    hidden[of_cough] = 3
    _, after = judge(batch, hidden)
    assert not torch.allclose(before[of_fever], after[of_fever])
