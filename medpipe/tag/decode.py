"""Emissions -> spans with probabilities -> rows of ``entities``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpipe.tag.crf import OUTSIDE, read_spans, span_log_probabilities, viterbi
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


@torch.inference_mode()
def decode_rows(network: TaggerNetwork, emissions: Tensor, lengths: Tensor, labels: int) -> np.ndarray:
    """Returns the entities of a batch of rows.

    Args:
        network: whose transitions are used.
        emissions: shape: (batch, time, labels, levels, tags).
        lengths: shape: (batch,).
        labels: how many labels are wanted, from the first; what stands behind them is not decoded.

    Returns:
        shape: (entities, 5), float64: row of the batch, first token, last token, label, log-probability.
    """
    time, levels, count = emissions.shape[1], emissions.shape[3], emissions.shape[4]
    crf = network.crf
    # shape: (time, batch * labels * levels, tags)
    scores = emissions[:, :, :labels].permute(1, 0, 2, 3, 4).reshape(time, -1, count).float()
    chain_lengths = lengths.repeat_interleave(labels * levels)
    transitions, starts, ends = crf.transitions, crf.start_transitions, crf.end_transitions
    path = viterbi(scores, chain_lengths, transitions, starts, ends)
    # Most chains hold nothing; the probabilities are computed for the others only, in float64: they are small
    # differences of sums over a whole sentence.
    filled = (path != OUTSIDE).any(1).nonzero().squeeze(1)
    path = path[filled]
    spans = read_spans(path)
    logs = span_log_probabilities(
        scores[:, filled].double(),
        chain_lengths[filled],
        transitions.double(),
        starts.double(),
        ends.double(),
        path,
        spans,
    )
    chain = filled[spans[:, 0]]
    row = chain.div(labels * levels, rounding_mode="floor")
    label = chain.div(levels, rounding_mode="floor") % labels
    found = torch.stack([row, spans[:, 1], spans[:, 2], label], dim=1).double()
    return np.asarray(torch.cat([found, logs[:, None]], dim=1).cpu().numpy())


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


def nest(starts: Sequence[int], ends: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the parent of every entity of a text and how deep it lies.

    The parent is the smallest entity that contains it and is longer; of several with the same span, the one whose
    label comes first. Entities that cross are no parents of each other.

    A sweep from left to right that keeps what is still open: at no token are more entities open than there are
    labels times levels, so the work grows with the number of entities and not with its square.

    Args:
        starts: of the entities, in any order.
        ends: half-open.
        labels: numbers of their labels.

    Returns:
        ``parents``: index of the parent, -1 where there is none; ``depths``: 0 where there is none.
    """
    parents, depths = [-1] * len(starts), [0] * len(starts)
    open_now: list[int] = []
    for entity in sorted(range(len(starts)), key=lambda one: (starts[one], -ends[one], labels[one])):
        start, end = starts[entity], ends[entity]
        open_now = [other for other in open_now if ends[other] > start]
        around = [other for other in open_now if ends[other] >= end and (starts[other], ends[other]) != (start, end)]
        if around:
            parent = min(around, key=lambda other: (ends[other] - starts[other], labels[other], starts[other]))
            parents[entity], depths[entity] = parent, depths[parent] + 1
        open_now.append(entity)
    return parents, depths


def find_sections(starts: np.ndarray, section_start: np.ndarray, section_end: np.ndarray) -> list[int]:
    """Returns the innermost section in which every entity begins, -1 where there is none.

    Args:
        starts: of the entities.
        section_start: ascending; a section stands behind the one it lies in.
        section_end: half-open.
    """
    found = np.searchsorted(section_start, starts, side="right") - 1
    outside = (found >= 0) & (section_end[found] <= starts) if len(section_end) else found >= 0
    while outside.any():
        found[outside] -= 1
        outside = (found >= 0) & (section_end[found] <= starts)
    return [int(number) for number in found]
