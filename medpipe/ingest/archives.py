"""Archives are transparent: each member of a .zip, .gz or .tar is read like a file, and nothing is written to disk.

A member's records are named ``member!record``; what gzip packs is one file, whose records keep their names. Which
files are archives is told by their content. Members are read as they unpack, and how much they unpack to is bounded by
the size of the file that holds them, so that a hostile archive costs no more than a large honest one:

- all members together up to ``RATIO`` times that size, each up to ``RATIO`` times what it takes in the archive (small
  ones are free), ``MAX_MEMBERS`` members, archives in archives ``MAX_DEPTH`` deep; members that overlap are refused;
- names that lead outside (``..``, absolute, a drive), encrypted members, and ways of packing other than deflate are
  refused for that member; links are not followed.

What is wrong with an archive shows while it is read: records that a reader had finished by then stay, and the member
ends as one reject. Members that a member names as its attachments (``Content.beside``) are no notes of their own;
documents that can name others are read first: JSON, then XML and other messages, then the rest.

Nested archives and packed tars are unpacked to a temporary file without a name (in memory while it is small): their
readers go back and forth.
"""

from __future__ import annotations

import errno
import gzip
import io
import posixpath
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO, cast
from urllib.parse import unquote

from medpipe.ids import hash_text
from medpipe.ingest.bodies import office_kind
from medpipe.ingest.ccda import xdm_role
from medpipe.ingest.content import Content, Refused
from medpipe.ingest.decoding import magic
from medpipe.ingest.notes import Reading
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
Read = Callable[[Content, Reading], Iterator[Item]]

MAX_DEPTH = 3
MAX_MEMBERS = 200_000
MAX_DIRECTORY = 32 << 20  # bytes of a zip archive's list of members
RATIO = 100  # text seldom packs better than 1 : 30
FREE_ALL = 256 << 20  # bytes that all members may unpack to, whatever the size of the archive
FREE_ONE = 64 << 20  # bytes that a member may unpack to, whatever it takes in the archive
IN_MEMORY = 32 << 20  # bytes of a nested archive; larger ones go to a temporary file
LONGEST_NAME = 120  # characters of a member's name that are kept whole
CHUNK = 1 << 18

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
        yield from read(_gunzipped(content, allowance), inner)
        return
    # The file of a run can be read back and forth; what unpacks while it is read cannot.
    with content.open() if outer is None else _spooled(content) as stream:
        members = _zip_members(stream, allowance) if kind == "zip" else _tar_members(stream)
        yield from _read_members(members, inner, read)
        allowance.check()


# --- limits -----------------------------------------------------------------------------------


class Allowance:
    """How much may still be unpacked of a file of the run; nested archives share it."""

    def __init__(self, size: int) -> None:
        self.limit = max(FREE_ALL, RATIO * size)
        self.bytes_left = [self.limit]  # shared, like the members left
        self.members_left = [MAX_MEMBERS]
        self.depth = 1

    def inside(self) -> Allowance:
        """Returns the allowance of an archive in this one.

        Raises:
            Refused: ARCHIVE_TOO_DEEP.
        """
        inner = Allowance(0)
        inner.limit, inner.bytes_left, inner.members_left = self.limit, self.bytes_left, self.members_left
        inner.depth = self.depth + 1
        if inner.depth > MAX_DEPTH:
            raise Refused("ARCHIVE_TOO_DEEP", limit=MAX_DEPTH)
        return inner

    def take(self, size: int) -> None:
        """Counts unpacked bytes.

        Raises:
            Refused: ARCHIVE_TOO_LARGE.
        """
        self.bytes_left[0] -= size
        self.check()

    def check(self) -> None:
        """Raises Refused (ARCHIVE_TOO_LARGE) where more was unpacked than may be."""
        if self.bytes_left[0] < 0:
            raise Refused("ARCHIVE_TOO_LARGE", limit=f"{self.limit >> 20} MiB")

    def take_members(self, count: int) -> None:
        """Counts members; raises Refused like ``take``."""
        self.members_left[0] -= count
        if self.members_left[0] < 0:
            raise Refused("ARCHIVE_TOO_LARGE", limit=f"{MAX_MEMBERS:,} members")


