"""Exact span and label scores of the tagger against an annotated corpus.

An entity counts as found where start, end and label are equal; a discontinuous one by its outer extent. Nested
entities count as all others. Micro-averaged: sums over the corpus, as is usual since CoNLL 2003.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medpipe.errors import MedpipeError
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.tag.fragments import Interval, cut_out, find_fragments, find_gaps
from medpipe.tag.profiles import find_tagger
from medpipe.tag.stage import Tagger
from medpipe.weights import read_config

Span = tuple[int, int, str]  # start, end, label
Fragments = tuple[tuple[Interval, ...], str]  # parts, label
Scores = dict[str, float]
Thing = TypeVar("Thing")

CHUNK = 64  # texts tagged at a time


@dataclass(frozen=True, slots=True)
class LabelMap:
    """How a corpus's types and a model's labels meet."""

    gold: Mapping[str, str] | None  # type -> label; other types are dropped; None: each type is its own label
    annotates: frozenset[str]  # labels that the corpus annotates: predictions of others are not counted
    predicted: Mapping[str, tuple[str, ...]]  # label of the model -> labels it counts as, where not as itself

    def map_gold(self, document: AnnotatedDocument) -> set[Span]:
        """Returns the gold entities of a document in the model's labels."""
        kinds = {
            entity.label: entity.label if self.gold is None else self.gold.get(entity.label)
            for entity in document.entities
        }
        return {
            (entity.start, entity.end, label)
            for entity in document.entities
            if (label := kinds[entity.label]) is not None
        }

    def map_gaps(self, document: AnnotatedDocument) -> set[Interval]:
        """Returns what lies between the parts of the discontinuous gold entities that have a label of the model's."""
        return {
            gap
            for entity in document.entities
            if self.gold is None or entity.label in self.gold
            for gap in find_gaps(entity.fragments, document.text)
        }

    def map_discontinuous(self, document: AnnotatedDocument) -> set[Fragments]:
        """Returns the parts of the discontinuous gold entities, in the model's labels."""
        found: set[Fragments] = set()
        for entity in document.entities:
            label = entity.label if self.gold is None else self.gold.get(entity.label)
            gaps = find_gaps(entity.fragments, document.text)
            if label is not None and gaps:
                found.add((tuple(cut_out(entity.start, entity.end, gaps, document.text)), label))
        return found

    def map_predicted(self, spans: Iterable[Span]) -> set[Span]:
        """Returns the predicted entities that count."""
        return {
            (start, end, shown)
            for start, end, label in spans
            for shown in self.predicted.get(label, (label,))
            if shown in self.annotates
        }


def make_label_map(
    mapping: Mapping[str, str] | None, annotates: Iterable[str] | None, auxiliary: Mapping[str, Sequence[str]]
) -> LabelMap:
    """Makes a map from the entries of a config.

    Args:
        mapping: type -> label; ``None``: identity.
        annotates: labels that the corpus annotates; ``None``: the mapping's.
        auxiliary: labels that a corpus may have and the model does not give, and what they consist of: with
            ``{"CONDITION": ["DISEASE", "SYMPTOM"]}`` a gold CONDITION is found by either.
    """
    if annotates is None:
        annotates = [] if mapping is None else mapping.values()
    known = frozenset(annotates)
    predicted: dict[str, tuple[str, ...]] = {}
    for whole, parts in auxiliary.items():
        if whole in known:
            for part in parts:
                predicted[part] = (*predicted.get(part, (part,)), whole)
    return LabelMap(mapping, known, predicted)


def find_label_map(
    corpus: Path, config: Mapping[str, Any], labels: Path | None, kinds: frozenset[str] = frozenset()
) -> LabelMap:
    """Returns the map of a file, or else the one of the model's config for the corpus, or else identity.

    Args:
        corpus: whose name is looked for in the config.
        config: of the model.
        labels: the file, if one is given.
        kinds: the types in the corpus. A model of one corpus has one map, which is taken for a corpus of another name
            too if it has all of them.

    Raises:
        MedpipeError: CONFIG_INVALID where the file is no TOML with a table ``labels``.
    """
    auxiliary = config.get("auxiliary", {})
    if labels is not None:
        try:
            table = tomllib.loads(labels.read_text(encoding="utf-8"))
            mapping = {str(kind): str(label) for kind, label in table["labels"].items()}
            return make_label_map(mapping, table.get("annotates"), table.get("auxiliary", auxiliary))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise MedpipeError("CONFIG_INVALID", name=labels, reason=type(error).__name__) from error
    entries = {entry["folder"]: entry for entry in config.get("corpora", [])}
    entry = entries.get(corpus_name(corpus, entries) or "")
    if entry is None and len(entries) == 1 and kinds:
        entry = next((one for one in entries.values() if kinds <= one.get("labels", {}).keys()), None)
    if entry is None:
        return make_label_map(None, None, auxiliary)
    return make_label_map(entry.get("labels"), entry["annotates"], auxiliary)


def find_style(corpus: Path, config: Mapping[str, Any], style: str | None) -> int:
    """Returns the number of a style, or else of the one that the model's config has for the corpus, or else 0.

    Raises:
        MedpipeError: SETTING_INVALID where the model knows no such style.
    """
    styles = list(config["styles"])
    if style is None:
        entries = {entry["folder"]: entry for entry in config.get("corpora", [])}
        style = entries.get(corpus_name(corpus, entries) or "", {}).get("style", styles[0])
    if style not in styles:
        raise MedpipeError("SETTING_INVALID", name="--style", reason=f"the model knows {', '.join(styles)}")
    return styles.index(style)


