"""Documents and their mentions -> graphs -> a batch of tensors.

A document's graph has its mentions, sentences and sections as nodes. Edges lead both ways:

========= ======================================== =====================================
kind      from, to                                 distance
========= ======================================== =====================================
inside    mention, its sentence                    0
section   sentence, its section                    0
order     sentence, the next                       1
near      mention, the next ones of its sentence   tokens between them
same      mention, the next with the same words    sentences between them
nested    mention, the mention that contains it    difference of their lengths in tokens
========= ======================================== =====================================

The number of edges grows with the number of mentions and sentences, never with its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medpipe.text.batches import bucket_batches
from medpipe.text.rows import Rows, pad_rows
from medpipe.text.tokens import Tokens

EDGE_KINDS = ("inside", "section", "order", "near", "same", "nested")
NEAR = 3  # how many following mentions of its sentence a mention is joined to
PAIR_FEATURES = 16


@dataclass(frozen=True, slots=True)
class Mentions:
    """The mentions of one document, sorted by start and end. All arrays: shape (mentions,)."""

    start: np.ndarray  # int64, characters
    end: np.ndarray  # int64
    label: np.ndarray  # int64, index into the model's labels


@dataclass(frozen=True, slots=True)
class PairRule:
    """Which mentions may be related, and how many pairs a document may have."""

    heads: tuple[int, ...]  # labels
    tails: tuple[int, ...]
    sentence_window: int = 12  # sentences between head and tail, at most
    heads_per_tail: int = 24  # the nearest ones


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph of one document and its candidate pairs. Nodes: mentions, then sentences, then sections."""

    first: np.ndarray  # shape: (mentions,), int64; first token of the mention, within the document
    last: np.ndarray  # shape: (mentions,), int64; its last token
    label: np.ndarray  # shape: (mentions,), int64
    sentence: np.ndarray  # shape: (mentions,), int64; the sentence in which it begins
    sections: int
    sentence_section: np.ndarray  # shape: (sentences,), int64
    edges: np.ndarray  # shape: (2, edges), int64; from, to
    edge_kind: np.ndarray  # shape: (edges,), int64; 2 * kind, plus one where it leads back
    edge_distance: np.ndarray  # shape: (edges,), float32
    pairs: np.ndarray  # shape: (pairs, 2), int64; head and tail mention
    pair_features: np.ndarray  # shape: (pairs, PAIR_FEATURES), float32
    pairs_cut: int  # candidates that the limits left out

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.first) + len(self.sentence_section) + self.sections


def build_graph(
    text: str, tokens: Tokens, sentences: np.ndarray, section_starts: np.ndarray, mentions: Mentions, rule: PairRule
) -> Graph:
    """Builds the graph of a document.

    Args:
        text: the note.
        tokens: its tokens.
        sentences: shape: (sentences, 2), token intervals.
        section_starts: shape: (sections,), ascending; characters.
        mentions: one that covers no token counts as the next token, or the last.
        rule: which pairs are candidates.
    """
    first = np.minimum(np.searchsorted(tokens.end, mentions.start, side="right"), len(tokens) - 1)
    last = np.maximum(np.searchsorted(tokens.start, mentions.end, side="left") - 1, first)
    sentence = np.searchsorted(sentences[:, 0], first, side="right") - 1
    sentence_start = tokens.start[sentences[:, 0]]
    section = np.maximum(np.searchsorted(section_starts, sentence_start, side="right") - 1, 0)
    sections = max(1, len(section_starts))
    keys = number_keys([" ".join(text[a:b].lower().split()) for a, b in zip(mentions.start, mentions.end, strict=True)])
    edges, kinds, distances = build_edges(first, last, sentence, section, keys)
    pairs, cut = candidate_pairs(mentions.label, first, sentence, rule)
    features = pair_features(pairs, first, last, sentence, section, keys, mentions.label, rule)
    return Graph(
        first, last, mentions.label, sentence, sections, section, edges, kinds, distances, pairs, features, cut
    )


