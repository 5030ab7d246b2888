"""Bytes to text: encodings found and recorded, never a byte dropped.

What the bytes show comes before what is declared: a byte order mark, the zeros of UTF-16 and UTF-32, valid UTF-8. Then
the declared character set, and else the Western code page that the text reads best in. UTF-8 with some bytes that are
none of it is read as ``utf-8+windows-1252``: text of both kinds, put together on its way.
"""

from __future__ import annotations

import binascii
import codecs
import re
from dataclasses import dataclass

from medpipe.ingest.syntax.charsets import ONE_BY_ONE, WIDER, find_codec, standard_name, western_codec

# How files of other kinds begin.
MAGIC = {
    b"%PDF": "PDF", b"{\\rtf": "RTF", b"\x89PNG\r\n": "PNG image", b"\xff\xd8\xff": "JPEG image",
    b"GIF87a": "GIF image", b"GIF89a": "GIF image", b"II*\x00": "TIFF image", b"MM\x00*": "TIFF image",
    b"II+\x00": "TIFF image", b"MM\x00+": "TIFF image", b"\x00\x00\x00\x0cjP  ": "JPEG 2000 image",
    b"PK\x03\x04": "zip archive", b"PK\x05\x06": "zip archive", b"PK\x07\x08": "zip archive",
    b"\x1f\x8b": "gzip archive", b"\xfd7zXZ\x00": "xz archive",
    b"7z\xbc\xaf\x27\x1c": "7z archive", b"Rar!\x1a\x07": "rar archive", b"\x28\xb5\x2f\xfd": "zstd archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "Office document", b"PAR1": "Parquet file", b"SQLite format 3\x00": "database",
    b"\x7fELF": "program", b"OggS": "audio", b"fLaC": "audio", b"%!PS": "PostScript document",
}  # fmt: skip
STARTS = tuple(MAGIC)
# Kinds that are known by what stands further inside: offset, bytes, kind.
INNER_MAGIC = (
    (128, b"DICM", "DICOM image"), (8, b"WEBPVP8", "WebP image"), (8, b"WAVE", "audio"), (8, b"AVI ", "video"),
    (4, b"ftyp", "video"), (257, b"ustar", "tar archive"),
)  # fmt: skip
# Byte order marks; the longer one first, of which a shorter one is the beginning.
BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
# Control characters that text does not hold: all of C0 but tab, line feed, vertical tab, form feed, return and escape.
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
CONTROL_BYTES = bytes((*range(9), *range(14, 27), *range(28, 32)))
# Characters of more than one byte in UTF-8 (Unicode, table 3-7).
MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
ASCII = bytes(range(128))
C1 = re.compile("[\x80-\x84\x86-\x9f]")
HEAD = 4096  # bytes that show whether characters are two or four bytes wide


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and the encoding it was read with (IANA's name); or the code of an error and what it is about."""

    text: str = ""
    encoding: str = ""
    error: str | None = None
    kind: str = ""


def magic(raw: bytes) -> str | None:
    """Returns the kind of file that the bytes begin like, if it is one that holds no plain text."""
    if raw.startswith(STARTS):
        return next(kind for start, kind in MAGIC.items() if raw.startswith(start))
    if raw[:3] == b"BZh" and raw[4:10] == b"1AY&SY":
        return "bzip2 archive"
    if raw[:3] == b"ID3" and raw[3:4] in (b"\x02", b"\x03", b"\x04"):
        return "audio"
    for at, mark, kind in INNER_MAGIC:
        if raw[at : at + len(mark)] == mark:
            return kind
    if raw[:2] == b"BM" and raw[6:10] == b"\0\0\0\0":
        return "BMP image"
    return None


def decode(raw: bytes, charset: str | None = None) -> Decoded:
    """Decodes bytes; ``charset`` is the declared character set. Byte order marks are no part of the text.

    Binary content, wide characters that break off, and text in a language of which no declared character set tells
    how it is written, give an error instead of replaced characters.
    """
    if kind := magic(raw):
        return Decoded(error="TEXT_BINARY", kind=kind)
    for mark, codec in BOMS:
        if raw.startswith(mark):
            return _decode_marked(raw[len(mark) :], codec)
    if wide := _wide(raw):
        return _checked(raw, wide)
    declared = find_codec(charset)
    if declared and _is_seven_bit(declared, raw):
        return _checked(raw, declared)
    try:
        plain = raw.decode()
    except UnicodeDecodeError:
        pass
    else:
        binary = _holds_controls(raw, len(plain))
        return Decoded(error="TEXT_BINARY", kind="unknown") if binary else Decoded(plain, "utf-8")
    if declared not in (None, "utf-8", "ascii") and (text := _decode_declared(raw, declared)) is not None:
        return text
    return _decode_undeclared(raw)


def is_binary(raw: bytes) -> bool:
    """Says whether bytes are no text in any character set that is written in bytes or in wide characters."""
    if any(raw.startswith(mark) for mark, _ in BOMS) or _wide(raw):
        return False
    return _holds_controls(raw, len(raw))


def _decode_marked(raw: bytes, codec: str) -> Decoded:
    if codec == "utf-8":
        try:
            return _text(raw.decode(), "utf-8")
        except UnicodeDecodeError:
            return _decode_undeclared(raw)
    return _checked(raw, codec)


def _decode_declared(raw: bytes, codec: str) -> Decoded | None:
    """Decodes as declared, in the character set or the wider one that its name commonly means."""
    found: Decoded | None = None
    for name in filter(None, (codec, WIDER.get(codec))):
        decoded = _checked(raw, name)
        if decoded.error is None:
            if not C1.search(decoded.text):
                return decoded
            found = found or decoded
        elif decoded.error == "TEXT_BINARY":
            return decoded
    if found is None:
        return None
    # Controls of the second kind stand for characters of Windows-1252 that the declared character set lacks.
    guessed = Decoded(raw.decode("cp1252", ONE_BY_ONE), "windows-1252")
    return (
        guessed
        if codec.startswith("iso8859") and len(C1.findall(guessed.text)) < len(C1.findall(found.text))
        else found
    )


def _decode_undeclared(raw: bytes) -> Decoded:
    multibyte = [len(match[0]) for match in MULTIBYTE.finditer(raw)]
    others = len(raw.translate(None, ASCII)) - sum(multibyte)
    if len(multibyte) > others:
        return _text(raw.decode("utf-8", ONE_BY_ONE), "utf-8+windows-1252")
    codec = western_codec(raw)
    if codec is None:
        binary = _text(raw.decode("latin-1"), "")
        return binary if binary.error else Decoded(error="TEXT_UNDECODABLE")
    return _text(raw.decode(codec, ONE_BY_ONE), standard_name(codec))


def _checked(raw: bytes, codec: str) -> Decoded:
    try:
        return _text(raw.decode(codec), standard_name(codec))
    except (UnicodeError, LookupError):
        return Decoded(error="TEXT_UNDECODABLE")


def _text(text: str, encoding: str) -> Decoded:
    """Returns the text unless so many of its characters are controls that it is none."""
    # Zeros fill fields of fixed width, and Control-Z ends files of DOS.
    if _too_many(len(CONTROL.findall(text.rstrip("\0\x1a"))), len(text)):
        return Decoded(error="TEXT_BINARY", kind="unknown")
    return Decoded(text, encoding)


def _holds_controls(raw: bytes, size: int) -> bool:
    """Says whether so many bytes are controls that they are no text; in UTF-8, too, these bytes are nothing else."""
    raw = raw.rstrip(b"\0\x1a")
    return _too_many(len(raw) - len(raw.translate(None, CONTROL_BYTES)), size)


def _too_many(controls: int, size: int) -> bool:
    return controls * 50 > size + 50


def _wide(raw: bytes) -> str | None:
    """Returns the codec of UTF-16 or UTF-32 without a mark: of ASCII characters all bytes but one are zero."""
    head = raw[: min(HEAD, len(raw)) & ~3] or raw[:2]
    if 0 not in head:
        return None
    zeros = [head[place::4].count(0) for place in range(4)]
    units = max(len(head) // 4, 1)
    # Of the four bytes of a character two are zero (the higher planes aside), and the last one seldom is.
    for codec, high, low in (("utf-32-le", zeros[2:], zeros[0]), ("utf-32-be", zeros[:2], zeros[3])):
        if len(head) >= 4 and min(high) * 20 >= units * 19 and low * 10 <= units:
            return codec
    even, odd = head[0::2].count(0), head[1::2].count(0)
    pairs = max(len(head) // 2, 1)
    if odd * 4 >= pairs and even * 8 <= odd:
        return "utf-16-le"
    if even * 4 >= pairs and odd * 8 <= even:
        return "utf-16-be"
    return None


def _is_seven_bit(codec: str, raw: bytes) -> bool:
    """Says whether declared text is in escape sequences, which would pass for ASCII."""
    return (codec.startswith("iso2022") and b"\x1b" in raw) or (codec == "hz" and b"~{" in raw)


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
