"""Files of ours: Parquet and JSON, written aside, synced and renamed, so that a reader sees all of a file or none.

Faults of the disk become errors that a user can act on; the file that was there before stays as it was. On an object
store a file is written to local scratch and uploaded whole, which is as atomic there.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file
from medpipe.lake.lease import leased
from medpipe.storage import as_store, store_faults

LOCK_SECONDS = 60.0  # how long one waits for a lock

# Rows that a row group holds: about 100 MB of text, or 100,000 narrow rows, decompressed.
ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 100 << 20


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into DISK_FULL or PERMISSION_DENIED."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MedpipeError("DISK_FULL", path=path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MedpipeError("PERMISSION_DENIED", path=path) from error
        raise


class DamagedFileError(Exception):
    """A file of ours that is cut off, changed or gone. Its message holds no more than its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(path.name)


@contextmanager
def damage_found(path: Path) -> Iterator[None]:
    """Turns what reading a damaged file raises into ``DamagedFileError``; faults of the disk pass."""
    try:
        yield
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError):
        raise DamagedFileError(path) from None  # the cause may quote what the file holds
    except OSError as error:
        if error.errno is None:  # Arrow's word for a page that is not what was written
            raise DamagedFileError(path) from None
        raise


@contextmanager
def opened(path: Path) -> Iterator[Path | IO[bytes]]:
    """Gives what Arrow reads: the path, or an object of a store as a stream."""
    store = as_store(path)
    if store is None:
        yield path
    else:
        with store_faults(path), store.open() as stream:
            yield stream


@contextmanager
def locked(path: Path, busy: MedpipeError) -> Iterator[bool]:
    """Holds the lock of a file; the system frees the lock of a process that is killed. Gives whether it had to wait.

    On a store the lock is freed when nobody renews it (``lease``).

    Raises:
        MedpipeError: ``busy`` after LOCK_SECONDS; DISK_FULL, PERMISSION_DENIED; STORE_REFUSED, STORE_UNREACHABLE.
    """
    if (store := as_store(path)) is not None:
        with leased(store, busy, wait=LOCK_SECONDS) as waited:
            yield waited
        return
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        deadline = time.monotonic() + LOCK_SECONDS
        waited = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise busy from None
                waited = True
                time.sleep(0.05)
        yield waited


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives a local path to write to; when the block ends, what was written takes the place of ``path``."""
    if (store := as_store(path)) is not None:
        with scratch() as folder:
            aside = folder / path.name
            with disk_faults(folder):
                yield aside
            store.upload(aside)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            sync(aside)
            aside.replace(path)
            sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Gives a local folder that is gone when the block ends."""
    with disk_faults(Path(tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(dir=_own_scratch(os.getpid())))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _own_scratch(pid: int) -> Path:
    """Makes this process's folder for scratch, and removes those of processes that were killed: they may hold notes.

    A folder whose lock is free belongs to nobody.
    """
    for lock in Path(tempfile.gettempdir()).glob("medpipe-scratch-*/lock"):
        try:
            with lock.open("r+") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, another user's, or gone
            continue
    folder = Path(tempfile.mkdtemp(prefix="medpipe-scratch-"))
    descriptor = os.open(folder / "lock.new", os.O_CREAT | os.O_RDWR, 0o600)  # open as long as the process lasts
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / "lock.new").rename(folder / "lock")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remove_tree(path: Path, *, strict: bool = False) -> None:
    """Removes a folder and all that is in it, as far as it is there; ``strict`` raises what the disk refuses."""
    if (store := as_store(path)) is not None:
        store.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=not strict)


def hash_bytes_of(path: Path) -> str:
    """Returns the hash of a file's bytes; raises FileNotFoundError."""
    if (store := as_store(path)) is None:
        return hash_file(str(path))
    with scratch() as folder:
        store.download(folder / "whole")
        return hash_file(str(folder / "whole"))


def digest_of(path: Path) -> str:
    """Returns what changes when a file's content does: the hash of its bytes, or what the store calls them."""
    store = as_store(path)
    told = store.version() if store is not None else None
    return told or hash_bytes_of(path)


def sync(path: Path) -> None:
    """Makes sure that a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DamagedFileError: where it is none, or not there.
    """
    with damage_found(path):
        return json.loads(path.read_text(encoding="utf-8"))


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Opens a Parquet file for writing, the way all our files are written."""
    return pq.ParquetWriter(
        path, schema, compression="zstd", write_page_index=True, write_page_checksum=True, version="2.6"
    )


def write_rows(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """Writes a table in row groups of a bounded size."""
    rows = min(ROW_GROUP_ROWS, max(1, ROW_GROUP_BYTES * max(1, len(table)) // max(1, table.nbytes)))
    writer.write_table(table, row_group_size=rows)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file atomically; also when there are no rows.

    Raises:
        MedpipeError: DISK_FULL, PERMISSION_DENIED.
    """
    with written_aside(path) as aside, open_writer(aside, table.schema) as writer:
        write_rows(writer, table)


def read_table(path: Path) -> pa.Table:
    """Reads a whole Parquet file and compares its pages with their checksums.

    Raises:
        DamagedFileError: where it is none, not there, or not what was written.
    """
    with damage_found(path):
        store = as_store(path)
        source = path if store is None else pa.BufferReader(store.read_bytes())
        return pq.read_table(source, partitioning=None, page_checksum_verification=True)


def iter_file(path: Path, batch_rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields a Parquet file in tables of at most ``batch_rows`` rows; raises ``DamagedFileError``."""
    with (
        damage_found(path),
        opened(path) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as file,
    ):
        for batch in file.iter_batches(batch_rows, columns=list(columns) if columns is not None else None):
            yield pa.Table.from_batches([batch])


def write_once_read(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes a local Parquet file that is read once and in order, a row group a table.

    It has nothing that helps to find rows: a reader holds the footers of many such files, and statistics fill them.
    """
    with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False, version="2.6") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=len(table))


def count_rows(path: Path) -> int:
    """Returns the number of rows of a Parquet file, from its footer; raises ``DamagedFileError``."""
    with damage_found(path), opened(path) as source:
        return int(pq.read_metadata(source).num_rows)


def read_schema(path: Path) -> pa.Schema:
    """Returns the schema of a Parquet file."""
    with opened(path) as source:
        return pq.read_schema(source)
