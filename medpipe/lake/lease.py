"""A lock on an object store, which frees no lock of a process that is killed: one that has to be renewed.

The lock is an object that only one can make (a conditional PUT), and that its owner writes anew several times a lease.
Who waits looks on: content that did not change for a whole lease, by the clock of whoever looks, belongs to nobody any
more. No clock is compared with another's.

It keeps two from doing the same work. It is no promise: a process that was stopped for longer than a lease wakes up
believing it has the lock. What is published does not depend on it (``commit``).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from medpipe.errors import MedpipeError
from medpipe.storage import StorePath

LEASE_SECONDS = 20.0
POLL_SECONDS = 0.2

log = logging.getLogger(__name__)

_proven: set[str] = set()  # buckets that keep the condition of a PUT


@contextmanager
def leased(path: StorePath, busy: MedpipeError, *, wait: float) -> Iterator[bool]:
    """Holds the lock; gives whether it had to wait.

    Raises:
        MedpipeError: ``busy`` after ``wait`` seconds; STORE_UNFIT, STORE_REFUSED, STORE_UNREACHABLE.
    """
    owner = uuid4().hex
    waited = _acquire(path, owner, busy, wait)
    _prove(path)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, owner, stop), daemon=True)
    renewing.start()
    try:
        yield waited
    finally:
        stop.set()
        renewing.join()
        with suppress(MedpipeError):  # not freed, it frees itself
            if _owner(path) == owner:
                path.unlink(missing_ok=True)


def _acquire(path: StorePath, owner: str, busy: MedpipeError, wait: float) -> bool:
    deadline = time.monotonic() + wait
    seen: bytes | None = None
    since = 0.0
    waited = False
    while not path.create(_content(owner, 0)):
        content = _read(path)
        if content != seen:
            seen, since = content, time.monotonic()
        elif content is not None and time.monotonic() - since > LEASE_SECONDS:
            path.unlink(missing_ok=True)  # whoever is first makes it anew
            continue
        if time.monotonic() > deadline:
            raise busy
        waited = True
        time.sleep(POLL_SECONDS)
    return waited


def _prove(path: StorePath) -> None:
    """Finds out, once a process, whether the store keeps what it was asked: not to replace an object that is there.

    Raises:
        MedpipeError: STORE_UNFIT where it does not; two publishes could then be decided at the same time.
    """
    bucket = f"{path.protocol}://{path.key.split('/')[0]}"
    if bucket in _proven:
        return
    if path.create(_content("probe", 0)):
        path.unlink(missing_ok=True)
        raise MedpipeError("STORE_UNFIT", path=bucket)
    _proven.add(bucket)


def _renew(path: StorePath, owner: str, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(LEASE_SECONDS / 4):
        beat += 1
        with suppress(MedpipeError):  # tried again at the next beat
            if _owner(path) != owner:
                log.warning("the lock %s was taken over: this process was stopped for longer than a lease", path.name)
                return
            path.write_bytes(_content(owner, beat))


def _content(owner: str, beat: int) -> bytes:
    return json.dumps({"owner": owner, "beat": beat}).encode()


def _read(path: StorePath) -> bytes | None:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _owner(path: StorePath) -> str | None:
    content = _read(path)
    return str(json.loads(content)["owner"]) if content else None
