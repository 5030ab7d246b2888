"""Archives are transparent: each member of a .zip, .gz or .tar is read like a file, and none is ever written as one.

A member's records are named ``member!record``; what gzip packs is one file, whose records keep their names. Which
files are archives is told by their content. Members are read as they unpack, and how much they unpack to is bounded by
the size of the file that holds them, so that a hostile archive costs no more than a large honest one:

- what members unpack to (``medpipe.ingest.archives.unpacking``), how many there are, and how deep archives lie in
  archives; members that overlap are refused;
- names that lead outside (``..``, absolute, a drive), encrypted members, and ways of packing other than deflate are
  refused for that member; links are not followed.

What is wrong with an archive shows while it is read: records that a reader had finished by then stay, and the member
ends as one reject. Members that a member names as its attachments (``Content.beside``) are no notes of their own;
documents that can name others are read first: JSON, then XML and other messages, then the rest.

Nested archives and packed tars are unpacked to a temporary file without a name (in memory while it is small): their
readers go back and forth.
"""

from __future__ import annotations

import posixpath
import re
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import SEEK_END, BufferedIOBase
from itertools import pairwise
from typing import BinaryIO, cast
from urllib.parse import unquote

from medpipe.ids import hash_text
from medpipe.ingest.archives.tar_format import TarMember, list_tar, open_part
from medpipe.ingest.archives.unpacking import DAMAGES, MAX_MEMBERS, Allowance, Packed, gunzip, of_archive, spooled
from medpipe.ingest.bodies.body import office_kind
from medpipe.ingest.cda.reader import xdm_role
from medpipe.ingest.content import Content, Refused
from medpipe.ingest.notes import Reading
from medpipe.ingest.syntax.decoding import magic
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
Read = Callable[[Content, Reading], Iterator[Item]]

MAX_DIRECTORY = 32 << 20  # bytes of a zip archive's list of members
LONGEST_NAME = 120  # characters of a member's name that are kept whole

# Read first: what can name other members as its attachments.
FIRST = {".json": 0, ".ndjson": 0, ".jsonl": 0, ".xml": 1, ".cda": 1, ".ccda": 1, ".hl7": 1, ".er7": 1, ".csv": 1}
CONTAINERS = {"zip archive": "zip", "gzip archive": "gzip", "tar archive": "tar"}


def container_of(head: bytes) -> str | None:
    """Returns ``zip``, ``gzip`` or ``tar`` where the first bytes of a file are those of an archive."""
    return CONTAINERS.get(magic(head) or "")


def read_archive(kind: str, content: Content, reading: Reading, read: Read) -> Iterator[Item]:
    """Yields what the members of an archive hold.

    Args:
        kind: what ``container_of`` says of it.
        content: the archive.
        reading: the file; of a nested archive with the allowance of the outer one.
        read: reads a member.

    Raises:
        Refused: ARCHIVE_INVALID, ARCHIVE_TOO_LARGE, ARCHIVE_TOO_DEEP; MEDIA_UNSUPPORTED for office documents.
    """
    outer = reading.allowance
    allowance = Allowance(content.size or 0) if outer is None else outer.inside()
    inner = replace(reading, allowance=allowance)
    if kind == "gzip":
        name = re.sub(r"\.tgz$", ".tar", re.sub(r"\.g?z$", "", content.name, flags=re.I), flags=re.I)
        yield from read(Content(name, gunzip(content, allowance).open, None, content.beside), inner)
        return
    # The file of a run can be read back and forth; what unpacks while it is read cannot.
    with content.open() if outer is None else spooled(content) as stream:
        members = _zip_members(stream, allowance) if kind == "zip" else _tar_members(stream, allowance)
        yield from _read_members(members, inner, read)
        allowance.check()


# --- members ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: how to open it, or why it is not read."""

    name: str  # its path, with forward slashes
    open: Callable[[], BinaryIO]
    size: int | None
    refusal: Refused | None = None
    skipped: str | None = None  # kind


def _read_members(members: Sequence[Member], reading: Reading, read: Read) -> Iterator[Item]:
    """Yields what members hold: those that can refer to others first."""
    if not members:
        yield Skipped("empty archive")
    names = _record_names(members)
    by_name = {member.name: index for index, member in enumerate(members)}
    by_folded = {member.name.casefold(): index for index, member in enumerate(members)}
    referenced: set[int] = set()
    readable = [member for member in members if member.refusal is None and member.skipped is None]
    reading = replace(reading, inputs=reading.inputs.inside(readable))  # references are resolved inside of the archive

    def content_of(index: int) -> Content:
        member = members[index]

        def beside(reference: str) -> Content | None:
            for written in (reference, unquote(reference)):
                path = posixpath.join(posixpath.dirname(member.name), written.replace("\\", "/"))
                path = posixpath.normpath(path)
                found = by_name.get(path, by_folded.get(path.casefold()))
                if found is not None and members[found].refusal is None and members[found].skipped is None:
                    referenced.add(found)
                    return content_of(found)
            return None

        return Content(posixpath.basename(member.name), member.open, member.size, beside)

    order = sorted(range(len(members)), key=lambda index: _turn(members[index].name))
    all_names = list(by_name)
    for index in order:
        member = members[index]
        inside = reading.inside(names[index])
        if member.refusal is not None:
            yield inside.reject("0", member.refusal.code, **member.refusal.fields)
        elif kind := member.skipped or no_note(member.name, all_names):
            yield Skipped(kind)
        elif index in referenced:
            yield Skipped("attachment of another member")
        else:
            yield from read(content_of(index), inside)
            if reading.allowance is not None:  # used up: the rest is not read, and one row says so
                reading.allowance.check()


