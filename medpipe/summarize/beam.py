"""Beam search over a batch of notes at once, with length normalisation and trigram blocking.

Finished hypotheses stay in the beam and compete by their normalised score, so with a beam as wide as the number of
hypotheses the search is exhaustive (the tests hold it to that). No hypothesis repeats a trigram of words
(Paulus et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMPOSSIBLE = -1e9
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


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The best hypothesis of every note."""

    words: Tensor  # shape: (notes, steps), int64; padding after the end mark
    traces: Tensor  # shape: (notes, steps, marks): what ``follow`` said of each word
    scores: Tensor  # shape: (notes,): normalised log-probability


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
    """Returns the best hypothesis of each note.

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
    winner = scores.argmax(dim=1, keepdim=True)  # shape: (notes, 1)
    index = winner.unsqueeze(-1).expand(-1, -1, words.shape[-1])
    best_words = words.gather(1, index).squeeze(1)[:, 1:]
    return Hypotheses(best_words, _trace_back(history, winner), scores.gather(1, winner).squeeze(1))


def _trace_back(history: list[tuple[Tensor, Tensor]], winner: Tensor) -> Tensor:
    """Follows the parents from the winning beam to the start; shape: (notes, steps, marks)."""
    traces = []
    for parents, trace in reversed(history):
        traces.append(trace.gather(1, winner.unsqueeze(-1).expand(-1, -1, trace.shape[-1])))
        winner = parents.gather(1, winner)
    return torch.cat(traces[::-1], dim=1)


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
