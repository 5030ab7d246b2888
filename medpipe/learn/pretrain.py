"""Teaches the tagger's encoder clinical English before it meets a label.

Masked words (Devlin et al. 2019, *BERT*) are guessed from the BiLSTM's view of the sentence, on texts that need no
annotation. What is learned is the embedding table and both LSTM stacks; the head that guesses is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from medpipe.learn.corpora import read_lines
from medpipe.learn.loop import LoopConfig, Trainer
from medpipe.text.batches import bucket_batches
from medpipe.text.encoder import PARTS, SentenceEncoder
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows, pad_rows

UNKNOWN = -1  # a word that is not in the vocabulary is never guessed


@dataclass(frozen=True, slots=True)
class PretrainingConfig:
    """The ``[pretraining]`` table of a config."""

    texts: list[str]  # files below the corpora's folder; pairs give their sources, documents their texts
    held_out: list[str]  # as ``texts``; to choose the weights with
    vocabulary: int = 16_384  # words that can be guessed
    width: int = 128  # of the head
    masked: float = 0.2  # of the words
    dropout: float = 0.1
    batch_tokens: int = 4096
    training: LoopConfig = field(default_factory=LoopConfig)


class MaskedWordNetwork(nn.Module):
    """The encoder with a head that guesses words."""

    def __init__(self, encoder: SentenceEncoder, vocabulary: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.narrow = nn.Linear(2 * encoder.config.hidden, width)
        self.guess = nn.Linear(width, vocabulary)

    def forward(self, vectors: Tensor, lengths: Tensor, masked: Tensor) -> Tensor:
        """Returns the scores of the masked words.

        Args:
            vectors: shape: (batch, time, 2 * width).
            lengths: shape: (batch,).
            masked: shape: (batch, time), bool.

        Returns:
            shape: (masked words, vocabulary).
        """
        hidden = self.encoder(vectors * ~masked[:, :, None], lengths)
        return self.guess(torch.tanh(self.narrow(hidden[masked])))


def read_texts(corpora: Path, files: list[str]) -> Iterator[str]:
    """Yields the texts of files, without their annotations.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    for name in files:
        for _, record in read_lines(corpora / name):
            yield str(record.get("source") or record.get("text") or "")


def pretrain(
    network: SentenceEncoder,
    config: PretrainingConfig,
    *,
    corpora: Path,
    out: Path,
    resume: bool,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Trains the encoder in place; resumable as all training, its checkpoint in ``out``.

    Returns:
        ``tokens`` (an epoch), ``epochs``, ``loss`` (nats a masked word, held out) and ``seconds``.
    """
    device = next(network.parameters()).device
    table = WordTable(network.config.buckets)
    rows = make_rows(list(read_texts(corpora, config.texts)), table)
    held_out = make_rows(list(read_texts(corpora, config.held_out)), table)
    features = torch.from_numpy(table.features.copy())
    target = number_frequent(table.words, np.bincount(rows.words, minlength=len(table)), config.vocabulary)
    report(f"pretraining: {len(rows.words)} tokens an epoch, {len(features)} different words")

    encoder = SentenceEncoder(replace(network.config, dropout=config.dropout))
    encoder.load_state_dict({name: value for name, value in network.state_dict().items() if name.startswith(PARTS)})
    model = MaskedWordNetwork(encoder, config.vocabulary, config.width).to(device)

    def make_batches(epoch: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        shuffled = rng.permutation(len(rows.length))
        buckets = bucket_batches(rows.length[shuffled], config.batch_tokens)
        return [
            mask_batch(rows, shuffled[buckets[index]], config.masked, rng) for index in rng.permutation(len(buckets))
        ]

    def compute_loss(module: nn.Module, batch: tuple[np.ndarray, np.ndarray]) -> Tensor:
        return masked_loss(module, rows, *batch, features=features, target=target)

    def evaluate(module: nn.Module) -> tuple[float, dict[str, Any]]:
        rng = np.random.default_rng(0)
        losses = [
            masked_loss(
                module, held_out, *mask_batch(held_out, chosen, config.masked, rng), features=features, target=target
            )
            for chosen in bucket_batches(held_out.length, config.batch_tokens)
        ]
        loss = float(torch.stack(losses).mean())
        return -loss, {"held_out": loss}

    trainer = Trainer(
        model, config=config.training, folder=out, make_batches=make_batches, compute_loss=compute_loss,
        evaluate=evaluate, report=report,
    )  # fmt: skip
    best = trainer.train(resume=resume)
    prefix = "encoder."
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in best.items() if name.startswith(prefix)},
        strict=False,  # a tagger has more than an encoder
    )
    return {
        "tokens": len(rows.words),
        "epochs": config.training.epochs,
        "loss": -trainer.progress.best_score,
        "seconds": trainer.progress.seconds,
    }


def number_frequent(words: list[str], counts: np.ndarray, vocabulary: int) -> np.ndarray:
    """Returns for every word which of the most frequent lower-cased words it is.

    Args:
        words: all different words.
        counts: shape: (words,); how often each is met.
        vocabulary: how many are kept.

    Returns:
        shape: (words,), int64; UNKNOWN where it is none of them.
    """
    totals: dict[str, int] = {}
    for word, count in zip(words, counts.tolist(), strict=True):
        totals[word.lower()] = totals.get(word.lower(), 0) + count
    frequent = sorted(totals, key=lambda word: (-totals[word], word))[:vocabulary]
    numbers: Mapping[str, int] = {word: number for number, word in enumerate(frequent)}
    return np.array([numbers.get(word.lower(), UNKNOWN) for word in words], dtype=np.int64)


def mask_batch(
    rows: Rows, chosen: np.ndarray, masked: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch: which rows, and which of their words are masked, shape: (batch, time), bool."""
    return chosen, rng.random((len(chosen), int(rows.length[chosen].max()))) < masked


def masked_loss(
    module: nn.Module, rows: Rows, chosen: np.ndarray, mask: np.ndarray, *, features: Tensor, target: np.ndarray
) -> Tensor:
    """Returns the mean loss of a batch's masked words."""
    assert isinstance(module, MaskedWordNetwork)
    device = module.narrow.weight.device
    positions, inside = pad_rows(rows.start[chosen], rows.length[chosen])
    words = np.where(inside, rows.words[positions], 0)
    mask = mask & inside & (target[words] != UNKNOWN)
    unique, inverse = np.unique(words, return_inverse=True)
    vectors = module.encoder.embed(features[torch.from_numpy(unique).long()].to(device))
    vectors = vectors.index_select(0, torch.from_numpy(inverse.reshape(-1)).to(device)).view(*words.shape, -1)
    scores = module(vectors, torch.from_numpy(rows.length[chosen]).to(device), torch.from_numpy(mask).to(device))
    # A sum over at least one: a batch without a masked word has no loss, not an undefined one.
    total = cross_entropy(scores, torch.from_numpy(target[words[mask]]).to(device), reduction="sum")
    return total / max(1, int(mask.sum()))
