"""The text of a PDF's pages, from where its glyphs stand.

The order in which a PDF draws its text is the producer's own business: words lie in pieces, corrected forms lie over
the first ones, tables are drawn by columns. So the page is read as the eye does: glyphs that lie on each other once,
lines by their base lines, spaces where there are gaps, two spaces where there are wide ones, an empty line where the
distance of lines is greater than on the rest of the page. Columns of running text are read one after the other where
the producer drew them so; tables are read by rows. Filled-in form fields and typed annotations are part of the page.

Hyphens at the ends of lines stay. Lines of a table's cells that are broken stand as rows of their own. What is read
runs in a process of its own (``medpipe.ingest.bodies.pdf``), because a PDF can be made to take any time and memory.
"""

from __future__ import annotations

import io
import math
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pdfminer.pdfdevice import PDFTextDevice
from pdfminer.pdfdocument import PDFDocument, PDFEncryptionError, PDFPasswordIncorrect
from pdfminer.pdffont import PDFUnicodeNotDefined
from pdfminer.pdfinterp import PDFPageInterpreter, PDFResourceManager
from pdfminer.pdfpage import PDFPage
from pdfminer.pdfparser import PDFParser
from pdfminer.pdftypes import PDFStream, dict_value, list_value, resolve1
from pdfminer.psparser import PSLiteral
from pdfminer.utils import apply_matrix_pt, apply_matrix_rect, mult_matrix

# Glyphs that a font names as one character, and characters of symbol fonts that notes use.
EXPANDED = {
    "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\xa0": " ", "\xad": "-",
    "\uf0b7": "•", "\uf0a7": "▪", "\uf0d8": "➢", "\uf0fc": "✓", "\uf0fe": "☑", "\uf0a8": "☐", "\uf06f": "☐",
}  # fmt: skip
UNKNOWN = "\ufffd"  # a glyph of which the font does not say what it is

SPACE_GAP = 0.12  # of the size: a wider gap is a space
WIDE_GAP = 1.2  # of the size: a wider gap parts cells or columns
SAME_PLACE = 0.1  # of the size: glyphs closer than this are one
MOST_UNKNOWN = 0.3  # of the glyphs: with more the text is none
SCAN_AREA = 0.7  # of the page: an image that covers more is the page
SCAN_TEXT = 100  # characters: fewer on such a page are a stamp, not its text
COLUMN_LINES = 4  # so many lines at least make columns
COLUMN_CHARS = 18  # so long are the lines of a column at least, on average

# Annotations that show text, and flags of those that are not shown (hidden, no view).
SHOWN_ANNOTATIONS = frozenset(("Widget", "FreeText", "Stamp"))
NOT_SHOWN = 2 | 32

Matrix = tuple[float, float, float, float, float, float]


class PdfError(Exception):
    """A PDF without text that can be read: a code of ``medpipe.errors`` and what it is about."""

    def __init__(self, code: str, kind: str) -> None:
        super().__init__(code)
        self.code = code
        self.kind = kind


def read_pages(raw: bytes, limit: int, turn_page: Callable[[], None] = lambda: None) -> str:
    """Returns the text of a PDF, pages parted by an empty line; not much more than ``limit`` characters.

    Raises:
        PdfError: PDF_ENCRYPTED, PDF_INVALID, OCR_NEEDED. Other exceptions are bugs of the library on broken files.
    """
    try:
        document = PDFDocument(PDFParser(io.BytesIO(raw)), password="")
    except (PDFPasswordIncorrect, PDFEncryptionError) as error:
        raise PdfError("PDF_ENCRYPTED", "a password") from error
    manager = PDFResourceManager()
    texts: list[str] = []
    pages = scans = glyphs = unknown = 0
    for page in PDFPage.create_pages(document):
        turn_page()
        device = _Glyphs(manager)
        _draw(device, PDFPageInterpreter(manager, device), page)
        text = page_text(device.glyphs)
        pages += 1
        glyphs += len(device.glyphs)
        unknown += sum(glyph.text == UNKNOWN for glyph in device.glyphs)
        scans += device.image_area >= SCAN_AREA and len("".join(text.split())) < SCAN_TEXT
        texts.append(text)
        if sum(map(len, texts)) > limit:
            break
    if not pages:
        raise PdfError("PDF_INVALID", "no pages")
    if unknown > MOST_UNKNOWN * glyphs:
        raise PdfError("OCR_NEEDED", "PDF whose fonts do not say what their characters are")
    if scans == pages or not glyphs:
        raise PdfError("OCR_NEEDED", "PDF without a text layer")
    return "\n\n".join(text for text in texts if text)


