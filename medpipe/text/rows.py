"""Sentences of many texts as rows of word numbers, and rows as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpipe.text.features import WordTable
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import Tokens, tokenize_all


@dataclass(frozen=True, slots=True)
class Rows:
    """The sentences of some texts. Tokens of all texts stand one behind the other in ``words``."""

    tokens: list[Tokens]  # per text
    sentences: list[np.ndarray]  # per text; shape: (sentences, 2), token intervals within the text
    words: np.ndarray  # shape: (tokens,), int32; numbers of a WordTable
    start: np.ndarray  # shape: (rows,), int64; first token in ``words``
    length: np.ndarray  # shape: (rows,), int64
    text: np.ndarray  # shape: (rows,), int64; which text the row is of
    offset: np.ndarray  # shape: (texts + 1,), int64; first token of every text in ``words``


def make_rows(texts: Sequence[str], table: WordTable) -> Rows:
    """Cuts texts into tokens and sentences and looks the words up."""
    tokens, different, which = tokenize_all(texts)
    sentences = [split_sentences(text, part) for text, part in zip(texts, tokens, strict=True)]
    offset = np.concatenate([[0], np.cumsum([len(part) for part in tokens], dtype=np.int64)]).astype(np.int64)
    limits = [part.astype(np.int64) + first for part, first in zip(sentences, offset[:-1], strict=True)]
    rows = np.concatenate(limits) if limits else np.zeros((0, 2), dtype=np.int64)
    return Rows(
        tokens=tokens,
        sentences=sentences,
        words=table.look_up(different)[which],
        start=rows[:, 0],
        length=rows[:, 1] - rows[:, 0],
        text=np.repeat(np.arange(len(texts)), [len(part) for part in sentences]),
        offset=offset,
    )


def pad_rows(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the tokens of a batch of rows stand.

    Returns:
        ``positions``: shape: (batch, time), int64; 0 where it is padding; and ``inside``, same shape, bool.
    """
    steps = np.arange(int(length.max(initial=1)))
    inside = steps < length[:, None]
    return np.where(inside, start[:, None] + steps, 0), inside
