"""Stage 4: documents, sections, entities and relations in, one summary a document out.

A note is read as a whole by the selector. The pointer network writes from the sentences that it chose; each sentence
written is checked against the note, and one that fails gives way to the sentence of the note that it was made from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.nn import functional as F  # noqa: N812

from medpipe.device import resolve_device, run_halving
from medpipe.errors import MedpipeError, reject_message
from medpipe.ids import make_id
from medpipe.records import ASSERTIONS, LABELS, ModelId, Reject, StageOutput
from medpipe.summarize.decode import (
    Composed,
    Outcome,
    Said,
    compose,
    part_spans,
    read_draft,
    supporting_mentions,
    token_array,
)
from medpipe.summarize.faithfulness import AssertionEngine
from medpipe.summarize.features import Headings, Mentions, Source, Vocabulary, collate, read_source, word_buckets
from medpipe.summarize.form import is_report
from medpipe.summarize.generate import generate
from medpipe.summarize.network import Memory, NetworkConfig, SummaryNetwork
from medpipe.summarize.repair import DecodeConfig, Repair, Selected
from medpipe.summarize.select import extract_order, within_budget
from medpipe.weights import find_model, identify, load_weights, read_config

log = logging.getLogger(__name__)

MAX_NOTES = 32  # notes that are decoded together


class Summarizer:
    """The summary stage; see ``medpipe.pipeline``.

    Args:
        network: in evaluation mode, on its device.
        vocabulary: the words that it may generate.
        decode: how summaries are made.
        model: written to the rows.
        token_budget: source tokens of a batch; a longer note is a batch of its own.
        engine: asserts the mentions of summaries, as it did those of the notes; ``None``: cue words do.
    """

    name = "summarize"

    def __init__(
        self,
        network: SummaryNetwork,
        vocabulary: Vocabulary,
        decode: DecodeConfig,
        *,
        model: ModelId,
        token_budget: int = 8192,
        engine: AssertionEngine | None = None,
    ) -> None:
        self.network = network
        self.vocabulary = vocabulary
        self.decode = decode
        self.model = model
        self.device = network.vocabulary_buckets.device
        self.token_budget = token_budget
        self.engine = engine

    @classmethod
    def load(
        cls,
        model: str | Path = "summarizer",
        *,
        device: str = "auto",
        token_budget: int = 8192,
        engine: AssertionEngine | None = None,
    ) -> Summarizer:
        """Loads a shipped model by name or one from a folder.

        Raises:
            MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_UNAVAILABLE.
        """
        folder = find_model(model)
        config = read_config(folder)
        target = resolve_device(device)
        try:
            vocabulary = Vocabulary(config["vocabulary"])
            network = SummaryNetwork(NetworkConfig(**config["network"]), torch.from_numpy(vocabulary.buckets))
            network.load_state_dict(load_weights(folder))
            decode = DecodeConfig(**config["decode"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error
        network = network.to(target).eval()
        return cls(network, vocabulary, decode, model=identify(folder), token_budget=token_budget, engine=engine)

    # --- rows ---------------------------------------------------------------------------------

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Returns one summary for every document of ``tables``; see ``medpipe.records.StageOutput``."""
        documents = tables["documents"].select(["document_id", "source", "record"]).sort_by("document_id")
        notes = read_notes(tables)
        outcomes = self.summarize([note.source for note in notes])
        rejects, made = [], []
        for place, (note, outcome) in enumerate(zip(notes, outcomes, strict=True)):
            if isinstance(outcome, Outcome):
                made.append((note, outcome))
                continue
            record = {name: documents[name][place].as_py() for name in ("source", "record")}
            message = reject_message(outcome.code, stage=self.name, kind=outcome.kind)
            reject = Reject(**record, stage=self.name, code=outcome.code, message=message, document_id=note.document_id)
            rejects.append(reject)
        tokens = float(sum(len(note.source.tokens) for note in notes))
        counts = {
            "tokens": tokens,
            "padded_tokens": tokens,  # notes are laid end to end; only rows of equal sentences are padded
            "sentences": float(sum(len(outcome.sentences) for _, outcome in made)),
            "sentences_repaired": float(sum(outcome.repaired for _, outcome in made)),
            "sentences_dropped": float(sum(outcome.dropped for _, outcome in made)),
        }
        return StageOutput({"summaries": self._rows(made, run_id)}, rejects, counts)

    def _rows(self, made: Sequence[tuple[Note, Outcome]], run_id: str) -> pa.Table:
        """Returns the rows of the table ``summaries``."""
        from medpipe.lake import contracts

        texts = [compose(note.source, outcome.sentences) for note, outcome in made]
        support = [_support(note, text) for (note, _), text in zip(made, texts, strict=True)]
        columns: dict[str, Any] = {
            "summary_id": [make_id("summary", note.document_id, self.model.weights_hash) for note, _ in made],
            "document_id": [note.document_id for note, _ in made],
            "patient_id": [note.patient_id for note, _ in made],
            "text": [text.text for text in texts],
            "sections": [part_spans(outcome, text) for (_, outcome), text in zip(made, texts, strict=True)],
            "tokens": token_array([note.source for note, _ in made], texts),
            "entity_ids": [entities for entities, _ in support],
            "relation_ids": [relations for _, relations in support],
            "method": [outcome.method for _, outcome in made],
            "faithful": [outcome.faithful for _, outcome in made],
            "n_sentences": [len(outcome.sentences) for _, outcome in made],
            "n_unsupported_entities": [outcome.findings.entities for _, outcome in made],
            "n_unsupported_numbers": [outcome.findings.numbers for _, outcome in made],
            "n_polarity_errors": [outcome.findings.polarity for _, outcome in made],
            "n_repaired": [outcome.repaired for _, outcome in made],
            "scope": ["note"] * len(made),
            "encounter_id": [note.encounter_id for note, _ in made],
            "document_ids": [None] * len(made),
            "token_documents": [None] * len(made),
            "checks": [list(outcome.checks) for _, outcome in made],
            "n_side_errors": [outcome.findings.sides for _, outcome in made],
            "n_family_errors": [outcome.findings.family for _, outcome in made],
            "n_replaced": [outcome.replaced for _, outcome in made],
            "n_dropped": [outcome.dropped for _, outcome in made],
            "model": [str(self.model)] * len(made),
            "run_id": [run_id] * len(made),
        }
        return contracts.conform("summaries", columns)

    # --- notes --------------------------------------------------------------------------------

    def summarize(self, sources: Sequence[Source]) -> list[Outcome | Failure]:
        """Returns the summary of every note, in their order; a note that fails alone gives a ``Failure``."""
        results: list[Outcome | Failure] = [EMPTY] * len(sources)
        worded = [index for index, source in enumerate(sources) if source.eligible.any()]
        for batch in _batches([len(sources[index].tokens) for index in worded], self.token_budget):
            chosen = [worded[place] for place in batch]
            done = run_halving(
                [sources[index] for index in chosen],
                self._summarize_batch,
                lambda _: Failure("OUT_OF_MEMORY", "memory"),
            )
            for index, outcome in zip(chosen, done, strict=True):
                results[index] = outcome
        return results

    def _summarize_batch(self, sources: Sequence[Source]) -> list[Outcome | Failure]:
        """Summarizes notes together; where that fails, each alone, so that a bad note costs only itself."""
        try:
            selected = self.select(sources)
            return [self.finish(source, one) for source, one in zip(sources, selected, strict=True)]
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if len(sources) == 1:
                log.warning("a note could not be summarized: %s", type(error).__name__)
                return [Failure("STAGE_FAILED", type(error).__name__)]
        return [outcome for source in sources for outcome in self._summarize_batch([source])]

    @torch.inference_mode()
    def select(self, sources: Sequence[Source]) -> list[Selected]:
        """Scores the sentences of notes with words, and lets the generator write."""
        batch = collate(sources, self.device, self.token_budget)
        encoded = self.network.encode(batch)
        logits = encoded.sentence_logits.cpu().numpy()
        parts = np.split(logits, np.cumsum(batch.sentence_counts)[:-1])
        orders = [extract_order(source, part, self.decode.overlap) for source, part in zip(sources, parts, strict=True)]
        scores = [1 / (1 + np.exp(-part)) for part in parts]
        drafts: list[Said | None] = [None] * len(sources)
        writing = [
            index
            for index, source in enumerate(sources)
            if self.decode.mode != "extractive"
            and source.eligible.sum() > self.decode.short_sentences
            and not (self.decode.mode == "mixed" and is_report(source))
        ]
        if writing:
            slots = []
            for index in writing:
                source = sources[index]
                sentences = within_budget(parts[index], source.lengths, source.eligible, self.decode.attended)
                attended = np.zeros(len(source.sentences), dtype=bool)
                attended[sentences] = True
                slots.append(np.flatnonzero(attended[source.sentence_of]))
            firsts = np.cumsum(batch.token_counts) - batch.token_counts
            flat = [firsts[index] + chosen for index, chosen in zip(writing, slots, strict=True)]
            chosen_sources = [sources[index] for index in writing]
            for index, draft in zip(writing, self._write(chosen_sources, slots, flat, encoded), strict=True):
                drafts[index] = draft
        return [Selected(order, score, draft) for order, score, draft in zip(orders, scores, drafts, strict=True)]

    def _write(
        self, sources: Sequence[Source], slots: Sequence[np.ndarray], flat: Sequence[np.ndarray], encoded: Any
    ) -> list[Said]:
        """Runs the generator over the attended tokens of notes.

        Args:
            sources: the notes.
            slots: of each note the attended tokens.
            flat: the same tokens as positions in the batch of the encoder.
            encoded: of that batch.
        """
        width = max(len(chosen) for chosen in slots)
        index = np.zeros((len(sources), width), dtype=np.int64)
        mask = np.zeros((len(sources), width), dtype=bool)
        ids = np.zeros((len(sources), width), dtype=np.int64)
        own = []
        for row, (source, chosen, places) in enumerate(zip(sources, slots, flat, strict=True)):
            index[row, : len(chosen)] = places
            mask[row, : len(chosen)] = True
            ids[row, : len(chosen)], types = self.vocabulary.extend(source.types[chosen])
            own.append(word_buckets(types))
        table = np.zeros((len(sources), max(1, max(len(buckets) for buckets in own)), 2), dtype=np.int64)
        for row, buckets in enumerate(own):
            table[row, : len(buckets)] = buckets
        where = torch.from_numpy(index).to(self.device)
        memory = Memory(
            values=encoded.memory[where],
            mask=torch.from_numpy(mask).to(self.device),
            prior=F.logsigmoid(encoded.token_logits[where]),
            ids=torch.from_numpy(ids).to(self.device),
        )
        draft = generate(self.network, memory, torch.from_numpy(table).to(self.device), self.decode.beam())
        words, copied = draft.words.cpu().numpy(), draft.slots.cpu().numpy()
        probabilities = draft.probabilities.float().cpu().numpy()
        return [
            read_draft(source, chosen, self.vocabulary, words[row], copied[row], probabilities[row])
            for row, (source, chosen) in enumerate(zip(sources, slots, strict=True))
        ]

    def finish(self, source: Source, selected: Selected) -> Outcome:
        """Turns the selector's and the generator's answer into a checked summary of one note."""
        return Repair(source, selected, self.decode, self.engine).finish()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a note has no summary: a code of ``medpipe.errors`` and the kind of the error."""

    code: str
    kind: str


EMPTY = Outcome([], "extractive", True)


def _batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Returns batches of notes of about equal length, longest first, of at most ``budget`` tokens together."""
    batches: list[list[int]] = []
    held = 0
    for index in np.argsort(-np.array(lengths, dtype=np.int64), kind="stable").tolist():
        if not batches or held + lengths[index] > budget or len(batches[-1]) == MAX_NOTES:
            batches.append([])
            held = 0
        batches[-1].append(index)
        held += lengths[index]
    return batches


