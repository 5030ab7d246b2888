"""Trains the relation model on gold entities, made a little wrong on purpose, as a tagger's are.

Where a corpus relates an anaphor ("this disorder") to a sign, the relation is given to the disease that the anaphor
stands for, since the shipped tagger knows no anaphors. Where the corpus does not say what it stands for, the relation
cannot be learned; on dev it counts as missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medpipe.device import resolve_device
from medpipe.errors import MedpipeError
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.learn.loop import LoopConfig, Trainer
from medpipe.relate.decode import calibrate
from medpipe.relate.features import Graph, GraphBatch, Mentions, build_graph, collate
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.relate.stage import make_rule
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows
from medpipe.text.sections import find_sections, is_part
from medpipe.weights import save_model

BUCKET_TOKENS = 4096  # padded tokens of sentences that go through the LSTM together: mostly a whole batch


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How batches are made; the ``[sampling]`` table of a config."""

    batch_documents: int = 12
    drop_mentions: float = 0.1
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """A document with its mentions, in the model's labels, and its gold relations."""

    doc_id: str
    text: str
    section_starts: np.ndarray
    mentions: Mentions
    gold: frozenset[tuple[str, int, int]]  # type, head and tail mention
    lost: int  # gold relations without a mention for head or tail: of an anaphor that stands for nothing


