"""The publish protocol without renames: on an S3 server, and over fsspec's interface in memory."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from medpipe.errors import MedpipeError
from medpipe.lake import commit, contracts, files, lease, publish, warehouse
from medpipe.lake.publish import publish_partition, recover
from medpipe.storage import StorePath, as_location, on_store
from tests.lake.invented import PARTITION, publish_input, rows_of

STORES = {"memory": "memory", "s3": "bucket", "gs": "gs_bucket", "abfs": "azure_bucket"}
MORE = pytest.mark.stores


@pytest.fixture(params=["memory", "s3", pytest.param("gs", marks=MORE), pytest.param("abfs", marks=MORE)])
def root(request: pytest.FixtureRequest) -> Path:
    """A warehouse on a store."""
    return as_location(request.getfixturevalue(STORES[request.param]) + "/lake")


def tables_of(root: Path) -> dict[str, list[dict[str, Any]]]:
    return {table: warehouse.read_table(root, table, partition=PARTITION).to_pylist() for table in contracts.TABLES}


def expected(tmp_path: Path, *inputs: tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
    """The tables that a disk holds after the same publishes."""
    root = tmp_path / "expected"
    for number, (rows, options) in enumerate(inputs):
        publish_partition(publish_input(root, tmp_path / f"e{number}", rows, **options))
    return tables_of(root)


def left_over(root: Path) -> list[str]:
    """What a publish should have cleared."""
    keys = [key for key in on_store(root).objects() if "/_staging/" in key or ".publishing" in key or ".lock" in key]
    return [key.rsplit("/lake/", 1)[-1] for key in keys]


def test_published_rows_are_those_of_a_disk(root: Path, tmp_path: Path) -> None:
    a, b, better = rows_of("a.txt", 7), rows_of("b.txt", 3), rows_of("a.txt", 5, model="tagger@2", entities=1)
    for number, rows in enumerate((a, b, better)):
        manifest = publish_partition(publish_input(root, tmp_path / f"w{number}", rows))
        assert manifest == warehouse.read_manifest(root, PARTITION)
        assert warehouse.generation(manifest) == number + 1
    assert tables_of(root) == expected(tmp_path, (a, {}), (b, {}), (better, {}))
    assert warehouse.check(root) == [] and warehouse.partitions(root) == [PARTITION]
    assert left_over(root) == []
    assert warehouse.read_partition(root, PARTITION)["documents"].num_rows == 8


class Killed(BaseException):
    """Stands for SIGKILL: nothing that follows is run."""


WRITES = ("upload", "create", "copy_to", "write_bytes")


@contextlib.contextmanager
def killed_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets ``step`` requests that change the store pass, and none afterwards."""
    done = 0

    def counted(name: str) -> Any:
        real = getattr(StorePath, name)

        def method(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            if done >= step:
                raise Killed
            done += 1
            return real(*arguments, **options)

        return method

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for name in (*WRITES, "unlink", "remove_tree"):
            patch.setattr(StorePath, name, counted(name))
        yield


# Requests: lock 1, files and manifest 2 to 9, journal 10, copies 11 to 18, area 19, journal gone 20, lock gone 21.
STEPS = (0, 1, 4, 9, 10, 11, 14, 17, 18, 19, 20)


def test_killed_before_any_request_and_recovered(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = rows_of("a.txt", 4), rows_of("a.txt", 4, model="tagger@2")
    after = expected(tmp_path, (first, {}), (second, {}))
    root = as_location(memory + "/lake")
    old, new = publish_input(root, tmp_path / "wa", first), publish_input(root, tmp_path / "wb", second)
    for step in STEPS:
        publish_partition(old)
        with killed_after(step, monkeypatch):
            publish_partition(new)
        with monkeypatch.context() as patch:
            patch.setattr(lease, "LEASE_SECONDS", 0.02)
            patch.setattr(lease, "POLL_SECONDS", 0.01)
            recover(root, PARTITION)
        models = set(warehouse.read_table(root, "entities", partition=PARTITION)["model"].to_pylist())
        assert models == {"tagger@2" if step >= 10 else "tagger@1"}, step
        assert warehouse.check(root) == [], step
        assert warehouse.read_partition(root, PARTITION, ("documents",))["documents"].num_rows == 4
        with monkeypatch.context() as patch:
            patch.setattr(lease, "LEASE_SECONDS", 0.02)
            publish_partition(new)
        assert tables_of(root) == after, step
        assert not [key for key in left_over(root) if ".publishing" in key or ".lock" in key]


def test_of_two_publishes_made_from_one_manifest_one_begins_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the lock was lost: both rows are there, none twice."""
    a, b, c = rows_of("a.txt", 3), rows_of("b.txt", 2), rows_of("c.txt", 4)
    publish_partition(publish_input(root, tmp_path / "w0", c))
    inputs = [publish_input(root, tmp_path / f"w{name}", rows) for name, rows in (("a", a), ("b", b))]
    monkeypatch.setattr(publish, "partition_lock", lambda *_: contextlib.nullcontext())
    meeting = threading.Barrier(2, timeout=30)
    staged = publish._stage
    first = threading.local()

    def stage_together(*arguments: Any) -> Any:
        made = staged(*arguments)
        if not getattr(first, "met", False):
            first.met = True
            meeting.wait()
        return made

    monkeypatch.setattr(publish, "_stage", stage_together)
    failures: list[BaseException] = []

    def work(new: Any) -> None:
        try:
            publish_partition(new)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(new,)) for new in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(publish, "_stage", staged)
    assert not failures, failures
    assert tables_of(root) == expected(tmp_path, (c, {}), (a, {}), (b, {}))
    assert warehouse.check(root) == [] and left_over(root) == []
    assert warehouse.generation(warehouse.read_manifest(root, PARTITION)) == 3


def test_who_wakes_up_late_changes_nothing(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at its third copy, while another one finishes its publish and then publishes more."""
    root = as_location(memory + "/lake")
    a, b, c = rows_of("a.txt", 3), rows_of("a.txt", 5, model="tagger@2"), rows_of("a.txt", 2, model="tagger@3")
    publish_partition(publish_input(root, tmp_path / "wa", a))
    late, later = publish_input(root, tmp_path / "wb", b), publish_input(root, tmp_path / "wc", c)
    monkeypatch.setattr(publish, "partition_lock", lambda *_: contextlib.nullcontext())
    real = StorePath.copy_to
    copies = 0

    def copy_to(self: StorePath, other: StorePath) -> None:
        nonlocal copies
        copies += 1
        if copies == 3:
            publish_partition(later)
        real(self, other)

    monkeypatch.setattr(StorePath, "copy_to", copy_to)
    publish_partition(late)
    monkeypatch.undo()
    # The late one was decided first and overtaken. It cannot know that, and publishes what it has once more, whole.
    found = tables_of(root)
    assert found in (
        expected(tmp_path / "1", (a, {}), (b, {}), (c, {})), expected(tmp_path / "2", (a, {}), (c, {}), (b, {}))
    )  # fmt: skip
    assert warehouse.check(root) == [] and left_over(root) == []


def test_a_void_journal_is_removed_and_keeps_no_reader_waiting(root: Path, tmp_path: Path) -> None:
    """That of a process that slept between reading the manifest and deciding, and was then killed."""
    publish_partition(publish_input(root, tmp_path / "wa", rows_of("a.txt", 3)))
    before = tables_of(root)
    area = root / "_staging" / f"dt={PARTITION}" / "late"
    on_store(area / "documents.parquet").write_bytes(b"late")
    final = str(warehouse.table_path(root, "documents", PARTITION).relative_to(root))
    journal = {"number": 1, "token": "late", "copies": [["documents.parquet", final]]}
    path = on_store(warehouse.journal_path(root, PARTITION, 1))
    assert path.create(json.dumps(journal).encode())
    assert warehouse.read_partition(root, PARTITION, ("documents",))["documents"].num_rows == 3
    recover(root, PARTITION)
    assert tables_of(root) == before and left_over(root) == []


def test_a_journal_whose_files_are_gone_is_void(root: Path, tmp_path: Path) -> None:
    publish_partition(publish_input(root, tmp_path / "wa", rows_of("a.txt", 3)))
    before = tables_of(root)
    journal = {"number": 2, "token": "gone", "copies": [["manifest.json", "_manifests/x.json"]]}
    on_store(warehouse.journal_path(root, PARTITION, 2)).write_bytes(json.dumps(journal).encode())
    recover(root, PARTITION)
    assert tables_of(root) == before and left_over(root) == []


def test_what_was_staged_and_never_decided_goes_after_a_day(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_store(root / "_staging" / f"dt={PARTITION}" / "old" / "documents.parquet").write_bytes(b"old")
    publish_partition(publish_input(root, tmp_path / "wa", rows_of("a.txt", 3)))
    assert len(left_over(root)) == 1, "it may be of a publish that goes on"
    monkeypatch.setattr(commit, "ABANDONED", timedelta(seconds=-2))
    publish_partition(publish_input(root, tmp_path / "wb", rows_of("a.txt", 3)))
    assert left_over(root) == []


def test_a_reader_in_a_loop_sees_one_whole_state_or_the_other(root: Path, tmp_path: Path) -> None:
    states = [publish_input(root, tmp_path / f"w{n}", rows_of("a.txt", n, model=f"tagger@{n}")) for n in (3, 5)]
    publish_partition(states[0])
    wrong: list[str] = []
    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                tables = warehouse.read_partition(root, PARTITION, ("documents", "entities"))
            except BaseException as error:
                wrong.append(repr(error))
                return
            notes = len(tables["documents"])
            seen.add(notes)
            models = set(tables["entities"]["model"].to_pylist())
            if (len(tables["entities"]), models) != (2 * notes, {f"tagger@{notes}"}):
                wrong.append(f"{notes} notes, {len(tables['entities'])} entities, {models}")

    reader = threading.Thread(target=read)
    reader.start()
    turn, deadline = 0, time.monotonic() + 20
    while turn < 4 or (seen != {3, 5} and time.monotonic() < deadline and not wrong):
        turn += 1
        publish_partition(states[turn % 2])
    stop.set()
    reader.join()
    assert not wrong, wrong[:3]
    assert seen == {3, 5}


def test_a_lock_is_waited_for_renewed_and_taken_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(files, "LOCK_SECONDS", 1.2)
    path, busy = root / "some.lock", MedpipeError("PARTITION_BUSY", partition=PARTITION)
    with files.locked(path, busy) as waited:
        assert not waited
        with pytest.raises(MedpipeError, match="PARTITION_BUSY"), files.locked(path, busy):
            raise AssertionError("two owners: the lock was not renewed")
    assert not path.exists()
    on_store(path).write_bytes(b'{"owner": "killed", "beat": 7}')  # nobody renews it
    with files.locked(path, busy) as waited:
        assert waited
    assert not path.exists()


def test_a_store_without_conditional_puts_is_refused(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = as_location(memory + "/lake")
    new = publish_input(root, tmp_path / "w", rows_of("a.txt", 2))
    kind = type(on_store(root).fs)
    real = kind.pipe_file
    monkeypatch.setattr(kind, "pipe_file", lambda self, path, value, mode="overwrite": real(self, path, value))
    with pytest.raises(MedpipeError, match="STORE_UNFIT"):
        publish_partition(new)
    assert on_store(root).objects() == []


def test_only_one_creates_an_object_and_a_request_sent_twice_is_one(root: Path) -> None:
    path = on_store(root / "journal")
    assert path.create(b"mine") and path.create(b"mine")
    assert not path.create(b"yours")
    assert path.read_bytes() == b"mine"


def test_paths_of_a_store(root: Path) -> None:
    for name in ("a/b/x.json", "a/c/x.json", "a/c/y.txt", "z.txt"):
        on_store(root / name).write_bytes(name.encode())

    def names(paths: Any) -> list[str]:
        return [str(path.relative_to(root)) for path in paths]

    assert names(root.glob("a/*")) == ["a/b", "a/c"] and names(root.glob("a/*/x.json")) == ["a/b/x.json", "a/c/x.json"]
    assert names(root.rglob("*.txt")) == ["a/c/y.txt", "z.txt"] and names(root.glob("no/*")) == []
    assert (root / "a").is_dir() and not (root / "a").is_file() and (root / "z.txt").is_file()
    assert not (root / "q").exists() and not (root / "q").is_dir()
    place = root / "a/c/y.txt"
    assert (place.name, place.stem, place.suffix, place.parent.name) == ("y.txt", "y", ".txt", "c")
    assert root in place.parents and place.with_suffix(".lock").name == "y.lock" and place.with_name("q").name == "q"
    assert place.read_text() == "a/c/y.txt" and place.stat().st_size == 9
    with place.open("rb") as stream:
        stream.seek(2)
        assert stream.read() == b"c/y.txt"
    assert str(as_location(str(place) + "/")) == str(place)
    place.unlink()
    place.unlink(missing_ok=True)
    assert not place.exists()
    files.remove_tree(root)
    files.remove_tree(root)
    assert not root.exists()


def test_the_tables_are_plain_parquet_for_others(bucket: str, tmp_path: Path) -> None:
    """pyarrow and pandas read them by the bucket's paths, DuckDB and others do alike."""
    import pandas as pd

    root = as_location(bucket + "/lake")
    publish_partition(publish_input(root, tmp_path / "w", rows_of("a.txt", 3)))
    table = pq.read_table(f"{on_store(root).key}/entities", filesystem=on_store(root).fs)
    assert table.num_rows == 6 and set(table["dt"].to_pylist()) == {PARTITION}
    frame = pd.read_parquet(f"{bucket}/lake/documents/v1/dt={PARTITION}/part-0.parquet")
    assert len(frame) == 3

