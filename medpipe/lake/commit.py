"""How the files of a publish take the places of those before: by renames on a disk, by copies on an object store.

Both write a journal first. It names what is to be done and is the instant at which the publish is decided: who is
killed before it has changed nothing; what comes after it is finished by whoever comes next, as often as it takes.

**On a disk** (``Renames``) the lock of the partition keeps others away, and the system frees it when its owner dies.

**On a store** (``Copies``) there is no rename, and no lock that a stopped process would know it has lost. There:

1. The new files and the new manifest are put under a key of this publish alone, ``_staging/dt=…/TOKEN/``.
2. The journal is made with a conditional PUT, under the number that follows the generation of the manifest which the
   files were made from. So of two publishes made from one manifest a single one is decided; the other begins anew. A
   journal whose number the manifest has reached already is void.
3. Every staged file is copied over its final key, the manifest last; then the staging area is removed, then the
   journal. Journals are done in the order of their numbers.

Whoever wakes up late finds its staged files gone, and so can no longer copy anything over what came later.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from medpipe.errors import MedpipeError
from medpipe.lake import contracts, files
from medpipe.lake.warehouse import generation, journal_path, manifest_path, read_manifest, table_path
from medpipe.storage import as_store, on_store

ABANDONED = timedelta(days=1)  # a staging area without a journal is removed after this

log = logging.getLogger(__name__)


class Commit(Protocol):
    """A way of publishing files of one partition."""

    def is_pending(self) -> bool:
        """Says whether there may be something to settle."""

    def settle(self) -> None:
        """Finishes what is decided and not done; clears what never will be."""

    def staging(self) -> Any:
        """Gives a local folder for the new files."""

    def decide(self, staged: Mapping[str, Path], manifest: dict[str, Any], base: Mapping[str, Any] | None) -> bool:
        """Decides and does the publish; not if another was decided since ``base`` was the manifest."""


def commit_of(warehouse: Path, partition: str) -> Commit:
    """Returns how a partition of a warehouse is published."""
    return Renames(warehouse, partition) if as_store(warehouse) is None else Copies(warehouse, partition)


def _remove_earlier_majors(warehouse: Path, partition: str) -> None:
    """Removes the partition's files of earlier major versions: their rows are in the new files now.

    Who reads a whole folder, whatever its version, must not meet them twice.
    """
    for table in contracts.TABLES:
        final = table_path(warehouse, table, partition)
        for number in range(1, contracts.major(table)):
            (warehouse / table / f"v{number}" / f"dt={partition}" / final.name).unlink(missing_ok=True)


class Renames:
    """Renames within one file system, under the lock of the partition."""

    def __init__(self, warehouse: Path, partition: str) -> None:
        self.warehouse = warehouse
        self.partition = partition
        self.journal = journal_path(warehouse, partition)
        self.area = warehouse / "_work" / f"dt={partition}" / "publish"

    def is_pending(self) -> bool:
        """Says whether a journal stands or something was staged."""
        return self.journal.exists() or self.area.exists()

    def settle(self) -> None:
        """Does the renames of a journal that were not done yet, then the manifest; clears what has no journal."""
        with files.disk_faults(self.warehouse):
            if self.journal.exists():
                journal = files.read_json(self.journal)
                for staged, table in journal["renames"]:
                    final = table_path(self.warehouse, table, self.partition)
                    if (self.warehouse / staged).exists():  # else it was renamed before the kill
                        final.parent.mkdir(parents=True, exist_ok=True)
                        (self.warehouse / staged).replace(final)
                        files.sync(final.parent)
                files.write_json(manifest_path(self.warehouse, self.partition), journal["manifest"])
                _remove_earlier_majors(self.warehouse, self.partition)
                self.journal.unlink()
                files.sync(self.journal.parent)
        shutil.rmtree(self.area, ignore_errors=True)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Gives a folder on the warehouse's file system; it stays where a journal names its files."""
        try:
            with files.disk_faults(self.warehouse):
                shutil.rmtree(self.area, ignore_errors=True)
                self.area.mkdir(parents=True)
                yield self.area
        except BaseException:
            if not self.journal.exists():
                shutil.rmtree(self.area, ignore_errors=True)
            raise

    def decide(self, staged: Mapping[str, Path], manifest: dict[str, Any], base: Mapping[str, Any] | None) -> bool:
        """Writes the journal and does what it says; under the lock nobody else was decided."""
        renames = [[str(path.relative_to(self.warehouse)), table] for table, path in staged.items()]
        files.write_json(self.journal, {"renames": renames, "manifest": manifest})
        self.settle()
        return True


