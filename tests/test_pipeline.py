"""The line with fake stages: what it does about shards, chunks, kills, bad documents and work that was done before."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from medpipe import pipeline
from medpipe.errors import MedpipeError
from medpipe.ids import entity_id, make_id, relation_id, summary_id
from medpipe.lake import contracts, warehouse
from medpipe.pipeline import chunks, planning, stages
from medpipe.records import ModelId, StageOutput
from medpipe.settings import STAGES, Settings

DAY = "2026-01-31"
TIMES = {"started_at", "finished_at", "seconds", "peak_memory_mb", "tokens_per_s"}  # columns of runs that differ from run to run


class FakeStage:
    """Tags every word "cough", relates it to itself, summarizes by the first words; fails where a note says so."""

    device = "cpu"
    calls: list[tuple[str, int]] = []  # noqa: RUF012 (read by the tests)

    def __init__(self, name: str, model: ModelId) -> None:
        self.name, self.model = name, model

    def run(self, tables: Mapping[str, pa.Table], *, run_id: str) -> StageOutput:
        documents = tables["documents"].to_pylist()
        FakeStage.calls.append((self.name, len(documents)))
        assert not any("crash" in row["text"] for row in documents) or self.name != "tag", "SECRET words of the note"
        table = chunks.WRITES[self.name]
        common = {"model": str(self.model), "run_id": run_id}
        rows = [row | common for document in documents for row in getattr(self, self.name)(document, tables)]
        names = [name for name in contracts.arrow_schema(table).names if name != "schema_version"]
        made = contracts.conform(table, {name: [row[name] for row in rows] for name in names})
        return StageOutput({table: made}, counts={"tokens": 10.0 * len(documents)})

    def tag(self, document: dict[str, Any], _: Any) -> list[dict[str, Any]]:
        text, start = document["text"], document["text"].find("cough")
        if start < 0:
            return []
        facts = dict.fromkeys(
            ("section_id", "subtype", "parent_entity_id", "fragments", "code_system", "code", "code_score")
        )
        facts |= dict.fromkeys(("negated", "uncertain", "hypothetical", "historical", "family"), False)
        key = entity_id(document["document_id"], self.model.weights_hash, start, start + 5, "SYMPTOM", ())
        return [facts | {
            "entity_id": key, "document_id": document["document_id"], "patient_id": document["patient_id"], "start": start, "end": start + 5,
            "text": text[start : start + 5], "label": "SYMPTOM", "score": 0.5, "depth": 0,
        }]  # fmt: skip

    def relate(self, document: dict[str, Any], tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
        ids = [
            row["entity_id"] for row in tables["entities"].to_pylist() if row["document_id"] == document["document_id"]
        ]
        return [{
            "relation_id": relation_id(document["document_id"], self.model.weights_hash, "has_symptom", one, one), "document_id": document["document_id"], "patient_id": document["patient_id"],
            "type": "has_symptom", "head_entity_id": one, "tail_entity_id": one, "score": 0.5, "negated": False,
            "head_negated": False, "tail_negated": False, "family": False, "uncertain": False, "evidence_start": 0, "evidence_end": 1, "sentence_distance": 0,
        } for one in ids]  # fmt: skip

    def summarize(self, document: dict[str, Any], _: Any) -> list[dict[str, Any]]:
        counts = dict.fromkeys(
            ("n_sentences", "n_unsupported_entities", "n_unsupported_numbers", "n_polarity_errors", "n_repaired"), 0
        ) | dict.fromkeys(
            ("scope", "encounter_id", "document_ids", "token_documents", "checks", "n_side_errors", "n_family_errors",
             "n_replaced", "n_dropped")
        )
        return [counts | {
            "summary_id": summary_id(document["document_id"], self.model.weights_hash), "document_id": document["document_id"], "patient_id": document["patient_id"],
            "text": document["text"][:5], "sections": None, "tokens": [], "entity_ids": [], "relation_ids": [],
            "method": "extractive", "faithful": True,
        }]  # fmt: skip


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelId]:
    models = {stage: ModelId(stage, "1", make_id("weights", stage)) for stage in chunks.WRITES}
    monkeypatch.setattr(planning, "stage_models", lambda settings: dict(models))
    monkeypatch.setattr(stages, "load_stage", lambda stage, settings: FakeStage(stage, models[stage]))
    monkeypatch.setattr(stages, "release_memory", lambda: None)  # a tenth of a second each time, in a full process
    FakeStage.calls = []
    return models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    landing = tmp_path / "landing"
    landing.mkdir()
    for name in "abcde":
        lines = [json.dumps({"document_id": f"{name}{n}", "text": f"Note {name}{n}: cough."}) for n in range(4)]
        (landing / f"{name}.ndjson").write_text("\n".join([*lines, "{broken", '{"resourceType": "Patient"}']) + "\n")
    return landing


def settings_of(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(warehouse=tmp_path / "lake", **({"chunk_documents": 3} | changes))


def tables_of(root: Path) -> dict[str, list[dict[str, Any]]]:
    found = {table: warehouse.read_table(root, table, partition=DAY).to_pylist() for table in contracts.TABLES}
    found["runs"] = [{name: value for name, value in row.items() if name not in TIMES} for row in found["runs"]]
    return found


def run_sharded(settings: Settings, folder: Path, shards: int, *, stop_after: int | None = None) -> None:
    """Walks the pipeline as the DAG does: every task by itself; ``stop_after`` tasks it is killed."""
    night = pipeline.plan(settings, DAY, [str(folder)], shards=shards)
    tasks = [(stage, shard["index"]) for shard in night["shards"] for stage in STAGES]
    for stage, shard in tasks[:stop_after]:
        pipeline.run_stage(stage, night["work"], shard, settings)
    if stop_after is None:
        pipeline.publish(night["work"], settings)


def test_both_doors_give_equal_rows(tmp_path: Path, folder: Path) -> None:
    one = settings_of(tmp_path / "one")
    outcome = pipeline.run(one, DAY, [str(folder)])
    many = settings_of(tmp_path / "many", shard_bytes=1, chunk_documents=1)
    run_sharded(many, folder, shards=3)
    assert tables_of(one.warehouse) == tables_of(many.warehouse)
    assert warehouse.check(one.warehouse) == []
    counts = outcome["counts"]
    assert (counts["documents"], counts["rejected"], counts["not_notes"], counts["records"]) == (20, 5, 5, 30)
    assert (counts["entities"], counts["relations"], counts["summaries"], counts["quarantined"]) == (20, 20, 20, 5)
    assert not list((one.warehouse / "_work").glob("dt=*/*")), "the work area is cleared"


@pytest.mark.parametrize("stop_after", range(0, 12))
def test_killed_between_tasks_and_run_again(tmp_path: Path, folder: Path, stop_after: int) -> None:
    expected = settings_of(tmp_path / "undisturbed")
    pipeline.run(expected, DAY, [str(folder)])
    FakeStage.calls = []
    settings = settings_of(tmp_path / "killed", shard_bytes=1)
    run_sharded(settings, folder, shards=3, stop_after=stop_after)
    assert warehouse.partitions(settings.warehouse) == []
    run_sharded(settings, folder, shards=3)
    assert tables_of(settings.warehouse) == tables_of(expected.warehouse)
    assert sum(size for stage, size in FakeStage.calls if stage == "tag") == 20, "no note is tagged twice"


def test_only_new_work(tmp_path: Path, folder: Path) -> None:
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(folder)])
    rows = tables_of(settings.warehouse)
    FakeStage.calls = []
    again = pipeline.run(settings, DAY, [str(folder)])
    assert FakeStage.calls == [] and again["unchanged"] == 5
    assert tables_of(settings.warehouse) == rows
    with (folder / "a.ndjson").open("a") as file:
        file.write(json.dumps({"document_id": "new", "text": "A new cough."}) + "\n")
    grown = pipeline.run(settings, DAY, [str(folder)])
    assert [call for call in FakeStage.calls if call[0] == "tag"] == [("tag", 1)], "only the new note is tagged"
    assert (grown["unchanged"], grown["counts"]["unchanged"], grown["counts"]["documents"]) == (4, 4, 5)
    after = tables_of(settings.warehouse)
    assert len(after["documents"]) == 21 and len(after["entities"]) == 21
    assert warehouse.check(settings.warehouse) == []


def test_an_attachment_that_arrives_later_heals_its_document(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    attachment = {"contentType": "text/plain", "url": "Binary/b1"}
    note = {"resourceType": "DocumentReference", "id": "d", "content": [{"attachment": attachment}]}
    (landing / "notes.ndjson").write_text(json.dumps(note) + "\n")
    (landing / "other.ndjson").write_text(json.dumps({"document_id": "x", "text": "Another cough."}) + "\n")
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(landing)])
    assert [row["code"] for row in tables_of(settings.warehouse)["quarantine"]] == ["ATTACHMENT_UNRESOLVED"]
    assert pipeline.plan(settings, DAY, [str(landing)])["shards"] == [], "nothing new: nothing is tried again"
    data = base64.b64encode(b"It was a cough.").decode()
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": data}
    (landing / "Binary.ndjson").write_text(json.dumps(binary) + "\n")
    healed = pipeline.run(settings, DAY, [str(landing)])
    rows = tables_of(settings.warehouse)
    assert healed["unchanged"] == 1, "the other source is not read again"
    assert rows["quarantine"] == []
    assert sorted(row["text"] for row in rows["documents"]) == ["Another cough.", "It was a cough."]
    assert warehouse.check(settings.warehouse) == []


def test_a_binary_whose_document_arrives_later_is_one_note(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    data = base64.b64encode(b"It was a cough.").decode()
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": data}
    (landing / "Binary.ndjson").write_text(json.dumps(binary) + "\n")
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(landing)])
    assert [row["record"] for row in tables_of(settings.warehouse)["documents"]] == ["Binary/b1"]
    note = {"resourceType": "DocumentReference", "id": "d", "content": [{"attachment": {"url": "Binary/b1"}}]}
    (landing / "notes.ndjson").write_text(json.dumps(note) + "\n")
    pipeline.run(settings, DAY, [str(landing)])
    rows = tables_of(settings.warehouse)
    assert [row["record"] for row in rows["documents"]] == ["DocumentReference/d#content.0"]
    assert len(rows["entities"]) == 1 and warehouse.check(settings.warehouse) == []


def test_a_better_model_that_finds_less_replaces_all_rows(
    tmp_path: Path, folder: Path, fakes: dict[str, ModelId], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(folder)])
    fakes["tag"] = ModelId("tag", "2", make_id("weights", "better"))
    monkeypatch.setattr(FakeStage, "tag", lambda self, document, tables: [])
    pipeline.run(settings, DAY, [str(folder)])
    rows = tables_of(settings.warehouse)
    assert (len(rows["documents"]), len(rows["entities"]), len(rows["relations"])) == (20, 0, 0)
    assert {row["n_entities"] for row in rows["documents"]} == {0}


def rows_without_counts(root: Path, partition: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a partition but for what differs between a note that was made and one that was taken over."""
    found = {table: warehouse.read_table(root, table, partition=partition).to_pylist() for table in contracts.TABLES}
    differs = {*TIMES, "counts", "device"}
    found["runs"] = [{name: value for name, value in row.items() if name not in differs} for row in found["runs"]]
    return found


