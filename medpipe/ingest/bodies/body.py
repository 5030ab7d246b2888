"""The body of a note, whatever it is written in, to text.

What the bytes are decides: a ``text/plain`` that is RTF, an ``application/pdf`` that is plain text and an
``application/octet-stream`` are read as what they are. What is declared decides where the bytes leave it open: HTML
without a page around it, JSON, a recording.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medpipe.ingest.bodies.html import html_to_text
from medpipe.ingest.bodies.pdf import read_pdf
from medpipe.ingest.bodies.rtf import NotRtfError, read_rtf
from medpipe.ingest.syntax.decoding import BOMS, decode, is_binary, magic

HEAD_BYTES = 1 << 16  # of a body, to see what it is
MAX_UNPACKED = 64 << 20  # bytes of a body that is packed with gzip

HTML_TYPES = frozenset(("text/html", "application/xhtml+xml"))
RTF_TYPES = frozenset(("text/rtf", "text/richtext", "application/rtf", "application/x-rtf"))
# Media types of text that is no note: what a program reads.
DATA_TYPES = re.compile(r".*[/+](?:json|xml|javascript|ecmascript|css|cql|elm)$")
MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,60}/[a-z0-9][a-z0-9.+_-]{0,100}")

# What may stand before the first element of markup.
PROLOG = re.compile(rb"(?:\s+|<\?[^>]*>|<!--.*?-->)*", re.DOTALL)
PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|style)\b", re.IGNORECASE)
FRAGMENT = re.compile(rb"<(?:p|div|span|table|ul|ol|h[1-6]|font|center|pre|section|article|b|br)(?:\s[^<>]*)?/?>", re.I)
TAG = re.compile(rb"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:[a-z]{2,8}|#\d{2,5});", re.IGNORECASE)
END_TAG = re.compile(rb"</[a-z][a-z0-9]*\s*>|<br\s*/?>", re.IGNORECASE)
XML = re.compile(rb"<[A-Za-z_][\w.:-]*(?:\s+[\w.:-]+\s*=\s*[\"'][^<]*)?/?>")
META_CHARSET = re.compile(rb"<meta\b[^<>]{0,300}?\bcharset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
XML_ENCODING = re.compile(rb"<\?xml\b[^<>]{0,300}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})")
# Base64 of a PDF or RTF file: what was encoded twice on its way.
TWICE_ENCODED = re.compile(rb"\s*(?:JVBERi0|e1xydG)[A-Za-z0-9+/\s]*={0,2}\s*")

# Documents that hold text, which no reader here takes.
OFFICE_PARTS = (
    ("word/", "Word document (docx)"), ("xl/", "Excel workbook (xlsx)"), ("ppt/", "PowerPoint presentation (pptx)"),
)  # fmt: skip
UNSUPPORTED = frozenset((
    *(kind for _, kind in OFFICE_PARTS), "Open XML document", "OpenDocument", "Office document", "PostScript document",
    "XML", "JSON", "HL7 v2 message", "audio", "video",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Body:
    """A body's text, with the encoding it was read with and the media type that it has; or the code of an error."""

    text: str = ""
    encoding: str | None = None
    media_type: str | None = None
    error: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)  # of the error's sentence


def render(raw: bytes, media: str | None, charset: str | None, limit: int = 5_000_000) -> Body:
    """Returns the text of a body.

    Args:
        raw: its bytes.
        media: the media type that it is said to have, without parameters.
        charset: the character set that it is said to be in.
        limit: characters that are wanted at most: what must be longer is not decoded.
    """
    media = (media or "").strip().lower()
    unwrapped = unwrap(raw)
    if isinstance(unwrapped, Body):
        return unwrapped
    raw, kind = unwrapped, kind_of(unwrapped, media)
    if kind == "PDF":
        text, error, about = read_pdf(raw, limit)
        return _failed(error, about) if error else Body(text, None, "application/pdf")
    if kind == "RTF":
        return _rtf(raw, media)
    if kind == "HTML":
        return _html(raw, media, charset)
    if kind == "text":
        return _plain(raw, media, charset, limit)
    if kind.endswith("image") or kind.startswith("image/"):
        return _failed("OCR_NEEDED", kind)
    if kind == "application/pdf":
        return _failed("PDF_INVALID", "it does not begin like one")
    known = kind in UNSUPPORTED or kind.endswith("archive") or MEDIA_TYPE.fullmatch(kind)
    return _failed("MEDIA_UNSUPPORTED" if known else "TEXT_BINARY", kind)


def unwrap(raw: bytes) -> bytes | Body:
    """Returns what a body packs with gzip, or in base64 once too often; others as they are; or the error."""
    if raw.startswith(b"\x1f\x8b"):
        unpacked = _unpack(raw)
        if isinstance(unpacked, Body):
            return unpacked
        raw = unpacked
    return base64.b64decode(raw) if _is_base64(raw) else raw


def kind_of(raw: bytes, media: str = "") -> str:
    """Returns what the bytes are: ``text``, ``HTML``, ``RTF``, ``PDF``, or what they are instead.

    ``media`` is what they are said to be; for bytes that are no text it is what they are called, if they show nothing.
    """
    head = text_head(raw[:HEAD_BYTES])
    if head.startswith(b"{\\rtf"):
        return "RTF"
    if head.startswith(b"%PDF-") or (b"%PDF-1." in head[:1024] and b"endobj" in raw):
        return "PDF"
    if kind := magic(raw):
        return zip_kind(io.BytesIO(raw)) if kind == "zip archive" else kind
    if is_binary(raw[:HEAD_BYTES]):
        named = MEDIA_TYPE.fullmatch(media) and not media.startswith("text/") and not media.endswith("octet-stream")
        return media if named else "unknown"
    return _text_kind(head, raw, media)


