"""Two runs at once, damaged files, full and read-only disks, changing sources: equal tables, or one error and no change.

With the fake stages of ``test_pipeline``; kills at random instants are in ``faults``.
"""

# ruff: noqa: F811 (fixtures of test_pipeline)

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medpipe import pipeline
from medpipe.errors import MedpipeError
from medpipe.lake import files, warehouse
from medpipe.lake.publish import publish_partition
from medpipe.pipeline import chunks, planning
from tests.lake.invented import PARTITION, publish_input, rows_of
from tests.test_pipeline import DAY, fakes, folder, rows_without_counts, settings_of  # noqa: F401 (fixtures)

KILLS = int(os.environ.get("MEDPIPE_KILLS", "100"))
Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture
def expected(tmp_path: Path, folder: Path) -> Tables:
    settings = settings_of(tmp_path / "undisturbed", chunk_documents=9)
    pipeline.run(settings, DAY, [str(folder)])
    return rows_without_counts(settings.warehouse, DAY)


def files_of(root: Path) -> dict[str, bytes]:
    paths = [*root.glob("*/v*/dt=*/*.parquet"), *root.glob("_manifests/*.json")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_two_runs_of_one_partition_at_the_same_time(tmp_path: Path, folder: Path, expected: Tables) -> None:
    settings = settings_of(tmp_path, chunk_documents=9)
    context = multiprocessing.get_context("fork")
    failures = context.Queue()

    def work() -> None:
        try:
            pipeline.run(settings, DAY, [str(folder)])
        except BaseException as error:
            failures.put(str(error))

    both = [context.Process(target=work) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert failures.empty(), failures.get()
    assert rows_without_counts(settings.warehouse, DAY) == expected
    assert warehouse.check(settings.warehouse) == []
    assert not list((settings.warehouse / "_work").glob("dt=*/*"))


def test_who_waits_too_long_for_another_run_is_told(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(tmp_path)
    night = pipeline.plan(settings, DAY, [str(folder)])
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    lock = Path(night["work"]) / "shard-00000.lock"
    with files.locked(lock, MedpipeError("WORK_BUSY", partition=DAY)), pytest.raises(MedpipeError, match="WORK_BUSY"):
        pipeline.run_stage("ingest", night["work"], 0, settings)


def ingested_and_tagged(settings: Any, folder: Path) -> Path:
    night = pipeline.plan(settings, DAY, [str(folder)])
    for stage in ("ingest", "tag"):
        pipeline.run_stage(stage, night["work"], 0, settings)
    return Path(night["work"])


@pytest.mark.parametrize(
    "name", ["plan.json", "shard-00000/ingest.json", "*/chunk-00001/tag.json", "*/chunk-00000/entities.parquet", "*/chunk-00001/documents.parquet"]
)  # fmt: skip
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_damaged_work_files_are_made_again(
    tmp_path: Path,
    folder: Path,
    expected: Tables,
    name: str,
    harm: str,
) -> None:
    settings = settings_of(tmp_path, chunk_documents=9)
    work = ingested_and_tagged(settings, folder)
    (path,) = work.glob(name)
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut" or path.suffix == ".json":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = content.index(b"cough") if b"cough" in content else 40  # in the first page
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    pipeline.run(settings, DAY, [str(folder)])
    assert rows_without_counts(settings.warehouse, DAY) == expected


def test_damage_that_publish_finds_is_one_error_and_healed_by_the_next_run(
    tmp_path: Path,
    folder: Path,
    expected: Tables,
) -> None:
    settings = settings_of(tmp_path, chunk_documents=9)
    work = ingested_and_tagged(settings, folder)
    for stage in ("relate", "summarize"):
        pipeline.run_stage(stage, work, 0, settings)
    path = work / "shard-00000" / "chunk-00001" / "entities.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MedpipeError, match="WORK_MISSING"):
        pipeline.publish(work, settings)
    assert files_of(settings.warehouse) == {}
    pipeline.run(settings, DAY, [str(folder)])
    assert rows_without_counts(settings.warehouse, DAY) == expected


def test_publish_that_was_killed_before_it_could_say_so_says_it_again(
    tmp_path: Path,
    folder: Path,
) -> None:
    settings = settings_of(tmp_path, chunk_documents=9)
    work = ingested_and_tagged(settings, folder)
    for stage in ("relate", "summarize"):
        pipeline.run_stage(stage, work, 0, settings)
    outcome = pipeline.publish(work, settings)
    assert pipeline.run_stage("tag", work, 0, settings) == {}, "a slower run of the same notes has nothing to do"
    again = pipeline.publish(work, settings)  # Airflow tries the task again: its work area is gone
    assert (again["rows"], again["partition"]) == (outcome["rows"], DAY)
    with pytest.raises(MedpipeError, match="WORK_MISSING"):
        pipeline.publish(work.with_name("another"), settings)


def test_a_source_that_is_still_being_written_is_one_error(
    tmp_path: Path, folder: Path, expected: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, chunk_documents=9)
    source = folder / "c.ndjson"
    whole = source.read_bytes()
    source.write_bytes(whole[:70])

    def write_on(_: Any) -> None:  # after the night was planned, before it is read
        source.write_bytes(whole)

    with monkeypatch.context() as patch:
        patch.setattr(planning, "make_run_id", lambda stage, night: write_on(night) or "r")
        with pytest.raises(MedpipeError, match=r"SOURCE_CHANGED: c\.ndjson"):
            pipeline.run(settings, DAY, [str(folder)])
    assert files_of(settings.warehouse) == {} and not list((settings.warehouse / "_work").glob("dt=*/*"))
    pipeline.run(settings, DAY, [str(folder)])
    assert rows_without_counts(settings.warehouse, DAY) == expected


def test_a_clock_that_is_set_back_changes_no_row(
    tmp_path: Path,
    folder: Path,
    expected: Tables,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Backwards(datetime):
        moment = datetime(2031, 5, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            cls.moment -= timedelta(days=1)
            return cls.moment

    monkeypatch.setattr(chunks, "datetime", Backwards)
    settings = settings_of(tmp_path, chunk_documents=9)
    pipeline.run(settings, DAY, [str(folder)])
    assert rows_without_counts(settings.warehouse, DAY) == expected
    runs = warehouse.read_table(settings.warehouse, "runs", partition=DAY).to_pylist()
    assert all(row["finished_at"] >= row["started_at"] for row in runs)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_error_and_the_tables_stay(small_disk: Path, tmp_path: Path, folder: Path) -> None:
    settings = settings_of(small_disk, chunk_documents=9)
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.ndjson").write_text(json.dumps({"document_id": "0", "text": "A cough."}))
    pipeline.run(settings, DAY, [str(few)])
    before = files_of(settings.warehouse)
    with (small_disk / "ballast").open("wb") as ballast:
        free = shutil.disk_usage(small_disk).free
        ballast.write(bytes(free - 30_000))
    with pytest.raises(MedpipeError, match="DISK_FULL"):
        pipeline.run(settings, DAY, [str(folder)])
    assert files_of(settings.warehouse) == before
    (small_disk / "ballast").unlink()
    pipeline.run(settings, DAY, [str(folder)])
    assert len(rows_without_counts(settings.warehouse, DAY)["documents"]) == 21
    assert warehouse.check(settings.warehouse) == []


def test_a_read_only_warehouse_is_one_error(small_disk: Path, folder: Path) -> None:
    settings = settings_of(small_disk, chunk_documents=9)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(MedpipeError, match="PERMISSION_DENIED"):
        pipeline.run(settings, DAY, [str(folder)])


def test_a_reader_in_a_loop_sees_one_whole_state_or_the_other(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    states = [publish_input(root, tmp_path / f"w{n}", rows_of("a.txt", n, model=f"tagger@{n}")) for n in (3, 5)]
    publish_partition(states[0])
    wrong: list[str] = []
    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            tables = warehouse.read_partition(root, PARTITION, ("documents", "entities", "summaries"))
            notes = len(tables["documents"])
            seen.add(notes)
            models = set(tables["entities"]["model"].to_pylist())
            if (len(tables["entities"]), len(tables["summaries"]), models) != (2 * notes, notes, {f"tagger@{notes}"}):
                wrong.append(f"{notes} notes, {len(tables['entities'])} entities, {models}")

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(1, 13):
        publish_partition(states[turn % 2])
    stop.set()
    reader.join()
    assert not wrong, wrong[:3]
    assert seen == {3, 5}


@pytest.mark.faults
def test_killed_at_a_hundred_random_instants_and_run_again(tmp_path: Path, folder: Path, expected: Tables) -> None:
    """The whole line with fake stages, so that it is all reading, writing and publishing; ``tests/faults`` has the models."""
    context = multiprocessing.get_context("fork")
    dice = random.Random(11)

    def start(number: int) -> tuple[Any, Any]:
        settings = settings_of(tmp_path / str(number), chunk_documents=9)
        process = context.Process(target=pipeline.run, args=(settings, DAY, [str(folder)]))
        process.start()
        return settings, process

    started = time.monotonic()
    _, undisturbed = start(0)
    undisturbed.join()
    seconds = time.monotonic() - started
    finished = 0
    for number in range(1, KILLS + 1):
        settings, process = start(number)
        time.sleep(seconds * dice.random())
        finished += process.exitcode is not None
        process.kill()
        process.join()
        pipeline.run(settings, DAY, [str(folder)])
        assert rows_without_counts(settings.warehouse, DAY) == expected, f"kill {number}"
        assert not list((settings.warehouse / "_work").glob("dt=*/*")), f"kill {number} left something"
        shutil.rmtree(settings.warehouse)
    assert finished < KILLS / 2, "most were killed before they had ended"
