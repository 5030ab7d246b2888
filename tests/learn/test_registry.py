"""The registry of models: what is promoted is in use, what is refused is kept beside it, a killed round goes on."""

# ruff: noqa: F811 (fixtures of test_continual)

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from medpipe import cli
from medpipe.errors import MedpipeError
from medpipe.learn import continual, registry
from medpipe.records import ModelId
from medpipe.tag.profiles import identify_tagger
from medpipe.tag.stage import Tagger
from medpipe.weights import find_model
from tests.learn.test_continual import (  # noqa: F401 (fixtures)
    FAST,
    corpora,
    corrections,
    old,
    one_thread,
    source,
    write_lines,
)


@pytest.fixture
def options(corpora: Path) -> dict[str, Any]:
    return {
        "hold": [corpora / "notes" / "dev.jsonl"], "config": {"continual": FAST}, "device": "cpu",
        "report": lambda line: None,
    }  # fmt: skip


def start(root: Path, source: Path, model: Path, corpora: Path) -> registry.Round | None:
    return registry.plan_round(root, source, model=str(model), hold=[corpora / "notes" / "dev.jsonl"])


def identity(model: str) -> ModelId:
    return identify_tagger(model, "standard")


def test_a_better_model_is_in_use_and_the_next_round_goes_on_from_it(
    source: Path, old: Path, corpora: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "models"
    folder = root / "tagger"
    planned = start(root, source, old, corpora)
    assert planned is not None and planned.base == str(old) and registry.current(folder) is None
    figures = registry.train_round(planned, source, **options)
    assert figures["promoted"] and figures["after"]["corrections"] > figures["before"]["corrections"]
    assert registry.current(folder) is None, "trained is not in use"
    for _ in range(2):  # the second time, as after a kill, it changes nothing
        registry.finish_round(planned, figures)
    assert registry.versions(folder) == [planned.version]
    assert registry.current(folder) == folder / planned.version == find_model(folder / "current")
    assert [one["version"] for one in registry.history(folder)] == [planned.version]
    assert identity(str(folder / "current")) == identity(str(folder / planned.version)) != identity(str(old))
    Tagger.load(folder / "current", device="cpu")

    assert start(root, source, old, corpora) is None, "the same corrections are not learned twice"
    write_lines(source, corrections(count=70))
    following = start(root, source, old, corpora)
    assert following is not None and following.base == str(folder / planned.version)
    assert following.version != planned.version
    registry.use(folder, planned.version)  # what a person does to go back
    assert json.loads(json.dumps(asdict(following)))["version"] == following.version


def test_a_model_that_is_not_better_is_kept_and_not_used(
    old: Path, corpora: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (corpora / "notes" / "train.jsonl").open()]
    same = write_lines(tmp_path / "same.jsonl", lines)
    root = tmp_path / "models"
    planned = start(root, same, old, corpora)
    assert planned is not None
    figures = registry.train_round(
        planned, same, **options | {"config": {"continual": FAST | {"epochs": 1, "learning_rate": 1e-6}}}
    )
    assert not figures["promoted"] and "not more" in figures["reason"]
    registry.finish_round(planned, figures)
    folder = root / "tagger"
    assert registry.current(folder) is None and registry.versions(folder) == []
    assert (folder / f"{planned.version}.candidate" / "promotion.json").is_file()
    assert [one["promoted"] for one in registry.history(folder)] == [False]
    assert start(root, same, old, corpora) is None


def test_a_round_that_was_killed_goes_on(
    source: Path, old: Path, corpora: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    planned = start(root, source, old, corpora)
    assert planned is not None
    finish = continual.Trainer.finish_epoch

    def killed(self: Any, losses: Any) -> None:
        finish(self, losses)
        if self.progress.epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(continual.Trainer, "finish_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.train_round(planned, source, **options)
    assert start(root, source, old, corpora) == planned
    said: list[str] = []
    figures = registry.train_round(planned, source, **options | {"report": said.append})
    assert any(line.startswith("resumed at epoch 4") for line in said)
    with monkeypatch.context() as patch:  # promoted, and killed before anybody was told
        patch.setattr(continual, "continue_training", None)
        assert registry.train_round(planned, source, **options) == figures


def test_current_moves_in_one_step_and_never_to_nowhere(old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tagger"
    for name in ("1", "2"):
        shutil.copytree(old, folder / name)
    for name in ("1", "2", "1"):
        registry.use(folder, name)
        assert registry.current(folder) == folder / name
    with pytest.raises(MedpipeError, match="MODEL_NOT_FOUND"):
        registry.use(folder, "3")
    assert registry.current(folder) == folder / "1"
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "current"]


def test_the_first_round_of_a_site_that_uses_current_continues_the_shipped_model(
    source: Path, corpora: Path, tmp_path: Path
) -> None:
    planned = start(tmp_path / "models", source, tmp_path / "models" / "tagger" / "current", corpora)
    assert planned is not None and planned.base == "tagger"


def test_no_corrections(tmp_path: Path, corpora: Path, old: Path) -> None:
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        start(tmp_path, tmp_path / "nowhere", old, corpora)


def test_the_command(
    source: Path, old: Path, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    knobs = tmp_path / "fast.toml"
    knobs.write_text("[continual]\n" + "".join(f"{name} = {value}\n" for name, value in FAST.items()))
    hold = corpora / "notes" / "dev.jsonl"
    monkeypatch.setenv("MEDPIPE_TAGGER", str(old))
    command = [
        "medpipe",
        "retrain",
        "--from",
        source,
        "--hold",
        hold,
        "--registry",
        tmp_path / "models",
        "--config",
        knobs,
    ]
    monkeypatch.setattr("sys.argv", [str(one) for one in [*command, "--device", "cpu"]])
    for expected in ("promoted", "nothing to learn"):
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert stopped.value.code == 0 and expected in said.out + said.err
    assert registry.current(tmp_path / "models" / "tagger") is not None