# What the modules raise on damaged archives. BadGzipFile is an OSError, but says nothing of the disk; RuntimeError is
# for a password, NotImplementedError for a way of packing, and the rest for broken headers.
DAMAGES = (
    zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError,
    OverflowError, struct.error,
)  # fmt: skip


def _of_archive(error: OSError) -> Exception:
    """Returns the refusal where a damaged archive made zipfile seek to a place before the file's beginning."""
    return Refused("ARCHIVE_INVALID") if error.errno == errno.EINVAL else error


class _Unpacking(io.RawIOBase):
    """A stream of what unpacks: it counts, it can seek (back by beginning again), and its errors are ``Refused``."""

    def __init__(
        self, unpack: Callable[[], io.BufferedIOBase], packed: int, allowance: Allowance, size: int | None
    ) -> None:
        super().__init__()
        self.unpack = unpack
        self.limit = max(FREE_ONE, RATIO * packed)
        self.allowance = allowance
        self.size = size
        self.stream: io.BufferedIOBase | None = None
        self.at = 0
        self.farthest = 0  # bytes counted so far

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        try:
            if self.stream is None:
                self.stream = self.unpack()
            # Not more than is counted before more is unpacked, and what there is before the damage.
            data = self.stream.read1(min(size, CHUNK))
        except DAMAGES as error:
            raise Refused("ARCHIVE_INVALID") from error
        except OSError as error:
            raise _of_archive(error) from error
        self.at += len(data)
        if self.at > self.farthest:
            new, self.farthest = self.at - self.farthest, self.at
            self.allowance.take(new)
            if self.farthest > self.limit:
                raise Refused("ARCHIVE_TOO_LARGE", limit=f"{self.limit >> 20} MiB a member")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            while self._read(CHUNK):
                pass
            offset += self.at
        elif whence == io.SEEK_CUR:
            offset += self.at
        if offset < self.at:
            self._begin_again()
        while self.at < offset and self._read(min(CHUNK, offset - self.at)):
            pass
        return self.at

    def _begin_again(self) -> None:
        """Begins at the first byte again; a reader that goes back gets a small member from memory."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        self.at = 0
        if self.size is not None and self.size <= IN_MEMORY:
            parts = []
            while part := self._read(CHUNK):
                parts.append(part)
            raw = b"".join(parts)
            self.unpack, self.stream, self.at = (lambda: io.BytesIO(raw)), None, 0

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        super().close()


def _buffered(stream: _Unpacking) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(stream, CHUNK))


class _Gunzip(gzip.GzipFile):
    """Closes the packed stream too."""

    def close(self) -> None:
        packed = getattr(self, "fileobj", None)
        super().close()
        if packed is not None:
            packed.close()


def _gunzipped(content: Content, allowance: Allowance) -> Content:
    """Returns what gzip packed, under its name without ``.gz``."""
    name = re.sub(r"\.tgz$", ".tar", re.sub(r"\.g?z$", "", content.name, flags=re.IGNORECASE), flags=re.IGNORECASE)

    def unpack() -> io.BufferedIOBase:
        return _Gunzip(fileobj=content.open())

    packed = content.size or 0
    return Content(name, lambda: _buffered(_Unpacking(unpack, packed, allowance, None)), None, content.beside)


def _spooled(content: Content) -> BinaryIO:
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (the caller closes it)
    try:
        with content.open() as stream:
            while part := stream.read(CHUNK):
                file.write(part)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


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

    order = sorted(
        range(len(members)), key=lambda index: FIRST.get(posixpath.splitext(members[index].name)[1].lower(), 2)
    )
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
        raise _of_archive(error) from error
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

    def unpack() -> io.BufferedIOBase:
        return cast(io.BufferedIOBase, archive.open(info))

    def opened() -> BinaryIO:
        return _buffered(_Unpacking(unpack, info.compress_size, allowance, info.file_size))

    return Member(name, opened, info.file_size, refusal, skipped)


def _directory_size(stream: BinaryIO) -> int:
    """Returns the size that a zip archive's end states for its list of members; 0 where it has no end."""
    size = stream.seek(0, io.SEEK_END)
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


# --- tar (POSIX.1-2001 ustar and pax, and GNU's long names) -------------------------------------