def computed() -> Counter[str]:
    """How many notes each stage looked at since the last call."""
    total: Counter[str] = Counter()
    for stage, size in FakeStage.calls:
        total[stage] += size
    FakeStage.calls = []
    return total


def assert_as_made_afresh(settings: Settings, folder: Path, partition: str) -> None:
    """A partition that took rows over is that of a warehouse in which nothing was there to take."""
    fresh = settings.model_copy(update={"warehouse": settings.warehouse.parent / "fresh"})
    pipeline.run(fresh, partition, [str(folder)])
    found, wanted = (rows_without_counts(one.warehouse, partition) for one in (settings, fresh))
    runs = {row["run_id"]: row for row in found.pop("runs")}  # those of earlier runs stay
    assert all(runs[row["run_id"]] == row for row in wanted.pop("runs"))
    assert found == wanted
    assert warehouse.check(settings.warehouse) == []


@pytest.mark.parametrize("chunk_documents", [3, 100])
def test_a_second_night_over_the_same_folder_computes_what_is_new(
    tmp_path: Path, folder: Path, chunk_documents: int
) -> None:
    settings = settings_of(tmp_path, chunk_documents=chunk_documents)
    pipeline.run(settings, DAY, [str(folder)])
    assert computed() == {"tag": 20, "relate": 20, "summarize": 20}
    (folder / "a.ndjson").rename(folder / "moved.ndjson")  # the same notes at another place have other ids
    (folder / "new.ndjson").write_text(json.dumps({"document_id": "n", "text": "A new cough."}))
    outcome = pipeline.run(settings, "2026-02-01", [str(folder)])
    assert computed() == {"tag": 1, "relate": 1, "summarize": 1}
    assert (outcome["counts"]["reused"], outcome["counts"]["documents"], outcome["rows"]["documents"]) == (20, 21, 21)
    assert_as_made_afresh(settings, folder, "2026-02-01")
    off = settings.model_copy(update={"reuse_partitions": 0})
    computed()
    pipeline.run(off, "2026-02-02", [str(folder)])
    assert computed()["tag"] == 21


