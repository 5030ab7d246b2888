"""The readers, and which of them reads a file: chosen by content, by name only where content leaves it open.

A format is one reader here: a function ``(content, reading) -> documents, rejects, skipped``, which streams, yields
something for every record, and for bad content yields a reject or raises ``Refused``, never anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from medpipe.errors import MedpipeError
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
        name = format if format != "auto" else sniff(content, reading.mapping)
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


def sniff(content: Content, mapping: ColumnMapping | None = None) -> str | None:
    """Returns the format of a file, ``None`` where no reader knows it.

    ``mapping`` is what the user says of tables' columns: what has such columns is a table.
    """
    suffix = content.suffix
    with content.open() as file:
        head = file.read(HEAD_BYTES)
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if b"\0" in head[:64]:  # UTF-16: its ASCII characters are enough to tell
            start = head.replace(b"\0", b"").lstrip(b"\xff\xfe \t\r\n")
        if start[:1] in (b"{", b"[") and magic(head) is None:
            name = _sniff_json(file, start, suffix)
            return (sniff_lines(start, mapping) or name) if name in ("ndjson", "json") else name
    if suffix in (".ndjson", ".jsonl"):
        return "ndjson"
    if suffix == ".json":
        return "json"
    if found := sniff_table(content, head, mapping):  # before those that look for their signs anywhere: cells hold all
        return found
    if FHIR_XML.search(start):
        return "fhir"
    if magic(head) is None and looks_like_hl7(head, suffix):
        return "hl7v2"
    if found := sniff_xml(head, suffix):
        return found
    other = start.startswith(b"<")  # HTML: no reader yet
    if not other and suffix in ("", ".txt", ".text") and magic(head) is None:
        return "text"
    return None


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


def read_text(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads a file of plain text as one note."""
    raw = content.read(reading.max_file_bytes)
    yield reading.attachment("0", raw, "text/plain", None)


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
