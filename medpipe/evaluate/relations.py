"""Relation scores: with gold entities, and end to end with predicted ones, side by side.

A relation counts as found where its type and the limits and labels of head and tail are equal; a discontinuous
mention counts by its outer extent. Anaphors are resolved as in training (``medpipe.learn.relations``); a relation of
an anaphor that stands for nothing counts as missed. In a corpus that relates concepts (``concepts`` in its label map),
a relation counts as found where its type and both codes are equal. Where a type of the corpus may be either of two
labels of the model, the two count as one. Micro-averaged over the corpus.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import CHUNK, corpus_name
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.learn.relations import Example, as_list, concept_gold, gold_relations, group_pairs, label_of, make_example
from medpipe.relate.decode import calibrate
from medpipe.relate.features import Graph, Mentions
from medpipe.relate.stage import Relater
from medpipe.tag.stage import Tagger
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import tokenize
from medpipe.weights import find_model

# Where an end of a relation stands: (start, end, label), the label None where the model does not know its type; or, of
# a concept, its code or, without one, its mention.
Place = tuple[int, int, str | None] | str
Found = tuple[str, Place, Place]  # type, head, tail
Judge = Callable[[Graph, int], np.ndarray]  # a graph and a type -> how sure each pair has it, shape (pairs,), logits

BINS = 10  # of the calibration error


@dataclass(frozen=True, slots=True)
class Gold:
    """An annotated corpus as a model sees it."""

    examples: list[Example]
    relations: list[set[Found]]
    starts: list[np.ndarray]  # of each document, where its sentences begin, characters
    entry: Mapping[str, Any]  # the corpus's label map
    documents: list[AnnotatedDocument]


def read_gold(corpus: Path, relater: Relater, labels: Path | None) -> Gold:
    """Reads a corpus in the labels and types of a model.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, CONFIG_INVALID.
    """
    entry = find_map(corpus, relater, labels)
    documents = read_documents(corpus)
    examples = [make_example(document, entry, relater.labels, relater.types) for document in documents]
    relations = [gold_places(document, entry, relater) for document in documents]
    starts = [sentence_starts(document.text) for document in documents]
    return Gold(examples, relations, starts, entry, documents)


def evaluate_relations(
    corpus: Path,
    *,
    model: str | Path = "relations",
    tagger: str | Path | None = None,
    device: str = "auto",
    labels: Path | None = None,
) -> dict[str, Any]:
    """Scores a relation model on an annotated corpus.

    Args:
        corpus: JSON lines in the corpus format.
        model: name of a shipped model, or a folder.
        tagger: the tagger whose entities it gets end to end; default: the one that goes with the model (in its folder
            ``tagger``), or the shipped one.
        device: auto, cpu, cuda or cuda:N.
        labels: TOML file with tables ``labels`` and ``relations`` (type -> ours) and optionally ``anaphora``,
            ``chains`` and ``concepts``; if not given, the map of the corpus in the model's config is used, found by the
            name of the corpus's folder.

    Returns:
        ``gold`` and ``end_to_end`` (``precision``, ``recall``, ``f1``, ``support``); ``types`` and
        ``types_end_to_end`` (by name); ``weighted`` (F1 of the types, weighted by their support, of both); each of
        the first two again for the relations within a sentence (``…_same_sentence``), for those across sentences
        (``…_across_sentences``), and, where the corpus has anaphors, against the relations as annotated, that is, with
        those of an anaphor left at the anaphor (``…_as_annotated``); ``calibration_error`` of the scores with gold
        entities; ``baselines``: ``all_pairs_in_a_sentence`` and ``nearest_head``, each ``…_gold`` and ``…_end_to_end``.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, CONFIG_INVALID, MODEL_NOT_FOUND, MODEL_INVALID,
            DEVICE_UNAVAILABLE.
    """
    relater = Relater.load(model, device=device)
    gold = read_gold(corpus, relater, labels)
    entities = Tagger.load(tagger or find_tagger(model), device=device)
    mentions = {
        "gold": [example.mentions for example in gold.examples],
        "end_to_end": tag_mentions(entities, relater, gold.examples),
    }
    judged = {name: judge(relater, gold.examples, ours) for name, ours in mentions.items()}
    found = {name: tell(relater, gold, mentions[name], *judged[name]) for name in judged}
    scores: dict[str, Any] = {name: score(gold.relations, ours) for name, ours in found.items()}
    for name, key in (("gold", "types"), ("end_to_end", "types_end_to_end")):
        scores[key] = {
            kind.name: score(of_type(gold.relations, kind.name), of_type(found[name], kind.name))
            for kind in relater.types
            if kind.name in told_types(gold.entry)
        }
    scores["weighted"] = {"gold": weighted_f1(scores["types"]), "end_to_end": weighted_f1(scores["types_end_to_end"])}
    for name, ours in found.items():
        near, far = (
            [split_by_sentence(one, gold, number) for number, one in enumerate(part)] for part in (gold.relations, ours)
        )
        for place, part in enumerate(("same_sentence", "across_sentences")):
            scores[f"{name}_{part}"] = score([one[place] for one in near], [one[place] for one in far])
    if gold.entry.get("anaphora"):
        annotated = [gold_places(one, {**gold.entry, "anaphora": None}, relater) for one in gold.documents]
        scores |= {f"{name}_as_annotated": score(annotated, ours) for name, ours in found.items()}
    scores["calibration_error"] = calibration_error(relater, gold, *judged["gold"])
    scores["baselines"] = {
        f"{name}_{part}": score(
            gold.relations, tell(relater, gold, mentions[part], graphs, use(baseline, graphs, relater))
        )
        for name, baseline in BASELINES.items()
        for part, (graphs, _) in judged.items()
    }
    return scores


def find_tagger(model: str | Path) -> str | Path:
    """Returns the tagger that goes with a relation model, or the shipped one."""
    own = find_model(model) / "tagger"
    return own if own.is_dir() else "tagger"


def same_sentence(graph: Graph, kind: int) -> np.ndarray:
    """Judges that all of a sentence's pairs are related."""
    near = graph.sentence[graph.pairs[:, 0]] == graph.sentence[graph.pairs[:, 1]]
    return np.where(near & graph.allowed[:, kind], np.inf, -np.inf)


