"""The text of a note as HTML: lines, and in them marks that lie in one another, every character escaped and counted.

Marks of a note nest and cross, span lines and have holes. HTML nests only, so a mark that crosses another or a line's
end is cut into pieces there; they share its key. The text of the HTML is the note, less its line breaks: a browser
that counts code points from a line's ``data-o`` finds any offset of the tables.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medpipe.report.characters import shown

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """What is marked: an entity (``key`` "e7") or the heading of a section (``key`` "s2", with its ``level``)."""

    key: str
    spans: tuple[Span, ...]
    classes: str = ""  # of our own making, never of the note's
    level: int | None = None


@dataclass(slots=True)
class Piece:
    """A part of a mark that crosses no other; ``height``: how many pieces lie in it, one in the other."""

    start: int
    end: int
    mark: int
    first: bool = False
    height: int = 0


def split_lines(text: str) -> list[Span]:
    r"""Returns where the lines are, without the ``\n``, ``\r\n`` or ``\r`` that ends them; at least one."""
    lines = []
    start = cursor = 0
    while True:
        feed, back = text.find("\n", cursor), text.find("\r", cursor)
        end = min(one for one in (feed, back, len(text)) if one >= 0)
        lines.append((start, end))
        if end == len(text):
            return lines
        start = cursor = end + (2 if text.startswith("\r\n", end) else 1)


def nest(marks: Sequence[Mark], lines: Sequence[Span]) -> list[Piece]:
    """Cuts marks into pieces that nest and lie within a line each; outer ones come first, in the order of the text.

    Of two that cross, the one that begins later is cut. Of equal ones the first mark is the outer one.
    """
    starts = [start for start, _ in lines]
    waiting: list[tuple[int, int, int]] = []  # start, -end, mark
    for index, mark in enumerate(marks):
        for start, end in mark.spans:
            for number in range(max(0, bisect_right(starts, start) - 1), bisect_left(starts, end)):
                low, high = max(start, lines[number][0]), min(end, lines[number][1])
                if low < high:
                    waiting.append((low, -high, index))
    heapq.heapify(waiting)
    pieces: list[Piece] = []
    around: list[Piece] = []
    seen: set[int] = set()
    while waiting:
        start, end, index = heapq.heappop(waiting)
        end = -end
        while around and around[-1].end <= start:
            around.pop()
        if around and end > around[-1].end:
            heapq.heappush(waiting, (around[-1].end, -end, index))
            end = around[-1].end
        piece = Piece(start, end, index, first=index not in seen)
        seen.add(index)
        for above, outer in enumerate(reversed(around), 1):
            outer.height = max(outer.height, above)
        around.append(piece)
        pieces.append(piece)
    return pieces


def render(text: str, marks: Sequence[Mark], prefix: str) -> Markup:
    """Returns the note as ``<div class=line>`` elements; ids are ``prefix``-l0 (line), -e0, -s0 (marks)."""
    lines = split_lines(text)
    pieces = nest(marks, lines)
    parts: list[str] = []
    next_piece = 0
    for number, (start, end) in enumerate(lines):
        parts.append(f'<div class="line" id="{prefix}-l{number}" data-o="{start}">')
        cursor = start
        open_pieces: list[tuple[int, str]] = []  # end, closing tag
        while next_piece < len(pieces) and pieces[next_piece].start < end:
            piece = pieces[next_piece]
            next_piece += 1
            while open_pieces and open_pieces[-1][0] <= piece.start:
                stop, tag = open_pieces.pop()
                parts += [shown(text[cursor:stop]), tag]
                cursor = stop
            parts.append(shown(text[cursor : piece.start]))
            cursor = piece.start
            opening, closing = _tags(marks[piece.mark], piece, prefix)
            parts.append(opening)
            open_pieces.append((piece.end, closing))
        for stop, tag in reversed(open_pieces):
            parts += [shown(text[cursor:stop]), tag]
            cursor = stop
        parts += [shown(text[cursor:end]), "</div>"]
    return Markup("".join(parts))


def _tags(mark: Mark, piece: Piece, prefix: str) -> tuple[str, str]:
    identity = f' id="{prefix}-{mark.key}"' if piece.first else ""
    if mark.level is not None:
        heading = f' role="heading" aria-level="{mark.level}"' if piece.first else ""
        return f'<span class="heading"{heading}{identity}>', "</span>"
    return f'<mark class="{mark.classes} h{min(piece.height, 3)}" data-e="{mark.key[1:]}"{identity}>', "</mark>"


def line_of(lines: Sequence[Span], offset: int) -> int:
    """Returns the number of the line in which ``offset`` lies."""
    return max(0, bisect_right(lines, (offset, offset + (1 << 40))) - 1)
