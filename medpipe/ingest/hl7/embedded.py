"""Documents inside HL7 v2 messages: ED (encapsulated data), RP (reference pointer), and files written into text.

ED is ``source ^ type ^ subtype ^ encoding ^ data`` (chapter 2A, ED; tables 0191, 0291, 0299). Systems leave components
out, put them elsewhere, and send base64 as plain text; so type and encoding are looked for in all components but the
data, and where none tells, the data do.
"""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medpipe.ingest.content import Content, Refused, bytes_content
from medpipe.ingest.hl7.syntax import Message
from medpipe.ingest.notes import Reading
from medpipe.ingest.syntax.decoding import decode_base64
from medpipe.records import Document, Reject, Skipped

# Subtypes of table 0291 and those that are met beside them.
MEDIA = {
    "pdf": "application/pdf", "rtf": "text/rtf", "html": "text/html", "htm": "text/html",
    "xhtml": "application/xhtml+xml", "xml": "text/xml", "cda": "text/xml", "ccd": "text/xml", "ccda": "text/xml",
    "plain": "text/plain", "txt": "text/plain", "ascii": "text/plain", "jpeg": "image/jpeg", "jpg": "image/jpeg",
    "png": "image/png", "gif": "image/gif", "tiff": "image/tiff", "tif": "image/tiff", "bmp": "image/bmp",
    "fax": "image/tiff", "dicom": "application/dicom", "dcm": "application/dicom", "mrxs": "image/x-mrxs",
    "postscript": "application/postscript", "msword": "application/msword", "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "zip": "application/zip",
    "basic": "audio/basic", "wav": "audio/wav", "mp3": "audio/mpeg", "x-hl7-cda-level-one": "multipart/related",
}  # fmt: skip
TEXT_TYPES = frozenset(("text", "tx", "ft"))  # of table 0191, where no subtype says more
SHORTEST_DATA = 24  # characters of a component that may be the data though it is not the fifth
# How base64 of a file begins, and its media type.
BASE64_STARTS = {
    "JVBERi0": "application/pdf", "e1xydGY": "text/rtf", "UEsDB": "application/zip", "/9j/": "image/jpeg",
    "iVBORw0KG": "image/png", "SUkq": "image/tiff", "TU0AK": "image/tiff", "PGh0bWw": "text/html",
    "PCFET0NUWVBF": "text/html", "PCFkb2N0eXBl": "text/html", "PD94bWw": "text/xml", "PENsaW5pY2FsRG9j": "text/xml",
}  # fmt: skip
BASE64 = re.compile(r"[A-Za-z0-9+/\s]{80,}+={0,2}\s*+")
FILE_STARTS = (b"%PDF", b"{\\rtf", b"PK\x03\x04", b"\xff\xd8\xff", b"\x89PNG", b"II*\x00", b"MM\x00*", b"GIF8", b"<")
PACKAGE_STARTS = (b"mime-version:", b"content-type: multipart")
HTML = re.compile(r"\s*<(?:!doctype html|html|body|head|p|div|span|table|pre|font|center|h[1-6]|[bu]|[uo]l)\b", re.I)
XML = re.compile(r"\s*<(?:\?xml|(?:\w+:)?ClinicalDocument)\b")
DOCUMENT_START = re.compile(
    rf"\s*(?:\{{\\rtf|{'|'.join(map(re.escape, BASE64_STARTS))})|{XML.pattern}|{HTML.pattern}", re.IGNORECASE
)
XML_ENCODING = re.compile(rb"""(<\?xml[^>]*?)\s+encoding\s*=\s*["'][^"']*["']""")


@dataclass(slots=True)
class Embedded:
    """A document in a message, perhaps in pieces: how it is encoded and the data as text; or what it refers to."""

    media: str | None
    coding: str  # "base64", "hex" or "text"
    pieces: list[str]
    reference: str | None = None

    def goes_on_with(self, other: Embedded) -> bool:
        """Says whether another value is the next piece of this document: of the same kind, and no file's beginning."""
        if self.reference is not None or other.reference is not None or not self.pieces or not other.pieces:
            return False
        if (self.media, self.coding) != (other.media, other.coding):
            return False
        return not (_data(other.coding, [other.pieces[0][:64].strip()[:60]]) or b"").lstrip().startswith(FILE_STARTS)

    def data(self) -> bytes | None:
        """Returns the bytes; ``None`` where they are not in their encoding."""
        return _data(self.coding, self.pieces)


def _data(coding: str, pieces: list[str]) -> bytes | None:
    if coding == "text":
        return "\n".join(pieces).encode("utf-8", "replace")
    if coding == "hex":
        try:
            return bytes.fromhex("".join(pieces))
        except ValueError:
            return None
    whole = decode_base64("".join(pieces))
    if whole is not None or len(pieces) == 1:
        return whole
    decoded = [decode_base64(piece) for piece in pieces]  # each was encoded on its own
    return None if None in decoded else b"".join(part for part in decoded if part is not None)


def embedded_values(value: str, message: Message) -> list[Embedded]:
    """Returns the documents of an ED value: one, unless it is repeated with other documents."""
    documents: list[Embedded] = []
    for part in value.split(message.repetition):
        if documents and part.count(message.component) < 3:  # of the same data, which hold a "~" or were cut there
            if part.strip():
                documents[-1].pieces.append(message.text(part))
            continue
        one = _embedded_part(part, message)
        if documents and documents[-1].goes_on_with(one):
            documents[-1].pieces += one.pieces
        else:
            documents.append(one)
    return documents


