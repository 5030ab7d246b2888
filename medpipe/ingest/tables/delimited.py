"""Rows out of delimited text, one at a time: CSV, TSV, and what vendors make of them.

RFC 4180 is what is read; beside it semicolons, bars, tabs and other delimiters, quotes escaped by a backslash (Spark,
MySQL), no quotes and ``\\n`` for a line end (``mysql -B``, PostgreSQL's COPY), LF, CRLF and CR mixed, line ends in
quoted fields, Excel's ``sep=;``, titles and comments above the names.

A row that is not well formed costs that row. After a quote that nothing closes, or that closes a field too early, the
lines that follow are tried one by one until one begins a row of the right width; the stretch between is one broken row.
Nothing is guessed back into its column, with one exception: a broken row on one line that has the right width when its
quotes are plain characters. What this cannot see: an unquoted delimiter that keeps the width by chance.

Fields are read by Python's ``csv`` (150 MB/s of notes): pyarrow's reader is twice as fast, but ends the file at the
first ragged row and allows no other escape beside doubled quotes.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, NamedTuple, TextIO

from medpipe.ingest.tables.mapping import ColumnMapping, Columns, NotNotes, Unclear

MAX_ROW_CHARS = 64 << 20  # of a row; what is longer is broken
LINE_COST = 56  # characters' worth of memory that a line takes besides its own
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_CHARS))
TOO_LONG = f"more than {MAX_ROW_CHARS >> 20} million characters"
DELIMITERS = (",", "\t", ";", "|", "\x01", "^", "~")
UNQUOTED = frozenset({"\t", "|", "\x01", "^", "~"})  # files of these are written without any quotes as well
UNDELIMITED = "\x1f"  # of a table of one column
FIRST_LINES = 20  # among which the line of names is
NULLS = frozenset({"", "\\N", "NULL", "null", "[NULL]", "(null)", "<null>", "<NULL>"})
LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "N": ""}


class Row(NamedTuple):
    """A row: ``values`` is ``None`` where it is broken, and ``problem`` says how, without a word of it."""

    number: int  # from 1, after the line of names
    values: Sequence[str | None] | None
    problem: str = ""
    code: str = "TABLE_INVALID"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file writes its rows."""

    delimiter: str = ","
    quote: str = '"'  # "": none
    escape: str = "double"  # of ESCAPES
    skip_space: bool = False  # after a delimiter
    quotes_seen: bool = False  # quoted fields were seen

    def split(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Yields the fields of rows; raises ``csv.Error`` at a broken one and can go on after it."""
        if self.escape == "letters":
            return _LetterRows(lines, self.delimiter)
        if self.escape == "backslash":
            lines = map(partial(_double_quotes, quote=self.quote), lines)
        if not self.quote:
            return csv.reader(
                lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, skipinitialspace=self.skip_space, strict=True
            )
        return csv.reader(
            lines, delimiter=self.delimiter, quotechar=self.quote, skipinitialspace=self.skip_space, strict=True
        )


def _double_quotes(line: str, quote: str) -> str:
    """Returns a line with the quotes and backslashes that a backslash escapes written as RFC 4180 writes them."""
    if "\\" not in line:
        return line
    line = re.sub(r"\\(.)", lambda found: {quote: quote * 2, "\\": "\\\0"}.get(found[1], found[0]), line)
    if line.endswith(("\\\n", "\\\r", "\\\r\n")):  # MySQL: an escaped line end
        body = line.rstrip("\r\n")
        line = body[:-1] + line[len(body) :]
    return line.replace("\\\0", "\\")


class _LetterRows:
    """Rows without quotes, whose fields hold ``\\n``, ``\\t`` and ``\\\\``."""

    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        self.lines = lines
        self.delimiter = delimiter
        self.apart = re.compile(rf"(?<!\\)((?:\\\\)*){re.escape(delimiter)}")

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        line = next(self.lines)
        body = line.rstrip("\r\n")
        parts = []
        while (len(body) - len(body.rstrip("\\"))) % 2:  # an escaped line end
            parts.append(body[:-1] + line[len(body) :])
            line = next(self.lines, "")
            body = line.rstrip("\r\n")
        row = "".join([*parts, body])
        if not row:
            return []
        if "\\" not in row:
            return row.split(self.delimiter)
        marked = self.apart.sub(lambda found: found[1] + "\x00\x00", row) if "\\" + self.delimiter in row else None
        fields = row.split(self.delimiter) if marked is None else marked.split("\x00\x00")
        return [field if field == "\\N" else unescape(field) for field in fields]


def unescape(field: str) -> str:
    """Returns a field with its escaped letters as the characters they stand for."""
    if "\\" not in field:
        return field
    return re.sub(r"\\(.)", lambda found: LETTERS.get(found[1], found[1]), field, flags=re.DOTALL)


# --- lines --------------------------------------------------------------------------------------


class RowTooLong(Exception):  # noqa: N818 (no error: a mark between the lines and their reader)
    """The lines that were taken since the last row are more than a row may be."""


class Lines:
    """The lines of a file with their ends; those of the row that is being read can be given back."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.ahead: deque[str] = deque()
        self.taken: list[str] = []
        self.size = 0  # of taken
        self.number = 0  # lines before taken
        self.budget = 1 << 20  # characters that may be read again

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.ahead.popleft() if self.ahead else self._read()
        self.taken.append(line)
        self.size += len(line) + LINE_COST
        if self.size > MAX_ROW_CHARS:
            raise RowTooLong
        return line

    def _read(self) -> str:
        line = self.stream.readline(MAX_ROW_CHARS + 1)
        if not line:
            raise StopIteration
        self.budget += 4 * len(line)
        return line

    def keep(self) -> None:
        """The row is done: its lines are not needed any more."""
        self.number += len(self.taken)
        self.taken.clear()
        self.size = 0

    def back(self) -> None:
        """Gives the lines of the row back, to be read again."""
        self.budget -= self.size
        self.ahead.extendleft(reversed(self.taken))
        self.taken.clear()
        self.size = 0

    def drop(self) -> None:
        """Gives all lines of the row but the first back; none where too many were read again before."""
        if self.budget <= 0 or len(self.taken) < 2:
            last = self.taken[-1] if self.taken else ""
            self.keep()
            while len(last) > MAX_ROW_CHARS // 2 and not last.endswith(("\n", "\r")):  # the rest of an endless line
                last = self.stream.readline(MAX_ROW_CHARS)
            return
        first = self.taken.pop(0)
        self.size -= len(first) + LINE_COST
        self.back()
        self.number += 1


def _keep_apart(error: UnicodeError) -> tuple[str, int]:
    """Puts lone surrogates where bytes are not of the encoding: as ``surrogateescape`` does, but in UTF-16 too."""
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) if byte >= 0x80 else "\udc80" for byte in bad), error.end