def nearest_head(graph: Graph, kind: int) -> np.ndarray:
    """Judges that every tail is related to its nearest head (by tokens; to both where two are equally near)."""
    head, tail = graph.pairs[:, 0], graph.pairs[:, 1]
    allowed = graph.allowed[:, kind]
    distance = np.abs(graph.first[head] - graph.first[tail])
    nearest = np.full(len(graph.first), np.iinfo(np.int64).max)
    np.minimum.at(nearest, tail[allowed], distance[allowed])
    return np.where(allowed & (distance == nearest[tail]), np.inf, -np.inf)


BASELINES: dict[str, Judge] = {"all_pairs_in_a_sentence": same_sentence, "nearest_head": nearest_head}


def use(judge: Judge, graphs: Sequence[Graph], relater: Relater) -> list[np.ndarray | None]:
    """Returns what a baseline says of all pairs, as a model's logits."""
    return [np.stack([judge(graph, kind) for kind in range(len(relater.types))], axis=1) for graph in graphs]


def find_map(corpus: Path, relater: Relater, labels: Path | None) -> Mapping[str, Any]:
    """Returns the label map of a file, or the one of the model's config for the corpus's folder.

    Raises:
        MedpipeError: CONFIG_INVALID where the file is none.
    """
    if labels is not None:
        try:
            table = tomllib.loads(labels.read_text(encoding="utf-8"))
            known = {one.name for one in relater.types}
            unknown = {name for names in table["relations"].values() for name in as_list(names)} - known
            if unknown:
                raise ValueError(f"unknown types {sorted(unknown)}")
            return {"labels": dict(table["labels"]), **table}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MedpipeError("CONFIG_INVALID", name=labels, reason=type(error).__name__) from error
    entry = relater.corpora.get(corpus_name(corpus, relater.corpora) or "")
    if entry is None:
        identity = {"labels": {label: label for label in relater.labels}}
        return identity | {"relations": {kind.name: kind.name for kind in relater.types}}
    return dict(entry)


def told_types(entry: Mapping[str, Any]) -> set[str]:
    """Returns the types that a corpus annotates."""
    names = {name for several in entry["relations"].values() for name in as_list(several)}
    return names | {chain["name"] for chain in entry.get("chains", [])}


