"""Chunks: sorted, conforming, accounted for, whatever their size."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from medpipe.errors import MedpipeError
from medpipe.ingest.sources import Source, find_sources
from medpipe.ingest.stage import read_chunks, section_ids
from medpipe.lake import contracts
from medpipe.records import Document, Section, StageOutput


def chunks(sources: list[Source], **options: int) -> list[StageOutput]:
    settings = {"max_note_chars": 10_000, "chunk_documents": 3, "chunk_chars": 10_000} | options
    return list(read_chunks(sources, format="auto", run_id="r", **settings))


def test_samples_are_accounted_for(samples: Path) -> None:
    outputs = chunks(find_sources([str(samples)]))
    counts: Counter[str] = Counter()
    for output in outputs:
        counts.update(output.counts)
        for table, rows in output.rows.items():
            assert rows.schema.equals(contracts.arrow_schema(table))
        ids = output.rows["documents"]["document_id"].to_pylist()
        assert ids == sorted(ids) and len(ids) <= 3
        assert set(output.rows["sections"]["document_id"].to_pylist()) == set(ids)
    assert counts["records"] == counts["documents"] + counts["duplicates"] + counts["not_notes"] + counts["rejected"]
    assert (counts["documents"], counts["rejected"], counts["sources"]) == (27, 13, 27)
    assert sum(len(output.rejects) for output in outputs) == counts["rejected"]


def test_rows_do_not_depend_on_the_size_of_chunks(samples: Path) -> None:
    sources = find_sources([str(samples)])

    def rows(size: int) -> list[str]:
        return sorted(
            json.dumps(row, default=str)
            for one in chunks(sources, chunk_documents=size)
            for row in one.rows["documents"].to_pylist()
        )

    assert rows(1) == rows(100)
    assert len(chunks(sources, chunk_chars=1)) >= 27


def test_the_same_note_twice_in_a_file_is_one_document(tmp_path: Path) -> None:
    one = json.dumps({"document_id": "d", "text": "Cough."})
    (tmp_path / "a.ndjson").write_text(f"{one}\n{one}\n" + json.dumps({"document_id": "d", "text": "Fever."}) + "\n")
    (output,) = chunks(find_sources([str(tmp_path)]))
    assert output.counts["documents"] == 2 and output.counts["duplicates"] == 1


def test_nothing_to_read_is_one_empty_chunk(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text("\n")
    (output,) = chunks(find_sources([str(tmp_path)]))
    assert len(output.rows["documents"]) == 0


def test_section_rows_point_into_the_text(samples: Path) -> None:
    (output,) = chunks(find_sources([str(samples / "fhir_bundle.json")]), chunk_documents=100)
    texts = {row["document_id"]: row["text"] for row in output.rows["documents"].to_pylist()}
    for row in output.rows["sections"].to_pylist():
        text = texts[row["document_id"]]
        assert 0 <= row["start"] <= row["body_start"] <= row["end"] <= len(text)
        assert row["title"] is None or row["title"] in text[row["start"] : row["body_start"]]


def test_ids_of_sections_are_unique() -> None:
    """A structured source may tell two empty sections of one kind at one place."""
    empty = Section("plan", 4, 4, 4)
    document = Document("d", "s", "0", "ccda", "Note", "h", sections=(Section("notes", 0, 4, 4), empty, empty))
    ids = section_ids(document)
    assert len(set(ids)) == 3 and ids == section_ids(document)
    assert ids[:2] == section_ids(replace(document, sections=document.sections[:2]))


def test_find_sources(tmp_path: Path) -> None:
    for name in ("b/two.json", "a.json", ".hidden.json", "_work/x.json", "b/.git/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("{}")
    assert [source.name for source in find_sources([str(tmp_path)])] == ["a.json", "b/two.json"]
    assert [source.name for source in find_sources([str(tmp_path / "b" / "two.json")])] == ["two.json"]
    assert [source.name for source in find_sources([str(tmp_path / "*" / "*.json")])] == ["_work/x.json", "b/two.json"]
    assert [source.name for source in find_sources([str(tmp_path / "a.json"), str(tmp_path)])] == [
        "a.json",
        "b/two.json",
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "b" / "a.json").write_text("{}")
    for inputs, wanted in (
        (["gone"], "INPUT_NOT_FOUND"),
        ([str(tmp_path / "*.nothing")], "INPUT_NOT_FOUND"),
        ([str(tmp_path / "empty")], "INPUT_EMPTY"),
        ([str(tmp_path / "a.json"), str(tmp_path / "b" / "a.json")], "SETTING_INVALID"),
    ):
        with pytest.raises(MedpipeError) as caught:
            find_sources(inputs)
        assert caught.value.code == wanted