def number_keys(keys: Sequence[str]) -> np.ndarray:
    """Returns the same number for the same key. shape: (keys,), int64."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def build_edges(
    first: np.ndarray, last: np.ndarray, sentence: np.ndarray, section: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the edges of a document, their kinds and distances; see the module's docstring.

    Mentions are sorted by first token.
    """
    mentions, sentences = len(first), len(section)
    here = np.arange(mentions)
    parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = [
        ("inside", here, mentions + sentence, np.zeros(mentions)),
        ("section", mentions + np.arange(sentences), mentions + sentences + section, np.zeros(sentences)),
        (
            "order",
            mentions + np.arange(sentences - 1),
            mentions + np.arange(1, sentences),
            np.ones(max(0, sentences - 1)),
        ),
    ]
    for step in range(1, NEAR + 1):
        one = here[: max(0, mentions - step)]
        one = one[sentence[one] == sentence[one + step]]
        parts.append(("near", one, one + step, np.maximum(0, first[one + step] - last[one] - 1)))
    order = np.lexsort((here, keys))
    one, two = order[:-1], order[1:]
    same = keys[one] == keys[two]
    parts.append(("same", one[same], two[same], (sentence[two] - sentence[one])[same]))
    inner, outer = nesting(first, last)
    parts.append(("nested", inner, outer, (last[outer] - first[outer]) - (last[inner] - first[inner])))
    ahead = np.concatenate([np.stack([one, two]) for _, one, two, _ in parts], axis=1)
    kinds = np.concatenate([np.full(len(one), 2 * EDGE_KINDS.index(kind)) for kind, one, _, _ in parts])
    distances = np.concatenate([distance for *_, distance in parts])
    edges = np.concatenate([ahead, ahead[::-1]], axis=1).astype(np.int64)
    return edges, np.concatenate([kinds, kinds + 1]).astype(np.int64), np.tile(distances, 2).astype(np.float32)


