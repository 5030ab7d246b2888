"""The third stage: documents and entities in, relations out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from medpipe.device import map_batches, resolve_device, run_halving
from medpipe.errors import MedpipeError, reject_message
from medpipe.ids import make_ids
from medpipe.lake.files import DamagedFileError
from medpipe.records import ModelId, Reject, StageOutput
from medpipe.relate.decode import calibrate, find_evidence, strongest_path
from medpipe.relate.features import EDGE_KINDS, PAIR_FEATURES, Graph, Mentions, TypeRule, build_graph, collate
from medpipe.relate.knowledge import FILE as KNOWLEDGE_FILE
from medpipe.relate.knowledge import Knowledge
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows
from medpipe.text.sections import is_part
from medpipe.weights import find_model, identify, load_weights, read_config

BUCKET_TOKENS = 2048  # padded tokens of sentences that go through the LSTM together; more is more padding


@dataclass(frozen=True, slots=True)
class RelationType:
    """A kind of relation: which labels it joins, which pairs are candidates, and from which score on it is told."""

    name: str
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    threshold: float
    sentence_window: int
    heads_per_tail: int

    def rule(self, labels: Sequence[str]) -> TypeRule:
        """Returns which pairs of mentions are candidates."""
        heads, tails = (tuple(labels.index(one) for one in names) for names in (self.heads, self.tails))
        return TypeRule(heads, tails, self.sentence_window, self.heads_per_tail)


def parse_types(config: Mapping[str, Any]) -> list[RelationType]:
    """Returns the types of a model's or a training config.

    A type has ``name``, ``head`` and ``tail`` (a label or several), optionally ``threshold`` and limits of its own in
    the place of those of ``candidates``.

    Raises:
        KeyError, TypeError, ValueError: the config lacks something, or holds something wrong.
    """
    labels = set(config["labels"])
    types = []
    for given in config["types"]:
        one: dict[str, Any] = {"threshold": 0.5, **config["candidates"], **given}
        heads, tails = (as_names(one.pop(end)) for end in ("head", "tail"))
        if unknown := {*heads, *tails} - labels:
            raise ValueError(f"the type {one['name']} has the unknown labels {sorted(unknown)}")
        types.append(RelationType(heads=heads, tails=tails, **one))
    return types


def as_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Returns one name, or several, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True, slots=True)
class Step:
    """A node on the path from head to tail: ``text[start:end]``, and the kind of the edge to the next one."""

    node: str  # mention, sentence or section
    start: int
    end: int
    edge: str | None  # of ``features.EDGE_KINDS``; None: the last


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a relation rests on."""

    evidence: list[tuple[int, int]]  # limits of the sentences in which head and tail begin, characters
    path: list[Step]  # the strongest of the graph; empty where the network has no layers of attention
    attention: float  # product of the attention along it


