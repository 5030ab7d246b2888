"""Flags beat variables, variables beat the file, and a wrong value is one clear sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.errors import MedpipeError
from medpipe.settings import load_settings


def test_order_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "medpipe.toml"
    file.write_text('device = "cpu"\nshards = 3\ntoken_budget = 1000\n')
    monkeypatch.setenv("MEDPIPE_CONFIG", str(file))
    monkeypatch.setenv("MEDPIPE_SHARDS", "5")
    monkeypatch.setenv("MEDPIPE_TOKEN_BUDGET", "2000")
    settings = load_settings(token_budget=4000, warehouse=None)
    assert (settings.device, settings.shards, settings.token_budget) == ("cpu", 5, 4000)
    assert settings.warehouse == Path("medpipe-out")


@pytest.mark.parametrize(
    ("content", "name"),
    [("shards = 0", "shards"), ("shrads = 1", "shrads"), ("device = 'tpu'", "device"), ("= 1", "medpipe.toml")],
)
def test_wrong_setting_is_named(content: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "medpipe.toml"
    file.write_text(content)
    monkeypatch.setenv("MEDPIPE_CONFIG", str(file))
    with pytest.raises(MedpipeError) as caught:
        load_settings()
    assert caught.value.code == "SETTING_INVALID"
    assert caught.value.exit_code == 2
    assert name in str(caught.value)


def test_terminology_is_one_file_or_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_settings().terminology == ()
    assert load_settings(terminology=(Path("a.csv"), Path("b.tsv"))).terminology == (Path("a.csv"), Path("b.tsv"))
    monkeypatch.setenv("MEDPIPE_TERMINOLOGY", "a.csv")
    assert load_settings().terminology == Path("a.csv")
    monkeypatch.setenv("MEDPIPE_TERMINOLOGY", '["a.csv", "b.tsv"]')
    assert load_settings().terminology == (Path("a.csv"), Path("b.tsv"))
    (tmp_path / "medpipe.toml").write_text('terminology = ["c.csv"]')
    monkeypatch.delenv("MEDPIPE_TERMINOLOGY")
    monkeypatch.setenv("MEDPIPE_CONFIG", str(tmp_path / "medpipe.toml"))
    assert load_settings().terminology == (Path("c.csv"),)
