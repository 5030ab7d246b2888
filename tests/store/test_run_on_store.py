"""The whole line into an S3 server: equal tables, two runs at once, kills, landing folders, clear errors.

With the fake stages of ``test_pipeline``.
"""

# ruff: noqa: F811 (fixtures of test_pipeline)

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medpipe import pipeline, storage
from medpipe.errors import MedpipeError
from medpipe.ingest.sources import find_sources
from medpipe.lake import warehouse
from medpipe.settings import STAGES, Settings, load_settings
from medpipe.storage import as_location, on_store
from tests.store.conftest import forget_clients
from tests.test_exactly_once import Tables, expected  # noqa: F401 (fixture)
from tests.test_pipeline import DAY, FakeStage, fakes, folder, rows_without_counts, settings_of, tables_of  # noqa: F401

KILLS = int(os.environ.get("MEDPIPE_KILLS", "100"))


def settings_on(bucket: str, name: str = "lake", **changes: Any) -> Settings:
    return load_settings(warehouse=f"{bucket}/{name}", **({"chunk_documents": 40} | changes))


def left_over(root: Path) -> list[str]:
    """What a run should have cleared."""
    # The lock of a partition may stay, as on a disk; nobody has it.
    return [key for key in on_store(root).objects() if "/_work/" in key or "publishing" in key]


def upload(folder: Path, url: str) -> None:
    for path in folder.iterdir():
        on_store(as_location(f"{url}/{path.name}")).upload(path)


def test_the_tables_of_a_store_are_those_of_a_disk(tmp_path: Path, folder: Path, bucket: str) -> None:
    local, remote = settings_of(tmp_path, chunk_documents=40), settings_on(bucket)
    one, other = (pipeline.run(settings, DAY, [str(folder)]) for settings in (local, remote))
    assert one == other
    assert tables_of(local.warehouse) == tables_of(remote.warehouse)
    assert warehouse.check(remote.warehouse) == [] and left_over(remote.warehouse) == []
    assert not list(tmp_path.glob("s3:*")) and not Path("s3:").exists()


def test_nothing_new_is_seen_and_finished_notes_are_taken_over(folder: Path, bucket: str) -> None:
    settings = settings_on(bucket)
    first = pipeline.run(settings, DAY, [str(folder)])
    FakeStage.calls.clear()
    again = pipeline.run(settings, DAY, [str(folder)])
    assert (again["unchanged"], "rows" in again) == (5, False)
    (folder / "a.ndjson").rename(folder / "renamed.ndjson")
    moved = pipeline.run(settings, "2026-02-01", [str(folder)])
    assert FakeStage.calls == [], "every note was finished the day before"
    assert moved["rows"]["entities"] == first["rows"]["entities"] and moved["counts"]["reused"] == 20


def test_many_workers_share_the_work_area_of_a_store(
    tmp_path: Path, folder: Path, bucket: str, expected: Tables
) -> None:
    settings = settings_on(bucket, shard_bytes=1)
    night = pipeline.plan(settings, DAY, [str(folder)], shards=3)
    assert night["work"].startswith(f"{bucket}/lake/_work/") and len(night["shards"]) == 3
    for shard in night["shards"]:
        for stage in STAGES:
            pipeline.run_stage(stage, night["work"], shard["index"], settings)
    pipeline.publish(night["work"], settings)
    assert rows_without_counts(settings.warehouse, DAY) == expected
    assert left_over(settings.warehouse) == []
    assert pipeline.publish(night["work"], settings)["partition"] == DAY, "tried again, it says what it did"