def _draw(device: _Glyphs, interpreter: PDFPageInterpreter, page: PDFPage) -> None:
    """Draws a page and the annotations on it."""
    interpreter.process_page(page)
    for annotation in list_value(page.annots) if page.annots is not None else ():
        fields = resolve1(annotation)
        if not isinstance(fields, dict) or _name(fields.get("Subtype")) not in SHOWN_ANNOTATIONS:
            continue
        flags = resolve1(fields.get("F", 0))
        if isinstance(flags, int) and flags & NOT_SHOWN:
            continue
        stream = _appearance(fields)
        if stream is not None:
            matrix = mult_matrix(_into_box(stream, _numbers(fields.get("Rect"))), device.page_matrix)
            resources = dict_value(stream.get("Resources", {}))
            interpreter.render_contents(resources, [stream], ctm=matrix)


def _appearance(fields: dict[str, Any]) -> PDFStream | None:
    """Returns how an annotation looks normally, in its present state (ISO 32000-1, 12.5.5)."""
    looks = resolve1(fields.get("AP"))
    normal = resolve1(looks.get("N")) if isinstance(looks, dict) else None
    if isinstance(normal, dict):
        normal = resolve1(normal.get(_name(fields.get("AS"))))
    return normal if isinstance(normal, PDFStream) else None


def _into_box(stream: PDFStream, box: Sequence[float]) -> Matrix:
    """Returns the matrix that puts an appearance into the rectangle of its annotation (12.5.5, algorithm)."""
    matrix = _numbers(stream.get("Matrix", [1, 0, 0, 1, 0, 0]))
    x0, y0, x1, y1 = apply_matrix_rect(matrix, _numbers(stream.get("BBox")))
    left, bottom, right, top = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
    wide = (right - left) / (x1 - x0) if x1 != x0 else 1.0
    high = (top - bottom) / (y1 - y0) if y1 != y0 else 1.0
    return mult_matrix(matrix, (wide, 0, 0, high, left - x0 * wide, bottom - y0 * high))


def _numbers(array: Any) -> Any:
    return tuple(float(resolve1(number)) for number in list_value(array))


def _name(value: Any) -> str:
    value = resolve1(value)
    name = value.name if isinstance(value, PSLiteral) else ""
    return name if isinstance(name, str) else name.decode("latin-1")


# --- glyphs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Glyph:
    """A character on the page: from ``x`` to ``end`` on its base line ``y``, the axes turned into its direction."""

    text: str
    x: float
    end: float
    y: float
    size: float
    angle: int  # degrees
    order: int  # in which the page draws


