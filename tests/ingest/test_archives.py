"""Archives: members are read like files; what is broken, hostile or hidden costs a row, not the night."""

from __future__ import annotations

import gzip
import io
import json
import random
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medpipe.ingest.archives import reader as archives
from medpipe.ingest.archives import unpacking
from medpipe.ingest.archives.reader import container_of, read_archive
from medpipe.ingest.content import Content, Refused, bytes_content
from medpipe.ingest.notes import Reading
from medpipe.ingest.read import read_source
from medpipe.ingest.sources import Source
from medpipe.records import Document, Reject, Skipped
from tests.ingest.pdfs import bomb, lines, pdf

LINES = "".join(
    json.dumps({"document_id": f"n{number}", "text": f"Cough {number}."}) + "\n" for number in range(3)
).encode()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return buffer.getvalue()


def tarred(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(raw), kind
            archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def read(tmp_path: Path, raw: bytes, name: str = "a.zip", **options: Any) -> list[Document | Reject | Skipped]:
    (tmp_path / name).write_bytes(raw)
    return list(read_source(Source(tmp_path / name, name), **({"max_note_chars": 10_000} | options)))


def rows(items: list[Document | Reject | Skipped]) -> dict[str, str]:
    """What came out, by record; what is no note by its kind."""
    found = {}
    for item in items:
        if isinstance(item, Skipped):
            found[item.kind] = "skipped"
        else:
            assert item.record not in found, "two records of one name"
            found[item.record] = item.text if isinstance(item, Document) else item.code
    return found


def test_members_are_read_like_files(tmp_path: Path) -> None:
    raw = zipped(
        ("notes/", b""), ("notes/a.txt", b"Cough."), ("notes/b.out", b"{\\rtf1 Fever.}"), ("c.pdf", pdf([lines("Rash.")])),
        ("lines.ndjson", LINES), ("empty.txt", b""), ("picture", b"\x89PNG\r\n"), ("program", b"\x7fELF" + bytes(99)),
        ("__MACOSX/._a.txt", b"x"), ("notes/.DS_Store", b"x"),
    )  # fmt: skip
    items = read(tmp_path, raw)
    assert rows(items) == {
        "notes/a.txt!0": "Cough.", "notes/b.out!0": "Fever.", "c.pdf!0": "Rash.", "lines.ndjson!n0": "Cough 0.",
        "lines.ndjson!n1": "Cough 1.", "lines.ndjson!n2": "Cough 2.", "empty.txt!0": "TEXT_EMPTY", "picture!0": "OCR_NEEDED",
        "program!0": "FORMAT_UNKNOWN", "hidden file in an archive": "skipped",
    }  # fmt: skip
    assert {item.source for item in items if not isinstance(item, Skipped)} == {"a.zip"}
    assert {item.format for item in items if isinstance(item, Document)} == {"text", "ndjson"}
    assert sum(isinstance(item, Skipped) for item in items) == 2


def test_what_gzip_packs_keeps_its_records(tmp_path: Path) -> None:
    assert list(rows(read(tmp_path, gzip.compress(LINES), "a.ndjson.gz"))) == ["n0", "n1", "n2"]
    assert rows(read(tmp_path, gzip.compress(LINES[:40]) + gzip.compress(LINES[40:]), "two")) == rows(
        read(tmp_path, LINES, "a")
    )
    assert rows(read(tmp_path, gzip.compress(b"Cough."), "note.gz")) == {"0": "Cough."}


def test_archives_in_archives(tmp_path: Path) -> None:
    inner = zipped(("a.txt", b"Cough."), ("b.txt.gz", gzip.compress(b"Fever.")))
    raw = zipped(("one.zip", zipped(("inner.zip", inner))), ("c.txt", b"Rash."))
    assert rows(read(tmp_path, raw)) == {
        "one.zip!inner.zip!a.txt!0": "Cough.", "one.zip!inner.zip!b.txt.gz!0": "ARCHIVE_TOO_DEEP", "c.txt!0": "Rash.",
    }  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar(tmp_path: Path, form: int) -> None:
    long = "folder/" * 14 + "über a name.txt" if form != tarfile.USTAR_FORMAT else "folder/" * 20 + "name.txt"
    raw = tarred(("a.txt", b"Cough."), (long, b"Fever. " * 200), ("./b.ndjson", LINES), ("../c.txt", b"x"), form=form)
    expected = {
        "a.txt!0": "Cough.", "b.ndjson!n0": "Cough 0.", "b.ndjson!n1": "Cough 1.", "b.ndjson!n2": "Cough 2.",
        "../c.txt!0": "ARCHIVE_UNSAFE",
    }  # fmt: skip
    for found in (rows(read(tmp_path, raw, "a.tar")), rows(read(tmp_path, gzip.compress(raw), "a.tgz"))):
        assert "Fever. " * 200 in found.values()
        assert {name: text for name, text in found.items() if not name.startswith("folder/")} == expected


def test_tar_links_devices_and_ends(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        assert rows(read(tmp_path, tarred(("a", b""), kind=kind), "a.tar")) == {"link in an archive": "skipped"}
    assert rows(read(tmp_path, tarred(("a", b""), kind=tarfile.CHRTYPE), "a.tar")) == {
        "device in an archive": "skipped"
    }
    raw = tarred(("a.txt", b"Cough."), ("b.txt", b"Fever. " * 500))
    assert rows(read(tmp_path, raw[:2000], "a.tar")) == {"a.txt!0": "Cough.", "b.txt!0": "ARCHIVE_INVALID"}
    assert rows(read(tmp_path, raw[:1024] + b"x" * 600, "a.tar")) == {"0": "ARCHIVE_INVALID"}


def test_the_format_that_is_named_is_that_of_the_members(tmp_path: Path) -> None:
    raw = zipped(("a", b'{"text": "Cough."}'))
    assert rows(read(tmp_path, raw, format="text")) == {"a!0": '{"text": "Cough."}'}
    assert rows(read(tmp_path, raw, format="json")) == {"a!0": "Cough."}


def test_names_that_lead_outside(tmp_path: Path) -> None:
    names = ["../a.txt", "/etc/b.txt", "C:\\c.txt", "..\\d.txt", "x/../../e.txt", "\\\\host\\f.txt", "c:g.txt"]
    found = rows(read(tmp_path, zipped(*((name, b"x") for name in names), ("folder\\h.txt", b"Cough."))))
    assert found.pop("folder/h.txt!0") == "Cough."  # as Windows writes names
    assert len(found) == len(names) and set(found.values()) == {"ARCHIVE_UNSAFE"}


def test_names_are_unique_and_short(tmp_path: Path) -> None:
    long = "x" * 300
    with pytest.warns(UserWarning):
        raw = zipped(("a.txt", b"one"), ("a.txt", b"two"), (long + "1", b"three"), (long + "2", b"four"))
    found = rows(read(tmp_path, raw))
    assert sorted(found.values()) == ["four", "one", "three", "two"]
    assert {"a.txt!0", "a.txt#2!0"} < set(found) and max(map(len, found)) < 200


def test_links_are_not_followed(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert rows(read(tmp_path, zipped((link, b"/etc/passwd")))) == {"link in an archive": "skipped"}


def test_office_documents_are_one_record(tmp_path: Path) -> None:
    assert rows(read(tmp_path, zipped(("[Content_Types].xml", b"<x/>"), ("word/document.xml", b"<x/>")), "a.docx")) == {
        "0": "MEDIA_UNSUPPORTED"
    }
    assert rows(
        read(tmp_path, zipped(("mimetype", b"application/vnd.oasis.opendocument.text"), ("content.xml", b"x")))
    ) == {"0": "MEDIA_UNSUPPORTED"}


def test_an_empty_archive_is_seen(tmp_path: Path) -> None:
    assert read(tmp_path, zipped()) == [Skipped("empty archive")]


def changed(raw: bytes, offset: int, form: str, *values: int) -> bytes:
    """Changes fields of the first member's headers, at an offset of the local one; the central one is two further."""
    out = bytearray(raw)
    struct.pack_into(form, out, offset, *values)
    struct.pack_into(form, out, raw.index(b"PK\x01\x02") + offset + 2, *values)
    return bytes(out)


def test_encrypted_and_otherwise_packed_members(tmp_path: Path) -> None:
    raw = zipped(("a.txt", b"Cough."), ("b.txt", b"Fever."))
    assert rows(read(tmp_path, changed(raw, 6, "<H", 1))) == {"a.txt!0": "ARCHIVE_ENCRYPTED", "b.txt!0": "Fever."}
    for method in (9, 12, 14, 93, 99):
        assert rows(read(tmp_path, changed(raw, 8, "<H", method))) == {
            "a.txt!0": "MEDIA_UNSUPPORTED",
            "b.txt!0": "Fever.",
        }


def test_damage_costs_the_member_or_the_rest_of_it(tmp_path: Path) -> None:
    raw = zipped(("a.txt", b"Cough."), ("b.txt", b"Fever."), method=zipfile.ZIP_STORED)
    assert rows(read(tmp_path, raw.replace(b"Cough.", b"Cauch."))) == {
        "a.txt!0": "ARCHIVE_INVALID",
        "b.txt!0": "Fever.",
    }
    assert rows(read(tmp_path, raw[:-30])) == {"0": "ARCHIVE_INVALID"}
    assert rows(read(tmp_path, raw[:40])) == {"0": "ARCHIVE_INVALID"}
    chance = random.Random(1)
    many = b"".join(b'{"document_id": "n%d", "text": "%x"}\n' % (n, chance.getrandbits(800)) for n in range(3000))
    found = rows(read(tmp_path, gzip.compress(many)[:-5000], "a.ndjson.gz"))
    assert found.pop("0") == "ARCHIVE_INVALID" and len(found) > 1000  # what was read by then stays
    found = rows(read(tmp_path, gzip.compress(many) + b"garbage", "a.ndjson.gz"))
    assert found.pop("0") == "ARCHIVE_INVALID" and len(found) == 3000
    assert rows(read(tmp_path, gzip.compress(b"Cough.")[:12], "a.gz")) == {"0": "ARCHIVE_INVALID"}


def test_a_size_that_lies_is_found_out(tmp_path: Path) -> None:
    raw = zipped(("a.txt", b"Cough. " * 100))
    assert rows(read(tmp_path, changed(raw, 22, "<L", 7))) == {"a.txt!0": "ARCHIVE_INVALID"}
    assert rows(read(tmp_path, changed(raw, 22, "<L", 1 << 30), max_file_bytes=1 << 20)) == {
        "a.txt!0": "SOURCE_TOO_LARGE"
    }


def with_deflated(name: str, packed: bytes, size: int) -> bytes:
    """A zip archive with one member of data that are packed already."""
    raw = zipped((name, b""), method=zipfile.ZIP_STORED)
    raw = changed(changed(raw, 8, "<H", 8), 18, "<LL", len(packed), size)
    head = 30 + len(name)
    end = raw.index(b"PK\x05\x06")
    out = bytearray(raw[:head] + packed + raw[head:])
    struct.pack_into("<L", out, end + len(packed) + 16, head + len(packed))
    return bytes(out)


def test_bombs_end_early(tmp_path: Path) -> None:
    started = time.process_time()
    packed = bomb(400)[2:]
    for name in ("a.ndjson", "a.txt", "a"):
        raw = with_deflated(name, packed, 400 << 20)
        found = rows(read(tmp_path, raw, max_file_bytes=4 << 30))
        assert set(found.values()) == {"ARCHIVE_TOO_LARGE"}
    gz = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed
    assert set(rows(read(tmp_path, gz, "a.ndjson.gz", max_file_bytes=4 << 30)).values()) == {"ARCHIVE_TOO_LARGE"}
    assert time.process_time() - started < 15


def test_all_members_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "FREE_ALL", 100_000)
    inner = zipped(*((f"{n}.txt", b" " * 30_000) for n in range(5)))
    found = rows(read(tmp_path, zipped(("a.txt", b"Cough."), ("b.zip", inner), ("c.zip", inner), ("d.txt", b"x"))))
    assert found["a.txt!0"] == "Cough." and found["0"] == "ARCHIVE_TOO_LARGE" and "d.txt!0" not in found
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 4)
    assert rows(read(tmp_path, inner)) == {"0": "ARCHIVE_TOO_LARGE"}
    assert rows(read(tmp_path, zipped(("a.zip", inner)))) == {"a.zip!0": "ARCHIVE_TOO_LARGE"}
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 100)
    assert rows(read(tmp_path, inner)) == {"0": "ARCHIVE_TOO_LARGE"}


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    raw = bytearray(zipped(("a.txt", b"Cough."), ("b.txt", b"Fever.")))
    second = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 1)
    struct.pack_into("<L", raw, second + 42, 0)  # where its data begin
    assert rows(read(tmp_path, bytes(raw))) == {"0": "ARCHIVE_TOO_LARGE"}


