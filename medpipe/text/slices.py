"""Slices of many texts as one column of Arrow, without a Python string for each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def slice_texts(texts: pa.StringArray, number: np.ndarray, start: np.ndarray, end: np.ndarray) -> pa.StringArray:
    """Returns ``texts[number[i]][start[i]:end[i]]`` for every ``i``.

    Args:
        texts: UTF-8 without nulls.
        number: shape: (slices,), int64; of which text each is.
        start: shape: (slices,), int64, code points.
        end: shape: (slices,), int64; half-open, within the text.
    """
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    first, last = (int(offsets[0]), int(offsets[-1])) if len(texts) else (0, 0)
    content = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[first:last]
    lengths = pc.utf8_length(texts).to_numpy()
    bases = np.append(0, np.cumsum(lengths, dtype=np.int64))[number]  # code points before each slice's text
    low, high = bases + start, bases + end
    if int(lengths.sum()) != len(content):  # not all is ASCII: a code point begins where no byte goes on
        places = np.append(np.flatnonzero((content & 0xC0) != 0x80), len(content))
        low, high = places[low], places[high]
    limits = np.append(0, np.cumsum(high - low))
    taken = content[np.arange(limits[-1]) + np.repeat(low - limits[:-1], high - low)]
    return pa.StringArray.from_buffers(len(number), pa.py_buffer(limits.astype(np.int32)), pa.py_buffer(taken))