def _embedded_part(part: str, message: Message) -> Embedded:
    components = part.split(message.component)
    if len(components) > 4 and any(components[4:]):
        data, others = message.component.join(components[4:]).rstrip(message.component), components[:4]
    else:
        place = max(range(len(components)), key=lambda number: len(components[number]))
        data, others = components.pop(place), components
        if len(data) < SHORTEST_DATA and others:
            data, others = "", [*others, data]
    text = message.text(data)
    words = [word.strip().lower() for word in others if word.strip()]
    media = media_type(words)
    start = next((kind for start, kind in BASE64_STARTS.items() if text.startswith(start)), None)
    if any(word in ("base64", "b64") for word in words) or start:
        coding, media = "base64", media or start
    else:
        coding = "hex" if "hex" in words else "text"
    return Embedded(media, coding, [text] if text.strip() else [])


def media_type(words: list[str]) -> str | None:
    """Returns the media type that the components of an ED or RP tell, the later ones (subtype) before the earlier."""
    for word in reversed(words):
        if re.fullmatch(r"(?:text|application|image|audio|video|multipart)/[\w.+-]+", word):
            return word
        if word in MEDIA:
            return MEDIA[word]
    if "multipart" in words:
        return "multipart/related"
    return "text/plain" if any(word in TEXT_TYPES for word in words) else None


def embedded_reference(value: str, message: Message) -> Embedded:
    """Returns the document of an RP value: ``pointer ^ application ^ type ^ subtype``."""
    pointer, *others = value.split(message.repetition, 1)[0].split(message.component)
    words = [word.strip().lower() for word in others[1:] if word.strip()]
    return Embedded(media_type(words), "text", [], reference=message.text(pointer))


def embedded_in_text(text: str) -> Embedded | None:
    """Returns the document that a text is: RTF, HTML, XML, or base64 of a file; ``None`` where it is just text."""
    start = text.lstrip()[:20]
    if start.startswith("{\\rtf"):
        return Embedded("text/rtf", "text", [text])
    if start.startswith("<"):
        if XML.match(text):
            return Embedded("text/xml", "text", [text])
        if HTML.match(text) and "</" in text:
            return Embedded("text/html", "text", [text])
    media = next((kind for begins, kind in BASE64_STARTS.items() if start.startswith(begins)), None)
    if media and BASE64.fullmatch(text):
        return Embedded(media, "base64", [text])
    return None


def read_embedded(
    document: Embedded, record: str, content: Content, reading: Reading, facts: dict[str, Any]
) -> Iterator[Document | Reject | Skipped]:
    """Yields the note of an embedded document; those of a package or of a CDA document."""
    media = document.media
    if document.reference is not None:
        raw = resolve(document.reference, content, reading)
        if raw is None:
            yield reading.reject(record, "ATTACHMENT_UNRESOLVED")
            return
    elif not document.pieces:
        yield reading.reject(record, "TEXT_MISSING")
        return
    else:
        found = document.data()
        if found is None:
            code, where = (
                ("BASE64_INVALID", {}) if document.coding == "base64" else ("RECORD_INVALID", {"where": "OBX-5"})
            )
            yield reading.reject(record, code, **where)
            return
        raw = found
    charset = "utf-8" if document.coding == "text" and document.reference is None else None
    if media == "multipart/related" or raw[:200].lstrip().lower().startswith(
        (b"mime-version:", b"content-type: multip")
    ):
        yield from read_package(raw, record, reading, facts)
    elif b"ClinicalDocument" in raw[:8192]:
        if charset:  # it is UTF-8 now, whatever it says
            raw = XML_ENCODING.sub(rb"\1", raw[:500], count=1) + raw[500:]
        yield from read_other(raw, f"{record}.xml", reading)
    else:
        yield reading.attachment(record, raw, media, charset, **facts)


def resolve(reference: str, content: Content, reading: Reading) -> bytes | None:
    """Returns the bytes of what a pointer names in the same input, by its path or else by its file name."""
    name = reference.replace("\\", "/").rstrip("/")
    if not name or "://" in name or "\x00" in name:
        return None
    other = content.beside(name) or content.beside(name.rsplit("/", 1)[-1])
    return other.read(reading.max_file_bytes) if other is not None else None


def read_package(
    raw: bytes, record: str, reading: Reading, facts: dict[str, Any]
) -> Iterator[Document | Reject | Skipped]:
    """Yields the notes of the parts of a MIME package, as which HL7 sends CDA documents (CDA R2, 3.1)."""
    try:
        parts = [part for part in email.message_from_bytes(raw).walk() if not part.is_multipart()]
        bodies = [
            (part.get_content_type(), part.get_content_charset(), part.get_payload(decode=True)) for part in parts
        ]
    except (ValueError, LookupError, RecursionError, AssertionError) as error:
        raise Refused("RECORD_INVALID", record=record, where="OBX-5 (MIME package)") from error
    for number, (media, charset, body) in enumerate(bodies, 1):
        place = f"{record}/part.{number}"
        if not isinstance(body, bytes) or not body.strip():
            yield reading.reject(place, "TEXT_MISSING")
        elif b"ClinicalDocument" in body[:8192]:
            yield from read_other(body, f"{place}.xml", reading)
        else:
            yield reading.attachment(place, body, media, charset, **facts)


def read_other(raw: bytes, name: str, reading: Reading) -> Iterator[Document | Reject | Skipped]:
    """Yields what the reader of its own format finds in an embedded file."""
    from medpipe.ingest.read import read_content  # it imports the readers

    yield from read_content(bytes_content(name, raw), reading.inside(name))