class Relater:
    """Finds relations between the entities of a document, also across sentences.

    It judges pairs of entities that the tagger found: what was not tagged cannot be related. The output for a document
    depends on the document, its entities and the model alone (scores up to the fourth decimal).
    """

    name = "relate"

    def __init__(
        self,
        network: RelationNetwork,
        config: Mapping[str, Any],
        model: ModelId,
        *,
        device: torch.device,
        token_budget: int,
        min_score: float | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.model = model
        self.device = device
        self.token_budget = token_budget
        self.labels: tuple[str, ...] = tuple(config["labels"])
        self.types = parse_types(config)
        self.joint_threshold = float(config.get("joint_threshold", 0.0))
        if min_score is not None:
            self.types = [replace(one, threshold=min_score) for one in self.types]
            self.joint_threshold = 0.0
        self.rules = [one.rule(self.labels) for one in self.types]
        self.thresholds = np.array([one.threshold for one in self.types])  # shape: (types,)
        self.temperatures = np.array(config["temperatures"], dtype=np.float64)  # shape: (types,)
        self.corpora: dict[str, Any] = dict(config.get("corpora", {}))  # label maps of the training corpora
        self.knowledge = knowledge
        self.table = WordTable(network.config.buckets)

    @classmethod
    def load(
        cls,
        model: str | Path = "relations",
        *,
        device: str = "auto",
        token_budget: int = 8192,
        min_score: float | None = None,
    ) -> Relater:
        """Loads a shipped model by name, or one from a folder; ``min_score`` takes the place of its own thresholds.

        Raises:
            MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_UNAVAILABLE.
        """
        folder = find_model(model)
        config = read_config(folder)
        where = resolve_device(device)
        try:
            sizes = {"labels": len(config["labels"]), "types": len(config["types"])}
            network = RelationNetwork(NetworkConfig(**config["network"]), **sizes)
            network.load_state_dict(load_weights(folder))
            knowledge = None
            if network.config.knowledge:
                knowledge = Knowledge.read(folder / KNOWLEDGE_FILE, [one["name"] for one in config["types"]])
            return cls(
                network, config, identify(folder), device=where, token_budget=token_budget, min_score=min_score,
                knowledge=knowledge,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, RuntimeError, DamagedFileError) as error:
            raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error

    def score(
        self, texts: Sequence[str], section_starts: Sequence[np.ndarray], mentions: Sequence[Mentions]
    ) -> tuple[list[Graph], list[np.ndarray | None], Rows, dict[str, float]]:
        """Scores the candidate pairs of some documents.

        Returns:
            Their graphs; for each the logits, shape (pairs, types), float32, those that a pair cannot have at minus
            infinity, or ``None`` where the document did not fit in memory even alone; their sentences; counts.
        """
        if len(self.table) > 100_000:
            self.table.clear()
        rows = make_rows(texts, self.table)
        graphs = [
            build_graph(
                text, rows.tokens[i], rows.sentences[i], section_starts[i], mentions[i], self.rules, self.knowledge
            )
            if len(mentions[i].start) and len(rows.tokens[i])
            else empty_graph(len(self.types))
            for i, text in enumerate(texts)
        ]
        sizes: list[tuple[int, int]] = []  # tokens and padded tokens of every batch, in any order

        @torch.inference_mode()
        def compute(documents: Sequence[int]) -> list[np.ndarray | None]:
            batch = collate([graphs[i] for i in documents], rows, documents, len(self.labels), BUCKET_TOKENS)
            features = torch.from_numpy(self.table.features[batch.vocabulary]).to(self.device)
            logits = self.network(batch, features).float().cpu().numpy()
            sizes.append((len(batch.words), batch.padded_tokens))
            limits = np.searchsorted(batch.pair_document, np.arange(len(documents) + 1)).tolist()
            logits[~batch.allowed] = -np.inf
            return [logits[a:b] for a, b in pairwise(limits)]

        halved: list[int] = []

        def run(documents: Sequence[int]) -> list[np.ndarray | None]:
            return run_halving(documents, compute, lambda _: None, halved)

        found: list[np.ndarray | None] = [np.zeros((0, len(self.types)), np.float32)] * len(texts)
        batches = self.batches([i for i, graph in enumerate(graphs) if len(graph.pairs)], rows)
        for documents, results in zip(batches, map_batches(run, batches, self.device), strict=True):
            for i, logits in zip(documents, results, strict=True):
                found[i] = logits
        counts = {
            "tokens": float(sum(tokens for tokens, _ in sizes)),
            "padded_tokens": float(sum(padded for _, padded in sizes)),
            "candidates_cut": float(sum(graph.pairs_cut for graph in graphs)),
        }
        if halved:
            counts["batches_halved"] = float(len(halved))
            self.token_budget = max(1, self.token_budget // 2)
        return graphs, found, rows, counts

    @torch.inference_mode()
    def explain(
        self, text: str, section_starts: np.ndarray, mentions: Mentions, pairs: Sequence[tuple[int, int]]
    ) -> list[Explanation]:
        """Says what relations between mentions of a document rest on.

        Args:
            text: the note.
            section_starts: shape: (sections,), ascending; characters.
            mentions: all of the labels that the model relates, as in ``run``.
            pairs: head and tail mention of each relation.
        """
        rows = make_rows([text], self.table)
        tokens, sentences = rows.tokens[0], rows.sentences[0]
        graph = build_graph(text, tokens, sentences, section_starts, mentions, self.rules, self.knowledge)
        batch = collate([graph], rows, [0], len(self.labels), BUCKET_TOKENS)
        heard: list[torch.Tensor] = []
        self.network.read(batch, torch.from_numpy(self.table.features[batch.vocabulary]).to(self.device), heard)
        attention = [one.float().cpu().numpy() for one in heard]
        limits = np.stack([tokens.start[sentences[:, 0]], tokens.end[sentences[:, 1] - 1]], axis=1)
        section_ends = np.append(section_starts[1:], len(text))
        places = [("mention", a, b) for a, b in zip(mentions.start.tolist(), mentions.end.tolist(), strict=True)]
        places += [("sentence", a, b) for a, b in limits.tolist()]
        places += [("section", a, b) for a, b in zip(section_starts.tolist(), section_ends.tolist(), strict=True)]
        kinds = {
            (one, two): EDGE_KINDS[kind // 2]
            for one, two, kind in zip(*graph.edges.tolist(), graph.edge_kind.tolist(), strict=True)
        }
        found = []
        for head, tail in pairs:
            path, strength = strongest_path(graph.edges, attention, head, tail, graph.nodes)
            steps = [
                Step(*places[node], edge=kinds[node, after] if after is not None else None)
                for node, after in zip(path, [*path[1:], None], strict=True)
            ]
            told = sorted({int(graph.sentence[head]), int(graph.sentence[tail])})
            evidence = [(int(limits[number, 0]), int(limits[number, 1])) for number in told]
            found.append(Explanation(evidence, steps, strength))
        return found

    def batches(self, documents: Sequence[int], rows: Rows) -> list[list[int]]:
        """Cuts documents, in their order, into batches of at most ``token_budget`` tokens, or of one document."""
        batches: list[list[int]] = []
        size = 0
        for i in documents:
            length = int(rows.offset[i + 1] - rows.offset[i])
            if not batches or size + length > self.token_budget:
                batches.append([])
                size = 0
            batches[-1].append(i)
            size += length
        return batches

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Relates the entities of a chunk of whole documents; see the stage interface."""
        from medpipe.lake import contracts

        chunk = read_chunk(tables, self.labels, self.rules)
        graphs, logits, rows, counts = self.score(chunk.texts, chunk.section_starts, chunk.mentions)
        parts: list[dict[str, np.ndarray]] = []
        rejects = []
        for i, found in enumerate(logits):
            if found is None:
                message = reject_message("OUT_OF_MEMORY")
                source, record = chunk.documents["source"][i].as_py(), chunk.documents["record"][i].as_py()
                document_id = chunk.documents["document_id"][i].as_py()
                rejects.append(Reject(source, record, self.name, "OUT_OF_MEMORY", message, document_id))
            elif len(found):
                told = self.tell(graphs[i], found, chunk.mentions[i], rows, i)
                parts.append(
                    {**told, "document": np.full(len(told["type"]), i), "base": chunk.first[i] + 0 * told["type"]}
                )
        table = contracts.conform("relations", self.make_columns(parts, chunk, run_id))
        return StageOutput(
            {"relations": table.sort_by([("document_id", "ascending"), ("relation_id", "ascending")])}, rejects, counts
        )

    def choose(self, graph: Graph, scores: np.ndarray, mentions: Mentions) -> np.ndarray:
        """Returns which pairs of a document are told to be related, shape: (pairs, types), bool.

        Those whose score reaches their type's threshold and, times the scores of head and tail, the joint one: a
        relation is right only where both its entities are.

        Args:
            graph: the document's.
            scores: shape: (pairs, types); of ``decode.calibrate``.
            mentions: the graph's.
        """
        told = np.asarray(graph.allowed & (scores >= self.thresholds))
        if mentions.score is not None:
            both = mentions.score[graph.pairs].prod(axis=1, keepdims=True)
            told &= scores * both >= self.joint_threshold
        return told

    def tell(
        self, graph: Graph, logits: np.ndarray, mentions: Mentions, rows: Rows, number: int
    ) -> dict[str, np.ndarray]:
        """Returns the relations that are told of a document, as columns.

        Returns:
            ``type`` (its number), ``head`` and ``tail`` (mentions), ``score``, and of the evidence ``start``, ``end``
            and ``distance``; shape: (relations,) each.
        """
        scores = calibrate(logits, self.temperatures)
        pair, kind = np.nonzero(self.choose(graph, scores, mentions))
        pairs = graph.pairs[pair]
        tokens, sentences = rows.tokens[number], rows.sentences[number]
        evidence = find_evidence(pairs, graph.sentence, tokens.start[sentences[:, 0]], tokens.end[sentences[:, 1] - 1])
        return {
            "type": kind, "head": pairs[:, 0], "tail": pairs[:, 1], "score": scores[pair, kind],
            "start": evidence.start, "end": evidence.end, "distance": evidence.distance,
        }  # fmt: skip

    def make_columns(self, parts: Sequence[Mapping[str, np.ndarray]], chunk: Chunk, run_id: str) -> dict[str, Any]:
        """Returns the columns of ``relations`` from those of ``tell``, of all documents."""
        names = ("document", "base", "type", "head", "tail", "score", "start", "end", "distance")
        found = {name: np.concatenate([part[name] for part in parts] or [np.zeros(0, np.int64)]) for name in names}
        one, two = (chunk.entities.take(pa.array(found["base"] + found[end])) for end in ("head", "tail"))
        documents = chunk.documents.take(pa.array(found["document"]))
        document_ids, patient_ids = (as_column(documents[name]) for name in ("document_id", "patient_id"))
        heads, tails = as_column(one["entity_id"]), as_column(two["entity_id"])
        kinds = pa.array([one.name for one in self.types], pa.string()).take(pa.array(found["type"]))
        keys = make_ids("relation", document_ids, self.model.weights_hash, kinds, heads, tails)
        family = pc.or_(one["family"], two["family"])
        either_negated = pc.or_(one["negated"], two["negated"])
        doubtful = [pc.or_(end["uncertain"], end["hypothetical"]) for end in (one, two)]
        return {
            "relation_id": keys, "document_id": document_ids, "patient_id": patient_ids,
            "type": kinds, "head_entity_id": heads, "tail_entity_id": tails, "score": found["score"],
            "negated": as_column(pc.or_(either_negated, family)),
            "head_negated": as_column(one["negated"]), "tail_negated": as_column(two["negated"]),
            "family": as_column(family), "uncertain": as_column(pc.or_(*doubtful)),
            "evidence_start": found["start"], "evidence_end": found["end"], "sentence_distance": found["distance"],
            "model": [str(self.model)] * len(keys), "run_id": [run_id] * len(keys),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """The documents of a chunk that can have relations, and their entities."""

    documents: pa.Table  # document_id, patient_id, source, record
    texts: list[str]
    section_starts: list[np.ndarray]  # of each document; shape: (sections,), characters, ascending
    entities: pa.Table  # of all documents, one behind the other
    first: np.ndarray  # shape: (documents,), int64; the first entity of each
    mentions: list[Mentions]


def read_chunk(tables: Mapping[str, pa.Table], labels: Sequence[str], rules: Sequence[TypeRule]) -> Chunk:
    """Returns what the model looks at: documents with a head and a tail of any type, and entities of its labels."""
    documents = tables["documents"].select(["document_id", "patient_id", "text", "source", "record"])
    documents = documents.sort_by("document_id")
    names = pa.array(labels, pa.string())
    columns = [
        "document_id", "entity_id", "start", "end", "label", "score", "code_system", "code", "negated", "uncertain",
        "hypothetical", "family",
    ]  # fmt: skip
    entities = tables["entities"].select(columns).filter(pc.is_in(tables["entities"]["label"], names))
    entities = entities.sort_by([(name, "ascending") for name in ("document_id", "start", "end", "label", "entity_id")])
    label = as_numbers(pc.index_in(entities["label"], names))
    document = as_numbers(pc.index_in(entities["document_id"], documents["document_id"].combine_chunks()))
    present = np.zeros((len(documents), len(labels)), dtype=bool)
    present[document, label] = True
    related = np.zeros(len(documents), dtype=bool)
    for rule in rules:
        related |= present[:, list(rule.heads)].any(axis=1) & present[:, list(rule.tails)].any(axis=1)
    chosen = np.flatnonzero(related)
    limits = np.searchsorted(document, np.stack([chosen, chosen + 1]))
    start, end = as_numbers(entities["start"]), as_numbers(entities["end"])
    score = np.asarray(entities["score"].to_numpy(), dtype=np.float64)
    codes = pc.binary_join_element_wise(entities["code_system"], entities["code"], "|").to_pylist()
    documents = documents.take(pa.array(chosen))
    return Chunk(
        documents.drop_columns("text"),
        documents["text"].to_pylist(),
        find_section_starts(tables["sections"], documents["document_id"].to_pylist()),
        entities,
        limits[0],
        [Mentions(start[a:b], end[a:b], label[a:b], tuple(codes[a:b]), score[a:b]) for a, b in limits.T.tolist()],
    )


def find_section_starts(sections: pa.Table, documents: Sequence[str]) -> list[np.ndarray]:
    """Returns where the sections of each document begin; parts of sections ("Lungs:") are no sections to the model."""
    starts: dict[str, list[int]] = {}
    for row in sections.select(["document_id", "parent_section_id", "name", "start"]).to_pylist():
        if row["parent_section_id"] is None or not is_part(row["name"]):
            starts.setdefault(row["document_id"], []).append(row["start"])
    return [np.array(sorted(starts.get(document, [])) or [0]) for document in documents]


def as_numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Returns a column of integers as an array, int64."""
    return np.asarray(column.to_numpy(), dtype=np.int64)


def as_column(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns a column in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def empty_graph(types: int) -> Graph:
    """Returns the graph of a document without mentions."""
    none = np.zeros(0, dtype=np.int64)
    pairs = np.zeros((0, 2), dtype=np.int64)
    return Graph(
        none, none, none, none, none, 1, none, np.zeros((2, 0), np.int64), none, none.astype(np.float32), pairs,
        np.zeros((0, types), bool), np.zeros((0, PAIR_FEATURES), np.float32),
        np.zeros((0, 0, 0), np.float32), 0,
    )  # fmt: skip
