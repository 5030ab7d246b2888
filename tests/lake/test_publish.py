"""Publishing: what a partition holds afterwards, and that it holds all or nothing."""

from __future__ import annotations

import contextlib
import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.lake import contracts, files, publish, warehouse
from medpipe.lake.publish import publish_partition, recover
from tests.lake.invented import PARTITION, publish_input, rows_of, write_chunks


def ids(root: Path, table: str) -> list[str]:
    key = contracts.properties(table)[0]["name"]
    return warehouse.read_table(root, table, partition=PARTITION)[key].to_pylist()


def keys(rows: dict[str, list[dict[str, Any]]], table: str) -> set[str]:
    key = contracts.properties(table)[0]["name"]
    return {row[key] for row in rows[table]}


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


def test_published_rows_keep_the_contracts(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 7)
    manifest = publish_partition(publish_input(root, tmp_path / "work", rows))
    assert warehouse.check(root) == []
    for table in contracts.TABLES:
        assert set(ids(root, table)) == keys(rows, table)
        assert manifest["tables"][table]["rows"] == len(rows[table])
    documents = warehouse.read_table(root, "documents", partition=PARTITION).to_pylist()
    assert {(row["n_sections"], row["n_entities"], row["n_relations"], row["n_summaries"]) for row in documents} == {
        (1, 2, 1, 1)
    }
    assert warehouse.partitions(root) == [PARTITION]
    assert not (root / "_work" / f"dt={PARTITION}" / "publish").exists()


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 5)
    publish_partition(publish_input(root, tmp_path / "work", rows))
    before = snapshot(root)
    publish_partition(publish_input(root, tmp_path / "work", rows))
    assert snapshot(root) == before


