"""The readers, and which of them reads a file: chosen by content, by name only where content leaves it open.

A format is one reader here: a function ``(content, reading) -> documents, rejects, skipped``, which streams, yields
something for every record, and for bad content yields a reject or raises ``Refused``, never anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.ingest.archives import container_of, read_archive
from medpipe.ingest.bodies import kind_of, text_head
from medpipe.ingest.ccda import read_ccda, sniff_xml
from medpipe.ingest.content import Content, Inputs, Refused
from medpipe.ingest.decoding import magic
from medpipe.ingest.fhir import read_fhir
from medpipe.ingest.hl7_syntax import looks_like_hl7
from medpipe.ingest.hl7v2 import read_hl7v2
from medpipe.ingest.json_text import parse_values
from medpipe.ingest.mapping import ColumnMapping
from medpipe.ingest.ndjson import read_ndjson
from medpipe.ingest.notes import Reading
from medpipe.ingest.omop import read_omop
from medpipe.ingest.simple_json import read_simple
from medpipe.ingest.sources import Source
from medpipe.ingest.tables import read_table, sniff_lines, sniff_table
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
HEAD_BYTES = 1 << 16
# Formats of files that are never an attachment of a FHIR resource, but may hold such resources.
HOLDERS = ("fhir", "ndjson", "json", "omop", "table")
# The namespace of FHIR, on the root or behind a prefix.
FHIR_XML = re.compile(rb"^\s*<.*?xmlns(?::\w+)?\s*=\s*[\"']http://hl7\.org/fhir[\"']", re.DOTALL)


def read_source(
    source: Source,
    *,
    format: str = "auto",
    max_note_chars: int,
    max_file_bytes: int = 256 << 20,
    inputs: Inputs | None = None,
    mapping: ColumnMapping | None = None,
) -> Iterator[Item]:
    """Yields what a file holds: documents, rejects, and records that are not notes.

    Raises:
        MedpipeError: SETTING_INVALID where there is no such format; INPUT_UNREADABLE where the file cannot be opened.
            Bad content raises nothing.
    """
    if format != "auto" and format not in READERS:
        known = ", ".join(["auto", *READERS])
        raise MedpipeError("SETTING_INVALID", name="format", reason=f"{format!r} is none of {known}")
    inputs = inputs or Inputs([source])
    reading = Reading(source.name, "unknown", max_note_chars, max_file_bytes, inputs=inputs, mapping=mapping)
    try:
        yield from read_content(inputs.content(source), reading, format)
    except OSError as error:
        raise MedpipeError("INPUT_UNREADABLE", path=source.path, reason=error.strerror) from error


def read_content(content: Content, reading: Reading, format: str = "auto") -> Iterator[Item]:
    """Yields what a file or an archive's member holds; whatever is wrong with it ends as a reject."""
    try:
        opening = Opening.of(content, reading.mapping)
        if kind := container_of(opening.raw):
            yield from read_archive(kind, content, reading, lambda member, inner: read_content(member, inner, format))
            return
        name = format if format != "auto" else sniff_opening(opening)
        if (
            format == "auto"
            and name not in HOLDERS
            and not reading.member
            and reading.source in reading.inputs.attached
        ):
            yield Skipped("attached file")  # it is read where the resource that it belongs to stands
        elif name is None:
            yield reading.reject("0", "FORMAT_UNKNOWN")
        else:
            yield from READERS[name](content, replace(reading, format=name))
    except Refused as refused:
        yield reading.reject(refused.record, refused.code, **refused.fields)
    except (OSError, MedpipeError):
        raise
    except Exception as error:  # a bug of a reader costs one row, not the night; its message may quote the note
        yield reading.reject("0", "STAGE_FAILED", stage="ingest", kind=type(error).__name__)


# --- which reader -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opening:
    """The beginning of a file, by which its format is told."""

    content: Content
    raw: bytes  # as it is
    head: bytes  # of text: as UTF-8, without byte order mark and white space before it
    mapping: ColumnMapping | None = None  # what the user says of tables' columns: what has such columns is a table

    @classmethod
    def of(cls, content: Content, mapping: ColumnMapping | None = None) -> Opening:
        """Reads the first bytes of a file."""
        raw = content.head(HEAD_BYTES)
        return cls(content, raw, text_head(raw), mapping)

    @property
    def suffix(self) -> str:
        """The last suffix of the file's name in lower case."""
        return self.content.suffix


def sniff(content: Content, mapping: ColumnMapping | None = None) -> str | None:
    """Returns the format of a file, ``None`` where no reader knows it; an archive has none."""
    return sniff_opening(Opening.of(content, mapping))


def sniff_opening(opening: Opening) -> str | None:
    """Returns the first format that a file looks like."""
    return next((name for looks_like in FORMATS if (name := looks_like(opening))), None)


# An object or a list of objects, lists or texts: notes may begin with a bracket, too ("[demographics]", "[1]").
JSON = re.compile(rb"\{\s*[\"}]|\[\s*(?:\[\s*)*[{\"\]]")