def corpus_name(corpus: Path, known: Iterable[str]) -> str | None:
    """Returns which of the corpora a file is of: by its folders, the nearest first, or by how its name begins."""
    names = sorted(known, key=len, reverse=True)
    path = corpus.resolve()
    for part in reversed(path.parts[:-1]):
        if part in names:
            return part
    return next((name for name in names if path.name.startswith(name)), None)


def evaluate_tagger(
    corpus: Path,
    *,
    model: str | Path = "tagger",
    labels: Path | None = None,
    style: str | None = None,
    device: str = "auto",
    profile: str = "standard",
) -> dict[str, Any]:
    """Scores a tagger on an annotated corpus.

    What is a mention, and where it ends, is agreed upon otherwise for every corpus. A model that was trained on several
    is told which style to follow; ``medpipe run`` always follows the first, that of clinical narrative.

    Args:
        corpus: JSON lines in the corpus format.
        model: name of a shipped model, or a folder.
        labels: TOML file with a table ``labels`` (type -> label) and optionally a list ``annotates``.
        style: of the model's config; ``None``: that of the corpus, where the model knows it, else the first.
        device: auto, cpu, cuda or cuda:N.
        profile: fast, standard or accurate.

    Returns:
        ``micro``, ``labels`` (by name), ``nested`` and ``discontinuous`` (all parts right), each with ``precision``,
        ``recall``, ``f1`` and ``support``.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, CONFIG_INVALID, MODEL_NOT_FOUND, MODEL_INVALID,
            DEVICE_UNAVAILABLE, PROFILE_UNAVAILABLE.
    """
    documents = read_documents(corpus)
    tagger = Tagger.load(model, device=device, profile=profile)
    config = read_config(find_tagger(model, profile))
    tagger.style = find_style(corpus, config, style)
    seen = frozenset(entity.label for document in documents for entity in document.entities)
    label_map = find_label_map(corpus, config, labels, seen)
    if label_map.gold is None:  # identity: what the corpus annotates is what stands in it
        label_map = LabelMap(None, label_map.annotates or seen, label_map.predicted)
    found = tag_texts(tagger, [document.text for document in documents])
    discontinuous = [
        {(tuple(parts), label) for span, parts in one.items() if parts for *_, label in label_map.map_predicted([span])}
        for one in found
    ]
    return score_spans(
        [label_map.map_gold(document) for document in documents],
        [label_map.map_predicted(spans) for spans in found],
    ) | {"discontinuous": count_scores(list(map(label_map.map_discontinuous, documents)), discontinuous)}


def tag_texts(tagger: Tagger, texts: Sequence[str]) -> list[dict[Span, list[Interval]]]:
    """Returns the entities that a tagger finds in every text, with their parts where they are discontinuous."""
    found: list[dict[Span, list[Interval]]] = []
    for first in range(0, len(texts), CHUNK):
        chunk = texts[first : first + CHUNK]
        spans, gaps, *_ = tagger.find(chunk)
        fragments = find_fragments(spans, gaps, chunk)
        names = [tagger.labels[label] for label in spans.label]
        rows = list(zip(spans.start.tolist(), spans.end.tolist(), names, strict=True))
        parts = [fragments.get(number, []) for number in range(len(spans))]
        for number in range(len(chunk)):
            part = spans.of_text(number)
            found.append(dict(zip(rows[part], parts[part], strict=True)))
    return found


def score_spans(gold: Sequence[set[Span]], predicted: Sequence[set[Span]]) -> dict[str, Any]:
    """Returns micro-averaged scores, over all, per label, and over nested entities.

    ``nested`` looks at the entities that lie in another one (or share its span): precision over the predicted ones,
    recall over the gold ones.
    """
    names = sorted({label for spans in (*gold, *predicted) for *_, label in spans})
    by_label = {
        name: count_scores(
            [{span for span in spans if span[2] == name} for spans in gold],
            [{span for span in spans if span[2] == name} for spans in predicted],
        )
        for name in names
    }
    inner_gold, inner_predicted = [find_inner(spans) for spans in gold], [find_inner(spans) for spans in predicted]
    nested = make_scores(
        right_predicted=sum(len(inner & truth) for inner, truth in zip(inner_predicted, gold, strict=True)),
        predicted=sum(map(len, inner_predicted)),
        right_gold=sum(len(inner & found) for inner, found in zip(inner_gold, predicted, strict=True)),
        gold=sum(map(len, inner_gold)),
    )
    return {"micro": count_scores(gold, predicted), "labels": by_label, "nested": nested}


def count_scores(gold: Sequence[set[Thing]], predicted: Sequence[set[Thing]]) -> Scores:
    """Returns the scores of sets of spans or of fragments, one of each for every document."""
    right = sum(len(truth & found) for truth, found in zip(gold, predicted, strict=True))
    return make_scores(
        right_predicted=right, predicted=sum(map(len, predicted)), right_gold=right, gold=sum(map(len, gold))
    )


def make_scores(*, right_predicted: int, predicted: int, right_gold: int, gold: int) -> Scores:
    """Returns precision, recall, F1 (0 where undefined) and support."""
    precision = right_predicted / predicted if predicted else 0.0
    recall = right_gold / gold if gold else 0.0
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
        "support": gold,
    }


def find_inner(spans: set[Span]) -> set[Span]:
    """Returns the entities that lie in another entity of the set or share its span."""
    ordered = sorted(spans, key=lambda span: (span[0], -span[1], span[2]))
    inner: set[Span] = set()
    open_now: list[Span] = []
    for span in ordered:
        open_now = [other for other in open_now if other[1] > span[0]]
        for other in open_now:
            if other[1] >= span[1]:
                inner.add(span)
                if other[:2] == span[:2]:
                    inner.add(other)
        open_now.append(span)
    return inner
