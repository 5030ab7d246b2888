"""Files of ours: Parquet and JSON, written aside, synced and renamed, so that a reader sees all of a file or none.

Faults of the disk become errors that a user can act on; the file that was there before stays as it was.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medpipe.errors import MedpipeError

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
def locked(path: Path, busy: MedpipeError) -> Iterator[bool]:
    """Holds the lock of a file; the system frees the lock of a process that is killed. Gives whether it had to wait.

    Raises:
        MedpipeError: ``busy`` after LOCK_SECONDS; DISK_FULL, PERMISSION_DENIED.
    """
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
    """Gives a path to write to; when the block ends, what was written is synced and takes the place of ``path``."""
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
        return pq.read_table(path, partitioning=None, page_checksum_verification=True)


def iter_file(path: Path, batch_rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields a Parquet file in tables of at most ``batch_rows`` rows; raises ``DamagedFileError``."""
    with damage_found(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_rows, columns=list(columns) if columns is not None else None):
            yield pa.Table.from_batches([batch])


def count_rows(path: Path) -> int:
    """Returns the number of rows of a Parquet file, from its footer; raises ``DamagedFileError``."""
    with damage_found(path):
        return int(pq.read_metadata(path).num_rows)