# --- references and streams -------------------------------------------------------------------


def reading() -> Reading:
    return Reading("a.zip", "unknown", 10_000)


def follow(content: Content, inner: Reading) -> Iterator[Document | Reject | Skipped]:
    """A reader of members that hold nothing but a reference."""
    raw = content.read(1000)
    other = content.beside(raw.decode()) if content.suffix == ".xml" else None
    text = other.read(1000).decode() if other else raw.decode()
    yield inner.document("0", text)


def test_attachments_of_members_are_found_and_read_once() -> None:
    raw = zipped(
        ("A/note.pdf", b"The note."), ("A/other.txt", b"Other."), ("A/doc.xml", b"note.pdf"), ("A/B/doc.xml", b"..\\OTHER.TXT"),
        ("A/C/doc.xml", b"../../../etc/passwd"), ("A/D/doc.xml", b"http://127.0.0.1:1/note.pdf"), ("A/E/doc.xml", b"../my%20note.txt"),
        ("A/my note.txt", b"Mine."), ("A/F/doc.xml", b"../.hidden"), ("A/.hidden", b"x"), ("z.txt", b"Last."),
    )  # fmt: skip
    items = list(read_archive("zip", bytes_content("a.zip", raw), reading(), follow))
    assert rows(items) == {
        "A/doc.xml!0": "The note.", "A/B/doc.xml!0": "Other.", "A/C/doc.xml!0": "../../../etc/passwd", "A/E/doc.xml!0": "Mine.",
        "A/D/doc.xml!0": "http://127.0.0.1:1/note.pdf", "A/F/doc.xml!0": "x", "z.txt!0": "Last.",
        "attachment of another member": "skipped", "hidden file in an archive": "skipped",
    }  # fmt: skip
    assert sum(item == Skipped("attachment of another member") for item in items) == 3


