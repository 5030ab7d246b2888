"""The folder of an export: there whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medpipe.errors import MedpipeError
from medpipe.lake import files, warehouse


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to write to; when the block ends, it takes the place of ``out``.

    Raises:
        MedpipeError: OUTPUT_EXISTS where ``out`` is there and not empty, so that nobody's work is lost; DISK_FULL,
            PERMISSION_DENIED.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedpipeError("OUTPUT_EXISTS", path=out)
    aside = out.with_name(f".{out.name}.partial")
    with files.disk_faults(out):
        shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
        aside.mkdir(parents=True)
        yield aside
        aside.replace(out)


def check_partitions(root: Path, partition: str | None) -> list[str]:
    """Returns the partitions to export: the one that is named, or all.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where it, or any, is not there.
    """
    known = warehouse.partitions(root)
    if not known or (partition is not None and partition not in known):
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason=f"no partition {partition or 'at all'}")
    return known if partition is None else [partition]
