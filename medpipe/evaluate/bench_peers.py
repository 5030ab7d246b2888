"""``medpipe bench tag --peers``: our tagger and others on the same text, the same processors, in one run.

Every tagger has a process of its own (``tagger_process``). All are asked in turn, round after round, so that what
else the machine does meets all of them; a figure is the median of its rounds. Words are counted as
``\\w+|[^\\w\\s]``, whatever a tagger takes for a token. Tokenization is timed, and on our side everything up to the
Arrow table of entities. The texts are those of the corpus, repeated up to a number of words: caches of words are warm
for everyone.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpipe.device import cpu_count
from medpipe.errors import MedpipeError
from medpipe.evaluate import tagger_process
from medpipe.evaluate.spans import Span, count_scores, find_label_map
from medpipe.learn.corpora import read_documents
from medpipe.settings import PROFILES
from medpipe.tag.profiles import find_tagger
from medpipe.weights import read_config

WORD = re.compile(r"\w+|[^\w\s]")
ROUNDS = 3


@dataclass(slots=True)
class Competitor:
    """A tagger and what was measured of it."""

    name: str
    command: list[str]
    profile: str | None = None  # of ours
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    spans: list[list[Span]] = field(default_factory=list)  # of the corpus, each text once
    process: subprocess.Popen[str] | None = None

    def ask(self, file: Path) -> dict[str, Any]:
        """Returns what the process answers to the texts of a file.

        Raises:
            MedpipeError: PEER_FAILED where it does not answer; why, it has said on stderr.
        """
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{file}\n")
            self.process.stdin.flush()
            return dict(json.loads(self.process.stdout.readline()))
        except (OSError, ValueError) as error:
            raise MedpipeError("PEER_FAILED", name=self.name) from error


def measure_peers(
    corpus: Path, *, peers: Sequence[str], python: str, model: str = "tagger", threads: int | None = None, words: int
) -> dict[str, Any]:
    """Measures our profiles and peers on a corpus.

    Args:
        corpus: annotated JSON lines.
        peers: ``SCRIPT=MODEL`` each; see ``tagger_process``.
        python: of the environment in which the peers are installed.
        model: ours; for a fair comparison trained on the corpus that the peers were trained on.
        threads: for each tagger; all processors if not given.
        words: about how many words a round has.

    Returns:
        ``taggers``: for each ``words_per_s``, ``words_per_cpu_s`` and ``f1`` (exact spans and labels, as a fraction);
        ``ratios``: for each of our profiles how many times faster than each peer it is, by ``words_per_s``; ``words``,
        ``threads``, ``machine``.

    Raises:
        MedpipeError: SETTING_INVALID, PEER_FAILED, CORPUS_NOT_FOUND, CORPUS_INVALID, MODEL_NOT_FOUND.
    """
    documents = read_documents(corpus)
    texts = [document.text for document in documents]
    once = sum(len(WORD.findall(text)) for text in texts)
    if not once:
        raise MedpipeError("CORPUS_INVALID", path=corpus, reason="it has no words")
    times = max(1, -(-words // once))
    competitors = [*our_profiles(model), *(parse_peer(peer, python) for peer in peers)]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads or cpu_count()))
    with tempfile.TemporaryDirectory() as name:
        short, long = Path(name) / "once.json", Path(name) / "round.json"
        short.write_text(json.dumps(texts), encoding="utf-8")
        long.write_text(json.dumps(texts * times), encoding="utf-8")
        try:
            for one in competitors:
                one.process = subprocess.Popen(
                    one.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
                one.spans = one.ask(short)["spans"]  # also warms it up
            for _ in range(ROUNDS):
                for one in competitors:
                    answer = one.ask(long)
                    one.seconds.append(answer["seconds"])
                    one.cpu_seconds.append(answer["cpu_seconds"])
        finally:
            for one in competitors:
                if one.process is not None:
                    one.process.kill()
                    one.process.communicate()
    scores = {one.name: score(one, corpus, documents, model) for one in competitors}
    speeds = {one.name: once * times / statistics.median(one.seconds) for one in competitors}
    return {
        "taggers": {
            one.name: {
                "words_per_s": round(speeds[one.name]),
                "words_per_cpu_s": round(once * times / statistics.median(one.cpu_seconds)),
                "f1": round(scores[one.name], 4),
            }
            for one in competitors
        },
        "ratios": {
            one.name: {
                other.name: round(speeds[one.name] / speeds[other.name], 2)
                for other in competitors
                if other.profile is None
            }
            for one in competitors
            if one.profile is not None
        },
        "words": once * times,
        "threads": threads or cpu_count(),
        "machine": f"{platform.machine()}, {cpu_count()} processors",
    }


def our_profiles(model: str) -> list[Competitor]:
    """Returns our tagger with each profile that there is a model for."""
    module = [sys.executable, "-m", tagger_process.__spec__.name, "ours", model]
    found = []
    for profile in PROFILES:
        try:
            find_tagger(model, profile)
        except MedpipeError as error:
            if error.code != "PROFILE_UNAVAILABLE":
                raise
            continue
        found.append(Competitor(f"medpipe {profile}", [*module, profile], profile))
    return found


def parse_peer(written: str, python: str) -> Competitor:
    """Returns the peer that is written ``SCRIPT=MODEL``.

    Raises:
        MedpipeError: SETTING_INVALID where it has another form, or one of the two is not there.
    """
    script, sign, folder = written.partition("=")
    if not sign or not Path(script).is_file() or not Path(folder).is_dir():
        raise MedpipeError("SETTING_INVALID", name="--peers", reason=f"{written!r} is no SCRIPT.py=MODEL-FOLDER")
    command = [python, str(Path(tagger_process.__file__)), str(Path(script).resolve()), str(Path(folder).resolve())]
    return Competitor(Path(script).stem, command)


def score(one: Competitor, corpus: Path, documents: Sequence[Any], model: str) -> float:
    """Returns F1 of exact spans and labels: a peer's in the corpus's own labels, ours with the map of its config."""
    found = [{(start, end, label) for start, end, label in spans} for spans in one.spans]
    gold = [{(entity.start, entity.end, entity.label) for entity in document.entities} for document in documents]
    if one.profile is not None:
        labels = find_label_map(corpus, read_config(find_tagger(model, one.profile)), None)
        if labels.gold is not None:
            gold = [labels.map_gold(document) for document in documents]
            found = [labels.map_predicted(spans) for spans in found]
    return count_scores(gold, found)["f1"]
