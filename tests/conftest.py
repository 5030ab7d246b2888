"""Shared fixtures. Corpora and EHR files lie beside the checkout or where two variables say; else tests skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def beside(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable) or ROOT.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"{variable} names no folder and {name} is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def corpora() -> Path:
    return beside("MEDPIPE_CORPORA", "corpora")


@pytest.fixture(scope="session")
def ehr() -> Path:
    return beside("MEDPIPE_EHR", "ehr")


@pytest.fixture(scope="session")
def samples() -> Path:
    return ROOT / "sample_records"
