"""The reader of notes: plain text, RTF, HTML and PDF, by content, whatever the file is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medpipe.ingest.content import bytes_content
from medpipe.ingest.read import read_source
from medpipe.ingest.sniff import sniff
from medpipe.ingest.sources import Source
from medpipe.records import Document, Reject, Skipped
from tests.ingest.pdfs import lines, pdf

NOTE = b"CC: cough.\r\nPLAN: rest.\r\n"
BLUE_BUTTON = b"""MY HEALTHEVET PERSONAL HEALTH INFORMATION
Name: Doe, Jane   Date of Birth: 01 Jan 1950
------------------- VA ALLERGIES -------------------
Allergy Name: None known\x0c
------------------- VA NOTES -----------------------
Date/Time: 12 Oct 2010 @ 0900
"""


def read(tmp_path: Path, raw: bytes, name: str) -> Document | Reject | Skipped:
    (tmp_path / name).write_bytes(raw)
    (item,) = read_source(Source(tmp_path / name, name), max_note_chars=10_000)
    return item


@pytest.mark.parametrize(
    "name",
    [
        "note",
        "note.txt",
        "note.out",
        "note.note",
        "note.dat",
        "note.rtf",
        "note.pdf",
        "note.2019",
        "NOTE.TXT",
        "note.doc",
    ],
)
def test_notes_are_known_by_content(tmp_path: Path, name: str) -> None:
    for raw, media, text in (
        (NOTE, "text/plain", NOTE.decode()),
        (b"{\\rtf1 CC: cough.\\par}", "text/rtf", "CC: cough."),
        (b"<html><p>CC: cough.</html>", "text/html", "CC: cough."),
        (pdf([lines("CC: cough.")]), "application/pdf", "CC: cough."),
    ):
        note = read(tmp_path, raw, name)
        assert isinstance(note, Document)
        assert (note.record, note.format, note.media_type, note.text) == ("0", "text", media, text)


def test_one_file_is_one_note(tmp_path: Path) -> None:
    note = read(tmp_path, BLUE_BUTTON, "va.txt")
    assert isinstance(note, Document) and note.text == BLUE_BUTTON.decode()


def test_sections_and_encoding_of_a_note(tmp_path: Path) -> None:
    note = read(tmp_path, "CC: fièvre.\nPLAN: repos.".encode("cp1252"), "note")
    assert isinstance(note, Document) and note.encoding == "windows-1252"
    assert [section.name for section in note.sections] == ["chief_complaint", "plan"]


@pytest.mark.parametrize(
    ("name", "raw", "code"),
    [
        ("empty.txt", b"", "TEXT_EMPTY"), ("empty", b"", "TEXT_EMPTY"), ("blank.dat", b" \r\n\x0c\0", "TEXT_EMPTY"),
        ("empty.json", b"", "TEXT_EMPTY"), ("empty.pdf", b"", "TEXT_EMPTY"), ("bom", b"\xef\xbb\xbf\r\n", "TEXT_EMPTY"),
        ("scan.tif", b"II*\0" + bytes(50), "OCR_NEEDED"), ("scan", b"\x89PNG\r\n\x1a\n", "OCR_NEEDED"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "MEDIA_UNSUPPORTED"), ("a.7z", b"7z\xbc\xaf\x27\x1c\0", "MEDIA_UNSUPPORTED"),
        ("note.txt", bytes(range(256)), "TEXT_BINARY"), ("note", bytes(range(256)), "FORMAT_UNKNOWN"),
        ("data.sqlite", b"SQLite format 3\0", "FORMAT_UNKNOWN"), ("tool", b"\x7fELF\2", "FORMAT_UNKNOWN"),
        ("settings.ini", b"a = 1", "FORMAT_UNKNOWN"), ("code.py", b"import os", "FORMAT_UNKNOWN"),
        ("note.txt", "кашель и температура с утра".encode("cp1251"), "TEXT_UNDECODABLE"),
        ("long", b"x" * 10_001, "TEXT_TOO_LARGE"),
    ],
)  # fmt: skip
def test_what_is_no_note_has_a_code(tmp_path: Path, name: str, raw: bytes, code: str) -> None:
    item = read(tmp_path, raw, name)
    assert isinstance(item, Reject) and item.code == code


@pytest.mark.parametrize(
    ("name", "raw", "format"),
    [
        ("a", b'{"resourceType": "Patient"}', "fhir"), ("a", b'\xef\xbb\xbf [{"text": "x"}]', "json"),
        ("a", b'{"text": "x"}\n{"text": "y"}\n', "ndjson"), ("a.txt", b'[["x"]]', "json"), ("a", b"{}", "json"),
        ("a", json.dumps({"resourceType": "Patient"}).encode("utf-16"), "fhir"),
        ("a", b"[demographics]\nAge: 50", "text"), ("a", b"[1] Lungs clear.", "text"), ("a", b"{see above} Lungs clear.", "text"),
        ("a.json", b"{see above}", "json"), ("a.ndjson", b"", "ndjson"),
        ("a", b"<3 cm nodule of the lung", "text"), ("a", b"<library><x/></library>", None), ("a.xml", b"prose", "ccda"), ("a.dat", b"<p>one</p>", "text"),
        ("a.json", b'{ // a comment\n "resourceType": 1}', "fhir"),
        ("a.html", b"no tags at all", "text"),
    ],
)  # fmt: skip
def test_formats_are_told_by_their_first_signs(name: str, raw: bytes, format: str | None) -> None:
    assert sniff(bytes_content(name, raw)) == format


@pytest.mark.corpora
def test_real_notes_are_read(ehr: Path) -> None:
    folder = ehr / "text"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent != folder]
    notes = [item for path in files for item in read_source(Source(path, path.name), max_note_chars=5_000_000)]
    assert len(files) == len(notes) and all(isinstance(note, Document) for note in notes)
    encodings = {note.encoding for note in notes if isinstance(note, Document)}
    assert encodings == {"utf-8", "windows-1252", "macintosh", None}  # None: of PDF
