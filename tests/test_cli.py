"""The command line on the samples, with the shipped models: what a user sees, and what the tables then hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medpipe.lake import files, warehouse
from tests.conftest import ROOT

DAY = "2026-01-31"


def medpipe(cwd: Path, *arguments: str, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "OMP_NUM_THREADS": "1"} | more
    return subprocess.run(
        [sys.executable, "-m", "medpipe.cli", *arguments], cwd=cwd, env=env, input=stdin, capture_output=True
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the samples were run."""
    folder = tmp_path_factory.mktemp("cli")
    done = medpipe(folder, "run", str(ROOT / "sample_records"), "--date", DAY, "--json", "--out", "lake")
    assert done.returncode == 0, done.stderr.decode()
    (folder / "out.json").write_bytes(done.stdout)
    (folder / "err.txt").write_bytes(done.stderr)
    return folder


def test_json_is_one_object_and_holds_the_notes(place: Path) -> None:
    shown = json.loads((place / "out.json").read_text())
    assert shown["schema"] == "medpipe.run/1"
    assert (shown["partition"], shown["sources"], shown["unchanged"]) == (DAY, 27, 0)
    assert len(shown["documents"]) == shown["counts"]["documents"] == 27
    labels = set()
    for document in shown["documents"]:
        for entity in document["entities"]:
            assert document["text"][entity["start"] : entity["end"]] == entity["text"]
            labels.add(entity["label"])
        ids = {entity["entity_id"] for entity in document["entities"]}
        for relation in document["relations"]:
            assert {relation["head_entity_id"], relation["tail_entity_id"]} <= ids
        summary = document["summary"]
        if document["status"] == "unsupported_language":
            assert summary is None and not document["entities"]
            continue
        assert summary["text"] and summary["faithful"]
        for token in summary["tokens"]:
            if token["source_start"] is not None:
                copied = document["text"][token["source_start"] : token["source_end"]]
                assert copied.lower() == summary["text"][token["start"] : token["end"]].lower()
    assert {"DISEASE", "SYMPTOM", "DRUG", "DOSAGE", "TEST", "AGE", "SEX"} <= labels
    assert any(relation for document in shown["documents"] for relation in document["relations"])


