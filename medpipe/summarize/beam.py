"""Beam search and sampling over a batch of notes at once, with length normalisation and trigram blocking.

Finished hypotheses stay in the beam and compete by their normalised score, so with a beam as wide as the number of
hypotheses the search is exhaustive (the tests hold it to that). No hypothesis repeats a trigram of words
(Paulus et al. 2018). Samples follow the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMPOSSIBLE = -1e9
SEED = 13  # of the samples: the same draws for every note, whatever its batch
LEAST = 1e-8  # less than this is what keeps logarithms finite, not a probability
LOOK_EVERY = 8  # steps between two looks at whether all hypotheses are finished: a look waits for the device

State = Any
# (state, last words; shape: (notes, beams)) -> (log-probabilities; shape: (notes, beams, words), state)
Step = Callable[[State, Tensor], tuple[Tensor, State]]
# (state, parents; shape: (notes, beams), words; shape: (notes, beams))
# -> (state of the beams that go on, what to remember of each word; shape: (notes, beams, marks))
Follow = Callable[[State, Tensor, Tensor], tuple[State, Tensor]]


@dataclass(frozen=True, slots=True)
class BeamConfig:
    """The knobs of the search; the ``[decode]`` table of a config."""

    beams: int = 4
    max_length: int = 125  # words, the end mark included
    min_length: int = 20
    length_power: float = 1.0  # 0: plain sums, which favour short summaries; 1: mean over the words
    block: int = 3  # no n-gram of this length twice; 0: no blocking
    samples: int = 0  # sampled summaries that choose among the beam by minimum Bayes risk; 0: the best of the beam


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """Hypotheses of every note; of a beam the best first."""

    words: Tensor  # shape: (notes, hypotheses, steps), int64; padding after the end mark
    traces: Tensor  # shape: (notes, hypotheses, steps, marks): what ``follow`` said of each word
    scores: Tensor  # shape: (notes, hypotheses): normalised log-probability

    def choose(self, choice: Tensor) -> Hypotheses:
        """Returns one hypothesis of each note; ``choice`` has shape (notes,), int64."""
        rows = torch.arange(len(choice), device=choice.device)
        return Hypotheses(*(part[rows, choice].unsqueeze(1) for part in (self.words, self.traces, self.scores)))


def blocked_words(words: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Returns the words that would repeat an n-gram.

    Args:
        words: shape: (rows, steps), int64, what each hypothesis said so far.
        block: n.

    Returns:
        Candidates, shape (rows, starts), and whether each is blocked, same shape, bool.
    """
    rows, steps = words.shape
    if block < 1 or steps < block:
        empty = words.new_zeros(rows, 0)
        return empty, empty.bool()
    grams = words.unfold(1, block, 1)  # shape: (rows, starts, block)
    tail = words[:, steps - block + 1 :].unsqueeze(1)  # shape: (rows, 1, block - 1)
    return grams[:, :, -1], (grams[:, :, :-1] == tail).all(dim=-1)


def beam_search(
    step: Step,
    follow: Follow,
    state: State,
    *,
    notes: int,
    start: int,
    end: int,
    padding: int,
    config: BeamConfig,
    device: torch.device,
) -> Hypotheses:
    """Returns the beam of each note, best first.

    Args:
        step: one decoder step of all beams of all notes.
        follow: reorders the state after the beams were chosen, and says what to remember of each chosen word.
        state: of the first step, for ``config.beams`` equal beams a note.
        notes: how many notes.
        start, end, padding: the marks' identifiers.
        config: the knobs.
        device: of the tensors.
    """
    beams = config.beams
    words = torch.full((notes, beams, 1), start, dtype=torch.int64, device=device)
    totals = torch.full((notes, beams), IMPOSSIBLE, device=device)
    totals[:, 0] = 0.0  # all beams are equal at first: go on from one
    lengths = torch.zeros(notes, beams, device=device)
    finished = torch.zeros(notes, beams, dtype=torch.bool, device=device)
    history: list[tuple[Tensor, Tensor]] = []  # of each step: parents and traces
    for position in range(config.max_length):
        log_probabilities, state = step(state, words[:, :, -1])
        size = log_probabilities.shape[-1]
        log_probabilities = _allow(log_probabilities, words, end, padding, position, config)
        waiting = torch.full_like(log_probabilities, IMPOSSIBLE)
        waiting[:, :, padding] = 0.0
        log_probabilities = torch.where(finished.unsqueeze(-1), waiting, log_probabilities)
        # Each beam's own best words are enough: more than ``beams`` of one beam never survive.
        best, candidates = log_probabilities.topk(min(beams, size), dim=-1)  # shape: (notes, beams, width)
        width = best.shape[-1]
        sums = totals.unsqueeze(-1) + best
        grown = lengths + (~finished).float()
        normalised = sums / grown.clamp(min=1).pow(config.length_power).unsqueeze(-1)
        chosen = normalised.reshape(notes, -1).topk(beams, dim=-1).indices  # shape: (notes, beams)
        parents = chosen // width
        said = candidates.reshape(notes, -1).gather(1, chosen)
        totals = sums.reshape(notes, -1).gather(1, chosen)
        lengths = grown.gather(1, parents)
        finished = finished.gather(1, parents) | (said == end)
        index = parents.unsqueeze(-1).expand(-1, -1, words.shape[-1])
        words = torch.cat([words.gather(1, index), said.unsqueeze(-1)], dim=-1)
        state, trace = follow(state, parents, said)
        history.append((parents, trace))
        if position % LOOK_EVERY == LOOK_EVERY - 1 and bool(finished.all()):
            break
    scores = totals / lengths.clamp(min=1).pow(config.length_power)
    order = scores.argsort(dim=1, descending=True, stable=True)  # shape: (notes, beams)
    ordered = words.gather(1, order.unsqueeze(-1).expand(-1, -1, words.shape[-1]))[:, :, 1:]
    return Hypotheses(ordered, _trace_back(history, order), scores.gather(1, order))


