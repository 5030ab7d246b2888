"""Trains the relation model on gold entities, made a little wrong on purpose, as a tagger's are.

Corpora with different types train one network: each type has an output of its own, and a corpus that does not annotate
a type gives it no loss. A corpus's relation becomes the first of our types whose labels its ends have, either way round
(``MODIFY`` from a lab value to a test is ``has_value`` from the test to the value). Where a corpus says through a third
entity that two belong together, ``chains`` joins them. A corpus's type that may be either of two labels of ours (a
BC5CDR ``Disease`` may be a symptom) is the one or the other by a hash of the mention's words, so that the network meets
its relations with both.

Where a corpus relates an anaphor ("this disorder") to a sign, and ``anaphora`` is given, the relation is that of the
disease that the anaphor stands for. Where the corpus does not say what it stands for, the relation cannot be learned;
on dev it counts as missed.

A corpus that relates concepts, not mentions (``concepts = true``), is learned from as multi-instance learning does
(Verga, Strubell, McCallum 2018, *Simultaneously self-attending to all mentions*): the logit of two concepts is the
log-sum-exp of those of their pairs of mentions; or, of a network that judges concepts alone (``mentions = false``), one
logit from the largest of what their pairs show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medpipe.device import resolve_device
from medpipe.errors import MedpipeError
from medpipe.learn.config import load_config
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.learn.loop import LoopConfig, Trainer
from medpipe.records import Entity
from medpipe.relate.decode import calibrate
from medpipe.relate.features import Graph, GraphBatch, Mentions, TypeRule, build_graph, collate, number_concepts
from medpipe.relate.knowledge import FILE as KNOWLEDGE_FILE
from medpipe.relate.knowledge import Knowledge, Told
from medpipe.relate.network import NetworkConfig, RelationNetwork, pool_groups
from medpipe.relate.stage import RelationType, parse_types
from medpipe.text.encoder import take_encoder
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows
from medpipe.text.sections import find_sections, is_part
from medpipe.weights import WEIGHTS_FILE, find_model, load_weights, save_model

BUCKET_TOKENS = 4096  # padded tokens of sentences that go through the LSTM together: mostly a whole batch
FEW = 30  # gold relations of a type on dev, below which its threshold and temperature are those of all types together
NEVER = -1e4  # logit of a type that a pair cannot have

Gold = tuple[str, int, int]  # type, head and tail mention


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How batches are made; the ``[sampling]`` table of a config."""

    batch_documents: int = 12
    drop_mentions: float = 0.1
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class RelationConfig:
    """A training config, checked."""

    name: str
    version: str
    labels: list[str]
    types: list[RelationType]
    corpora: list[dict[str, Any]]
    network: NetworkConfig
    training: LoopConfig
    sampling: SamplingConfig
    tagger: str | None  # config of a tagger that is trained first and goes with the model
    encoder: str | None  # tagger whose encoder the network begins with: a shipped one's name, a folder, or "own"
    joint_threshold: float  # of a relation's score times those of its entities, if both are predicted


