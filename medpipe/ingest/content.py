"""What a reader reads: the bytes of a file or of an archive's member, and what else lies in the same input."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from medpipe.ingest.sources import Source

if TYPE_CHECKING:
    from medpipe.ingest.fhir.binaries import Binaries


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


class Inputs:
    """All sources of a run, by name: where references from one of them to another are resolved.

    An archive has inputs of its own, which are its ``members``.
    """

    def __init__(
        self, sources: Sequence[Source] = (), members: Sequence[Readable] = (), around: Inputs | None = None
    ) -> None:
        self.by_name: Mapping[str, Source] = {source.name: source for source in sources}
        self.members = members
        self.around = around
        self.memo: dict[str, Any] = {}  # what readers keep of one source for the others

    def inside(self, members: Sequence[Readable]) -> Inputs:
        """Returns the inputs of an archive's members: what they do not hold themselves is looked for around them."""
        return Inputs(members=members, around=self)

    def find_binary(self, key: str) -> Mapping[str, Any] | None:
        """Returns the Binary resource with an id, from whatever FHIR file of the input holds it."""
        found = self._binaries.find(key)
        return found if found is not None or self.around is None else self.around.find_binary(key)

    def is_attached(self, key: str) -> bool:
        """Says whether an attachment anywhere in the input names the Binary resource with an id."""
        return self._binaries.is_attached(key) or (self.around is not None and self.around.is_attached(key))

    @cached_property
    def _binaries(self) -> Binaries:
        from medpipe.ingest.fhir.binaries import Binaries

        return Binaries([*self.by_name.values(), *self.members])

    @cached_property
    def attached(self) -> set[str]:
        """The names of the sources that are attachments of resources in FHIR files among the sources."""
        from medpipe.ingest.fhir.binaries import attached_files

        return attached_files(list(self.by_name.values())) if len(self.by_name) > 1 else set()

    def content(self, source: Source) -> Content:
        """Returns a source as content."""

        def beside(reference: str) -> Content | None:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(source.name), reference.replace("\\", "/")))
            other = self.by_name.get(name)
            return self.content(other) if other is not None else None

        path: Path = source.path
        return Content(posixpath.basename(source.name), lambda: path.open("rb"), path.stat().st_size, beside)