def test_what_agrees_is_taken_over_and_the_rest_is_made(
    tmp_path: Path, folder: Path, fakes: dict[str, ModelId], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(folder)])
    computed()
    fakes["summarize"] = ModelId("summarize", "2", make_id("weights", "summarizer 2"))
    pipeline.run(settings, DAY, [str(folder)])
    assert computed() == {"summarize": 20}, "a new summarizer: entities and relations stay"
    assert_as_made_afresh(settings, folder, DAY)
    computed()
    scored = settings.model_copy(update={"min_relation_score": 0.4})
    pipeline.run(scored, "2026-02-01", [str(folder)])
    assert computed() == {"relate": 20, "summarize": 20}
    fakes["tag"] = ModelId("tag", "2", make_id("weights", "better"))
    monkeypatch.setattr(FakeStage, "tag", lambda self, document, tables: [])
    pipeline.run(scored, "2026-02-01", [str(folder)])
    assert computed() == {"tag": 20, "relate": 20, "summarize": 20}
    assert rows_without_counts(settings.warehouse, "2026-02-01")["entities"] == []


def test_a_note_that_no_stage_could_take_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    lines = [json.dumps({"document_id": str(n), "text": f"{n} cough{' crash' * (n == 2)}."}) for n in range(4)]
    (landing / "a.ndjson").write_text("\n".join(lines))
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(landing)])
    computed()
    run = FakeStage.run
    monkeypatch.setattr(stages, "run_isolated", lambda worker, tables, run_id: run(worker, tables, run_id=run_id))
    monkeypatch.setattr(FakeStage, "run", run)
    with pytest.raises(AssertionError):
        pipeline.run(settings, "2026-02-01", [str(landing)])
    assert computed() == {"tag": 1}, "the three that were finished are not looked at"