def test_other_sources_stay_and_own_rows_are_replaced(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    a, b = rows_of("a.txt", 4), rows_of("b.txt", 3)
    publish_partition(publish_input(root, tmp_path / "wa", a))
    publish_partition(publish_input(root, tmp_path / "wb", b))
    for table in ("documents", "entities", "quarantine"):
        assert set(ids(root, table)) == keys(a, table) | keys(b, table)
    better = rows_of("a.txt", 4, model="tagger@2", entities=1)  # finds fewer entities
    publish_partition(publish_input(root, tmp_path / "wc", better))
    assert set(ids(root, "entities")) == keys(better, "entities") | keys(b, "entities")
    assert set(ids(root, "relations")) == keys(b, "relations")
    assert warehouse.check(root) == []
    facts = warehouse.read_manifest(root, PARTITION)["facts"]
    assert facts["sources"] == {"a.txt": "d", "b.txt": "d"}


def test_kept_documents_stay_as_they_are(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 4)
    publish_partition(publish_input(root, tmp_path / "work", rows))
    kept = sorted(keys(rows, "documents"))[:3]
    new = {table: [] for table in contracts.TABLES} | {"runs": rows["runs"]}
    publish_partition(publish_input(root, tmp_path / "w2", new, sources=frozenset({"a.txt"}), keep=frozenset(kept)))
    assert ids(root, "documents") == kept
    assert len(ids(root, "entities")) == 6
    assert ids(root, "quarantine") == []
    assert warehouse.check(root) == []


def test_rows_of_an_earlier_minor_version_stay_beside_new_ones(tmp_path: Path) -> None:
    root, old, new = tmp_path / "lake", rows_of("a.txt", 4), rows_of("b.txt", 2)
    publish_partition(publish_input(root, tmp_path / "wa", old))
    path = warehouse.table_path(root, "documents", PARTITION)
    schema = contracts.arrow_schema("documents", "1.0.0")
    rows = [{name: row[name] for name in schema.names} | {"schema_version": "1.0.0"} for row in files.read_table(path).to_pylist()]
    files.write_table(path, pa.Table.from_pylist(rows, schema))  # as the first release wrote it
    publish_partition(publish_input(root, tmp_path / "wb", new))
    found = {row["source"]: row for row in warehouse.read_table(root, "documents", partition=PARTITION).to_pylist()}
    assert (found["a.txt"]["note_status"], found["a.txt"]["schema_version"]) == (None, "1.0.0")
    assert (found["b.txt"]["note_status"], found["b.txt"]["schema_version"]) == ("final", contracts.current_version("documents"))
    assert warehouse.check(root) == []


def test_failed_documents_are_marked(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 3)
    lost = rows["documents"][0]["document_id"]
    publish_partition(publish_input(root, tmp_path / "work", rows, failed=frozenset({lost})))
    status = {row["document_id"]: row["status"] for row in warehouse.read_table(root, "documents").to_pylist()}
    assert status[lost] == "failed" and list(status.values()).count("processed") == 2


def test_no_rows_make_files_with_their_schema(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    empty = {table: [] for table in contracts.TABLES}
    publish_partition(publish_input(root, tmp_path / "work", empty, sources=frozenset({"a.txt"})))
    for table in contracts.TABLES:
        assert files.read_table(warehouse.table_path(root, table, PARTITION)).schema.equals(
            contracts.arrow_schema(table)
        )
    assert warehouse.check(root) == []


@pytest.mark.parametrize("step", range(9))
def test_killed_between_any_two_renames_and_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A kill after ``step`` renames (7 tables, the manifest, the end): the next comer finishes them."""
    root = tmp_path / "lake"
    publish_partition(publish_input(root, tmp_path / "wa", rows_of("a.txt", 4)))
    second = rows_of("a.txt", 4, model="tagger@2")
    expected = tmp_path / "expected"
    publish_partition(publish_input(expected, tmp_path / "we", rows_of("a.txt", 4)))
    publish_partition(publish_input(expected, tmp_path / "wf", second))

    class Killed(BaseException):
        pass

    calls = 0
    real = files.sync

    def sync(path: Path) -> None:
        nonlocal calls
        if warehouse.journal_path(root, PARTITION).exists():
            if calls == step:
                raise Killed
            calls += 1
        real(path)

    monkeypatch.setattr(files, "sync", sync)
    with contextlib.suppress(Killed):
        publish_partition(publish_input(root, tmp_path / "wb", second))
    monkeypatch.setattr(files, "sync", real)
    recover(root, PARTITION)
    assert warehouse.check(root) == []
    tables = {name: data for name, data in snapshot(root).items() if not name.startswith("_")}
    assert tables == {name: data for name, data in snapshot(expected).items() if not name.startswith("_")}


def test_killed_before_the_journal_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "lake"
    publish_partition(publish_input(root, tmp_path / "wa", rows_of("a.txt", 4)))
    before = snapshot(root)
    monkeypatch.setattr(publish, "_make_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish_partition(publish_input(root, tmp_path / "wb", rows_of("a.txt", 2)))
    assert snapshot(root) == before


def test_disk_full_is_one_sentence_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "lake"
    publish_partition(publish_input(root, tmp_path / "wa", rows_of("a.txt", 4)))
    before = snapshot(root)
    new = publish_input(root, tmp_path / "wb", rows_of("a.txt", 2))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_rows", full)
    with pytest.raises(MedpipeError) as caught:
        publish_partition(new)
    assert caught.value.code == "DISK_FULL" and caught.value.exit_code == 5
    assert snapshot(root) == before


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 3)
    rows["entities"].append(rows["entities"][0])
    with pytest.raises(MedpipeError) as caught:
        publish_partition(publish_input(root, tmp_path / "work", rows))
    assert caught.value.code == "CONTRACT_BROKEN"
    assert warehouse.partitions(root) == []


def test_busy_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    new = publish_input(tmp_path, tmp_path / "work", rows_of("a.txt", 1))
    with publish.partition_lock(tmp_path, PARTITION), pytest.raises(MedpipeError) as caught:
        publish_partition(new)
    assert caught.value.code == "PARTITION_BUSY"


@pytest.mark.parametrize("table", ["entities", "documents", "relations"])
def test_check_finds_what_is_broken(tmp_path: Path, table: str) -> None:
    root = tmp_path / "lake"
    publish_partition(publish_input(root, tmp_path / "work", rows_of("a.txt", 3)))
    path = warehouse.table_path(root, table, PARTITION)
    files.write_table(path, files.read_table(path).slice(1))
    assert [finding.table for finding in warehouse.check(root)] == [table]


def test_check_finds_wrong_offsets_and_lost_references(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 3)
    rows["entities"][0]["start"] += 1
    rows["relations"][0]["tail_entity_id"] = "gone"
    publish_partition(publish_input(root, tmp_path / "work", rows))
    found = "\n".join(str(finding) for finding in warehouse.check(root))
    assert "1 texts are not what stands at their offsets" in found
    assert "1 values of tail_entity_id lead to no row of entities" in found


def test_manifest_is_readable_by_others(tmp_path: Path) -> None:
    publish_partition(publish_input(tmp_path, tmp_path / "w", rows_of("a.txt", 1)))
    manifest = json.loads((tmp_path / "_manifests" / f"dt={PARTITION}.json").read_text())
    assert set(manifest["tables"]) == set(contracts.TABLES)


def test_many_files_are_merged_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine chunks, two at a time: four levels; the tables are those of one chunk, and at most three files are open."""
    rows = rows_of("a.txt", 40)
    small, large = tmp_path / "small", tmp_path / "large"
    publish_partition(publish_input(large, tmp_path / "w1", rows))
    new = publish_input(small, tmp_path / "w9", rows)
    new = replace(new, tables=write_chunks(tmp_path / "w9", rows, chunks=9))
    most = opened = 0
    real = files.iter_file

    def iter_file(*arguments: Any, **options: Any) -> Any:
        nonlocal most, opened
        opened += 1
        most = max(most, opened)
        try:
            yield from real(*arguments, **options)
        finally:
            opened -= 1

    monkeypatch.setattr(publish, "MERGE_FILES", 2)
    monkeypatch.setattr(files, "iter_file", iter_file)
    publish_partition(new)
    assert most <= 6, "two that are merged; documents beside the rows that they count"
    monkeypatch.undo()
    assert warehouse.check(small) == []
    for table in contracts.TABLES:
        assert warehouse.read_table(small, table).equals(warehouse.read_table(large, table))
    assert not list(small.rglob("*.arrows"))


@given(
    st.lists(st.sampled_from("abcdef"), unique=True).map(sorted),
    st.lists(st.sampled_from("abcdef")).map(sorted),
    st.sets(st.sampled_from("abcdef")),
)
@settings(deadline=None)
def test_documents_get_the_counts_of_their_rows(documents: list[str], rows: list[str], failed: set[str]) -> None:
    zero = pa.array([0] * len(documents), pa.int32())
    table = pa.table({"document_id": pa.array(documents, pa.string()), "n_entities": zero, "status": pa.array(["processed"] * len(documents), pa.string())})  # fmt: skip
    found = pa.table({"document_id": pa.array(rows, pa.string())})
    filled = publish.fill_in(table, {"n_entities": found}, pa.array(sorted(failed), pa.string()))
    assert filled["n_entities"].to_pylist() == [rows.count(one) for one in documents]
    assert filled["status"].to_pylist() == ["failed" if one in failed else "processed" for one in documents]
    assert publish.fill_in(table, {"n_entities": None}, pa.array([], pa.string()))["n_entities"].equals(table["n_entities"])
