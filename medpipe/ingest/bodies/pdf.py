"""PDF to text, in a process that a hostile file can neither hang nor fill.

No PDF library bounds everything that a PDF can ask for: forms that draw forms, fonts and tables that unpack to
gigabytes, loops in damaged cross-references. So the text is read (``medpipe.ingest.bodies.pdf_page``) by a second
process, which is started with the first PDF and kept for the others, with a limit of memory and of processor time for
each page and each file, and which the kernel ends where it takes more. It gets bytes and gives text; it opens no file.

The limit of memory holds on Linux; macOS does not enforce it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import medpipe

PAGE_SECONDS = 2  # a page of text takes a tenth of one
COMMAND = "from medpipe.ingest.bodies.pdf_page import serve; serve()"


class _Worker:
    """The process, and who may talk to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0  # process that started it: a forked one must not talk to its parent's

    def ask(self, raw: bytes, limit: int, seconds: int) -> tuple[str, str]:
        """Returns an answer: its first line, which names an error, and the text."""
        with self.lock:
            process = self._process()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(b"".join(number.to_bytes(8) for number in (limit, seconds, len(raw))))
                process.stdin.write(raw)
                process.stdin.flush()
                size = process.stdout.read(8)
                answer = process.stdout.read(int.from_bytes(size)) if len(size) == 8 else b""
                if len(size) == 8 and len(answer) == int.from_bytes(size):
                    head, _, text = answer.decode().partition("\n")
                    return head, text
            except BrokenPipeError:
                pass
            return self._died(process), ""

    def _process(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            # Isolated from the folder it runs in; it finds what this process finds.
            places = [str(Path(medpipe.__file__).parent.parent), *(place for place in sys.path if place)]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # warnings of the library may quote the file
                env=os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))},
            )
            self.owner = os.getpid()
        return self.process

    def _died(self, process: subprocess.Popen[bytes]) -> str:
        self.close()
        return "PDF_INVALID " + ("it takes too long" if process.returncode == -signal.SIGXCPU else "its reader ended")

    def close(self) -> None:
        """Ends the process, which ends by itself where its input does."""
        process, self.process = self.process, None
        if process is None or self.owner != os.getpid():
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()


_WORKER = _Worker()
atexit.register(_WORKER.close)


def read_pdf(raw: bytes, limit: int, seconds: int = PAGE_SECONDS) -> tuple[str, str | None, str]:
    """Returns the text of a PDF, the code of an error, and what the error is about.

    Args:
        raw: the file.
        limit: characters that are wanted at most; a file with more is read a page further.
        seconds: of processor time, to open the file and for each page.
    """
    head, text = _WORKER.ask(raw, limit, seconds)
    code, _, kind = head.partition(" ")
    return text, code or None, kind
