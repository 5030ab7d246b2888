"""The readers, and which of them reads a file: chosen by content, by name only where content leaves it open.

A format is one reader here: a function ``(content, reading) -> documents, rejects, skipped``, which streams, yields
something for every record, and for bad content yields a reject or raises ``Refused``, never anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from medpipe.errors import MedpipeError
from medpipe.ingest.archives.reader import container_of, read_archive
from medpipe.ingest.cda.reader import read_ccda
from medpipe.ingest.content import Content, Refused
from medpipe.ingest.fhir.ndjson import read_ndjson
from medpipe.ingest.fhir.reader import read_fhir
from medpipe.ingest.hl7.reader import read_hl7v2
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.notes import Reading
from medpipe.ingest.simple_json import read_simple
from medpipe.ingest.sniff import Opening, sniff_opening
from medpipe.ingest.sources import Source
from medpipe.ingest.syntax.json_text import parse_values
from medpipe.ingest.tables.mapping import ColumnMapping
from medpipe.ingest.tables.omop import read_omop
from medpipe.ingest.tables.reader import read_table
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
# Formats of files that are never an attachment of a FHIR resource, but may hold such resources.
HOLDERS = ("fhir", "ndjson", "json", "omop", "table")


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
