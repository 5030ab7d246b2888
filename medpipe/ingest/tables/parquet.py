"""Rows out of Parquet files that others wrote: row groups in batches, only the columns that are needed.

Any flat column is read as the text that it stands for (dates and times in ISO 8601, times with a zone in UTC). What is
nested has no text. A damaged row group costs its remaining rows, the next one is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medpipe.ingest.content import Content, Refused
from medpipe.ingest.tables.delimited import Row

# Rows that are unpacked at a time. A dictionary may hold one long text for all rows of a batch, and nothing tells how
# long it is before it is unpacked, but that it is not longer than its row group. (What the footer says of a column is
# not asked for: pyarrow ends the process where that is damaged.)
BATCH_BYTES = 256 << 20
LEAST_BATCH_ROWS, MOST_BATCH_ROWS = 16, 1024
# More than any table of notes unpacks to: what a few bytes repeat without end is refused.
MOST_ROWS_A_BYTE = 64
MOST_CHARS_A_BYTE = 2_000
MOST_UNPACKED = 1_000  # times the bytes of the file
TOO_MUCH = "it unpacks to more than its size allows"
# What pyarrow raises for bad files; an OSError with a number is one of the system.
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError, OverflowError, RuntimeError)


def open_parquet(content: Content) -> tuple[tuple[str, ...], pa.Schema]:
    """Returns the names of a Parquet file's columns, and their types.

    Raises:
        Refused: TABLE_INVALID.
    """
    with content.open() as stream:
        try:
            schema = pq.ParquetFile(stream).schema_arrow
        except DAMAGE as error:
            raise _damaged(error) from error
    return tuple(str(name) for name in schema.names), schema


def read_parquet(content: Content, places: Sequence[int], texts: Sequence[int]) -> Iterator[Row]:
    """Yields the rows of a Parquet file, with values in the columns ``places`` alone; ``texts`` of them are long.

    Raises:
        Refused: TABLE_INVALID where the file or a column cannot be read at all.
    """
    names, schema = open_parquet(content)
    for place in texts:
        if pa.types.is_nested(_plain_type(schema.field(place).type)):
            raise Refused("TABLE_INVALID", where=f"column {place + 1} is nested")
    flat = [place for place, field in enumerate(schema) if not pa.types.is_nested(_plain_type(field.type))]
    wanted = sorted(set(places) & set(flat)) or flat[:1]
    if not wanted:
        raise Refused("TABLE_INVALID", where="all columns are nested")
    with content.open() as stream:
        try:
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            size = content.size or stream.seek(0, 2)
            first = rows = chars = 0
        except DAMAGE as error:
            raise _damaged(error) from error
        for index, group in enumerate(groups):
            done = 0
            try:
                unpacked = group.total_byte_size
                if unpacked > BATCH_BYTES // 4 and unpacked > MOST_UNPACKED * size:
                    done += 1
                    yield Row(first + done, None, f"row {first + done}: {TOO_MUCH}")
                    continue
                batch_rows = min(MOST_BATCH_ROWS, max(LEAST_BATCH_ROWS, BATCH_BYTES // max(1, unpacked)))
                batches = file.iter_batches(batch_rows, [index], [names[place] for place in wanted], use_threads=False)
                for batch in batches:
                    rows += batch.num_rows
                    for values in _values(batch, names, wanted, texts):
                        done += 1
                        chars += sum(len(values[place] or "") for place in texts)
                        if chars > MOST_CHARS_A_BYTE * size + (64 << 20) or rows > MOST_ROWS_A_BYTE * size + 10_000:
                            yield Row(first + done, None, f"row {first + done}: {TOO_MUCH}")
                            return
                        yield Row(first + done, values)
                if done < group.num_rows:
                    done += 1
                    yield Row(first + done, None, f"row {first + done}: the rest of its row group is missing")
            except DAMAGE as error:
                _raise_if_of_the_system(error)
                done += 1
                yield Row(first + done, None, f"row {first + done}: the rest of its row group is damaged")
            finally:
                first += max(done, group.num_rows)


def _values(
    batch: pa.RecordBatch, names: Sequence[str], wanted: Sequence[int], texts: Sequence[int]
) -> Iterator[list[str | None]]:
    """Yields the rows of a batch as texts."""
    cells: list[tuple[int, Any]] = []
    for place in wanted:
        column = batch.column(batch.schema.get_all_field_indices(names[place])[0])
        cells.append((place, _long(column) if place in texts else _short(column)))
    for _ in range(batch.num_rows):
        values: list[str | None] = [None] * len(names)
        for place, column in cells:
            values[place] = next(column)
        yield values


def _long(column: pa.Array) -> Iterator[str | None]:
    """Yields the texts of a column one at a time, so that only one of them is a Python object."""
    kind = _plain_type(column.type)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind)):
        yield from _short(column)
        return
    for scalar in column:
        if isinstance(scalar, pa.DictionaryScalar):
            scalar = scalar.value if scalar.is_valid else None
        buffer = scalar.as_buffer() if scalar is not None and scalar.is_valid else None
        if buffer is None:
            yield None
            continue
        # Bytes that are no UTF-8 are kept apart, as in delimited text.
        yield buffer.to_pybytes().decode("utf-8", "surrogateescape")


def _short(column: pa.Array) -> Iterator[str | None]:
    """Yields the values of a column as texts."""
    kind = _plain_type(column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(kind):
        if kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC"))
        written = column.cast(pa.string()).to_pylist()
        yield from (value and re.sub(r"\.0+(?=Z?$)", "", value) for value in written)
    elif _is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (
            value and value.decode("utf-8", "surrogateescape") for value in column.cast(pa.large_binary()).to_pylist()
        )
    else:
        yield from column.cast(pa.string()).to_pylist()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _damaged(error: BaseException) -> Refused:
    _raise_if_of_the_system(error)
    return Refused("TABLE_INVALID", where="the Parquet file is damaged")


def _raise_if_of_the_system(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno is not None:
        raise error
