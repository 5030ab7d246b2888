"""Ids are hashes of what a row means, so that the same input gives the same ids on any machine.

An id is the first 128 bits of BLAKE2b (RFC 7693) over its parts, each with its length before it, so
that no two lists of parts can run together; written as 32 hexadecimal digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

ID_LENGTH = 32  # hexadecimal digits


def make_id(kind: str, *parts: str | int | None) -> str:
    """Returns the id of a row of ``kind`` ("document", "entity", …) made of ``parts``.

    ``None`` differs from the empty string; an integer equals its decimal form.
    """
    digest = blake2b(kind.encode(), digest_size=16)
    for part in parts:
        raw = b"\xff" if part is None else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def make_ids(kind: str, *columns: pa.Array | str | int) -> pa.StringArray:
    """Returns ``make_id(kind, *row)`` for every row of some columns: strings, integers, or one value for all rows.

    What is hashed is put together by Arrow, as one column; then the hash is the only Python object of a row.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    size = next(len(column) for column in columns if not isinstance(column, str | int))
    pieces = [pa.scalar(kind.encode(), pa.binary())]
    for column in columns:
        if isinstance(column, str | int):
            raw = str(column).encode("utf-8", "surrogatepass")
            pieces.append(pa.scalar(len(raw).to_bytes(8, "little") + raw, pa.binary()))
            continue
        raw = pc.fill_null(column.cast(pa.string()).cast(pa.binary()), b"\xff")
        lengths = pc.binary_length(raw).to_numpy().astype("<i8")
        length = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), size, [None, pa.py_buffer(lengths)])
        pieces += [length.cast(pa.binary()), raw]
    rows = pc.binary_join_element_wise(*pieces, b"")
    content = memoryview(rows.buffers()[2] or b"")
    limits = np.frombuffer(rows.buffers()[1], dtype=np.int32)[: size + 1].tolist()
    digests = b"".join([blake2b(content[first:last], digest_size=16).digest() for first, last in pairwise(limits)])
    offsets = np.arange(size + 1, dtype=np.int32) * ID_LENGTH
    return pa.StringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(digests.hex().encode()))


def entity_id(document_id: str, weights_hash: str, start: int, end: int, label: str, fragments: Iterable[int]) -> str:
    """Returns the id of an entity; ``fragments`` are the starts and ends of its parts, of a discontinuous one."""
    return make_id("entity", document_id, weights_hash, start, end, label, *fragments)


def relation_id(document_id: str, weights_hash: str, kind: str, head_entity_id: str, tail_entity_id: str) -> str:
    """Returns the id of a relation of type ``kind`` between two entities."""
    return make_id("relation", document_id, weights_hash, kind, head_entity_id, tail_entity_id)


def summary_id(document_id: str, weights_hash: str) -> str:
    """Returns the id of a document's summary."""
    return make_id("summary", document_id, weights_hash)


def hash_text(text: str) -> str:
    """Returns the hash of a note's text (``documents.text_hash``)."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def hash_file(path: str) -> str:
    """Returns the hash of a file's bytes, read in pieces of 1 MiB."""
    digest = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
