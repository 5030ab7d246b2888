"""What unpacks: streams that count, that can seek, and whose damages are refusals; and how much may be unpacked.

What a hostile archive can cost is bounded by the size of the file that holds it: all members together may unpack to
``RATIO`` times that size, each to ``RATIO`` times what it takes in the archive; small ones are free.
"""

from __future__ import annotations

import errno
import gzip
import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

from medpipe.ingest.content import Content, Refused

MAX_DEPTH = 3
MAX_MEMBERS = 200_000
RATIO = 100  # text seldom packs better than 1 : 30
FREE_ALL = 256 << 20  # bytes that all members may unpack to, whatever the size of the archive
FREE_ONE = 64 << 20  # bytes that a member may unpack to, whatever it takes in the archive
IN_MEMORY = 32 << 20  # bytes of a nested archive; larger ones go to a temporary file
CHUNK = 1 << 18


class Allowance:
    """How much may still be unpacked of a file of the run; nested archives share it."""

    def __init__(self, size: int) -> None:
        self.limit = max(FREE_ALL, RATIO * size)
        self.bytes_left = [self.limit]  # shared, like the members left
        self.members_left = [MAX_MEMBERS]
        self.depth = 1

    def inside(self) -> Allowance:
        """Returns the allowance of an archive in this one.

        Raises:
            Refused: ARCHIVE_TOO_DEEP.
        """
        inner = Allowance(0)
        inner.limit, inner.bytes_left, inner.members_left = self.limit, self.bytes_left, self.members_left
        inner.depth = self.depth + 1
        if inner.depth > MAX_DEPTH:
            raise Refused("ARCHIVE_TOO_DEEP", limit=MAX_DEPTH)
        return inner

    def take(self, size: int) -> None:
        """Counts unpacked bytes.

        Raises:
            Refused: ARCHIVE_TOO_LARGE.
        """
        self.bytes_left[0] -= size
        self.check()

    def check(self) -> None:
        """Raises Refused (ARCHIVE_TOO_LARGE) where more was unpacked than may be."""
        if self.bytes_left[0] < 0:
            raise Refused("ARCHIVE_TOO_LARGE", limit=f"{self.limit >> 20} MiB")

    def take_members(self, count: int) -> None:
        """Counts members; raises Refused like ``take``."""
        self.members_left[0] -= count
        if self.members_left[0] < 0:
            raise Refused("ARCHIVE_TOO_LARGE", limit=f"{MAX_MEMBERS:,} members")


# What the modules raise on damaged archives. BadGzipFile is an OSError, but says nothing of the disk; RuntimeError is
# for a password, NotImplementedError for a way of packing, and the rest for broken headers.
DAMAGES = (
    zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError,
    OverflowError, struct.error,
)  # fmt: skip


def of_archive(error: OSError) -> Exception:
    """Returns the refusal where a damaged archive made zipfile seek to a place before the file's beginning."""
    return Refused("ARCHIVE_INVALID") if error.errno == errno.EINVAL else error


@dataclass(slots=True)
class Packed:
    """Something packed: how to unpack it, and how much of it was unpacked so far by all who read it."""

    unpack: Callable[[], io.BufferedIOBase]
    size: int
    unpacked: int | None  # bytes, as the archive says; None where it says nothing
    allowance: Allowance
    farthest: int = 0

    def open(self) -> BinaryIO:
        """Returns a new stream from the first byte, which can seek."""
        return cast(BinaryIO, io.BufferedReader(_Unpacking(self), CHUNK))

    def count(self, place: int) -> None:
        """Counts the bytes before a place, each once; raises Refused (ARCHIVE_TOO_LARGE) where they are too many."""
        if place > self.farthest:
            new, self.farthest = place - self.farthest, place
            self.allowance.take(new)
            limit = max(FREE_ONE, RATIO * self.size)
            if place > limit:
                raise Refused("ARCHIVE_TOO_LARGE", limit=f"{limit >> 20} MiB a member")


class _Unpacking(io.RawIOBase):
    """A stream of what unpacks: back is by beginning again, and damages are ``Refused``."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.packed, self.unpack = packed, packed.unpack
        self.stream: io.BufferedIOBase | None = None
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        try:
            if self.stream is None:
                self.stream = self.unpack()
            # Not more than is counted before more is unpacked, and what there is before the damage.
            data = self.stream.read1(min(size, CHUNK))
        except DAMAGES as error:
            raise Refused("ARCHIVE_INVALID") from error
        except OSError as error:
            raise of_archive(error) from error
        self.at += len(data)
        self.packed.count(self.at)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            while self._read(CHUNK):
                pass
            offset += self.at
        elif whence == io.SEEK_CUR:
            offset += self.at
        if offset < self.at:
            self._begin_again()
        while self.at < offset and self._read(min(CHUNK, offset - self.at)):
            pass
        return self.at

    def _begin_again(self) -> None:
        """Begins at the first byte again; a reader that goes back gets a small member from memory."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        self.at = 0
        if self.packed.unpacked is not None and self.packed.unpacked <= IN_MEMORY:
            parts = []
            while part := self._read(CHUNK):
                parts.append(part)
            raw = b"".join(parts)
            self.unpack, self.stream, self.at = (lambda: io.BytesIO(raw)), None, 0

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        super().close()


class _Gunzip(gzip.GzipFile):
    """Closes the packed stream too."""

    def close(self) -> None:
        packed = getattr(self, "fileobj", None)
        super().close()
        if packed is not None:
            packed.close()


def gunzip(content: Content, allowance: Allowance) -> Packed:
    """Returns what gzip packed (RFC 1952, also of several members)."""
    return Packed(lambda: _Gunzip(fileobj=content.open()), content.size or 0, None, allowance)


def spooled(content: Content) -> BinaryIO:
    """Unpacks a file to a temporary one without a name, which can be read back and forth cheaply."""
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (the caller closes it)
    try:
        with content.open() as stream:
            while part := stream.read(CHUNK):
                file.write(part)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)
