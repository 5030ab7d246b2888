"""Where the Binary resources of a run's FHIR files lie, and which of them an attachment names.

A bulk export writes DocumentReference and Binary to different files. When the first reference needs it, all FHIR files
of the run are read through once, and of each Binary its file, its place and its length are kept, 24 bytes; of each
attachment that names a Binary, 8 bytes. What is looked up is read from its place. Lines that do not speak of a Binary
are passed over unparsed.
"""

from __future__ import annotations

import io
import posixpath
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np
import orjson

from medpipe.ingest.archives.gzip_access import GzipAccess
from medpipe.ingest.archives.unpacking import FREE_ALL, RATIO
from medpipe.ingest.content import Readable, Refused
from medpipe.ingest.fhir.links import attached_to, entries_of
from medpipe.ingest.fhir.xml_form import read_xml
from medpipe.ingest.syntax.json_text import values_of
from medpipe.ingest.syntax.lines import bounded_lines
from medpipe.ingest.syntax.structured_text import decode_structured

GZIP = b"\x1f\x8b"
SPACE = b"\xef\xbb\xbf\x1e \t\r\n"
# An attachment's URL, or a payload's reference, that names a Binary; then the rest of its object. A request of a
# Bundle's entry has a URL too, and a method.
ATTACHED = re.compile(
    rb'"(?:url|contentReference"\s*:\s*\{\s*"reference)"\s*:\s*"[^"]*?Binary\\?/([^"/?#\\\s]+)[^"]*"([^{}]*)'
)
# A URL without a scheme, in JSON or XML: it may name a file beside.
RELATIVE = re.compile(rb'(?:"url"\s*:\s*|<url\s+value\s*=\s*)"([^":\s][^":]{0,1000})"')
PIECE = 1 << 20
LONGEST = 1200  # bytes of a URL with what stands before it


@dataclass(frozen=True, slots=True)
class Index:
    """Hashes of ids, sorted, with the places of their Binary resources; hashes of the ids that attachments name."""

    keys: np.ndarray
    places: np.ndarray  # rows of number of the file, offset, length
    attached: np.ndarray


class Binaries:
    """The Binary resources of files, by id."""

    def __init__(self, sources: Sequence[Readable], limit: int = 256 << 20) -> None:
        self.sources = list(sources)
        self.limit = limit  # bytes of a line, or of a file that has to be read whole
        self._open: tuple[int, BinaryIO] | None = None
        self._last: tuple[tuple[int, int], list[dict[str, Any]]] | None = None

    def find(self, key: str) -> dict[str, Any] | None:
        """Returns the Binary with an id; the first, by the names of files, where there are several."""
        wanted = hash_key(key)
        row = int(np.searchsorted(self._index.keys, wanted))
        while row < len(self._index.keys) and self._index.keys[row] == wanted:
            source, offset, length = (int(value) for value in self._index.places[row])
            found = next((one for one in self._read(source, offset, length) if one.get("id") == key), None)
            if found is not None:
                return found
            row += 1
        return None

    def is_attached(self, key: str) -> bool:
        """Says whether an attachment anywhere in the files names the Binary with an id."""
        attached = self._index.attached
        row = int(np.searchsorted(attached, wanted := hash_key(key)))
        return row < len(attached) and bool(attached[row] == wanted)

    def _read(self, source: int, offset: int, length: int) -> list[dict[str, Any]]:
        """Returns the Binary resources in a piece of a file; the last piece is kept, for it may be a Bundle."""
        if self._last is None or self._last[0] != (source, offset):
            if self._open is None or self._open[0] != source:
                if self._open is not None:
                    self._open[1].close()
                self._open = (source, open_at_any_place(self.sources[source]))
            stream = self._open[1]
            stream.seek(offset)
            try:
                value = parse(stream.read(length))
            except (Refused, EOFError, zlib.error):
                value = None
            self._last = ((source, offset), list(binaries_in(value)))
        return self._last[1]

    @cached_property
    def _index(self) -> Index:
        keys, attached = array("Q"), array("Q")
        sources, offsets, lengths = array("L"), array("Q"), array("L")
        for number, source in enumerate(self.sources):
            for kind, key, offset, length in scan(source, self.limit):
                if kind == "attached":
                    attached.append(int(hash_key(key)))
                else:
                    keys.append(int(hash_key(key)))
                    sources.append(number)
                    offsets.append(offset)
                    lengths.append(length)
        order = np.argsort(np.array(keys, "u8"), kind="stable")
        places = np.empty(len(keys), [("source", "u4"), ("offset", "u8"), ("length", "u4")])
        places["source"], places["offset"], places["length"] = sources, offsets, lengths
        return Index(np.array(keys, "u8")[order], places[order], np.unique(np.array(attached, "u8")))


