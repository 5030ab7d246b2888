"""From selected tokens to the words of a summary: the pointer network under beam search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medpipe.summarize.beam import BeamConfig, Follow, Step, beam_search, sample
from medpipe.summarize.features import Vocabulary
from medpipe.summarize.network import FLOOR, Attention, Memory, SummaryNetwork, extended_probabilities
from medpipe.summarize.risk import least_risk


@dataclass(frozen=True, slots=True)
class Draft:
    """What the generator wrote for one batch; a row ends at its end mark."""

    words: Tensor  # shape: (notes, steps), int64, extended identifiers
    slots: Tensor  # shape: (notes, steps), int64: slot that was copied, -1 for a generated word
    probabilities: Tensor  # shape: (notes, steps), float32
    scores: Tensor  # shape: (notes,): mean log-probability of the words


@dataclass(slots=True)
class _State:
    """Of every beam; coverage and attention have a row a beam, the LSTM's state a row a note and beam."""

    hidden: tuple[Tensor, Tensor]  # each of shape: (1, notes * beams, hidden)
    coverage: Tensor  # shape: (notes, beams, slots)
    last: Tensor  # shape: (notes, beams), slot copied last, -1 for none
    copied: Tensor  # shape: (notes, beams), bool
    attention: Attention | None = None
    mixed: Tensor | None = None  # shape: (notes, beams, words)


@torch.inference_mode()
def generate(network: SummaryNetwork, memory: Memory, own: Tensor, config: BeamConfig) -> Draft:
    """Returns the best summary of each note.

    Args:
        network: in evaluation mode.
        memory: the selected tokens.
        own: shape: (notes, words, 2), int64; embedding rows of each note's words outside the vocabulary.
        config: of the search.
    """
    device = memory.values.device
    beam = beam_search(
        *_decoder(network, memory, own, config.beams),
        notes=len(own),
        start=Vocabulary.START,
        end=Vocabulary.END,
        padding=Vocabulary.PAD,
        config=config,
        device=device,
    )
    if config.samples == 0:
        chosen = beam.choose(torch.zeros(len(own), dtype=torch.int64, device=device))
    else:
        samples = sample(
            *_decoder(network, memory, own, config.samples),
            notes=len(own),
            start=Vocabulary.START,
            end=Vocabulary.END,
            padding=Vocabulary.PAD,
            config=config,
            device=device,
        )
        heard = samples.words.cpu().numpy()
        choice = [
            least_risk(said, evidence, marks=Vocabulary.END + 1)
            for said, evidence in zip(beam.words.cpu().numpy(), heard, strict=True)
        ]
        chosen = beam.choose(torch.tensor(choice, device=device))
    traces = chosen.traces.squeeze(1)
    return Draft(chosen.words.squeeze(1), traces[:, :, 0].to(torch.int64), traces[:, :, 1], chosen.scores.squeeze(1))


def _decoder(network: SummaryNetwork, memory: Memory, own: Tensor, rows: int) -> tuple[Step, Follow, _State]:
    """Returns the network as the search and the sampling call it, and the state of ``rows`` equal rows a note."""
    notes, slots, _ = memory.values.shape
    size = len(network.vocabulary_buckets)
    extended = size + own.shape[1]
    device = memory.values.device
    hidden = memory.values.new_zeros(1, notes * rows, network.config.decoder_hidden)
    # Words outside the vocabulary that a shorter note does not have can never be said: nothing copies them.
    start = _State(
        hidden=(hidden, hidden),
        coverage=memory.values.new_zeros(notes, rows, slots),
        last=torch.full((notes, rows), -1, dtype=torch.int64, device=device),
        copied=torch.zeros(notes, rows, dtype=torch.bool, device=device),
    )

    def step(state: _State, last_words: Tensor) -> tuple[Tensor, _State]:
        embedded = network.embed_words(last_words, own)
        inputs = network.decoder_input(embedded, memory.values, state.last, state.copied)
        output, hidden = network.decoder(inputs.flatten(0, 1).unsqueeze(1), state.hidden)
        states = output.squeeze(1).unflatten(0, (notes, rows))
        scores = network.scores(states, memory, state.last)
        attention = network.attend(states, embedded, scores, state.coverage, memory)
        mixed = extended_probabilities(attention, memory.ids, extended)
        state.hidden, state.attention, state.mixed = hidden, attention, mixed
        return torch.log(mixed.clamp(min=FLOOR)), state

    def follow(state: _State, parents: Tensor, said: Tensor) -> tuple[_State, Tensor]:
        assert state.attention is not None and state.mixed is not None
        wide = parents.unsqueeze(-1)
        per_slot = wide.expand(-1, -1, slots)
        copy = state.attention.copy.gather(1, per_slot)  # shape: (notes, rows, slots)
        gate = state.attention.gate.gather(1, wide)
        same = memory.ids.unsqueeze(1) == said.unsqueeze(-1)
        strength, slot = (copy * same).max(dim=-1)
        copied_mass = ((1 - gate) * copy * same).sum(dim=-1)  # shape: (notes, rows)
        total = state.mixed.gather(1, wide.expand(-1, -1, extended)).gather(2, said.unsqueeze(-1)).squeeze(-1)
        # A copy, if most of the word's probability came from the note.
        is_copy = (strength > 0) & (copied_mass >= 0.5 * total)
        flat = (torch.arange(notes, device=device).unsqueeze(-1) * rows + parents).flatten()
        trace = torch.stack([torch.where(is_copy, slot, -1).to(total), total], dim=-1)
        following = _State(
            hidden=(state.hidden[0][:, flat], state.hidden[1][:, flat]),
            coverage=(state.coverage + state.attention.raw).gather(1, per_slot),
            last=torch.where(is_copy, slot, state.last.gather(1, parents)),
            copied=is_copy,
        )
        return following, trace

    return step, follow, start
