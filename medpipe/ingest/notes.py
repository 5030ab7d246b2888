"""From what a reader found to a document or a reject: one place for the checks that every format shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medpipe.errors import reject_message
from medpipe.ids import hash_text, make_id
from medpipe.ingest.dates import parse_date
from medpipe.ingest.decoding import Decoded, decode, html_to_text
from medpipe.records import Document, Reject
from medpipe.text.sections import find_sections

LONGEST_NAME = 500  # characters of an id or title; what is longer is cut


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader knows of the file it reads."""

    source: str
    format: str
    max_note_chars: int

    def reject(self, record: str, code: str, **fields: object) -> Reject:
        """Makes a reject of stage 1."""
        return Reject(self.source, clean(record) or "0", "ingest", code, reject_message(code, **fields))

    def document(self, record: str, text: str, **facts: Any) -> Document | Reject:
        """Makes a document of a text, or a reject where the text is empty, too large or cannot be written as UTF-8."""
        if len(text) > self.max_note_chars:
            return self.reject(record, "TEXT_TOO_LARGE", size=len(text), limit=self.max_note_chars)
        if not text.strip("\ufeff\u200b \t\r\n\v\f\x00"):
            return self.reject(record, "TEXT_EMPTY")
        if not encodable(text):
            return self.reject(record, "TEXT_INVALID")
        authored_at, written = parse_date(facts.pop("authored_at", None))
        facts = {name: clean(value) for name, value in facts.items()}
        text_hash = hash_text(text)
        record = clean(record) or "0"
        document_id = make_id("document", self.source, record, facts.get("patient_id"), text_hash)
        sections = tuple(find_sections(text))
        return Document(
            document_id, self.source, record, self.format, text, text_hash,
            authored_at=authored_at, authored_at_text=clean(written), sections=sections, **facts,
        )  # fmt: skip

    def attachment(
        self, record: str, raw: bytes, media: str | None, charset: str | None, **facts: Any
    ) -> Document | Reject:
        """Makes a document of the bytes of an attachment of a media type, or a reject where it is no text."""
        kind = (media or "").lower()
        markup = kind in ("text/html", "application/xhtml+xml")
        if kind and not markup and not (kind.startswith("text/") and kind != "text/rtf"):
            return self.reject(record, "MEDIA_UNSUPPORTED", kind=clean(kind))
        if len(raw) > 4 * self.max_note_chars:  # no encoding takes more than four bytes a character
            return self.reject(record, "TEXT_TOO_LARGE", size=f"about {len(raw)}", limit=self.max_note_chars)
        decoded: Decoded = decode(raw, charset)
        if decoded.error:
            return self.reject(record, decoded.error, kind=decoded.kind)
        text = html_to_text(decoded.text) if markup else decoded.text
        return self.document(record, text, media_type=kind or None, encoding=decoded.encoding, **facts)


def clean(value: Any) -> str | None:
    """Returns an id or a title as text that Arrow can hold; ``None`` for what is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)[:LONGEST_NAME]
    return text if encodable(text) else text.encode("utf-8", "replace").decode("utf-8")


def encodable(text: str) -> bool:
    """Says whether a text can be written as UTF-8: JSON may hold lone surrogates, which no encoding can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