def test_a_bulk_export_in_an_archive_finds_its_binaries(tmp_path: Path) -> None:
    reference = {"resourceType": "DocumentReference", "id": "d", "status": "current"}
    attachments = [{"contentType": "text/plain", "url": "Binary/b1"}, {"url": "files/note.rtf"}]
    reference["content"] = [{"attachment": one} for one in attachments]  # type: ignore[assignment]
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "Q291Z2gu"}
    files = [
        ("export/Binary.ndjson", json.dumps(binary).encode() + b"\n"), ("export/files/note.rtf", b"{\\rtf1 Fever.}"),
        ("export/DocumentReference.ndjson.gz", gzip.compress(json.dumps(reference).encode() + b"\n")),
    ]  # fmt: skip
    for raw in (zipped(*files), tarred(*files), gzip.compress(tarred(*files)), zipped(("inner.zip", zipped(*files)))):
        items = read(tmp_path, raw, "a")
        assert sorted(item.text for item in items if isinstance(item, Document)) == ["Cough.", "Fever."]
        assert not any(isinstance(item, Reject) for item in items), rows(items)
        assert Skipped("attachment of another member") in items


def test_packages_for_exchange_hold_files_that_are_no_notes(tmp_path: Path) -> None:
    cda = b'<ClinicalDocument xmlns="urn:hl7-org:v3"><component><nonXMLBody><text>Cough.</text></nonXMLBody></component></ClinicalDocument>'
    raw = zipped(
        ("INDEX.HTM", b"<html>index</html>"), ("README.TXT", b"read me"), ("IHE_XDM/SUBSET01/METADATA.XML", b"<x/>"),
        ("IHE_XDM/SUBSET01/DOC1.XML", cda), ("IHE_XDM/SUBSET01/CDA.XSL", b"<x/>"),
    )  # fmt: skip
    found = rows(read(tmp_path, raw))
    assert "Cough." in found.values() and sorted(found.values()).count("skipped") == 4, found


