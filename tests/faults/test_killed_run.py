"""``medpipe run`` killed with SIGKILL at random instants and run again: the rows of an undisturbed run.

Slow: ``make test-faults``. The instants are spread over the whole run, so over every stage and the publish; a reader
looks at the tables all the while and must never see half a file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medpipe.evaluate.bench import generate_notes
from medpipe.lake import contracts, warehouse
from tests.tables import tables_of

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parent.parent.parent
DAY = "2026-01-31"
KILLS = int(os.environ.get("MEDPIPE_KILLS", "24"))


def start(landing: Path, lake: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MEDPIPE_CHUNK_DOCUMENTS": "8", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "medpipe.cli", "run", str(landing), "--out", str(lake), "--date", DAY, "--quiet"]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    folder = tmp_path_factory.mktemp("landing")
    notes = [{"document_id": f"g{number}", "text": text} for number, text in enumerate(generate_notes(40, tokens=150))]
    (folder / "generated.ndjson").write_text("".join(json.dumps(note) + "\n" for note in notes))
    for path in samples.rglob("*"):
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(landing: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The tables of a run that nobody kills, and how long it took."""
    lake = tmp_path_factory.mktemp("undisturbed") / "lake"
    started = time.monotonic()
    process = start(landing, lake)
    assert process.wait() == 0, process.stderr.read()
    return lake, time.monotonic() - started


def read_everything(lake: Path) -> None:
    """Reads all published files: each is whole at any instant."""
    for table in contracts.TABLES:
        path = warehouse.table_path(lake, table, DAY)
        if path.exists():
            assert pq.read_table(path, partitioning=None).num_rows >= 0


def phase(lake: Path) -> str:
    """Where a killed run was: the last stage that noted anything, or the publish."""
    if (lake / "_manifests" / f".dt={DAY}.publishing").exists():
        return "publish (journal)"
    if (lake / "_work" / f"dt={DAY}" / "publish").exists():
        return "publish (staging)"
    if (lake / "_manifests" / f"dt={DAY}.json").exists():
        return "done"
    noted = {path.stem for path in lake.glob("_work/dt=*/*/shard-*/chunk-*/*.json")}
    return next((stage for stage in ("summarize", "relate", "tag", "ingest") if stage in noted), "start")


def instants(seconds: float) -> Iterator[float]:
    """Random instants, evenly spread over the length of a run."""
    dice = random.Random(5)
    for number in range(KILLS):
        yield seconds * (number + dice.random()) / KILLS


def test_killed_at_random_instants_and_run_again(
    landing: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    expected, seconds = tables_of(undisturbed[0], DAY), undisturbed[1]
    seen: Counter[str] = Counter()
    for number, instant in enumerate(instants(seconds)):
        lake = tmp_path / f"lake-{number}"
        process = start(landing, lake)
        deadline = time.monotonic() + instant
        while time.monotonic() < deadline and process.poll() is None:
            read_everything(lake)
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen[phase(lake)] += 1
        read_everything(lake)
        again = start(landing, lake)
        assert again.wait() == 0, again.stderr.read()
        assert tables_of(lake, DAY) == expected, f"killed after {instant:.2f} s of {seconds:.2f} s"
        assert warehouse.check(lake) == []
        assert not list(lake.glob("_work/dt=*/*")), "something is left in the work area"
    print(f"killed {KILLS} times: {dict(seen)}")
    assert len(seen) >= 4, f"the kills fell into too few phases: {dict(seen)}"


def test_killed_again_and_again_in_one_warehouse(
    landing: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    """The same night killed ten times over, each time a little later, and then left alone."""
    lake = tmp_path / "lake"
    for attempt in range(10):
        process = start(landing, lake)
        try:
            process.wait(undisturbed[1] * (attempt + 1) / 12)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    last = start(landing, lake)
    assert last.wait() == 0, last.stderr.read()
    assert tables_of(lake, DAY) == tables_of(undisturbed[0], DAY)
    assert warehouse.check(lake) == []
