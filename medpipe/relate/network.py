"""The relation network: sentences through a BiLSTM, mentions through graph attention, pairs through a classifier.

GATv2 (Brody, Alon, Yahav 2022, *How attentive are graph attention networks?*) with typed edges over mentions,
sentences and sections; then a classifier over head, tail, the words between them and where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from medpipe.relate.features import EDGE_KINDS, PAIR_FEATURES, GraphBatch
from medpipe.text.features import PADDING, WHOLE


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The shape of the network; the ``[network]`` table of a config."""

    buckets: int = 1 << 14  # rows of the embedding table
    width: int = 48  # of an embedding; a word has two
    hidden: int = 96  # of an LSTM of one direction
    node: int = 128
    heads: int = 4
    layers: int = 2  # of graph attention; 0: the pair classifier alone
    dropout: float = 0.3
    word_dropout: float = 0.15


class RelationNetwork(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: NetworkConfig, *, labels: int, types: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.EmbeddingBag(config.buckets, config.width, mode="sum", padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=0.3)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0
        self.input_norm = nn.LayerNorm(2 * config.width)
        self.label_input = nn.Linear(labels, 2 * config.width, bias=False)
        self.ahead = nn.LSTM(2 * config.width, config.hidden, batch_first=True)
        self.behind = nn.LSTM(2 * config.width, config.hidden, batch_first=True)
        states = 2 * config.hidden
        self.label = nn.Embedding(labels, config.node)
        self.mention = nn.Linear(3 * states, config.node)
        self.sentence = nn.Linear(states, config.node)
        self.section = nn.Parameter(torch.zeros(config.node))
        self.edge_kind = nn.Embedding(2 * len(EDGE_KINDS), 16)
        self.attention = nn.ModuleList(
            GATv2Conv(config.node, config.node // config.heads, config.heads, edge_dim=17, add_self_loops=False)
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.node) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        size = 3 * config.node + states + PAIR_FEATURES
        self.pair = nn.Sequential(
            nn.Linear(size, config.node), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.node, types)
        )

    def forward(self, batch: GraphBatch, features: Tensor) -> Tensor:
        """Scores the candidate pairs of a batch.

        Args:
            batch: of ``features.collate``.
            features: shape: (words of the batch's vocabulary, WHOLE + GRAMS), int32; of ``text.features``.

        Returns:
            shape: (pairs, types), logits.
        """
        device = features.device
        states = self.encode(batch, features)  # shape: (tokens, states)
        # Sums of states from the beginning, in double precision: any span's mean is a difference of two.
        sums = torch.cat([states.new_zeros(1, states.shape[1]), states]).double().cumsum(0)

        def mean(start: Tensor, end: Tensor) -> Tensor:
            count = (end - start).clamp(min=1).unsqueeze(1)
            return ((sums[end] - sums[start]) / count).to(states.dtype)

        first, last = as_tensor(batch.first, device), as_tensor(batch.last, device)
        label = as_tensor(batch.label, device)
        # shape: (mentions, node)
        mentions = self.mention(torch.cat([states[first], states[last], mean(first, last + 1)], dim=1)) + self.label(
            label
        )
        row_start = as_tensor(batch.row_start, device)
        sentences = self.sentence(mean(row_start, row_start + as_tensor(batch.row_length, device)))
        # shape: (nodes, node); sections begin alike and learn what they hold from their sentences
        nodes = self.section.expand(batch.nodes, -1).clone()
        nodes[as_tensor(batch.mention_node, device)] = mentions
        nodes[as_tensor(batch.sentence_node, device)] = sentences
        edges = as_tensor(batch.edges, device)
        distance = as_tensor(batch.edge_distance, device).log1p().unsqueeze(1)
        edge_attributes = torch.cat([self.edge_kind(as_tensor(batch.edge_kind, device)), distance], dim=1)
        for attend, norm in zip(self.attention, self.norms, strict=True):
            nodes = nodes + self.dropout(torch.nn.functional.gelu(attend(norm(nodes), edges, edge_attributes)))
        mentions = nodes[as_tensor(batch.mention_node, device)]
        head, tail = as_tensor(batch.pairs, device).t()
        # What lies between the two: from the end of the earlier to the start of the later; nothing where they touch.
        start = torch.minimum(last[head], last[tail]) + 1
        between = mean(start, torch.maximum(torch.maximum(first[head], first[tail]), start))
        placed = as_tensor(batch.pair_features, device)
        pairs = torch.cat([mentions[head], mentions[tail], mentions[head] * mentions[tail], between, placed], dim=1)
        return self.pair(self.dropout(pairs))

    def encode(self, batch: GraphBatch, features: Tensor) -> Tensor:
        """Returns the states of all tokens. shape: (tokens, 2 * hidden)."""
        device = features.device
        whole = self.embedding(features[:, :WHOLE].contiguous())
        if self.training and self.config.word_dropout:
            whole = whole * (torch.rand(len(whole), 1, device=device) >= self.config.word_dropout)
        vectors = self.input_norm(torch.cat([whole, self.embedding(features[:, WHOLE:].contiguous())], dim=1))
        # shape: (tokens, 2 * width)
        tokens = vectors[as_tensor(batch.words, device)] + self.label_input(as_tensor(batch.covers, device))
        states = tokens.new_zeros(len(tokens), 2 * self.config.hidden)
        for positions, inside, lengths in batch.buckets:
            states = self.encode_rows(tokens, states, positions, inside, lengths)
        return states

    def encode_rows(
        self, tokens: Tensor, states: Tensor, positions: np.ndarray, inside: np.ndarray, lengths: np.ndarray
    ) -> Tensor:
        """Puts the states of some sentences of about equal length where their tokens stand."""
        device = tokens.device
        places, mask = as_tensor(positions, device), as_tensor(inside, device)
        steps = torch.arange(places.shape[1], device=device)
        length = as_tensor(lengths, device)[:, None]
        # Every row is reversed by its own length, so that the LSTM never starts on padding.
        backwards = (length - 1 - steps).where(steps < length, steps).unsqueeze(2)  # shape: (rows, time, 1)
        rows = self.dropout(tokens[places])
        left, _ = self.ahead(rows)
        right, _ = self.behind(rows.gather(1, backwards.expand_as(rows)))
        right = right.gather(1, backwards.expand_as(right))
        return states.index_put((places[mask],), torch.cat([left, right], dim=2)[mask])


def as_tensor(values: np.ndarray, device: torch.device) -> Tensor:
    """Returns an array as a tensor on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