def test_rows_that_cannot_be_trusted_are_made_again(tmp_path: Path, folder: Path) -> None:
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(folder)])
    computed()
    path = warehouse.table_path(settings.warehouse, "entities", DAY)
    path.write_bytes(path.read_bytes()[:-50])  # cut off
    pipeline.run(settings, "2026-02-01", [str(folder)])
    assert computed()["tag"] == 20
    warehouse.journal_path(settings.warehouse, "2026-02-01").write_text("{}")  # being published
    pipeline.run(settings, "2026-02-02", [str(folder)])
    assert computed()["tag"] == 20


def test_the_same_text_with_other_facts_or_sections_is_another_note(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    settings = settings_of(tmp_path)
    note = {"document_id": "1", "text": "A cough.", "note_type": "Progress note"}
    (landing / "a.json").write_text(json.dumps(note))
    pipeline.run(settings, DAY, [str(landing)])
    computed()
    (landing / "a.json").write_text(json.dumps(note | {"note_type": "Discharge summary"}))
    pipeline.run(settings, "2026-02-01", [str(landing)])
    assert computed()["tag"] == 1
    (landing / "a.json").write_text(json.dumps(note | {"patient_id": "another"}))
    pipeline.run(settings, "2026-02-02", [str(landing)])
    assert computed()["tag"] == 0
    assert_as_made_afresh(settings, landing, "2026-02-02")


def test_late_and_superseding_notes(tmp_path: Path, folder: Path) -> None:
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(folder)])
    pipeline.run(settings, "2026-02-01", [str(folder)])
    computed()
    (folder / "late.ndjson").write_text(json.dumps({"document_id": "late", "text": "A late cough."}))
    pipeline.run(settings, DAY, [str(folder)])
    assert computed() == {"tag": 1, "relate": 1, "summarize": 1}
    assert len(rows_without_counts(settings.warehouse, DAY)["documents"]) == 21
    lines = (folder / "a.ndjson").read_text().splitlines()
    lines[0] = json.dumps({"document_id": "a0", "text": "Corrected: no cough."})
    (folder / "a.ndjson").write_text("\n".join(lines))
    pipeline.run(settings, DAY, [str(folder)])
    assert computed() == {"tag": 1, "relate": 1, "summarize": 1}
    rows = rows_without_counts(settings.warehouse, DAY)
    assert [row["text"] for row in rows["documents"] if row["record"] == "a0"] == ["Corrected: no cough."]
    assert len(rows["documents"]) == len(rows["summaries"]) == 21 and warehouse.check(settings.warehouse) == []


