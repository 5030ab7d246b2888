"""Where a warehouse or a landing folder may lie: a local path, or a URL of an object store (s3://, gs://, abfs://).

``as_location`` makes a path of either. A path on a store has that part of pathlib's interface which the house uses,
over fsspec's file systems (s3fs, gcsfs, adlfs: the extras ``s3``, ``gs``, ``abfs``), with three differences from the
general path classes there are: what a store did not answer is an error and never "not there"; nothing that was listed
is remembered, since others write, too; no path carries credentials, so none can be printed.

Credentials come from where each library looks for them (``AWS_*``, ``GOOGLE_APPLICATION_CREDENTIALS``,
``AZURE_STORAGE_*``), or from ``set_credentials``.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any

from medpipe.errors import MedpipeError

# Protocol -> package and extra that it needs. Objects in memory are for tests: they end with the process.
PROTOCOLS = {
    "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs"),
    "abfs": ("adlfs", "abfs"), "abfss": ("adlfs", "abfs"), "az": ("adlfs", "abfs"), "memory": ("fsspec", "s3"),
}  # fmt: skip
BLOCK_BYTES = 4 << 20  # what is fetched at a time of an object that is read in part
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "requests", "urllib3")

_filesystems: dict[tuple[int, str], Any] = {}  # by process: a client does not outlive a fork


def is_url(text: str) -> bool:
    """Says whether a text names a place by its URL."""
    return "://" in text


def as_location(place: str | Path | StorePath) -> Path:
    """Returns a local path, or a ``StorePath``, which is a path as far as the house goes.

    Raises:
        ValueError: where it is neither text nor a path.
        MedpipeError: SETTING_INVALID where the URL's protocol is none of ours; EXTRA_MISSING.
    """
    if isinstance(place, Path | StorePath):
        return place  # type: ignore[return-value]
    if not isinstance(place, str):
        raise ValueError("it is no path")
    if not is_url(place):
        return Path(place)
    protocol, _, key = place.partition("://")
    if protocol == "file":
        return Path(key)
    return StorePath(protocol, key)  # type: ignore[return-value]


def as_store(path: object) -> StorePath | None:
    """Returns a path on a store as what it is; ``None`` for a local one."""
    return path if isinstance(path, StorePath) else None


def on_store(path: object) -> StorePath:
    """Returns a path on a store as what it is, where nothing else can be."""
    assert isinstance(path, StorePath)
    return path


@contextmanager
def store_faults(path: object) -> Iterator[None]:
    """Turns what a store or its client refuses into STORE_REFUSED or STORE_UNREACHABLE."""
    try:
        yield
    except (MedpipeError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        refused, reason = _judge(error)
        if reason is None:
            raise
        raise MedpipeError("STORE_REFUSED" if refused else "STORE_UNREACHABLE", path=path, reason=reason) from None


def _judge(error: Exception) -> tuple[bool, str | None]:
    """Returns whether an error is about credentials, and its kind; no kind where it is of no store.

    Its message is not passed on: it may hold a signed address.
    """
    kind = type(error).__name__
    if kind == "FileExpired":  # the object was replaced while it was read
        return False, None
    cause = error if _is_clients(error) else error.__cause__
    told = getattr(cause, "response", None)
    code = str(told.get("Error", {}).get("Code", kind)) if isinstance(told, dict) else kind  # of botocore
    status = getattr(error, "code", None) or getattr(error, "status_code", None)  # of gcsfs, of azure
    if (
        isinstance(error, PermissionError)
        or status in (401, 403)
        or (isinstance(error, OSError) and str(error).startswith("Forbidden"))  # of gcsfs
        or (_is_clients(error) and ("Credential" in kind or "Auth" in kind))
    ):
        return True, code
    down = isinstance(error, ConnectionError | TimeoutError) or _is_clients(error)
    return False, code if down or (isinstance(error, OSError) and _is_clients(cause)) else None


def _is_clients(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in CLIENTS


def set_credentials(protocol: str, options: Mapping[str, Any]) -> None:
    """Lets this process use options of fsspec's file system for all paths of a protocol."""
    from fsspec.config import conf

    conf[protocol] = dict(conf.get(protocol, {})) | dict(options)
    _filesystems.clear()


