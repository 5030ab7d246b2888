"""Tables with notes: a row is a note, in delimited text, Parquet or lines of JSON.

What its columns are says ``mapping``; how its rows are read, ``delimited`` and ``parquet``. A record is a row; in a
table whose notes are kept in lines (Epic), the rows of one note. Records are named by the table's key where it has one
(``note/17``), and by their row (``row 5``) where they have none or cannot be read. A key that stands again with another
note gets its row beside it: ``note/17 (row 8)``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from medpipe.ingest.content import Content, Refused
from medpipe.ingest.notes import Reading
from medpipe.ingest.syntax.decoding import decode_base64, magic
from medpipe.ingest.tables.delimited import (
    APART,
    DELIMITERS,
    NULLS,
    TOO_LONG,
    Layout,
    Row,
    RowTooLong,
    find_encoding,
    find_layout,
    mend,
    open_lines,
    read_rows,
)
from medpipe.ingest.tables.mapping import OMOP, ColumnMapping, Columns, NotNotes, Unclear, choose_columns, plain
from medpipe.ingest.tables.parquet import open_parquet, read_parquet
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
Facts = Callable[[Sequence[str | None]], dict[str, str | None]]

HEAD_BYTES = 1 << 16
# What text does not hold, but for the delimiter of Hive.
CONTROL = re.compile("[\x00\x02-\x08\x0e-\x1a\x1c-\x1e]")
SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".psv", ".ssv", ".dsv"})
NO_VALUE = NULLS | {"nan", "NaN", "NaT", "None", "<NA>", "#N/A"}
TRUE = frozenset({"1", "1.0", "t", "true", "y", "yes"})
# Statuses of a note that is no longer to be relied on, as FHIR, HL7 v2 and EHRs call them.
WITHDRAWN = frozenset({"superseded", "enteredinerror", "cancelled", "canceled", "retracted", "deleted", "obsolete"})
LOINC = re.compile(r"(?:(?:LOINC|LNC|LN|http://loinc\.org)[:|])?(\d{1,5}-\d)")
LANGUAGES = {
    "english": "en", "spanish": "es", "french": "fr", "german": "de", "italian": "it", "portuguese": "pt",
    "dutch": "nl", "danish": "da", "swedish": "sv", "norwegian": "no", "finnish": "fi", "polish": "pl", "czech": "cs",
    "russian": "ru", "turkish": "tr", "greek": "el", "hebrew": "he", "arabic": "ar",
    "chinese": "zh", "japanese": "ja", "korean": "ko",
}  # fmt: skip
MEDIA = {
    ".txt": "text/plain", ".text": "text/plain", ".rtf": "application/rtf", ".htm": "text/html", ".html": "text/html",
    ".pdf": "application/pdf",
}  # fmt: skip
OTHER_STARTS = (b"<", b"MSH|", b"FHS|", b"BHS|", b"\x0bMSH|", b"\x0bFHS|", b"\x0bBHS|")  # XML and HL7 v2
NAME = re.compile(r"#? ?[^\W\d][\w .#/()%-]{0,63}")
STARTS = {"{\\rtf": "application/rtf", "<?xml": "text/xml", "<ClinicalDocument": "text/xml"}
MARKUP = re.compile(
    r"\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html|body|div|p|span|table|pre|h[1-6])(?:\s[^<>]*)?>",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the names of its columns, what they are, and its rows."""

    names: tuple[str, ...]
    choice: Columns | NotNotes | Unclear
    rows: Callable[[Columns | NotNotes, Sequence[int]], Iterator[Row]]  # with the values of these places, or of all
    encoding: str | None = None
    layout: Layout | None = None  # of delimited text


# --- what a file is ---------------------------------------------------------------------------


