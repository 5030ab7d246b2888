"""The tagger's network: word hashes -> BiLSTM -> a score for every token, label, nesting level and BIOES tag.

After Lample et al. (2016), *Neural architectures for named entity recognition*, with hashed subwords in the place
of word vectors and characters, and a chain for each label and level in the place of one chain (so entities of
different labels may overlap freely, entities of one label up to the number of levels).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchcrf import CRF

from medpipe.tag.crf import FORBIDDEN, TAGS, allowed_transitions
from medpipe.text.features import PADDING, WHOLE


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The shape of the network; the ``[network]`` table of a config."""

    buckets: int = 1 << 16  # rows of the embedding table
    width: int = 64  # of an embedding; a word has two
    hidden: int = 192  # of an LSTM of one direction
    layers: int = 2
    levels: int = 2  # nesting levels within a label
    dropout: float = 0.4
    word_dropout: float = 0.1  # of whole words: their subwords alone must do


class TaggerNetwork(nn.Module):
    """See the module's docstring. ``styles``: how many annotation styles there are; 0 is the one used at inference."""

    def __init__(self, config: NetworkConfig, *, labels: int, styles: int) -> None:
        super().__init__()
        self.config = config
        self.labels = labels
        self.embedding = nn.EmbeddingBag(config.buckets, config.width, mode="sum", padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=0.3)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0
        self.input_norm = nn.LayerNorm(2 * config.width)
        self.style = nn.Embedding(styles, 2 * config.width)
        nn.init.zeros_(self.style.weight)
        sizes = [2 * config.width] + [2 * config.hidden] * (config.layers - 1)
        # One LSTM a direction: rows are reversed by their own length, which padded batches need (and which is
        # faster on CPU than packed sequences).
        self.forward_lstms = nn.ModuleList(nn.LSTM(size, config.hidden, batch_first=True) for size in sizes)
        self.backward_lstms = nn.ModuleList(nn.LSTM(size, config.hidden, batch_first=True) for size in sizes)
        self.output_norm = nn.LayerNorm(2 * config.hidden)
        self.output = nn.Linear(2 * config.hidden, labels * config.levels * len(TAGS))
        self.crf = CRF(len(TAGS))
        self.constrain()

    @torch.no_grad()
    def constrain(self) -> None:
        """Puts the transitions that BIOES forbids out of reach (their gradient is zero from then on)."""
        transitions, starts, ends = allowed_transitions()
        self.crf.transitions.masked_fill_(~transitions.to(self.crf.transitions.device), FORBIDDEN)
        self.crf.start_transitions.masked_fill_(~starts.to(self.crf.transitions.device), FORBIDDEN)
        self.crf.end_transitions.masked_fill_(~ends.to(self.crf.transitions.device), FORBIDDEN)

    def embed(self, features: Tensor) -> Tensor:
        """Returns the vectors of words from their features.

        Args:
            features: shape: (words, WHOLE + GRAMS), int32; of ``text.features``.

        Returns:
            shape: (words, 2 * width).
        """
        whole = self.embedding(features[:, :WHOLE].contiguous())
        if self.training and self.config.word_dropout:
            whole = whole * (torch.rand(len(whole), 1, device=whole.device) >= self.config.word_dropout)
        grams = self.embedding(features[:, WHOLE:].contiguous())
        # shape: (words, 2 * width)
        return self.input_norm(torch.cat([whole, grams], dim=1))

    def forward(self, vectors: Tensor, lengths: Tensor, style: Tensor) -> Tensor:
        """Scores every tag.

        Args:
            vectors: shape: (batch, time, 2 * width); of ``embed``.
            lengths: shape: (batch,), int64; at least 1 each.
            style: shape: (batch,), int64.

        Returns:
            shape: (batch, time, labels, levels, tags).
        """
        return self.score(self.encode(vectors, lengths, style))

    def score(self, hidden: Tensor) -> Tensor:
        """Scores the tags of what ``encode`` returns; shape as of ``forward``."""
        batch, time, _ = hidden.shape
        return self.output(self.drop(hidden)).view(batch, time, self.labels, self.config.levels, len(TAGS))

    def encode(self, vectors: Tensor, lengths: Tensor, style: Tensor) -> Tensor:
        """Returns every token in its sentence, shape: (batch, time, 2 * hidden); arguments as for ``forward``."""
        time = vectors.shape[1]
        steps = torch.arange(time, device=vectors.device)
        # Reverses every row by its own length; what is padding stays where it is.
        backwards = (lengths[:, None] - 1 - steps).where(steps < lengths[:, None], steps)  # shape: (batch, time)
        hidden = self.drop(vectors + self.style(style)[:, None])
        total: Tensor | None = None
        for ahead, behind in zip(self.forward_lstms, self.backward_lstms, strict=True):
            left, _ = ahead(hidden)
            right, _ = behind(reverse(hidden, backwards))
            # shape: (batch, time, 2 * hidden)
            hidden = torch.cat([left, reverse(right, backwards)], dim=2)
            total = hidden if total is None else total + hidden
            hidden = self.drop(hidden)
        assert total is not None
        return self.output_norm(total.float())  # under autocast the LSTMs give bfloat16

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


def likelihood_loss(
    network: TaggerNetwork, emissions: Tensor, lengths: Tensor, tags: Tensor, annotated: Tensor
) -> Tensor:
    """Returns the negative log-likelihood of the gold tags, summed over the chains whose label is annotated.

    Args:
        network: whose transitions are used.
        emissions: shape: (batch, time, labels, levels, tags).
        lengths: shape: (batch,).
        tags: shape: (batch, time, labels, levels), integer.
        annotated: shape: (batch, labels), bool; a label that its corpus does not annotate gives no loss.
    """
    batch, time, labels, levels, count = emissions.shape
    chosen = annotated.reshape(-1).nonzero().squeeze(1)  # rows of (batch * labels)
    chains = len(chosen) * levels
    # shape: (batch, labels, time, levels, tags) -> (chosen, time, levels, tags) -> (time, chains, tags)
    scores = emissions.transpose(1, 2).reshape(batch * labels, time, levels, count).index_select(0, chosen)
    scores = scores.transpose(0, 1).reshape(time, chains, count)
    gold = tags.transpose(1, 2).reshape(batch * labels, time, levels).index_select(0, chosen)
    gold = gold.transpose(0, 1).reshape(time, chains).long()
    row = chosen.div(labels, rounding_mode="floor").repeat_interleave(levels)
    mask = torch.arange(time, device=lengths.device)[:, None] < lengths[row]  # shape: (time, chains)
    return -network.crf(scores.float(), gold, mask=mask, reduction="sum")