BLOCK = 512
LONGEST_HEADER = 1 << 20  # bytes of a pax header or a long name


def _tar_members(stream: BinaryIO) -> list[Member]:
    """Lists a tar archive; what it holds is as long as it says, or it breaks off."""
    size = stream.seek(0, io.SEEK_END)
    members: list[Member] = []
    at = 0
    extra: dict[str, str] = {}
    while at + BLOCK <= size:
        stream.seek(at)
        head = stream.read(BLOCK)
        if not head.strip(b"\0"):
            break
        length = _tar_number(head[124:136]) if _tar_sum(head) else -1
        kind = head[156:157]
        if length < 0:
            raise Refused("ARCHIVE_INVALID")
        start = at + BLOCK
        if kind in (b"x", b"L", b"K", b"g"):
            if kind in (b"x", b"L"):
                extra |= _tar_extra(kind, stream.read(min(length, LONGEST_HEADER)))
            at = start + -(-length // BLOCK) * BLOCK
            continue
        if re.fullmatch(r"\d{1,18}", extra.get("size", "")):
            length = int(extra["size"])
        name = extra.get("path") or _tar_name(head)
        if member := _tar_member(stream, name, kind, start, length, extra, broken=start + length > size):
            members.append(member)
        if len(members) > MAX_MEMBERS:
            raise Refused("ARCHIVE_TOO_LARGE", limit=f"{MAX_MEMBERS:,} members")
        extra = {}
        at = start + (-(-length // BLOCK) * BLOCK if kind not in b"123456" else 0)
    return members


def _tar_member(
    stream: BinaryIO, written: str, kind: bytes, start: int, length: int, extra: Mapping[str, str], *, broken: bool
) -> Member | None:
    if kind == b"5" or (kind in (b"0", b"\0") and written.endswith("/")):
        return None
    name, refusal = _safe_name(written)
    skipped = None
    if kind in b"12346":
        skipped = "link in an archive" if kind in b"12" else "device in an archive"
    elif kind == b"S" or any(key.startswith("GNU.sparse") for key in extra):
        refusal = refusal or Refused("MEDIA_UNSUPPORTED", kind="sparse file of a tar archive")
    elif broken:
        refusal = refusal or Refused("ARCHIVE_INVALID")
    return Member(name, lambda: _buffered_slice(stream, start, length), length, refusal, skipped)


class _Slice(io.RawIOBase):
    """A part of a file that others read too."""

    def __init__(self, stream: BinaryIO, start: int, length: int) -> None:
        super().__init__()
        self.stream, self.start, self.length, self.at = stream, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.stream.seek(self.start + self.at)
        data = self.stream.read(max(0, min(len(buffer), self.length - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence])
        return self.at

    def tell(self) -> int:
        return self.at


def _buffered_slice(stream: BinaryIO, start: int, length: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Slice(stream, start, length), CHUNK))


def _tar_sum(head: bytes) -> bool:
    """Says whether a header's sum is right; it is over the header with blanks in place of the sum."""
    return _tar_number(head[148:156]) == sum(head) - sum(head[148:156]) + 8 * ord(" ")


def _tar_number(raw: bytes) -> int:
    """Returns an octal number, or one in base 256 (GNU); -1 for none."""
    if raw[:1] == b"\x80":
        return int.from_bytes(raw[1:])
    digits = raw.strip(b" \0").partition(b"\0")[0].strip()
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else -1


def _tar_name(head: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (head[:100], head[345:500]))
    ustar = head[257:263] == b"ustar\0"  # GNU's own format has other things in the place of the prefix
    return (prefix + b"/" + name if prefix and ustar else name).decode("utf-8", "replace")


def _tar_extra(kind: bytes, raw: bytes) -> dict[str, str]:
    """Returns what a header before a member's own says of it: ``length key=value`` lines, or a long name."""
    if kind == b"L":
        return {"path": raw.partition(b"\0")[0].decode("utf-8", "replace")}
    found: dict[str, str] = {}
    at = 0
    while match := re.compile(rb"(\d{1,7}) ([^=]{1,100})=").match(raw, at):
        length = int(match[1])
        value = raw[match.end() : at + length - 1]
        found[match[2].decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        if length <= match.end() - at:
            break
        at += length
    return found
