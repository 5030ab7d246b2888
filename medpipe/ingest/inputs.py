"""All that a run reads, by name: where a reference from one file to another is resolved."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from medpipe.ingest.content import Content, Readable
from medpipe.ingest.fhir.binaries import Binaries, attached_files
from medpipe.ingest.sources import Source


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
        return Binaries([*self.by_name.values(), *self.members])

    @cached_property
    def attached(self) -> set[str]:
        """The names of the sources that are attachments of resources in FHIR files among the sources."""
        return attached_files(list(self.by_name.values())) if len(self.by_name) > 1 else set()

    def content(self, source: Source) -> Content:
        """Returns a source as content."""

        def beside(reference: str) -> Content | None:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(source.name), reference.replace("\\", "/")))
            other = self.by_name.get(name)
            return self.content(other) if other is not None else None

        path: Path = source.path
        return Content(posixpath.basename(source.name), lambda: path.open("rb"), path.stat().st_size, beside)