@pytest.mark.parametrize("kind", ["zip", "gzip", "tar"])
def test_streams_can_seek(kind: str) -> None:
    data = random.Random(3).randbytes(700_000)
    raw = {"zip": zipped(("a", data)), "gzip": gzip.compress(data), "tar": tarred(("a", data))}[kind]
    assert container_of(raw) == kind

    def check(content: Content, inner: Reading) -> Iterator[Document | Reject | Skipped]:
        with content.open() as stream, content.open() as other:
            assert stream.read(10) == data[:10] and other.read(5) == data[:5]
            assert stream.seek(-7, io.SEEK_END) == len(data) - 7 and stream.read() == data[-7:]
            assert stream.seek(300_000) == 300_000 and stream.read(3) == data[300_000:300_003]
            assert stream.seek(5, io.SEEK_CUR) == 300_008 and stream.tell() == 300_008
            assert other.read() == data[5:] and stream.read(1) == data[300_008:300_009]
        assert content.read(len(data)) == data
        with pytest.raises(Refused):
            content.read(len(data) - 1)
        yield Skipped("checked")

    assert list(read_archive(kind, bytes_content("a", raw), reading(), check)) == [Skipped("checked")]


def test_a_fault_of_the_disk_is_no_damage_of_the_archive() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    content = Content("a.gz", lambda: Broken())
    with pytest.raises(OSError, match="Input/output"):
        list(
            read_archive(
                "gzip", content, reading(), lambda member, inner: iter([inner.document("0", str(member.head(1)))])
            )
        )


def test_mutated_archives_end_as_rows(tmp_path: Path) -> None:
    chance = random.Random(11)
    seeds = [
        zipped(("a.txt", b"Cough."), ("b.zip", zipped(("c.ndjson", LINES)))),
        gzip.compress(LINES),
        tarred(("a", LINES), ("b", b"Cough.")),
    ]
    for _ in range(400):
        raw = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 4, 30))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.3:
            del raw[chance.randrange(len(raw)) :]
        items = read(tmp_path, bytes(raw), "a")
        assert items and not any(isinstance(item, Reject) and item.code == "STAGE_FAILED" for item in items)


@pytest.mark.corpora
def test_real_archives_are_read_to_their_last_member(ehr: Path) -> None:
    folder = ehr / "ccda" / "siteadmin_2015-C-CDA-Certification-Samples"
    items = list(read_source(Source(folder / "b.6 CCDAs.zip", "a.zip"), max_note_chars=5_000_000))
    names = {item.record.rpartition("!")[0] for item in items if not isinstance(item, Skipped)}
    assert len(names) >= 9 + 2 + 7 + 3 + 3
    assert not any(isinstance(item, Reject) and item.code.startswith("ARCHIVE") for item in items)
