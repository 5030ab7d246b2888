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

from medpipe.device import resolve_device, run_halving
from medpipe.errors import MedpipeError, reject_message
from medpipe.ids import relation_id
from medpipe.records import ModelId, Reject, StageOutput
from medpipe.relate.decode import calibrate, find_evidence
from medpipe.relate.features import PAIR_FEATURES, Graph, Mentions, PairRule, build_graph, collate
from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows
from medpipe.text.sections import is_part
from medpipe.weights import find_model, identify, load_weights, read_config

BUCKET_TOKENS = 2048  # padded tokens of sentences that go through the LSTM together; more is more padding


@dataclass(frozen=True, slots=True)
class RelationType:
    """A kind of relation: which labels it joins, and from which score on it is told."""

    name: str
    head: str
    tail: str
    threshold: float


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
    ) -> None:
        self.network = network.to(device).eval()
        self.model = model
        self.device = device
        self.token_budget = token_budget
        self.labels: tuple[str, ...] = tuple(config["labels"])
        self.types = [RelationType(**one) for one in config["types"]]
        if min_score is not None:
            self.types = [replace(one, threshold=min_score) for one in self.types]
        self.rule = make_rule(config)
        self.temperature = float(config["temperature"])
        self.corpora: dict[str, Any] = dict(config.get("corpora", {}))  # label maps of the training corpora
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
            return cls(network, config, identify(folder), device=where, token_budget=token_budget, min_score=min_score)
        except (KeyError, TypeError, RuntimeError) as error:
            raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error

    def score(
        self, texts: Sequence[str], section_starts: Sequence[np.ndarray], mentions: Sequence[Mentions]
    ) -> tuple[list[Graph], list[np.ndarray | None], Rows, dict[str, float]]:
        """Scores the candidate pairs of some documents.

        Returns:
            Their graphs; for each the probabilities, shape (pairs, types), or ``None`` where the document did not fit
            in memory even alone; their sentences; counts.
        """
        if len(self.table) > 100_000:
            self.table.clear()
        rows = make_rows(texts, self.table)
        graphs = [
            build_graph(text, rows.tokens[i], rows.sentences[i], section_starts[i], mentions[i], self.rule)
            if len(mentions[i].start) and len(rows.tokens[i])
            else empty_graph()
            for i, text in enumerate(texts)
        ]
        counts = {
            "tokens": 0.0,
            "padded_tokens": 0.0,
            "candidates_cut": float(sum(graph.pairs_cut for graph in graphs)),
        }

        @torch.inference_mode()
        def compute(documents: Sequence[int]) -> list[np.ndarray | None]:
            batch = collate([graphs[i] for i in documents], rows, documents, len(self.labels), BUCKET_TOKENS)
            features = torch.from_numpy(self.table.features[batch.vocabulary]).to(self.device)
            logits = self.network(batch, features).float().cpu().numpy()
            counts["tokens"] += len(batch.words)
            counts["padded_tokens"] += batch.padded_tokens
            limits = np.searchsorted(batch.pair_document, np.arange(len(documents) + 1)).tolist()
            scores = calibrate(logits, self.temperature)
            return [scores[a:b] for a, b in pairwise(limits)]

        found: list[np.ndarray | None] = [np.zeros((0, len(self.types)))] * len(texts)
        waiting = [i for i, graph in enumerate(graphs) if len(graph.pairs)]
        for documents in self.batches(waiting, rows):
            for i, scores in zip(documents, run_halving(documents, compute, lambda _: None), strict=True):
                found[i] = scores
        return graphs, found, rows, counts

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

        wanted = ["document_id", "patient_id", "text", "source", "record"]
        documents = tables["documents"].select(wanted).sort_by("document_id").to_pylist()
        entities = group_rows(select_entities(tables["entities"], self.labels))
        # Parts of sections ("Lungs:") are no sections to the model.
        places = tables["sections"].select(["document_id", "parent_section_id", "name", "start"]).to_pylist()
        sections: dict[str, list[int]] = {}
        for row in places:
            if row["parent_section_id"] is None or not is_part(row["name"]):
                sections.setdefault(row["document_id"], []).append(row["start"])
        # Documents without a pair of labels that can be related are not looked at.
        documents = [one for one in documents if can_relate(entities.get(one["document_id"], []), self.types)]
        rows_of = [entities[one["document_id"]] for one in documents]
        mentions = [to_mentions(rows, self.labels) for rows in rows_of]
        starts = [np.array(sorted(sections.get(one["document_id"], [])) or [0]) for one in documents]
        graphs, scores, rows, counts = self.score([one["text"] for one in documents], starts, mentions)
        columns: dict[str, list[Any]] = {
            name: [] for name in contracts.arrow_schema("relations").names if name != "schema_version"
        }
        rejects = []
        for i, document in enumerate(documents):
            found = scores[i]
            if found is None:
                message = reject_message("OUT_OF_MEMORY")
                place = (document["source"], document["record"], self.name)
                rejects.append(Reject(*place, "OUT_OF_MEMORY", message, document["document_id"]))
                continue
            self._add_relations(columns, document, rows_of[i], graphs[i], found, rows, i)
        count = len(columns["relation_id"])
        columns |= {"model": [str(self.model)] * count, "run_id": [run_id] * count}
        table = contracts.conform("relations", columns)
        return StageOutput(
            {"relations": table.sort_by([("document_id", "ascending"), ("relation_id", "ascending")])}, rejects, counts
        )

    def _add_relations(
        self,
        columns: dict[str, list[Any]],
        document: Mapping[str, Any],
        entities: Sequence[Mapping[str, Any]],
        graph: Graph,
        scores: np.ndarray,
        rows: Rows,
        number: int,
    ) -> None:
        """Appends the relations of one document whose score reaches their type's threshold."""
        tokens, sentences = rows.tokens[number], rows.sentences[number]
        for index, kind in enumerate(self.types):
            head_label, tail_label = self.labels.index(kind.head), self.labels.index(kind.tail)
            right = (graph.label[graph.pairs[:, 0]] == head_label) & (graph.label[graph.pairs[:, 1]] == tail_label)
            told = np.flatnonzero(right & (scores[:, index] >= kind.threshold))
            if not len(told):
                continue
            pairs = graph.pairs[told]
            evidence = find_evidence(
                pairs, graph.sentence, tokens.start[sentences[:, 0]], tokens.end[sentences[:, 1] - 1]
            )
            for place, (head, tail) in enumerate(pairs.tolist()):
                one, two = entities[head], entities[tail]
                key = relation_id(
                    document["document_id"], self.model.weights_hash, kind.name, one["entity_id"], two["entity_id"]
                )
                columns["relation_id"].append(key)
                columns["document_id"].append(document["document_id"])
                columns["patient_id"].append(document["patient_id"])
                columns["type"].append(kind.name)
                columns["head_entity_id"].append(one["entity_id"])
                columns["tail_entity_id"].append(two["entity_id"])
                columns["score"].append(float(scores[told[place], index]))
                columns["negated"].append(one["negated"] or two["negated"] or one["family"] or two["family"])
                columns["evidence_start"].append(int(evidence.start[place]))
                columns["evidence_end"].append(int(evidence.end[place]))
                columns["sentence_distance"].append(int(evidence.distance[place]))