def test_json_keeps_its_schema(place: Path) -> None:
    import jsonschema

    promised = json.loads((ROOT / "schemas" / "medpipe.run.1.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(promised).validate(json.loads((place / "out.json").read_text()))


def test_pages_of_a_run_of_a_note_and_of_a_partition(place: Path) -> None:
    sample = str(ROOT / "sample_records" / "notes.ndjson")
    done = medpipe(place, "run", sample, "--date", DAY, "--out", "lake", "--quiet", "--report", "out.html")
    assert (done.returncode, done.stdout) == (0, b"")
    html = (place / "out.html").read_text(encoding="utf-8")
    assert html.count("<article") == 4 and "budesonide" in html
    document = json.loads((place / "out.json").read_text())["documents"][0]
    done = medpipe(place, "report", document["document_id"][:10], "--warehouse", "lake", "--out", "-")
    assert done.returncode == 0 and done.stdout.decode().count("<article") == 1
    done = medpipe(place, "report", "--warehouse", "lake")
    assert done.stdout.decode().strip() == f"run-{DAY}.html"
    page = (place / f"run-{DAY}.html").read_text(encoding="utf-8")
    assert "OCR_NEEDED" in page and all(one not in page for one in ("budesonide 200", "mixed_lines"))


def test_a_terminal_that_knows_only_ascii(place: Path) -> None:
    sample = str(ROOT / "sample_records" / "note_es.txt")
    done = medpipe(place, "run", sample, "--date", DAY, "--out", "lake", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii() and done.stderr.isascii()


def test_funnel_goes_to_stderr_and_names_what_was_left_out(place: Path) -> None:
    funnel = (place / "err.txt").read_text()
    for words in ("sources seen", "notes with text", "Patient", "JSON_INVALID", "TEXT_EMPTY", "lake/<table>/v*"):
        assert words in funnel


def test_the_warehouse_is_healthy(place: Path) -> None:
    assert warehouse.check(place / "lake") == []
    done = medpipe(place, "schema", "check", "--warehouse", "lake")
    assert done.returncode == 0 and b"1 partitions keep their contracts" in done.stdout
    done = medpipe(place, "doctor", "--warehouse", "lake", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["problems"] == [] and found["warehouse"]["state"] == "healthy"
    assert set(found["models"]) >= {"tagger", "relations", "summarizer"}


def test_a_broken_warehouse_is_told(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "lake", tmp_path / "lake")
    warehouse.table_path(tmp_path / "lake", "entities", DAY).unlink()
    done = medpipe(tmp_path, "schema", "check", "--warehouse", "lake")
    assert done.returncode == 4 and b"entities" in done.stdout


def test_a_second_run_finds_nothing_new_and_shows_the_notes_all_the_same(place: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "lake").rglob("part-0.parquet")}
    done = medpipe(place, "run", str(ROOT / "sample_records"), "--date", DAY, "--out", "lake")
    assert done.returncode == 0
    assert "done before, unchanged" in done.stderr.decode()
    assert "Entities" in done.stdout.decode() and "and 17 more notes" in done.stdout.decode()
    assert {path: path.read_bytes() for path in (place / "lake").rglob("part-0.parquet")} == before


def test_standard_input(tmp_path: Path) -> None:
    note = json.dumps({"text": "She has asthma with wheezing. No fever."}).encode()
    done = medpipe(tmp_path, "run", "-", "--date", DAY, stdin=note)
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode()
    assert "stdin" in out and "fever  negated" in out
    assert (tmp_path / "medpipe-out").is_dir()


def test_quiet_says_nothing(place: Path) -> None:
    done = medpipe(place, "run", str(ROOT / "sample_records" / "note.txt"), "--date", DAY, "--quiet", "--out", "quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_stages_one_at_a_time_give_the_same_rows(place: Path, tmp_path: Path) -> None:
    from tests.tables import tables_of

    where = ["--warehouse", "lake", "--date", DAY]
    sharded = {"MEDPIPE_SHARD_BYTES": "1"}
    assert (
        medpipe(tmp_path, "ingest", str(ROOT / "sample_records"), *where, "--shard", "1/2", **sharded).returncode == 0
    )
    assert (
        medpipe(tmp_path, "ingest", str(ROOT / "sample_records"), *where, "--shard", "2/2", **sharded).returncode == 0
    )
    for stage in ("tag", "relate", "summarize", "publish"):
        done = medpipe(tmp_path, stage, *where)
        assert done.returncode == 0, done.stderr.decode()
    assert tables_of(tmp_path / "lake", DAY) == tables_of(place / "lake", DAY)


def test_encounters_are_summarized_from_the_tables(place: Path) -> None:
    done = medpipe(place, "summarize", "--per", "encounter", "--warehouse", "lake", "--date", DAY, "--out", "e.parquet")
    assert done.returncode == 0, done.stderr.decode()
    counts = json.loads(done.stdout)
    documents = warehouse.read_table(place / "lake", "documents", partition=DAY).to_pylist()
    held = {row["document_id"]: row for row in documents if row["encounter_id"] and row["status"] == "processed"}
    rows = files.read_table(place / "e.parquet").to_pylist()
    assert (counts["notes"], counts["encounters"], counts["failed"]) == (len(held), len(rows), 0)
    assert sorted(name for row in rows for name in row["document_ids"]) == sorted(held)
    for row in rows:
        for token, number in zip(row["tokens"], row["token_documents"], strict=True):
            if token["source_start"] is not None:
                text = held[row["document_ids"][number]]["text"]
                copied = text[token["source_start"] : token["source_end"]]
                assert copied == row["text"][token["start"] : token["end"]]
    wrong = medpipe(place, "summarize", "--per", "encounter", "--warehouse", "lake", "--date", DAY)
    assert (wrong.returncode, b"--out" in wrong.stderr) == (2, True)
    none = medpipe(place, "summarize", "--per", "encounter", "--warehouse", "no", "--date", DAY, "--out", "x.parquet")
    assert (none.returncode, b"encounters" in none.stderr) == (3, True)


def test_a_file_for_a_warehouse_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where a folder should be")
    done = medpipe(tmp_path, "run", str(ROOT / "sample_records" / "note.txt"), "--out", "lake")
    assert done.returncode == 3
    assert done.stderr.decode().count("\n") == 1 and "Traceback" not in done.stderr.decode()
