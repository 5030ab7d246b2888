"""JSON and lines of JSON as they come: what can be read is read, what is broken costs itself and nothing beside it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.archives.gzip_access import GzipAccess
from medpipe.ingest.read import read_source
from medpipe.ingest.sources import Source
from medpipe.ingest.syntax.lines import bounded_lines
from medpipe.records import Document, Reject, Skipped

TEXT = "She has a cough."
NOTE = {"resourceType": "DocumentReference", "id": "d", "content": [
    {"attachment": {"contentType": "text/plain", "data": base64.b64encode(TEXT.encode()).decode()}}]}  # fmt: skip
PATIENT = {"resourceType": "Patient", "id": "p"}
ONE, TWO = json.dumps(NOTE), json.dumps(PATIENT)


def read(folder: Path, raw: bytes | str, name: str = "a.ndjson", **options: Any) -> list[Document | Reject | Skipped]:
    path = folder / name
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
    return list(read_source(Source(path, name), max_note_chars=1_000_000, **options))


def kinds(items: list[Any]) -> list[str]:
    return [item.code if isinstance(item, Reject) else getattr(item, "kind", "Document") for item in items]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (f"{ONE}\n{TWO}\n", ["Document", "Patient"]),
        (f"\ufeff{ONE}\r\n\r\n \t\n{TWO}", ["Document", "Patient"]),
        (f"{ONE}\r{TWO}\r", ["Document", "Patient"]),
        (f"\x1e{ONE}\n\x1e{TWO}\n", ["Document", "Patient"]),
        (f"{ONE}{TWO}\n{ONE} {TWO}\n", ["Document", "Patient", "Document", "Patient"]),
        (f"{ONE},\n{TWO},\n", ["Document", "Patient"]),
        (f"[{ONE},{TWO}]\n[]\n", ["Document", "Patient", "empty list"]),
        (f"[\n{ONE},\n{TWO}\n]\n", ["Document", "Patient"]),
        (json.dumps(NOTE, indent=2) + "\n" + json.dumps(PATIENT, indent=2), ["Document", "Patient"]),
        (json.dumps([NOTE, PATIENT], indent=2), ["Document", "Patient"]),
        (f"{ONE}\n{TWO}\n".encode("utf-16"), ["Document", "Patient"]),
        (f"{ONE[:-1]}\n{TWO}\n{ONE}", ["JSON_INVALID", "Patient", "Document"]),
        (f'null\n"{TEXT}"\n3\n{TWO}', ["RECORD_NOT_OBJECT"] * 3 + ["Patient"]),
        (f"{ONE} and more\n{TWO}", ["Document", "JSON_INVALID", "Patient"]),
        ("[" * 200_000 + f"\n{TWO}", ["JSON_TOO_DEEP", "Patient"]),
        ('{"resourceType": "Patient", "n": ' + "9" * 5000 + "}", ["Patient"]),
        ('{"resourceType": "Patient", "n": NaN, "m": -Infinity}', ["Patient"]),
        ('{"resourceType": "Patient", "id": "a", "id": "b", "x": "\\ud83d"}', ["Patient"]),
        ('{"resourceType": "a sentence of a note"}', ["RECORD_INVALID"]),
        ('{"exportId": 1, "eventId": "kickoff", "timestamp": "2026"}', ["bulk export log"]),
        ("", ["empty file"]),
        ("\n\n", ["empty file"]),
    ],
)
def test_lines(tmp_path: Path, raw: Any, expected: list[str]) -> None:
    items = read(tmp_path, raw, format="ndjson")
    assert kinds(items) == expected
    records = [item.record for item in items if isinstance(item, Reject)]
    assert len(set(records)) == len(records), "rejects are told apart by their records"


def test_a_note_with_raw_line_ends_in_a_string_is_read(tmp_path: Path) -> None:
    line = '{"resourceType": "DiagnosticReport", "conclusion": "One.\n\tTwo.\x01"}'
    assert [item.text for item in read(tmp_path, line, "a.json") if isinstance(item, Document)] == ["One.\n\tTwo.\x01"]
    one = line.replace("\n", "\\n")
    assert [item.text for item in read(tmp_path, f"{one}\n{one}") if isinstance(item, Document)] == [
        "One.\n\tTwo.\x01"
    ] * 2


def test_a_line_that_is_too_long_costs_itself(tmp_path: Path) -> None:
    long = json.dumps(NOTE | {"x": "y" * 3_000_000})
    raw = "\n".join([TWO, long, ONE, long])
    tracemalloc.start()
    items = read(tmp_path, raw, max_file_bytes=10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kinds(items) == ["Patient", "SOURCE_TOO_LARGE", "Document", "SOURCE_TOO_LARGE"]
    assert peak < 3 * len(raw) and [item.record for item in items if isinstance(item, Reject)] == ["line 2", "line 4"]


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"")), max_size=8), limit=st.integers(1, 9)
)
def test_bounded_lines_are_lines(lines: list[bytes], limit: int) -> None:
    found = list(bounded_lines(io.BytesIO(b"".join(line + b"\n" for line in lines)), limit))
    assert [None if len(line) > limit else line + b"\n" for line in lines] == found


ENTRIES = [{"fullUrl": f"urn:uuid:{n}", "resource": NOTE | {"id": f"d{n}"}} for n in range(4)]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_broken_bundle_gives_the_entries_that_are_whole(tmp_path: Path, indent: int | None) -> None:
    whole = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": ENTRIES, "total": 4}, indent=indent)
    broken = whole.replace('"d1"', '"d1', 1)
    items = read(tmp_path, broken, "a.json")
    assert kinds(items) == ["JSON_INVALID", "Document", "Document", "Document"]
    assert [item.record for item in items[1:]] == [f"DocumentReference/d{n}#content.0" for n in (0, 2, 3)]  # type: ignore[union-attr]
    cut = whole[: whole.index('"d3"') + 4]
    assert kinds(read(tmp_path, cut, "a.json")) == ["JSON_INVALID", *["Document"] * 3]
    assert kinds(read(tmp_path, whole.replace('"total"', "total"), "a.json")) == ["JSON_INVALID", *["Document"] * 4]
    commented = whole.replace("{", "{ // a comment\n", 1)
    assert kinds(read(tmp_path, commented, "a.json")) == ["JSON_INVALID", *["Document"] * 4]
    assert kinds(read(tmp_path, f"[{ONE}, {TWO}, {{]", "a.json", format="fhir")) == [
        "JSON_INVALID",
        "Document",
        "Patient",
    ]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_of_a_bundle_that_is_cut_no_whole_entry_is_lost(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = json.dumps({"resourceType": "Bundle", "entry": ENTRIES})
    cut = data.draw(st.integers(whole.index("["), len(whole) - 1))
    ends = [whole.index("}]}}", whole.index(f'"d{n}"')) + 4 for n in range(4)]
    items = read(tmp_path_factory.mktemp("cut"), whole[:cut], "a.json", format="fhir")
    assert kinds(items).count("Document") == sum(end <= cut for end in ends)
    assert kinds(items).count("JSON_INVALID") == 1


@pytest.mark.parametrize(
    ("value", "format"),
    [(NOTE, "fhir"), ({"data": "A" * 100_000} | NOTE, "fhir"), ([{"text": "x" * 100_000}], "json")],
)
def test_a_resource_is_known_also_where_its_type_stands_last(tmp_path: Path, value: Any, format: str) -> None:
    if isinstance(value, dict):
        value = {key: value[key] for key in sorted(value, key=lambda key: key == "resourceType")}
    (item,) = read(tmp_path, json.dumps(value), "a.json")
    assert isinstance(item, Document) and item.format == format


# --- gzip -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=3),
    times=st.integers(1, 300),
    reads=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 5000)), max_size=12),
)
def test_gzip_is_read_from_any_place(members: list[bytes], times: int, reads: list[tuple[int, int]]) -> None:
    whole = b"".join(member * times for member in members)
    packed = b"".join(gzip.compress(member * times) for member in members)
    stream = io.BufferedReader(GzipAccess(io.BytesIO(packed), step=10_000), 100)
    for place, size in reads:
        place %= len(whole) + 1
        assert stream.seek(place) == place
        assert stream.read(size) == whole[place : place + size]
        assert stream.tell() == min(place + size, len(whole))


def test_going_back_in_gzip_costs_a_step_and_memory_is_bounded() -> None:
    whole = b"".join(b"%d," % number for number in range(400_000))
    access = GzipAccess(io.BytesIO(gzip.compress(whole)), step=1 << 10)
    access.seek(len(whole))
    assert len(access.marks) <= 1024
    before = access.marks[len(access.marks) // 2][0]
    access.seek(before)
    buffer = bytearray(9)
    assert access.readinto(buffer) == 9 and bytes(buffer) == whole[before : before + 9]


@pytest.mark.parametrize("cut", [5, 30, -5])
def test_gzip_that_is_cut_off_ends_with_an_error(cut: int) -> None:
    stream = io.BufferedReader(GzipAccess(io.BytesIO(gzip.compress(b"abc" * 1000)[:cut])))
    with pytest.raises(EOFError):
        stream.read()