def make_rule(config: Mapping[str, Any]) -> PairRule:
    """Returns which pairs are candidates, from a model's config."""
    labels = list(config["labels"])
    heads = tuple(sorted({labels.index(one["head"]) for one in config["types"]}))
    tails = tuple(sorted({labels.index(one["tail"]) for one in config["types"]}))
    return PairRule(heads, tails, **config["candidates"])


def select_entities(entities: pa.Table, labels: Sequence[str]) -> pa.Table:
    """Returns the entities of the labels that the model relates, by document and place."""
    names = ["document_id", "entity_id", "start", "end", "label", "negated", "family"]
    kept = entities.select(names).filter(pc.is_in(entities["label"], pa.array(labels, pa.string())))
    return kept.sort_by([(name, "ascending") for name in ("document_id", "start", "end", "label")])


def group_rows(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of each document, in their order."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        grouped.setdefault(row["document_id"], []).append(row)
    return grouped


def can_relate(entities: Sequence[Mapping[str, Any]], types: Sequence[RelationType]) -> bool:
    """Says whether there is a head and a tail of any type among the entities."""
    labels = {row["label"] for row in entities}
    return any(kind.head in labels and kind.tail in labels for kind in types)


def to_mentions(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Mentions:
    """Returns the entities of a document as arrays, in their order."""
    return Mentions(
        start=np.array([row["start"] for row in rows], dtype=np.int64),
        end=np.array([row["end"] for row in rows], dtype=np.int64),
        label=np.array([labels.index(row["label"]) for row in rows], dtype=np.int64),
    )


def empty_graph() -> Graph:
    """Returns the graph of a document without mentions."""
    none = np.zeros(0, dtype=np.int64)
    pairs = np.zeros((0, 2), dtype=np.int64)
    return Graph(
        none, none, none, none, 1, none, np.zeros((2, 0), np.int64), none, none.astype(np.float32), pairs,
        np.zeros((0, PAIR_FEATURES), np.float32), 0,
    )  # fmt: skip