def tag_mentions(tagger: Tagger, relater: Relater, examples: Sequence[Example]) -> list[Mentions]:
    """Returns the entities that the tagger finds, of the labels that the model relates.

    One that equals a gold mention has its code: codes are not what is measured here. Any other is a concept by its
    words.
    """
    found = []
    for at in range(0, len(examples), CHUNK):
        part = examples[at : at + CHUNK]
        spans, *_ = tagger.find([example.text for example in part])
        for number, example in enumerate(part):
            ours = spans.of_text(number)
            places = zip(spans.start[ours].tolist(), spans.end[ours].tolist(), spans.label[ours].tolist(), strict=True)
            named = [(start, end, tagger.labels[label]) for start, end, label in places]
            found.append(to_mentions(named, spans.score[ours].tolist(), relater.labels, example.mentions))
    return found


def to_mentions(
    spans: Sequence[tuple[int, int, str]], scores: Sequence[float], labels: Sequence[str], gold: Mentions
) -> Mentions:
    """Returns predicted entities as the mentions of a document, with the codes of the gold ones at the same place."""
    codes: dict[tuple[int, int], list[str | None]] = {}
    for start, end, code in zip(gold.start.tolist(), gold.end.tolist(), gold.codes, strict=True):
        codes.setdefault((start, end), []).append(code)
    known = {
        (start, end, labels.index(label)): score
        for (start, end, label), score in zip(spans, scores, strict=True)
        if label in labels
    }
    kept = [
        (*place, code, score)
        for place, score in sorted(known.items())
        for code in dict.fromkeys(codes.get(place[:2], [None]))
    ]
    start, end, label = np.array([one[:3] for one in kept], dtype=np.int64).reshape(-1, 3).T
    return Mentions(start, end, label, tuple(one[3] for one in kept), np.array([one[4] for one in kept]))


def judge(
    relater: Relater, examples: Sequence[Example], mentions: Sequence[Mentions]
) -> tuple[list[Graph], list[np.ndarray | None]]:
    """Returns the graphs of all documents with the given mentions, and the logits of their pairs."""
    graphs: list[Graph] = []
    logits: list[np.ndarray | None] = []
    for at in range(0, len(examples), CHUNK):
        part = slice(at, at + CHUNK)
        texts = [example.text for example in examples[part]]
        more, scored, *_ = relater.score(texts, [one.section_starts for one in examples[part]], mentions[part])
        graphs += more
        logits += scored
    return graphs, logits


