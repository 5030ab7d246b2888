"""Lines of JSON: FHIR resources of a bulk export, or objects of the project's own simple JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from medpipe.ingest.content import Content
from medpipe.ingest.fhir.links import FileScope, Scope
from medpipe.ingest.fhir.notes import Item
from medpipe.ingest.fhir.reader import read_values, scope_of
from medpipe.ingest.notes import Reading
from medpipe.ingest.simple_json import read_one
from medpipe.ingest.syntax.json_text import parse_values
from medpipe.ingest.syntax.lines import bounded_lines
from medpipe.records import Reject, Skipped

BLANK = b"\xef\xbb\xbf \t\r\n\x1e"
SHORT = 8  # bytes of a line that is likely to be blank
HEAD = 1 << 20  # bytes in which the first two lines are looked for


def read_ndjson(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads lines of JSON, one at a time.

    A line may hold an array or several values. A file in which the first value runs over several lines is no NDJSON
    whatever its name: it is read whole, value by value. A line longer than ``max_file_bytes`` is a reject, and its
    bytes are passed over in pieces.
    """
    scope: Scope = FileScope(reading, content)
    values = _lines(content, reading)
    if _runs_over_lines(content, reading.max_file_bytes):
        whole = list(parse_values(content.read(reading.max_file_bytes), "0", reading))
        scope = scope_of([found for found in whole if not isinstance(found, Reject)], reading, content)
        values = iter(whole)
    empty = True
    for found in values:
        empty = False
        if isinstance(found, Reject):
            yield found
            continue
        place, value = found
        if isinstance(value, dict) and "resourceType" not in value and "text" in value:
            yield read_one(value, place, reading)
        else:
            yield from read_values([found], scope)
    if empty:
        yield Skipped("empty file")


def _lines(content: Content, reading: Reading) -> Iterator[tuple[str, Any] | Reject]:
    """Yields the values of the lines with their places, and rejects for what does not parse."""
    with content.open() as stream:
        for number, line in enumerate(bounded_lines(stream, reading.max_file_bytes), 1):
            if line is None:
                yield reading.reject(f"line {number}", "SOURCE_TOO_LARGE", limit=reading.max_file_bytes >> 20)
                continue
            if len(line) < SHORT and not line.strip(BLANK):
                continue
            try:
                yield f"line {number}", orjson.loads(line)
            except orjson.JSONDecodeError:
                if line.strip(BLANK):
                    yield from parse_values(line, f"line {number}", reading)


def _runs_over_lines(content: Content, limit: int) -> bool:
    """Says whether lines cannot be read one by one: the first value goes on in the second line, or it is UTF-16."""
    if b"\0" in content.head(256):
        return True
    with content.open() as stream:
        lines = [line.strip(BLANK) for line in _first_lines(stream, min(limit, HEAD))]
    if len(lines) < 2 or lines[0][:1] not in (b"{", b"[") or _is_object(lines[0]) or _is_object(lines[1]):
        return False
    return lines[0][-1:] in (b"{", b"[", b",", b":") or lines[1][:1] in (b",", b":", b"]", b"}")


def _first_lines(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yields the first two lines that are not blank, as far as ``limit`` bytes hold them."""
    found = 0
    while found < 2 and limit > 0 and (line := stream.readline(limit)):
        limit -= len(line)
        if line.strip(BLANK):
            found += 1
            yield line


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
