"""Emissions -> spans with probabilities -> rows of ``entities``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medpipe.tag.crf import OUTSIDE, every_span, may_hold_entities, read_spans, span_log_probabilities, viterbi
from medpipe.tag.network import TaggerNetwork


@dataclass(frozen=True, slots=True)
class Spans:
    """Entities of some texts, sorted by text, start, end and label. All arrays have the shape (entities,)."""

    text: np.ndarray  # int64; which text
    start: np.ndarray  # int64; what it counts is said where it is made: tokens or characters
    end: np.ndarray  # int64; half-open
    label: np.ndarray  # int64
    score: np.ndarray  # float64

    def __len__(self) -> int:
        return len(self.text)

    def of_text(self, number: int) -> slice:
        """Returns where the entities of a text stand."""
        return slice(*np.searchsorted(self.text, [number, number + 1]).tolist())

    def take(self, chosen: np.ndarray) -> Spans:
        """Returns some of them; ``chosen`` is a mask or the numbers, in order."""
        return Spans(*(getattr(self, name)[chosen] for name in ("text", "start", "end", "label", "score")))


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of some rows that may hold an entity, on their device."""

    scores: Tensor  # shape: (time, chains, tags), float32
    lengths: Tensor  # shape: (chains,), int64
    row: Tensor  # shape: (chains,), int64
    label: Tensor  # shape: (chains,), int64


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in some chains, on their device. On CUDA there are lines that are no entity: see ``kept``."""

    places: Tensor  # shape: (lines, 4), int64: row, first token, last token, label
    logs: Tensor  # shape: (lines,), float64: log-probability
    kept: Tensor  # shape: (lines,), bool: it is an entity


@torch.inference_mode()
def choose_chains(network: TaggerNetwork, emissions: Tensor, lengths: Tensor, labels: int) -> Chains:
    """Returns the chains of a batch of rows, all labels and levels side by side; most of them hold nothing.

    On CUDA those stay in: what depends on values has an unknown size, for which the host would have to wait.

    Args:
        network: whose transitions are used.
        emissions: shape: (batch, time, labels, levels, tags).
        lengths: shape: (batch,).
        labels: how many labels are wanted, from the first; what stands behind them is not decoded.
    """
    batch, time, _, levels, tags = emissions.shape
    crf = network.crf
    # shape: (batch, time, labels * levels, tags)
    scores = emissions[:, :, :labels].reshape(batch, time, labels * levels, tags).float()
    if has_to_wait(scores):
        wanted = torch.arange(batch * labels * levels, device=scores.device)
        row, part = wanted.div(labels * levels, rounding_mode="floor"), wanted % (labels * levels)
    else:
        some = may_hold_entities(scores, crf.transitions, crf.start_transitions, crf.end_transitions)
        row, part = some.nonzero().unbind(1)
    # shape: (chains, time, tags) -> (time, chains, tags)
    scores = scores.transpose(1, 2)[row, part].transpose(0, 1)
    return Chains(scores, lengths[row], row, part.div(levels, rounding_mode="floor"))


def join_chains(parts: Sequence[Chains], shifts: Sequence[int]) -> Chains:
    """Returns the chains of several batches as those of one; rows of a batch are moved by its shift."""
    time = max(part.scores.shape[0] for part in parts)
    scores = torch.cat([nn.functional.pad(one.scores, (0, 0, 0, 0, 0, time - len(one.scores))) for one in parts], dim=1)
    row = torch.cat([part.row + shift for part, shift in zip(parts, shifts, strict=True)])
    return Chains(scores, torch.cat([part.lengths for part in parts]), row, torch.cat([part.label for part in parts]))


@torch.inference_mode()
def decode_chains(network: TaggerNetwork, chains: Chains) -> Found:
    """Finds the entities of some chains; on CUDA nothing is waited for, ``collect`` waits once for many batches."""
    crf = network.crf
    weights = crf.transitions, crf.start_transitions, crf.end_transitions
    scores, lengths, row, label = chains.scores, chains.lengths, chains.row, chains.label
    path = viterbi(scores, lengths, *weights)
    if has_to_wait(scores):
        spans, kept = every_span(path)
    else:
        filled = (path != OUTSIDE).any(1).nonzero().squeeze(1)
        path, scores, lengths, row, label = path[filled], scores[:, filled], lengths[filled], row[filled], label[filled]
        spans = read_spans(path)
        kept = torch.ones(len(spans), dtype=torch.bool)
    # In float64: these are small differences of sums over a whole sentence.
    transitions, starts, ends = (values.double() for values in weights)
    logs = span_log_probabilities(scores.double(), lengths, transitions, starts, ends, path, spans)
    chain, first, last = spans.unbind(1)
    return Found(torch.stack([row[chain], first, last, label[chain]], dim=1), logs, kept)


def has_to_wait(values: Tensor) -> bool:
    """Returns whether the host would have to wait for the device to know how many of ``values`` are chosen."""
    return values.is_cuda


def no_entities(device: torch.device) -> Found:
    """Returns what is found where nothing is."""
    none = torch.zeros(0, dtype=torch.long, device=device)
    return Found(none.view(0, 4), none.double(), none.bool())


def collect(found: Sequence[Found]) -> tuple[np.ndarray, np.ndarray]:
    """Brings what was found in some batches from their device, all at once.

    Returns:
        As in ``Found``: places, shape: (entities, 4), int64; log-probabilities, shape: (entities,), float64.
    """
    if not found:
        return np.zeros((0, 4), dtype=np.int64), np.zeros(0)
    kept = torch.cat([one.kept for one in found]).nonzero().squeeze(1)
    places = torch.cat([one.places for one in found])[kept]
    logs = torch.cat([one.logs for one in found])[kept]
    return places.cpu().numpy(), logs.cpu().numpy()


def sort_spans(text: np.ndarray, start: np.ndarray, end: np.ndarray, label: np.ndarray, score: np.ndarray) -> Spans:
    """Returns the entities sorted, and of equal ones (two levels may agree) the most probable."""
    order = np.lexsort((-score, label, end, start, text))
    keys = np.stack([text, start, end, label])[:, order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    order = order[first]
    return Spans(text[order], start[order], end[order], label[order], score[order])


def drop_headings(spans: Spans, owner: np.ndarray, start: np.ndarray, end: np.ndarray) -> Spans:
    """Returns the entities that do not lie within a heading: "MEDICATIONS:" names a section, not a drug.

    Args:
        spans: by characters.
        owner: shape: (headings,), int64; which text each is of.
        start: shape: (headings,), int64; headings of one text do not overlap.
        end: shape: (headings,), int64, half-open.
    """
    if not len(spans) or not len(owner):
        return spans
    order = np.lexsort((start, owner))
    # One key for text and character, so that all texts are looked up at once.
    begins = (owner[order] << 32) + start[order]
    stops = (owner[order] << 32) + end[order]
    place = np.searchsorted(begins, (spans.text << 32) + spans.start, side="right") - 1
    kept = (place < 0) | ((spans.text << 32) + spans.end > stops[place])
    return spans.take(kept)


def calibrate(log_probability: np.ndarray, slope: float | np.ndarray, intercept: float | np.ndarray) -> np.ndarray:
    """Returns probabilities that say how often the model is right (Platt 1999), to four decimals.

    Four, so that float noise of another batch or device does not show.

    Args:
        log_probability: shape: (entities,), float64.
        slope: on the logit; of all or of each.
        intercept: likewise.
    """
    probability = np.clip(np.exp(log_probability), 1e-6, 1 - 1e-6)
    logit = slope * np.log(probability / (1 - probability)) + intercept
    return np.round(1 / (1 + np.exp(-logit)), 4)


def nest(spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Returns the parent of every entity and how deep it lies.

    The parent is the smallest entity that contains it and is longer; of several with the same span, the one whose
    label comes first. Entities that cross are no parents of each other.

    All entities look back at the one before them, then at the one before that, until nothing that began before can
    still be open. Entities do not leave their sentence, so few rounds do it, however many entities there are.

    Args:
        spans: sorted as ``Spans`` are; by tokens or by characters.

    Returns:
        ``parents``, shape: (entities,), int64: the place of the parent, -1 where there is none; ``depths``, shape:
        (entities,), int64: 0 where there is none.
    """
    # One axis for all texts; longer entities first where several begin together.
    width = int(spans.end.max(initial=0)) + 1
    order = np.lexsort((spans.label, -spans.end, spans.start, spans.text))
    base = spans.text[order] * width
    start, end, label = base + spans.start[order], base + spans.end[order], spans.label[order]
    reach = np.maximum.accumulate(end)  # up to where anything that began before is open
    parents = np.full(len(order), -1)
    looking = np.arange(len(order))
    back = 1
    while len(looking := looking[(looking >= back) & (reach[looking - back] > start[looking])]):
        other, best = looking - back, parents[looking]
        around = (end[other] >= end[looking]) & (end[other] - start[other] > end[looking] - start[looking])
        size, least = end[other] - start[other], end[best] - start[best]
        closer = (best < 0) | (size < least) | ((size == least) & (label[other] < label[best]))
        # Of the same size and label the one that begins first: it is met last.
        closer |= (size == least) & (label[other] == label[best])
        parents[looking] = np.where(around & closer, other, best)
        back += 1
    depths = np.zeros(len(order), dtype=np.int64)
    above = parents
    while (above >= 0).any():
        depths += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    found = np.empty_like(order), np.empty_like(order)
    found[0][order], found[1][order] = np.where(parents >= 0, order[parents], -1), depths
    return found


def find_sections(
    text: np.ndarray, starts: np.ndarray, owner: np.ndarray, section_start: np.ndarray, section_end: np.ndarray
) -> np.ndarray:
    """Returns the innermost section in which every entity begins, -1 where there is none.

    Args:
        text: of the entities.
        starts: of the entities.
        owner: of which text each section is; ascending.
        section_start: ascending within a text; a section stands behind the one it lies in.
        section_end: half-open.

    Returns:
        shape: (entities,), int64.
    """
    # One key for text and character, so that all texts are looked up at once.
    found = np.searchsorted((owner << 32) + section_start, (text << 32) + starts, side="right") - 1
    outside = np.arange(len(starts))
    while len(outside):
        place = found[outside]
        within = (place >= 0) & (owner[place] == text[outside]) if len(owner) else place >= 0
        found[outside[~within]] = -1
        outside = outside[within]
        outside = outside[section_end[found[outside]] <= starts[outside]]
        found[outside] -= 1
    return found