codecs.register_error("medpipe.apart", _keep_apart)


def open_lines(stream: BinaryIO, encoding: str) -> Lines:
    """Returns the lines of a stream. Bytes that are not of the encoding are kept apart: see ``mend``."""
    errors = "medpipe.apart" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return Lines(io.TextIOWrapper(stream, encoding, errors, newline=""))


def find_encoding(head: bytes) -> str:
    """Returns the encoding that a file begins in: of its byte order mark, UTF-16 by its zero bytes, or UTF-8."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
    ):  # fmt: skip
        if head.startswith(mark):
            return name
    start = head[:64]
    if len(start) > 1 and start.count(0) * 3 >= len(start):
        return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    return "utf-8"


APART = re.compile("[\udc80-\udcff]+")


def mend(text: str) -> tuple[str, bool]:
    """Returns a text of a UTF-8 file whose other bytes, kept apart, are read as Windows-1252; and whether it has any.

    Raises:
        UnicodeDecodeError: where they are neither.
    """
    if text.isascii() or not APART.search(text):
        return text, False
    return APART.sub(lambda found: found[0].encode("ascii", "surrogateescape").decode("cp1252"), text), True


# --- rows ---------------------------------------------------------------------------------------


def read_rows(
    lines: Lines, dialect: Dialect, width: int | None, begins: Callable[[Sequence[str]], bool] = lambda values: True
) -> Iterator[Row]:
    """Yields the rows that follow the line of names; blank lines are none.

    Args:
        lines: of the file.
        dialect: how it writes its rows.
        width: how many fields a row has; ``None`` where that does not matter: then no row is broken.
        begins: says whether fields look like a row's, when the end of a broken stretch is looked for.
    """
    rows = dialect.split(lines)
    number = 0
    broken: Row | None = None  # a stretch of lines that belong to no whole row
    while True:
        line = lines.number + 1
        values, problem = _next(rows)
        if values is None and not problem:
            break
        if values is not None and _is_blank(values):
            lines.keep()
            continue
        fields = _fit(values, width) if values is not None else None
        if broken is not None:
            if fields is None or not begins(fields):
                lines.drop()
                continue
            yield broken
            broken = None
        elif fields is None:
            fields = _read_otherwise(lines, dialect, width)
        if fields is not None:
            lines.keep()
            if number or not _is_rule(fields):
                number += 1
                yield Row(number, fields)
            continue
        number += 1
        if width is None:  # rows are only counted
            lines.drop()
            yield Row(number, ())
        elif values is not None:  # well formed, but of another width
            lines.keep()
            yield Row(number, None, f"row {number}, line {line}: {len(values)} instead of {width} fields")
        else:
            lines.drop()
            broken = Row(number, None, f"row {number}, line {line}: {problem}")
    if broken is not None:
        yield broken


def _next(rows: Iterator[list[str]]) -> tuple[list[str] | None, str]:
    """Returns the fields of the next row, or what is wrong with it; neither at the end."""
    try:
        return next(rows), ""
    except StopIteration:
        return None, ""
    except csv.Error as error:
        return None, "an open quote" if "end of data" in str(error) else "a quote in a quoted field"
    except RowTooLong:
        return None, TOO_LONG


def _is_rule(fields: Sequence[str]) -> bool:
    """Says whether a row is the rule under the names that sqlcmd draws."""
    return all(field.strip() and not field.strip(" -") for field in fields)


def _is_blank(values: Sequence[str]) -> bool:
    return not values or (len(values) == 1 and not values[0].strip("\ufeff\x00\x1a \t\r\n"))


def _fit(values: list[str], width: int | None) -> list[str] | None:
    """Returns the fields where they are as many as the names; empty ones behind them do not count."""
    if width is None or len(values) == width:
        return values
    if len(values) > width and not any(values[width:]):
        return values[:width]
    return None


def _read_otherwise(lines: Lines, dialect: Dialect, width: int | None) -> list[str] | None:
    """Reads the row that is at hand again: with the other escape, then as one line whose quotes are plain characters.

    Returns its fields where they have the right width, and leaves its lines with ``lines``; else all is as before.
    """
    if width is None or not dialect.quote or dialect.escape == "letters" or lines.budget <= 0:
        return None
    before = len(lines.taken)
    others = (replace(dialect, escape="backslash" if dialect.escape == "double" else "double"), _PlainQuotes(dialect))
    for other in others:
        if other is others[0] and not any("\\" in line for line in lines.taken):
            continue
        lines.back()
        try:
            found = _fit(next(other.split(lines)), width)
        except (StopIteration, csv.Error, RowTooLong):
            found = None
        if found is not None and not _is_blank(found):
            return found
    lines.back()  # as the first reader left it
    while len(lines.taken) < before:
        try:
            next(lines)
        except StopIteration:  # pragma: no cover (the lines were there before)
            break
        except RowTooLong:
            continue
    return None


@dataclass(frozen=True, slots=True)
class _PlainQuotes:
    """Reads one line whose quotes are plain characters, but for a pair around a field."""

    dialect: Dialect

    def split(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Yields the fields of the line; nothing where a field begins with a quote whose end is not in it."""
        quote = self.dialect.quote
        fields = next(lines).rstrip("\r\n").split(self.dialect.delimiter)
        for place, field in enumerate(fields):
            if field.startswith(quote):
                inside = field[1:-1]
                if len(field) > 1 and field.endswith(quote) and inside.count(quote) % 2 == 0:
                    fields[place] = inside
                elif self.dialect.quotes_seen or self.dialect.delimiter not in UNQUOTED:
                    return
        yield fields


