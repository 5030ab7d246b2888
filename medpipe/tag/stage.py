"""The second stage: documents in, entities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from medpipe.device import map_batches, resolve_device, run_halving
from medpipe.errors import MedpipeError, reject_message
from medpipe.ids import entity_id, make_ids
from medpipe.lake import contracts
from medpipe.records import ASSERTIONS, ModelId, Reject, StageOutput
from medpipe.tag.assertion import NO_SECTION, Assertion, describe_words
from medpipe.tag.codes import Coder, code_columns
from medpipe.tag.decode import (
    Chains,
    Found,
    Spans,
    calibrate,
    choose_chains,
    collect,
    decode_chains,
    drop_headings,
    find_sections,
    join_chains,
    nest,
    no_entities,
    sort_spans,
)
from medpipe.tag.fragments import GAP, Interval, find_fragments, split_gaps
from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.tag.profiles import find_tagger, has_bfloat16, identify_tagger
from medpipe.text.batches import bucket_batches
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows
from medpipe.text.sections import is_part
from medpipe.text.slices import slice_texts
from medpipe.weights import load_weights, read_config

# Words whose vectors are kept between chunks; when there are more, all are forgotten (about 100 MB at most).
KEPT_WORDS = 100_000
# Padded tokens that go through the network at once on a CPU: of 512 to 16,384 the fastest, a core having 1 to 2 MiB of
# cache. It is also what keeps padding low: 94 % of the cells hold tokens.
CACHE_TOKENS = 2048


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
        reduced: bool = False,
    ) -> None:
        self.network = network.to(device).eval()
        self.reduced = reduced  # the network computes in bfloat16
        self.model = model
        self.device = device
        self.token_budget = token_budget
        self.labels: tuple[str, ...] = tuple(config["labels"])
        self.styles: tuple[str, ...] = tuple(config["styles"])
        self.style = 0  # whose conventions are followed: those of the first style, clinical narrative
        self.gaps = next(iter(config["auxiliary"]), None) == GAP  # whether the label behind the last is that of gaps
        self.calibration = calibration_table(config["calibration"], self.labels)
        self.assertion = Assertion.load()
        self.coder = coder
        self.table = WordTable(network.config.buckets)
        # Of every word of the table: its vector, and what the cues of assertion have to know of it.
        self.vectors = torch.zeros(0, 2 * network.config.width, device=device)
        self.descriptions = describe_words([], self.assertion.cues.words)

    @classmethod
    def load(
        cls,
        model: str | Path = "tagger",
        *,
        device: str = "auto",
        profile: str = "standard",
        token_budget: int = 8192,
        coder: Coder | None = None,
    ) -> Tagger:
        """Loads a shipped model by name, or one from a folder; without ``coder``, no mention gets a code.

        Raises:
            MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_UNAVAILABLE, PROFILE_UNAVAILABLE.
        """
        folder = find_tagger(model, profile)
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
            return cls(
                network,
                config,
                identify_tagger(model, profile),
                device=where,
                token_budget=token_budget,
                coder=coder,
                reduced=profile == "fast" and has_bfloat16(where),
            )
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
            self.vectors, self.descriptions = self.vectors[:0], self.descriptions[:0]
        rows = make_rows(texts, self.table)
        new = torch.from_numpy(self.table.features[len(self.vectors) :])
        if len(new):
            with torch.inference_mode():
                self.vectors = torch.cat([self.vectors, self.network.embed(new.to(self.device))])
            words = describe_words(self.table.words[len(self.descriptions) :], self.assertion.cues.words)
            self.descriptions = np.concatenate([self.descriptions, words])
        spans, failed, counts = find_spans(
            self.network,
            self.vectors,
            rows,
            token_budget=self.token_budget,
            labels=len(self.labels) + self.gaps,
            style=self.style,
            reduced=self.reduced,
        )
        if counts.get("batches_halved"):
            self.token_budget = max(1, self.token_budget // 2)
        spans, gaps = split_gaps(to_characters(spans, rows), len(self.labels))
        score = calibrate(spans.score, *self.calibration[spans.label].T)
        return Spans(spans.text, spans.start, spans.end, spans.label, score), gaps, rows, failed, counts

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Tags a chunk of whole documents; see the stage interface."""
        documents = tables["documents"].select(["document_id", "patient_id", "text", "source", "record"])
        documents = documents.sort_by("document_id")
        document_ids, texts = (documents[name].to_pylist() for name in ("document_id", "text"))
        spans, gaps, rows, failed, counts = self.find(texts)
        spans = drop_headings(spans, *_headings(tables["sections"], document_ids))
        fragments = find_fragments(spans, gaps, texts)
        section_ids, section, section_names = _place_in_sections(tables["sections"], document_ids, spans)
        asserted = self.assertion.assert_mentions(
            self.descriptions[rows.words],
            rows.tokens,
            rows.sentences,
            spans.text,
            spans.start,
            spans.end,
            section,
            section_names,
        )
        owner = pa.array(spans.text)
        document = documents["document_id"].combine_chunks().take(owner)
        label = pa.array(self.labels, pa.string()).take(pa.array(spans.label))
        mentions = slice_texts(documents["text"].combine_chunks().cast(pa.string()), spans.text, spans.start, spans.end)
        ids = _identify(fragments, self.model.weights_hash, document, spans, label)
        parents, depths = nest(spans)
        empty = pa.nulls(len(spans))
        entities = {
            "entity_id": ids,
            "document_id": document,
            "patient_id": documents["patient_id"].take(owner),
            "section_id": section_ids.take(pa.array(section, mask=section < 0)),
            "start": pa.array(spans.start),
            "end": pa.array(spans.end),
            "text": mentions,
            "label": label,
            "subtype": empty,
            "score": pa.array(spans.score),
            "parent_entity_id": ids.take(pa.array(parents, mask=parents < 0)),
            "depth": pa.array(depths),
            "fragments": _fragment_column(fragments, len(spans)),
            **{name: pa.array(asserted[:, column]) for column, name in enumerate(ASSERTIONS)},
            **code_columns(self.coder, texts, spans.text, spans.start, mentions, spans.label, self.labels),
            "model": pa.repeat(str(self.model), len(spans)),
            "run_id": pa.repeat(run_id, len(spans)),
        }
        rejects = [_out_of_memory(documents.slice(number, 1).to_pylist()[0]) for number in failed]
        if self.reduced:
            counts["bfloat16_tokens"] = counts["tokens"]
        return StageOutput({"entities": contracts.conform("entities", pa.table(entities))}, rejects, counts)


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
    network: TaggerNetwork,
    vectors: torch.Tensor,
    rows: Rows,
    *,
    token_budget: int,
    labels: int,
    style: int = 0,
    reduced: bool = False,
) -> tuple[Spans, list[int], dict[str, float]]:
    """Runs the network over rows in batches of about equal length.

    On CUDA the host only hands out work and waits once, at the end. On a CPU every thread takes batches of its own:
    threads that share one batch wait for each other at every time step of the LSTM, on a busy machine for long.

    Args:
        network: in evaluation mode.
        vectors: shape: (words, 2 * width); of all words of the rows' table.
        token_budget: padded tokens of a batch; halved and tried again where memory runs out. On a CPU a batch goes
            through the network in slices that stay in its cache, and is decoded as a whole.
        labels: how many labels are wanted, from the first.
        style: number of the annotation style.
        reduced: encodes in bfloat16.

    Returns:
        The entities by tokens (within their text, half-open), with log-probabilities as scores; the texts that did not
        fit in memory, without entities; counts of tokens and padded tokens.
    """
    device = vectors.device
    slice_tokens = min(token_budget, CACHE_TOKENS) if device.type == "cpu" else token_budget
    batches = bucket_batches(rows.length, token_budget)
    order = np.concatenate([np.zeros(0, np.int64), *batches])
    # All of the chunk goes to the device once; a batch is an interval of ``order``.
    words, start, length = (
        torch.from_numpy(array).to(device) for array in (rows.words, rows.start[order], rows.length[order])
    )
    failed: set[int] = set()
    cells: list[int] = []
    halved: list[int] = []

    def encode(part: range) -> Chains:
        """Returns the chains of some rows, a place in ``order`` each."""
        # Kernels for a single row round otherwise than those for many: the row is taken twice.
        chosen: slice | list[int] = slice(part.start, part.stop) if len(part) > 1 else [part.start] * 2
        lengths = length[chosen]
        steps = torch.arange(int(rows.length[order[part.start : part.stop]].max()), device=device)
        inside = steps < lengths[:, None]  # shape: (batch, time)
        numbers = torch.where(inside, words[torch.where(inside, start[chosen][:, None] + steps, 0)], 0)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced):
            emissions = network(vectors[numbers], lengths, torch.full_like(lengths, style))
        cells.append(len(part) * len(steps))
        return choose_chains(network, emissions[: len(part)], lengths[: len(part)], labels)

    @torch.inference_mode()
    def compute(batch: Sequence[int]) -> list[Found]:
        sizes = [len(part) for part in bucket_batches(rows.length[order[batch[0] : batch[-1] + 1]], slice_tokens)]
        parts = [range(batch[0] + one, batch[0] + other) for one, other in pairwise(np.cumsum([0, *sizes]).tolist())]
        chains = join_chains([encode(part) for part in parts], [part.start for part in parts])
        return [decode_chains(network, chains)]

    def give_up(place: int) -> Found:
        failed.add(int(rows.text[order[place]]))
        return no_entities(device)

    def run(batch: Sequence[int]) -> list[Found]:
        return run_halving(batch, compute, give_up, halved)

    ends = np.cumsum([0, *map(len, batches)]).tolist()
    places, logs = collect(
        [one for part in map_batches(run, [range(*pair) for pair in pairwise(ends)], device) for one in part]
    )
    place, first, last, label = places.T
    row = order[place]
    text = rows.text[row]
    base = rows.start[row] - rows.offset[text]
    spans = sort_spans(text, base + first, base + last + 1, label, logs)
    if failed:
        kept = ~np.isin(spans.text, list(failed))
        spans = spans.take(kept)
    counts = {"tokens": float(rows.length.sum()), "padded_tokens": float(sum(cells))}
    if halved:
        counts["batches_halved"] = float(len(halved))
    return spans, sorted(failed), counts


