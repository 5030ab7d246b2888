"""Bodies of notes: what the bytes are decides over what they are said to be."""

from __future__ import annotations

import base64
import gzip
import io
import time
import zipfile

import pytest

from medpipe.ingest.bodies.body import MAX_UNPACKED, Body, kind_of, render
from tests.ingest.pdfs import bomb, lines, pdf

RTF = b"{\\rtf1\\ansi Plan\\par Rest \\'96 fluids.}"
HTML = b"<html><body><p>Plan</p><p>Rest.</p></body></html>"
PDF = pdf([lines("Plan: rest.")])


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("raw", "media", "charset", "text", "found"),
    [
        (b"Plan: rest.", "text/plain", None, "Plan: rest.", "text/plain"),
        (b"Plan: rest.", None, None, "Plan: rest.", "text/plain"),
        (b"# Plan", "text/markdown", None, "# Plan", "text/markdown"),
        (b"Plan: rest.", "application/pdf", None, "Plan: rest.", "text/plain"),
        (b"Plan: rest.", "image/jpeg", None, "Plan: rest.", "text/plain"),
        (b"Plan: rest.", "application/octet-stream", None, "Plan: rest.", "text/plain"),
        (b"Plan:\nrest < 3 d", "text/html", None, "Plan:\nrest < 3 d", "text/plain"),
        (b"Plan:\nrest", "application/json", None, "Plan:\nrest", "text/plain"),
        (b"[1] Plan {x}", "text/plain", None, "[1] Plan {x}", "text/plain"),
        (b"<3 cm nodule, HR <90", "text/plain", None, "<3 cm nodule, HR <90", "text/plain"),
        (RTF, "text/plain", None, "Plan\nRest – fluids.", "text/rtf"),
        (RTF, "application/msword", None, "Plan\nRest – fluids.", "text/rtf"),
        (b"\xef\xbb\xbf\r\n" + RTF, "application/rtf", None, "Plan\nRest – fluids.", "application/rtf"),
        (RTF.decode().encode("utf-16"), "text/rtf", None, "Plan\nRest – fluids.", "text/rtf"),
        (HTML, "text/plain", None, "Plan\n\nRest.", "text/html"),
        (HTML, "application/xhtml+xml", None, "Plan\n\nRest.", "application/xhtml+xml"),
        (HTML.decode().encode("utf-16"), None, None, "Plan\n\nRest.", "text/html"),
        (b"<!-- x --><!DOCTYPE html>\n<p>Plan", None, None, "Plan", "text/html"),
        (b"<?xml version='1.0'?><html><p>Plan</p></html>", "text/xml", None, "Plan", "text/html"),
        (b'<div xmlns="http://www.w3.org/1999/xhtml">Plan</div>', None, None, "Plan", "text/html"),
        (b"Plan:<br>rest &amp; fluids", "text/html", None, "Plan:\nrest & fluids", "text/html"),
        (b"Plan:<br>rest", "text/plain", None, "Plan:<br>rest", "text/plain"),
        (b"<meta charset=iso-8859-2><p>b\xf3l, gor\xb1czka", "text/html", None, "ból, gorączka", "text/html"),
        (b"<meta charset=iso-8859-2><p>\xb5g", "text/html", "windows-1252", "µg", "text/html"),
        (PDF, "text/plain", None, "Plan: rest.", "application/pdf"),
        (b"\r\n\r\n" + PDF, "application/octet-stream", None, "Plan: rest.", "application/pdf"),
        (gzip.compress(b"Plan:", mtime=0) + gzip.compress(b" rest.", mtime=0), "application/gzip", None, "Plan: rest.", "text/plain"),
        (gzip.compress(RTF, mtime=0), "text/rtf", None, "Plan\nRest – fluids.", "text/rtf"),
        (base64.encodebytes(RTF), "text/rtf", None, "Plan\nRest – fluids.", "text/rtf"),
        (base64.b64encode(PDF), "text/plain", None, "Plan: rest.", "application/pdf"),
    ],
)  # fmt: skip
def test_bodies_are_read_as_what_they_are(
    raw: bytes, media: str | None, charset: str | None, text: str, found: str
) -> None:
    body = render(raw, media, charset)
    assert (body.error, body.text, body.media_type) == (None, text, found)