def sniff_json(opening: Opening) -> str | None:
    """Tells JSON by its first signs; what is named so and is none goes to the reader that says where it breaks."""
    named = opening.suffix in (".json", ".ndjson", ".jsonl") or b'"resourceType"' in opening.head
    if JSON.match(opening.head) or (named and opening.head[:1] in (b"{", b"[")):
        with opening.content.open() as file:
            file.seek(len(opening.raw))
            name = _sniff_json(file, opening.head, opening.suffix)
        return (sniff_lines(opening.head, opening.mapping) or name) if name in ("ndjson", "json") else name
    if opening.suffix in (".ndjson", ".jsonl"):
        return "ndjson"
    return "json" if opening.suffix == ".json" and opening.head else None


def sniff_rows(opening: Opening) -> str | None:
    """Tells tables by their first lines."""
    return sniff_table(opening.content, opening.raw, opening.mapping)


def sniff_fhir_xml(opening: Opening) -> str | None:
    """Tells FHIR in XML by its namespace."""
    return "fhir" if FHIR_XML.search(opening.head) else None


def sniff_messages(opening: Opening) -> str | None:
    """Tells HL7 v2 by its segments."""
    return "hl7v2" if magic(opening.raw) is None and looks_like_hl7(opening.raw, opening.suffix) else None


def sniff_html(opening: Opening) -> str | None:
    """Tells HTML, also pieces of it, from other XML."""
    return "text" if opening.suffix not in XML_SUFFIXES and kind_of(opening.raw) == "HTML" else None


def sniff_markup(opening: Opening) -> str | None:
    """Tells CDA; other XML goes to its reader, too, which counts or refuses it."""
    return sniff_xml(opening.raw, opening.suffix) if magic(opening.raw) is None else None


def sniff_text(opening: Opening) -> str | None:
    """Tells notes, whatever their file's name is, and documents for which the reader of notes has a code.

    What programs read (settings, source code, and tables, XML and messages that their own readers did not know) is
    text too; it is known by its name.
    """
    if not opening.head.strip(b"\0"):
        return "text"  # empty
    kind = kind_of(opening.raw)
    if kind == "text":
        return None if opening.suffix in NO_NOTES else "text"
    if kind == "unknown":
        return "text" if opening.suffix in (".txt", ".text") else None
    known = ("RTF", "PDF", "HTML", "Office document", "PostScript document", "audio", "video")
    return "text" if kind in known or kind.endswith(("image", "archive")) else None


XML_SUFFIXES = (".xml", ".ccda", ".cda")
# Suffixes of text files that hold no note.
NO_NOTES = frozenset((
    ".csv", ".tsv", ".psv", ".json", ".ndjson", ".jsonl", ".xml", ".xsl", ".xslt", ".xsd", ".dtd", ".hl7", ".er7",
    ".parquet", ".sql", ".py", ".js", ".css", ".sh", ".bat", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".properties",
    ".log", ".md5", ".sha1", ".sha256",
))  # fmt: skip

# Each format's test, in the order in which they are asked: a function ``(opening) -> name of the reader, or None``.
# What is strict comes before what is not. Tables come before those that look for their signs anywhere, for cells may
# hold all of them; text comes last, because everything that is written is text.
FORMATS: tuple[Callable[[Opening], str | None], ...] = (
    sniff_json,
    sniff_rows,
    sniff_fhir_xml,
    sniff_messages,
    sniff_html,
    sniff_markup,
    sniff_text,
)


def _sniff_json(file: Any, start: bytes, suffix: str) -> str:
    """Tells one JSON document from lines of JSON: in the latter the first line is an object and more follows."""
    line, found, rest = start.partition(b"\n")
    if not found and len(start) >= HEAD_BYTES - 64:  # a long first line: read to its end
        line += file.readline()
        rest = file.read(64)
    if rest.strip() and line.lstrip()[:1] == b"{":
        try:
            if isinstance(json.loads(line), dict):
                return "ndjson"
        except (ValueError, RecursionError):
            pass
    if suffix in (".ndjson", ".jsonl") and rest.strip():
        return "ndjson"
    return (
        "fhir" if b'"resourceType"' in start or b'"resourceType"' in line or _holds(file, b'"resourceType"') else "json"
    )


def _holds(file: Any, word: bytes) -> bool:
    """Says whether a file holds a word: the type of a resource may stand behind its data."""
    file.seek(0)
    last = b""
    while piece := file.read(1 << 20):
        if word in last + piece:
            return True
        last = piece[-len(word) :]
    return False


# --- readers --------------------------------------------------------------------------------


def read_json(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads the project's own simple JSON."""
    found = list(parse_values(content.read(reading.max_file_bytes), "0", reading))
    yield from (item for item in found if isinstance(item, Reject))
    if found in ([], [("0", [])]):
        yield Skipped("empty file")
    values = [item[1] for item in found if not isinstance(item, Reject)]
    yield from read_simple(values[0] if len(values) == 1 else values, reading)


# What the name of a file says of its content, where that leaves it open.
MEDIA_TYPES = {".html": "text/html", ".htm": "text/html", ".xhtml": "application/xhtml+xml"}


def read_text(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads a file of plain text, RTF, HTML or PDF as one note."""
    raw = content.read(reading.max_file_bytes)
    yield reading.attachment("0", raw, MEDIA_TYPES.get(content.suffix), None)


READERS: dict[str, Callable[[Content, Reading], Iterator[Item]]] = {
    "fhir": read_fhir,
    "ndjson": read_ndjson,
    "ccda": read_ccda,
    "hl7v2": read_hl7v2,
    "json": read_json,
    "omop": read_omop,
    "table": read_table,
    "text": read_text,
}