def to_characters(spans: Spans, rows: Rows) -> Spans:
    """Returns spans by tokens as spans by characters of their texts."""
    starts = np.concatenate([part.start for part in rows.tokens] or [np.zeros(0, np.int32)])
    ends = np.concatenate([part.end for part in rows.tokens] or [np.zeros(0, np.int32)])
    base = rows.offset[spans.text]
    start, end = starts[base + spans.start].astype(np.int64), ends[base + spans.end - 1].astype(np.int64)
    return Spans(spans.text, start, end, spans.label, spans.score)


def _identify(
    fragments: Mapping[int, Sequence[Interval]], weights: str, document: pa.Array, spans: Spans, label: pa.Array
) -> pa.StringArray:
    """Returns the ids of entities: of document, weights, place and label, and of the parts where there are some."""
    ids = make_ids("entity", document, weights, pa.array(spans.start), pa.array(spans.end), label)
    if not fragments:
        return ids
    others = [
        entity_id(
            document[at].as_py(),
            weights,
            int(spans.start[at]),
            int(spans.end[at]),
            label[at].as_py(),
            [limit for part in parts for limit in part],
        )
        for at, parts in sorted(fragments.items())
    ]
    discontinuous = np.zeros(len(spans), dtype=bool)
    discontinuous[list(fragments)] = True
    return pc.replace_with_mask(ids, pa.array(discontinuous), pa.array(others))


