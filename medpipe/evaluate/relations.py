"""Relation scores: with gold entities, and end to end with predicted ones.

A relation counts as found where its type and the limits and labels of head and tail are equal; a discontinuous
mention counts by its outer extent. Anaphors are resolved as in training (``medpipe.learn.relations``); a relation of
an anaphor that stands for nothing counts as missed. Micro-averaged over the corpus.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import corpus_name, tag_texts
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.learn.relations import Example, gold_relations, make_example
from medpipe.relate.features import Graph, Mentions
from medpipe.relate.stage import Relater
from medpipe.tag.stage import Tagger
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import tokenize

Place = tuple[int, int, str | None]  # start, end, label; None: a type that the model does not know, never found
Found = tuple[str, Place, Place]  # type, head, tail
Judge = Callable[[Graph], np.ndarray]  # a graph -> which of its pairs are related, shape (pairs,), bool

CHUNK = 64  # documents related at a time


def evaluate_relations(
    corpus: Path,
    *,
    model: str | Path = "relations",
    tagger: str | Path = "tagger",
    device: str = "auto",
    labels: Path | None = None,
) -> dict[str, Any]:
    """Scores a relation model on an annotated corpus.

    Args:
        corpus: JSON lines in the corpus format.
        model: name of a shipped model, or a folder.
        tagger: the tagger whose entities it gets end to end.
        device: auto, cpu, cuda or cuda:N.
        labels: TOML file with tables ``labels`` and ``relations`` (type -> ours) and optionally ``anaphora``; if not
            given, the map of the corpus in the model's config is used, found by the name of the corpus's folder.

    Returns:
        ``gold`` and ``end_to_end`` (``precision``, ``recall``, ``f1``, ``support``), ``types`` (by name, with gold
        entities); and each of the first two again for the relations within a sentence (``…_same_sentence``), for those
        across sentences (``…_across_sentences``), and against the relations as annotated, that is, with those of an
        anaphor left at the anaphor, where no model without that label can find them (``…_as_annotated``).

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, CONFIG_INVALID, MODEL_NOT_FOUND, MODEL_INVALID,
            DEVICE_UNAVAILABLE.
    """
    relater = Relater.load(model, device=device)
    entry = find_map(corpus, relater, labels)
    documents = read_documents(corpus)
    examples = [make_example(document, entry, relater.labels) for document in documents]
    gold = [gold_places(document, entry) for document in documents]
    annotated = [gold_places(document, {**entry, "anaphora": None}) for document in documents]
    found = {
        "gold": relate(relater, examples, [example.mentions for example in examples]),
        "end_to_end": relate(relater, examples, tag_mentions(Tagger.load(tagger, device=device), relater, examples)),
    }
    scores: dict[str, Any] = {name: score(gold, ours) for name, ours in found.items()}
    scores["types"] = {
        kind.name: score(of_type(gold, kind.name), of_type(found["gold"], kind.name)) for kind in relater.types
    }
    starts = [sentence_starts(document.text) for document in documents]
    for name, ours in found.items():
        gold_near, gold_far = split_by_sentence(gold, starts)
        near, far = split_by_sentence(ours, starts)
        scores[f"{name}_same_sentence"] = score(gold_near, near)
        scores[f"{name}_across_sentences"] = score(gold_far, far)
        scores[f"{name}_as_annotated"] = score(annotated, ours)
    return scores


def evaluate_baselines(
    corpus: Path,
    *,
    model: str | Path = "relations",
    without_graph: str | Path | None = None,
    labels: Path | None = None,
) -> dict[str, Any]:
    """Returns the scores, with gold entities, of what the graph network must beat.

    Args:
        corpus: JSON lines in the corpus format.
        model: whose candidates and label map are used.
        without_graph: a model trained with ``layers = 0`` (config ``relations-without-graph``), if there is one.
        labels: as in ``evaluate_relations``.

    Returns:
        Scores of ``all_pairs_in_a_sentence``, ``nearest_head`` and, with a model for it, ``without_graph``.
    """
    relater = Relater.load(model, device="cpu")
    entry = find_map(corpus, relater, labels)
    documents = read_documents(corpus)
    examples = [make_example(document, entry, relater.labels) for document in documents]
    gold = [gold_places(document, entry) for document in documents]
    graphs, *_ = relater.score(
        [example.text for example in examples],
        [example.section_starts for example in examples],
        [example.mentions for example in examples],
    )
    baselines: dict[str, Judge] = {"all_pairs_in_a_sentence": same_sentence, "nearest_head": nearest_head}
    scores = {}
    for name, judge in baselines.items():
        found = [
            to_places(relater, graph, example.mentions, [judge(graph)] * len(relater.types))
            for example, graph in zip(examples, graphs, strict=True)
        ]
        scores[name] = score(gold, found)
    if without_graph is not None:
        other = Relater.load(without_graph, device="cpu")
        scores["without_graph"] = score(gold, relate(other, examples, [example.mentions for example in examples]))
    return scores


def same_sentence(graph: Graph) -> np.ndarray:
    """Judges that all of a sentence's pairs are related."""
    return np.asarray(graph.sentence[graph.pairs[:, 0]] == graph.sentence[graph.pairs[:, 1]])