def sample(
    step: Step,
    follow: Follow,
    state: State,
    *,
    notes: int,
    start: int,
    end: int,
    padding: int,
    config: BeamConfig,
    device: torch.device,
) -> Hypotheses:
    """Returns ``config.samples`` summaries of each note, drawn word by word from the step's distribution.

    Arguments are those of ``beam_search``; ``state`` is for ``config.samples`` equal rows a note. A word is where the
    cumulated probability passes a draw; the draws are the same for every note, so a note's samples do not depend on
    the notes beside it.
    """
    rows = config.samples
    draws = torch.rand(config.max_length, rows, generator=torch.Generator().manual_seed(SEED)).to(device)
    words = torch.full((notes, rows, 1), start, dtype=torch.int64, device=device)
    totals = torch.zeros(notes, rows, device=device)
    lengths = torch.zeros(notes, rows, device=device)
    finished = torch.zeros(notes, rows, dtype=torch.bool, device=device)
    itself = torch.arange(rows, device=device).expand(notes, rows)
    traces = []
    for position in range(config.max_length):
        log_probabilities, state = step(state, words[:, :, -1])
        log_probabilities = _allow(log_probabilities, words, end, padding, position, config)
        probabilities = log_probabilities.exp()
        running = probabilities.masked_fill(probabilities < LEAST, 0.0).cumsum(dim=-1)  # shape: (notes, rows, words)
        aim = draws[position].unsqueeze(-1) * running[:, :, -1:] * (1 - 1e-6)  # below the sum, also when rounded
        said = torch.searchsorted(running, aim, right=True).squeeze(-1).clamp(max=running.shape[-1] - 1)
        said = torch.where(running[:, :, -1] > 0, said, log_probabilities.argmax(dim=-1))
        gained = log_probabilities.gather(2, said.unsqueeze(-1)).squeeze(-1)
        said = torch.where(finished, padding, said)
        totals = totals + torch.where(finished, 0.0, gained)
        lengths = lengths + (~finished).float()
        finished = finished | (said == end)
        words = torch.cat([words, said.unsqueeze(-1)], dim=-1)
        state, trace = follow(state, itself, said)
        traces.append(trace)
        if position % LOOK_EVERY == LOOK_EVERY - 1 and bool(finished.all()):
            break
    scores = totals / lengths.clamp(min=1).pow(config.length_power)
    return Hypotheses(words[:, :, 1:], torch.stack(traces, dim=2), scores)


def _trace_back(history: list[tuple[Tensor, Tensor]], beams: Tensor) -> Tensor:
    """Follows the parents from the last beams to the start; shape: (notes, beams, steps, marks)."""
    traces = []
    for parents, trace in reversed(history):
        traces.append(trace.gather(1, beams.unsqueeze(-1).expand(-1, -1, trace.shape[-1])))
        beams = parents.gather(1, beams)
    return torch.stack(traces[::-1], dim=2)


def _allow(
    log_probabilities: Tensor, words: Tensor, end: int, padding: int, position: int, config: BeamConfig
) -> Tensor:
    """Rules out marks that are no words, an early end, and repeated n-grams."""
    allowed = log_probabilities.clone()
    allowed[:, :, padding] = IMPOSSIBLE
    if position < config.min_length:
        allowed[:, :, end] = IMPOSSIBLE
    flat = words[:, :, 1:].flatten(0, 1)
    candidates, blocked = blocked_words(flat, config.block)
    if candidates.shape[1]:
        penalty = torch.where(blocked, IMPOSSIBLE, 0.0).reshape(*words.shape[:2], -1)
        index = candidates.reshape(*words.shape[:2], -1)
        allowed = allowed.scatter_add(2, index, penalty)
    return allowed