def gold_relations(document: AnnotatedDocument, entry: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Returns type, head and tail entity of a document's relations, in the model's types, anaphors resolved."""
    stands_for = {one.tail: one.head for one in document.relations if one.type == entry.get("anaphora")}

    def resolve(entity: str) -> str:
        seen = set()
        while entity in stands_for and entity not in seen:
            seen.add(entity)
            entity = stands_for[entity]
        return entity

    names = entry["relations"]
    return {(names[one.type], resolve(one.head), resolve(one.tail)) for one in document.relations if one.type in names}


def make_example(document: AnnotatedDocument, entry: Mapping[str, Any], labels: Sequence[str]) -> Example:
    """Returns a document as the model sees it: entities of one label at the same place are one mention."""
    places: dict[tuple[int, int, int], list[str]] = {}
    for entity in document.entities:
        label = entry["labels"].get(entity.label)
        if label is not None:
            places.setdefault((entity.start, entity.end, labels.index(label)), []).append(entity.entity_id)
    ordered = sorted(places)
    number = {entity: i for i, place in enumerate(ordered) for entity in places[place]}
    relations = gold_relations(document, entry)
    kept = {one for one in relations if one[1] in number and one[2] in number}
    gold = frozenset((kind, number[head], number[tail]) for kind, head, tail in kept)
    columns = np.array(ordered, dtype=np.int64).reshape(-1, 3)
    sections = [one for one in find_sections(document.text) if one.parent is None or not is_part(one.name)]
    starts = np.array([section.start for section in sections] or [0])
    return Example(document.doc_id, document.text, starts, Mentions(*columns.T), gold, len(relations - kept))


def read_examples(config: Mapping[str, Any], corpora: Path, split: str) -> list[Example]:
    """Returns the documents of all corpora of a config."""
    return [
        make_example(document, entry, config["labels"])
        for entry in config["corpora"]
        for document in read_documents(corpora / entry["folder"] / f"{split}.jsonl")
    ]


def disturb(example: Example, random: np.random.Generator, sampling: SamplingConfig) -> Example:
    """Returns the example as a tagger might give it: mentions missing, limits off by a word."""
    mentions = example.mentions
    count = len(mentions.start)
    kept = np.flatnonzero(random.random(count) >= sampling.drop_mentions)
    number = {int(old): new for new, old in enumerate(kept)}
    start, end = mentions.start[kept].copy(), mentions.end[kept].copy()
    for i in np.flatnonzero(random.random(len(kept)) < sampling.jitter).tolist():
        span = example.text[start[i] : end[i]]
        if " " in span and random.random() < 0.5:  # without its first word
            start[i] += span.index(" ") + 1
        elif " " in span:  # without its last
            end[i] = start[i] + span.rindex(" ")
    gold = {
        (kind, number[head], number[tail]) for kind, head, tail in example.gold if head in number and tail in number
    }
    order = np.lexsort((mentions.label[kept], end, start))
    place = {int(old): new for new, old in enumerate(order)}
    gold = {(kind, place[head], place[tail]) for kind, head, tail in gold}
    new = Mentions(start[order], end[order], mentions.label[kept][order])
    return Example(example.doc_id, example.text, example.section_starts, new, frozenset(gold), example.lost)


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents as one graph, and what is gold of their candidate pairs."""

    graph: GraphBatch
    gold: np.ndarray  # shape: (pairs, types), float32
    missed: int  # gold relations that are no candidate, the lost ones among them


def make_batch(
    examples: Sequence[Example], rows: Rows, documents: Sequence[int], config: Mapping[str, Any]
) -> tuple[Batch, list[Graph]]:
    """Returns the graphs of some documents as a batch with their gold."""
    rule = make_rule(config)
    graphs = [
        build_graph(example.text, rows.tokens[i], rows.sentences[i], example.section_starts, example.mentions, rule)
        for example, i in zip(examples, documents, strict=True)
    ]
    names = [one["name"] for one in config["types"]]
    gold, missed = [], sum(example.lost for example in examples)
    for example, graph in zip(examples, graphs, strict=True):
        place = {(head, tail): row for row, (head, tail) in enumerate(graph.pairs.tolist())}
        right = np.zeros((len(graph.pairs), len(names)), dtype=np.float32)
        for kind, head, tail in example.gold:
            if (head, tail) in place:
                right[place[head, tail], names.index(kind)] = 1
            else:
                missed += 1
        gold.append(right)
    batch = Batch(collate(graphs, rows, documents, len(config["labels"]), BUCKET_TOKENS), np.concatenate(gold), missed)
    return batch, graphs


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
    """Trains a relation model and writes it to ``out``.

    Returns:
        Figures on dev with gold entities: ``f1``, ``threshold``, ``temperature``, ``epoch``, ``seconds``.

    Raises:
        MedpipeError: CONFIG_INVALID, CORPUS_NOT_FOUND, CORPUS_INVALID, DEVICE_UNAVAILABLE.
    """
    started = time.monotonic()
    where = resolve_device(device)
    try:
        network_config = NetworkConfig(**config.get("network", {}))
        training, sampling = LoopConfig(**config.get("training", {})), SamplingConfig(**config.get("sampling", {}))
        make_rule(config)
    except (KeyError, TypeError, ValueError) as error:
        raise MedpipeError("CONFIG_INVALID", name=config.get("name", "?"), reason=error) from error
    table = WordTable(network_config.buckets)
    examples = [one for one in read_examples(config, corpora, "train") if len(one.mentions.start) > 1]
    dev = [one for one in read_examples(config, corpora, "dev") if len(one.mentions.start) > 1]
    rows = make_rows([one.text for one in examples], table)
    dev_rows = make_rows([one.text for one in dev], table)
    features = torch.from_numpy(table.features.copy()).to(where)
    torch.manual_seed(training.seed)
    network = RelationNetwork(network_config, labels=len(config["labels"]), types=len(config["types"])).to(where)

    def make_batches(_: int, random: np.random.Generator) -> Sequence[Batch]:
        order = random.permutation(len(examples))
        size = sampling.batch_documents
        batches = []
        for at in range(0, len(order), size):
            chosen = order[at : at + size].tolist()
            batches.append(
                make_batch([disturb(examples[i], random, sampling) for i in chosen], rows, chosen, config)[0]
            )
        return [batch for batch in batches if len(batch.gold)]

    def compute_loss(network: nn.Module, batch: Batch) -> Tensor:
        logits = network(batch.graph, features[torch.from_numpy(batch.graph.vocabulary).to(where)])
        return binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.gold).to(where))

    dev_batches = [
        make_batch(dev[at : at + 16], dev_rows, list(range(at, min(at + 16, len(dev)))), config)[0]
        for at in range(0, len(dev), 16)
    ]
    missed = sum(batch.missed for batch in dev_batches)
    gold = np.concatenate([batch.gold for batch in dev_batches])

    def dev_logits(network: nn.Module) -> np.ndarray:
        parts = [
            network(batch.graph, features[torch.from_numpy(batch.graph.vocabulary).to(where)]) for batch in dev_batches
        ]
        return np.asarray(torch.cat(parts).float().cpu().numpy())

    def evaluate(network: nn.Module) -> tuple[float, dict[str, Any]]:
        logits = dev_logits(network)
        found = {
            kind["name"]: best_threshold(logits[:, i], gold[:, i], missed)[1] for i, kind in enumerate(config["types"])
        }
        return float(np.mean(list(found.values()))), found

    trainer = Trainer(
        network,
        config=training,
        folder=out,
        make_batches=make_batches,
        compute_loss=compute_loss,
        evaluate=evaluate,
        report=report,
    )
    best = trainer.train(resume=resume)
    network.load_state_dict(best)
    network.eval()
    with torch.no_grad():
        logits = dev_logits(network)
    temperature = fit_temperature(logits, gold)
    scores = calibrate(logits, temperature)
    types, figures = [], {}
    for i, kind in enumerate(config["types"]):
        threshold, f1 = best_threshold(scores[:, i], gold[:, i], missed)
        types.append(dict(kind) | {"threshold": round(threshold, 4)})
        figures[kind["name"]] = {"f1": f1, "threshold": threshold, "missed": missed}
    written = {
        "name": config["name"],
        "version": config["version"],
        "labels": config["labels"],
        "types": types,
        "candidates": config["candidates"],
        "temperature": temperature,
        "network": asdict(network_config),
        "corpora": {entry["folder"]: {k: v for k, v in entry.items() if k != "folder"} for entry in config["corpora"]},
    }
    save_model(out, best, written)
    return figures | {
        "temperature": temperature, "epoch": trainer.progress.best_epoch, "seconds": time.monotonic() - started,
    }  # fmt: skip
