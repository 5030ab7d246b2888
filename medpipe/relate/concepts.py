"""What a document says of head and tail as concepts: how often, where and with whom all their mentions stand.

A pair of mentions far apart may be related because other mentions of the two concepts stand together, because the one
is what the document is about, or because nothing else is nearer. Each pair of mentions is therefore told of both its
concepts how they lie in the document, and of the two together how they lie to each other, beside their rivals: the
concepts of the head's label that the tail could have instead, and the other way round. Feature-based systems for
relations of whole documents rest on such counts (Xu et al. 2016, *CD-REST*; Gu, Qian, Zhou 2016).

All counts are made for a batch of documents at once; time and memory grow with the pairs, not with a square.
"""

from __future__ import annotations

import numpy as np

from medpipe.relate.features import GraphBatch

OF_ONE = 12
OF_BOTH = 21
CONCEPT_FEATURES = 2 * OF_ONE + OF_BOTH


def concept_features(batch: GraphBatch) -> np.ndarray:
    """Returns what all mentions of their concepts say of the pairs. shape: (pairs, CONCEPT_FEATURES), float32."""
    pairs, label, concept, sentence = batch.pairs, batch.label, batch.concept, batch.sentence
    document, sentence_document = batch.document, batch.sentence_document
    if not len(pairs):
        return np.zeros((0, CONCEPT_FEATURES), dtype=np.float32)
    head, tail = pairs[:, 0], pairs[:, 1]
    kind = document * (int(label.max()) + 1) + label  # mentions of one label in one document
    sentences = np.bincount(sentence_document)
    start = np.cumsum(sentences) - sentences  # the first sentence of each document
    spread = np.bincount(distinct(concept, sentence)[0], minlength=int(concept.max()) + 1)  # sentences of a concept
    one = features_of_one(kind, concept, sentence - start[document], sentences[document], spread[concept])
    both = features_of_both(
        pairs, batch.first, batch.last, kind, concept, sentence, spread, start[document], sentences[document]
    )
    return np.concatenate([one[head], one[tail], both], axis=1, dtype=np.float32)


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
    pairs: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    kind: np.ndarray,
    concept: np.ndarray,
    sentence: np.ndarray,
    spread: np.ndarray,
    start: np.ndarray,
    sentences: np.ndarray,
) -> np.ndarray:
    """Returns how the two concepts of each pair lie to each other. shape: (pairs, OF_BOTH).

    Args:
        pairs: shape: (pairs, 2).
        first: shape: (mentions,).
        last: shape: (mentions,).
        kind: shape: (mentions,); label and document.
        concept: shape: (mentions,).
        sentence: shape: (mentions,).
        spread: shape: (concepts,); in how many sentences a concept stands.
        start: shape: (mentions,); the first sentence of its document.
        sentences: shape: (mentions,); how many its document has.
    """
    head, tail = pairs[:, 0], pairs[:, 1]
    apart = np.abs(sentence[head] - sentence[tail])
    gap = np.maximum(0, np.maximum(first[tail] - last[head], first[head] - last[tail]) - 1)
    # The pairs of two concepts, labels apart, are a group; the nearest of them stands for it.
    key = concept[head] * (int(concept.max()) + 1) + concept[tail]
    order = np.lexsort((gap, apart, kind[head], kind[tail], key))
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([np.diff(one[order]) != 0 for one in (key, kind[head], kind[tail])], axis=0)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    nearest = order[new]  # shape: (groups,); pairs
    one, two = head[nearest], tail[nearest]
    near = apart == 0
    shared_group, shared_sentence = distinct(group[near], sentence[head][near])
    shared = np.bincount(shared_group, minlength=len(nearest))
    at_start, at_end = np.zeros(len(nearest), dtype=bool), np.zeros(len(nearest), dtype=bool)
    at_start[shared_group[shared_sentence == start[one[shared_group]]]] = True
    at_end[shared_group[shared_sentence == (start + sentences - 1)[one[shared_group]]]] = True
    of_head, of_tail = spread[concept[one]], spread[concept[two]]
    # A group's rivals have the same tail and a head of the same label, or the other way round.
    kinds = int(kind.max()) + 1
    for_tail, for_head = concept[two] * kinds + kind[one], concept[one] * kinds + kind[two]
    distance = np.minimum(apart[nearest], 99) * 1000 + np.minimum(gap[nearest], 999)
    ranks = [rank_among(rivals, value) for value in (distance, -shared) for rivals in (for_tail, for_head)]
    together = np.zeros(kinds, dtype=np.int64)
    np.maximum.at(together, kind[one], shared)
    candidates = np.bincount(kind[one], minlength=kinds)[kind[one]]
    columns = [
        shared > 0, np.log1p(shared) / 2, shared / of_head, shared / of_tail,
        shared / np.maximum(1, together[kind[one]]), apart[nearest] == 0, apart[nearest] == 1,
        np.log1p(apart[nearest]) / 2, np.log1p(gap[nearest]) / 4,
        first[one] < first[two], at_start, at_end, np.log(candidates) / 4, np.log(sentences[one]) / 3,
        *(np.log1p(rank) / 2 for rank in ranks), *(rank == 0 for rank in ranks[:2]),
        ranks[0] + ranks[1] == 0,
    ]  # fmt: skip
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)[group]


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
