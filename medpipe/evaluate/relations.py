"""Relation scores: with gold entities, and end to end with predicted ones.

A relation counts as found where its type and the limits of head and tail are equal (and, end to end, their labels).
Anaphors are resolved as in training (``medpipe.learn.relations``). Micro-averaged over the corpus.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import tag_texts
from medpipe.learn.corpora import read_documents
from medpipe.learn.relations import Example, make_example
from medpipe.relate.features import Graph, Mentions
from medpipe.relate.stage import Relater
from medpipe.tag.stage import Tagger

Place = tuple[int, int]
Found = tuple[str, Place, Place]  # type, head, tail; by their characters
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
        entities), ``same_sentence`` and ``across_sentences`` (with gold entities).
    """
    relater = Relater.load(model, device=device)
    examples = read_examples(corpus, relater, labels)
    gold = [to_places(example.gold, example.mentions) for example in examples]
    with_gold, apart = relate(relater, examples, [example.mentions for example in examples])
    predicted = tag_mentions(Tagger.load(tagger, device=device), relater, examples)
    end_to_end, _ = relate(relater, examples, predicted)
    names = [kind.name for kind in relater.types]
    near = [{one for one in part if distance[one[1:]] == 0} for part, distance in zip(gold, apart, strict=True)]
    found_near = [
        {one for one in part if distance[one[1:]] == 0} for part, distance in zip(with_gold, apart, strict=True)
    ]
    return {
        "gold": score(gold, with_gold),
        "end_to_end": score(gold, end_to_end),
        "types": {name: score(of_type(gold, name), of_type(with_gold, name)) for name in names},
        "same_sentence": score(near, found_near),
        "across_sentences": score(
            [part - inside for part, inside in zip(gold, near, strict=True)],
            [part - inside for part, inside in zip(with_gold, found_near, strict=True)],
        ),
    }


def evaluate_baselines(corpus: Path, *, model: str | Path = "relations", labels: Path | None = None) -> dict[str, Any]:
    """Returns the scores, with gold entities, of what needs no model: all pairs of a sentence; the nearest disease."""
    relater = Relater.load(model, device="cpu")
    examples = read_examples(corpus, relater, labels)
    gold = [to_places(example.gold, example.mentions) for example in examples]
    baselines: dict[str, Judge] = {"all_pairs_in_a_sentence": same_sentence, "nearest_head": nearest_head}
    graphs, *_ = relater.score(
        [example.text for example in examples],
        [example.section_starts for example in examples],
        [example.mentions for example in examples],
    )
    scores = {}
    for name, judge in baselines.items():
        found = [
            {(relater.types[0].name, *places(example.mentions, pair)) for pair in graph.pairs[judge(graph)].tolist()}
            for example, graph in zip(examples, graphs, strict=True)
        ]
        scores[name] = score(gold, found)
    return scores


def same_sentence(graph: Graph) -> np.ndarray:
    """Judges that all of a sentence's pairs are related."""
    return np.asarray(graph.sentence[graph.pairs[:, 0]] == graph.sentence[graph.pairs[:, 1]])


def nearest_head(graph: Graph) -> np.ndarray:
    """Judges that every tail is related to its nearest head (by tokens), and to no other."""
    head, tail = graph.pairs[:, 0], graph.pairs[:, 1]
    distance = np.abs(graph.first[head] - graph.first[tail])
    nearest = np.full(len(graph.first), np.iinfo(np.int64).max)
    np.minimum.at(nearest, tail, distance)
    return np.asarray(distance == nearest[tail])


def read_examples(corpus: Path, relater: Relater, labels: Path | None) -> list[Example]:
    """Returns the corpus's documents as the model sees them."""
    entry = find_map(corpus, relater, labels)
    return [make_example(document, entry, relater.labels) for document in read_documents(corpus)]


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
    folder = corpus.resolve().parent.name
    entry = relater.corpora.get(folder)
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


def relate(
    relater: Relater, examples: Sequence[Example], mentions: Sequence[Mentions]
) -> tuple[list[set[Found]], list[dict[tuple[Place, Place], int]]]:
    """Returns the relations found in every document, and how many sentences each pair of mentions is apart."""
    found: list[set[Found]] = []
    apart: list[dict[tuple[Place, Place], int]] = []
    for at in range(0, len(examples), CHUNK):
        part = slice(at, at + CHUNK)
        texts = [example.text for example in examples[part]]
        graphs, scores, *_ = relater.score(texts, [one.section_starts for one in examples[part]], mentions[part])
        for graph, judged, ours in zip(graphs, scores, mentions[part], strict=True):
            told: set[Found] = set()
            for index, kind in enumerate(relater.types):
                if judged is not None:
                    pairs = graph.pairs[judged[:, index] >= kind.threshold].tolist()
                    told |= {(kind.name, *places(ours, pair)) for pair in pairs}
            found.append(told)
            every = range(len(graph.sentence))
            distance = np.abs(graph.sentence[:, None] - graph.sentence) if len(graph.sentence) else np.zeros((0, 0))
            apart.append({places(ours, (one, two)): int(distance[one, two]) for one in every for two in every})
    return found, apart


def places(mentions: Mentions, pair: Sequence[int]) -> tuple[Place, Place]:
    """Returns head and tail of a pair by their characters."""
    head, tail = pair
    return (
        (int(mentions.start[head]), int(mentions.end[head])),
        (int(mentions.start[tail]), int(mentions.end[tail])),
    )


def to_places(gold: frozenset[tuple[str, int, int]], mentions: Mentions) -> set[Found]:
    """Returns gold relations by the characters of their mentions."""
    return {(kind, *places(mentions, (head, tail))) for kind, head, tail in gold}


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
