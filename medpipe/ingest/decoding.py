"""Bytes to text: encodings found and recorded, never a byte dropped; markup rendered to what a person reads."""

from __future__ import annotations

import binascii
import codecs
import re
from dataclasses import dataclass
from html.parser import HTMLParser

# How files of other kinds begin.
MAGIC = {
    b"%PDF": "PDF", b"{\\rtf": "RTF", b"\x89PNG": "PNG image", b"\xff\xd8\xff": "JPEG image", b"GIF8": "GIF image",
    b"II*\x00": "TIFF image", b"MM\x00*": "TIFF image", b"PK\x03\x04": "zip archive", b"\x1f\x8b": "gzip archive",
    b"\xd0\xcf\x11\xe0": "Office document", b"PAR1": "Parquet file", b"SQLite format 3": "database",
}  # fmt: skip
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Control characters that text does not hold: all of C0 but tab, line feed, vertical tab, form feed, return and escape.
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and the encoding it was read with; or the code of an error and what it is about."""

    text: str = ""
    encoding: str = ""
    error: str | None = None
    kind: str = ""


def magic(raw: bytes) -> str | None:
    """Returns the kind of file that the bytes begin like, if it is one that holds no plain text."""
    return next((kind for start, kind in MAGIC.items() if raw.startswith(start)), None)


def decode(raw: bytes, charset: str | None = None) -> Decoded:
    """Decodes bytes: as their byte order mark says, as ``charset`` says, as UTF-8, UTF-16 or else Windows-1252.

    Bytes that none of these can be, and binary content, give an error instead of replaced characters.
    """
    if kind := magic(raw):
        return Decoded(error="TEXT_BINARY", kind=kind)
    marked = next((name for mark, name in BOMS if raw.startswith(mark)), None)
    if (
        marked is None
        and not (charset or "").lower().startswith("utf-16")
        and raw[:64].count(0) * 3 >= len(raw[:64]) > 1
    ):
        marked = "utf-16-le" if raw[1:64:2].count(0) > raw[0:64:2].count(0) else "utf-16-be"
    for name in (marked, charset, "utf-8", "cp1252"):
        if name is None:
            continue
        if name in ("utf-8", "cp1252") and len(CONTROL.findall(raw)) * 50 > len(raw):
            return Decoded(error="TEXT_BINARY", kind="unknown")
        try:
            return Decoded(raw.decode(name), codecs.lookup(name).name)
        except (UnicodeDecodeError, LookupError):
            continue
    return Decoded(error="TEXT_UNDECODABLE")


URL_SAFE = str.maketrans("-_", "+/")  # RFC 4648, section 5
# The last character where padding is missing: its bits that carry nothing are zero, or else something was cut off.
LAST = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}


def decode_base64(data: str) -> bytes | None:
    """Returns the bytes of base64 text; ``None`` where it is not valid.

    White space is allowed, so is the URL-safe alphabet, and so is missing padding where nothing else is missing.
    """
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except (UnicodeEncodeError, ValueError):  # not ASCII, or not strict
        pass
    data = "".join(data.split())
    if not ("+" in data or "/" in data):
        data = data.translate(URL_SAFE)
    if (rest := len(data) % 4) and not data.endswith("=") and data[-1] in LAST.get(rest, ""):
        data += "=" * (4 - rest)
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except (UnicodeEncodeError, ValueError):
        return None


class _Text(HTMLParser):
    """Collects the text of a page; what begins a block begins a line."""

    BLOCKS = frozenset(
        [
            *(
                "p",
                "div",
                "br",
                "tr",
                "li",
                "ul",
                "ol",
                "dt",
                "dd",
                "pre",
                "hr",
                "title",
                "table",
                "section",
                "article",
            ),
            *("header", "footer", "h1", "h2", "h3", "h4", "h5", "h6"),
        ]
    )
    HIDDEN = frozenset(("script", "style", "template"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0
        self.kept_space = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in self.HIDDEN
        self.kept_space += tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" | " if self.parts and not self.parts[-1].endswith("\n") else "")
        if tag == "li":
            self.parts.append("- ")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in self.HIDDEN))
        self.kept_space = max(0, self.kept_space - (tag == "pre"))
        if tag in self.BLOCKS and tag not in ("br", "hr", "li"):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self.kept_space else re.sub(r"\s+", " ", data))


def html_to_text(markup: str) -> str:
    """Returns the text of HTML or XHTML as a person reads it: blocks on lines of their own, no scripts."""
    parser = _Text()
    parser.feed(markup)
    parser.close()
    lines = [line.strip() for line in "".join(parser.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
