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
from medpipe.ingest.content import Content, Inputs, Refused
from medpipe.ingest.decoding import decode
from medpipe.ingest.fhir import read_resource
from medpipe.ingest.notes import Reading
from medpipe.ingest.simple_json import read_one, read_simple
from medpipe.ingest.sources import Source
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
HEAD_BYTES = 1 << 16


def read_source(
    source: Source,
    *,
    format: str = "auto",
    max_note_chars: int,
    max_file_bytes: int = 256 << 20,
    inputs: Inputs | None = None,
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
    reading = Reading(source.name, "unknown", max_note_chars, max_file_bytes, inputs=inputs)
    try:
        yield from read_content(inputs.content(source), reading, format)
    except OSError as error:
        raise MedpipeError("INPUT_UNREADABLE", path=source.path, reason=error.strerror) from error


def read_content(content: Content, reading: Reading, format: str = "auto") -> Iterator[Item]:
    """Yields what a file or an archive's member holds; whatever is wrong with it ends as a reject."""
    try:
        opening = Opening.of(content)
        if kind := container_of(opening.raw):
            yield from read_archive(kind, content, reading, lambda member, inner: read_content(member, inner, format))
            return
        name = format if format != "auto" else sniff_opening(opening)
        if name is None:
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

    @classmethod
    def of(cls, content: Content) -> Opening:
        """Reads the first bytes of a file."""
        raw = content.head(HEAD_BYTES)
        return cls(content, raw, text_head(raw))

    @property
    def suffix(self) -> str:
        """The last suffix of the file's name in lower case."""
        return self.content.suffix


def sniff(content: Content) -> str | None:
    """Returns the format of a file, ``None`` where no reader knows it; an archive has none."""
    return sniff_opening(Opening.of(content))


def sniff_opening(opening: Opening) -> str | None:
    """Returns the first format that a file looks like."""
    return next((name for looks_like in FORMATS if (name := looks_like(opening))), None)


# An object or a list of objects, lists or texts: notes may begin with a bracket, too ("[demographics]", "[1]").
JSON = re.compile(rb"\{\s*[\"}]|\[\s*(?:\[\s*)*[{\"\]]")


def sniff_json(opening: Opening) -> str | None:
    """Tells JSON by its first signs; what is named so and is none goes to the reader that says where it breaks."""
    if JSON.match(opening.head):
        with opening.content.open() as file:
            file.seek(len(opening.raw))
            return _sniff_json(file, opening.head, opening.suffix)
    if opening.suffix in (".ndjson", ".jsonl"):
        return "ndjson"
    return "json" if opening.suffix == ".json" and opening.head else None


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
    known = ("RTF", "PDF", "HTML", "base64", "Office document", "PostScript document", "audio", "video")
    return "text" if kind in known or kind.endswith(("image", "archive")) else None


# Suffixes of text files that hold no note.
NO_NOTES = frozenset((
    ".csv", ".tsv", ".psv", ".json", ".ndjson", ".jsonl", ".xml", ".xsl", ".xslt", ".xsd", ".dtd", ".hl7", ".er7",
    ".parquet", ".sql", ".py", ".js", ".css", ".sh", ".bat", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".properties",
    ".log", ".md5", ".sha1", ".sha256",
))  # fmt: skip

# Each format's test, in the order in which they are asked: a function ``(opening) -> name of the reader, or None``.
# What is strict comes before what is not; text is last, because everything that is written is text.
FORMATS: tuple[Callable[[Opening], str | None], ...] = (
    sniff_json,
    # XML by its root element (fhir, ccda), HL7 v2 by its first segment, tables by their first lines (omop, table)
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
    return "fhir" if b'"resourceType"' in start or b'"resourceType"' in line else "json"


# --- readers --------------------------------------------------------------------------------


def parse_json(raw: bytes, place: str, reading: Reading) -> tuple[Any, Reject | None]:
    """Returns the parsed JSON, or a reject that says where it breaks."""
    decoded = decode(raw, "utf-8")
    if decoded.error:
        return None, reading.reject(place, decoded.error, kind=decoded.kind)
    try:
        return json.loads(decoded.text), None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}" if place == "0" else f"{place} column {error.colno}"
        return None, reading.reject(place, "JSON_INVALID", where=where)
    except RecursionError:
        return None, reading.reject(place, "JSON_TOO_DEEP", limit="about 1,000")
    except ValueError:  # an integer of more digits than Python converts
        return None, reading.reject(place, "JSON_INVALID", where=place)


def read_fhir(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads one FHIR resource or Bundle."""
    value, reject = parse_json(content.read(reading.max_file_bytes), "0", reading)
    if reject is not None:
        yield reject
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from read_resource(item, str(index), reading)
    else:
        yield from read_resource(value, "0", reading)


def read_json(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads the project's own simple JSON."""
    value, reject = parse_json(content.read(reading.max_file_bytes), "0", reading)
    if reject is not None:
        yield reject
    else:
        yield from read_simple(value, reading)


def read_ndjson(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads lines of JSON, one at a time: FHIR resources, or objects of the project's own simple JSON."""
    with content.open() as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            place = f"line {number}"
            value, reject = parse_json(line, place, reading)
            if reject is not None:
                yield reject
            elif isinstance(value, dict) and "resourceType" not in value and "text" in value:
                yield read_one(value, place, reading)
            else:
                yield from read_resource(value, place, reading)


# What the name of a file says of its content, where that leaves it open.
MEDIA_TYPES = {".html": "text/html", ".htm": "text/html", ".xhtml": "application/xhtml+xml"}


def read_text(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads a file of plain text, RTF, HTML or PDF as one note."""
    raw = content.read(reading.max_file_bytes)
    yield reading.attachment("0", raw, MEDIA_TYPES.get(content.suffix), None)


READERS: dict[str, Callable[[Content, Reading], Iterator[Item]]] = {
    "fhir": read_fhir,
    "ndjson": read_ndjson,
    "json": read_json,
    "text": read_text,
}