class _Glyphs(PDFTextDevice):
    """Collects what a page draws."""

    def __init__(self, manager: PDFResourceManager) -> None:
        super().__init__(manager)
        self.glyphs: list[Glyph] = []
        self.image_area = 0.0  # of the largest image, as a part of the page
        self.page_matrix: Matrix = (1, 0, 0, 1, 0, 0)
        self.box = (0.0, 0.0, 0.0, 0.0)
        self.spacing = 0.0

    def begin_page(self, page: PDFPage, ctm: Matrix) -> None:
        self.page_matrix = ctm
        self.box = apply_matrix_rect(ctm, page.cropbox)

    def render_string(self, textstate: Any, *rest: Any) -> None:
        self.spacing = textstate.charspace * textstate.scaling * 0.01
        super().render_string(textstate, *rest)

    def render_char(
        self, matrix: Matrix, font: Any, fontsize: float, scaling: float, rise: float, cid: int, *rest: Any
    ) -> float:
        try:
            text = font.to_unichr(cid)
        except PDFUnicodeNotDefined:
            text = UNKNOWN
        advance = float(font.char_width(cid) * fontsize * scaling)
        self._put(text, matrix, advance, fontsize, rise)
        return advance

    def _put(self, text: str, matrix: Matrix, advance: float, fontsize: float, rise: float) -> None:
        a, b, c, d, *_ = matrix
        size = abs(fontsize) * math.hypot(c, d)
        x, y = apply_matrix_pt(matrix, (0, rise))
        end, end_y = apply_matrix_pt(matrix, (advance + max(0.0, min(self.spacing, abs(fontsize))), rise))
        if not (size and all(map(math.isfinite, (x, y, end, end_y, size)))):
            return
        left, bottom, right, top = self.box
        if not (left - size <= x <= right + size and bottom - size <= y <= top + size):
            return  # beside the page
        text = "".join(EXPANDED.get(one, one) for one in text if one >= " ")
        angle = round(math.degrees(math.atan2(end_y - y, end - x) if (end, end_y) != (x, y) else math.atan2(b, a)))
        if angle:
            turn = math.radians(-angle)
            (x, y), end = _turned(x, y, turn), _turned(end, end_y, turn)[0]
        if text:
            self.glyphs.append(Glyph(text, x, max(x, end), y, size, angle % 360, len(self.glyphs)))

    def render_image(self, name: str, stream: PDFStream) -> None:
        a, b, c, d, *_ = self.ctm or (0, 0, 0, 0)
        page = (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])
        if page > 0:
            self.image_area = max(self.image_area, abs(a * d - b * c) / page)


def _turned(x: float, y: float, by: float) -> tuple[float, float]:
    return x * math.cos(by) - y * math.sin(by), x * math.sin(by) + y * math.cos(by)


# --- lines ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Segment:
    """Glyphs of a line with no wide gap between them."""

    text: str
    x: float
    end: float
    order: int


@dataclass(slots=True)
class Line:
    """Segments that stand on one base line, from left to right."""

    segments: list[Segment]
    y: float
    size: float

    @property
    def text(self) -> str:
        """The line's text, its segments two spaces apart."""
        return "  ".join(segment.text for segment in self.segments)


def page_text(glyphs: Sequence[Glyph]) -> str:
    """Returns the text of a page: in the direction of most of its glyphs first, then in the others."""
    by_angle: dict[int, list[Glyph]] = defaultdict(list)
    for glyph in _once(glyphs):
        by_angle[glyph.angle].append(glyph)
    # A few degrees are how a scanner lays its text layer: they belong to the straight direction beside them.
    groups = sorted(by_angle.values(), key=lambda group: -len(group))
    return "\n\n".join(text for group in groups if (text := _block_text(_lines(group))))


