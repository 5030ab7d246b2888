"""Public names of the command line cannot vanish unnoticed: options may be added, meanings do not change."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from medpipe import cli

COLUMNS = {
    "--mapping", "--text-column", "--id-column", "--patient-column", "--encounter-column", "--date-column", "--type-column",
}  # fmt: skip
PROMISED = {
    "run": {"--out", "--date", "--format", "--device", "--json", "--quiet", "--show", "--terminology", "--report", "--profile", *COLUMNS},
    "ingest": {"--warehouse", "--date", "--shard", "--format", "--terminology", "--profile", *COLUMNS},
    "tag": {"--warehouse", "--date", "--shard", "--device", "--terminology", "--profile"},
    "relate": {"--warehouse", "--date", "--shard", "--device"},
    "summarize": {"--warehouse", "--date", "--shard", "--device", "--profile"},
    "publish": {"--warehouse", "--date"},
    "train": {"--config", "--corpora", "--out", "--resume", "--device", "--from", "--model", "--labels", "--hold", "--notes"},
    "evaluate": {"--corpus", "--model", "--labels", "--style", "--terminology", "--device", "--json", "--profile"},
    "bench": {"--notes", "--rows", "--tokens", "--device", "--json", "--profile", "--peers", "--peers-python", "--corpus", "--model", "--threads", "--words"},
    "doctor": {"--warehouse", "--gpu", "--device", "--json"},
    "report": {"--warehouse", "--date", "--run", "--out"},
    "catalog": {"--warehouse", "--out"},
}
PROMISED_SCHEMA = {"list", "show", "check", "diff", "migrate", "docs", "json"}
EXPORTED = {"--warehouse", "--date", "--out"}
PROMISED_EXPORT = {
    "brat": EXPORTED, "omop": EXPORTED | {"--format", "--persons", "--vocabulary"}, "fhir": EXPORTED, "spacy": EXPORTED,
    "jsonl": EXPORTED, "csv": EXPORTED, "int8": {"--model", "--out"},
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_promised_options_are_there(name: str) -> None:
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert options >= PROMISED[name]


def test_promised_schema_commands_are_there() -> None:
    group = typer.main.get_command(cli.app).commands["schema"]  # type: ignore[attr-defined]
    assert set(group.commands) >= PROMISED_SCHEMA


@pytest.mark.parametrize("name", PROMISED_EXPORT)
def test_promised_exports_are_there(name: str) -> None:
    group = typer.main.get_command(cli.app).commands["export"]  # type: ignore[attr-defined]
    assert {option for parameter in group.commands[name].params for option in parameter.opts} >= PROMISED_EXPORT[name]


def test_help_is_light() -> None:
    code = "import sys, medpipe.cli; print([m for m in ('torch', 'pyarrow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["run"], 2, "PATH..."),
        (["run", "no/such/file.json"], 3, "INPUT_NOT_FOUND"),
        (["run", "x", "--date", "31.01.2026"], 2, "DATE_INVALID"),
        (["run", "x", "--device", "tpu"], 2, "SETTING_INVALID"),
        (["tag", "--shard", "3/2", "--date", "2026-01-01"], 3, "INPUT_EMPTY"),
        (["train", "poet", "--config", "x", "--corpora", ".", "--out", "."], 2, "SETTING_INVALID"),
        (["train", "tagger", "--config", "tagger", "--out", "."], 2, "--corpora"),
        (["train", "tagger", "--config", "tagger", "--corpora", ".", "--out", ".", "--hold", "x"], 2, "--from"),
        (["train", "relations", "--from", ".", "--out", "m"], 2, "SETTING_INVALID"),
        (["train", "tagger", "--from", "none", "--out", "m"], 3, "CORPUS_NOT_FOUND"),
        (["evaluate", "tagger", "--corpus", "no.jsonl"], 3, "CORPUS_NOT_FOUND"),
        (["bench", "tag", "--peers", "x.py=y"], 2, "--peers-python"),
        (["bench", "run", "--peers", "x.py=y"], 2, "SETTING_INVALID"),
        (["run", "x", "--profile", "best"], 2, "SETTING_INVALID"),
        (["evaluate", "codes", "--corpus", "no.jsonl"], 3, "CORPUS_NOT_FOUND"),
        (["export", "brat", "--warehouse", "none", "--out", "folder"], 3, "WAREHOUSE_INVALID"),
        (["report", "0123", "--warehouse", "none"], 3, "WAREHOUSE_INVALID"),
        (["report", "0123", "--warehouse", "."], 3, "DOCUMENT_NOT_FOUND"),
        (["report", "--run", "--warehouse", "."], 3, "PARTITION_NOT_FOUND"),
        (["report", "0123", "--run"], 2, "--run"),
        (["run", "x", "--report", "."], 2, "SETTING_INVALID"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, word: str, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medpipe.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def environment() -> dict[str, str]:
    import os
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent.parent)}


def test_a_bug_never_quotes_a_note(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("CAN" + "ARY: words of a note")

    monkeypatch.setattr("medpipe.cli.load_settings", broken)
    monkeypatch.setattr(sys, "argv", ["medpipe", "doctor"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 70
    shown = capsys.readouterr().err
    assert "BUG: ValueError" in shown and "CANARY" not in shown
