"""Stage 4: documents, sections, entities and relations in, one summary a document out.

A note is read as a whole by the selector. The pointer network writes from the sentences that it chose; each sentence
written is checked against the note, and one that fails gives way to the sentence of the note that it was made from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F  # noqa: N812

from medpipe.device import resolve_device, run_halving
from medpipe.errors import MedpipeError, reject_message
from medpipe.ids import make_id, summary_id
from medpipe.records import ModelId, Reject, StageOutput
from medpipe.summarize.decode import (
    Outcome,
    Said,
    compose,
    part_spans,
    read_draft,
    token_array,
)
from medpipe.summarize.faithfulness import AssertionEngine
from medpipe.summarize.features import Source, Vocabulary, collate, word_buckets
from medpipe.summarize.form import is_conversation, is_report
from medpipe.summarize.generate import generate
from medpipe.summarize.network import Memory, NetworkConfig, Reading, SummaryNetwork
from medpipe.summarize.notes import Note, find_support, read_encounters, read_notes
from medpipe.summarize.profiles import identify_summarizer
from medpipe.summarize.repair import DecodeConfig, Repair, Selected
from medpipe.summarize.select import extract_order, weigh, within_budget
from medpipe.weights import find_model, load_weights, read_config

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
        profile: str = "standard",
        token_budget: int = 8192,
        engine: AssertionEngine | None = None,
    ) -> Summarizer:
        """Loads a shipped model by name or one from a folder; with the profile ``fast``, it only extracts.

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
            if profile == "fast":
                decode = replace(decode, mode="extractive")
        except (KeyError, TypeError, RuntimeError) as error:
            raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error
        network = network.to(target).eval()
        identity = identify_summarizer(folder, profile)
        return cls(network, vocabulary, decode, model=identity, token_budget=token_budget, engine=engine)

    # --- rows ---------------------------------------------------------------------------------

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Returns one summary for every document of ``tables``; see ``medpipe.records.StageOutput``."""
        return self._run(read_notes(tables), tables["documents"], run_id)

    def run_encounters(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        """Returns one summary for every encounter of ``tables``, over all its notes in the order of time.

        The rows are those of ``summaries``, by encounter: ``document_id`` is the last note, ``document_ids`` are all.

        Args:
            tables: as for ``run``; whole encounters.
            run_id: written to the rows.
        """
        return self._run(read_encounters(tables), tables["documents"], run_id)

    def _run(self, notes: Sequence[Note], documents: pa.Table, run_id: str) -> StageOutput:
        halved: list[int] = []
        outcomes = self.summarize([note.source for note in notes], halved)
        rejects, made = [], []
        for note, outcome in zip(notes, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                made.append((note, outcome))
                continue
            place = documents["document_id"].index(note.document_id).as_py()
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
        if halved:
            counts["batches_halved"] = float(len(halved))
        return StageOutput({"summaries": self._rows(made, run_id)}, rejects, counts)

    def _rows(self, made: Sequence[tuple[Note, Outcome]], run_id: str) -> pa.Table:
        """Returns the rows of the table ``summaries``."""
        from medpipe.lake import contracts

        texts = [compose(note.source, outcome.sentences) for note, outcome in made]
        support = [find_support(note, text) for (note, _), text in zip(made, texts, strict=True)]
        outcomes = [outcome for _, outcome in made]
        notes = [note for note, _ in made]
        columns: dict[str, Any] = {
            "summary_id": [self._id(note) for note in notes],
            "document_id": [note.document_id for note in notes],
            "patient_id": [note.patient_id for note in notes],
            "text": [text.text for text in texts],
            "sections": [part_spans(outcome, text) for outcome, text in zip(outcomes, texts, strict=True)],
            "tokens": token_array([note.source for note in notes], texts, [note.begins for note in notes]),
            "entity_ids": [entities for entities, _ in support],
            "relation_ids": [relations for _, relations in support],
            "method": [outcome.method for outcome in outcomes],
            "faithful": [outcome.faithful for outcome in outcomes],
            "n_sentences": [len(outcome.sentences) for outcome in outcomes],
            "n_unsupported_entities": [outcome.findings.entities for outcome in outcomes],
            "n_unsupported_numbers": [outcome.findings.numbers for outcome in outcomes],
            "n_polarity_errors": [outcome.findings.polarity for outcome in outcomes],
            "n_repaired": [outcome.repaired for outcome in outcomes],
            "scope": ["note" if note.begins is None else "encounter" for note in notes],
            "encounter_id": [note.encounter_id for note in notes],
            "document_ids": [None if note.begins is None else list(note.document_ids) for note in notes],
            "token_documents": [note.places(text) for note, text in zip(notes, texts, strict=True)],
            "checks": [list(outcome.checks) for outcome in outcomes],
            "n_side_errors": [outcome.findings.sides for outcome in outcomes],
            "n_family_errors": [outcome.findings.family for outcome in outcomes],
            "n_replaced": [outcome.replaced for outcome in outcomes],
            "n_dropped": [outcome.dropped for outcome in outcomes],
            "model": [str(self.model)] * len(made),
            "run_id": [run_id] * len(made),
        }
        return contracts.conform("summaries", columns)

    def _id(self, note: Note) -> str:
        if note.begins is None:
            return summary_id(note.document_id, self.model.weights_hash)
        return make_id("summary", "encounter", note.encounter_id, *note.document_ids, self.model.weights_hash)

    # --- notes --------------------------------------------------------------------------------

    def summarize(self, sources: Sequence[Source], halved: list[int] | None = None) -> list[Outcome | Failure]:
        """Returns the summary of every note, in their order; a note that fails alone gives a ``Failure``.

        ``halved`` gets the sizes of batches that did not fit in memory; from then on they are half as large.
        """
        halved = [] if halved is None else halved
        results: list[Outcome | Failure] = [EMPTY] * len(sources)
        worded = [index for index, source in enumerate(sources) if source.eligible.any()]
        for batch in _batches([len(sources[index].tokens) for index in worded], self.token_budget):
            chosen = [worded[place] for place in batch]
            done = run_halving(
                [sources[index] for index in chosen],
                self._summarize_batch,
                lambda _: Failure("OUT_OF_MEMORY", "memory"),
                halved,
            )
            for index, outcome in zip(chosen, done, strict=True):
                results[index] = outcome
        if halved:
            self.token_budget = max(1, self.token_budget // 2)
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
        reading = self.network.read(batch)
        logits = reading.sentence_logits.cpu().numpy()
        parts = np.split(logits, np.cumsum(batch.sentence_counts)[:-1])
        orders = [self._order(source, part) for source, part in zip(sources, parts, strict=True)]
        scores = [1 / (1 + np.exp(-part)) for part in parts]
        drafts: list[Said | None] = [None] * len(sources)
        writing = [index for index, source in enumerate(sources) if self._writes_for(source)]
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
            for index, draft in zip(writing, self._write(chosen_sources, slots, flat, reading), strict=True):
                drafts[index] = draft
        return [Selected(order, score, draft) for order, score, draft in zip(orders, scores, drafts, strict=True)]

    def _order(self, source: Source, logits: np.ndarray) -> list[int]:
        """Returns the sentences of a note that an extract may have, best first."""
        scores = weigh(logits, source.lengths, self.decode.long_sentences)
        room = self.decode.choice * self.decode.extract_budget(len(source.tokens)) or np.inf
        return extract_order(source, scores, self.decode.overlap, room)

    def _writes_for(self, source: Source) -> bool:
        """Routes a note: says whether the generator writes for it, or its best sentences are taken as they stand."""
        if self.decode.mode == "extractive" or source.eligible.sum() <= self.decode.short_sentences:
            return False
        if self.decode.write_conversations and not is_conversation(source.text):
            return False
        too_long = 0 < self.decode.write_up_to < len(source.tokens)
        return not too_long and not (self.decode.mode == "mixed" and is_report(source))

    def _write(
        self, sources: Sequence[Source], slots: Sequence[np.ndarray], flat: Sequence[np.ndarray], reading: Reading
    ) -> list[Said]:
        """Runs the generator over the attended tokens of notes.

        Args:
            sources: the notes.
            slots: of each note the attended tokens.
            flat: the same tokens as positions in the batch of the encoder.
            reading: of that batch.
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
        values, token_logits = self.network.remember_tokens(reading, where)
        memory = Memory(
            values=values,
            mask=torch.from_numpy(mask).to(self.device),
            prior=F.logsigmoid(token_logits),
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
