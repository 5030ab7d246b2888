"""The second stage: documents in, entities out."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from medpipe.device import resolve_device, run_halving
from medpipe.errors import MedpipeError, reject_message
from medpipe.ids import make_id
from medpipe.lake import contracts
from medpipe.records import ASSERTIONS, ModelId, Reject, StageOutput
from medpipe.tag.assertion import Assertion
from medpipe.tag.codes import Coder, code_columns, code_mentions
from medpipe.tag.decode import Spans, calibrate, decode_rows, drop_headings, find_sections, nest, sort_spans
from medpipe.tag.fragments import GAP, Interval, find_fragments, split_gaps
from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.text.batches import bucket_batches
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows, pad_rows
from medpipe.text.sections import is_part
from medpipe.weights import find_model, identify, load_weights, read_config

# Words whose vectors are kept between chunks; when there are more, all are forgotten (about 100 MB at most).
KEPT_WORDS = 100_000


class Tagger:
    """Finds nested entities in documents and says what they assert and, given a coder, which codes they have.

    Labels are the model's (``config.json``). An entity lies within one sentence; entities of one label nest or overlap
    at most two deep. A discontinuous one is found as its outer extent, with its parts in ``fragments`` where the model
    has learned gaps.

    The output for a document depends on its text and the model alone (scores up to the fourth decimal).
    """

    name = "tag"

    def __init__(
        self,
        network: TaggerNetwork,
        config: dict[str, Any],
        model: ModelId,
        *,
        device: torch.device,
        token_budget: int,
        coder: Coder | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.model = model
        self.device = device
        self.token_budget = token_budget
        self.labels: tuple[str, ...] = tuple(config["labels"])
        self.gaps = next(iter(config["auxiliary"]), None) == GAP  # whether the label behind the last is that of gaps
        self.calibration = calibration_table(config["calibration"], self.labels)
        self.assertion = Assertion.load()
        self.coder = coder
        self.table = WordTable(network.config.buckets)
        self.vectors = torch.zeros(0, 2 * network.config.width, device=device)

    @classmethod
    def load(
        cls,
        model: str | Path = "tagger",
        *,
        device: str = "auto",
        token_budget: int = 8192,
        coder: Coder | None = None,
    ) -> Tagger:
        """Loads a shipped model by name, or one from a folder; without ``coder``, no mention gets a code.

        Raises:
            MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_UNAVAILABLE.
        """
        folder = find_model(model)
        config = read_config(folder)
        where = resolve_device(device)
        try:
            network = TaggerNetwork(
                NetworkConfig(**config["network"]),
                labels=len(config["labels"]) + len(config["auxiliary"]),
                styles=len(config["styles"]),
            )
            network.load_state_dict(load_weights(folder))
            network.constrain()
            return cls(network, config, identify(folder), device=where, token_budget=token_budget, coder=coder)
        except (KeyError, TypeError, RuntimeError) as error:
            raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error

    def find(self, texts: Sequence[str]) -> tuple[Spans, Spans, Rows, list[int], dict[str, float]]:
        """Finds the entities of some texts.

        Returns:
            The entities by characters; the gaps in discontinuous ones; the sentences they were found in; the texts
            that did not fit in memory (they have no entities); counts.
        """
        if len(self.table) > KEPT_WORDS:
            self.table.clear()
            self.vectors = self.vectors[:0]
        rows = make_rows(texts, self.table)
        new = torch.from_numpy(self.table.features[len(self.vectors) :])
        if len(new):
            with torch.inference_mode():
                self.vectors = torch.cat([self.vectors, self.network.embed(new.to(self.device))])
        spans, failed, counts = find_spans(
            self.network, self.vectors, rows, token_budget=self.token_budget, labels=len(self.labels) + self.gaps
        )
        spans, gaps = split_gaps(to_characters(spans, rows), len(self.labels))
        score = calibrate(spans.score, *self.calibration[spans.label].T)
        return Spans(spans.text, spans.start, spans.end, spans.label, score), gaps, rows, failed, counts

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Tags a chunk of whole documents; see the stage interface."""
        documents = tables["documents"].select(["document_id", "patient_id", "text", "source", "record"])
        documents = documents.sort_by("document_id")
        document_ids, patients, texts = (documents[name].to_pylist() for name in ("document_id", "patient_id", "text"))
        spans, gaps, rows, failed, counts = self.find(texts)
        spans = drop_headings(spans, *_headings(tables["sections"], document_ids))
        fragments = find_fragments(spans, gaps, texts)
        parts = [spans.of_text(number) for number in range(len(texts))]
        starts, ends, numbers = spans.start.tolist(), spans.end.tolist(), spans.label.tolist()
        labels = [self.labels[number] for number in numbers]
        weights = self.model.weights_hash
        ids = [
            make_id("entity", document_ids[text], weights, start, end, label, *_flat(fragments.get(number, [])))
            for number, (text, start, end, label) in enumerate(
                zip(spans.text.tolist(), starts, ends, labels, strict=True)
            )
        ]
        parents: list[str | None] = []
        depths: list[int] = []
        for part in parts:
            found, deep = nest(starts[part], ends[part], numbers[part])
            parents += [ids[part.start + parent] if parent >= 0 else None for parent in found]
            depths += deep
        section_ids, section_names = _place_in_sections(tables["sections"], document_ids, spans, parts)
        asserted = self.assertion.assert_batch(
            texts,
            rows.tokens,
            rows.sentences,
            [spans.start[part] for part in parts],
            [spans.end[part] for part in parts],
            [section_names[part] for part in parts],
        )
        flags = np.concatenate([np.zeros((0, len(ASSERTIONS)), dtype=bool), *asserted])
        mentions = [texts[text][start:end] for text, start, end in zip(spans.text, starts, ends, strict=True)]
        empty = [None] * len(ids)
        entities = {
            "entity_id": ids,
            "document_id": [document_ids[text] for text in spans.text],
            "patient_id": [patients[text] for text in spans.text],
            "section_id": section_ids,
            "start": starts,
            "end": ends,
            "text": mentions,
            "label": labels,
            "subtype": empty,
            "score": spans.score.tolist(),
            "parent_entity_id": parents,
            "depth": depths,
            "fragments": [
                [{"start": start, "end": end} for start, end in fragments[number]] if number in fragments else None
                for number in range(len(ids))
            ],
            **{name: flags[:, column].tolist() for column, name in enumerate(ASSERTIONS)},
            **code_columns(code_mentions(self.coder, texts, parts, mentions, starts, labels)),
            "model": [str(self.model)] * len(ids),
            "run_id": [run_id] * len(ids),
        }
        rejects = [_out_of_memory(documents.slice(number, 1).to_pylist()[0]) for number in failed]
        return StageOutput({"entities": contracts.conform("entities", entities)}, rejects, counts)


