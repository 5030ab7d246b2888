"""The benchmark's notes, and that it measures what it says."""

from __future__ import annotations

import pytest

from medpipe.evaluate.bench import LONGEST, SHORTEST, generate_notes, measure_formats, measure_part, write_sources
from medpipe.evaluate.bench_formats import WRITERS
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