def sniff_table(content: Content, head: bytes, mapping: ColumnMapping | None = None) -> str | None:
    """Returns ``omop`` or ``table`` where a file is a table, ``None`` where it is not.

    A name like ``.csv`` makes a table of all text. Under any other name it is one where its first line is one of
    names: those of a known table or of one with notes, or where many rows have as many fields.
    """
    named = content.suffix in SUFFIXES
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(OTHER_STARTS):
        return None
    if not head.startswith(b"PAR1") and (magic(head) is not None or not (named or _begins_with_names(head))):
        return None
    try:
        table = open_table(content, mapping)
    except Refused:
        return "table" if named or head.startswith(b"PAR1") else None
    if table.layout is not None and not named and not _is_sure(table):
        return None
    return "omop" if is_omop(table.choice) else "table"


def _begins_with_names(head: bytes) -> bool:
    """Says whether the first line of a file may be one of names: a quick look, for notes are many."""
    line = head.decode(find_encoding(head), "ignore").lstrip().partition("\n")[0].strip()
    return any(
        all(NAME.fullmatch(name.strip("\"' ")) for name in line.split(delimiter))
        for delimiter in DELIMITERS
        if delimiter in line[:2000]
    )


def is_omop(choice: Columns | NotNotes | Unclear) -> bool:
    """Says whether a table is one of the OMOP CDM."""
    return not isinstance(choice, Unclear) and choice.shape in {shape.name for shape in OMOP}


def _is_sure(table: Table) -> bool:
    """Says whether text of any name is a table, rather than a note that looks a little like one."""
    layout = table.layout
    assert layout is not None
    names = table.names
    alike = all(NAME.fullmatch(name) and len(name.split()) <= 4 for name in names)
    if len(names) < 2 or len(set(names)) < len(names) or not alike:
        return False
    steady = layout.misfits * 20 <= layout.rows
    if not isinstance(table.choice, Unclear):
        known = table.choice.shape != "table"
        wide = len(names) > 2 and layout.rows > 0
        return known or (steady and (wide or (layout.rows > 1 and not layout.dialect.skip_space)))
    bare = all(re.fullmatch(r"\w+", name) for name in names)
    least_rows = 1 if layout.dialect.delimiter == "\t" and len(names) > 3 else 3
    return steady and bare and len(names) > 2 and layout.rows >= least_rows


def sniff_lines(head: bytes, mapping: ColumnMapping | None = None) -> str | None:
    """Returns ``omop`` or ``table`` where lines of JSON are the rows of a table with notes.

    FHIR resources and the project's own simple JSON are not: an object with ``text`` is one of these, unless its names
    are those of a known table or a mapping says otherwise.
    """
    names, objects = _names_of_lines(head)
    if not objects or "resourceType" in names:
        return None
    said = mapping is not None and bool(mapping.text or mapping.file)
    choice = choose_columns(names, mapping)
    if isinstance(choice, Unclear) or ("text" in names and choice.shape == "table" and not said):
        return None
    return "omop" if is_omop(choice) else "table"