def calibration_table(calibration: Any, labels: Sequence[str]) -> np.ndarray:
    """Returns slope and intercept for every label, shape: (labels, 2), float64.

    Args:
        calibration: of a model's config: a pair for each label by name, or one pair for all.
        labels: of the model.
    """
    if isinstance(calibration, Mapping):
        return np.array([calibration[label] for label in labels], dtype=np.float64).reshape(-1, 2)
    return np.tile(np.array(calibration, dtype=np.float64), (len(labels), 1))


def find_spans(
    network: TaggerNetwork, vectors: torch.Tensor, rows: Rows, *, token_budget: int, labels: int
) -> tuple[Spans, list[int], dict[str, float]]:
    """Runs the network over rows in batches of about equal length.

    Args:
        network: in evaluation mode.
        vectors: shape: (words, 2 * width); of all words of the rows' table.
        rows: what ``make_rows`` gave.
        token_budget: padded tokens of a batch; halved and tried again where memory runs out.
        labels: how many labels are wanted, from the first.

    Returns:
        The entities by tokens (within their text, half-open), with log-probabilities as scores; the texts that did not
        fit in memory, without entities; counts of tokens and padded tokens.
    """
    failed: set[int] = set()

    @torch.inference_mode()
    def compute(batch: Sequence[int]) -> list[np.ndarray]:
        chosen = np.asarray(batch)
        positions, inside = pad_rows(rows.start[chosen], rows.length[chosen])
        words = torch.from_numpy(np.where(inside, rows.words[positions], 0)).to(vectors.device)
        lengths = torch.from_numpy(rows.length[chosen]).to(vectors.device)
        emissions = network(vectors[words], lengths, torch.zeros_like(lengths))
        found = decode_rows(network, emissions, lengths, labels)
        found[:, 0] = chosen[found[:, 0].astype(np.int64)]
        return [found]

    def give_up(row: int) -> np.ndarray:
        failed.add(int(rows.text[row]))
        return np.zeros((0, 5))

    batches = bucket_batches(rows.length, token_budget)
    parts = [part for batch in batches for part in run_halving(batch.tolist(), compute, give_up)]
    found = np.concatenate([np.zeros((0, 5)), *parts])
    row, first, last, label = found[:, :4].astype(np.int64).T
    text = rows.text[row]
    base = rows.start[row] - rows.offset[text]
    spans = sort_spans(text, base + first, base + last + 1, label, found[:, 4])
    if failed:
        kept = ~np.isin(spans.text, list(failed))
        spans = spans.take(kept)
    padded = sum(int(rows.length[batch].max()) * len(batch) for batch in batches)
    return spans, sorted(failed), {"tokens": float(rows.length.sum()), "padded_tokens": float(padded)}