class StorePath:
    """A path of an object store. A folder is no more than a beginning that names of objects share.

    Every method that asks the store raises MedpipeError STORE_REFUSED or STORE_UNREACHABLE where it gives no answer.
    """

    __slots__ = ("key", "protocol")

    def __init__(self, protocol: str, key: str) -> None:
        if protocol not in PROTOCOLS:
            known = ", ".join(f"{name}://" for name in PROTOCOLS if name != "memory")
            raise MedpipeError("SETTING_INVALID", name="location", reason=f"{protocol}:// is none of {known}")
        self.protocol = protocol
        self.key = posixpath.normpath(key).strip("/")

    # --- the name -----------------------------------------------------------------------------

    def __str__(self) -> str:
        return f"{self.protocol}://{self.key}"

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: StorePath) -> bool:
        return str(self) < str(other)

    def __truediv__(self, part: str | PurePosixPath) -> StorePath:
        return StorePath(self.protocol, f"{self.key}/{part}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The suffix of the last part."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> StorePath:
        """The folder."""
        return StorePath(self.protocol, posixpath.dirname(self.key))

    @property
    def parents(self) -> list[StorePath]:
        """The folder, its folder, and so on to the bucket."""
        return [StorePath(self.protocol, str(place)) for place in PurePosixPath(self.key).parents if str(place) != "."]

    def with_name(self, name: str) -> StorePath:
        """Returns the path with another last part."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> StorePath:
        """Returns the path with another suffix."""
        return self.parent / (self.stem + suffix)

    def relative_to(self, other: StorePath) -> PurePosixPath:
        """Returns the path below another."""
        return PurePosixPath(self.key).relative_to(other.key)

    def resolve(self) -> StorePath:
        """Returns the path: it is absolute."""
        return self

    # --- the store ----------------------------------------------------------------------------

    @property
    def fs(self) -> Any:
        """The fsspec file system.

        Raises:
            MedpipeError: EXTRA_MISSING.
        """
        known = _filesystems.get((os.getpid(), self.protocol))
        if known is None:
            import fsspec

            package, extra = PROTOCOLS[self.protocol]
            options = {"default_block_size": BLOCK_BYTES} if extra == "s3" and package == "s3fs" else {}
            try:
                with store_faults(self):
                    known = fsspec.filesystem(self.protocol, use_listings_cache=False, **options)
            except ImportError as error:
                raise MedpipeError("EXTRA_MISSING", package=package, extra=extra) from error
            _filesystems[os.getpid(), self.protocol] = known
        return known

    def info(self) -> dict[str, Any] | None:
        """Returns what the store says of the object or folder; ``None`` where there is none."""
        try:
            with store_faults(self):
                return dict(self.fs.info(self.key))
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Says whether there is an object, or one in the folder."""
        return self.info() is not None

    def is_file(self) -> bool:
        """Says whether there is an object of the name."""
        found = self.info()
        return found is not None and found["type"] == "file"

    def is_dir(self) -> bool:
        """Says whether there is an object in the folder."""
        found = self.info()
        return found is not None and found["type"] == "directory"

    def stat(self) -> SimpleNamespace:
        """Returns ``st_size``, the bytes of the object, and ``st_mtime``, when it was made by the store's clock."""
        found = self.info()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        made = self.modified() if found["type"] == "file" else None
        return SimpleNamespace(st_size=int(found["size"] or 0), st_mtime=made.timestamp() if made else 0.0)

    def version(self) -> str | None:
        """Returns what the store calls the object's content (its ETag); ``None`` where it has no name for it."""
        found = self.info() or {}
        tag = next((found[name] for name in ("ETag", "etag", "md5Hash") if found.get(name)), None)
        return f"{str(tag).strip(chr(34))}-{found['size']}" if tag is not None else None

    def modified(self) -> datetime | None:
        """Returns when the object was made, by the store's clock; ``None`` where it does not tell, or it is gone."""
        with suppress(NotImplementedError, FileNotFoundError), store_faults(self):
            made: datetime = self.fs.modified(self.key)
            return made
        return None

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there with the first object in it."""

    def objects(self) -> list[str]:
        """Returns the keys of all objects below the path."""
        try:
            with store_faults(self):
                return sorted(self.fs.find(self.key))
        except FileNotFoundError:
            return []

    def iterdir(self) -> Iterator[StorePath]:
        """Yields the objects and folders in the folder."""
        try:
            with store_faults(self):
                keys = [key.strip("/") for key in self.fs.ls(self.key, detail=False)]
        except FileNotFoundError:
            return
        yield from (StorePath(self.protocol, key) for key in sorted(keys) if key != self.key)

    def glob(self, pattern: str) -> list[StorePath]:
        """Returns the objects and folders whose path below this one has the pattern's parts; ``**`` is any folders."""
        wanted = pattern.strip("/").split("/")
        if "**" in wanted:
            below = [key.strip("/")[len(self.key) :].strip("/") for key in self.objects()]
            return [self / name for name in sorted(below) if _matches(name.split("/"), wanted)]
        places = {self}
        for part in wanted:
            if any(char in part for char in "*?["):
                places = {one for place in places for one in place.iterdir() if fnmatchcase(one.name, part)}
            else:
                places = {place / part for place in places}
                if part == wanted[-1]:
                    places = {place for place in places if place.exists()}
        return sorted(places)

    def rglob(self, pattern: str) -> list[StorePath]:
        """Returns the objects anywhere below whose name has the pattern."""
        return self.glob(f"**/{pattern}")

    def open(self, mode: str = "rb", buffering: int = BLOCK_BYTES, **options: Any) -> IO[Any]:
        """Opens the object for reading; what is read changes nowhere while it is read, or reading raises OSError."""
        with store_faults(self):
            stream: IO[Any] = self.fs.open(self.key, mode, block_size=max(buffering, 1 << 16), **options)
        return stream

    def read_bytes(self) -> bytes:
        """Returns the whole object, as it was at one instant."""
        # In one request: pieces that are fetched at the same time may be of two versions of the object.
        options = {"max_concurrency": 1} if PROTOCOLS[self.protocol][0] == "s3fs" else {}
        with store_faults(self):
            return bytes(self.fs.cat_file(self.key, **options))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the whole object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Makes or replaces the object, at once."""
        with store_faults(self), bucket_missing(self):
            self.fs.pipe_file(self.key, content)

    def create(self, content: bytes) -> bool:
        """Makes the object if there is none, at once, and says whether it did. No two callers make the same object.

        ``content`` must differ from what others write: a request whose answer was lost is sent again by the client,
        and then only the content tells whose object it is.
        """
        with store_faults(self), bucket_missing(self):
            try:
                self.fs.pipe_file(self.key, content, mode="create")
                return True
            except FileExistsError:
                pass
            except OSError as error:  # s3fs: 412 is EINVAL, 409 (another is making it) EBUSY
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise
        with suppress(FileNotFoundError):
            return self.read_bytes() == content
        return False

    def upload(self, local: Path) -> None:
        """Makes or replaces the object with a local file, at once: readers see the old or the new."""
        with store_faults(self), bucket_missing(self):
            self.fs.put_file(str(local), self.key)

    def download(self, local: Path) -> None:
        """Writes the object to a local file."""
        with store_faults(self):
            self.fs.get_file(self.key, str(local))

    def copy_to(self, other: StorePath) -> None:
        """Copies the object within the store, at once, over whatever is there."""
        with store_faults(self):
            self.fs.cp_file(self.key, other.key)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            with store_faults(self):
                self.fs.rm_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Removes all objects below the path."""
        keys = self.objects()
        with suppress(FileNotFoundError), store_faults(self):
            if keys:
                self.fs.rm(keys)


@contextmanager
def bucket_missing(path: StorePath) -> Iterator[None]:
    """A store that has no place to write to is none: buckets are made by people, not by a run."""
    try:
        yield
    except FileNotFoundError:
        raise MedpipeError("STORE_UNREACHABLE", path=path, reason="no such bucket") from None


def _matches(parts: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[skipped:], wanted[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
