"""What there is to read: files, folders and patterns become sources with a name that no machine decides."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medpipe.errors import MedpipeError


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read. ``name`` is its path below the input's root, with forward slashes; it goes into ids."""

    path: Path
    name: str

    def open(self) -> BinaryIO:
        """Opens the file from its first byte."""
        return self.path.open("rb", buffering=1 << 18)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Returns the files that the inputs name, sorted by name, each file once.

    A file is known by its file name, a file in a folder by its path below that folder, a file of a pattern by its
    path below the pattern's fixed beginning. Names that begin with ``.`` or ``_`` are left out of folders (they are
    other programs' notes to themselves).

    Raises:
        MedpipeError: INPUT_NOT_FOUND, INPUT_EMPTY, INPUT_UNREADABLE; SETTING_INVALID where two different files would
            have the same name (their rows would replace each other).
    """
    found: dict[str, Source] = {}
    for text in inputs:
        for source in _expand(text):
            other = found.setdefault(source.name, source)
            if other.path.resolve() != source.path.resolve():
                reason = f"two inputs have the name {source.name}; give the folder that holds both"
                raise MedpipeError("SETTING_INVALID", name="PATH", reason=reason)
    return [found[name] for name in sorted(found)]


def _expand(text: str) -> Iterator[Source]:
    path = Path(text)
    if path.is_dir():
        files = list(_walk(path))
        if not files:
            raise MedpipeError("INPUT_EMPTY", path=text)
        yield from (Source(file, file.relative_to(path).as_posix()) for file in files)
    elif path.exists():
        yield Source(path, path.name)
    elif glob.has_magic(text):
        fixed = Path(*_fixed_parts(path))
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (its pattern may be absolute)
        files = [match for match in matches if match.is_file()]
        if not files:
            raise MedpipeError("INPUT_NOT_FOUND", path=text)
        yield from (Source(file, file.relative_to(fixed).as_posix()) for file in files)
    else:
        raise MedpipeError("INPUT_NOT_FOUND", path=text)


def _fixed_parts(path: Path) -> Iterator[str]:
    for part in path.parts:
        if glob.has_magic(part):
            return
        yield part


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise MedpipeError("INPUT_UNREADABLE", path=error.filename, reason=error.strerror) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(names):
            if not name.startswith((".", "_")):
                yield Path(place) / name