def to_characters(spans: Spans, rows: Rows) -> Spans:
    """Returns spans by tokens as spans by characters of their texts."""
    starts = np.concatenate([part.start for part in rows.tokens] or [np.zeros(0, np.int32)])
    ends = np.concatenate([part.end for part in rows.tokens] or [np.zeros(0, np.int32)])
    base = rows.offset[spans.text]
    start, end = starts[base + spans.start].astype(np.int64), ends[base + spans.end - 1].astype(np.int64)
    return Spans(spans.text, start, end, spans.label, spans.score)


def _flat(parts: Sequence[Interval]) -> list[int]:
    return [limit for part in parts for limit in part]


def _headings(sections: pa.Table, document_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the headings that name sections: which document each is of, where it begins and where it ends.

    Those of mere parts say something of the patient: "Lungs:", "1. Asthma:".
    """
    number = {document_id: place for place, document_id in enumerate(document_ids)}
    owner = np.array([number.get(one, -1) for one in sections["document_id"].to_pylist()], dtype=np.int64)
    start, end = (sections[name].to_numpy().astype(np.int64) for name in ("start", "body_start"))
    whole = np.array([not is_part(name) for name in sections["name"].to_pylist()], dtype=bool)
    kept = (owner >= 0) & (end > start) & whole
    return owner[kept], start[kept], end[kept]


def _place_in_sections(
    sections: pa.Table, document_ids: Sequence[str], spans: Spans, parts: Sequence[slice]
) -> tuple[list[str | None], list[str]]:
    """Returns the id of the innermost section in which every entity begins, and the name that tells what is in it.

    That of a mere part is the name of the section around it: what stands under "Mother:" is of the family.
    """
    table = sections.select(["document_id", "section_id", "parent_section_id", "name", "start", "end"])
    # An outer section before the inner ones that begin where it does.
    table = table.sort_by([("document_id", "ascending"), ("start", "ascending"), ("end", "descending")])
    columns = ("document_id", "section_id", "parent_section_id", "name")
    owners, ids, around, names = (table[name].to_pylist() for name in columns)
    telling: dict[str, str] = {}
    for section_id, parent_id, name in zip(ids, around, names, strict=True):
        telling[section_id] = telling.get(parent_id, name) if is_part(name) else name
    start, end = table["start"].to_numpy(), table["end"].to_numpy()
    section_ids: list[str | None] = []
    section_names: list[str] = []
    for document_id, part in zip(document_ids, parts, strict=True):
        first, last = bisect_left(owners, document_id), bisect_right(owners, document_id)
        places = find_sections(spans.start[part], start[first:last], end[first:last])
        section_ids += [ids[first + place] if place >= 0 else None for place in places]
        section_names += [telling[ids[first + place]] if place >= 0 else "body" for place in places]
    return section_ids, section_names


def _out_of_memory(document: dict[str, Any]) -> Reject:
    return Reject(
        document["source"],
        document["record"],
        "tag",
        "OUT_OF_MEMORY",
        reject_message("OUT_OF_MEMORY"),
        document["document_id"],
    )
