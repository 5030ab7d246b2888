"""What a reader reads: the bytes of a file or of an archive's member."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol


class Refused(Exception):  # noqa: N818 (not an error of the program: a record of the input that cannot be taken)
    """What a reader raises where it cannot go on with a file: it becomes one row of ``quarantine``.

    ``code`` is one of ``medpipe.errors.CODES``, ``fields`` are those of its sentence: never note text.
    """

    def __init__(self, code: str, *, record: str = "0", **fields: object) -> None:
        super().__init__(code)
        self.code = code
        self.record = record
        self.fields = fields


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes to read, and the name that they go by.

    ``open`` gives a new stream from the first byte, which can seek. ``beside`` returns what a relative reference
    names, among what the same input holds (a file of the same run, a member of the same archive); ``None`` where the
    input does not hold it. Nothing else is ever opened: no path that a document names, no address.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None  # bytes; None where only reading tells
    beside: Callable[[str], Content | None] = field(default=lambda reference: None)

    @property
    def suffix(self) -> str:
        """The last suffix of the name in lower case: ``.json``."""
        return posixpath.splitext(self.name)[1].lower()

    def head(self, size: int) -> bytes:
        """Returns the first bytes."""
        with self.open() as stream:
            return stream.read(size)

    def read(self, limit: int) -> bytes:
        """Returns all bytes.

        Raises:
            Refused: SOURCE_TOO_LARGE where there are more than ``limit``.
        """
        if self.size is None or self.size <= limit:
            with self.open() as stream:
                raw = stream.read(limit + 1)
            if len(raw) <= limit:
                return raw
        raise Refused("SOURCE_TOO_LARGE", limit=limit >> 20)


def bytes_content(name: str, raw: bytes) -> Content:
    """Returns bytes in memory as content."""
    return Content(name, lambda: io.BytesIO(raw), len(raw))


class Readable(Protocol):
    """A source of the run, or a member of an archive."""

    @property
    def name(self) -> str:
        """The path by which others may name it."""

    @property
    def open(self) -> Callable[[], BinaryIO]:
        """Gives a new stream from the first byte, which can seek."""
