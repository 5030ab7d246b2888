"""Maintenance: what it removes and what not, what it does again and how often, killed or disturbed.

With the fake stages of ``test_pipeline``.
"""

# ruff: noqa: F811 (fixtures of test_pipeline)

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import medpipe
from medpipe import maintain, pipeline
from medpipe.errors import MedpipeError
from medpipe.ids import make_id
from medpipe.lake import contracts, files, warehouse
from medpipe.lake.publish import migrate
from medpipe.pipeline import chunks, publishing
from medpipe.records import ModelId
from medpipe.settings import STAGES, Settings
from tests.lake.test_versions import turn_back
from tests.test_pipeline import (  # noqa: F401 (fixtures)
    DAY,
    FakeStage,
    fakes,
    folder,
    run_sharded,
    settings_of,
    tables_of,
)

Models = dict[str, ModelId]
ROWS = ("documents", "sections", "entities", "relations", "summaries", "quarantine")


def night(tmp_path: Path, folder: Path, **changes: Any) -> Settings:
    """A warehouse with the folder's notes, whose landing folder is that folder."""
    settings = settings_of(tmp_path, landing=str(folder), **changes)
    pipeline.run(settings, DAY, [str(folder)])
    FakeStage.calls = []
    return settings


def newer(models: Models, *stages: str) -> None:
    for stage in stages:
        models[stage] = ModelId(stage, "2", make_id("weights", stage, "2"))


def rows_of(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows but those of ``runs``, and without the runs' ids: what a partition says."""
    tables = tables_of(root)
    return {
        name: [{key: value for key, value in row.items() if key not in ("run_id", "attempt")} for row in tables[name]]
        for name in ROWS
    }


def age(folder: Path, days: float) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - days * 86_400,) * 2)


# --- work areas -----------------------------------------------------------------------------


def unfinished(settings: Settings, folder: Path) -> Path:
    planned = pipeline.plan(settings, DAY, [str(folder)], shards=2)
    pipeline.run_stage("ingest", planned["work"], 0, settings)
    return Path(planned["work"])


def test_old_work_areas_go_young_ones_stay(tmp_path: Path, folder: Path) -> None:
    settings = settings_of(tmp_path, shard_bytes=1)
    work = unfinished(settings, folder)
    counts = maintain.maintain(settings, ["work"])["work"]
    assert (counts["removed"], counts["kept"]) == (0, 1) and work.is_dir()
    age(work, 6)
    assert maintain.maintain(settings, ["work"])["work"]["kept"] == 1
    age(work, 8)
    told = maintain.maintain(settings, ["work"], dry_run=True)["work"]
    assert told["removed"] == 1 and told["bytes"] > 1000 and work.is_dir(), "a dry run changes nothing"
    assert maintain.maintain(settings, ["work"])["work"] == told
    assert not list((settings.warehouse / "_work").iterdir())
    assert maintain.maintain(settings, ["work"])["work"]["removed"] == 0
    run_sharded(settings, folder, shards=2)  # and the day is none the worse for it
    assert warehouse.check(settings.warehouse) == []


@pytest.mark.parametrize("lock", ["shard-00000.lock", "../{area}.lock"])
def test_a_work_area_whose_lock_is_held_stays(tmp_path: Path, folder: Path, lock: str) -> None:
    settings = settings_of(tmp_path, shard_bytes=1)
    work = unfinished(settings, folder)
    path = work / lock.format(area=work.name)
    with files.locked(path, MedpipeError("WORK_BUSY", partition=DAY)):
        age(work, 30)
        counts = maintain.maintain(settings, ["work"])["work"]
        assert (counts["removed"], counts["busy"]) == (0, 1)
    assert work.is_dir()
    assert maintain.maintain(settings, ["work"])["work"]["removed"] == 1


def test_the_work_area_of_a_published_run_goes_at_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_tree", lambda *_, **__: None)  # killed after the manifest
        run_sharded(settings, folder, shards=1)
    assert list((settings.warehouse / "_work").glob(f"dt={DAY}/*/plan.json"))
    assert maintain.maintain(settings, ["work"])["work"]["removed"] == 1


