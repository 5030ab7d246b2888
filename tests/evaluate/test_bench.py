"""The benchmark's notes, and that it measures what it says."""

from __future__ import annotations

import pytest

from medpipe.evaluate.bench import LONGEST, SHORTEST, generate_notes, measure_formats, measure_part, write_sources
from medpipe.evaluate.bench_formats import WRITERS
from medpipe.evaluate.bench_reuse import write_notes
from medpipe.evaluate.bench_scale import publish_work, scale_settings, write_work
from medpipe.lake import warehouse
from medpipe.text.tokens import tokenize


def test_notes_have_the_length_that_is_asked_for() -> None:
    for asked in (100, 500, 2000):
        lengths = [len(tokenize(text)) for text in generate_notes(5, tokens=asked)]
        assert all(0.8 * asked <= length <= 1.5 * asked + 30 for length in lengths), lengths


def test_the_mix_is_the_same_each_time_and_within_its_limits() -> None:
    notes = list(generate_notes(60))
    assert notes == list(generate_notes(60))
    lengths = [len(tokenize(text)) for text in notes]
    assert min(lengths) >= 0.8 * SHORTEST and max(lengths) <= 1.5 * LONGEST
    assert max(lengths) > 3 * min(lengths)


def test_sources_are_one_note_a_line(tmp_path) -> None:
    size = write_sources(tmp_path, 4, 100)
    assert size == (tmp_path / "notes.ndjson").stat().st_size
    assert len((tmp_path / "notes.ndjson").read_text().splitlines()) == 4


@pytest.mark.parametrize("part", ["ingest", "run"])
def test_a_part_is_measured(part: str) -> None:
    figures = measure_part(part, notes=3, tokens=100, device="cpu")
    assert figures["notes"] == 3 and figures["notes_per_s"] > 0 and figures["tokens_per_s"] > 0
    assert figures["peak_memory_mb"] > 50


def test_every_format_is_measured_and_every_note_read() -> None:
    figures = measure_formats(3, 100)
    assert set(figures) == set(WRITERS)
    assert {name: one["notes"] for name, one in figures.items()} == dict.fromkeys(WRITERS, 3)
    assert all(one["mb_per_s"] > 0 for one in figures.values())


def test_generated_rows_keep_the_contracts(tmp_path) -> None:
    limits = scale_settings(tmp_path).model_copy(update={"chunk_documents": 20})
    write_work(tmp_path, 1200, limits)
    figures = publish_work(tmp_path, limits)
    assert figures["rows"] == {
        "documents": 100, "sections": 200, "entities": 600, "relations": 200, "summaries": 100, "quarantine": 0, "runs": 4
    }  # fmt: skip
    assert warehouse.check(limits.warehouse) == []
    assert figures["peak_memory_mb"] > 0 and figures["publish_s"] > 0


def test_nights_that_were_done_before_differ_in_a_tenth(tmp_path) -> None:
    write_notes(tmp_path / "a", 30, 20)
    write_notes(tmp_path / "b", 30, 20, changed=True)
    one, other = ((tmp_path / name / "00000.ndjson").read_text().splitlines() for name in "ab")
    assert [number for number in range(30) if one[number] != other[number]] == [0, 10, 20]
