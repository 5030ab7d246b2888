"""From what a reader found to a document or a reject: one place for the checks that every format shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

from medpipe.errors import reject_message
from medpipe.ids import hash_text, make_id
from medpipe.ingest.bodies import body as bodies
from medpipe.ingest.cda import text as cda_text
from medpipe.ingest.cda.mime import is_package
from medpipe.ingest.dates import parse_date
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.syntax.charsets import standard_name
from medpipe.ingest.syntax.names import clean, encodable
from medpipe.ingest.tables.mapping import ColumnMapping
from medpipe.records import Document, Reject, Section
from medpipe.text.language import choose_language
from medpipe.text.sections import find_sections

if TYPE_CHECKING:
    from medpipe.ingest.archives.unpacking import Allowance


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader knows of the file it reads."""

    source: str
    format: str
    max_note_chars: int
    max_file_bytes: int = 256 << 20  # of a file that has to be read whole
    member: str = ""  # path inside an archive
    inputs: Inputs = field(default_factory=Inputs)
    mapping: ColumnMapping | None = None  # what the user says of tables' columns
    allowance: Allowance | None = None  # inside an archive: how much may still be unpacked

    def inside(self, member: str) -> Reading:
        """Returns the reading of an archive's member: its records are named ``member!record``."""
        return replace(self, member=f"{self.member}!{member}" if self.member else member)

    def name(self, record: str) -> str:
        """Returns the name of a record in its source."""
        record = clean(record) or "0"
        return f"{clean(self.member)}!{record}" if self.member else record

    def reject(self, record: str, code: str, **fields: object) -> Reject:
        """Makes a reject of stage 1."""
        return Reject(self.source, self.name(record), "ingest", code, reject_message(code, **fields))

    def document(
        self, record: str, text: str, *, sections: Sequence[Section] | None = None, **facts: Any
    ) -> Document | Reject:
        """Makes a document of a text, or a reject where the text is empty, too large or cannot be written as UTF-8.

        Args:
            record: place in the source, unique there.
            text: the note as a person reads it.
            sections: of a format that tells them; else they are found in the text.
            facts: columns of the document that the source tells (``authored_at`` and ``language`` as they are
                written), and the ``zone`` of a time that is written without one.
        """
        if len(text) > self.max_note_chars:
            return self.reject(record, "TEXT_TOO_LARGE", size=len(text), limit=self.max_note_chars)
        if not text.strip("\ufeff\u200b \t\r\n\v\f\x00"):
            return self.reject(record, "TEXT_EMPTY")
        if not encodable(text):
            return self.reject(record, "TEXT_INVALID")
        authored_at, written = parse_date(facts.pop("authored_at", None), facts.pop("zone", None) or UTC)
        facts = {name: clean(value) for name, value in facts.items()}
        facts["encoding"] = standard_name(facts["encoding"]) if facts.get("encoding") else None
        facts["language"] = choose_language(text, facts.get("language"))
        text_hash = hash_text(text)
        record = self.name(record)
        document_id = make_id("document", self.source, record, facts.get("patient_id"), text_hash)
        found = tuple(find_sections(text) if sections is None else sections)
        return Document(
            document_id, self.source, record, self.format, text, text_hash,
            authored_at=authored_at, authored_at_text=clean(written), sections=found, **facts,
        )  # fmt: skip

    def attachment(
        self, record: str, raw: bytes, media: str | None, charset: str | None, **facts: Any
    ) -> Document | Reject:
        """Makes a document of the bytes of an attachment, or a reject where no text can be read from them.

        ``media`` and ``charset`` are what the source says of it; what the bytes are comes first.
        """
        unwrapped = bodies.unwrap(raw)
        if isinstance(unwrapped, bytes) and (
            cda_text.is_cda(unwrapped[: cda_text.HEAD_BYTES]) or is_package(unwrapped)
        ):
            return self.cda(record, unwrapped, **facts)
        body = bodies.render(raw, media, charset, self.max_note_chars)
        if body.error:
            return self.reject(record, body.error, **body.fields)
        return self.document(record, body.text, media_type=body.media_type, encoding=body.encoding, **facts)

    def cda(self, record: str, raw: bytes, **facts: Any) -> Document | Reject:
        """Makes a document of an attachment that is a CDA document; what it says of itself fills gaps in the facts."""
        rendered = cda_text.render(raw)
        facts = {**rendered.facts, **{name: fact for name, fact in facts.items() if fact is not None}}
        if rendered.body is not None and rendered.body.reference is None and not rendered.body.error:
            facts.pop("encoding", None)
            return self.attachment(record, rendered.body.raw, rendered.body.media, rendered.body.charset, **facts)
        if rendered.text:
            facts["media_type"] = "text/xml"
            return self.document(record, rendered.text, sections=rendered.sections or None, **facts)
        unresolved = rendered.body.error or "ATTACHMENT_UNRESOLVED" if rendered.body is not None else None
        return self.reject(record, unresolved or rendered.error or "TEXT_MISSING", **rendered.fields)
