"""RTF to the text that a person reads (Rich Text Format 1.9.1; what Word, Cocoa, Crystal Reports and Outlook write).

A token loop over bytes with one entry of state per open group: linear in the size, at any depth. Read are: code pages
(``\\ansicpg``, ``\\mac``, ``\\pc``, ``\\pca``) and those of fonts (``\\fcharset``, ``\\cpg``), ``\\'hh`` also in
double-byte pages, ``\\uN`` with ``\\ucN`` and surrogate pairs, symbol fonts, paragraphs, tables (`` | `` between
cells), bullets and numbers, text boxes, results of fields and objects, check boxes of forms, tracked insertions. Left
out: pictures, ``\\bin`` data, tables of fonts and styles, field codes, comments, hidden text, tracked deletions,
properties.

Headers stand before the text, footnotes and footers behind it, equal ones once. Not read: formulas, drawn check boxes,
numbers that only a style computes (page numbers, Word 97 numbering without its fallback text).
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import NamedTuple

from medpipe.ingest.syntax.charsets import ONE_BY_ONE, standard_name

# A control word (the space behind it is part of it), a hexadecimal byte, another control symbol, a brace, a line end
# (which means nothing), text.
TOKEN = re.compile(
    rb"\\([A-Za-z]{1,32})(-?[0-9]{1,10})? ?|\\'([0-9A-Fa-f]{2})|\\([^A-Za-z])|([{}])|[\r\n]+|([^\\{}\r\n]+)|\\\Z",
    re.DOTALL,
)

# Destinations that hold no text of the document. All that begin with ``\*`` are skipped too, except those of SEEN.
UNSEEN = frozenset((
    "fonttbl", "colortbl", "stylesheet", "info", "pict", "filetbl", "nonshppict", "shprslt", "fldinst", "fldtype",
    "formfield", "private", "tc", "tcn", "xe", "rxe", "bkmkstart", "bkmkend", "annotation", "atnid", "atnauthor",
    "atntime", "atndate", "atnref", "atnparent", "atrfstart", "atrfend", "ftnsep", "ftnsepc", "ftncn", "aftnsep",
    "aftnsepc", "aftncn", "pn", "pnseclvl", "objclass", "objname", "objdata", "objsect", "objalias", "objtime", "sp",
    "sn", "sv", "nonesttables", "background", "template", "title", "subject", "author", "manager", "company",
    "operator", "category", "keywords", "comment", "doccomm", "hlinkbase", "listtable", "listoverridetable", "revtbl",
    "rsidtbl", "generator", "nextfile",
))  # fmt: skip
SEEN = frozenset((
    "shpinst", "shpgrp", "shptxt", "do", "dptxbxtext", "ud",
))  # fmt: skip
BOXES = frozenset(("shptxt", "dptxbxtext"))  # text boxes
# Destinations that stand elsewhere on the page than in the file.
HEADERS = frozenset(("header", "headerl", "headerr", "headerf"))
FOOTERS = frozenset(("footer", "footerl", "footerr", "footerf"))

CHARACTERS = {
    "par": "\n", "line": "\n", "lbr": "\n", "sect": "\n\n", "page": "\n\n", "column": "\n", "softline": "\n",
    "softpage": "", "tab": "\t", "emdash": "—", "endash": "–", "emspace": "\u2003", "enspace": "\u2002",
    "qmspace": "\u2005", "bullet": "•", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”",
    "zwj": "\u200d", "zwnj": "\u200c",
}  # fmt: skip
# ``\-`` is a hyphen that is seen only at a line's end, ``\:`` and ``\|`` mean nothing in running text.
SYMBOLS = {b"~": "\xa0", b"_": "\u2011", b"\n": "\n", b"\r": "\n", b"\t": "\t"}

ESCAPED = (b"\\", b"{", b"}")

# Windows character sets of fonts (\fcharset) that are no "cp" + number of their own.
CHARSETS = {
    0: "cp1252", 1: "", 77: "mac_roman", 78: "cp932", 79: "johab", 80: "gbk", 81: "big5", 83: "mac_greek",
    84: "mac_cyrillic", 86: "mac_latin2", 89: "mac_cyrillic", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk",
    136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257",
    204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
SYMBOL_CHARSET = 2
PAGES = {0: "cp1252", 708: "cp1256", 709: "cp1256", 936: "gbk", 1200: "cp1252", 10000: "mac_roman", 10006: "mac_greek",
         10007: "mac_cyrillic", 10029: "mac_latin2", 20127: "cp1252", 28591: "cp1252", 65001: "utf-8"}  # fmt: skip

# The Symbol font from 0x20 on, and what notes use of Wingdings; "\0" is a place without a character.
_SYMBOL_LOW = " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_\u203eαβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼"
_SYMBOL_HIGH = "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪\0〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭"
SYMBOL = dict(enumerate(_SYMBOL_LOW, 0x20)) | dict(enumerate(_SYMBOL_HIGH, 0xA0))
WINGDINGS = dict(zip(
    b"\x20\x4a\x6c\x6e\x6f\x71\x72\x73\x74\x75\x76\x77\x78\x9f\xa1\xa7\xa8\xd8\xdf\xe0\xe1\xe2\xe8\xf0\xfb\xfc\xfd\xfe",
    " ☺●■□❑❒⬧⧫◆❖⬥☒•○▪☐➢←→↑↓➔⇨✗✓☒☑", strict=True,
))  # fmt: skip


# Ends of cells and rows and beginnings of rows among the text: code points that are no characters, and that the text
# itself does not keep.
CELL, ROW, ROW_BEGINS, INNER_CELL, INNER_ROW = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
NO_CHARACTERS = re.compile("[\ufdd0-\ufdd4]")
MARKS = {"cell": CELL, "row": ROW, "trowd": ROW_BEGINS, "nestcell": INNER_CELL}
FORM_FIELD = frozenset(("fftype", "ffres", "ffdefres"))
UNSET = 25  # of \ffres: the default counts


class NotRtfError(ValueError):
    """The bytes are no RTF, or hold none of its text."""


@dataclass(slots=True)
class _Font:
    codec: str = ""  # "" is the document's
    symbols: dict[int, str] | None = None
    name: bytes = b""


class _State(NamedTuple):
    """What a group inherits and gives back at its end."""

    out: list[str] | None  # where its text goes; None: nowhere
    font: int = -1
    fallback: int = 1  # how many characters stand for a \u
    hidden: bool = False
    table: bool = False  # inside of the font table


def read_rtf(raw: bytes) -> tuple[str, str]:
    """Returns the text of an RTF file, and the encoding of its code page.

    A file that breaks off gives the text up to there, as Word shows it.

    Raises:
        NotRtfError: where it does not begin like RTF, or breaks off before any text.
    """
    start = raw.find(b"{\\rtf")
    if start < 0 or raw[:start].strip(b"\xef\xbb\xbf \t\r\n\0"):
        raise NotRtfError
    reader = _Reader(raw, start)
    text = reader.read()
    if reader.stack and not text.strip():
        raise NotRtfError
    return text, standard_name(reader.codec)


class _Reader:
    def __init__(self, raw: bytes, start: int) -> None:
        self.raw = raw
        self.at = start
        self.codec = "cp1252"
        self.default_font = -1
        self.fonts: dict[int, _Font] = {}
        self.body: list[str] = []
        self.elsewhere: dict[str, list[list[str]]] = {"header": [], "footnote": [], "footer": []}
        self.state = _State(self.body)
        self.stack: list[_State] = []
        self.pending = bytearray()  # bytes that wait to be decoded together
        self.skip = 0  # characters that repeat a \u in another way
        self.starred = False  # behind ``\*``
        self.first = True  # the next control word is the first of its group
        self.form_field: dict[str, int] = {}

    def read(self) -> str:
        end = len(self.raw)
        while self.at < end:
            match = TOKEN.match(self.raw, self.at)
            if match is None:  # a lone backslash before what is no token; cannot be, but must not hang
                self.at += 1
                continue
            self.at = match.end()
            kind = match.lastindex
            if kind == 6:
                self._text(match[6])
            elif kind in (1, 2):
                self._word(match[1].decode("ascii"), int(match[2]) if match[2] else None)
            elif kind == 3:
                self._byte(int(match[3], 16))
            elif kind == 5:
                if match[5] == b"{":
                    self._open()
                elif self._close():
                    break
            elif kind == 4:
                self._symbol(match[4])
        self._decode()
        return self._finish()

    # --- groups -------------------------------------------------------------------------------

    def _open(self) -> None:
        self._decode()
        self.skip = 0
        self.stack.append(self.state)
        self.first = True
        self.starred = False

    def _close(self) -> bool:
        """Ends a group; says whether it was the last one of the document."""
        self._decode()
        self.skip = 0
        self.first = self.starred = False
        if self.stack:
            self.state = self.stack.pop()
        if self.stack:
            return False
        # Two documents in one file are read both; anything else behind the end is none of it.
        rest = re.compile(rb"[\s\0]*\{\\rtf").match(self.raw, self.at)
        if rest is None:
            return True
        self.body.append("\n")
        self.at = rest.end() - len(b"{\\rtf")
        self.state = _State(self.body)
        return False

    # --- tokens -------------------------------------------------------------------------------

    def _word(self, word: str, number: int | None) -> None:
        first, starred = self.first, self.starred
        self.first = self.starred = False
        if word == "bin":
            self.at += max(0, number or 0)
            self.skip = max(0, self.skip - 1)
            return
        if self.skip and word != "u":
            self.skip -= 1
            return
        if (first or starred) and self._destination(word, starred):
            return
        if self.state.table:
            self._font_table(word, number)
        elif word in FORM_FIELD:
            self.form_field[word] = number or 0
        elif word == "nestrow":  # stands in ``\\*\\nesttableprops``, behind the cells of the row
            out = self.state.out if self.state.out is not None or not self.stack else self.stack[-1].out
            if out is not None:
                out.append(INNER_ROW)
        elif self.state.out is None:
            return
        elif word == "u":
            self._unicode(number or 0)
        elif word in CHARACTERS:
            self._decode()
            self._put(CHARACTERS[word])
        elif word in MARKS:
            self._decode()
            if not self.state.hidden:
                self.state.out.append(MARKS[word])
        elif word == "fldrslt":
            self._check_box()
        else:
            self._format(word, number)

    def _destination(self, word: str, starred: bool) -> bool:
        """Enters a destination, if the word begins one."""
        if word == "fonttbl":
            self.state = self.state._replace(out=None, table=True)
        elif self.state.out is None:
            return False
        elif word in HEADERS:
            self._enter("header")
        elif word in FOOTERS:
            self._enter("footer")
        elif word == "footnote":
            self._enter("footnote")
        elif word in UNSEEN or (starred and word not in SEEN):
            self.state = self.state._replace(out=None)
        elif word in BOXES:
            self._decode()
            self._put("\n")
        elif word == "upr":  # {\upr{text in the code page}{\*\ud{the same in Unicode}}}
            self._skip_group()
        else:
            return False
        return True

    def _enter(self, place: str) -> None:
        self._decode()
        part: list[str] = []
        self.elsewhere[place].append(part)
        self.state = self.state._replace(out=part)

    def _skip_group(self) -> None:
        """Passes over the group that comes next."""
        depth = 0
        while match := TOKEN.match(self.raw, self.at):
            self.at = match.end()
            if match[1] == b"bin" and match[2]:
                self.at += max(0, int(match[2]))
            depth += {b"{": 1, b"}": -1}.get(match[5], 0)
            if depth <= 0 and match[5]:
                if depth < 0:
                    self.at = match.start()
                return

    def _format(self, word: str, number: int | None) -> None:
        if word == "f":
            self._decode()
            self.state = self.state._replace(font=-1 if number is None else number)
        elif word in ("plain", "v", "deleted"):
            self._decode()
            if word == "plain":
                self.state = self.state._replace(font=self.default_font, hidden=False)
            else:
                self.state = self.state._replace(hidden=number != 0)
        elif word == "uc":
            self.state = self.state._replace(fallback=min(max(number or 0, 0), 100))
        elif word == "deff":
            self.default_font = -1 if number is None else number
            self.state = self.state._replace(font=self.default_font)
        elif word == "ansicpg":
            self.codec = _codec(number or 0) or self.codec
        elif word in ("mac", "pc", "pca"):
            self.codec = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]

    def _unicode(self, code: int) -> None:
        """Puts a character of ``\\u``: 16 bits, which may be written as a negative number, or more."""
        self._decode()
        self.skip = self.state.fallback
        code = code % 0x10000 if code < 0x10000 else code
        if 0xF020 <= code <= 0xF0FF:  # how Word writes characters of symbol fonts
            font = self.fonts.get(self.state.font)
            self._put(((font.symbols if font else None) or SYMBOL).get(code - 0xF000) or chr(code))
        else:
            self._put(chr(code) if code <= 0x10FFFF else "\ufffd")

    def _check_box(self) -> None:
        """Puts the state of a form's check box, which is a field without a text for result."""
        field, self.form_field = self.form_field, {}
        if field.get("fftype") == 1:
            checked = field.get("ffres", UNSET)
            self._put("[x]" if (field.get("ffdefres", 0) if checked == UNSET else checked) else "[ ]")

    def _font_table(self, word: str, number: int | None) -> None:
        if word == "f" and number is not None:
            self.state = self.state._replace(font=number)
            self.fonts.setdefault(number, _Font())
        elif font := self.fonts.get(self.state.font):
            if word == "fcharset" and number is not None:
                if number == SYMBOL_CHARSET:
                    font.symbols = SYMBOL
                else:
                    font.codec = CHARSETS.get(number, "")
            elif word == "cpg" and number:
                font.codec = _codec(number) or font.codec

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self.starred = self.first
            return
        self.first = False
        if self.skip:
            self.skip -= 1
        elif self.state.out is not None and symbol in ESCAPED:
            self.pending += symbol  # which may be the second byte of a character
        elif self.state.out is not None and symbol in SYMBOLS:
            self._decode()
            self._put(SYMBOLS[symbol])
        # ``\'`` without two hexadecimal digits, ``\-``, ``\:``, ``\|`` and unknown symbols are not seen

    def _byte(self, value: int) -> None:
        self.first = False
        if self.skip:
            self.skip -= 1
        elif self.state.out is not None:
            self.pending.append(value)

    def _text(self, text: bytes) -> None:
        self.first = False
        if self.skip:
            text, self.skip = text[self.skip :], max(0, self.skip - len(text))
        if self.state.out is not None:
            if not self.pending and not text.isascii() and (read := _utf8(text)) is not None:
                self._put(read)  # not as the standard has it, but so it is where RTF came through JSON, XML or HL7
            else:
                self.pending += text
        elif self.state.table and (font := self.fonts.get(self.state.font)):
            font.name += text
            if font.symbols is not None and b"wingdings" in font.name.lower():
                font.symbols = WINGDINGS

    # --- text ---------------------------------------------------------------------------------

    def _decode(self) -> None:
        """Decodes the bytes that wait, in the code page of their font."""
        if not self.pending:
            return
        raw = bytes(self.pending)
        self.pending.clear()
        font = self.fonts.get(self.state.font)
        if raw.isascii() and (font is None or font.symbols is None):
            self._put(raw.decode("ascii"))
        elif font is not None and font.symbols is not None:
            self._put("".join(font.symbols.get(value) or chr(value) for value in raw))
        else:
            self._put(raw.decode((font.codec if font else "") or self.codec, ONE_BY_ONE))

    def _put(self, text: str) -> None:
        if self.state.out is not None and not self.state.hidden:
            self.state.out.append(text if text.isascii() else NO_CHARACTERS.sub("", text))

    def _finish(self) -> str:
        parts = [*_distinct(self.elsewhere["header"]), _joined(self.body)]
        parts += [_joined(part) for part in self.elsewhere["footnote"]] + _distinct(self.elsewhere["footer"])
        text = "\n\n".join(part for part in (part.strip("\n") for part in parts) if part.strip())
        if SURROGATE.search(text):  # \u holds UTF-16: pairs become one character
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text.replace("\0", "")


