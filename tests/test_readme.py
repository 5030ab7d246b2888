"""README is true: its Python runs on a warehouse that the samples make, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``medpipe-out``, as it is after ``make run``."""
    place = tmp_path_factory.mktemp("readme")
    command = [sys.executable, "-m", "medpipe.cli", "run", str(ROOT / "sample_records" / "fhir_bundle.json"), "--quiet"]
    subprocess.run(command, cwd=place, env=with_path(), check=True)
    return place


def with_path() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_of_readme_runs(folder: Path, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], cwd=folder, env=with_path(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_there_is_python_to_run() -> None:
    assert len(BLOCKS) >= 2


def test_targets_and_links_of_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in set(re.findall(r"\]\(([^)#:]+)\)", README)):
        assert (ROOT / link).exists(), link


def test_ci_calls_only_what_readme_names() -> None:
    for target in re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE):
        assert f"make {target}" in README


def test_commands_of_readme_exist() -> None:
    import typer.main

    from medpipe import cli

    known = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"medpipe (run|ingest|tag|publish|train|evaluate|bench|schema|doctor)\b", README)) <= known


def test_codes_that_readme_shows_exist() -> None:
    from medpipe.errors import CODES

    shown = set(re.findall(r"\b[A-Z]{3,}_[A-Z_]+\b", README)) - {"LAB_VALUE"}
    assert {one for one in shown if not one.startswith(("MEDPIPE", "AIRFLOW", "AWS", "AZURE", "GOOGLE"))} <= set(CODES)
