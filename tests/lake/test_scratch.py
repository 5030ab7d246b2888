"""Scratch: gone when it is done with, and that of a killed process when another one makes its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from medpipe.lake import files

HOLD = """
import sys, time
from medpipe.lake import files
with files.scratch() as folder:
    (folder / "note").write_text("words of a note")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_scratch_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-c", HOLD]
    living, killed = (subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        folders = [Path(process.stdout.readline().strip()) for process in (living, killed) if process.stdout]
        killed.kill()
        killed.wait()
        files._own_scratch.cache_clear()
        with files.scratch() as mine:
            assert mine.is_dir() and oct(mine.parent.stat().st_mode)[-3:] == "700"
            assert (folders[0] / "note").exists() and not folders[1].exists()
        assert not mine.exists()
    finally:
        living.kill()
        living.wait()
        files._own_scratch.cache_clear()