def _turn(name: str) -> int:
    """Returns in which turn a member is read, by its name."""
    return FIRST.get(posixpath.splitext(name.lower().removesuffix(".gz"))[1], 2)


def no_note(name: str, names: Sequence[str]) -> str | None:
    """Returns what a member is that is no note, by its name and those of all members; ``None`` for what is read."""
    if any(part.startswith((".", "_")) for part in name.split("/")):
        return "hidden file in an archive"  # as folders are read: other programs' notes to themselves
    return xdm_role(name, names)


def _record_names(members: Sequence[Member]) -> list[str]:
    """Returns the names that records of members go by: unique, and not longer than a record's name may be."""
    seen: Counter[str] = Counter()
    names = []
    for member in members:
        name = member.name
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}~{hash_text(name)[:16]}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _safe_name(written: str) -> tuple[str, Refused | None]:
    """Returns a member's path, and the refusal of one that leads outside."""
    # Windows writes backslashes between folders; a path made of them leads nowhere else than one of slashes.
    name = written.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name:
        return name, Refused("ARCHIVE_UNSAFE")
    return posixpath.normpath(name), None


# --- zip (PKWARE APPNOTE 6.3) -----------------------------------------------------------------


def _zip_members(stream: BinaryIO, allowance: Allowance) -> list[Member]:
    if _directory_size(stream) > MAX_DIRECTORY:
        raise Refused("ARCHIVE_TOO_LARGE", limit=f"{MAX_MEMBERS:,} members")
    try:
        archive = zipfile.ZipFile(stream)
    except DAMAGES as error:
        raise Refused("ARCHIVE_INVALID") from error
    except OSError as error:
        raise of_archive(error) from error
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if kind := office_kind([info.filename for info in infos]):
        raise Refused("MEDIA_UNSUPPORTED", kind=kind)
    allowance.take_members(len(infos))
    by_place = sorted(infos, key=lambda info: info.header_offset)
    for info, following in pairwise(by_place):
        if info.header_offset + 30 + info.compress_size > following.header_offset:
            raise Refused("ARCHIVE_TOO_LARGE", limit="members that do not overlap")
    return [_zip_member(archive, info, allowance) for info in infos]


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, allowance: Allowance) -> Member:
    name, refusal = _safe_name(info.filename)
    skipped = None
    if stat.S_ISLNK(info.external_attr >> 16):
        skipped = "link in an archive"
    elif info.flag_bits & 0x1:
        refusal = refusal or Refused("ARCHIVE_ENCRYPTED")
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refusal = refusal or Refused("MEDIA_UNSUPPORTED", kind=f"zip compression {info.compress_type}")

    def unpack() -> BufferedIOBase:
        return cast(BufferedIOBase, archive.open(info))

    packed = Packed(unpack, info.compress_size, info.file_size, allowance)
    return Member(name, packed.open, info.file_size, refusal, skipped)


def _directory_size(stream: BinaryIO) -> int:
    """Returns the size that a zip archive's end states for its list of members; 0 where it has no end."""
    size = stream.seek(0, SEEK_END)
    stream.seek(max(0, size - (1 << 16) - 22))
    end = stream.read()
    at = end.rfind(b"PK\x05\x06")
    stream.seek(0)
    if at < 0 or len(end) < at + 16:
        return 0
    (stated,) = struct.unpack_from("<L", end, at + 12)
    wide = end.rfind(b"PK\x06\x06", 0, at)  # Zip64
    if stated == 0xFFFFFFFF and wide >= 0 and len(end) >= wide + 48:
        (stated,) = struct.unpack_from("<Q", end, wide + 40)
    return int(min(stated, size))


# --- tar --------------------------------------------------------------------------------------


def _tar_members(stream: BinaryIO, allowance: Allowance) -> list[Member]:
    members = []
    for found in list_tar(stream):
        if not found.is_folder:
            members.append(_tar_member(stream, found))
            allowance.take_members(1)
    return members


def _tar_member(stream: BinaryIO, found: TarMember) -> Member:
    name, refusal = _safe_name(found.name)
    skipped = None
    if found.kind in b"12346":
        skipped = "link in an archive" if found.kind in b"12" else "device in an archive"
    elif found.is_sparse:
        refusal = refusal or Refused("MEDIA_UNSUPPORTED", kind="sparse file of a tar archive")
    elif found.broken:
        refusal = refusal or Refused("ARCHIVE_INVALID")
    return Member(name, lambda: open_part(stream, found.start, found.length), found.length, refusal, skipped)
