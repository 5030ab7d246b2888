"""The DAGs of maintenance and retraining, each run once: what they do is right, and no note text leaves the tables.

With the fake stages of ``test_pipeline`` and a little model, so that nothing large is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="Airflow is not installed (pip install '.[airflow]')")

from tests.dags.test_medpipe_nightly import (
    CANARY,
    DAY,
    NO_DEADLINE,
    ROOT,
    assert_nowhere_below,
    environment,
    python,
)
from tests.tables import tables_of

MAINTAIN = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
from medpipe import pipeline
from medpipe.pipeline import chunks, planning, stages
from medpipe.ids import make_id
from medpipe.records import ModelId
from medpipe.settings import load_settings
from tests.test_pipeline import FakeStage

version = "1"
def models(settings=None):
    return {{stage: ModelId(stage, version, make_id("weights", stage, version)) for stage in chunks.WRITES}}
planning.stage_models = models
stages.load_stage = lambda stage, settings: FakeStage(stage, models()[stage])
landing, fresh = sys.argv[1:]
pipeline.run(load_settings(), {day!r}, [landing])
version = "2"
dag = DagBag({dags!r}).dags["medpipe_maintenance"]
for conf in ({{"dry_run": True}}, {{"dry_run": False, "actions": ["work", "reprocess"]}}, {{"dry_run": False, "actions": ["quarantine"]}}):
    run = dag.test(run_conf=conf)
    states = {{}}
    for ti in run.get_task_instances():
        states.setdefault(ti.task_id, []).append(str(ti.state).rpartition(".")[2].lower())
    print("RUN" + json.dumps({{"state": str(run.state).rpartition(".")[2].lower(), "tasks": states}}))
pipeline.run(load_settings(warehouse=Path(fresh)), {day!r}, [landing])
"""


def test_maintenance_does_again_what_an_older_model_made(home: Path, tmp_path: Path) -> None:
    landing, lake, fresh = tmp_path / "landing", tmp_path / "lake", tmp_path / "fresh"
    landing.mkdir()
    for name in "ab":
        notes = [json.dumps({"document_id": f"{name}{n}", "text": f"{CANARY}: a cough."}) for n in range(3)]
        notes += [f"{{broken {CANARY}", json.dumps({"document_id": name, "text": f"A crash of {CANARY}."})]
        (landing / f"{name}.ndjson").write_text("\n".join(notes) + "\n")
    env = environment(
        home, MEDPIPE_LANDING=str(landing), MEDPIPE_WAREHOUSE=str(lake), MEDPIPE_SHARD_BYTES="1", **NO_DEADLINE
    )
    code = f"import sys\nsys.argv = ['-c', {str(landing)!r}, {str(fresh)!r}]\n" + MAINTAIN.format(
        dags=str(ROOT / "dags"), day=DAY
    )
    out = python(code, env, home)
    dry, wet, again = (json.loads(line[3:]) for line in out.splitlines() if line.startswith("RUN"))
    assert dry["state"] == "success" and dry["tasks"]["publish"] == ["skipped"]
    assert wet["state"] == "success"
    assert wet["tasks"]["process.tag"] == ["success"] * 2 and wet["tasks"]["publish"] == ["success"]
    # What a stage refused is tried a third and last time.
    assert again["state"] == "success" and again["tasks"]["publish"] == ["success"]
    ours, theirs = tables_of(lake, DAY), tables_of(fresh, DAY)
    for table in ("documents", "sections", "entities", "relations", "summaries"):
        assert [row | {"run_id": None} for row in ours[table]] == [row | {"run_id": None} for row in theirs[table]], (
            table
        )
    assert {row["stage"]: row["attempt"] for row in ours["quarantine"]} == {"ingest": 1, "tag": 3}
    assert f"dt={DAY}: 2 sources from the tables (model of tag, model of relate, model of summarize)" in out
    assert CANARY not in out
    assert_nowhere_below(home)


RETRAIN = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
dag = DagBag({dags!r}).dags["medpipe_retrain"]
for task in dag.tasks:
    task.retries = 0
for attempt in range(2):
    run = dag.test(run_conf=json.loads(sys.argv[1]))
    states = {{ti.task_id: str(ti.state).rpartition(".")[2].lower() for ti in run.get_task_instances()}}
    print("RUN" + json.dumps({{"state": str(run.state).rpartition(".")[2].lower(), "tasks": states}}))
"""


def test_retraining_promotes_a_better_model_and_learns_nothing_twice(home: Path, tmp_path: Path) -> None:
    from medpipe.learn import registry
    from medpipe.learn.tagger import train
    from tests.learn.test_continual import FAST, corrections, write_corpus, write_lines

    corpora = tmp_path / "corpora"
    write_corpus(corpora / "notes" / "train.jsonl", 0, 80)
    write_corpus(corpora / "notes" / "dev.jsonl", 500, 30)
    little = {
        "name": "little", "version": "0.0.1", "labels": ["SYMPTOM", "DRUG"],
        "network": {"buckets": 512, "width": 8, "hidden": 12, "layers": 1, "dropout": 0.1},
        "training": {"epochs": 6, "learning_rate": 2e-2, "average_decay": 0.9}, "sampling": {"batch_tokens": 128},
        "corpora": [{"folder": "notes", "labels": {"SYMPTOM": "SYMPTOM", "DRUG": "DRUG"}}],
    }  # fmt: skip
    train(little, corpora=corpora, out=tmp_path / "old", device="cpu", resume=False, report=lambda line: None)
    rows = corrections()
    for row in rows:
        row["text"] = row["text"].replace(" daily", f" {CANARY} daily")
    write_lines(tmp_path / "corrections.jsonl", rows)
    (tmp_path / "fast.toml").write_text(
        "[continual]\n" + "".join(f"{name} = {value}\n" for name, value in FAST.items())
    )
    env = environment(
        home, MEDPIPE_TAGGER=str(tmp_path / "old"), MEDPIPE_REGISTRY=str(tmp_path / "models"), OMP_NUM_THREADS="1"
    )
    conf = {
        "corrections": str(tmp_path / "corrections.jsonl"), "hold": [str(corpora / "notes" / "dev.jsonl")],
        "config": str(tmp_path / "fast.toml"),
    }  # fmt: skip
    out = python(
        f"import sys\nsys.argv = ['-c', {json.dumps(conf)!r}]\n" + RETRAIN.format(dags=str(ROOT / "dags")), env, home
    )
    first, second = (json.loads(line[3:]) for line in out.splitlines() if line.startswith("RUN"))
    assert first == {"state": "success", "tasks": dict.fromkeys(("plan_round", "train", "promote"), "success")}
    assert set(second["tasks"].values()) == {"skipped"}
    folder = tmp_path / "models" / "tagger"
    assert [one["promoted"] for one in registry.history(folder)] == [True] and registry.current(folder) is not None
    assert CANARY not in out
    assert_nowhere_below(home)