@pytest.mark.parametrize(
    ("raw", "media", "code", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "text/plain", "OCR_NEEDED", "PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "application/pdf", "OCR_NEEDED", "JPEG image"),
        (bytes(range(200)), "image/jp2", "OCR_NEEDED", "image/jp2"),
        (b"\0" * 128 + b"DICM\x02", "application/dicom", "OCR_NEEDED", "DICOM image"),
        (bytes(range(200)), "application/pdf", "PDF_INVALID", "it does not begin like one"),
        (b"%PDF-1.7 nothing", None, "PDF_INVALID", None),
        (pdf([lines("x")], password="secret"), None, "PDF_ENCRYPTED", "a password"),
        (pdf([b""]), None, "OCR_NEEDED", "PDF without a text layer"),
        (b"{\\rtf1{\\fonttbl", None, "RTF_INVALID", "it breaks off before its text"),
        (archive("[Content_Types].xml", "word/document.xml"), None, "MEDIA_UNSUPPORTED", "Word document (docx)"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "text/plain", "MEDIA_UNSUPPORTED", "Excel workbook (xlsx)"),
        (archive("mimetype", "content.xml"), None, "MEDIA_UNSUPPORTED", "OpenDocument"),
        (archive("note.txt"), "application/zip", "MEDIA_UNSUPPORTED", "zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword", "MEDIA_UNSUPPORTED", "Office document"),
        (b"ID3\x03\0\0", "audio/mpeg", "MEDIA_UNSUPPORTED", "audio"),
        (bytes(range(200)), "audio/basic", "MEDIA_UNSUPPORTED", "audio/basic"),
        (bytes(range(200)), "Secret text as a type", "TEXT_BINARY", "unknown"),
        (bytes(range(200)), None, "TEXT_BINARY", "unknown"),
        (b"\x7fELF\x02\x01", None, "TEXT_BINARY", "program"),
        (b"<?xml version='1.0'?><library><x/></library>", "application/xml", "MEDIA_UNSUPPORTED", "XML"),
        (b"<library><x/></library>", "text/plain", "MEDIA_UNSUPPORTED", "XML"),
        (b'{"a": 1}', "application/json", "MEDIA_UNSUPPORTED", "JSON"),
        (b"library X version '1'", "text/cql", "MEDIA_UNSUPPORTED", "text/cql"),
        (b"MSH|^~\\&|A|B", "text/plain", "MEDIA_UNSUPPORTED", "HL7 v2 message"),
        (gzip.compress(b"x" * 99, mtime=0)[:-9], None, "ARCHIVE_INVALID", "gzip archive"),
        (b"x" * 41, "text/plain", "TEXT_TOO_LARGE", None),
        ("кашель и температура".encode("cp1251"), None, "TEXT_UNDECODABLE", ""),
    ],
)  # fmt: skip
def test_what_holds_no_text_has_a_code(raw: bytes, media: str | None, code: str, kind: str | None) -> None:
    body = render(raw, media, None, limit=10)
    assert (body.error, body.text) == (code, "")
    assert kind is None or body.fields.get("kind") == kind


def test_what_gzip_unpacks_to_is_bounded() -> None:
    # The blocks of zlib's format are those of gzip's; only the frame is another one.
    packed = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bomb((MAX_UNPACKED >> 20) + 10)[2:]
    assert render(packed, None, None).error == "ARCHIVE_TOO_LARGE"


@pytest.mark.parametrize("piece", [b"<p ", b"<p>", b"<!--", b"<?", b" ", b"<a b='", b"&a", b"\n<", b"JVBERi0"])
def test_telling_what_bytes_are_takes_linear_time(piece: bytes) -> None:
    raw = piece * (400_000 // len(piece))
    started = time.process_time()
    assert kind_of(raw) in ("text", "HTML", "XML")
    assert kind_of(raw, "text/html") in ("text", "HTML", "XML")
    assert render(raw, None, None).error is None
    assert time.process_time() - started < 2


def test_a_body_is_no_error_by_default() -> None:
    assert Body("x").error is None