SURROGATE = re.compile("[\ud800-\udfff]")


def _joined(parts: list[str]) -> str:
    """Joins the pieces of a text, tables as a line a row."""
    return _with_tables("".join(parts), CELL, ROW)


def _with_tables(text: str, cell_ends: str, row_ends: str) -> str:
    if cell_ends not in text:
        return text.replace(row_ends, "\n").replace(ROW_BEGINS, "")
    lines: list[str] = []
    table: list[list[str]] = []
    for row in text.split(row_ends):
        cells = row.split(cell_ends)
        before = cells.pop(0) if len(cells) == 1 else ""
        if cells:  # paragraphs between the row before and this one are none of its first cell
            before, _, cells[0] = cells[0].rpartition(ROW_BEGINS)
        if before or not cells:
            lines += [*_table(table), before.replace(ROW_BEGINS, "").removesuffix("\n" if cells else "")]
            table = []
        if cells:
            table.append([_with_tables(cell, INNER_CELL, INNER_ROW).strip("\n") for cell in cells])
    return "\n".join([*lines, *_table(table)])


def _table(rows: list[list[str]]) -> list[str]:
    """Returns a line a row: without the columns at its left that are empty, and empty cells at the end of a row."""
    filled = [[index for index, cell in enumerate(cells) if cell.strip()] for cells in rows]
    left = min((places[0] for places in filled if places), default=0)
    return [
        " | ".join(cells[left : places[-1] + 1]).lstrip() for cells, places in zip(rows, filled, strict=True) if places
    ]


def _distinct(parts: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(_joined(part).strip() for part in parts))


def _utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _codec(page: int) -> str:
    """Returns Python's name of a Windows code page; "" where it knows none."""
    name = PAGES.get(page, f"cp{page}")
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""
