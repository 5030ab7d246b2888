"""Words in their sentences: hashed words through stacked BiLSTMs, with one mask of dropout a row.

The tagger is one with an output; the relations' network holds one. What one has learned can begin the other
(``take_encoder``); the two share no weights once they are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medpipe.text.features import PADDING, WHOLE

PARTS = ("embedding.", "input_norm.", "forward_lstms.", "backward_lstms.", "output_norm.")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The shape of the encoder."""

    buckets: int = 1 << 14  # rows of the embedding table
    width: int = 48  # of an embedding; a word has two
    hidden: int = 96  # of an LSTM of one direction
    layers: int = 1
    dropout: float = 0.3
    word_dropout: float = 0.15  # of whole words: their subwords alone must do


class SentenceEncoder(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.EmbeddingBag(config.buckets, config.width, mode="sum", padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=0.3)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0
        self.input_norm = nn.LayerNorm(2 * config.width)
        sizes = [2 * config.width] + [2 * config.hidden] * (config.layers - 1)
        # One LSTM a direction: rows are reversed by their own length, which padded batches need (and which is
        # faster on a CPU than packed sequences).
        self.forward_lstms = nn.ModuleList(nn.LSTM(size, config.hidden, batch_first=True) for size in sizes)
        self.backward_lstms = nn.ModuleList(nn.LSTM(size, config.hidden, batch_first=True) for size in sizes)
        self.output_norm = nn.LayerNorm(2 * config.hidden)

    def embed(self, features: Tensor) -> Tensor:
        """Returns the vectors of words.

        Args:
            features: shape: (words, WHOLE + GRAMS), int32; of ``text.features``.

        Returns:
            shape: (words, 2 * width).
        """
        whole = self.embedding(features[:, :WHOLE].contiguous())
        if self.training and self.config.word_dropout:
            whole = whole * (torch.rand(len(whole), 1, device=whole.device) >= self.config.word_dropout)
        grams = self.embedding(features[:, WHOLE:].contiguous())
        return self.input_norm(torch.cat([whole, grams], dim=1))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Returns every word in its sentence.

        Args:
            vectors: shape: (batch, time, 2 * width).
            lengths: shape: (batch,), int64; at least 1 each.

        Returns:
            shape: (batch, time, 2 * hidden); the sum of all layers, normalised.
        """
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        # Every row is reversed by its own length, so that no LSTM starts on padding.
        backwards = (lengths[:, None] - 1 - steps).where(steps < lengths[:, None], steps)  # shape: (batch, time)
        hidden = self.drop(vectors)
        total: Tensor | None = None
        for ahead, behind in zip(self.forward_lstms, self.backward_lstms, strict=True):
            left, _ = ahead(hidden)
            right, _ = behind(reverse(hidden, backwards))
            hidden = torch.cat([left, reverse(right, backwards)], dim=2)  # shape: (batch, time, 2 * hidden)
            total = hidden if total is None else total + hidden
            hidden = self.drop(hidden)
        assert total is not None
        normed: Tensor = self.output_norm(total.float())  # under autocast the LSTMs give bfloat16
        return normed

    def drop(self, values: Tensor) -> Tensor:
        """Variational dropout (Gal and Ghahramani 2016): one mask for all steps of a row."""
        if not self.training or not self.config.dropout:
            return values
        keep = 1 - self.config.dropout
        mask = torch.empty(values.shape[0], 1, values.shape[2], device=values.device).bernoulli_(keep) / keep
        return values * mask


def reverse(values: Tensor, order: Tensor) -> Tensor:
    """Returns ``values`` (batch, time, size) with the steps of every row in ``order`` (batch, time)."""
    batch, time, size = values.shape
    flat = order + torch.arange(batch, device=order.device)[:, None] * time
    return values.reshape(batch * time, size).index_select(0, flat.reshape(-1)).view(batch, time, size)


def take_encoder(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies a tagger's encoder into a network with parts of the same names, as far as that has the layers.

    A table of more rows is folded: where the one has ``n * (rows - 1) + 1`` rows, a hash that leads to a row of it
    leads to a known row of the smaller table, which gets the sum of its rows (over the root of their number, so that
    their size stays). The tagger's first annotation style, a vector added to every word, goes into the norm's bias.

    Args:
        network: a ``SentenceEncoder`` or a tagger.
        weights: a tagger's.

    Raises:
        KeyError, ValueError: the weights have no such part, or one of another shape.
    """
    taken = {}
    for name, value in network.state_dict().items():
        if not name.startswith(PARTS):
            continue
        other = weights[name]
        if name == "embedding.weight" and len(other) != len(value):
            times, rest = divmod(len(other) - 1, len(value) - 1)
            if rest or other.shape[1] != value.shape[1]:
                raise ValueError(f"a table of {len(other)} rows cannot be folded into {len(value)}")
            folded = other[1:].view(times, len(value) - 1, -1)
            other = torch.cat([torch.zeros_like(other[:1]), folded.sum(0) / times**0.5])
        if other.shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(other.shape)}, not {tuple(value.shape)}")
        taken[name] = other.clone()
    if "style.weight" in weights:
        taken["input_norm.bias"] += weights["style.weight"][0]
    network.load_state_dict(taken, strict=False)