# --- what a file looks like ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file begins: its dialect, the names of its columns, and how well its first rows fit."""

    dialect: Dialect
    names: tuple[str, ...]
    above: int  # lines above the line of names
    rows: int = 0  # that were seen and have the width of the names
    misfits: int = 0


Choice = Callable[[Sequence[str]], Columns | NotNotes | Unclear]


def find_layout(head: str, *, whole: bool, choose: Choice, mapping: ColumnMapping | None = None) -> Layout | None:
    """Finds delimiter, quotes, escape and names in the beginning of a file; ``None`` where there is no line of text.

    Args:
        head: its first characters.
        whole: whether these are all.
        choose: says what columns of these names are.
        mapping: what the user says of the file.
    """
    lines = io.StringIO(head, newline="").readlines()
    if not whole and len(lines) > 1:
        lines.pop()  # it may be cut
    start, said = _skip_to_text(lines)
    if start == len(lines):
        return None
    mapping = mapping or ColumnMapping()
    known = mapping.delimiter or said
    first = "".join(lines[start : start + FIRST_LINES])
    delimiters = [known] if known else [one for one in DELIMITERS if one in first]
    best: Layout | None = None
    best_rank: tuple[int, ...] = ()
    for place, delimiter in enumerate(delimiters or [UNDELIMITED]):
        found = _try_delimiter(lines, start, delimiter, whole, choose, mapping)
        clarity = 0 if isinstance(choose(found.names), Unclear) else 1
        fits = found.rows > 2 * found.misfits
        rank = (clarity, len(found.names) > 1 and fits, len(found.names) > 1, found.rows - found.misfits, -place)
        if best is None or rank > best_rank:
            best, best_rank = found, rank
    assert best is not None
    if len(best.names) == 1 and not known and best.misfits:
        alone = _try_delimiter(lines, start, UNDELIMITED, whole, choose, mapping)
        best = alone if alone.misfits < best.misfits else best
    return best


