"""Documents and their mentions -> graphs -> a batch of tensors.

A document's graph has its mentions, sentences and sections as nodes. Edges lead both ways:

========= ============================================ =====================================
kind      from, to                                     distance
========= ============================================ =====================================
inside    mention, its sentence                        0
section   sentence, its section                        0
order     sentence, the next                           1
near      mention, the next ones of its sentence       tokens between them
adjacent  mention, the first two of the next sentence  tokens between them
topic     mention, its section                         sentences since its beginning
same      mention, the next of the same concept        sentences between them
nested    mention, the mention that contains it        difference of their lengths in tokens
========= ============================================ =====================================

Two mentions are of the same concept where they have the same code or, without a code, the same words. The number of
edges grows with the number of mentions and sentences, never with its square.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from medpipe.relate.knowledge import Knowledge, Told, concept_key
from medpipe.text.batches import bucket_batches
from medpipe.text.rows import Rows, pad_rows
from medpipe.text.tokens import Tokens

EDGE_KINDS = ("inside", "section", "order", "near", "adjacent", "topic", "same", "nested")
NEAR = 3  # how many following mentions of its sentence a mention is joined to
ADJACENT = 2  # how many mentions of the next sentence
PAIR_FEATURES = 21


@dataclass(frozen=True, slots=True)
class Mentions:
    """The mentions of one document, sorted by start and end. All arrays: shape (mentions,)."""

    start: np.ndarray  # int64, characters
    end: np.ndarray  # int64
    label: np.ndarray  # int64, index into the model's labels
    codes: tuple[str | None, ...] = ()  # of their concepts; empty: none has one
    score: np.ndarray | None = None  # float64, how sure it is that they are mentions of their label; None: all are


@dataclass(frozen=True, slots=True)
class TypeRule:
    """Which mentions a type of relation may join."""

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
    concept: np.ndarray  # shape: (mentions,), int64; the same number for the same code or words
    sentence: np.ndarray  # shape: (mentions,), int64; the sentence in which it begins
    sections: int
    sentence_section: np.ndarray  # shape: (sentences,), int64
    edges: np.ndarray  # shape: (2, edges), int64; from, to
    edge_kind: np.ndarray  # shape: (edges,), int64; 2 * kind, plus one where it leads back
    edge_distance: np.ndarray  # shape: (edges,), float32
    pairs: np.ndarray  # shape: (pairs, 2), int64; head and tail mention
    allowed: np.ndarray  # shape: (pairs, types), bool; which types the pair is a candidate of
    pair_features: np.ndarray  # shape: (pairs, PAIR_FEATURES), float32
    pair_knowledge: np.ndarray  # shape: (pairs, types, FEATURES), float32; of ``knowledge``; without it (pairs, 0, 0)
    pairs_cut: int  # candidates that the limits left out

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.first) + len(self.sentence_section) + self.sections


def build_graph(
    text: str,
    tokens: Tokens,
    sentences: np.ndarray,
    section_starts: np.ndarray,
    mentions: Mentions,
    rules: Sequence[TypeRule],
    knowledge: Knowledge | None = None,
    own: Collection[Told] = (),
) -> Graph:
    """Builds the graph of a document.

    Args:
        text: the note.
        tokens: its tokens.
        sentences: shape: (sentences, 2), token intervals.
        section_starts: shape: (sections,), ascending; characters.
        mentions: one that covers no token counts as the next token, or the last.
        rules: of each type, which pairs are candidates.
        knowledge: what other documents tell of pairs of concepts.
        own: what this one has told to it.
    """
    first = np.minimum(np.searchsorted(tokens.end, mentions.start, side="right"), len(tokens) - 1)
    last = np.maximum(np.searchsorted(tokens.start, mentions.end, side="left") - 1, first)
    sentence = np.searchsorted(sentences[:, 0], first, side="right") - 1
    sentence_start = tokens.start[sentences[:, 0]]
    section = np.maximum(np.searchsorted(section_starts, sentence_start, side="right") - 1, 0)
    keys, concept = number_concepts(text, mentions)
    edges, kinds, distances = build_edges(first, last, sentence, section, concept)
    pairs, allowed, cut = candidate_pairs(mentions.label, first, sentence, rules)
    features = pair_features(pairs, first, last, sentence, section, concept, mentions.label)
    known = np.zeros((len(pairs), 0, 0), dtype=np.float32)
    if knowledge is not None:
        known = knowledge.features(keys, concept[pairs], own)
    return Graph(
        first, last, mentions.label, concept, sentence, max(1, len(section_starts)), section, edges, kinds, distances,
        pairs, allowed, features, known, cut,
    )  # fmt: skip


def number_concepts(text: str, mentions: Mentions) -> tuple[list[str], np.ndarray]:
    """Numbers concepts: the same for mentions of the same code or, without one, the same words in any case.

    Returns:
        The key of every concept (``knowledge.concept_key``), and the concept of every mention, shape: (mentions,).
    """
    numbers: dict[str, int] = {}
    codes = mentions.codes or (None,) * len(mentions.start)
    keys = [
        concept_key(text[start:end], code)
        for start, end, code in zip(mentions.start.tolist(), mentions.end.tolist(), codes, strict=True)
    ]
    concept = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return list(numbers), concept


def build_edges(
    first: np.ndarray, last: np.ndarray, sentence: np.ndarray, section: np.ndarray, concept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the edges of a document, their kinds and distances; see the module's docstring.

    Mentions are sorted by first token.
    """
    mentions, sentences = len(first), len(section)
    here, all_sentences = np.arange(mentions), np.arange(sentences)
    parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = [
        ("inside", here, mentions + sentence, np.zeros(mentions)),
        ("section", mentions + all_sentences, mentions + sentences + section, np.zeros(sentences)),
        ("order", mentions + all_sentences[:-1], mentions + all_sentences[1:], np.ones(max(0, sentences - 1))),
    ]
    for step in range(1, NEAR + 1):
        one = here[: max(0, mentions - step)]
        one = one[sentence[one] == sentence[one + step]]
        parts.append(("near", one, one + step, np.maximum(0, first[one + step] - last[one] - 1)))
    beyond = np.searchsorted(sentence, sentence + 1)  # the first mention behind the sentence
    for step in range(ADJACENT):
        one = here[beyond + step < mentions]
        two = beyond[one] + step
        next_one = sentence[two] == sentence[one] + 1
        one, two = one[next_one], two[next_one]
        parts.append(("adjacent", one, two, np.maximum(0, first[two] - last[one] - 1)))
    since = sentence - np.searchsorted(section, section[sentence])
    parts.append(("topic", here, mentions + sentences + section[sentence], since))
    order = np.lexsort((here, concept))
    one, two = order[:-1], order[1:]
    same = concept[one] == concept[two]
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
    starts, ends = first.tolist(), last.tolist()
    for one in np.lexsort((-last, first)).tolist():
        still_open = [other for other in still_open if ends[other] >= starts[one]]
        around = [
            other
            for other in still_open
            if ends[other] >= ends[one] and (starts[other], ends[other]) != (starts[one], ends[one])
        ]
        if around:
            inner.append(one)
            outer.append(min(around, key=lambda other: (ends[other] - starts[other], other)))
        still_open.append(one)
    return np.array(inner, dtype=np.int64), np.array(outer, dtype=np.int64)


