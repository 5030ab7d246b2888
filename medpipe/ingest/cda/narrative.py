"""The narrative block of CDA R2 (§4.3.5) as a person reads it in a browser: lines of text.

Tables become lines of ``a | b | c``, lists get bullets or numbers and indents, captions stand before what they are
of; what was deleted (``revised="delete"``) is gone. HTML that has no place in a narrative but occurs is rendered too.

White space is collapsed as a browser does, except where line ends are plainly meant: in a run of text of which a line
begins in the first column, or that holds a carriage return, or in which a line is shorter than one that somebody
wrapped would be, and the next begins no word in small letters. Many sites put the whole note in one cell or paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from lxml import etree

BLOCKS = frozenset((
    "paragraph", "p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "address", "center", "dl", "dt",
    "dd", "hr", "section", "article", "header", "footer", "figure", "figcaption", "title", "form", "fieldset", "legend",
    "head", "body", "html", "thead", "tbody", "tfoot",
))  # fmt: skip
LISTS, ITEMS = frozenset(("list", "ul", "ol")), frozenset(("item", "li"))
CELLS = frozenset(("td", "th"))
FRAMES = LISTS | ITEMS | CELLS | {"table", "tr"}
HIDDEN = frozenset(("script", "style", "template", "del"))
MOST_SPANNED, DEEPEST_INDENT, LONGEST_JOINED = 64, 32, 200
MOST_OPEN = 32  # blocks in each other: what lies deeper is rendered, but without cells and indents of its own
LONGEST_RUN = 8 << 20  # characters; white space in a longer run is left as it is
SPACE = " \t\r\n\f\v"
RUN = re.compile(r"[ \t\r\n\f\v]+")
KEPT_SPACE, KEPT_TAB = "\x01", "\x02"  # white space that must not collapse; XML has no such characters
KEEP = str.maketrans({" ": KEPT_SPACE, "\t": KEPT_TAB})
GIVE_BACK = str.maketrans({KEPT_SPACE: " ", KEPT_TAB: "\t"})


@lru_cache(maxsize=512)
def local_name(tag: str) -> str:
    """Returns a tag without its namespace, in lower case."""
    return tag.rpartition("}")[2].lower()


class _Block:
    """What is open while the narrative is walked: lines that are done, and the run of text behind them."""

    __slots__ = ("lines", "run")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.run: list[str] = []

    def end_line(self) -> None:
        """Ends the line where a block begins or ends."""
        if self.run:
            text = "".join(self.run)
            self.run.clear()
            if text and not text.isspace():
                self.lines += lay_out(text)

    def break_line(self) -> None:
        """Ends the line where one is told to end; on an empty line it leaves a blank one."""
        before = len(self.lines)
        self.end_line()
        if len(self.lines) == before:
            self.lines.append("")

    def last(self) -> str:
        """Returns the last character of the line that is not white space, or ""."""
        for part in reversed(self.run):
            if stripped := part.rstrip(SPACE):
                return stripped[-1]
        return ""

    def finish(self) -> list[str]:
        """Returns the lines, without blank ones at the ends and never two of them together."""
        self.end_line()
        lines: list[str] = []
        for line in self.lines:
            if line.strip() or (lines and lines[-1]):
                lines.append(line if line.strip() else "")
        while lines and not lines[-1]:
            lines.pop()
        return lines


class _Table(_Block):
    __slots__ = ("foot", "spans")

    def __init__(self) -> None:
        super().__init__()
        self.foot: list[str] = []
        self.spans: dict[int, int] = {}  # column -> rows that a cell above still covers

    def finish(self) -> list[str]:
        """Returns the lines; the foot stands below the rows, though it may be written above them."""
        self.end_line()
        self.lines += self.foot
        return self.lines


class _Row(_Block):
    __slots__ = ("cells", "column", "spans")

    def __init__(self, spans: dict[int, int]) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.column = 0
        self.spans = spans

    def take_stray(self) -> None:
        """Makes a cell of text that stands in the row outside of cells."""
        if stray := super().finish():
            self.cells.append(stray)
        self.lines = []

    def skip_spanned(self, *, rest: bool = False) -> None:
        """Leaves a cell empty where one above covers it: the next one, or in the ``rest`` of the row."""
        while self.spans.get(self.column, 0) > 0 or (rest and any(column > self.column for column in self.spans)):
            if self.spans.get(self.column, 0) > 0:
                self.spans[self.column] -= 1
                if not self.spans[self.column]:
                    del self.spans[self.column]
            self.cells.append([])
            self.column += 1

    def finish(self) -> list[str]:
        self.take_stray()
        self.skip_spanned(rest=True)
        return row_lines(self.cells)


class _Cell(_Block):
    __slots__ = ("columns", "rows")

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.columns, self.rows = columns, rows


class _List(_Block):
    __slots__ = ("count", "ordered", "style")

    def __init__(self, ordered: bool, style: str, first: int) -> None:
        super().__init__()
        self.ordered, self.style, self.count = ordered, style, first

    def finish(self) -> list[str]:
        """Returns the lines: those of the items."""
        self.end_line()
        return self.lines


class _Item(_Block):
    __slots__ = ("marker",)

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def finish(self) -> list[str]:
        lines = super().finish()
        indent = " " * len(self.marker)
        return [
            (indent if index else self.marker) + line if line and _indent(line) < DEEPEST_INDENT else line
            for index, line in enumerate(lines)
        ]


def narrative_lines(text: etree._Element, footnotes: Mapping[str, int] | None = None) -> list[str]:
    """Returns the lines of a narrative block; no blank ones at the ends.

    Args:
        text: the element ``section/text``, or any that holds such markup.
        footnotes: number of each footnote of the document that something refers to, by its ID.
    """
    walker = _Walker(footnotes or {})
    events = etree.iterwalk(text, events=("start", "end"))
    for event, element in events:
        if event == "end":
            if element is not text:
                walker.leave(element)
                walker.write(element.tail)
        elif element is text:
            walker.open_space(element)
            walker.write(element.text)
        elif walker.enter(element):
            walker.write(element.text)
        else:
            events.skip_subtree()
    return walker.blocks[0].finish()


class _Walker:
    """Takes start tags, text and end tags in order; a stack of open blocks instead of recursion."""

    def __init__(self, footnotes: Mapping[str, int]) -> None:
        self.blocks: list[_Block] = [_Block()]
        self.flattened = 0  # blocks inside each other beyond MOST_OPEN
        self.footnotes = footnotes
        self.raised = False  # the next character is a superscript
        self.leading = False  # the superscript begins the line: the mark of a footnote
        self.hidden: etree._Element | None = None
        self.in_foot = 0
        self.spaces: list[tuple[etree._Element, bool]] = []  # elements that say how white space is taken

    def enter(self, element: etree._Element) -> bool:
        """Takes a start tag; says whether what is in the element is seen."""
        name = local_name(element.tag)
        if name in HIDDEN or element.get("revised") == "delete":
            self.hidden = element
            return False
        top = self.blocks[-1]
        if name in FRAMES and len(self.blocks) > MOST_OPEN:
            top.end_line()
            self.flattened += 1
        elif name in BLOCKS:
            top.end_line()
            self.in_foot += name == "tfoot"
        elif name in CELLS:
            self._open_cell(element)
        elif name == "tr":
            top.end_line()
            self.blocks.append(_Row(top.spans if isinstance(top, _Table) else {}))
        elif name == "table":
            top.end_line()
            self.blocks.append(_Table())
        elif name in LISTS:
            top.end_line()
            self.blocks.append(_open_list(element, name))
        elif name in ITEMS:
            top.end_line()
            marker = "- "
            if isinstance(top, _List):
                marker = list_marker(top.count, top.style) if top.ordered else "- "
                top.count += 1
            self.blocks.append(_Item(marker))
        elif name == "br":
            top.break_line()
        elif name == "caption" and isinstance(top, _Table | _List):
            top.end_line()
        elif name == "sup":
            self.raised = True
            self.leading = not top.last()
        elif name == "footnote" and element.get("ID") in self.footnotes:
            top.run.append(f" [{self.footnotes[element.get('ID', '')]}: ")
        elif name == "footnote":
            top.end_line()
        elif name == "footnoteref":
            number = self.footnotes.get(element.get("IDREF", ""))
            top.run.append(f"[{number}]" if number else "")
        self.open_space(element)
        return True

    def open_space(self, element: etree._Element) -> None:
        """Takes note of an element that says how white space in it is taken."""
        said = element.get("{http://www.w3.org/XML/1998/namespace}space")
        if said or local_name(element.tag) in ("pre", "textarea"):
            self.spaces.append((element, said != "default"))

    def leave(self, element: etree._Element) -> None:
        """Takes an end tag."""
        if element is self.hidden:
            self.hidden = None
            return
        if self.spaces and self.spaces[-1][0] is element:
            self.spaces.pop()
        name = local_name(element.tag)
        top = self.blocks[-1]
        if name in FRAMES and self.flattened:
            top.end_line()
            self.flattened -= 1
        elif name in FRAMES:
            self._close(self.blocks.pop(), self.blocks[-1])
        elif name in BLOCKS:
            top.end_line()
            self.in_foot -= name == "tfoot"
        elif name == "caption":
            _end_caption(element, top)
        elif name == "sup":
            if self.leading and top.last().isdigit():
                top.run.append(" ")
            self.raised = self.leading = False
        elif name == "footnote" and element.get("ID") in self.footnotes:
            top.run.append("] ")
        elif name == "footnote":
            top.end_line()

    def write(self, text: str | None) -> None:
        """Takes text."""
        if not text:
            return
        top = self.blocks[-1]
        if self.spaces and self.spaces[-1][1]:
            *lines, last = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            for line in lines:
                top.run.append(line.translate(KEEP))
                top.break_line()
            top.run.append(last.translate(KEEP))
            return
        if text.isspace() and "\xa0" not in text:
            top.run.append(" ")
            return
        if self.raised:  # 10³ is not 103
            self.raised = False
            if text.lstrip(SPACE)[:1].isdigit() and top.last().isdigit():
                text = "^" + text.lstrip(SPACE)
        top.run.append(_edges(text))

    def _open_cell(self, element: etree._Element) -> None:
        top = self.blocks[-1]
        if isinstance(top, _Row):
            top.take_stray()
            top.skip_spanned()
        else:
            top.end_line()
        self.blocks.append(_Cell(_span(element, "colspan"), _span(element, "rowspan")))

    def _close(self, done: _Block, above: _Block) -> None:
        lines = done.finish()
        if isinstance(done, _Cell) and isinstance(above, _Row):
            above.cells.append(lines)
            for column in range(above.column, above.column + done.columns):
                if done.rows > 1 and column < MOST_SPANNED:
                    above.spans[column] = done.rows - 1
            above.column += done.columns
        elif isinstance(done, _Row) and isinstance(above, _Table) and self.in_foot:
            above.foot += lines
        else:
            above.lines += lines


def _open_list(element: etree._Element, name: str) -> _List:
    """Opens a list: CDA tells its kind by ``listType`` and ``styleCode``, HTML by its name and ``type``."""
    style = element.get("styleCode") or element.get("type") or ""
    ordered = name == "ol" or (element.get("listType") or "").lower() == "ordered"
    first = element.get("start") or "1"
    return _List(ordered, style, int(first) if re.fullmatch(r"[0-9]{1,6}", first) else 1)


def _end_caption(element: etree._Element, top: _Block) -> None:
    """Ends a caption: that of a table, list or picture is a line, any other stands before its text with a colon."""
    above = element.getparent()
    if isinstance(top, _Table | _List) or (above is not None and local_name(above.tag) == "rendermultimedia"):
        top.end_line()
    elif top.last():
        top.run.append(" " if top.last() in ":.;?!-" else ": ")


def _span(element: etree._Element, name: str) -> int:
    said = element.get(name) or element.get(name[:3] + "S" + name[4:]) or "1"
    return min(max(int(said), 1), MOST_SPANNED) if re.fullmatch(r"[0-9]{1,6}", said) else 1


def _edges(text: str) -> str:
    """Returns a piece of text whose first and last line end, where they only lay out the markup, are spaces."""
    if "\n" not in text:
        return text
    body = text.strip(SPACE)
    start = len(text) - len(text.lstrip(SPACE))
    before, behind = text[:start], text[start + len(body) :]
    if before[-1:] in (" ", "\t"):
        before = " "
    if behind[-1:] in (" ", "\t"):
        behind = " "
    return before + body + behind


# --- lines ----------------------------------------------------------------------------------


def lay_out(text: str) -> list[str]:
    """Returns the lines of a run of text between two ends of blocks."""
    text = text.strip(SPACE)
    if len(text) > LONGEST_RUN:
        return [text.translate(GIVE_BACK)]
    if "\n" not in text and "\r" not in text:
        return [RUN.sub(" ", text).translate(GIVE_BACK).rstrip()]
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if "\r" in text or any(line[:1] not in ("", " ", "\t") for line in lines[1:]):
        return [line.translate(GIVE_BACK).rstrip() for line in lines]
    stripped = [RUN.sub(" ", line).strip(" ") for line in lines]
    longest = max(map(len, stripped))
    joined = [[stripped[0]]]
    for index, line in enumerate(stripped[1:], 1):
        before = stripped[index - 1]
        # Whoever wraps text fills the lines: one into which the next word would have fitted was ended on purpose.
        # How much of the first line the markup before it takes, nobody knows.
        fits = index > 1 and len(before) + 1 + len(line.partition(" ")[0]) <= longest and not line[:1].islower()
        if not line or not before or fits:
            joined.append([line])
        else:
            joined[-1].append(line)
    return [" ".join(parts).translate(GIVE_BACK) for parts in joined]


def row_lines(cells: list[list[str]]) -> list[str]:
    """Returns the lines of a table's row: one, ``a | b | c``, or more where a cell holds much."""
    filled = [cell for cell in cells if cell]
    if len(filled) <= 1:
        return filled[0] if filled else []
    rows: list[str] = []
    row: list[str] = []
    for cell in cells:
        text = " ".join(line.strip(" ") for line in cell if line)
        if len(cell) > 1 and len(text) > LONGEST_JOINED:
            if line := " | ".join(row).strip(" |"):
                rows.append(f"{line} |")
            rows += cell
            row = []
        else:
            row.append(text)
    while row and not row[-1]:
        row.pop()
    if row:
        rows.append(" | ".join(row).strip(" "))
    return rows


def list_marker(number: int, style: str) -> str:
    """Returns what stands before an item of an ordered list: ``3. ``, ``iii. ``, ``C. ``."""
    kind = style.lower()
    small = style in ("a", "i") or "little" in kind
    if "roman" in kind or style in ("i", "I"):
        marker = roman(number)
    elif "alpha" in kind or style in ("a", "A"):
        marker = letters(number)
    else:
        return f"{number}. "
    return f"{marker.lower() if small else marker}. "


def roman(number: int) -> str:
    """Returns a Roman numeral; above 3,999, which has none, and below 1 the number in digits."""
    if not 0 < number < 4000:
        return str(number)
    numerals = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"))
    text = ""
    for value, numeral in (*numerals, (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        text += numeral * (number // value)
        number %= value
    return text


def letters(number: int) -> str:
    """Returns the letters of a number as in a list: A … Z, AA, AB …"""
    text = ""
    while number > 0:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text or "0"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