def _skip_to_text(lines: Sequence[str]) -> tuple[int, str | None]:
    """Returns where the first line of text is, and the delimiter that a line ``sep=;`` above it says."""
    said = None
    for place, line in enumerate(lines):
        bare = line.strip("\ufeff\x00 \r\n")
        if place == 0 and re.fullmatch(r'"?sep=.?"?', line.strip("\ufeff\r\n"), re.IGNORECASE):
            said = line.strip('\ufeff\r\n"')[4:] or "\t"
        elif bare.strip():
            return place, said
    return len(lines), said


def _try_delimiter(
    lines: Sequence[str], start: int, delimiter: str, whole: bool, choose: Choice, mapping: ColumnMapping
) -> Layout:
    """Returns the layout that a file has with a delimiter: the best line of names and the best quotes and escape."""
    above = start if not mapping.header else _line_of_names(lines, start, delimiter, choose)
    quote = "'" if lines[above].lstrip().startswith("'") else '"'
    spaced = delimiter != "\t" and lines[above].count(delimiter + " ") * 2 > lines[above].count(delimiter)
    basic = Dialect(delimiter, quote, "double", spaced)
    if mapping.quote is not None:
        basic = replace(basic, quote=mapping.quote)
    if mapping.escape is not None:
        tried = [replace(basic, escape=mapping.escape)]
    elif mapping.quote is not None:
        tried = [basic, replace(basic, escape="backslash")]
    else:
        tried = [basic, replace(basic, escape="backslash")]
        if _has_letters(lines[above:], delimiter):
            tried.insert(0, replace(basic, escape="letters"))
        if delimiter in UNQUOTED and not _has_quoted("".join(lines[above:]), delimiter, quote, in_line=True):
            tried.append(replace(basic, quote=""))
    found = []
    for dialect in tried:
        layout, is_open = _measure(lines, above, dialect, whole, mapping)
        found.append(layout)
        if layout.rows and not layout.misfits and not is_open:
            break
    return max(found, key=lambda layout: layout.rows - 2 * layout.misfits)  # the first of equals


