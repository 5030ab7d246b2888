"""``medpipe maintain`` killed with SIGKILL at random instants and called again: the rows of an undisturbed one.

Slow: ``make test-faults``. Another profile, whose name is part of the model's, makes what a night made stale.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medpipe.evaluate.bench import generate_notes
from medpipe.lake import warehouse
from tests.faults.test_killed_run import DAY, ROOT, read_everything
from tests.tables import tables_of

pytestmark = pytest.mark.faults

KILLS = max(4, int(os.environ.get("MEDPIPE_KILLS", "24")) // 3)


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MEDPIPE_CHUNK_DOCUMENTS": "8", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "medpipe.cli", *map(str, command)]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def maintain(lake: Path) -> subprocess.Popen[bytes]:
    return start("maintain", "--warehouse", lake, "--profile", "fast", "--json")


def test_killed_at_random_instants_and_called_again(tmp_path: Path, samples: Path) -> None:
    landing, night, whole = (tmp_path / name for name in ("landing", "night", "whole"))
    landing.mkdir()
    notes = [{"document_id": f"g{number}", "text": text} for number, text in enumerate(generate_notes(24, tokens=120))]
    (landing / "generated.ndjson").write_text("".join(json.dumps(note) + "\n" for note in notes))
    shutil.copy(samples / "fhir_bundle.json", landing)
    assert start("run", landing, "--out", night, "--date", DAY, "--quiet").wait() == 0
    shutil.copytree(night, whole)
    started = time.monotonic()
    out, errors = (undisturbed := maintain(whole)).communicate()
    assert undisturbed.returncode == 0, errors
    assert json.loads(out)["reprocess"]["done"] == 1
    seconds = time.monotonic() - started
    expected = tables_of(whole, DAY)
    assert {row["model"].partition("@")[0] for row in expected["entities"]} == {"tagger+fast"}

    dice = random.Random(11)
    reached = 0
    for number in range(KILLS):
        lake = tmp_path / f"lake-{number}"
        shutil.copytree(night, lake)
        process = maintain(lake)
        deadline = time.monotonic() + seconds * (number + dice.random()) / KILLS
        while time.monotonic() < deadline and process.poll() is None:
            read_everything(lake)
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached += any(lake.glob("_work/dt=*/*/shard-*"))
        read_everything(lake)
        _, errors = (again := maintain(lake)).communicate()
        assert again.returncode == 0, errors
        assert tables_of(lake, DAY) == expected, f"killed {number + 1} of {KILLS}"
        assert warehouse.check(lake) == []
        assert not list(lake.glob("_work/dt=*/*/plan.json"))
    assert reached >= KILLS // 4, f"only {reached} kills fell into the stages"
