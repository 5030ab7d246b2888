"""Discontinuous mentions: in "pain in the left and right arm" one mention is "pain in the … right arm".

A discontinuous mention is found by its outer extent. What lies between its parts is a gap, and gaps are a label of
their own (``GAP``), which the tagger learns and decodes as any other but does not give: a gap takes its place out of
the smallest mention around it. So nested and overlapping mentions may have gaps, each its own, at the price of one
label more. Gold gaps put together in this way give back nearly all gold fragments; the model card says how many.

It cannot: tell two mentions with the same extent and label, and other parts, from each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpipe.tag.decode import Spans

GAP = "GAP"
Interval = tuple[int, int]  # half-open, in characters


def find_gaps(fragments: Sequence[Interval], text: str) -> list[Interval]:
    """Returns what lies between the parts of a mention, white space aside."""
    ordered = sorted(fragments)
    gaps, reached = [], ordered[0][1] if ordered else 0
    for start, end in ordered[1:]:
        if between := text[reached:start].strip():
            first = text.index(between, reached)
            gaps.append((first, first + len(between)))
        reached = max(reached, end)
    return gaps


def split_gaps(spans: Spans, gap: int) -> tuple[Spans, Spans]:
    """Returns the mentions and the gaps of what was decoded; ``gap`` is the number of their label."""
    gaps = spans.label == gap
    if not gaps.any():
        return spans, spans.take(gaps)
    return spans.take(~gaps), spans.take(gaps)


def find_fragments(spans: Spans, gaps: Spans, texts: Sequence[str]) -> dict[int, list[Interval]]:
    """Returns the parts of the mentions that have a gap.

    Args:
        spans: mentions by characters, sorted by text.
        gaps: likewise.
        texts: what they are of.

    Returns:
        For the number of each discontinuous mention its parts, in order; white space at their ends belongs to none.
    """
    holes: dict[int, list[Interval]] = {}
    for text, start, end in zip(gaps.text.tolist(), gaps.start.tolist(), gaps.end.tolist(), strict=True):
        part = spans.of_text(text)
        starts, ends = spans.start[part], spans.end[part]
        around = np.flatnonzero((starts < start) & (ends > end))
        if len(around):
            smallest = around[np.argmin(ends[around] - starts[around])]
            holes.setdefault(part.start + int(smallest), []).append((start, end))
    return {
        number: cut_out(int(spans.start[number]), int(spans.end[number]), cut, texts[spans.text[number]])
        for number, cut in sorted(holes.items())
    }


def cut_out(start: int, end: int, holes: Sequence[Interval], text: str) -> list[Interval]:
    """Returns what is left of a mention without its holes, which lie within it and touch neither end."""
    parts, reached = [], start
    for first, last in sorted(holes):
        if first > reached:
            parts.append((reached, first))
        reached = max(reached, last)
    parts.append((reached, end))
    trimmed = []
    for first, last in parts:
        if part := text[first:last].strip():
            begin = text.index(part, first)
            trimmed.append((begin, begin + len(part)))
    return trimmed