def _line_of_names(lines: Sequence[str], start: int, delimiter: str, choose: Choice) -> int:
    """Returns where the names are: of the first lines the one that names a known table, or else one with notes.

    Above it stand only titles and comments, which have fewer fields; where no line is known, comments alone.
    """
    filled = width = 0  # the most of any line above
    guess = None
    for place in range(start, min(len(lines), start + FIRST_LINES)):
        names = next(csv.reader([lines[place]], delimiter=delimiter), [])
        now = sum(1 for name in names if name.strip())
        choice = choose(_clean_names(names))
        if not isinstance(choice, Unclear) and (now > 2 * filled or len(names) > width):
            if choice.shape != "table":
                return place
            guess = place if guess is None else guess
        if not lines[place].startswith("#"):
            filled, width = max(filled, now), max(width, len(names))
    if guess is not None:
        return guess
    first = start
    while first < len(lines) - 1 and lines[first].startswith("#") and delimiter not in lines[first]:
        first += 1
    return first


def _has_letters(lines: Sequence[str], delimiter: str) -> bool:
    """Says whether line ends are written as ``\\n``: no field is quoted, and many have it, or some are ``\\N``."""
    text = "".join(lines)
    if "\\" not in text or _has_quoted(text, delimiter, '"'):
        return False
    nulls = re.search(rf"(?:^|{re.escape(delimiter)})\\N(?:{re.escape(delimiter)}|\r|\n|$)", text, re.MULTILINE)
    ends = len(re.findall(r"(?<!\\)\\n", re.sub(r"[A-Za-z]:\\\S*", "", text)))  # but in paths
    return bool(nulls) or ends >= max(3, len(lines) // 4)


def _has_quoted(text: str, delimiter: str, quote: str, *, in_line: bool = False) -> bool:
    """Says whether a field stands in quotes from end to end; ``in_line``: one that would not need them."""
    if not quote:
        return False
    apart, mark = re.escape(delimiter), re.escape(quote)
    other = rf"[^{mark}\r\n{apart}]*" if in_line else rf"[^{mark}]*"
    inside = rf"{other}(?:{mark}{mark}{other})*"
    return bool(re.search(rf"(?:^|{apart}) ?{mark}{inside}{mark}(?={apart}|[\r\n]|\Z)", text, re.MULTILINE))


def _measure(
    lines: Sequence[str], above: int, dialect: Dialect, whole: bool, mapping: ColumnMapping
) -> tuple[Layout, bool]:
    """Counts how many of the first rows have the width of the names; and says whether the last one's quote is open."""
    rows = dialect.split(iter(lines[above:]))
    names: tuple[str, ...] = ()
    good = bad = one_more = 0
    is_open = False
    while True:
        try:
            values = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            if not names:  # the line of names itself
                return Layout(dialect, ("",), above, 0, len(lines)), False
            is_open = "end of data" in str(error)
            if not is_open or whole:
                bad += 1
            continue
        if _is_blank(values):
            continue
        if not names:
            names = _clean_names(values) if mapping.header else tuple(str(place + 1) for place in range(len(values)))
            if mapping.header:
                continue
        if _fit(values, len(names)) is None:
            bad += 1
            one_more += len(values) == len(names) + 1 and values[0] == str(bad)
        else:
            good += 1
    if one_more > 1 and one_more == bad and not good and lines[above].startswith(dialect.quote or " "):
        # R does not name the column in which it numbers the rows.
        names, good, bad = ("", *names), bad, 0
    seen = _has_quoted("".join(lines[above:]), dialect.delimiter, dialect.quote)
    return Layout(replace(dialect, quotes_seen=seen), names or ("",), above, good, bad), is_open


def _clean_names(values: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of columns without what does not belong to them; empty ones at the end are none."""
    names = [value.strip("\ufeff\x00 \t\r\n\"'") for value in values]
    if names and names[0].startswith("#"):
        names[0] = names[0].lstrip("# ")
    while len(names) > 1 and not names[-1]:
        names.pop()
    return tuple(names)
