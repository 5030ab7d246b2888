"""What the commands do with a warehouse in a store: as on a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medpipe.cli import app
from medpipe.export.catalog import connect, write_catalog
from medpipe.lake.publish import publish_partition
from medpipe.storage import as_location, on_store
from tests.lake.invented import PARTITION, publish_input, rows_of


@pytest.fixture
def warehouse(bucket: str, tmp_path: Path) -> str:
    """A warehouse with a partition of three notes."""
    url = f"{bucket}/lake"
    publish_partition(publish_input(as_location(url), tmp_path / "w", rows_of("a.txt", 3)))
    return url


def medpipe(*arguments: str) -> Any:
    """Runs a command; returns what it printed as JSON."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_catalogue_of_a_store(warehouse: str, tmp_path: Path) -> None:
    root = as_location(warehouse)
    made = write_catalog(root)
    assert made["catalog"] == f"{warehouse}/catalog.duckdb" and on_store(root / "catalog.duckdb").is_file()
    local = tmp_path / "catalog.duckdb"
    on_store(root / "catalog.duckdb").download(local)
    with connect(local, root) as catalog:
        assert catalog.execute("SELECT count(*), min(dt)::VARCHAR FROM documents").fetchone() == (3, PARTITION)
        assert catalog.execute("SELECT count(*) FROM latest_entities").fetchone() == (6,)


def test_commands_over_a_store(warehouse: str, tmp_path: Path) -> None:
    assert medpipe("schema", "check", "--warehouse", warehouse, "--json")["findings"] == []
    made = medpipe("export", "jsonl", "--warehouse", warehouse, "--out", str(tmp_path / "notes.jsonl"))
    assert made["documents"] == 3 and len((tmp_path / "notes.jsonl").read_text().splitlines()) == 3
    medpipe("export", "csv", "--warehouse", warehouse, "--out", str(tmp_path / "csv"))
    assert len((tmp_path / "csv" / "documents.csv").read_text().splitlines()) == 4
