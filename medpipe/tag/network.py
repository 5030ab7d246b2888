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
from medpipe.text.encoder import EncoderConfig, SentenceEncoder


@dataclass(frozen=True, slots=True)
class NetworkConfig(EncoderConfig):
    """The shape of the network; the ``[network]`` table of a config."""

    buckets: int = 1 << 16
    width: int = 64
    hidden: int = 192
    layers: int = 2
    dropout: float = 0.4
    word_dropout: float = 0.1
    levels: int = 2  # nesting levels within a label


class TaggerNetwork(SentenceEncoder):
    """See the module's docstring. ``styles``: how many annotation styles there are; 0 is the one used at inference."""

    config: NetworkConfig

    def __init__(self, config: NetworkConfig, *, labels: int, styles: int) -> None:
        super().__init__(config)
        self.labels = labels
        self.style = nn.Embedding(styles, 2 * config.width)
        nn.init.zeros_(self.style.weight)
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

    def forward(self, vectors: Tensor, lengths: Tensor, style: Tensor | None = None) -> Tensor:
        """Scores every tag.

        Args:
            vectors: shape: (batch, time, 2 * width); of ``embed``.
            lengths: shape: (batch,), int64; at least 1 each.
            style: shape: (batch,), int64; the one used at inference where none is given.

        Returns:
            shape: (batch, time, labels, levels, tags).
        """
        return self.score(self.encode(vectors, lengths, style))

    def score(self, hidden: Tensor) -> Tensor:
        """Scores the tags of what ``encode`` returns; shape as of ``forward``."""
        batch, time, _ = hidden.shape
        return self.output(self.drop(hidden)).view(batch, time, self.labels, self.config.levels, len(TAGS))

    def encode(self, vectors: Tensor, lengths: Tensor, style: Tensor | None = None) -> Tensor:
        """Returns every token in its sentence, shape: (batch, time, 2 * hidden); arguments as for ``forward``."""
        if style is None:
            style = torch.zeros_like(lengths)
        return super().forward(vectors + self.style(style)[:, None], lengths)


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