def _fragment_column(fragments: Mapping[int, Sequence[Interval]], entities: int) -> pa.Array:
    """Returns the column ``fragments``: null for nearly all."""
    place = np.full(entities, -1)
    place[sorted(fragments)] = np.arange(len(fragments))
    parts = [[{"start": start, "end": end} for start, end in fragments[number]] for number in sorted(fragments)]
    column = pa.array(parts, contracts.arrow_schema("entities").field("fragments").type)
    return column.take(pa.array(place, mask=place < 0))


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
    sections: pa.Table, document_ids: Sequence[str], spans: Spans
) -> tuple[pa.Array, np.ndarray, list[str]]:
    """Finds the innermost section in which every entity begins, and what tells what is in it.

    That of a mere part is the name of the section around it: what stands under "Mother:" is of the family.

    Returns:
        The ids of sections; the place of each entity's among them, shape: (entities,), int64, -1 where it has none; the
        telling names of the sections, and last "body" for no section.
    """
    table = sections.select(["document_id", "section_id", "parent_section_id", "name", "start", "end"])
    # An outer section before the inner ones that begin where it does.
    table = table.sort_by([("document_id", "ascending"), ("start", "ascending"), ("end", "descending")])
    telling: dict[str, str] = {}
    for section_id, parent_id, name in zip(
        *(table[name].to_pylist() for name in ("section_id", "parent_section_id", "name")), strict=True
    ):
        telling[section_id] = telling.get(parent_id, name) if is_part(name) else name
    owner = pc.index_in(table["document_id"].combine_chunks().cast(pa.string()), pa.array(document_ids, pa.string()))
    known = owner.is_valid()
    table, owner = table.filter(known), owner.filter(known).to_numpy().astype(np.int64)
    start, end = (table[name].to_numpy().astype(np.int64) for name in ("start", "end"))
    place = find_sections(spans.text, spans.start, owner, start, end)
    ids = table["section_id"].combine_chunks()
    return ids, place, [*map(telling.__getitem__, ids.to_pylist()), NO_SECTION]


def _out_of_memory(document: dict[str, Any]) -> Reject:
    return Reject(
        document["source"],
        document["record"],
        "tag",
        "OUT_OF_MEMORY",
        reject_message("OUT_OF_MEMORY"),
        document["document_id"],
    )
