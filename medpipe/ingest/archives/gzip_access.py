"""Reading a gzip file from any place, without unpacking all that stands before it again and again."""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO

PACKED = 1 << 16
UNPACKED = 1 << 18
MOST_MARKS = 1024  # copies of a decompressor, about 40 kB each


class GzipAccess(io.RawIOBase):
    """A stream of what a gzip file (RFC 1952, also of several members) holds.

    On its way it keeps copies of the decompressor, ``step`` bytes apart; going back costs at most that much. There
    are never more than 1,024: then every second one is dropped and the steps become twice as long.
    """

    def __init__(self, file: BinaryIO, step: int = 1 << 18, limit: int = 1 << 62) -> None:
        self.file, self.step, self.limit = file, step, limit
        self.marks: list[tuple[int, int, bytes, Any]] = []  # place, place in the file, bytes that wait, decompressor
        self._set(0, 0, b"", zlib.decompressobj(wbits=31))
        self._mark()

    def _set(self, place: int, packed: int, waiting: bytes, unpacker: Any) -> None:
        self.place = place  # of the next byte that is given out
        self.end = place  # of what was unpacked
        self.ready = b""
        self.packed, self.waiting, self.unpacker = packed, waiting, unpacker

    def _mark(self) -> None:
        self.marks.append((self.end, self.packed, self.waiting, self.unpacker.copy()))
        if len(self.marks) > MOST_MARKS:
            self.marks = self.marks[::2]
            self.step *= 2

    def _unpack(self) -> bool:
        """Unpacks some more; ``False`` at the end.

        Raises:
            zlib.error, EOFError: where the file is damaged or cut off, or unpacks to more than ``limit`` bytes.
        """
        if not self.waiting:
            self.file.seek(self.packed)
            self.waiting = self.file.read(PACKED)
            self.packed += len(self.waiting)
            if not self.waiting:
                raise EOFError("the file ends inside a member")
        self.ready = self.unpacker.decompress(self.waiting, UNPACKED)
        self.waiting = self.unpacker.unconsumed_tail
        self.end += len(self.ready)
        if self.end > self.limit:
            raise EOFError("it unpacks to more than it may")
        if self.unpacker.eof and not self._next_member():
            return bool(self.ready)
        if self.end >= self.marks[-1][0] + self.step:
            self._mark()
        return True

    def _next_member(self) -> bool:
        self.waiting = self.unpacker.unused_data.lstrip(b"\0")
        if not self.waiting:
            self.file.seek(self.packed)
            self.waiting = self.file.read(PACKED).lstrip(b"\0")
            self.packed = self.file.tell()
        if not self.waiting:
            return False
        self.unpacker = zlib.decompressobj(wbits=31)
        return True

    def _at_end(self) -> bool:
        return bool(self.unpacker.eof) and not self.waiting

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def seekable(self) -> bool:
        """Says that it can be read from any place."""
        return True

    def tell(self) -> int:
        """Returns the place of the next byte."""
        return self.place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place counted from the beginning; behind the end it stays there."""
        assert whence == io.SEEK_SET
        start = self.end - len(self.ready)
        mark = next(mark for mark in reversed(self.marks) if mark[0] <= place)
        if place < start or mark[0] > self.end:
            self._set(mark[0], mark[1], mark[2], mark[3].copy())
        while self.end < place and not self._at_end() and self._unpack():
            pass
        self.place = min(place, self.end)
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer; returns how many bytes."""
        while self.place >= self.end:
            if self._at_end() or not self._unpack():
                return 0
        start = len(self.ready) - (self.end - self.place)
        piece = self.ready[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
        super().close()
