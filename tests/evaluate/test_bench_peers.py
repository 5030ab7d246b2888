"""Our profiles beside a peer: an invented one, whose speed and answers are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medpipe.errors import MedpipeError
from medpipe.evaluate import bench_peers
from medpipe.evaluate.bench_peers import Competitor, measure_peers, parse_peer

PEER = """
import neighbour
def load(folder):
    assert (folder / "weights").is_file()
    print("what a peer prints is no answer")
    return lambda texts: ({(0, 5, neighbour.LABEL)} for _ in texts)
"""


@pytest.fixture
def peer(tmp_path: Path) -> str:
    """A peer that finds the first five characters of every text."""
    (tmp_path / "slow_peer.py").write_text(PEER)
    (tmp_path / "neighbour.py").write_text("LABEL = 'SYMPTOM'")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()
    return f"{tmp_path / 'slow_peer.py'}={tmp_path / 'model'}"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "dev.jsonl"
    entity = {"id": "T1", "type": "SYMPTOM", "spans": [[0, 5]]}
    lines = [
        {"doc_id": str(number), "text": text, "entities": [entity], "relations": []}
        for number, text in enumerate(("fever since Monday", "cough and 2 other things"))
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_everyone_is_measured_on_the_same_text(peer: str, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, "our_profiles", lambda model: [parse_ours(peer)])
    figures = measure_peers(corpus, peers=[peer], python=sys.executable, threads=1, words=30)
    assert set(figures["taggers"]) == {"ours", "slow_peer"}
    assert figures["taggers"]["slow_peer"]["f1"] == 1.0
    assert all(row["words_per_s"] > 0 for row in figures["taggers"].values())
    assert figures["ratios"]["ours"].keys() == {"slow_peer"}
    assert (figures["words"], figures["threads"]) == (32, 1)  # 8 words, four times


def parse_ours(peer: str) -> Competitor:
    """The same peer in the place of ours: our profiles take seconds to load, and are tested by themselves."""
    found = parse_peer(peer, sys.executable)
    found.name, found.profile = "ours", "standard"
    return found


def test_peers_that_are_none(peer: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for written in ("no.py=model", peer.split("=")[0], f"{peer}-not"):
        with pytest.raises(MedpipeError, match="SETTING_INVALID"):
            parse_peer(written, sys.executable)
    monkeypatch.setattr(bench_peers, "our_profiles", lambda model: [])
    (tmp_path / "slow_peer.py").write_text("raise SystemExit('broken')")
    with pytest.raises(MedpipeError, match="PEER_FAILED"):
        measure_peers(corpus, peers=[peer], python=sys.executable, words=1)
