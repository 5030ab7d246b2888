"""JSON as exports write it: read by the fastest parser, and where that refuses by one that forgives.

The standard (RFC 8259) allows one value a text. Exports hold several, one behind the other, with commas or record
separators (RFC 7464) between them; strings with raw line ends; ``NaN``; lone surrogates; a byte order mark. All of
these are read. What is no JSON (comments, a comma too many, a text that was cut off) is rejected with its place, and
where it lies in a Bundle or a list, the entries beside it are read all the same.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from medpipe.ingest.syntax.structured_text import decode_structured
from medpipe.records import Reject

if TYPE_CHECKING:
    from medpipe.ingest.notes import Reading

# White space between values, byte order marks and record separators.
BETWEEN = re.compile(r"[ \t\r\n\ufeff\x1e]*(?:,[ \t\r\n]*)?")
ENTRIES = re.compile(r'"entry"\s*:\s*\[')
TYPE = re.compile(r'"type"\s*:\s*"([a-z-]{1,30})"')
# How an entry of a Bundle begins: where reading goes on behind one that is broken.
ENTRY = re.compile(r'\{\s*"(?:fullUrl|resource|link|search|request|response|id|extension)"\s*:')
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"{\0", b"[\0", b"\0{", b"\0[")
LONGEST_INTEGER = 19  # digits; a longer number becomes a float, as Python refuses to convert thousands of digits


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < LONGEST_INTEGER else float(digits)


LENIENT = json.JSONDecoder(strict=False, parse_int=_number)


def parse_values(raw: bytes, place: str, reading: Reading) -> Iterator[tuple[str, Any] | Reject]:
    """Yields the values of a JSON text, each with its place, and a reject for what does not parse.

    The first value has the place of the text, the second ``place.1``, and so on.
    """
    try:
        yield place, orjson.loads(raw)
        return
    except orjson.JSONDecodeError:
        pass
    decoded = decode_structured(raw.strip(b"\x1e \t\r\n") if raw[:2] not in UTF16 else raw, "utf-8")
    if decoded.error:
        yield reading.reject(place, decoded.error, kind=decoded.kind)
        return
    text = decoded.text
    count = broken = 0
    for found in _values(text):
        if isinstance(found, _Broken):
            where = _where(text, found.position, place)
            name = f"{place}/broken.{broken}" if count or broken else place
            code, fields = ("JSON_TOO_DEEP", {"limit": "about 1,000"}) if found.deep else ("JSON_INVALID", {})
            yield reading.reject(name, code, where=where, **fields)
            broken += 1
        else:
            yield f"{place}.{count}" if count else place, found[0]
            count += 1


def values_of(text: str) -> list[Any]:
    """Returns the values of a JSON text beside what of it is broken."""
    return [found[0] for found in _values(text) if not isinstance(found, _Broken)]


def json_kind(value: Any) -> str:
    """Returns what JSON calls a value."""
    names = {
        type(None): "null",
        bool: "boolean",
        int: "number",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return names[type(value)]


class _Broken:
    """A place at which a text stops to be JSON, or nests deeper than it can be read."""

    def __init__(self, position: int, deep: bool = False) -> None:
        self.position, self.deep = position, deep


def _where(text: str, position: int, place: str) -> str:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return f"{place} column {column}" if place.startswith("line ") else f"line {line} column {column}"


def _next(text: str, at: int) -> tuple[Any, int] | _Broken:
    """Returns the value at a place and where it ends."""
    try:
        return LENIENT.raw_decode(text, at)
    except json.JSONDecodeError as error:
        return _Broken(error.pos)
    except RecursionError:
        return _Broken(at, deep=True)


def _skip(text: str, at: int) -> int:
    match = BETWEEN.match(text, at)
    return match.end() if match else at


def _values(text: str) -> Iterator[tuple[Any, int] | _Broken]:
    """Yields values that stand one behind the other; behind a broken one nothing can be told apart."""
    at = _skip(text, 0)
    while at < len(text):
        found = _next(text, at)
        if isinstance(found, _Broken):
            rescued = None if found.deep else _rescue(text, at)
            if rescued is None:
                yield found
            else:
                yield rescued[0], at
                yield from rescued[1]
            return
        yield found
        at = _skip(text, found[1])


def _rescue(text: str, start: int) -> tuple[Any, list[_Broken]] | None:
    """Returns what a broken Bundle or list holds beside what is broken, and the broken places."""
    match = None if text[start] == "[" else ENTRIES.search(text, start)
    at = start + 1 if text[start] == "[" else match.end() if match else len(text)
    whole: list[Any] = []
    broken: list[_Broken] = []
    at = _skip(text, at)
    while at < len(text) and text[at] != "]":
        found = _next(text, at)
        if isinstance(found, _Broken):
            broken.append(found)
            # From the broken place on, never from before it: the work stays linear.
            again = ENTRY.search(text, found.position) if match and not found.deep else None
            at = again.start() if again else len(text)
        else:
            whole.append(found[0])
            at = _skip(text, found[1])
    if not whole:
        return None
    if not broken:  # what is broken stands before or behind the entries
        broken.append(_Broken(at))
    if match is None:
        return whole, broken
    kind = TYPE.search(text, start, match.start())
    return {"resourceType": "Bundle", "type": kind[1] if kind else None, "entry": whole}, broken
