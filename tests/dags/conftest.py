"""An Airflow home for the tests of the DAGs, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow home with an empty database and the pool of the GPU."""
    from tests.dags.test_medpipe_nightly import environment

    folder = tmp_path_factory.mktemp("airflow")
    for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "one slot a GPU"]):
        subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=environment(folder),
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder
