"""Lists of tar archives (POSIX.1-2001 ustar and pax, and GNU's long names), without unpacking anything.

The standard library's reader does more than is needed, and had loops and slow expressions on hostile files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from medpipe.ingest.content import Refused

BLOCK = 512
LONGEST_HEADER = 1 << 20  # bytes of a pax header or a long name
NO_DATA = b"123456"  # kinds of members that have none: links, devices, folders, pipes


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member: where its data begin, and how long they are."""

    name: str
    kind: bytes  # its type flag
    start: int
    length: int
    broken: bool = False  # the file ends before its data do
    extra: dict[str, str] = field(default_factory=dict)  # what a pax header says

    @property
    def is_folder(self) -> bool:
        """Says whether it is a folder."""
        return self.kind == b"5" or (self.kind in (b"0", b"\0") and self.name.endswith("/"))

    @property
    def is_sparse(self) -> bool:
        """Says whether its data are only those parts that are not zero."""
        return self.kind == b"S" or any(key.startswith("GNU.sparse") for key in self.extra)


def list_tar(stream: BinaryIO) -> Iterator[TarMember]:
    """Yields the members of an archive.

    Raises:
        Refused: ARCHIVE_INVALID where a header is none.
    """
    size = stream.seek(0, io.SEEK_END)
    at = 0
    extra: dict[str, str] = {}
    while at + BLOCK <= size:
        stream.seek(at)
        head = stream.read(BLOCK)
        if not head.strip(b"\0"):
            break
        length = _number(head[124:136]) if _sum_is_right(head) else -1
        kind = head[156:157]
        if length < 0:
            raise Refused("ARCHIVE_INVALID")
        start = at + BLOCK
        if kind in (b"x", b"L", b"K", b"g"):  # says something of the next member
            if kind in (b"x", b"L"):
                extra |= _extra(kind, stream.read(min(length, LONGEST_HEADER)))
            at = start + _blocks(length)
            continue
        if re.fullmatch(r"\d{1,18}", extra.get("size", "")):
            length = int(extra["size"])
        yield TarMember(extra.get("path") or _name(head), kind, start, length, start + length > size, extra)
        extra = {}
        at = start + (0 if kind in NO_DATA else _blocks(length))


def open_part(stream: BinaryIO, start: int, length: int) -> BinaryIO:
    """Opens a part of a file that others read, too."""
    return cast(BinaryIO, io.BufferedReader(_Part(stream, start, length), 1 << 18))


class _Part(io.RawIOBase):
    def __init__(self, stream: BinaryIO, start: int, length: int) -> None:
        super().__init__()
        self.stream, self.start, self.length, self.at = stream, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.stream.seek(self.start + self.at)
        data = self.stream.read(max(0, min(len(buffer), self.length - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence])
        return self.at

    def tell(self) -> int:
        return self.at


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _sum_is_right(head: bytes) -> bool:
    """Says whether a header's sum is right; it is over the header with blanks in place of the sum."""
    return _number(head[148:156]) == sum(head) - sum(head[148:156]) + 8 * ord(" ")


def _number(raw: bytes) -> int:
    """Returns an octal number, or one in base 256 (GNU); -1 for none."""
    if raw[:1] == b"\x80":
        return int.from_bytes(raw[1:])
    digits = raw.strip(b" \0").partition(b"\0")[0].strip()
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else -1


def _name(head: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (head[:100], head[345:500]))
    ustar = head[257:263] == b"ustar\0"  # GNU's own format has other things in the place of the prefix
    return (prefix + b"/" + name if prefix and ustar else name).decode("utf-8", "replace")


def _extra(kind: bytes, raw: bytes) -> dict[str, str]:
    """Returns what a header before a member's own says of it: ``length key=value`` lines, or a long name."""
    if kind == b"L":
        return {"path": raw.partition(b"\0")[0].decode("utf-8", "replace")}
    found: dict[str, str] = {}
    at = 0
    while match := re.compile(rb"(\d{1,7}) ([^=]{1,100})=").match(raw, at):
        length = int(match[1])
        value = raw[match.end() : at + length - 1]
        found[match[2].decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        if length <= match.end() - at:
            break
        at += length
    return found
