"""Which reader reads a file: told by its content, by its name only where content leaves it open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medpipe.ingest.bodies.body import kind_of, text_head
from medpipe.ingest.cda.reader import sniff_xml
from medpipe.ingest.content import Content
from medpipe.ingest.hl7.syntax import looks_like_hl7
from medpipe.ingest.syntax.decoding import magic
from medpipe.ingest.tables.mapping import ColumnMapping
from medpipe.ingest.tables.reader import sniff_lines, sniff_table

HEAD_BYTES = 1 << 16
LONGEST_FIRST_LINE = 32 << 20  # bytes; a longer one is believed to be what the file's name says
# An object or a list of objects, lists or texts: notes may begin with a bracket, too ("[demographics]", "[1]").
JSON = re.compile(rb"\{\s*[\"}]|\[\s*(?:\[\s*)*[{\"\]]")
# The namespace of FHIR, on the root or behind a prefix.
FHIR_XML = re.compile(rb"^\s*<.*?xmlns(?::\w+)?\s*=\s*[\"']http://hl7\.org/fhir[\"']", re.DOTALL)
XML_SUFFIXES = (".xml", ".ccda", ".cda")
# Suffixes of text files that hold no note.
NO_NOTES = frozenset((
    ".csv", ".tsv", ".psv", ".json", ".ndjson", ".jsonl", ".xml", ".xsl", ".xslt", ".xsd", ".dtd", ".hl7", ".er7",
    ".parquet", ".sql", ".py", ".js", ".css", ".sh", ".bat", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".properties",
    ".log", ".md5", ".sha1", ".sha256",
))  # fmt: skip


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


# --- the formats ------------------------------------------------------------------------------


def looks_like_json(opening: Opening) -> str | None:
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


def looks_like_table(opening: Opening) -> str | None:
    """Tells tables by their names and rows."""
    return sniff_table(opening.content, opening.raw, opening.mapping)


def looks_like_fhir_xml(opening: Opening) -> str | None:
    """Tells FHIR in XML by its namespace."""
    return "fhir" if FHIR_XML.search(opening.head) else None


def looks_like_messages(opening: Opening) -> str | None:
    """Tells HL7 v2 by its segments."""
    return "hl7v2" if magic(opening.raw) is None and looks_like_hl7(opening.raw, opening.suffix) else None


def looks_like_html(opening: Opening) -> str | None:
    """Tells HTML, also pieces of it, from other XML."""
    return "text" if opening.suffix not in XML_SUFFIXES and kind_of(opening.raw) == "HTML" else None


def looks_like_cda(opening: Opening) -> str | None:
    """Tells CDA; other XML goes to its reader, too, which counts or refuses it."""
    return sniff_xml(opening.raw, opening.suffix) if magic(opening.raw) is None else None


def looks_like_text(opening: Opening) -> str | None:
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


# Each format's test, in the order in which they are asked: a function ``(opening) -> name of the reader, or None``.
# What is strict comes before what is not: a table before the formats whose signs its cells may hold, and text last,
# because everything that is written is text.
FORMATS: tuple[Callable[[Opening], str | None], ...] = (
    looks_like_json,
    looks_like_table,
    looks_like_fhir_xml,
    looks_like_messages,
    looks_like_html,
    looks_like_cda,
    looks_like_text,
)


def _sniff_json(file: Any, start: bytes, suffix: str) -> str:
    """Tells one JSON document from lines of JSON: in the latter the first line is an object and more follows."""
    line, found, rest = start.partition(b"\n")
    if not found and len(start) >= HEAD_BYTES - 64:  # a long first line: read to its end, if that can be
        line += file.readline(LONGEST_FIRST_LINE)
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
