"""``medpipe maintain`` over a store: what killed runs left, and what an older model made."""

# ruff: noqa: F811 (fixtures of test_pipeline)

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from medpipe import pipeline
from medpipe.lake import lease, warehouse
from medpipe.maintain import maintain
from medpipe.records import ModelId
from medpipe.settings import load_settings
from medpipe.storage import StorePath, as_location, on_store
from tests.test_pipeline import DAY, fakes, folder, rows_without_counts  # noqa: F401 (fixtures)


@pytest.mark.usefixtures("short_lease")
def test_maintenance_of_a_store(
    folder: Path, memory: str, fakes: dict[str, ModelId], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(warehouse=f"{memory}/lake", work_days=0)
    root = settings.warehouse
    pipeline.run(settings, DAY, [str(folder)])
    before = rows_without_counts(root, DAY)

    # A work area that a killed run left, with its lock, and a publish that was decided and not done.
    unfinished = pipeline.plan(settings, "2026-02-01", [str(folder)])
    work = as_location(unfinished["work"])
    on_store(work / "shard-00000.lock").write_bytes(json.dumps({"owner": "killed", "beat": 3}).encode())

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(StorePath, "copy_to", die)
        patch.setattr(lease, "LEASE_SECONDS", 60.0)
        (folder / "f.ndjson").write_text('{"document_id": "f", "text": "A cough."}\n')
        pipeline.run(settings, DAY, [str(folder)])
    assert (root / "_manifests").glob(".dt=*.publishing")

    told = maintain(settings, ("work", "compact"), dry_run=True)
    assert told["work"]["removed"] >= 1 and told["compact"]["finished"] == 1 and (work / "plan.json").exists()
    done = maintain(settings, ("work", "compact"))
    assert done["work"]["removed"] == told["work"]["removed"] and done["compact"]["finished"] == 1
    assert not [key for key in on_store(root).objects() if "/_work/" in key or ".publishing" in key]
    after = rows_without_counts(root, DAY)
    assert len(after["documents"]) == len(before["documents"]) + 1 and warehouse.check(root) == []

    fakes["tag"] = ModelId("tag", "2", "f" * 32)
    again = maintain(settings, ("reprocess",))["reprocess"]
    assert (again["done"], again["failed"]) == (1, 0)
    models = {row["model"] for row in warehouse.read_table(root, "entities", partition=DAY).to_pylist()}
    assert models == {str(fakes["tag"])} and warehouse.check(root) == []