def _text_kind(head: bytes, raw: bytes, media: str) -> str:
    match = PROLOG.match(head)
    root = head[match.end() :] if match else head
    if PAGE.match(root) or (FRAGMENT.match(root) and (media in HTML_TYPES or END_TAG.search(root))):
        return "HTML"
    if media in HTML_TYPES and TAG.search(head):
        return "HTML"
    declared = head.startswith(b"<?xml") or root.startswith(b"<!DOCTYPE")
    if declared or (XML.match(root) and (b"</" in root or root.rstrip(b"\0 \t\r\n").endswith(b"/>"))):
        return "XML"
    if head.startswith((b"MSH|", b"FHS|", b"BHS|")):
        return "HL7 v2 message"
    if DATA_TYPES.fullmatch(media) and (not media.endswith("json") or head[:1] in (b"{", b"[")):
        return "JSON" if media.endswith("json") else media
    return "text"


def text_head(head: bytes) -> bytes:
    """Returns the first bytes of a text as UTF-8, or as near to it as that takes no guess; no mark, no white space."""
    for mark, codec in BOMS:
        if head.startswith(mark):
            head = head[len(mark) :]
            if codec != "utf-8":
                head = head[: len(head) & ~3].decode(codec, "ignore").encode("utf-8", "ignore")
            break
    else:
        if b"\0" in head[:64]:
            wide = decode(head[: len(head) & ~3])
            if wide.encoding.startswith(("utf-16", "utf-32")):
                head = wide.text.encode("utf-8", "ignore")
    return head.lstrip(b" \t\r\n\x0b\x0c")


def zip_kind(stream: io.BufferedIOBase) -> str:
    """Returns what a zip archive is: an office document, or just an archive."""
    try:
        with zipfile.ZipFile(stream) as archive:  # type: ignore[arg-type]
            names = [info.filename for info in archive.infolist()[:1000] if not info.is_dir()]
    except Exception:  # a damaged archive: the module raises many kinds of errors
        return "zip archive"
    return office_kind(names) or "zip archive"


def office_kind(names: Sequence[str]) -> str | None:
    """Returns what document a zip archive is, by its members' names; their XML is not what a person reads."""
    if "[Content_Types].xml" in names:
        parts = (kind for part, kind in OFFICE_PARTS if any(name.startswith(part) for name in names))
        return next(parts, "Open XML document")
    return "OpenDocument" if names[:1] == ["mimetype"] else None


def _failed(code: str, kind: str) -> Body:
    return Body(error=code, fields={"kind": kind})


def _plain(raw: bytes, media: str, charset: str | None, limit: int) -> Body:
    if len(raw) > 4 * limit:  # no encoding takes more than four bytes a character
        return Body(error="TEXT_TOO_LARGE", fields={"size": f"about {len(raw)}", "limit": limit})
    decoded = decode(raw, charset)
    if decoded.error:
        return _failed(decoded.error, decoded.kind)
    declared = media.startswith("text/") and media not in HTML_TYPES | RTF_TYPES and MEDIA_TYPE.fullmatch(media)
    return Body(decoded.text, decoded.encoding, media if declared else "text/plain")


def _html(raw: bytes, media: str, charset: str | None) -> Body:
    head = raw[:HEAD_BYTES]
    declared = META_CHARSET.search(head) or XML_ENCODING.search(head)
    decoded = decode(raw, charset or (declared[1].decode("ascii") if declared else None))
    if decoded.error:
        return _failed(decoded.error, decoded.kind)
    return Body(html_to_text(decoded.text), decoded.encoding, media if media in HTML_TYPES else "text/html")


def _rtf(raw: bytes, media: str) -> Body:
    if not raw.lstrip(b"\xef\xbb\xbf \t\r\n\x0b\x0c").startswith(b"{"):  # RTF is ASCII; what is wide was made so later
        raw = decode(raw).text.encode()
    try:
        text, encoding = read_rtf(raw)
    except NotRtfError:
        return _failed("RTF_INVALID", "it breaks off before its text")
    return Body(text, encoding, media if media in RTF_TYPES else "text/rtf")


def _unpack(raw: bytes) -> bytes | Body:
    """Returns what gzip packed, or the error."""
    parts: list[bytes] = []
    left = MAX_UNPACKED
    try:
        while raw.startswith(b"\x1f\x8b"):
            unpacker = zlib.decompressobj(31)
            parts.append(unpacker.decompress(raw, left + 1))
            left -= len(parts[-1])
            if left < 0:
                return Body(error="ARCHIVE_TOO_LARGE", fields={"limit": f"{MAX_UNPACKED >> 20} MiB"})
            if not unpacker.eof:
                return _failed("ARCHIVE_INVALID", "gzip archive")
            raw = unpacker.unused_data
    except zlib.error:
        return _failed("ARCHIVE_INVALID", "gzip archive")
    return b"".join(parts)


def _is_base64(raw: bytes) -> bool:
    if not (raw.lstrip()[:7].startswith((b"JVBERi0", b"e1xydG")) and TWICE_ENCODED.fullmatch(raw)):
        return False
    try:
        return bool(base64.b64decode(raw))
    except binascii.Error:
        return False