# --- from Arrow -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """A document with the rows that belong to it."""

    document_id: str
    patient_id: str | None
    encounter_id: str | None
    source: Source
    entity_ids: list[str]
    relations: list[tuple[str, str, str]]  # id, head, tail


def read_notes(tables: Mapping[str, pa.Table]) -> list[Note]:
    """Returns the notes of a chunk by document id; without entities or relations where there are no such tables."""
    documents = tables["documents"]
    if "encounter_id" not in documents.column_names:  # plain texts have none
        documents = documents.append_column("encounter_id", pa.nulls(len(documents), pa.string()))
    documents = documents.select(["document_id", "patient_id", "encounter_id", "text"]).sort_by("document_id")
    names = documents["document_id"].to_pylist()
    sections = _by_document(tables.get("sections"), names, ["start", "end", "body_start", "name"])
    entity_columns = ["entity_id", "start", "end", "label", *ASSERTIONS]
    entities = _by_document(tables.get("entities"), names, entity_columns)
    relations = _by_document(tables.get("relations"), names, ["relation_id", "head_entity_id", "tail_entity_id"])
    notes = []
    patients, encounters = documents["patient_id"].to_pylist(), documents["encounter_id"].to_pylist()
    for name, patient, encounter, text, section, entity, relation in zip(
        names, patients, encounters, documents["text"].to_pylist(), sections, entities, relations, strict=True
    ):
        linked = relation.to_pylist()
        pairs = [(row["relation_id"], row["head_entity_id"], row["tail_entity_id"]) for row in linked]
        related = {end for _, head, tail in pairs for end in (head, tail)}
        identifiers = entity["entity_id"].to_pylist()
        mentions = Mentions(
            start=_ints(entity["start"]),
            end=_ints(entity["end"]),
            label=np.array([_label_index(label) for label in entity["label"].to_pylist()], dtype=np.int64),
            assertions=np.stack([_bools(entity[column]) for column in ASSERTIONS], axis=1),
            related=np.array([identifier in related for identifier in identifiers], dtype=bool),
        )
        headings = Headings(
            _ints(section["start"]), _ints(section["body_start"]), _ints(section["end"]), section["name"].to_pylist()
        )
        notes.append(Note(name, patient, encounter, read_source(text, headings, mentions), identifiers, pairs))
    return notes


