"""What a document says of a word elsewhere: a memory of its occurrences.

"DM" is known where it is introduced ("diabetes mellitus (DM)") and bare in the sentences after. So the first layer
reads all sentences of a document, and the mean of its states over the occurrences of a word goes to the second layer
at each of them (pooled contextual embeddings, Akbik et al. 2019, with the tagger's own first layer in the place of a
language model). A word that stands once in its document has no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpipe.device import run_halving
from medpipe.tag.network import TaggerNetwork
from medpipe.text.batches import bucket_batches
from medpipe.text.rows import Rows, pad_rows


@dataclass(frozen=True, slots=True)
class Memory:
    """The memories of the words of some documents."""

    states: Tensor  # shape: (memories, 2 * hidden), float32; the first is nothing
    slots: Tensor  # shape: (tokens,), int64; which memory a token has

    def at(self, positions: Tensor) -> Tensor:
        """Returns the memories of the tokens at ``positions``; shape: (*positions, 2 * hidden)."""
        return self.states[self.slots[positions]]


def find_documents(rows: Rows) -> np.ndarray:
    """Returns which document every token is of; shape: (tokens,), int64."""
    return np.repeat(np.arange(len(rows.offset) - 1), np.diff(rows.offset))


def find_slots(words: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives the words that stand more than once in their document a number each, from 1.

    Args:
        words: shape: (tokens,), int; numbers of words.
        document: shape: (tokens,), int64; numbers of documents.

    Returns:
        ``slots``, shape: (tokens,), int64; 0 for a word that stands once; ``counts``, shape: (slots + 1,), int64: how
        often each stands there.
    """
    keys = document * (int(words.max(initial=0)) + 1) + words
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    again = counts > 1
    numbers = np.where(again, np.cumsum(again), 0)
    return numbers[group], np.concatenate([[1], counts[again]])


@torch.inference_mode()
def remember(
    network: TaggerNetwork,
    vectors: Tensor,
    *,
    words: np.ndarray,
    document: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    style: int = 0,
    token_budget: int,
) -> tuple[Memory, list[int]]:
    """Reads the sentences of some documents once with the network's first layer.

    Args:
        network: in evaluation mode.
        vectors: shape: (words, 2 * width); of all words.
        words: shape: (tokens,), int; the number of every token's word.
        document: shape: (tokens,), int64; the number of its document.
        start: shape: (sentences,), int64; first token.
        length: shape: (sentences,), int64; tokens.
        style: number of the annotation style.
        token_budget: padded tokens of a batch; halved and tried again where memory runs out.

    Returns:
        The memories; the sentences that did not fit in memory.
    """
    slots, counts = find_slots(words, document)
    states = torch.zeros(len(counts), 2 * network.config.hidden, device=vectors.device)
    failed: list[int] = []

    def compute(batch: Sequence[int]) -> list[None]:
        chosen = np.asarray(batch)
        positions, inside = pad_rows(start[chosen], length[chosen])
        numbers = torch.from_numpy(np.where(inside, words[positions], 0)).to(vectors.device)
        lengths = torch.from_numpy(length[chosen]).to(vectors.device)
        hidden = network.read(vectors[numbers], lengths, torch.full_like(lengths, style))
        where = torch.from_numpy(np.where(inside, slots[positions], 0).reshape(-1)).to(vectors.device)
        states.index_add_(0, where, hidden.float().flatten(0, 1))
        return []

    def give_up(row: int) -> None:
        failed.append(row)

    for batch in bucket_batches(length, token_budget):
        run_halving(batch.tolist(), compute, give_up)
    # A word's own state is in the mean as well: the rarer the word, the less the mean says that is new.
    number = torch.from_numpy(counts).to(vectors.device).unsqueeze(1)
    states *= (1 - 1 / number) / number
    return Memory(states, torch.from_numpy(slots).to(vectors.device)), failed