def test_no_warehouse(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="WAREHOUSE_INVALID"):
        maintain.maintain(settings_of(tmp_path))


# --- what is left over ----------------------------------------------------------------------


def test_left_overs_go_and_nothing_else(tmp_path: Path, folder: Path) -> None:
    settings = night(tmp_path, folder)
    root = settings.warehouse
    before = tables_of(root)
    old = root / "quarantine" / "v1" / f"dt={DAY}" / "part-0.parquet"
    old.parent.mkdir(parents=True)
    shutil.copy(warehouse.table_path(root, "quarantine", DAY), old)  # a major version that was replaced
    unknown = root / "entities" / "v1" / "dt=2020-01-01" / "part-0.parquet"
    unknown.parent.mkdir(parents=True)
    unknown.write_bytes(b"PAR1")  # of a partition without a manifest: nobody knows what it is
    partial, young = (root / "entities" / f".part-0.parquet.{number}.partial" for number in (1, 2))
    for path in (partial, young):
        path.write_bytes(b"half")
    age(partial, 8)
    counts = maintain.maintain(settings, ["compact"])["compact"]
    assert (counts["superseded"], counts["temporary"], counts["migrated"], counts["finished"]) == (1, 1, 0, 0)
    assert not old.exists() and not partial.exists() and young.exists() and unknown.exists()
    assert not (root / "quarantine" / "v1").exists()
    assert tables_of(root) == before and warehouse.check(root) == []
    again = maintain.maintain(settings, ["compact"])["compact"]
    assert sum(again.values()) == 0


def test_a_killed_publish_is_finished(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path)
    night = pipeline.plan(settings, DAY, [str(folder)])
    for stage in STAGES:
        pipeline.run_stage(stage, night["work"], 0, settings)
    from medpipe.lake import commit

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commit, "_remove_earlier_majors", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.publish(night["work"], settings)
    assert warehouse.journal_path(settings.warehouse, DAY).exists()
    assert maintain.maintain(settings, ["compact"], dry_run=True)["compact"]["finished"] == 1
    assert warehouse.journal_path(settings.warehouse, DAY).exists()
    with files.locked(settings.warehouse / "_manifests" / f".dt={DAY}.lock", MedpipeError("WORK_BUSY", partition=DAY)):
        assert maintain.maintain(settings, ["compact"])["compact"]["busy"] == 1
    counts = maintain.maintain(settings, ["compact", "work"])
    assert counts["compact"]["finished"] == 1 and counts["work"]["removed"] == 1
    assert warehouse.check(settings.warehouse) == [] and len(tables_of(settings.warehouse)["documents"]) == 20


def test_tables_of_an_earlier_major_version_are_rewritten(tmp_path: Path, folder: Path) -> None:
    settings = night(tmp_path, folder)
    turn_back(settings.warehouse, DAY)
    assert maintain.maintain(settings, ["compact"], dry_run=True)["compact"]["migrated"] == 1
    assert maintain.maintain(settings, ["compact"])["compact"]["migrated"] == 1
    assert migrate(settings.warehouse) == [] and warehouse.check(settings.warehouse) == []


# --- what older models made -----------------------------------------------------------------