def _once(glyphs: Sequence[Glyph]) -> Iterator[Glyph]:
    """Yields glyphs without those that lie on an equal one: letters made bold, forms printed over themselves."""
    seen: dict[tuple[str, int, int, int], list[Glyph]] = {}
    for glyph in glyphs:
        if not glyph.text.isspace():
            near = SAME_PLACE * glyph.size
            step = 4 * near  # of a grid: what is near lies in the same square, or in one beside it
            columns = range(int((glyph.x - near) // step), int((glyph.x + near) // step) + 1)
            squares = [
                (glyph.text, glyph.angle, column, row)
                for row in range(int((glyph.y - near) // step), int((glyph.y + near) // step) + 1)
                for column in columns
            ]
            others = (other for square in squares for other in seen.get(square, ()))
            if any(abs(other.x - glyph.x) < near and abs(other.y - glyph.y) < near for other in others):
                continue
            own = (glyph.text, glyph.angle, int(glyph.x // step), int(glyph.y // step))
            seen.setdefault(own, []).append(glyph)
        yield glyph


def _lines(glyphs: Sequence[Glyph]) -> list[Line]:
    """Returns the lines of glyphs of one direction, from top to bottom.

    A glyph belongs to the line that it overlaps by half its height, so that raised and lowered ones do, unless it would
    lie on others of that line: cells beside each other may have lines at heights of their own.
    """
    rows: list[tuple[list[Glyph], float, float]] = []  # glyphs, base line and size of the largest
    for glyph in sorted(glyphs, key=lambda glyph: (-glyph.y, glyph.x)):
        if rows:
            row, y, size = rows[-1]
            overlap = min(y + 0.7 * size, glyph.y + 0.7 * glyph.size) - max(y - 0.2 * size, glyph.y - 0.2 * glyph.size)
            if overlap >= 0.45 * min(size, glyph.size) and not (y - glyph.y > 0.2 * size and _collides(glyph, row)):
                row.append(glyph)
                if glyph.size > size:
                    rows[-1] = (row, glyph.y, glyph.size)
                continue
        rows.append(([glyph], glyph.y, glyph.size))
    found = (Line(_segments(row), y, size) for row, y, size in rows)
    return [line for line in found if line.segments]


def _collides(glyph: Glyph, row: Sequence[Glyph]) -> bool:
    return any(other.x < glyph.end and glyph.x < other.end and not other.text.isspace() for other in row)


def _segments(row: list[Glyph]) -> list[Segment]:
    segments: list[Segment] = []
    parts: list[str] = []
    start = end = 0.0
    order = 0
    for glyph in sorted(row, key=lambda glyph: (glyph.x, glyph.order)):
        if glyph.text.isspace():
            if parts and parts[-1] != " ":
                parts.append(" ")
                # A space reaches as far as it says, but a wide gap behind it still is one.
                end = max(end, min(glyph.end, end + 0.4 * glyph.size))
            continue
        gap = (glyph.x - end) / glyph.size
        if parts and gap > WIDE_GAP:
            segments.append(Segment("".join(parts).strip(), start, end, order))
            parts = []
        elif parts and gap > SPACE_GAP and parts[-1] != " ":
            parts.append(" ")
        if not parts:
            start, order, end = glyph.x, glyph.order, glyph.end
        parts.append(glyph.text)
        end = max(end, glyph.end)
    if text := "".join(parts).strip():
        segments.append(Segment(text, start, end, order))
    return segments


def _block_text(lines: list[Line]) -> str:
    """Returns the text of lines; columns of running text one after the other."""
    blocks: list[str] = []
    todo = [lines]
    while todo:
        block = todo.pop()
        if not block:
            continue
        if columns := _columns(block):
            todo.extend(reversed(columns))
        else:
            blocks.append(_joined(block))
    return "\n\n".join(blocks)


def _joined(lines: Sequence[Line]) -> str:
    steps = sorted(above.y - below.y for above, below in pairwise(lines))
    usual = steps[len(steps) // 2] if steps else 0.0
    parts = [lines[0].text]
    for above, below in pairwise(lines):
        step = above.y - below.y
        apart = step > 1.5 * usual and step > 1.4 * max(above.size, below.size)
        parts += ["\n\n" if apart else "\n", below.text]
    return "".join(parts)


def _columns(lines: list[Line]) -> list[list[Line]] | None:
    """Parts lines into those above two columns, the left column, the right one, and those below; if there are columns.

    Columns are where no text crosses from left to right over some lines, where the lines on both sides are long, and
    where the page draws one side before the other: a table is drawn by rows.
    """
    gaps = Counter(round((left.end + right.x) / 2 / 6) * 6 for line in lines for left, right in pairwise(line.segments))
    best: tuple[int, int, int, int] | None = None
    for middle, count in gaps.most_common(8):
        if count < COLUMN_LINES:
            break
        for first, last in _runs(lines, middle):
            both = _check_columns(lines[first:last], middle)
            if both and (best is None or both > best[0]):
                best = (both, first, last, middle)
    if best is None:
        return None
    _, first, last, middle = best
    left = [_part(line, [one for one in line.segments if one.end <= middle]) for line in lines[first:last]]
    right = [_part(line, [one for one in line.segments if one.end > middle]) for line in lines[first:last]]
    return [lines[:first], [one for one in left if one.segments], [one for one in right if one.segments], lines[last:]]


def _part(line: Line, segments: list[Segment]) -> Line:
    return Line(segments, line.y, line.size)


def _runs(lines: Sequence[Line], middle: int) -> Iterator[tuple[int, int]]:
    """Yields the runs of lines that nothing crosses at a place, first and behind last."""
    first = 0
    for index, line in enumerate(lines):
        if any(one.x < middle < one.end for one in line.segments):
            if index > first:
                yield first, index
            first = index + 1
    if len(lines) > first:
        yield first, len(lines)


def _check_columns(lines: Sequence[Line], middle: int) -> int:
    """Returns how many of the lines have text on both sides, or 0 where these are no columns."""
    sides: tuple[list[Segment], list[Segment]] = ([], [])
    both = 0
    for line in lines:
        on_right = [one.x >= middle for one in line.segments]
        both += any(on_right) and not all(on_right)
        for one, right in zip(line.segments, on_right, strict=True):
            sides[right].append(one)
    if both < COLUMN_LINES:
        return 0
    for side in sides:
        if sum(len(one.text) for one in side) < COLUMN_CHARS * both or len(side) > 1.5 * len(lines):
            return 0
    drawn = sorted([(one.order, False) for one in sides[0]] + [(one.order, True) for one in sides[1]])
    switches = sum(first[1] != second[1] for first, second in pairwise(drawn))
    return both if switches <= max(2, both // 3) else 0


# --- the process ------------------------------------------------------------------------------

MEMORY = 1 << 30  # bytes of address space
SECONDS_A_MEGABYTE = 40  # of processor time for a whole file


def serve() -> None:
    """Reads PDFs from standard input and writes their text to standard output, until the input ends.

    A job is three numbers of eight bytes and the file: the limit of characters, the seconds of processor time to open
    the file and for each page, and the size. An answer is its size and UTF-8 that begins with a line: a code and a kind
    of error, or nothing. The kernel ends this process where a file takes more time; too much memory is answered.
    """
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_CORE, 0)  # no image of a note on the disk where the kernel ends this process
    while len(head := jobs.read(24)) == 24:
        limit, seconds, size = (int.from_bytes(head[place : place + 8]) for place in (0, 8, 16))
        answer = _answer(jobs.read(size), limit, seconds)
        answers.write(len(answer).to_bytes(8) + answer)
        answers.flush()


def _answer(raw: bytes, limit: int, seconds: int) -> bytes:
    end = _seconds() + seconds + SECONDS_A_MEGABYTE * len(raw) // 1_000_000
    _allow(min(_seconds() + seconds, end))
    try:
        text = read_pages(raw, limit, lambda: _allow(min(_seconds() + seconds, end)))
        return b"\n" + text.encode("utf-8", "replace")
    except PdfError as error:
        return f"{error.code} {error.kind}\n".encode()
    except MemoryError:
        return b"PDF_INVALID it takes too much memory\n"
    except RecursionError:
        return b"PDF_INVALID it is nested too deep\n"
    except (
        Exception
    ) as error:  # the library's many ways to say that a file is broken; none of them quotes its text here
        return f"PDF_INVALID {type(error).__name__}\n".encode()


def _seconds() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return math.ceil(used.ru_utime + used.ru_stime)


def _allow(seconds: int) -> None:
    _limit(resource.RLIMIT_CPU, seconds + 1)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
