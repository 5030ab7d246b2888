"""Sorted files into one sorted stream, with flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc


class Run:
    """A sorted stream of tables: what was read of it and not yet given out."""

    def __init__(self, tables: Iterator[pa.Table], key: str) -> None:
        self.tables = tables
        self.key = key
        self.rows: pa.Table | None = None
        self.exhausted = False
        self.last = ""  # the highest key that was read; the stream may hold more rows with it
        self.extend()

    def extend(self) -> None:
        """Reads on; empty tables are passed over."""
        for table in self.tables:
            if len(table):
                self.rows = table if self.rows is None or not len(self.rows) else pa.concat_tables([self.rows, table])
                self.last = table[self.key][-1].as_py()
                return
        self.exhausted = True

    def take_below(self, bound: str | None) -> pa.Table | None:
        """Gives out the rows with keys below ``bound``, or all there are."""
        if self.rows is None or not len(self.rows):
            return None
        # The keys are sorted, so what is below the bound is a prefix.
        count = len(self.rows) if bound is None else pc.sum(pc.less(self.rows[self.key], bound)).as_py()
        taken, self.rows = self.rows.slice(0, count), self.rows.slice(count)
        return taken if count else None


def align_sorted(streams: Sequence[Iterator[pa.Table]], key: str) -> Iterator[list[pa.Table | None]]:
    """Yields the rows of all streams side by side: for each stream those of one interval of keys, or ``None``.

    Each stream is sorted by ``key``, and all rows of one key come out together. Held at a time: one table a stream,
    and the rows of one key.
    """
    runs = [Run(stream, key) for stream in streams]
    while True:
        reading = [run for run in runs if not run.exhausted]
        bound = min((run.last for run in reading), default=None)
        parts = [run.take_below(bound) for run in runs]
        if any(part is not None for part in parts):
            yield parts
        if bound is None:
            return
        for run in reading:  # what is left of it may be one key that goes on in the next table
            if run.last == bound:
                run.extend()


def merge_sorted(streams: Sequence[Iterator[pa.Table]], order: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the rows of all streams, sorted by the columns of ``order``; see ``align_sorted``, by the first."""
    for parts in align_sorted(streams, order[0]):
        rows = pa.concat_tables([part for part in parts if part is not None])
        yield rows.sort_by([(name, "ascending") for name in order])