def open_table(content: Content, mapping: ColumnMapping | None = None) -> Table:
    """Finds out how a table is written and what its columns are.

    Raises:
        Refused: TEXT_BINARY, TABLE_INVALID where it is no table.
    """
    head = content.head(HEAD_BYTES)
    choose = partial(choose_columns, mapping=mapping)
    if head.startswith(b"PAR1"):
        names, _ = open_parquet(content)
        return Table(names, choose(names), partial(_parquet_rows, content))
    if kind := magic(head):
        raise Refused("TEXT_BINARY", kind=kind)
    encoding = (mapping and mapping.encoding) or find_encoding(head)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        found, objects = _names_of_lines(head)
        if objects:
            return Table(found, choose(found), partial(_json_rows, content, found), "utf-8")
    with content.open() as stream:
        text = open_lines(stream, encoding).stream.read(HEAD_BYTES)
    if len(CONTROL.findall(text)) > max(8, len(text) // 50):
        raise Refused("TEXT_BINARY", kind="unknown")
    layout = find_layout(text, whole=len(text) < HEAD_BYTES, choose=choose, mapping=mapping)
    if layout is None:
        raise Refused("TABLE_INVALID", where="it is empty")
    rows = partial(_delimited_rows, content, encoding, layout, mapping)
    encoding = "utf-8" if encoding == "utf-8-sig" else encoding
    return Table(layout.names, choose(layout.names), rows, encoding, layout)


# --- its rows ---------------------------------------------------------------------------------


def _delimited_rows(
    content: Content,
    encoding: str,
    layout: Layout,
    mapping: ColumnMapping | None,
    choice: Columns | NotNotes,
    places: Sequence[int],
) -> Iterator[Row]:
    keys = [place for key in ("id", "patient", "encounter") if isinstance(choice, Columns) for place in choice.at(key)]

    def begins(values: Sequence[str]) -> bool:
        return all(not re.search(r"\s", values[place].strip()) for place in keys)

    with content.open() as stream:
        lines = open_lines(stream, encoding)
        for _ in range(layout.above):
            next(lines)
        lines.keep()
        if mapping is None or mapping.header:
            next(layout.dialect.split(lines))
            lines.keep()
        width = len(layout.names) if isinstance(choice, Columns) else None
        for row in read_rows(lines, layout.dialect, width, begins):
            if row.values is None or tuple(row.values) != layout.names:  # not the names again, of files put together
                yield row


def _parquet_rows(content: Content, choice: Columns | NotNotes, places: Sequence[int]) -> Iterator[Row]:
    return read_parquet(content, places, choice.at("text") if isinstance(choice, Columns) else ())


def _names_of_lines(head: bytes) -> tuple[tuple[str, ...], int]:
    """Returns the names in the objects of the first lines of JSON, and how many objects there are."""
    names: dict[str, None] = {}
    objects = 0
    for line in head.removeprefix(b"\xef\xbb\xbf").splitlines()[:50]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            objects += 1
            names |= dict.fromkeys(value)
    return tuple(names), objects


def _json_rows(
    content: Content, names: Sequence[str], choice: Columns | NotNotes, places: Sequence[int]
) -> Iterator[Row]:
    texts = choice.at("text") if isinstance(choice, Columns) else ()
    wanted = sorted(set(places) | set(texts))
    with content.open() as stream:
        lines = open_lines(stream, "utf-8-sig")
        number = 0
        while True:
            try:
                line = next(lines)
                lines.keep()
            except StopIteration:
                return
            except RowTooLong:
                lines.drop()
                number += 1
                yield Row(number, None, f"row {number}: {TOO_LONG}")
                continue
            if line.strip():
                number += 1
                yield _json_row(line, number, names, wanted, texts)


def _json_row(line: str, number: int, names: Sequence[str], wanted: Sequence[int], texts: Sequence[int]) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Row(number, None, f"row {number} column {error.colno}", "JSON_INVALID")
    except RecursionError:
        return Row(number, None, "about 1,000", "JSON_TOO_DEEP")
    except ValueError:  # an integer of more digits than Python converts
        return Row(number, None, f"row {number}", "JSON_INVALID")
    if not isinstance(value, dict):
        return Row(number, None, type(value).__name__, "RECORD_NOT_OBJECT")
    cells: list[str | None] = [None] * len(names)
    for place in wanted:
        cell = value.get(names[place])
        if isinstance(cell, str):
            cells[place] = cell
        elif isinstance(cell, dict | list) and place in texts:
            return Row(number, None, code="TEXT_MISSING")
        elif cell is not None and not isinstance(cell, dict | list):
            cells[place] = str(cell).lower() if isinstance(cell, bool) else str(cell)
    return Row(number, cells)


def _join_lines(rows: Iterator[Row], columns: Columns) -> Iterator[Row]:
    """Yields notes whose lines are rows: those that follow one another and have one key, by their numbers."""
    held: list[tuple[str | None, Row]] = []  # key and row
    for row in chain(rows, [None]):
        key = None if row is None or row.values is None else first_value(row.values, columns, "id")
        if held and (key is None or key != held[0][0]):
            yield _joined([one for _, one in held], columns)
            held = []
        if row is None:
            return
        if key is None:
            yield row
        else:
            held.append((key, row))


def _joined(rows: list[Row], columns: Columns) -> Row:
    if len(rows) == 1:
        return rows[0]
    place = columns.at("text")[0]

    def position(row: Row) -> float:
        try:
            return float(first_value(row.values or (), columns, "line") or 0)
        except ValueError:
            return 0.0

    pieces = [row.values[place] or "" for row in sorted(rows, key=position) if row.values is not None]
    values = list(rows[0].values or ())
    values[place] = columns.join.join(pieces)
    return Row(rows[0].number, values)


# --- from rows to notes ---------------------------------------------------------------------------


def read_table(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads a table with notes.

    Raises:
        Refused: COLUMN_MISSING where nobody knows which column holds the notes, TABLE_INVALID, TEXT_BINARY.
    """
    yield from notes_of(open_table(content, reading.mapping), content, reading)


def notes_of(table: Table, content: Content, reading: Reading, more: Facts | None = None) -> Iterator[Item]:
    """Yields the notes of a table, and what is not a note; ``more`` tells facts that no column holds as it is."""
    choice = table.choice
    if isinstance(choice, Unclear):
        raise Refused("COLUMN_MISSING", reason=choice.reason)
    items: Iterator[Item]
    if isinstance(choice, NotNotes):
        skipped = Skipped(choice.shape)
        items = (skipped for _ in table.rows(choice, ()))
    else:
        places = sorted({place for places in choice.places.values() for place in places})
        rows = table.rows(choice, places)
        if choice.at("line") and choice.at("id") and len(choice.at("text")) == 1:
            rows = _join_lines(rows, choice)
        items = map(_Notes(table, choice, content, reading, more).note, rows)
    yield next(items, Skipped("table without rows"))
    yield from items


class _Notes:
    """Makes notes of rows, and remembers their names, as hashes: two that collide cost a longer name, no more."""

    def __init__(self, table: Table, columns: Columns, content: Content, reading: Reading, more: Facts | None) -> None:
        self.table = table
        self.columns = columns
        self.content = content
        self.reading = reading
        self.more = more
        self.seen: dict[int, int] = {}  # hashes of names and of their texts

    def note(self, row: Row) -> Item:
        """Returns the note of a row."""
        if row.values is None:
            problem = row.problem
            return self.reading.reject(f"row {row.number}", row.code, where=problem, kind=problem, limit=problem)
        values, columns = row.values, self.columns
        if columns.at("error") and (first_value(values, columns, "error") or "").lower() in TRUE:
            return Skipped("note marked as an error")
        status = first_value(values, columns, "status")
        if status is not None and plain(status) in WITHDRAWN:
            return Skipped(f"note ({status.lower()})")
        text = self.text(values)
        if text is None and columns.sparse:
            return Skipped(f"{columns.shape} row without text")
        record = self.name(row, text)
        try:
            text, mended = self.mend(text or "")
            facts = {name: value and self.mend(value)[0] for name, value in self.facts(values).items()}
        except UnicodeError:
            return self.reading.reject(record, "TEXT_UNDECODABLE")
        facts["note_status"] = status
        encoding = "cp1252" if mended else self.table.encoding
        if columns.at("file"):
            return self.file(record, first_value(values, columns, "file"), first_value(values, columns, "media"), facts)
        return self.document(record, text, first_value(values, columns, "media"), encoding, facts)

    def text(self, values: Sequence[str | None]) -> str | None:
        """Returns the text of a row; of several columns, each filled one under its title."""
        places, titles = self.columns.at("text"), self.columns.titles
        cells = [_cell(values[place]) for place in places]
        if len(cells) == 1:
            return cells[0]
        parts = [f"{title}:\n{cell}" for title, cell in zip(titles, cells, strict=True) if cell and cell.strip()]
        return "\n\n".join(parts) or None

    def name(self, row: Row, text: str | None) -> str:
        """Returns the name of a record: a key that stood before, with another text, gets its row."""
        key = plain_id(first_value(row.values or (), self.columns, "id"))
        if key is None:
            return f"row {row.number}"
        name = f"{self.columns.record}/{key[:200]}"
        content = _hash(text or "")
        while self.seen.setdefault(_hash(name), content) != content:
            name = f"{name} (row {row.number})"
        return name

    def mend(self, text: str) -> tuple[str, bool]:
        """Returns a text without bytes kept apart, and whether it had any."""
        if self.table.encoding in (None, "utf-8"):
            return mend(text)
        if not text.isascii() and APART.search(text):
            raise UnicodeError
        return text, False

    def facts(self, values: Sequence[str | None]) -> dict[str, str | None]:
        """Returns what a row says of its note."""
        columns = self.columns
        date, time = first_value(values, columns, "date"), first_value(values, columns, "time")
        if date is not None and time is not None and ":" not in date:
            date = f"{date} {time}"
        code = LOINC.fullmatch(first_value(values, columns, "type_code") or "")
        facts: dict[str, str | None] = {
            "patient_id": plain_id(first_value(values, columns, "patient")),
            "encounter_id": plain_id(first_value(values, columns, "encounter")),
            "authored_at": date,
            "note_type": first_value(values, columns, "type"),
            "note_type_code": code[1] if code else None,
            "language": language_of(first_value(values, columns, "language")),
        }
        if self.more is not None:
            facts |= {name: value for name, value in self.more(values).items() if facts.get(name) is None}
        return facts

    def document(
        self, record: str, text: str, media: str | None, encoding: str | None, facts: dict[str, Any]
    ) -> Document | Reject:
        """Makes a document of a text, which may be markup, or base64 of what its media type says."""
        kind = (media or "").partition(";")[0].strip().lower()
        if kind == "text/plain" or not kind:
            start = text[:200].lstrip("\ufeff \t\r\n")
            sniffed = next((media for sign, media in STARTS.items() if start.startswith(sign)), None)
            kind = "text/html" if MARKUP.match(text) else sniffed or kind
        if kind in ("", "text/plain") or "/" not in kind:
            return self.reading.document(record, text, encoding=encoding, media_type=kind or None, **facts)
        if kind.startswith("text/") or kind.endswith(("rtf", "xml", "html")):
            raw = text.encode("utf-8", "surrogatepass")
            return self.reading.attachment(record, raw, kind, "utf-8", **facts)
        packed = decode_base64(text)
        if packed is None:
            return self.reading.reject(record, "BASE64_INVALID")
        return self.reading.attachment(record, packed, kind, None, **facts)

    def file(self, record: str, name: str | None, media: str | None, facts: dict[str, Any]) -> Document | Reject:
        """Makes a document of a file that a row names, where the same input holds it."""
        other = self.content.beside(name) if name else None
        if other is None:
            return self.reading.reject(record, "ATTACHMENT_UNRESOLVED")
        try:
            raw = other.read(self.reading.max_file_bytes)
        except Refused as refused:
            return self.reading.reject(record, refused.code, **refused.fields)
        return self.reading.attachment(record, raw, media or MEDIA.get(other.suffix), None, **facts)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _cell(value: str | None) -> str | None:
    return None if value is None or (len(value) < 12 and value.strip(" \t\r\n") in NULLS) else value


def first_value(values: Sequence[str | None], columns: Columns, key: str) -> str | None:
    """Returns the first filled cell of a key."""
    for place in columns.at(key):
        value = values[place]
        if value is not None:
            value = value.strip()
            if value not in NO_VALUE:
                return value
    return None


def plain_id(value: str | None) -> str | None:
    """Returns an id; that of an integer which pandas made a float (``17.0``) without what it added."""
    return value[:-2] if value is not None and value.endswith(".0") and value[:-2].isdigit() else value


def language_of(written: str | None) -> str | None:
    """Returns the BCP 47 tag of a language as tables write it: a tag, or its English name."""
    if written is None:
        return None
    known = LANGUAGES.get(written.lower().removesuffix(" language"))
    if known is not None:
        return known
    tag = re.fullmatch(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{2,4}|\d{3}))?", written)
    return None if tag is None else tag[1].lower() + (f"-{tag[2].upper()}" if tag[2] else "")