def _by_document(table: pa.Table | None, names: Sequence[str], columns: Sequence[str]) -> list[pa.Table]:
    """Returns the rows of each document, in their order in ``table``."""
    if table is None or table.num_rows == 0:
        kinds = dict.fromkeys(("start", "end", "body_start"), pa.int32()) | dict.fromkeys(ASSERTIONS, pa.bool_())
        empty = pa.table({column: pa.array([], kinds.get(column, pa.string())) for column in columns})
        return [empty] * len(names)
    place = pc.index_in(table["document_id"], pa.array(names, table["document_id"].type)).fill_null(-1)
    order = np.argsort(codes := place.to_numpy(), kind="stable")
    limits = np.searchsorted(codes[order], np.arange(len(names) + 1))
    rows = table.select(list(columns)).take(pa.array(order)).combine_chunks()
    return [
        rows.slice(first, end - first) for first, end in zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True)
    ]


def _ints(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.int32)


def _bools(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(bool)


def _label_index(label: str) -> int:
    return LABELS.index(label) if label in LABELS else -1


def _support(note: Note, text: Composed) -> tuple[list[str], list[str]]:
    """Returns the entities that a summary copied as a whole, and the relations between two of them."""
    copied = supporting_mentions(note.source, text)
    entities = [name for name, there in zip(note.entity_ids, copied.tolist(), strict=True) if there]
    held = set(entities)
    return entities, [name for name, head, tail in note.relations if head in held and tail in held]
