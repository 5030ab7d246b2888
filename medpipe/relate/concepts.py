"""What a document says of head and tail as concepts: how often, where and with whom all their mentions stand.

A pair of mentions far apart may be related because other mentions of the two concepts stand together, because the one
is what the document is about, or because nothing else is nearer. Each pair of mentions is therefore told of both its
concepts how they lie in the document, and of the two together how they lie to each other, beside their rivals: the
concepts of the head's label that the tail could have instead, and the other way round. Feature-based systems for
relations of whole documents rest on such counts (Xu et al. 2016, *CD-REST*; Gu, Qian, Zhou 2016).

All counts are made for a batch of documents at once; time and memory grow with the pairs, not with a square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpipe.relate.features import GraphBatch

OF_ONE = 12
OF_BOTH = 21
CONCEPT_FEATURES = 2 * OF_ONE + OF_BOTH


@dataclass(frozen=True, slots=True)
class ConceptPairs:
    """The pairs of a batch by the two concepts (and labels) that they join, and which of those are rivals."""

    group: np.ndarray  # shape: (pairs,), int64; the same number for the same concepts and labels
    head: np.ndarray  # shape: (groups,), int64; a mention that is head of one of the group's pairs
    tail: np.ndarray  # shape: (groups,), int64; and its tail
    for_tail: np.ndarray  # shape: (groups,), int64; the same number for the same tail and label of the head
    for_head: np.ndarray  # shape: (groups,), int64; the same number for the same head and label of the tail
    in_document: np.ndarray  # shape: (groups,), int64; the same number for the same document and labels


def join_concepts(batch: GraphBatch) -> ConceptPairs:
    """Returns the pairs of a batch by their concepts. Numbers of every kind begin at 0 and leave none out."""
    head, tail = batch.pairs[:, 0], batch.pairs[:, 1]
    labels = int(batch.label.max(initial=0)) + 1
    one, two = (batch.concept[end] * labels + batch.label[end] for end in (head, tail))
    _, example, group = np.unique(one * (int(two.max(initial=0)) + 1) + two, return_index=True, return_inverse=True)
    head, tail, one, two = head[example], tail[example], one[example], two[example]
    kind = batch.label[head] * labels + batch.label[tail]
    keys = (
        two * labels + batch.label[head],
        one * labels + batch.label[tail],
        batch.document[head] * labels**2 + kind,
    )
    return ConceptPairs(group.reshape(-1), head, tail, *(np.unique(key, return_inverse=True)[1] for key in keys))


def concept_features(batch: GraphBatch, joined: ConceptPairs) -> np.ndarray:
    """Returns what all mentions of their concepts say of the pairs. shape: (groups, CONCEPT_FEATURES), float32."""
    if not len(joined.head):
        return np.zeros((0, CONCEPT_FEATURES), dtype=np.float32)
    concept, document = batch.concept, batch.document
    kind = document * (int(batch.label.max()) + 1) + batch.label  # mentions of one label in one document
    sentences = np.bincount(batch.sentence_document)
    start = np.cumsum(sentences) - sentences  # the first sentence of each document
    place, sentences = batch.sentence - start[document], sentences[document]  # shape: (mentions,)
    # In how many sentences each concept stands.
    spread = np.bincount(distinct(concept, batch.sentence)[0], minlength=int(concept.max()) + 1)
    one = features_of_one(kind, concept, place, sentences, spread[concept])
    both = features_of_both(batch, joined, place, sentences, spread)
    return np.concatenate([one[joined.head], one[joined.tail], both], axis=1, dtype=np.float32)


def features_of_one(
    kind: np.ndarray, concept: np.ndarray, sentence: np.ndarray, sentences: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Returns how the concept of each mention lies in its document. shape: (mentions, OF_ONE).

    Args:
        kind: shape: (mentions,); label and document.
        concept: shape: (mentions,).
        sentence: shape: (mentions,); counted from the document's first.
        sentences: shape: (mentions,); how many its document has.
        spread: shape: (mentions,); in how many its concept stands.
    """
    count = np.bincount(concept)[concept]
    most = np.zeros(int(kind.max()) + 1, dtype=np.int64)
    np.maximum.at(most, kind, count)
    # Concepts of a kind, by where each begins.
    key = kind * (int(concept.max()) + 1) + concept
    _, begins, which = np.unique(key, return_index=True, return_inverse=True)
    concepts = np.bincount(kind[begins])
    order = np.lexsort((begins, kind[begins]))
    rank = np.empty(len(begins), dtype=np.int64)
    rank[order] = np.arange(len(begins)) - np.repeat(np.cumsum(concepts) - concepts, concepts)
    rank = rank[which]
    # Mentions are sorted by place, and no number of a concept is left out.
    earliest = sentence[np.unique(concept, return_index=True)[1]][concept]
    latest = sentence[::-1][np.unique(concept[::-1], return_index=True)[1]][concept]
    columns = [
        np.log(count) / 2, count / np.bincount(kind)[kind], count == most[kind],
        earliest == 0, latest == sentences - 1, earliest / sentences, latest / sentences,
        np.log(concepts[kind]) / 2, spread / sentences, np.log(spread) / 2, np.minimum(rank, 5) / 5, rank == 0,
    ]  # fmt: skip
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


