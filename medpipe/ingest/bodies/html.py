"""HTML and XHTML to the text that a person reads on the page.

The parser is libxml2's (HTML5's tokens, linear time, any depth), fed event by event, so that no tree is built and
nothing that the markup names is ever opened. What a browser does with the events is done here as far as it matters
for text (https://html.spec.whatwg.org/multipage/rendering.html):

- white space is collapsed, except in ``pre`` and under ``white-space: pre``; blocks stand on lines of their own, and
  paragraphs, headings and lists between empty lines;
- a table is a line a row with `` | `` between cells; in a cell more blocks are more lines;
- list items begin with ``- `` or their number, indented by depth; form fields show what is filled in;
- left out: comments, ``head``, scripts, styles, templates, what ``hidden``, ``display: none`` and
  ``visibility: hidden`` hide (in the element itself: style sheets are not applied), options not selected;
- an image stands as ``[image: its alternative text]`` where it has one; the page's title is the first line unless the
  page repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree

# Elements that begin and end a line; those of PARAGRAPHS have an empty line around them.
PARAGRAPHS = frozenset((
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "menu", "dir", "pre", "listing", "xmp", "plaintext",
    "blockquote", "fieldset", "hr",
))  # fmt: skip
BLOCKS = PARAGRAPHS | frozenset((
    "address", "article", "aside", "body", "caption", "center", "dd", "details", "dialog", "div", "dt", "figcaption",
    "figure", "footer", "form", "frameset", "header", "hgroup", "html", "legend", "li", "main", "nav", "optgroup",
    "section", "summary", "table", "tbody", "tfoot", "thead", "tr",
))  # fmt: skip
HIDDEN = frozenset((
    "head", "script", "style", "template", "noscript", "iframe", "audio", "video", "canvas", "datalist", "rp",
))  # fmt: skip
LISTS = frozenset(("ul", "ol", "menu", "dir"))
CELLS = frozenset(("td", "th"))
KEPT_SPACE = frozenset(("pre", "listing", "xmp", "plaintext", "textarea"))
BUTTONS = frozenset((
    "hidden", "submit", "reset", "button", "image", "file", "password", "color", "range",
))  # fmt: skip

SPACE = re.compile(r"[ \t\n\r\f]+")
UNSEEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)", re.IGNORECASE)
WHITE_SPACE = re.compile(r"white-space\s*:\s*([a-z-]+)", re.IGNORECASE)
SURROGATES = re.compile("[\ud800-\udfff]")
# XHTML may close at once what HTML reads as raw text to its end tag.
CLOSED = re.compile(r"<(title|textarea|style|iframe|xmp)(\s[^<>]*)?/>", re.IGNORECASE)
DEEPEST_INDENT = 10  # so that hostile nesting does not grow the text quadratically


def html_to_text(markup: str) -> str:
    """Returns the text of HTML or XHTML, of a whole page or a fragment, as a person reads it."""
    markup = CLOSED.sub(r"<\1\2></\1>", markup)
    if "<?xml" in markup[:200] or "http://www.w3.org/1999/xhtml" in markup:
        markup = _escape_cdata(markup)
    page = _Page()
    parser = etree.HTMLParser(target=page, huge_tree=True, encoding="utf-8", no_network=True)
    # A space before the text: the parser refuses an empty input. Lone surrogates, which no encoding can hold, become
    # the replacement character, as browsers show them.
    parser.feed(b" " + SURROGATES.sub("\ufffd", markup).encode())
    parser.close()
    return page.finish()


def _escape_cdata(markup: str) -> str:
    """Makes ordinary text of the CDATA sections of XHTML, which an HTML parser takes for comments."""
    before, *sections = markup.split("<![CDATA[")
    parts = [before]
    for section in sections:
        inside, end, after = section.partition("]]>")
        parts += [inside.replace("&", "&amp;").replace("<", "&lt;") if end else inside, after]
    return "".join(parts)


@dataclass(slots=True)
class _List:
    numbered: str = ""  # type of the numbers: "1", "a", "A", "i", "I"; "" for bullets
    number: int = 1


@dataclass(slots=True)
class _Row:
    # What was to come before the next text when the row began.
    cells: int
    in_cell: bool
    count: int = 0  # cells so far


class _Page:
    """The target of the parser: collects text, and what must stand before the next text."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.data_: list[str] = []  # character data since the last tag: the parser gives it in pieces
        self.stack: list[tuple[str, bool, bool]] = []  # open elements: tag, hidden, white space kept
        self.hidden = self.kept = False
        self.title: list[str] = []
        self.lists: list[_List] = []
        self.tables: list[
            list[tuple[int, int]]
        ] = []  # of open tables the rows: place in parts, empty cells before text
        self.rows: list[_Row] = []  # that are open
        self.filled = 0  # how many of them, from the outermost one, have text
        # What the next text brings with it.
        self.breaks = 0  # line feeds
        self.cells = 0  # borders of cells
        self.marker = ""  # of a list item
        self.space = False
        self.in_cell = False  # at the beginning of a cell, where blocks begin no line
        self.fresh = False  # at the beginning of a preformatted element, where a line feed does not count

    # --- events of the parser ---------------------------------------------------------------

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._flush()
        style = attributes.get("style", "")
        hidden = self.hidden or tag in HIDDEN or "hidden" in attributes or bool(style and UNSEEN.search(style))
        hidden = hidden or (tag == "option" and "selected" not in attributes)
        kept = self.kept or tag in KEPT_SPACE
        if style and (rule := WHITE_SPACE.search(style)):
            kept = rule[1].lower().startswith(("pre", "break"))
        self.stack.append((tag, self.hidden, self.kept))
        self.hidden, self.kept, self.fresh = hidden, kept, tag in KEPT_SPACE
        if not hidden:
            self._begin(tag, attributes)

    def end(self, tag: str) -> None:
        self._flush()
        if not self.stack:  # never seen: the parser closes only what it opened
            return
        _, hidden, kept = self.stack.pop()
        if not self.hidden:
            self._end(tag)
        self.hidden, self.kept = hidden, kept

    def data(self, text: str) -> None:
        self.data_.append(text)

    def close(self) -> None:
        self._flush()

    # --- elements -----------------------------------------------------------------------------

    def _begin(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "tr":
            self.rows.append(_Row(self.cells, self.in_cell))
        elif tag == "table":
            self.tables.append([])
        if tag in BLOCKS:
            self._break(2 if tag in PARAGRAPHS and not (tag in LISTS and self.lists) else 1)
        if tag in CELLS:
            self._begin_cell()
        elif tag in LISTS:
            numbered = (attributes.get("type") or "1")[:1] if tag == "ol" else ""
            self.lists.append(_List(numbered, _integer(attributes.get("start"), 1)))
        elif tag == "li":
            self._begin_item(attributes)
        elif tag == "br":
            if not self.in_cell:
                self.breaks += 1
        elif tag == "q":
            self._put("“")
        elif tag == "img":
            if alt := SPACE.sub(" ", attributes.get("alt", "")).strip():
                self._put_apart(f"[image: {alt}]")
        elif tag == "input":
            self._put_field(attributes)

    def _end(self, tag: str) -> None:
        if tag == "tr" and self.rows:
            self._end_row()
        elif tag == "table" and self.tables:
            self._end_table()
        elif tag in CELLS:
            if not self.in_cell:
                self.breaks = 0
            self.space = True
        elif tag in BLOCKS:
            if tag in LISTS and self.lists:
                self.lists.pop()
            elif tag == "li":
                self.marker = ""
            self._break(2 if tag in PARAGRAPHS and not (tag in LISTS and self.lists) else 1)
        elif tag == "q":
            self._put("”")

    def _begin_cell(self) -> None:
        if self.rows:
            self.rows[-1].count += 1
        if self.rows and self.filled == len(self.rows):
            self.breaks = 0
            self.cells += 1
        self.in_cell = True

    def _end_row(self) -> None:
        row = self.rows.pop()
        if self.filled > len(self.rows):
            self.filled = len(self.rows)
            self.cells, self.in_cell = 0, False
            self._break(1)
        else:  # an empty row: as if it were not there
            self.cells, self.in_cell = row.cells, row.in_cell

    def _end_table(self) -> None:
        """Gives rows the borders of empty cells at their beginning, except of columns that are empty in all of them."""
        rows = self.tables.pop()
        least = min((empty for _, empty in rows), default=0)
        for place, empty in rows:
            self.parts[place] = "| " * (empty - least)
        self._break(1)

    def _begin_item(self, attributes: Mapping[str, str]) -> None:
        inner = self.lists[-1] if self.lists else _List()
        if inner.numbered:
            inner.number = _integer(attributes.get("value"), inner.number)
            mark = f"{_numeral(inner.number, inner.numbered)}. "
            inner.number += 1
        else:
            mark = "- "
        indent = "" if self.marker else "  " * min(len(self.lists) - 1, DEEPEST_INDENT)
        self.marker += indent + mark

    def _put_field(self, attributes: Mapping[str, str]) -> None:
        kind = attributes.get("type", "text").lower()
        if kind in ("checkbox", "radio"):
            self._put_apart("[x]" if "checked" in attributes else "[ ]")
        elif kind not in BUTTONS and (value := SPACE.sub(" ", attributes.get("value", "")).strip()):
            self._put_apart(value)

    # --- text ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self.data_:
            return
        text = "".join(self.data_).replace("\xad", "")  # soft hyphens are not seen
        self.data_.clear()
        tag = self.stack[-1][0] if self.stack else ""
        if tag == "title":  # that of a drawing is what a pointer over it shows
            self.title += [] if any(name == "svg" for name, *_ in self.stack[-4:]) else [text]
        elif self.hidden:
            return
        elif self.kept:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self._put_kept(text.removeprefix("\n") if self.fresh else text)
        else:
            self._put_collapsed(text)
        self.fresh = False

    def _put_collapsed(self, text: str) -> None:
        text = SPACE.sub(" ", text)
        if not text.strip(" \xa0"):  # also no-break spaces alone: an empty line, cell or gap
            self.space = True
            return
        self.space = self.space or text[0] == " "
        self._put(text.strip(" "))
        self.space = text[-1] == " "

    def _put_kept(self, text: str) -> None:
        if not text.strip(" \n\t\xa0") and self.in_cell:
            return
        body = text.strip("\n")
        if body:
            self.breaks += len(text) - len(text.lstrip("\n"))
            self._put(body)
        self.breaks += len(text) - len(text.rstrip("\n"))

    def _break(self, feeds: int) -> None:
        """Asks for a new line, unless a cell or a list item has just begun; an empty line only outside of tables."""
        if not self.in_cell and not self.marker:
            self.breaks = max(self.breaks, 1 if self.rows else feeds)

    def _put_apart(self, text: str) -> None:
        self.space = True
        self._put(text)
        self.space = True

    def _put(self, text: str) -> None:
        if self.parts:
            if self.cells:
                self.parts.append(" | " * self.cells)
            elif self.breaks:
                self.parts.append("\n" * min(self.breaks, 2))
            elif self.space:
                self.parts.append(" ")
        for row in self.rows[self.filled :]:
            if self.tables:
                self.tables[-1].append((len(self.parts), max(row.count - 1, 0)))
            self.parts.append("")
        self.filled = len(self.rows)
        self.parts += [self.marker, text]
        self.breaks = self.cells = 0
        self.marker = ""
        self.space = self.in_cell = False

    def finish(self) -> str:
        """Returns the page's text, its title first where the page does not repeat it."""
        lines = [line.rstrip() for line in "".join(self.parts).split("\n")]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        title = SPACE.sub(" ", "".join(self.title)).strip()
        if title and title not in SPACE.sub(" ", text):
            return f"{title}\n\n{text}".strip()
        return text


def _integer(written: str | None, otherwise: int) -> int:
    return int(written) if written and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", written) else otherwise


def _numeral(number: int, kind: str) -> str:
    """Returns the number of a list item in one of HTML's five ways."""
    if kind in "aA" and number > 0:
        letters = ""
        while number:
            number, rest = divmod(number - 1, 26)
            letters = chr(ord(kind) + rest) + letters
        return letters
    if kind in "iI" and 0 < number < 4000:
        roman = ""
        for value, sign in ROMAN:
            count, number = divmod(number, value)
            roman += sign * count
        return roman if kind == "i" else roman.upper()
    return str(number)


ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
    (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip
