"""What there is to read: files, folders, patterns and URLs become sources with a name that no machine decides."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from medpipe.errors import MedpipeError
from medpipe.lake import files
from medpipe.storage import as_location, as_store, is_url


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read. ``name`` is its path below the input's root, with forward slashes; it goes into ids.

    The root itself does not: notes keep their ids when a landing folder moves, also to a store.
    """

    path: Path  # local, or of a store
    name: str

    def open(self) -> BinaryIO:
        """Opens the file from its first byte."""
        return self.path.open("rb", buffering=1 << 18)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Returns the files that the inputs (paths, patterns and URLs of stores) name, sorted by name, each file once.

    A file is known by its file name, a file in a folder by its path below that folder, a file of a pattern by its
    path below the pattern's fixed beginning. Names that begin with ``.`` or ``_`` are left out of folders (they are
    other programs' notes to themselves).

    Raises:
        MedpipeError: INPUT_NOT_FOUND, INPUT_EMPTY, INPUT_UNREADABLE; SETTING_INVALID where two different files would
            have the same name (their rows would replace each other).
    """
    found: dict[str, Source] = {}
    for text in inputs:
        for source in _expand_url(text) if is_url(text) else _expand(text):
            other = found.setdefault(source.name, source)
            if other.path.resolve() != source.path.resolve():
                reason = f"two inputs have the name {source.name}; give the folder that holds both"
                raise MedpipeError("SETTING_INVALID", name="PATH", reason=reason)
    return [found[name] for name in sorted(found)]


def _expand(text: str) -> Iterator[Source]:
    path = Path(text)
    if path.is_dir():
        found = list(_walk(path))
        if not found:
            raise MedpipeError("INPUT_EMPTY", path=text)
        yield from (Source(file, file.relative_to(path).as_posix()) for file in found)
    elif path.exists():
        yield Source(path, path.name)
    elif glob.has_magic(text):
        fixed = Path(*_fixed_parts(path))
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (its pattern may be absolute)
        found = [match for match in matches if match.is_file()]
        if not found:
            raise MedpipeError("INPUT_NOT_FOUND", path=text)
        yield from (Source(file, file.relative_to(fixed).as_posix()) for file in found)
    else:
        raise MedpipeError("INPUT_NOT_FOUND", path=text)


def _expand_url(text: str) -> Iterator[Source]:
    place = as_location(text)
    if as_store(place) is None:
        yield from _expand(str(place))
        return
    if place.is_file():
        yield Source(place, place.name)
        return
    parts = text.rstrip("/").split("/")
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    root = as_location("/".join(parts[:fixed]))
    if fixed < len(parts):
        found = [path for path in root.glob("/".join(parts[fixed:])) if path.is_file()]
    else:
        found = [path for path in root.rglob("*") if not _is_left_out(path.relative_to(root))]
    if not found:
        raise MedpipeError("INPUT_NOT_FOUND", path=text)
    yield from (Source(path, path.relative_to(root).as_posix()) for path in found)


def _is_left_out(path: PurePath) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


@contextmanager
def fetched(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Gives the sources with those of a store as local files, for as long as the block lasts.

    Raises:
        MedpipeError: DISK_FULL; INPUT_UNREADABLE where one is gone; STORE_REFUSED, STORE_UNREACHABLE.
    """
    if all(as_store(source.path) is None for source in sources):
        yield list(sources)
        return
    with files.scratch() as folder, files.disk_faults(folder):
        yield [_fetch(source, folder / str(number)) for number, source in enumerate(sources)]


def _fetch(source: Source, local: Path) -> Source:
    store = as_store(source.path)
    if store is None:
        return source
    try:
        store.download(local)
    except FileNotFoundError as error:
        raise MedpipeError("INPUT_UNREADABLE", path=source.path, reason="it is gone") from error
    return Source(local, source.name)


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
