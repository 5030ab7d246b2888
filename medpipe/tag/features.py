"""Gold entities -> tags of the rows of words that ``text.rows`` makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpipe.tag.crf import BEGIN, END, INSIDE, SINGLE
from medpipe.text.tokens import Tokens, span_to_tokens


def encode_spans(
    spans: Sequence[tuple[int, int, int]], tokens: int, labels: int, levels: int
) -> tuple[np.ndarray, int]:
    """Returns BIOES tags of token spans: a label's longest spans on level 0, those that overlap them one level deeper.

    Args:
        spans: half-open token interval and label of every entity.
        tokens: how many tokens the text has.
        labels: how many labels there are.
        levels: how many levels there are.

    Returns:
        The tags, shape: (tokens, labels, levels), int8; and how many spans no level had room for.
    """
    tags = np.zeros((tokens, labels, levels), dtype=np.int8)
    lost = 0
    for start, end, label in sorted(set(spans), key=lambda span: (span[0] - span[1], span)):
        free = [level for level in range(levels) if not tags[start:end, label, level].any()]
        if not free:
            lost += 1
            continue
        column = tags[:, label, free[0]]
        if end - start == 1:
            column[start] = SINGLE
        else:
            column[start], column[start + 1 : end - 1], column[end - 1] = BEGIN, INSIDE, END
    return tags, lost


def entity_tokens(tokens: Tokens, sentences: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """Returns the token interval of a character span, or ``None`` where it covers no token or two sentences."""
    first, last = span_to_tokens(tokens, start, end)
    if first == last:
        return None
    sentence = int(np.searchsorted(sentences[:, 0], first, side="right")) - 1
    return (first, last) if last <= sentences[sentence, 1] else None