def candidate_pairs(
    label: np.ndarray, first: np.ndarray, sentence: np.ndarray, rules: Sequence[TypeRule]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the pairs to be judged: for every type and tail its nearest heads within the window.

    Returns:
        shape: (pairs, 2), int64, sorted by tail, then head; shape: (pairs, types), bool: which types the pair may
        have; and how many pairs of fitting labels the limits left out, summed over the types.
    """
    count = len(label)
    numbers: list[np.ndarray] = []  # tail * mentions + head, of each type
    cut = 0
    of_label = [np.flatnonzero(label == one) for one in range(1 + max(max(*rule.heads, *rule.tails) for rule in rules))]
    for rule in rules:
        heads, tails = (merge([of_label[one] for one in labels]) for labels in (rule.heads, rule.tails))
        pairs = nearest_pairs(heads, tails, first, sentence, rule)
        numbers.append(pairs[:, 1] * count + pairs[:, 0])
        itself = len(np.intersect1d(heads, tails, assume_unique=True)) if set(rule.heads) & set(rule.tails) else 0
        cut += len(heads) * len(tails) - itself - len(pairs)
    joined = np.unique(np.concatenate(numbers)) if numbers else np.zeros(0, dtype=np.int64)
    allowed = np.zeros((len(joined), len(rules)), dtype=bool)
    for column, one in enumerate(numbers):
        allowed[np.searchsorted(joined, one), column] = True
    return np.stack([joined % max(1, count), joined // max(1, count)], axis=1), allowed, cut


def merge(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what several ascending arrays hold together, ascending."""
    return numbers[0] if len(numbers) == 1 else np.sort(np.concatenate(numbers))


def nearest_pairs(
    heads: np.ndarray, tails: np.ndarray, first: np.ndarray, sentence: np.ndarray, rule: TypeRule
) -> np.ndarray:
    """Returns for every tail its nearest heads within the window. shape: (pairs, 2), int64."""
    if not len(heads) or not len(tails):
        return np.zeros((0, 2), dtype=np.int64)
    # Heads are sorted by place, so the nearest ones of a tail, itself apart, lie in a window around it.
    middle = np.searchsorted(first[heads], first[tails])
    reach = np.arange(-rule.heads_per_tail - 1, rule.heads_per_tail + 1)
    reach = reach[(reach >= -len(heads)) & (reach < len(heads))]
    window = middle[:, None] + reach  # shape: (tails, reach)
    inside = (window >= 0) & (window < len(heads))
    chosen = heads[np.clip(window, 0, len(heads) - 1)]
    inside &= chosen != tails[:, None]
    distance = np.abs(first[chosen] - first[tails][:, None]).astype(np.float64)
    distance[~inside] = np.inf
    if distance.shape[1] > rule.heads_per_tail:
        order = np.argsort(distance, axis=1, kind="stable")[:, : rule.heads_per_tail]
        chosen, distance = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(distance, order, axis=1)
    valid = np.isfinite(distance)
    valid &= np.abs(sentence[chosen] - sentence[tails][:, None]) <= rule.sentence_window
    return np.stack([chosen[valid], np.broadcast_to(tails[:, None], chosen.shape)[valid]], axis=1)


def pair_features(
    pairs: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    sentence: np.ndarray,
    section: np.ndarray,
    concept: np.ndarray,
    label: np.ndarray,
) -> np.ndarray:
    """Returns what the places of head and tail say. shape: (pairs, PAIR_FEATURES), float32."""
    if not len(pairs):
        return np.zeros((0, PAIR_FEATURES), dtype=np.float32)
    head, tail = pairs[:, 0], pairs[:, 1]
    apart = sentence[tail] - sentence[head]
    distance = np.abs(apart)
    gap = np.maximum(0, np.maximum(first[tail] - last[head], first[head] - last[tail]) - 1)
    low, high = np.minimum(head, tail), np.maximum(head, tail)
    # Mentions by place, counted by label: how many like the head, or the tail, stand between the two.
    counted = np.zeros((len(label) + 1, int(label.max()) + 1), dtype=np.int64)
    np.cumsum(label[:, None] == np.arange(counted.shape[1]), axis=0, out=counted[1:])
    heads_between, tails_between = (counted[high, label[one]] - counted[low + 1, label[one]] for one in (head, tail))
    often = np.log1p(np.bincount(concept))[concept] / 2
    first_of_label = np.argmax(label[:, None] == np.arange(counted.shape[1]), axis=0)
    groups, group = np.unique(concept[head] * len(label) + concept[tail], return_inverse=True)
    nearest = np.full(len(groups), np.iinfo(np.int64).max)
    np.minimum.at(nearest, group, distance)
    columns = [
        apart == 0, apart == 1, apart == -1, (apart > 1) & (apart <= 3), apart > 3, apart < -1, head < tail,
        np.log1p(gap) / 4, np.log1p(distance) / 2, np.minimum(heads_between, 5) / 5, heads_between == 0,
        np.minimum(tails_between, 5) / 5, section[sentence[head]] == section[sentence[tail]],
        often[head], often[tail], concept[head] == concept[first_of_label[label[head]]],
        np.log1p(sentence[head]) / 3, np.log1p(sentence[tail]) / 3,
        (first[head] <= last[tail]) & (first[tail] <= last[head]),
        concept[head] == concept[tail], np.log1p(nearest)[group] / 2,
    ]  # fmt: skip
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


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
    concept: np.ndarray  # shape: (mentions,), int64
    sentence: np.ndarray  # shape: (mentions,), int64
    document: np.ndarray  # shape: (mentions,), int64; which of the documents
    sentence_document: np.ndarray  # shape: (sentences,), int64; which of the documents
    covers: np.ndarray  # shape: (tokens, labels), float32; 1 where a mention of the label covers the token
    mention_node: np.ndarray  # shape: (mentions,), int64
    sentence_node: np.ndarray  # shape: (sentences,), int64
    nodes: int
    edges: np.ndarray  # shape: (2, edges), int64; nodes
    edge_kind: np.ndarray  # shape: (edges,), int64
    edge_distance: np.ndarray  # shape: (edges,), float32
    pairs: np.ndarray  # shape: (pairs, 2), int64; mentions
    allowed: np.ndarray  # shape: (pairs, types), bool
    pair_features: np.ndarray  # shape: (pairs, PAIR_FEATURES), float32
    pair_knowledge: np.ndarray  # shape: (pairs, types, FEATURES), float32; without knowledge (pairs, 0, 0)
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
    numbers = np.asarray(documents, dtype=np.int64)
    row_limits = np.searchsorted(rows.text, np.stack([numbers, numbers + 1]))
    chosen = np.concatenate([np.arange(a, b) for a, b in row_limits.T])
    sizes = rows.offset[numbers + 1] - rows.offset[numbers]
    base = np.concatenate([[0], np.cumsum(sizes)])
    words = np.concatenate([rows.words[rows.offset[number] : rows.offset[number + 1]] for number in documents])
    vocabulary, words = np.unique(words, return_inverse=True)
    row_start = rows.start[chosen] + np.repeat(base[:-1] - rows.offset[numbers], row_limits[1] - row_limits[0])
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
    concepts = np.cumsum([0] + [int(graph.concept.max(initial=-1)) + 1 for graph in graphs])
    sentence_base = np.cumsum([0] + [len(graph.sentence_section) for graph in graphs])
    covers = np.zeros((len(words) + 1, labels), dtype=np.float32)
    np.add.at(covers, (first, label), 1)
    np.add.at(covers, (last + 1, label), -1)
    known = [graph.pair_knowledge for graph in graphs if len(graph.pairs)]
    return GraphBatch(
        words=words.reshape(-1),
        vocabulary=vocabulary,
        buckets=buckets,
        row_start=row_start,
        row_length=row_length,
        first=first,
        last=last,
        label=label,
        concept=np.concatenate([graph.concept + at for graph, at in zip(graphs, concepts, strict=False)]),
        sentence=np.concatenate([graph.sentence + at for graph, at in zip(graphs, sentence_base, strict=False)]),
        document=np.repeat(np.arange(len(graphs)), [len(graph.first) for graph in graphs]),
        sentence_document=np.repeat(np.arange(len(graphs)), np.diff(sentence_base)),
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
        allowed=np.concatenate([graph.allowed for graph in graphs]),
        pair_features=np.concatenate([graph.pair_features for graph in graphs]),
        pair_knowledge=np.concatenate(known or [np.zeros((0, 0, 0), dtype=np.float32)]),
        pair_document=np.repeat(np.arange(len(graphs)), [len(graph.pairs) for graph in graphs]),
        padded_tokens=sum(positions.size for positions, _, _ in buckets),
    )
