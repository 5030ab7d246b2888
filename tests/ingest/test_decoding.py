"""Encodings: found, recorded by IANA's names, and never a byte dropped."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.syntax.charsets import find_codec, standard_name
from medpipe.ingest.syntax.decoding import decode, is_binary, magic

NOTE = "Patient’s fever – 38,5 °C; ½ tablet, “naïve”, 5 µg • José."


@pytest.mark.parametrize(
    ("raw", "charset", "encoding", "text"),
    [
        (NOTE.encode(), None, "utf-8", NOTE),
        (NOTE.encode(), "us-ascii", "utf-8", NOTE),
        (NOTE.encode(), "iso-8859-1", "utf-8", NOTE),  # declared wrong
        (codecs.BOM_UTF8 + NOTE.encode(), "utf-16", "utf-8", NOTE),
        (NOTE.encode("utf-16"), None, "utf-16le", NOTE),
        (codecs.BOM_UTF16_BE + NOTE.encode("utf-16-be"), "utf-8", "utf-16be", NOTE),
        (NOTE.encode("utf-16-le"), None, "utf-16le", NOTE),
        (NOTE.encode("utf-16-be"), None, "utf-16be", NOTE),
        (NOTE.encode("utf-32"), None, "utf-32le", NOTE),
        (NOTE.encode("utf-32-be"), None, "utf-32be", NOTE),
        (NOTE.encode(), "utf-16", "utf-8", NOTE),  # as XML says that was recoded
        (NOTE.encode("cp1252"), None, "windows-1252", NOTE),
        (NOTE.encode("cp1252"), "utf-8", "windows-1252", NOTE),
        (NOTE.encode("cp1252"), "latin-1", "windows-1252", NOTE),
        ("naïve".encode("latin-1"), "latin-1", "iso-8859-1", "naïve"),
        ("naïve".encode("latin-1"), "8859/1", "iso-8859-1", "naïve"),
        ("5 €".encode("iso-8859-15"), "ISO_8859-15", "iso-8859-15", "5 €"),
        ("кашель".encode("koi8-r"), "koi8-r", "koi8-r", "кашель"),
        ("患者の咳".encode("iso2022_jp"), "iso-2022-jp", "iso-2022-jp", "患者の咳"),
        ("患者の咳①".encode("cp932"), "shift_jis", "windows-31j", "患者の咳①"),
        ("患者咳嗽".encode("gb18030"), '"GB2312"', "gb2312", "患者咳嗽"),
        ("cough".encode("cp037"), "ibm037", "ibm037", "cough"),
        (b"na\xefve", "no-such-charset", "windows-1252", "naïve"),
        (b"na\xefve", "utf-7", "windows-1252", "naïve"),
        (b"na\\xefve", "unicode_escape", "utf-8", "na\\xefve"),
        (b"cough\x8d and na\xefve, caf\xe9 d\xe9j\xe0", None, "windows-1252", "cough\x8d and naïve, café déjà"),
        ("José’s naïve café: ".encode() + b"temp 38\xb0, 5 \xb5g", None, "utf-8+windows-1252", "José’s naïve café: temp 38°, 5 µg"),
        ("José’s café “cut off”"[:-1].encode() + b"\xe2\x80", None, "utf-8+windows-1252", "José’s café “cut offâ€"),
        ("She was “incredibly filthy”, she said.".encode("mac_roman"), None, "macintosh", "She was “incredibly filthy”, she said."),
        ("Rückenschmerzen, Größe, Füße, Übelkeit, möglich".encode("cp850"), None, "ibm850", "Rückenschmerzen, Größe, Füße, Übelkeit, möglich"),
        ("zgłasza ból, gorączki, więcej płynów".encode("cp1250"), None, "windows-1250", "zgłasza ból, gorączki, więcej płynów"),
        ("CÔTÉ DROIT : À L’ÉCOLE".encode("cp1252"), None, "windows-1252", "CÔTÉ DROIT : À L’ÉCOLE"),
        ("drug–drug, worse—then… 100 €".encode("cp1252"), None, "windows-1252", "drug–drug, worse—then… 100 €"),
        (b"fixed width\0\0\0\0\0\0\0\0\0\0\x1a", None, "utf-8", "fixed width" + "\0" * 10 + "\x1a"),
        (b"one\x0ctwo\x1b[0m\x0b", None, "utf-8", "one\x0ctwo\x1b[0m\x0b"),
        (b"", None, "utf-8", ""),
    ],
)  # fmt: skip
def test_encodings(raw: bytes, charset: str | None, encoding: str, text: str) -> None:
    decoded = decode(raw, charset)
    assert (decoded.error, decoded.encoding, decoded.text) == (None, encoding, text)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (bytes(range(32)) * 4, "TEXT_BINARY"),
        (b"\x89PNG\r\n\x1a\n", "TEXT_BINARY"),
        ("Пациент жалуется на боль в груди".encode("cp1251"), "TEXT_UNDECODABLE"),
        ("患者は三日前から胸の痛みを訴えている".encode("euc_jp"), "TEXT_UNDECODABLE"),
        (NOTE.encode("utf-16")[:-1], "TEXT_UNDECODABLE"),
    ],
)
def test_what_is_no_text_has_a_code(raw: bytes, code: str) -> None:
    assert (decode(raw).error, decode(raw).text) == (code, "")


def test_names_are_those_of_iana() -> None:
    names = {
        name: standard_name(name)
        for name in ("cp1252", "latin-1", "ascii", "cp437", "mac_roman", "utf-8-sig", "euc_kr")
    }
    assert names == {
        "cp1252": "windows-1252", "latin-1": "iso-8859-1", "ascii": "us-ascii", "cp437": "ibm437", "mac_roman": "macintosh",
        "utf-8-sig": "utf-8", "euc_kr": "euc-kr",
    }  # fmt: skip
    assert (
        find_codec("UNICODE UTF-8") == "utf-8"
        and find_codec("8859/15") == "iso8859-15"
        and find_codec("ISO_8859-1:1987")
    )
    assert not any(
        map(find_codec, ("rot13", "hex", "zlib", "idna", "utf-7", "punycode", "../x", "", None, "x" * 99, "\0"))
    )


def test_kinds_of_files() -> None:
    kinds = {
        b"%PDF-1.7": "PDF", b"{\\rtf1": "RTF", b"\xff\xd8\xff\xe0": "JPEG image", b"GIF89a": "GIF image", b"II*\0": "TIFF image",
        b"BM\x36\0\0\0\0\0\0\0\x36": "BMP image", b"\0" * 128 + b"DICM": "DICOM image", b"\x1f\x8b\x08": "gzip archive",
        b"PK\x05\x06": "zip archive", b"\0" * 257 + b"ustar\0": "tar archive", b"ID3\x03\0": "audio", b"ID3 of the patient": None,
        b"BM on the 3rd day": None, b"II* factor": None, b"PK study": None, b"BZh": None, b"": None,
    }  # fmt: skip
    assert {raw: magic(raw) for raw in kinds} == kinds


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=60), charset=st.sampled_from([None, "utf-8", "latin-1", "utf-16", "shift_jis", "cp037"]))
def test_any_bytes_are_read_whole_or_refused(raw: bytes, charset: str | None) -> None:
    decoded = decode(raw, charset)
    assert (decoded.error is None) == bool(decoded.encoding)
    if decoded.error is None and decoded.encoding in ("utf-8", "windows-1252", "macintosh", "ibm850", "windows-1250"):
        assert len(decoded.text.encode()) >= len(raw.removeprefix(codecs.BOM_UTF8))
    is_binary(raw)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60))
def test_utf8_comes_back_as_it_was(text: str) -> None:
    if text.startswith(("\ufeff",)) or magic(text.encode()):
        return
    assert decode(text.encode()).text == text