def parse_config(config: Mapping[str, Any]) -> RelationConfig:
    """Checks a config and fills in what it leaves out.

    Raises:
        MedpipeError: CONFIG_INVALID.
    """
    try:
        labels = [str(label) for label in config["labels"]]
        types = parse_types(config)
        names = {one.name for one in types}
        corpora: list[dict[str, Any]] = []
        for entry in config["corpora"]:
            mapping = entry.get("labels") or {label: label for label in labels}
            told = {ours for several in entry["relations"].values() for ours in as_list(several)}
            told |= {chain["name"] for chain in entry.get("chains", [])}
            used = {label for several in mapping.values() for label in as_list(several)}
            if unknown := (told - names) | (used - set(labels)):
                raise ValueError(f"{entry['folder']} maps to unknown types or labels {sorted(unknown)}")
            corpora.append(
                {"anaphora": None, "chains": [], "concepts": False, "repeat": 1} | dict(entry) | {"labels": mapping}
            )
        if not corpora or not types:
            raise ValueError("no corpora or no types")
        network = NetworkConfig(**config.get("network", {}))
        if not network.mentions and not network.concepts:
            raise ValueError("neither pairs of mentions nor of concepts are judged")
        return RelationConfig(
            name=str(config["name"]), version=str(config["version"]), labels=labels, types=types, corpora=corpora,
            network=network, training=LoopConfig(**config.get("training", {})),
            sampling=SamplingConfig(**config.get("sampling", {})), tagger=config.get("tagger"),
            encoder=config.get("encoder"),
            joint_threshold=float(config.get("joint_threshold", 0)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise MedpipeError("CONFIG_INVALID", name=config.get("name", "?"), reason=reason) from error


@dataclass(frozen=True, slots=True)
class Example:
    """A document with its mentions, in the model's labels, and its gold relations."""

    doc_id: str
    text: str
    section_starts: np.ndarray
    mentions: Mentions
    gold: frozenset[Gold]
    annotated: tuple[bool, ...]  # of each type, whether its corpus annotates it
    lost: tuple[int, ...]  # of each type, gold relations without a mention for head or tail
    concepts: bool = False  # whether the gold relates concepts: all their mentions, or none


def gold_relations(
    document: AnnotatedDocument, entry: Mapping[str, Any], types: Sequence[RelationType]
) -> set[tuple[str, str, str]]:
    """Returns type, head and tail entity of a document's relations, in the model's types, anaphors resolved.

    A relation whose ends have the labels of none of the types is left out where the map gives a list of types, since
    then it is none of ours; where it gives a type alone, the relation is of that type, and missed where its ends cannot
    be found.
    """
    by_name = {one.name: one for one in types}
    label = {entity.entity_id: label_of(entity, entry["labels"]) for entity in document.entities}
    stands_for = {one.tail: one.head for one in document.relations if one.type == entry.get("anaphora")}

    def resolve(entity: str) -> str:
        seen = set()
        while entity in stands_for and entity not in seen:
            seen.add(entity)
            entity = stands_for[entity]
        return entity

    found = set()
    for one in document.relations:
        ours = entry["relations"].get(one.type, [])
        ends = resolve(one.head), resolve(one.tail)
        placed = [
            (name, head, tail)
            for name in as_list(ours)
            for head, tail in (ends, ends[::-1])
            if label.get(head) in by_name[name].heads and label.get(tail) in by_name[name].tails
        ]
        if placed:
            found.add(placed[0])
        elif isinstance(ours, str):
            found.add((ours, *ends))
    return found | chain_relations(document, entry.get("chains", []))


def chain_relations(document: AnnotatedDocument, chains: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Returns the relations of entities that can be reached from one and the same entity.

    Args:
        document: whose relations are followed from head to tail.
        chains: ``name``, and the types to follow to ``head`` and to ``tail``.
    """
    steps: dict[tuple[str, str], list[str]] = {}
    for one in document.relations:
        steps.setdefault((one.type, one.head), []).append(one.tail)

    def follow(start: str, path: Sequence[str]) -> list[str]:
        reached = [start]
        for kind in path:
            reached = [end for one in reached for end in steps.get((kind, one), [])]
        return reached

    return {
        (chain["name"], head, tail)
        for chain in chains
        for entity in document.entities
        for head in follow(entity.entity_id, chain["head"])
        for tail in follow(entity.entity_id, chain["tail"])
    }


def concept_gold(document: AnnotatedDocument, entry: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Returns type, head and tail code of a document's relations between concepts."""
    return {
        (name, one.head, one.tail)
        for one in document.concept_relations or ()
        for name in as_list(entry["relations"].get(one.type, []))
    }


def label_of(entity: Entity, labels: Mapping[str, str | Sequence[str]]) -> str | None:
    """Returns an entity's label in the model's labels; ``None``: it has none."""
    several = as_list(labels.get(entity.label, []))
    return several[crc32(entity.text.lower().encode()) % len(several)] if several else None


def as_list(names: str | Sequence[str]) -> list[str]:
    """Returns one name, or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def make_example(
    document: AnnotatedDocument, entry: Mapping[str, Any], labels: Sequence[str], types: Sequence[RelationType]
) -> Example:
    """Returns a document as the model sees it: entities of one label at the same place are one mention.

    Where concepts are related, a mention of several codes is several mentions.
    """
    places: dict[tuple[int, int, int, str], list[str]] = {}
    for entity in document.entities:
        label = label_of(entity, entry["labels"])
        if label is not None:
            norms = document.norms.get(entity.entity_id, []) if entry.get("concepts") else []
            for code in norms or [""]:
                places.setdefault((entity.start, entity.end, labels.index(label), code), []).append(entity.entity_id)
    ordered = sorted(places)
    names = {name for several in entry["relations"].values() for name in as_list(several)}
    names |= {chain["name"] for chain in entry.get("chains", [])}
    if entry.get("concepts"):
        related = concept_gold(document, entry)
        numbers: dict[str, list[int]] = {}
        for i, (*_, code) in enumerate(ordered):
            numbers.setdefault(code, []).append(i)
    else:
        related = gold_relations(document, entry, types)
        numbers = {entity: [i] for i, place in enumerate(ordered) for entity in places[place]}
    kept = {one for one in related if one[1] in numbers and one[2] in numbers}
    gold = frozenset((kind, one, two) for kind, head, tail in kept for one in numbers[head] for two in numbers[tail])
    lost = tuple(sum(kind == one.name for kind, *_ in related - kept) for one in types)
    columns = np.array([place[:3] for place in ordered], dtype=np.int64).reshape(-1, 3)
    codes = tuple(code or None for *_, code in ordered)
    sections = [one for one in find_sections(document.text) if one.parent is None or not is_part(one.name)]
    starts = np.array([section.start for section in sections] or [0])
    annotated = tuple(one.name in names for one in types)
    start, end, label_numbers = columns.T
    mentions = Mentions(start, end, label_numbers, codes)
    return Example(document.doc_id, document.text, starts, mentions, gold, annotated, lost, bool(entry.get("concepts")))


def read_examples(config: RelationConfig, corpora: Path, split: str) -> dict[str, list[Example]]:
    """Returns the documents of each corpus of a config that have two mentions or more."""
    read = {}
    for entry in config.corpora:
        documents = read_documents(corpora / entry["folder"] / f"{split}.jsonl")
        examples = [make_example(document, entry, config.labels, config.types) for document in documents]
        read[entry["folder"]] = [one for one in examples if len(one.mentions.start) > 1]
    return read


def disturb(example: Example, random: np.random.Generator, sampling: SamplingConfig) -> Example:
    """Returns the example as a tagger might give it: mentions missing, limits off by a word."""
    mentions = example.mentions
    count = len(mentions.start)
    kept = np.flatnonzero(random.random(count) >= sampling.drop_mentions)
    start, end = mentions.start[kept].copy(), mentions.end[kept].copy()
    for i in np.flatnonzero(random.random(len(kept)) < sampling.jitter).tolist():
        span = example.text[start[i] : end[i]]
        if " " in span and random.random() < 0.5:  # without its first word
            start[i] += span.index(" ") + 1
        elif " " in span:  # without its last
            end[i] = start[i] + span.rindex(" ")
    order = np.lexsort((mentions.label[kept], end, start))
    place = {int(kept[old]): new for new, old in enumerate(order)}
    gold = {(kind, place[head], place[tail]) for kind, head, tail in example.gold if head in place and tail in place}
    codes = tuple(mentions.codes[kept[old]] for old in order) if mentions.codes else ()
    new = Mentions(start[order], end[order], mentions.label[kept][order], codes)
    return Example(
        example.doc_id, example.text, example.section_starts, new, frozenset(gold), example.annotated, example.lost,
        example.concepts,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents as one graph, and what is gold of their candidates. A group is a pair of mentions, or of concepts."""

    graph: GraphBatch
    group: np.ndarray  # shape: (pairs,), int64; which group the pair is of
    gold: np.ndarray  # shape: (groups, types), float32
    counted: np.ndarray  # shape: (groups, types), bool; where the type is annotated and the group may have it
    missed: np.ndarray  # shape: (types,), int64; gold relations that are no candidate, the lost ones among them


def make_batch(
    examples: Sequence[Example], rows: Rows, documents: Sequence[int], labels: int, types: Sequence[str],
    rules: Sequence[TypeRule], knowledge: Knowledge | None = None, told: Sequence[Collection[Told]] | None = None,
) -> Batch:  # fmt: skip
    """Returns the graphs of some documents as a batch with their gold; ``told`` is what each told to ``knowledge``."""
    graphs = [
        build_graph(
            example.text, rows.tokens[i], rows.sentences[i], example.section_starts, example.mentions, rules,
            knowledge, own,
        )
        for example, i, own in zip(examples, documents, told or [()] * len(examples), strict=True)
    ]  # fmt: skip
    gold, counted, group, groups = [], [], [], 0
    missed = np.zeros(len(types), dtype=np.int64)
    for example, graph in zip(examples, graphs, strict=True):
        key, ours = group_pairs(graph, example.concepts)
        right = np.zeros((len(ours), len(types)), dtype=np.float32)
        place = {(head, tail): int(key[row]) for row, (head, tail) in enumerate(graph.pairs.tolist())}
        gone = set()  # gold relations without a candidate
        for kind, head, tail in example.gold:
            column = types.index(kind)
            if (head, tail) in place:
                right[place[head, tail], column] = 1
            elif example.concepts:
                gone.add((column, int(graph.concept[head]), int(graph.concept[tail])))
            else:
                gone.add((column, head, tail))
        if example.concepts:  # of two concepts some pairs may be too far apart, but not all
            gone -= {(column, *ours[row]) for row, column in np.argwhere(right > 0).tolist()}
        missed += np.bincount([column for column, *_ in gone], minlength=len(types)) + np.array(example.lost, np.int64)
        possible = np.zeros((len(ours), len(types)), dtype=bool)
        np.logical_or.at(possible, key, graph.allowed)
        gold.append(right)
        counted.append(possible & np.array(example.annotated, dtype=bool))
        group.append(key + groups)
        groups += len(ours)
    graph_batch = collate(graphs, rows, documents, labels, BUCKET_TOKENS)
    return Batch(graph_batch, np.concatenate(group), np.concatenate(gold), np.concatenate(counted), missed)


def told_concepts(example: Example, types: Sequence[str]) -> set[Told]:
    """Returns the relations that a document tells between concepts."""
    keys, concept = number_concepts(example.text, example.mentions)
    return {(types.index(kind), keys[concept[head]], keys[concept[tail]]) for kind, head, tail in example.gold}


def group_pairs(graph: Graph, concepts: bool) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Returns for each pair of a graph its group, shape: (pairs,), and each group's mentions or concepts."""
    if not concepts:
        return np.arange(len(graph.pairs)), [(head, tail) for head, tail in graph.pairs.tolist()]
    ours, key = np.unique(graph.concept[graph.pairs].reshape(-1, 2), axis=0, return_inverse=True)
    return key.reshape(-1), [(head, tail) for head, tail in ours.tolist()]


def score_groups(network: nn.Module, batch: Batch, features: Tensor) -> Tensor:
    """Returns the logits of a batch's groups, shape: (groups, types)."""
    device = features.device
    logits = network(batch.graph, features[torch.from_numpy(batch.graph.vocabulary).to(device)])
    logits = logits.masked_fill(~torch.from_numpy(batch.graph.allowed).to(device), NEVER)
    smooth: bool = network.config.mentions  # type: ignore[union-attr, assignment]
    return pool_groups(logits, torch.from_numpy(batch.group).to(device), len(batch.gold), smooth=smooth)


def best_threshold(scores: np.ndarray, gold: np.ndarray, missed: int) -> tuple[float, float]:
    """Returns the threshold with the highest F1 and that F1; ``missed`` gold relations were no candidates."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(gold[order])
    told = np.arange(1, len(order) + 1)
    f1 = 2 * right / (told + gold.sum() + missed)
    # A threshold cannot fall between equal scores.
    last = np.append(scores[order][:-1] != scores[order][1:], True) if len(order) else np.zeros(0, dtype=bool)
    f1 = np.where(last, f1, -1)
    if not len(f1):
        return 0.5, 0.0
    best = int(np.argmax(f1))
    return float(scores[order][best]), float(f1[best])


def fit_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """Returns the temperature with the least log-loss on dev (Guo et al. 2017), from a grid."""
    grid = np.exp(np.linspace(np.log(0.3), np.log(5), 60))

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((np.logaddexp(0, scaled) - gold * scaled).mean())

    return float(min(grid, key=loss))


def train(
    config: dict[str, Any],
    *,
    corpora: Path,
    out: Path,
    device: str = "auto",
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a relation model and writes it to ``out``; a tagger of its own, where the config names one, below it.

    Returns:
        Figures on dev with gold entities: ``f1``, ``threshold``, ``support`` of each type, ``epoch``, ``seconds``.

    Raises:
        MedpipeError: CONFIG_INVALID, CORPUS_NOT_FOUND, CORPUS_INVALID, MODEL_NOT_FOUND, DEVICE_UNAVAILABLE.
    """
    started = time.monotonic()
    where = resolve_device(device)
    parsed = parse_config(config)
    training, labels, types = parsed.training, len(parsed.labels), [one.name for one in parsed.types]
    rules = [one.rule(parsed.labels) for one in parsed.types]
    torch.manual_seed(training.seed)
    network = RelationNetwork(parsed.network, labels=labels, types=len(types)).to(where)
    network.compute = training.compute
    if parsed.tagger is not None:
        train_tagger(parsed.tagger, corpora=corpora, out=out / "tagger", device=device, resume=resume, report=report)
    if parsed.encoder is not None:
        folder = out / "tagger" if parsed.encoder == "own" else find_model(parsed.encoder)
        try:
            take_encoder(network.encoder, load_weights(folder, where))
        except (KeyError, ValueError) as error:
            raise MedpipeError("CONFIG_INVALID", name=parsed.name, reason=error) from error
    for name, parameter in network.named_parameters():
        if any(name.startswith(start) and rate == 0 for start, rate in training.rates.items()):
            parameter.requires_grad_(False)  # what does not learn costs no gradient
    table = WordTable(parsed.network.buckets)
    read = read_examples(parsed, corpora, "train")
    examples = [one for entry in parsed.corpora for one in read[entry["folder"]]]
    repeats = np.concatenate([np.full(len(read[one["folder"]]), float(one["repeat"])) for one in parsed.corpora])
    rows = make_rows([one.text for one in examples], table)
    told = [told_concepts(one, types) for one in examples]
    knowledge = Knowledge.count(types, told) if parsed.network.knowledge else None
    dev = make_dev(parsed, corpora, table, rules, knowledge)
    features = torch.from_numpy(table.features.copy()).to(where)

    def make_batches(_: int, random: np.random.Generator) -> Sequence[Batch]:
        # A corpus that is repeated 1.5 times has each document once and, with the chance of a half, once more.
        times = np.floor(repeats + random.random(len(repeats))).astype(np.int64)
        order = random.permutation(np.repeat(np.arange(len(examples)), times))
        size = parsed.sampling.batch_documents
        batches = []
        for at in range(0, len(order), size):
            chosen = sorted(set(order[at : at + size].tolist()))
            disturbed = [disturb(examples[i], random, parsed.sampling) for i in chosen]
            own = [told[i] for i in chosen]
            batches.append(make_batch(disturbed, rows, chosen, labels, types, rules, knowledge, own))
        return [batch for batch in batches if batch.counted.any()]

    def compute_loss(network: nn.Module, batch: Batch) -> Tensor:
        counted = torch.from_numpy(batch.counted).to(where)
        logits = score_groups(network, batch, features)[counted]
        return binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.gold).to(where)[counted])

    def evaluate(network: nn.Module) -> tuple[float, dict[str, Any]]:
        found = {folder: score_dev(network, batches, features) for folder, batches in dev.items()}
        return float(np.mean(list(found.values()))), found

    trainer = Trainer(
        network, config=training, folder=out, make_batches=make_batches, compute_loss=compute_loss, evaluate=evaluate,
        report=report,
    )  # fmt: skip
    best = trainer.train(resume=resume)
    # What is shipped is scored: float16 weights, as they lie on disk.
    network.load_state_dict({name: value.half().float() for name, value in best.items()})
    network.eval()
    batches = [batch for several in dev.values() for batch in several]
    thresholds, temperatures, figures = choose_thresholds(types, *gather(network, batches, features))
    written = {
        "name": parsed.name,
        "version": parsed.version,
        "labels": parsed.labels,
        "types": [
            dict(kind) | {"threshold": threshold} for kind, threshold in zip(config["types"], thresholds, strict=True)
        ],
        "candidates": config["candidates"],
        "temperatures": temperatures,
        "joint_threshold": parsed.joint_threshold,
        "network": asdict(parsed.network),
        "corpora": {entry["folder"]: {k: v for k, v in entry.items() if k != "folder"} for entry in parsed.corpora},
    }
    save_model(out, best, written)
    if knowledge is not None:
        knowledge.write(out / KNOWLEDGE_FILE)
    return figures | {"epoch": trainer.progress.best_epoch, "seconds": time.monotonic() - started}


def train_tagger(
    config: str, *, corpora: Path, out: Path, device: str, resume: bool, report: Callable[[str], None]
) -> None:
    """Trains the tagger that goes with a model, if it does not lie in ``out`` already and the training is resumed."""
    from medpipe.learn import tagger

    if not (resume and (out / WEIGHTS_FILE).is_file()):
        tagger.train(load_config(config), corpora=corpora, out=out, device=device, resume=resume, report=report)


def make_dev(
    config: RelationConfig,
    corpora: Path,
    table: WordTable,
    rules: Sequence[TypeRule],
    knowledge: Knowledge | None,
) -> dict[str, list[Batch]]:
    """Returns the dev set of each corpus in batches."""
    types = [one.name for one in config.types]
    dev = {}
    for folder, examples in read_examples(config, corpora, "dev").items():
        rows = make_rows([one.text for one in examples], table)
        parts = [range(at, min(at + 16, len(examples))) for at in range(0, len(examples), 16)]
        batches = [
            make_batch(examples[part.start : part.stop], rows, part, len(config.labels), types, rules, knowledge)
            for part in parts
        ]
        dev[folder] = [batch for batch in batches if len(batch.gold)]
    return dev


def gather(
    network: nn.Module, batches: Sequence[Batch], features: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the logits of all groups of some batches, their gold, what is counted, and what is missed of each type.

    Shapes: (groups, types) three times, and (types,).
    """
    with torch.no_grad():
        logits = torch.cat([score_groups(network, batch, features) for batch in batches]).float().cpu().numpy()
    gold = np.concatenate([batch.gold for batch in batches])
    return logits, gold, np.concatenate([batch.counted for batch in batches]), sum_missed(batches)


def sum_missed(batches: Sequence[Batch]) -> np.ndarray:
    """Returns the gold relations of each type that are no candidate. shape: (types,)."""
    return np.asarray(np.sum([batch.missed for batch in batches], axis=0))


def score_dev(network: nn.Module, batches: Sequence[Batch], features: Tensor) -> float:
    """Returns the micro F1 over all types at the best threshold that they share."""
    logits, gold, counted, missed = gather(network, batches, features)
    return best_threshold(logits[counted], gold[counted], int(missed.sum()))[1]


def choose_thresholds(
    types: Sequence[str], logits: np.ndarray, gold: np.ndarray, counted: np.ndarray, missed: np.ndarray
) -> tuple[list[float], list[float], dict[str, Any]]:
    """Returns the thresholds and temperatures of all types, and their figures; arguments of ``gather``.

    A type with fewer than ``FEW`` gold relations has those of all types together: its own would fit noise.
    """
    shared_temperature = fit_temperature(logits[counted], gold[counted])
    pooled = calibrate(logits[counted][:, None], np.array([shared_temperature]))[:, 0]
    shared_threshold = best_threshold(pooled, gold[counted], int(missed.sum()))[0]
    thresholds, temperatures, figures = [], [], {}
    for i, name in enumerate(types):
        ours, right = logits[counted[:, i], i], gold[counted[:, i], i]
        support = int(right.sum() + missed[i])
        temperature, threshold = shared_temperature, shared_threshold
        if support >= FEW:
            temperature = fit_temperature(ours, right)
        scores = calibrate(ours[:, None], np.array([temperature]))[:, 0]
        if support >= FEW:
            threshold = best_threshold(scores, right, int(missed[i]))[0]
        told = scores >= threshold
        f1 = 2 * float(right[told].sum()) / max(1.0, told.sum() + support)
        figures[name] = {"f1": f1, "threshold": threshold, "support": support}
        thresholds.append(round(threshold, 4))
        temperatures.append(round(temperature, 4))
    return thresholds, temperatures, figures