class Copies:
    """Copies within a store, in the order of numbered journals."""

    def __init__(self, warehouse: Path, partition: str) -> None:
        self.warehouse = warehouse
        self.partition = partition
        self.areas = warehouse / "_staging" / f"dt={partition}"

    def is_pending(self) -> bool:
        """Says whether a journal stands."""
        return bool(self._journals())

    def settle(self) -> None:
        """Does the copies of the journals, and removes journals that are done or void.

        Raises:
            MedpipeError: WAREHOUSE_INVALID where others removed files while they were copied.
        """
        for path in self._journals():
            with suppress(files.DamagedFileError):  # another one has done it, and it is gone
                journal = files.read_json(path)
                area = self.areas / journal["token"]
                # Read after the journal: a manifest that was read before may let a void one pass.
                if generation(self._manifest()) == journal["number"] - 1:
                    self._copy(area, journal)
                if generation(self._manifest()) == journal["number"]:
                    _remove_earlier_majors(self.warehouse, self.partition)
                files.remove_tree(area)
                path.unlink(missing_ok=True)

    def _copy(self, area: Path, journal: Mapping[str, Any]) -> None:
        there = {on_store(area).protocol + "://" + key.strip("/") for key in on_store(area).objects()}
        if any(str(area / name) not in there for name, _ in journal["copies"]):
            if generation(self._manifest()) < journal["number"]:  # else another one has done it
                log.warning("a publish of dt=%s is void: what it had staged is gone", self.partition)
            return
        try:
            for name, final in journal["copies"]:
                on_store(area / name).copy_to(on_store(self.warehouse / final))
        except FileNotFoundError:
            if generation(self._manifest()) < journal["number"]:
                reason = f"staged files of dt={self.partition} were removed while they were copied; run it again"
                raise MedpipeError("WAREHOUSE_INVALID", path=self.warehouse, reason=reason) from None

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Gives local scratch; what is in it is uploaded when the publish is decided."""
        with files.scratch() as folder, files.disk_faults(folder):
            yield folder

    def decide(self, staged: Mapping[str, Path], manifest: dict[str, Any], base: Mapping[str, Any] | None) -> bool:
        """Uploads the files, makes the journal and does what it says.

        Returns False, with nothing changed, where another publish was decided since ``base`` was read.
        """
        number = manifest["generation"] = generation(base) + 1
        token = uuid4().hex
        area = self.areas / token
        finals = {path.name: table_path(self.warehouse, table, self.partition) for table, path in staged.items()}
        finals["manifest.json"] = manifest_path(self.warehouse, self.partition)
        copies = [[name, str(final.relative_to(self.warehouse))] for name, final in finals.items()]
        journal = {"number": number, "token": token, "copies": copies}
        try:
            for path in staged.values():
                on_store(area / path.name).upload(path)
            files.write_json(area / "manifest.json", manifest)
            path = journal_path(self.warehouse, self.partition, number)
            decided = on_store(path).create(json.dumps(journal).encode())
        except BaseException:
            if not self._journals():  # else one may name these files: its answer may have been lost
                files.remove_tree(area)
            raise
        if not decided:
            files.remove_tree(area)
            return False
        self.settle()
        done = self._manifest() == json.loads(json.dumps(manifest))
        self._clear_abandoned()
        return done

    def _journals(self) -> list[Path]:
        return sorted((self.warehouse / "_manifests").glob(f".dt={self.partition}.*.publishing"))

    def _manifest(self) -> dict[str, Any] | None:
        return read_manifest(self.warehouse, self.partition)

    def _clear_abandoned(self) -> None:
        """Removes what publishes have staged that were killed before they were decided, by the clock of the store."""
        areas = sorted(self.areas.glob("*"))
        now = on_store(manifest_path(self.warehouse, self.partition)).modified() if areas else None
        for area in areas:
            times = [on_store(path).modified() for path in area.glob("*")]
            if now is not None and all(time is not None and now - time > ABANDONED for time in times):
                log.warning("%s is removed: it was staged by a publish that was never decided", area)
                files.remove_tree(area)