def test_what_an_older_model_made_is_done_again_once(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = night(tmp_path, folder)
    assert maintain.maintain(settings, ["reprocess"])["reprocess"]["found"] == 0
    assert FakeStage.calls == []
    newer(fakes, "tag", "relate", "summarize")
    before = tables_of(settings.warehouse)
    told = maintain.maintain(settings, ["reprocess"], dry_run=True)["reprocess"]
    assert told["found"] == 1 and told["partitions"][0]["why"] == [f"model of {one}" for one in chunks.WRITES]
    assert tables_of(settings.warehouse) == before and not list((settings.warehouse / "_work").glob("dt=*/*"))
    shutil.rmtree(folder)  # the sources are long gone
    outcome = maintain.maintain(settings, ["reprocess"])["reprocess"]
    assert (outcome["found"], outcome["done"], outcome["failed"], outcome["left"]) == (1, 1, 0, 0)
    assert sum(size for stage, size in FakeStage.calls if stage == "tag") == 20
    after = tables_of(settings.warehouse)
    assert {row["model"] for row in after["entities"]} == {str(fakes["tag"])}
    assert warehouse.check(settings.warehouse) == []
    assert not list((settings.warehouse / "_work").glob("dt=*/*"))
    assert {row["run_id"] for row in after["documents"]} <= {row["run_id"] for row in after["runs"]}
    FakeStage.calls = []
    assert maintain.maintain(settings, ["reprocess"])["reprocess"]["found"] == 0
    assert tables_of(settings.warehouse) == after and FakeStage.calls == []


def test_rows_equal_those_of_a_fresh_run(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = night(tmp_path / "again", folder)
    newer(fakes, "tag", "relate", "summarize")
    maintain.maintain(settings, ["reprocess"])
    fresh = settings_of(tmp_path / "fresh")
    pipeline.run(fresh, DAY, [str(folder)])
    assert rows_of(settings.warehouse) == rows_of(fresh.warehouse)
    # The next night over the same files knows them.
    assert pipeline.plan(settings, DAY, [str(folder)])["shards"] == []


def test_a_new_summarizer_costs_summaries_only(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = night(tmp_path, folder)
    before = tables_of(settings.warehouse)
    newer(fakes, "summarize")
    outcome = maintain.maintain(settings, ["reprocess"])["reprocess"]
    assert outcome["partitions"][0]["why"] == ["model of summarize"] and outcome["done"] == 1
    assert {stage for stage, _ in FakeStage.calls} == {"summarize"}
    after = rows_of(settings.warehouse)
    assert [row["entity_id"] for row in after["entities"]] == [row["entity_id"] for row in before["entities"]]
    assert {row["model"] for row in after["summaries"]} == {str(fakes["summarize"])}


@pytest.mark.parametrize("stop_after", range(9))
def test_killed_between_tasks_and_called_again(tmp_path: Path, folder: Path, fakes: Models, stop_after: int) -> None:
    """As the DAG does it: several shards, each task by itself."""
    settings = night(tmp_path / "killed", folder, shard_bytes=1)
    newer(fakes, "tag", "relate", "summarize")
    again = maintain.find_stale(settings)[0]
    planned = maintain.plan_again(settings, again, shards=2)
    tasks = [(stage, shard["index"]) for shard in planned["shards"] for stage in STAGES]
    assert len(tasks) == 8
    for stage, shard in tasks[:stop_after]:
        pipeline.run_stage(stage, planned["work"], shard, settings)
    assert maintain.plan_again(settings, maintain.find_stale(settings)[0], shards=2) == planned
    for stage, shard in tasks:
        pipeline.run_stage(stage, planned["work"], shard, settings)
    assert sum(size for stage, size in FakeStage.calls if stage == "tag") == 20, "no note is tagged twice"
    first = pipeline.publish(planned["work"], settings)
    assert pipeline.publish(planned["work"], settings)["rows"] == first["rows"]
    fresh = settings_of(tmp_path / "fresh")
    pipeline.run(fresh, DAY, [str(folder)])
    assert rows_of(settings.warehouse) == rows_of(fresh.warehouse)


def test_killed_after_the_manifest(
    tmp_path: Path, folder: Path, fakes: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = night(tmp_path, folder)
    newer(fakes, "tag")
    planned = maintain.plan_again(settings, maintain.find_stale(settings)[0], shards=1)
    for stage in STAGES:
        pipeline.run_stage(stage, planned["work"], 0, settings)
    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_tree", lambda *_, **__: None)
        first = pipeline.publish(planned["work"], settings)
    after = tables_of(settings.warehouse)
    assert pipeline.publish(planned["work"], settings)["rows"] == first["rows"]  # its own change is no other's
    assert tables_of(settings.warehouse) == after and not Path(planned["work"]).exists()


def test_a_partition_that_was_published_meanwhile_is_left_alone(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = night(tmp_path, folder)
    newer(fakes, "tag")
    planned = maintain.plan_again(settings, maintain.find_stale(settings)[0], shards=1)
    for stage in STAGES:
        pipeline.run_stage(stage, planned["work"], 0, settings)
    (folder / "a.ndjson").write_text(json.dumps({"document_id": "a0", "text": "Corrected: no cough."}) + "\n")
    pipeline.run(settings, DAY, [str(folder)])
    after = tables_of(settings.warehouse)
    with pytest.raises(MedpipeError, match="PARTITION_CHANGED"):
        pipeline.publish(planned["work"], settings)
    assert tables_of(settings.warehouse) == after and not Path(planned["work"]).exists()
    assert any(row["text"] == "Corrected: no cough." for row in after["documents"])


def test_only_the_sources_that_an_older_model_made(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = night(tmp_path, folder)
    newer(fakes, "tag")
    late = tmp_path / "late.ndjson"
    late.write_text(json.dumps({"document_id": "z", "text": "A late cough."}) + "\n")
    pipeline.run(settings, DAY, [str(late)])
    FakeStage.calls = []
    found = maintain.find_stale(settings)
    assert [one.sources for one in found] == [tuple(f"{name}.ndjson" for name in "abcde")]
    assert maintain.maintain(settings, ["reprocess"])["reprocess"]["done"] == 1
    assert sum(size for stage, size in FakeStage.calls if stage == "tag") == 20
    assert maintain.find_stale(settings) == []
    assert {row["model"] for row in tables_of(settings.warehouse)["entities"]} == {str(fakes["tag"])}
    assert "earlier" not in (warehouse.read_manifest(settings.warehouse, DAY) or {})["facts"]


def test_after_a_new_release_files_are_read_again(
    tmp_path: Path, folder: Path, fakes: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = night(tmp_path, folder)
    monkeypatch.setattr(medpipe, "__version__", "99.0.0")
    assert maintain.find_stale(settings) == [], "a release alone is no reason"
    newer(fakes, "tag")
    assert maintain.maintain(settings, ["reprocess"])["reprocess"]["done"] == 1
    assert maintain.find_stale(settings) == []
    # Its readers may give other documents: the next night over the files reads them, and takes over what is alike.
    FakeStage.calls = []
    outcome = pipeline.run(settings, DAY, [str(folder)])
    assert outcome["unchanged"] == 0 and outcome["counts"]["reused"] == 20
    assert not FakeStage.calls


def test_as_many_partitions_as_are_allowed_the_newest_first(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = settings_of(tmp_path, reuse_partitions=0, maintenance_partitions=2)
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        pipeline.run(settings, day, [str(folder)])
    newer(fakes, "tag")
    outcome = maintain.maintain(settings, ["reprocess"])["reprocess"]
    assert [one["partition"] for one in outcome["partitions"]] == ["2026-01-03", "2026-01-02"]
    assert (outcome["done"], outcome["left"]) == (2, 1)
    assert maintain.maintain(settings, ["reprocess"])["reprocess"]["done"] == 1


def test_one_damaged_partition_does_not_end_the_others(tmp_path: Path, folder: Path, fakes: Models) -> None:
    settings = settings_of(tmp_path, reuse_partitions=0)
    for day in ("2026-01-01", "2026-01-02"):
        pipeline.run(settings, day, [str(folder)])
    newer(fakes, "tag")
    sections = warehouse.table_path(settings.warehouse, "sections", "2026-01-02")
    quarantine = warehouse.table_path(settings.warehouse, "quarantine", "2026-01-02")
    documents = warehouse.table_path(settings.warehouse, "documents", "2026-01-02")
    assert sections.exists() and quarantine.exists()
    raw = bytearray(documents.read_bytes())
    raw[40:200] = bytes(160)
    found = maintain.find_stale(settings)
    documents.write_bytes(raw)
    outcome = maintain.do_again(settings, found)
    assert (outcome["done"], outcome["failed"]) == (1, 1)
    assert outcome["partitions"][0]["error"] == "WAREHOUSE_INVALID"


# --- quarantine -----------------------------------------------------------------------------


@pytest.fixture
def crashing(tmp_path: Path, folder: Path) -> Settings:
    """A night in which the tagger could not take one note of twenty-one."""
    (folder / "c.ndjson").write_text(
        "".join(
            json.dumps({"document_id": f"c{n}", "text": f"Note c{n}: cough{' crash' * (n == 2)}."}) + "\n"
            for n in range(4)
        )
    )
    settings = night(tmp_path, folder)
    assert [row["code"] for row in tables_of(settings.warehouse)["quarantine"] if row["stage"] == "tag"] == [
        "STAGE_FAILED"
    ]
    return settings


def failed_rows(settings: Settings) -> list[dict[str, Any]]:
    return [row for row in tables_of(settings.warehouse)["quarantine"] if row["stage"] == "tag"]


def test_a_document_that_a_stage_refused_is_tried_again(
    crashing: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder)
    before = tables_of(crashing.warehouse)
    monkeypatch.setattr(FakeStage, "run", steady(FakeStage.run))
    outcome = maintain.maintain(crashing, ["quarantine"])["quarantine"]
    assert (outcome["found"], outcome["done"], outcome["sources_gone"]) == (1, 1, 4)
    assert [size for stage, size in FakeStage.calls if stage == "tag"] == [1], "only that document"
    after = tables_of(crashing.warehouse)
    assert failed_rows(crashing) == [] and len(after["entities"]) == len(before["entities"]) + 1
    assert all(row["status"] == "processed" for row in after["documents"])
    untouched = [row for row in before["entities"] if row in after["entities"]]
    assert len(untouched) == len(before["entities"])
    # What ingest had refused of the same source stays, tried as often as before.
    assert [row for row in after["quarantine"] if row["stage"] == "ingest"] == [
        row for row in before["quarantine"] if row["stage"] == "ingest"
    ]
    assert warehouse.check(crashing.warehouse) == []
    assert maintain.maintain(crashing, ["quarantine"])["quarantine"]["found"] == 0


def steady(run: Any) -> Any:
    """The stage's ``run`` without the crash."""

    def better(self: FakeStage, tables: Any, *, run_id: str) -> Any:
        import pyarrow.compute as pc

        documents = tables["documents"]
        text = pc.replace_substring(documents["text"], "crash", "burst")
        index = documents.schema.get_field_index("text")
        return run(
            self,
            dict(tables) | {"documents": documents.set_column(index, documents.schema.field(index), text)},
            run_id=run_id,
        )

    return better


def test_tried_three_times_and_once_with_a_new_release(crashing: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row["attempt"] for row in failed_rows(crashing)] == [1]
    documents = tables_of(crashing.warehouse)["documents"]
    for attempt in (2, 3):
        assert maintain.maintain(crashing, ["quarantine"])["quarantine"]["done"] == 1
        assert [row["attempt"] for row in failed_rows(crashing)] == [attempt]
    assert maintain.maintain(crashing, ["quarantine"])["quarantine"]["found"] == 0
    after = tables_of(crashing.warehouse)["documents"]
    assert [(row["document_id"], row["status"]) for row in after] == [
        (row["document_id"], row["status"]) for row in documents
    ]
    assert warehouse.check(crashing.warehouse) == []
    monkeypatch.setattr(medpipe, "__version__", "99.0.0")  # which may have learned to take it
    assert maintain.maintain(crashing, ["quarantine"])["quarantine"]["done"] == 2
    assert [row["attempt"] for row in failed_rows(crashing)] == [4]
    assert maintain.maintain(crashing, ["quarantine"])["quarantine"]["found"] == 0


def test_an_attempt_that_was_killed_counts_once(crashing: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = maintain.find_retries(crashing)
    planned = maintain.plan_again(crashing, found[0], shards=1)
    for stage in STAGES:
        pipeline.run_stage(stage, planned["work"], 0, crashing)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish_partition", killed)  # the attempts are counted, nothing is published
        with pytest.raises(KeyboardInterrupt):
            pipeline.publish(planned["work"], crashing)
    pipeline.publish(planned["work"], crashing)
    assert [row["attempt"] for row in failed_rows(crashing)] == [2]


def test_a_limit_that_was_raised_lets_a_note_in(tmp_path: Path, folder: Path) -> None:
    long = json.dumps({"document_id": "long", "text": "A long cough. " * 20})
    (folder / "b.ndjson").write_text(long + "\n" + json.dumps({"document_id": "b", "text": "A cough."}) + "\n")
    settings = night(tmp_path, folder, max_note_chars=100)
    assert maintain.maintain(settings, ["quarantine"])["quarantine"]["found"] == 0
    smaller = settings.model_copy(update={"max_note_chars": 50})
    assert maintain.maintain(smaller, ["quarantine"])["quarantine"]["found"] == 0
    larger = settings.model_copy(update={"max_note_chars": 1000})
    FakeStage.calls = []
    outcome = maintain.maintain(larger, ["quarantine"])["quarantine"]
    assert (outcome["found"], outcome["done"]) == (1, 1)
    assert outcome["partitions"][0]["why"] == ["TEXT_TOO_LARGE"] and outcome["partitions"][0]["sources"] == 1
    assert sum(size for stage, size in FakeStage.calls if stage == "tag") == 1, "the other notes are taken over"
    tables = tables_of(settings.warehouse)
    assert len(tables["documents"]) == 18 and not [
        row for row in tables["quarantine"] if row["code"] == "TEXT_TOO_LARGE"
    ]
    assert warehouse.check(settings.warehouse) == []
    assert maintain.maintain(larger, ["quarantine", "reprocess"])["reprocess"]["found"] == 0, "the models are the same"
    assert maintain.find_retries(larger) == ([], 0)


def test_a_file_that_was_mended_is_read_again_and_one_that_is_gone_is_counted(tmp_path: Path, folder: Path) -> None:
    settings = night(tmp_path, folder)
    assert maintain.find_retries(settings) == ([], 0)
    (folder / "a.ndjson").write_text(json.dumps({"document_id": "a9", "text": "Mended: cough."}) + "\n")
    (folder / "b.ndjson").unlink()
    outcome = maintain.maintain(settings, ["quarantine"])["quarantine"]
    assert (outcome["done"], outcome["sources_gone"], outcome["partitions"][0]["sources"]) == (1, 1, 1)
    tables = tables_of(settings.warehouse)
    assert "Mended: cough." in {row["text"] for row in tables["documents"]}
    assert {row["source"] for row in tables["quarantine"]} == {f"{name}.ndjson" for name in "bcde"}


def test_a_new_release_reads_what_the_old_one_could_not(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = night(tmp_path, folder)
    monkeypatch.setattr(medpipe, "__version__", "99.0.0")
    outcome = maintain.maintain(settings, ["quarantine"])["quarantine"]
    assert outcome["done"] == 1
    assert {row["attempt"] for row in tables_of(settings.warehouse)["quarantine"]} == {2}
    assert maintain.find_retries(settings) == ([], 0)


def test_everything_at_once_and_again(crashing: Settings, fakes: Models, folder: Path) -> None:
    newer(fakes, "tag")
    outcome = maintain.maintain(crashing)
    assert list(outcome) == list(maintain.ACTIONS)
    assert outcome["reprocess"]["done"] == 1, "the failed document is among what is done again"
    assert [row["attempt"] for row in failed_rows(crashing)] == [outcome["quarantine"]["done"] + 2]
    assert "cough" not in json.dumps(outcome)
    assert set(contracts.TABLES) == set(tables_of(crashing.warehouse)) and warehouse.check(crashing.warehouse) == []