def nearest_head(graph: Graph) -> np.ndarray:
    """Judges that every tail is related to its nearest head (by tokens; to both where two are equally near)."""
    head, tail = graph.pairs[:, 0], graph.pairs[:, 1]
    distance = np.abs(graph.first[head] - graph.first[tail])
    nearest = np.full(len(graph.first), np.iinfo(np.int64).max)
    np.minimum.at(nearest, tail, distance)
    return np.asarray(distance == nearest[tail])


def find_map(corpus: Path, relater: Relater, labels: Path | None) -> Mapping[str, Any]:
    """Returns the label map of a file, or the one of the model's config for the corpus's folder.

    Raises:
        MedpipeError: CONFIG_INVALID where there is none.
    """
    if labels is not None:
        try:
            table = tomllib.loads(labels.read_text(encoding="utf-8"))
            return {"labels": table["labels"], "relations": table["relations"], "anaphora": table.get("anaphora")}
        except (OSError, ValueError, KeyError) as error:
            raise MedpipeError("CONFIG_INVALID", name=labels, reason=type(error).__name__) from error
    entry = relater.corpora.get(corpus_name(corpus, relater.corpora) or "")
    if entry is None:
        identity = {"labels": {label: label for label in relater.labels}}
        return identity | {"relations": {kind.name: kind.name for kind in relater.types}}
    return entry


def tag_mentions(tagger: Tagger, relater: Relater, examples: Sequence[Example]) -> list[Mentions]:
    """Returns the entities that the tagger finds, of the labels that the model relates."""
    found = []
    for spans in tag_texts(tagger, [example.text for example in examples]):
        kept = sorted(
            (start, end, relater.labels.index(label)) for start, end, label in spans if label in relater.labels
        )
        found.append(Mentions(*np.array(kept, dtype=np.int64).reshape(-1, 3).T))
    return found


def relate(relater: Relater, examples: Sequence[Example], mentions: Sequence[Mentions]) -> list[set[Found]]:
    """Returns the relations that the model tells of every document, between the given mentions."""
    found: list[set[Found]] = []
    for at in range(0, len(examples), CHUNK):
        part = slice(at, at + CHUNK)
        texts = [example.text for example in examples[part]]
        graphs, scores, *_ = relater.score(texts, [one.section_starts for one in examples[part]], mentions[part])
        for graph, judged, ours in zip(graphs, scores, mentions[part], strict=True):
            told = []
            if judged is not None:
                told = [judged[:, index] >= kind.threshold for index, kind in enumerate(relater.types)]
            found.append(to_places(relater, graph, ours, told))
    return found


def to_places(relater: Relater, graph: Graph, mentions: Mentions, told: Sequence[np.ndarray]) -> set[Found]:
    """Returns the relations of a document by the places of their mentions.

    Args:
        told: for each type which of the graph's pairs are related, shape (pairs,), bool; pairs whose labels are not
            the type's are left out.
    """
    columns = zip(mentions.start.tolist(), mentions.end.tolist(), mentions.label.tolist(), strict=True)
    places = [(start, end, relater.labels[label]) for start, end, label in columns]
    return {
        (kind.name, places[head], places[tail])
        for kind, chosen in zip(relater.types, told, strict=False)
        for head, tail in graph.pairs[chosen].tolist()
        if (places[head][2], places[tail][2]) == (kind.head, kind.tail)
    }


def gold_places(document: AnnotatedDocument, entry: Mapping[str, Any]) -> set[Found]:
    """Returns the gold relations of a document by the places of their mentions, in the model's types and labels."""
    places: dict[str, Place] = {
        entity.entity_id: (entity.start, entity.end, entry["labels"].get(entity.label)) for entity in document.entities
    }
    relations = gold_relations(document, entry)
    return {(kind, places[head], places[tail]) for kind, head, tail in relations if head in places and tail in places}


def sentence_starts(text: str) -> np.ndarray:
    """Returns where the sentences of a text begin. shape: (sentences,), characters."""
    tokens = tokenize(text)
    return np.asarray(tokens.start[split_sentences(text, tokens)[:, 0]])


def split_by_sentence(
    found: Sequence[set[Found]], starts: Sequence[np.ndarray]
) -> tuple[list[set[Found]], list[set[Found]]]:
    """Returns the relations whose head and tail begin in one sentence, and the others."""
    near = [
        {one for one in part if np.ptp(np.searchsorted(begin, [one[1][0], one[2][0]], side="right")) == 0}
        for part, begin in zip(found, starts, strict=True)
    ]
    return near, [part - inside for part, inside in zip(found, near, strict=True)]


def of_type(found: Sequence[set[Found]], name: str) -> list[set[Found]]:
    """Returns the relations of a type."""
    return [{one for one in part if one[0] == name} for part in found]


def score(gold: Sequence[set[Found]], found: Sequence[set[Found]]) -> dict[str, float]:
    """Returns micro-averaged ``precision``, ``recall``, ``f1`` and the ``support``, the number of gold relations."""
    right = sum(len(one & two) for one, two in zip(gold, found, strict=True))
    told = sum(len(part) for part in found)
    support = sum(len(part) for part in gold)
    precision, recall = right / told if told else 0.0, right / support if support else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}