def features_of_both(
    batch: GraphBatch, joined: ConceptPairs, place: np.ndarray, sentences: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Returns how the two concepts of each group of pairs lie to each other. shape: (groups, OF_BOTH).

    Args:
        batch: the documents.
        joined: of ``join_concepts``.
        place: shape: (mentions,); sentences since the document's first.
        sentences: shape: (mentions,); how many its document has.
        spread: shape: (concepts,); in how many sentences a concept stands.
    """
    head, tail = batch.pairs[:, 0], batch.pairs[:, 1]
    one, two, group = joined.head, joined.tail, joined.group
    apart = np.abs(batch.sentence[head] - batch.sentence[tail])
    gap = np.maximum(0, np.maximum(batch.first[tail] - batch.last[head], batch.first[head] - batch.last[tail]) - 1)
    # The nearest pair of a group.
    order = np.lexsort((gap, apart, group))
    nearest = order[np.searchsorted(group[order], np.arange(len(one)))]
    ahead, gap = batch.first[head[nearest]] < batch.first[tail[nearest]], gap[nearest]
    near = apart == 0
    shared_group, shared_place = distinct(group[near], place[head][near])
    shared = np.bincount(shared_group, minlength=len(one))
    at_start, at_end = np.zeros(len(one), dtype=bool), np.zeros(len(one), dtype=bool)
    at_start[shared_group[shared_place == 0]] = True
    at_end[shared_group[shared_place == sentences[one[shared_group]] - 1]] = True
    apart = apart[nearest]
    distance = np.minimum(apart, 99) * 1000 + np.minimum(gap, 999)
    ranks = [
        rank_among(rivals, value) for value in (distance, -shared) for rivals in (joined.for_tail, joined.for_head)
    ]
    most = np.zeros(int(joined.in_document.max()) + 1, dtype=np.int64)
    np.maximum.at(most, joined.in_document, shared)
    columns = [
        shared > 0, np.log1p(shared) / 2, shared / spread[batch.concept[one]], shared / spread[batch.concept[two]],
        shared / np.maximum(1, most)[joined.in_document], apart == 0, apart == 1, np.log1p(apart) / 2,
        np.log1p(gap) / 4, ahead, at_start, at_end, np.log(np.bincount(joined.in_document))[joined.in_document] / 4,
        np.log(sentences[one]) / 3, *(np.log1p(rank) / 2 for rank in ranks), *(rank == 0 for rank in ranks[:2]),
        ranks[0] + ranks[1] == 0,
    ]  # fmt: skip
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


def distinct(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different pairs of two arrays of numbers, sorted."""
    size = int(two.max(initial=0)) + 1
    joined = np.unique(one * size + two)
    return joined // size, joined % size


def rank_among(rivals: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns for each row how many of its rivals, the rows of the same number, have a smaller value.

    Args:
        rivals: shape: (rows,), int64; not negative.
        value: shape: (rows,), int64.
    """
    value = value - value.min(initial=0)
    size = int(value.max(initial=0)) + 1
    key = rivals * size + value
    ordered = np.sort(key)
    return np.asarray(np.searchsorted(ordered, key) - np.searchsorted(ordered, rivals * size))
