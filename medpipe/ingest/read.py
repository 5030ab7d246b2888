"""The readers, and which of them reads a file: chosen by content, by name only where content leaves it open.

A format is one reader here: a function ``(content, reading) -> documents, rejects, skipped``, which streams, yields
something for every record, and for bad content yields a reject or raises ``Refused``, never anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.ingest.ccda import read_ccda, sniff_xml
from medpipe.ingest.content import Content, Inputs, Refused
from medpipe.ingest.decoding import decode, magic
from medpipe.ingest.fhir import read_resource
from medpipe.ingest.hl7_syntax import looks_like_hl7
from medpipe.ingest.hl7v2 import read_hl7v2
from medpipe.ingest.mapping import ColumnMapping
from medpipe.ingest.notes import Reading
from medpipe.ingest.omop import read_omop
from medpipe.ingest.simple_json import read_one, read_simple
from medpipe.ingest.sources import Source
from medpipe.ingest.tables import read_table, sniff_lines, sniff_table
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


def sniff(content: Content, mapping: ColumnMapping | None = None) -> str | None:
    """Returns the format of a file, ``None`` where no reader knows it.

    ``mapping`` is what the user says of tables' columns: what has such columns is a table.
    """
    suffix = content.suffix
    with content.open() as file:
        head = file.read(HEAD_BYTES)
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] in (b"{", b"[") and magic(head) is None:
            name = _sniff_json(file, start, suffix)
            return (sniff_lines(start, mapping) or name) if name in ("ndjson", "json") else name
    if suffix in (".ndjson", ".jsonl"):
        return "ndjson"
    if suffix == ".json":
        return "json"
    if found := sniff_table(content, head, mapping):  # before those that look for their signs anywhere: cells hold all
        return found
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
