"""Lines of a stream, none of them longer in memory than it may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

PIECE = 1 << 20


class HasLines(Protocol):
    """What is read line by line."""

    def readline(self, limit: int, /) -> bytes:
        """Returns a line with its end, or its first ``limit`` bytes."""
        ...


def bounded_lines(stream: HasLines, limit: int) -> Iterator[bytes | None]:
    """Yields the lines of a stream; ``None`` for one of more than ``limit`` bytes, which is never held whole."""
    while line := stream.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        del line
        while (rest := stream.readline(PIECE)) and not rest.endswith(b"\n"):
            pass
        yield None