def attached_files(sources: Sequence[Readable]) -> set[str]:
    """Returns the names of those sources that an attachment in a FHIR file among them names as a file beside it."""
    names = {source.name for source in sources}
    found: set[str] = set()
    if len(names) < 2:
        return found
    for source in sources:
        for url in _relative_urls(source):
            for written in (url, unquote(url.partition("?")[0])):
                name = posixpath.normpath(posixpath.join(posixpath.dirname(source.name), written))
                if name in names and name != source.name:
                    found.add(name)
    return found


def _relative_urls(source: Readable) -> Iterator[str]:
    try:
        with open_at_any_place(source) as stream:
            last = stream.read(1 << 16)
            if last.lstrip(SPACE)[:1] not in (b"{", b"[") and b"http://hl7.org/fhir" not in last:
                return
            while True:
                piece = stream.read(PIECE)
                for match in RELATIVE.finditer(last + piece):
                    yield match[1].decode("utf-8", "replace").replace("\\/", "/")
                if not piece:
                    return
                last = piece[-LONGEST:]
    except (OSError, EOFError, zlib.error, Refused):
        return


def hash_key(key: str) -> np.uint64:
    """Returns 64 bits of an id."""
    return np.uint64(int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"))


def scan(source: Readable, limit: int) -> Iterator[tuple[str, str, int, int]]:
    """Yields what a file says of Binary resources: ``("binary" or "attached", id, offset, length)``.

    A file that is no FHIR, cannot be opened or is broken yields what was found until there.
    """
    try:
        with open_at_any_place(source) as stream:
            head = stream.read(1 << 16)
            stream.seek(0)
            start = head.lstrip(SPACE)[:1]
            if start in (b"{", b"["):
                yield from _scan_lines(stream, limit)
            elif start == b"<" and b"http://hl7.org/fhir" in head:
                yield from _scan_whole(stream, limit)
    except (OSError, EOFError, zlib.error, Refused):
        return


def _scan_lines(stream: BinaryIO, limit: int) -> Iterator[tuple[str, str, int, int]]:
    offset = 0
    for line in bounded_lines(stream, limit):
        length = len(line) if line is not None else 0
        if line is not None and b"Binary" in line:
            bare = line.strip(SPACE + b",")
            if bare[:1] not in (b"{", b"[") or bare[-1:] not in (b"}", b"]"):  # a value that runs over lines
                yield from _scan_whole(stream, limit)
                return
            if b'"Binary"' in line:
                yield from (("binary", key, offset, length) for key in _keys(parse(line)))
            yield from _attached_in(line, offset)
        offset = offset + length if line is not None else stream.tell()


def _scan_whole(stream: BinaryIO, limit: int) -> Iterator[tuple[str, str, int, int]]:
    stream.seek(0)
    raw = stream.read(limit + 1)
    if len(raw) > limit or b"Binary" not in raw:
        return
    try:
        value = parse(raw)
    except Refused:
        return
    yield from (("binary", key, 0, len(raw)) for key in _keys(value))
    if raw.lstrip(SPACE).startswith(b"<"):
        for resource in resources_in(value):
            yield from (("attached", url[7:], 0, 0) for url in attached_to(resource) if url.startswith("Binary/"))
    else:
        yield from _attached_in(raw, 0)


def _attached_in(raw: bytes, offset: int) -> Iterator[tuple[str, str, int, int]]:
    for match in ATTACHED.finditer(raw):
        before = raw[raw.rfind(b"{", 0, match.start()) : match.start()]
        if b'"method"' not in before and b'"method"' not in match[2]:
            yield "attached", match[1].decode("utf-8", "replace"), offset, 0


def _keys(value: Any) -> Iterator[str]:
    return (one["id"] for one in binaries_in(value) if isinstance(one.get("id"), str))


def parse(raw: bytes) -> Any:
    """Returns the value of JSON or XML, or a list of the values that a JSON text holds beside what is broken.

    Raises:
        Refused: where it is XML that does not parse.
    """
    if raw.lstrip(SPACE).startswith(b"<"):
        return read_xml(raw)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return values_of(decode_structured(raw, "utf-8").text)


def resources_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yields resources: a value itself, the elements of a list, the entries of Bundles."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(reversed(item))
        elif isinstance(item, dict) and item.get("resourceType") == "Bundle":
            stack.extend(resource for _, resource in reversed(entries_of(item)))
        elif isinstance(item, dict):
            yield item


def binaries_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yields the Binary resources of a parsed value."""
    return (one for one in resources_in(value) if one.get("resourceType") == "Binary")


def open_at_any_place(source: Readable) -> BinaryIO:
    """Opens a file, packed or not, so that it can be read from any place."""
    stream = source.open()
    if stream.read(2) == GZIP:
        limit = max(FREE_ALL, RATIO * stream.seek(0, io.SEEK_END))
        return io.BufferedReader(GzipAccess(stream, limit=limit), 1 << 18)
    stream.seek(0)
    return stream