def test_one_bad_document_costs_one_document(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    lines = [
        json.dumps({"document_id": str(n), "text": f"Note {n}: cough{' crash' if n == 5 else ''}."}) for n in range(9)
    ]
    (landing / "a.ndjson").write_text("\n".join(lines))
    settings = settings_of(tmp_path, chunk_documents=9)
    pipeline.run(settings, DAY, [str(landing)])
    rows = tables_of(settings.warehouse)
    failed = [row for row in rows["documents"] if row["status"] == "failed"]
    assert [row["record"] for row in failed] == ["5"]
    (reject,) = rows["quarantine"]
    assert (reject["code"], reject["stage"], reject["document_id"]) == ("STAGE_FAILED", "tag", failed[0]["document_id"])
    assert "SECRET" not in json.dumps(reject)
    assert len(rows["entities"]) == 8 and len(rows["summaries"]) == 8
    assert warehouse.check(settings.warehouse) == []


def test_a_model_that_changes_during_the_night_stops_it(
    tmp_path: Path, folder: Path, fakes: dict[str, ModelId]
) -> None:
    settings = settings_of(tmp_path)
    night = pipeline.plan(settings, DAY, [str(folder)])
    pipeline.run_stage("ingest", night["work"], 0, settings)
    fakes["tag"] = ModelId("tag", "2", make_id("weights", "other"))
    with pytest.raises(MedpipeError) as caught:
        pipeline.run_stage("tag", night["work"], 0, settings)
    assert caught.value.code == "MODEL_CHANGED"


def test_rows_are_made_again_where_the_terminology_changes(
    tmp_path: Path, folder: Path, fakes: dict[str, ModelId]
) -> None:
    terminology = tmp_path / "terms.csv"
    terminology.write_text("code,system,term\nA,B,cough\n")
    plain = settings_of(tmp_path)
    settings = plain.model_copy(update={"terminology": (terminology,)})
    pipeline.run(plain, DAY, [str(folder)])
    assert pipeline.plan(plain, DAY, [str(folder)])["shards"] == []
    assert pipeline.plan(settings, DAY, [str(folder)])["shards"] != []
    pipeline.run(settings, DAY, [str(folder)])
    assert pipeline.plan(settings, DAY, [str(folder)])["shards"] == []
    night = pipeline.plan(plain, DAY, [str(folder)])
    pipeline.run_stage("ingest", night["work"], 0, plain)
    with pytest.raises(MedpipeError, match="its terminology"):
        pipeline.run_stage("tag", night["work"], 0, settings)
    terminology.write_text("code,system,term\nA,B,fever\n")
    assert pipeline.plan(settings, DAY, [str(folder)])["shards"] != []
    terminology.unlink()
    with pytest.raises(MedpipeError, match="INPUT_NOT_FOUND"):
        pipeline.plan(settings, DAY, [str(folder)])


def test_two_inputs_on_one_day_stand_side_by_side(tmp_path: Path, folder: Path) -> None:
    settings = settings_of(tmp_path)
    pipeline.run(settings, DAY, [str(folder / "a.ndjson")])
    pipeline.run(settings, DAY, [str(folder / "b.ndjson")])
    assert len(tables_of(settings.warehouse)["documents"]) == 8


def test_shards_are_cut_by_size() -> None:
    sources = [{"name": str(n), "bytes": size} for n, size in enumerate([5, 1, 1, 9, 3])]
    cut = planning.cut_shards(sources, 3)
    assert sorted(sum(source["bytes"] for source in shard) for shard in cut) == [5, 5, 9]
    assert sorted(source["name"] for shard in cut for source in shard) == list("01234")


def test_plan_names_no_text_and_a_night_without_sources_fails_clearly(tmp_path: Path, folder: Path) -> None:
    settings = settings_of(tmp_path, landing=str(folder.parent / "{date}"))
    with pytest.raises(MedpipeError) as caught:
        pipeline.plan_night(settings, DAY)
    assert caught.value.code == "INPUT_NOT_FOUND"
    (folder.parent / DAY).mkdir()
    (folder.parent / DAY / "a.ndjson").write_text(json.dumps({"text": "CANARY cough"}))
    assert "CANARY" not in json.dumps(pipeline.plan_night(settings, DAY))


def test_a_note_in_a_language_that_no_model_knows_is_kept_and_not_processed(tmp_path: Path) -> None:
    lines = [{"document_id": code or "none", "language": code, "text": "cough"} for code in ("en-GB", "es", None)]
    (tmp_path / "a.ndjson").write_text("\n".join(json.dumps(line) for line in lines))
    settings = settings_of(tmp_path)
    outcome = pipeline.run(settings, DAY, [str(tmp_path / "a.ndjson")])
    rows = tables_of(settings.warehouse)
    status = {row["record"]: row["status"] for row in rows["documents"]}
    assert status == {"en-GB": "processed", "es": "unsupported_language", "none": "processed"}
    kept = {row["document_id"] for row in rows["documents"] if row["status"] == "processed"}
    for table in ("entities", "relations", "summaries"):
        assert {row["document_id"] for row in rows[table]} == kept
    assert outcome["counts"]["unsupported_language"] == outcome["counts"]["language:es"] == 1
    assert warehouse.check(settings.warehouse) == []
    known = settings_of(tmp_path, languages=("en", "es"))
    pipeline.run(known, DAY, [str(tmp_path / "a.ndjson")])
    assert {row["status"] for row in tables_of(known.warehouse)["documents"]} == {"processed"}


def test_what_is_left_of_chunks_that_were_done_before_fills_chunks(tmp_path: Path) -> None:
    def write(changed: int) -> None:
        lines = [json.dumps({"document_id": str(n), "text": f"Note {n}: cough{' again' * (n % 5 == changed)}."}) for n in range(20)]
        (tmp_path / "a.ndjson").write_text("\n".join(lines))

    settings = settings_of(tmp_path, chunk_documents=5)
    write(-1)
    pipeline.run(settings, DAY, [str(tmp_path / "a.ndjson")])
    assert [count for stage, count in FakeStage.calls if stage == "tag"] == [5, 5, 5, 5]
    FakeStage.calls = []
    write(2)
    outcome = pipeline.run(settings, DAY, [str(tmp_path / "a.ndjson")])
    assert FakeStage.calls == [("tag", 4), ("relate", 4), ("summarize", 4)], "one of each chunk, together"
    assert outcome["counts"]["unchanged"] == 16 and outcome["rows"]["documents"] == 20
    assert warehouse.check(settings.warehouse) == []


def test_nothing_readable_is_an_empty_partition(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    settings = settings_of(tmp_path)
    outcome = pipeline.run(settings, DAY, [str(tmp_path / "a.pdf")])
    assert outcome["rows"]["quarantine"] == 1 and outcome["rows"]["documents"] == 0
    assert warehouse.check(settings.warehouse) == []