def nesting(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mentions that lie in another, and for each the smallest that is longer and contains it."""
    inner: list[int] = []
    outer: list[int] = []
    still_open: list[int] = []
    for one in np.lexsort((-last, first)).tolist():
        still_open = [other for other in still_open if last[other] >= first[one]]
        around = [
            other
            for other in still_open
            if last[other] >= last[one] and (first[other], last[other]) != (first[one], last[one])
        ]
        if around:
            inner.append(one)
            outer.append(min(around, key=lambda other: (last[other] - first[other], other)))
        still_open.append(one)
    return np.array(inner, dtype=np.int64), np.array(outer, dtype=np.int64)


def candidate_pairs(
    label: np.ndarray, first: np.ndarray, sentence: np.ndarray, rule: PairRule
) -> tuple[np.ndarray, int]:
    """Returns the pairs to be judged: for every tail its nearest heads within the window; and how many were left out.

    Returns:
        shape: (pairs, 2), int64, sorted by tail, then head; and the count.
    """
    heads = np.flatnonzero(np.isin(label, rule.heads))
    tails = np.flatnonzero(np.isin(label, rule.tails))
    if not len(heads) or not len(tails):
        return np.zeros((0, 2), dtype=np.int64), 0
    # Heads are sorted by place, so the nearest ones of a tail lie in a window around it.
    middle = np.searchsorted(first[heads], first[tails])
    reach = np.arange(-rule.heads_per_tail, rule.heads_per_tail)
    window = middle[:, None] + reach  # shape: (tails, 2 * heads_per_tail)
    inside = (window >= 0) & (window < len(heads))
    chosen = heads[np.clip(window, 0, len(heads) - 1)]
    distance = np.abs(first[chosen] - first[tails][:, None]).astype(np.float64)
    distance[~inside] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, : rule.heads_per_tail]
    kept = np.take_along_axis(chosen, order, axis=1)
    valid = np.isfinite(np.take_along_axis(distance, order, axis=1))
    valid &= np.abs(sentence[kept] - sentence[tails][:, None]) <= rule.sentence_window
    valid &= kept != tails[:, None]
    pairs = np.stack([kept[valid], np.broadcast_to(tails[:, None], kept.shape)[valid]], axis=1)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    return pairs.astype(np.int64), len(heads) * len(tails) - len(pairs)


def pair_features(
    pairs: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    sentence: np.ndarray,
    section: np.ndarray,
    keys: np.ndarray,
    label: np.ndarray,
    rule: PairRule,
) -> np.ndarray:
    """Returns what the places of head and tail say. shape: (pairs, PAIR_FEATURES), float32."""
    head, tail = pairs[:, 0], pairs[:, 1]
    apart = sentence[tail] - sentence[head]
    gap = np.maximum(0, np.maximum(first[tail] - last[head], first[head] - last[tail]) - 1)
    is_head = np.isin(label, rule.heads)
    heads_before = np.concatenate([[0], np.cumsum(is_head)])  # among mentions by place
    low, high = np.minimum(head, tail), np.maximum(head, tail)
    between = heads_before[high] - heads_before[low + 1] if len(pairs) else np.zeros(0)
    mentions_of_key = np.bincount(keys, minlength=1)[keys] if len(keys) else np.zeros(0)
    first_key = keys[np.flatnonzero(is_head)[0]] if is_head.any() else -1
    columns = [
        apart == 0, apart == 1, apart == -1, (apart > 1) & (apart <= 3), apart > 3, apart < -1, head < tail,
        np.log1p(gap) / 4, np.log1p(np.abs(apart)) / 2, np.minimum(between, 5) / 5, between == 0,
        (section[sentence[head]] == section[sentence[tail]]), np.log1p(mentions_of_key[head]) / 2,
        keys[head] == first_key, np.log1p(sentence[head]) / 3,
        (first[head] <= last[tail]) & (first[tail] <= last[head]),
    ]  # fmt: skip
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1).reshape(-1, PAIR_FEATURES)


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """Several documents as one graph that falls apart into theirs. Numbers count through the batch."""

    words: np.ndarray  # shape: (tokens,), int64; rows of ``vocabulary``
    vocabulary: np.ndarray  # shape: (words,), int64; numbers of the WordTable
    buckets: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # token positions, inside, lengths of rows of equal length
    row_start: np.ndarray  # shape: (sentences,), int64; first token
    row_length: np.ndarray  # shape: (sentences,), int64
    first: np.ndarray  # shape: (mentions,), int64; tokens
    last: np.ndarray  # shape: (mentions,), int64
    label: np.ndarray  # shape: (mentions,), int64
    covers: np.ndarray  # shape: (tokens, labels), float32; 1 where a mention of the label covers the token
    mention_node: np.ndarray  # shape: (mentions,), int64
    sentence_node: np.ndarray  # shape: (sentences,), int64
    nodes: int
    edges: np.ndarray  # shape: (2, edges), int64; nodes
    edge_kind: np.ndarray  # shape: (edges,), int64
    edge_distance: np.ndarray  # shape: (edges,), float32
    pairs: np.ndarray  # shape: (pairs, 2), int64; mentions
    pair_features: np.ndarray  # shape: (pairs, PAIR_FEATURES), float32
    pair_document: np.ndarray  # shape: (pairs,), int64; which of the documents
    padded_tokens: int = field(default=0)


def collate(graphs: Sequence[Graph], rows: Rows, documents: Sequence[int], labels: int, row_budget: int) -> GraphBatch:
    """Joins graphs into a batch.

    Args:
        graphs: of the documents, in their order.
        rows: the sentences of (at least) these documents.
        documents: which texts of ``rows`` the graphs are of.
        labels: how many labels there are.
        row_budget: padded tokens of a bucket of sentences.
    """
    chosen = np.concatenate([np.flatnonzero(rows.text == number) for number in documents])
    base = np.concatenate([[0], np.cumsum([rows.offset[number + 1] - rows.offset[number] for number in documents])])
    words = np.concatenate([rows.words[rows.offset[number] : rows.offset[number + 1]] for number in documents])
    vocabulary, words = np.unique(words, return_inverse=True)
    shift = dict(zip(documents, base[:-1].tolist(), strict=True))
    row_start = (
        rows.start[chosen] - rows.offset[rows.text[chosen]] + np.array([shift[int(t)] for t in rows.text[chosen]])
    )
    row_length = rows.length[chosen]
    buckets = [
        (*pad_rows(row_start[part], row_length[part]), row_length[part])
        for part in bucket_batches(row_length, row_budget)
    ]
    node_base = np.concatenate([[0], np.cumsum([graph.nodes for graph in graphs])])
    mention_base = np.concatenate([[0], np.cumsum([len(graph.first) for graph in graphs])])
    first = np.concatenate([graph.first + at for graph, at in zip(graphs, base, strict=False)]).astype(np.int64)
    last = np.concatenate([graph.last + at for graph, at in zip(graphs, base, strict=False)]).astype(np.int64)
    label = np.concatenate([graph.label for graph in graphs]).astype(np.int64)
    covers = np.zeros((len(words) + 1, labels), dtype=np.float32)
    np.add.at(covers, (first, label), 1)
    np.add.at(covers, (last + 1, label), -1)
    return GraphBatch(
        words=words.reshape(-1),
        vocabulary=vocabulary,
        buckets=buckets,
        row_start=row_start,
        row_length=row_length,
        first=first,
        last=last,
        label=label,
        covers=(np.cumsum(covers, axis=0)[:-1] > 0.5).astype(np.float32),
        mention_node=np.concatenate([at + np.arange(len(g.first)) for g, at in zip(graphs, node_base, strict=False)]),
        sentence_node=np.concatenate(
            [at + len(g.first) + np.arange(len(g.sentence_section)) for g, at in zip(graphs, node_base, strict=False)]
        ),
        nodes=int(node_base[-1]),
        edges=np.concatenate([graph.edges + at for graph, at in zip(graphs, node_base, strict=False)], axis=1),
        edge_kind=np.concatenate([graph.edge_kind for graph in graphs]),
        edge_distance=np.concatenate([graph.edge_distance for graph in graphs]),
        pairs=np.concatenate([graph.pairs + at for graph, at in zip(graphs, mention_base, strict=False)]),
        pair_features=np.concatenate([graph.pair_features for graph in graphs]),
        pair_document=np.repeat(np.arange(len(graphs)), [len(graph.pairs) for graph in graphs]),
        padded_tokens=sum(positions.size for positions, _, _ in buckets),
    )