def group_scores(
    relater: Relater, graph: Graph, logits: np.ndarray, concepts: bool
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Returns the scores of a document's groups, shape (groups, types), the group of each pair, and their ends."""
    key, ours = group_pairs(graph, concepts)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite logits: what cannot be, and what baselines say
        pooled = np.full((len(ours), logits.shape[1]), -np.inf)
        join = np.logaddexp if relater.network.config.mentions else np.maximum
        join.at(pooled, key, logits.astype(np.float64))
    return calibrate(pooled, relater.temperatures), key, ours


def tell(
    relater: Relater,
    gold: Gold,
    mentions: Sequence[Mentions],
    graphs: Sequence[Graph],
    logits: Sequence[np.ndarray | None],
) -> list[set[Found]]:
    """Returns the relations that the model, or a baseline, tells, of the types that the corpus annotates."""
    found: list[set[Found]] = []
    annotated = told_types(gold.entry)
    concepts = bool(gold.entry.get("concepts"))
    for graph, judged, ours in zip(graphs, logits, mentions, strict=True):
        told: set[Found] = set()
        if judged is not None and len(graph.pairs):
            scores, key, groups = group_scores(relater, graph, judged, concepts)
            names = name_places(relater, graph, ours, gold.entry)
            # Two concepts are related where one of their pairs is.
            chosen = relater.choose(graph, scores[key], ours) & (scores[key] > 0)
            for pair, index in zip(*np.nonzero(chosen), strict=True):
                kind, (head, tail) = relater.types[index].name, groups[key[pair]]
                if kind in annotated:
                    told.add((kind, names[head], names[tail]))
        found.append(told)
    return found


def join_labels(entry: Mapping[str, Any]) -> dict[str, str]:
    """Returns the common name of labels that a corpus does not tell from each other."""
    joined: dict[str, str] = {}
    for several in entry["labels"].values():
        if len(as_list(several)) > 1:
            joined |= dict.fromkeys(several, "|".join(several))
    return joined


def name_places(relater: Relater, graph: Graph, mentions: Mentions, entry: Mapping[str, Any]) -> dict[int, Place]:
    """Returns how an end of a relation is named, by the number of its mention or concept."""
    joined = join_labels(entry)
    names = [joined.get(label, label) for label in relater.labels]
    columns = zip(mentions.start.tolist(), mentions.end.tolist(), mentions.label.tolist(), strict=True)
    places: list[Place] = [(start, end, names[label]) for start, end, label in columns]
    if not entry.get("concepts"):
        return dict(enumerate(places))
    return {
        number: code if code is not None else str(place)
        for number, code, place in zip(graph.concept.tolist(), mentions.codes, places, strict=True)
    }


def calibration_error(
    relater: Relater, gold: Gold, graphs: Sequence[Graph], logits: Sequence[np.ndarray | None]
) -> float:
    """Returns the expected calibration error (Naeini et al. 2015) of the scores with gold entities."""
    concepts = bool(gold.entry.get("concepts"))
    annotated = told_types(gold.entry)
    scores, right = [], []
    for graph, judged, example, relations in zip(graphs, logits, gold.examples, gold.relations, strict=True):
        if judged is None or not len(graph.pairs):
            continue
        found, _, groups = group_scores(relater, graph, judged, concepts)
        names = name_places(relater, graph, example.mentions, gold.entry)
        for index, kind in enumerate(relater.types):
            if kind.name in annotated:
                for row in np.flatnonzero(found[:, index] > 0).tolist():
                    scores.append(found[row, index])
                    right.append((kind.name, names[groups[row][0]], names[groups[row][1]]) in relations)
    values, hits = np.array(scores), np.array(right, dtype=bool)
    which = np.minimum((values * BINS).astype(int), BINS - 1)
    gaps = [abs(values[which == one].mean() - hits[which == one].mean()) * (which == one).mean() for one in set(which)]
    return float(sum(gaps))


def gold_places(document: AnnotatedDocument, entry: Mapping[str, Any], relater: Relater) -> set[Found]:
    """Returns the gold relations of a document by the places of their ends, in the model's types and labels."""
    if entry.get("concepts"):
        return {(kind, head, tail) for kind, head, tail in concept_gold(document, entry)}
    joined = join_labels(entry)
    places: dict[str, Place] = {}
    for entity in document.entities:
        label = label_of(entity, entry["labels"])
        places[entity.entity_id] = (entity.start, entity.end, joined.get(label or "", label))
    relations = gold_relations(document, entry, relater.types)
    return {(kind, places[head], places[tail]) for kind, head, tail in relations if head in places and tail in places}


def sentence_starts(text: str) -> np.ndarray:
    """Returns where the sentences of a text begin. shape: (sentences,), characters."""
    tokens = tokenize(text)
    return np.asarray(tokens.start[split_sentences(text, tokens)[:, 0]])


def split_by_sentence(found: set[Found], gold: Gold, number: int) -> tuple[set[Found], set[Found]]:
    """Returns the relations of a document whose ends begin in one sentence, and the others.

    Two concepts stand in one sentence where gold mentions of both do.
    """
    starts = gold.starts[number]
    mentions = gold.examples[number].mentions
    places: dict[Place, set[int]] = {}
    for start, code in zip(mentions.start.tolist(), mentions.codes, strict=True):
        if code is not None:
            places.setdefault(code, set()).add(int(np.searchsorted(starts, start, side="right")))

    def sentences(place: Place) -> set[int]:
        if isinstance(place, str):
            return places.get(place, set())
        return {int(np.searchsorted(starts, place[0], side="right"))}

    near = {one for one in found if sentences(one[1]) & sentences(one[2])}
    return near, found - near


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


def weighted_f1(types: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the mean F1 of the types, weighted by their support."""
    support = sum(one["support"] for one in types.values())
    return sum(one["f1"] * one["support"] for one in types.values()) / support if support else 0.0