def test_damaged_work_files_are_made_again(folder: Path, bucket: str, expected: Tables) -> None:
    settings = settings_on(bucket, chunk_documents=9)
    night = pipeline.plan(settings, DAY, [str(folder)])
    for stage in ("ingest", "tag"):
        pipeline.run_stage(stage, night["work"], 0, settings)
    for chunk, harm in ((0, "gone"), (1, "cut")):
        (path,) = as_location(night["work"]).glob(f"*/chunk-0000{chunk}/entities.parquet")
        content = path.read_bytes()
        path.unlink()
        if harm == "cut":
            on_store(path).write_bytes(content[: len(content) // 2])
    pipeline.run(settings, DAY, [str(folder)])
    assert rows_without_counts(settings.warehouse, DAY) == expected


def start(bucket: str, name: str, landing: str) -> Any:
    """A run in a process of its own, which has its own clients of the store."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(bucket, name, landing))
    process.start()
    return process


def work(bucket: str, name: str, landing: str) -> None:
    pipeline.run(settings_on(bucket, name), DAY, [landing])


def test_two_runs_of_one_partition_at_the_same_time(
    folder: Path, bucket: str, expected: Tables, short_lease: None
) -> None:
    both = [start(bucket, "lake", str(folder)) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    settings = settings_on(bucket)
    assert rows_without_counts(settings.warehouse, DAY) == expected
    assert warehouse.check(settings.warehouse) == [] and left_over(settings.warehouse) == []


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two files of two notes and a broken record each: few requests, so that many kills fit into the time of a test."""
    landing = tmp_path / "few"
    landing.mkdir()
    for name in "ab":
        lines = [json.dumps({"document_id": f"{name}{n}", "text": f"Note {name}{n}: cough."}) for n in range(2)]
        (landing / f"{name}.ndjson").write_text("\n".join([*lines, "{broken"]) + "\n")
    return landing


@pytest.fixture
def expected_of_few(tmp_path: Path, few: Path) -> Tables:
    settings = settings_of(tmp_path / "few-undisturbed", chunk_documents=9)
    pipeline.run(settings, DAY, [str(few)])
    return rows_without_counts(settings.warehouse, DAY)


def kill_and_run_again(kills: int, folder: Path, bucket: str, expected: Tables) -> Counter[str]:
    """Kills runs at instants spread at random over an undisturbed one; returns in which phases they were."""
    dice = random.Random(11)
    started = time.monotonic()
    undisturbed = start(bucket, "0", str(folder))
    undisturbed.join()
    seconds = time.monotonic() - started
    assert undisturbed.exitcode == 0
    phases: Counter[str] = Counter()
    for number in range(1, kills + 1):
        settings = settings_on(bucket, str(number))
        process = start(bucket, str(number), str(folder))
        time.sleep(seconds * (number - dice.random()) / kills)
        process.kill()
        process.join()
        phases[phase(settings.warehouse)] += 1
        pipeline.run(settings, DAY, [str(folder)])
        assert rows_without_counts(settings.warehouse, DAY) == expected, f"kill {number}"
        assert left_over(settings.warehouse) == [], f"kill {number}"
        assert warehouse.check(settings.warehouse) == [], f"kill {number}"
    return phases


def phase(root: Path) -> str:
    keys = on_store(root).objects()
    if any(".publishing" in key for key in keys):
        return "journal"
    if any("/_staging/" in key for key in keys):
        return "staging"
    if any(key.endswith(f"_manifests/dt={DAY}.json") for key in keys):
        return "done"
    return "stages" if any("/_work/" in key for key in keys) else "start"


def test_killed_at_random_instants_and_run_again(
    few: Path, bucket: str, expected_of_few: Tables, short_lease: None
) -> None:
    phases = kill_and_run_again(6, few, bucket, expected_of_few)
    assert phases["stages"], phases


@pytest.mark.faults
def test_killed_at_a_hundred_random_instants_and_run_again(
    folder: Path, bucket: str, expected: Tables, short_lease: None
) -> None:
    phases = kill_and_run_again(KILLS, folder, bucket, expected)
    print(f"killed {KILLS} times: {dict(phases)}")
    assert phases["done"] < KILLS / 2 and len(phases) >= 3, phases


# --- landing folders ------------------------------------------------------------------------


@pytest.mark.parametrize("warehouse_on", ["disk", "store"])
def test_a_landing_folder_in_a_store(
    tmp_path: Path, folder: Path, bucket: str, expected: Tables, warehouse_on: str
) -> None:
    upload(folder, f"{bucket}/landing/{DAY}")
    on_store(as_location(f"{bucket}/landing/{DAY}/_SUCCESS")).write_bytes(b"")
    landing = f"{bucket}/landing/{{date}}"
    root = f"{bucket}/lake" if warehouse_on == "store" else str(tmp_path / "lake")
    settings = load_settings(warehouse=root, landing=landing, chunk_documents=40)
    night = pipeline.plan_night(settings, DAY)
    assert night["sources"] == 5
    for shard in night["shards"]:
        for stage in STAGES:
            pipeline.run_stage(stage, night["work"], shard["index"], settings)
    pipeline.publish(night["work"], settings)
    found = rows_without_counts(settings.warehouse, DAY)
    ids = {"run_id"}  # made of the sources' digests, which a store calls otherwise

    def without(tables: Tables) -> Tables:
        return {
            name: [{key: value for key, value in row.items() if key not in ids} for row in rows]
            for name, rows in tables.items() if name != "runs"
        }  # fmt: skip

    assert without(found) == without(expected)
    assert pipeline.plan_night(settings, DAY)["unchanged"] == 5
    on_store(as_location(f"{bucket}/landing/{DAY}/b.ndjson")).write_bytes(b'{"document_id": "new", "text": "A cough."}')
    assert pipeline.plan_night(settings, DAY)["unchanged"] == 4


def test_a_source_of_a_store_that_changes_while_it_is_read(folder: Path, bucket: str) -> None:
    upload(folder, f"{bucket}/landing")
    settings = settings_on(bucket)
    night = pipeline.plan(settings, DAY, [f"{bucket}/landing"])
    on_store(as_location(f"{bucket}/landing/a.ndjson")).write_bytes(b'{"document_id": "a", "text": "A rash."}')
    with pytest.raises(MedpipeError, match=r"SOURCE_CHANGED: a\.ndjson"):
        pipeline.run_stage("ingest", night["work"], 0, settings)


def test_sources_by_url(folder: Path, bucket: str) -> None:
    upload(folder, f"{bucket}/in/deep")
    assert [source.name for source in find_sources([f"{bucket}/in"])] == [f"deep/{name}.ndjson" for name in "abcde"]
    assert [source.name for source in find_sources([f"{bucket}/in/deep/b.ndjson"])] == ["b.ndjson"]
    assert [source.name for source in find_sources([f"{bucket}/in/*/[ab].ndjson"])] == ["deep/a.ndjson", "deep/b.ndjson"]
    assert len(find_sources([f"{bucket}/**/*.ndjson"])) == 5
    assert [source.name for source in find_sources([(folder / "a.ndjson").as_uri()])] == ["a.ndjson"]
    with pytest.raises(MedpipeError, match="INPUT_NOT_FOUND"):
        find_sources([f"{bucket}/nothing"])


# --- clear errors ---------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_one_error(
    folder: Path, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_clients()
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    settings = settings_on("s3://bucket")
    for attempt in (
        lambda: pipeline.run(settings, DAY, [str(folder)]),
        lambda: warehouse.check(settings.warehouse),
        lambda: pipeline.plan(settings, DAY, ["s3://bucket/landing"]),
    ):
        with pytest.raises(MedpipeError) as caught:
            attempt()
        assert caught.value.code == "STORE_UNREACHABLE" and caught.value.exit_code == 5
    forget_clients()


def test_refused_credentials_and_a_missing_bucket(
    folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MedpipeError, match=r"STORE_UNREACHABLE: The store of s3://no-such-bucket/.*no such bucket"):
        pipeline.run(settings_on("s3://no-such-bucket"), DAY, [str(folder)])
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    forget_clients()
    with pytest.raises(MedpipeError, match="STORE_REFUSED"):
        pipeline.run(settings_on(bucket), DAY, [str(folder)])

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("signed address with a secret")

    monkeypatch.setattr(type(on_store(as_location(bucket)).fs), "info", forbidden)
    with pytest.raises(MedpipeError, match="STORE_REFUSED") as caught:
        pipeline.run(settings_on(bucket), DAY, [str(folder)])
    assert "secret" not in str(caught.value) and caught.value.exit_code == 5
    forget_clients()


class HttpError(Exception):
    """As gcsfs and azure raise it: with the status."""

    def __init__(self, status: int) -> None:
        self.code = status
        super().__init__("https://signed?secret")


HttpError.__module__ = "gcsfs.retry"


def of_botocore(code: str) -> OSError:
    """What s3fs makes of an answer of S3 that has no better name."""
    cause = type("ClientError", (Exception,), {"__module__": "botocore.exceptions"})("secret")
    cause.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
    error = OSError(22, "secret")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, code",
    [
        pytest.param(HttpError(403), "STORE_REFUSED", id="403"),
        pytest.param(HttpError(503), "STORE_UNREACHABLE", id="503"),
        pytest.param(OSError("Forbidden: https://signed?secret"), "STORE_REFUSED", id="forbidden"),
        pytest.param(PermissionError("secret"), "STORE_REFUSED", id="permission"),
        pytest.param(of_botocore("AuthorizationHeaderMalformed"), "STORE_UNREACHABLE", id="region"),
        pytest.param(ConnectionResetError("secret"), "STORE_UNREACHABLE", id="reset"),
        pytest.param(TimeoutError(), "STORE_UNREACHABLE", id="timeout"),
    ],
)
def test_what_clients_raise_becomes_a_code_without_their_message(error: Exception, code: str) -> None:
    with pytest.raises(MedpipeError) as caught, storage.store_faults("s3://bucket"):
        raise error
    assert caught.value.code == code and "secret" not in str(caught.value)


def test_other_errors_pass() -> None:
    for error in (ValueError("x"), OSError(28, "full"), FileNotFoundError("x")):
        with pytest.raises(type(error)), storage.store_faults("s3://bucket"):
            raise error


def test_urls_that_are_none_of_ours_and_extras_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MedpipeError, match="SETTING_INVALID"):
        load_settings(warehouse="ftp://host/lake")
    with pytest.raises(MedpipeError, match="SETTING_INVALID"):
        load_settings(warehouse=7)
    storage._filesystems.clear()
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(MedpipeError, match=r"EXTRA_MISSING.*medpipe\[gs\]"):
        warehouse.check(load_settings(warehouse="gs://bucket/lake").warehouse)


def test_settings_and_plans_name_the_url_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPIPE_WAREHOUSE", "s3://bucket/some//lake/")
    assert str(load_settings().warehouse) == "s3://bucket/some/lake"
    assert str(load_settings(warehouse="file:///data/lake").warehouse) == "/data/lake"
    assert json.dumps(str(load_settings(warehouse="abfs://c@account.dfs.core.windows.net/lake").warehouse)) == (
        '"abfs://c@account.dfs.core.windows.net/lake"'
    )
