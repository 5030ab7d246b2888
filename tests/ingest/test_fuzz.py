"""A short run of the fuzzer for every reader; ``make fuzz`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.ingest.read import READERS
from tests.ingest import fuzzing


@pytest.mark.parametrize("name", fuzzing.SEEDS)
def test_mutated_inputs_end_as_rows(name: str, tmp_path: Path) -> None:
    found, wrong = fuzzing.run(name, 150, 7, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert found["documents"] and found["rejected"], "the seeds are not read, or nothing is refused"


def test_every_reader_is_fuzzed() -> None:
    assert set(fuzzing.SEEDS) == {*READERS, "archive"}


def test_a_broken_reader_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content, reading):  # type: ignore[no-untyped-def]
        raise ValueError(fuzzing.CANARY)
        yield

    monkeypatch.setitem(READERS, "json", broken)
    _, wrong = fuzzing.run("json", 1, 7, tmp_path)
    assert wrong
