"""The relation network: sentences through a BiLSTM, mentions through graph attention, pairs through a classifier.

GATv2 (Brody, Alon, Yahav 2022, *How attentive are graph attention networks?*) with edge attributes over mentions,
sentences and sections; then a classifier over head, tail, the words between them and where they stand, with an output
for each type of relation, so that corpora with different types train one network. Where a config wants it
(``concepts``), pairs are judged as pairs of concepts too, beside the document's other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch_geometric.nn import GATv2Conv

from medpipe.relate.concepts import CONCEPT_FEATURES, concept_features, join_concepts
from medpipe.relate.features import EDGE_KINDS, PAIR_FEATURES, GraphBatch
from medpipe.relate.knowledge import FEATURES
from medpipe.text.encoder import EncoderConfig, SentenceEncoder

EDGE_SIZE = 16  # of the embedding of an edge's kind


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The shape of the network; the ``[network]`` table of a config."""

    buckets: int = 1 << 14  # rows of the embedding table
    width: int = 48  # of an embedding; a word has two
    hidden: int = 96  # of an LSTM of one direction
    lstms: int = 1  # layers of the encoder
    node: int = 128
    heads: int = 4
    layers: int = 2  # of graph attention; 0: the pair classifier alone
    concepts: bool = False  # whether pairs are judged as pairs of concepts too, beside the others of their document
    dropout: float = 0.3
    encoder_dropout: float = 0.3
    word_dropout: float = 0.15
    mentions: bool = True  # whether pairs of mentions are judged one by one; else all of two concepts alike
    knowledge: bool = False  # whether what other documents tell of two concepts counts


class RelationNetwork(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: NetworkConfig, *, labels: int, types: int) -> None:
        super().__init__()
        self.config = config
        self.compute = "float32"  # or bfloat16: what the LSTMs compute in while the network is trained
        self.encoder = SentenceEncoder(
            EncoderConfig(
                config.buckets, config.width, config.hidden, config.lstms, config.encoder_dropout, config.word_dropout
            )
        )
        # Where mentions stand and of which label they are: added to the words, so that the context knows it.
        self.label_input = nn.Linear(labels, 2 * config.width, bias=False)
        nn.init.zeros_(self.label_input.weight)
        states = 2 * config.hidden
        self.label = nn.Embedding(labels, config.node)
        self.mention = nn.Linear(2 * states, config.node)
        # What is taken of the means of spans: of a mention, of a sentence, of what lies between two mentions. Linear,
        # so that it is computed once a word, not once a span.
        self.spans = nn.Linear(states, 3 * config.node, bias=False)
        self.section = nn.Parameter(torch.zeros(config.node))
        self.edge_kind = nn.Embedding(2 * len(EDGE_KINDS), EDGE_SIZE)
        size = config.node // config.heads
        self.attention = nn.ModuleList(
            GATv2Conv(config.node, size, config.heads, edge_dim=EDGE_SIZE + 1, add_self_loops=False)
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.node) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        # The classifier's first layer is a sum over its parts: those of head and tail are computed once a mention.
        self.pair_head = nn.Linear(config.node, config.node)
        self.pair_tail = nn.Linear(config.node, config.node, bias=False)
        self.pair_both = nn.Linear(config.node + PAIR_FEATURES, config.node, bias=False)
        self.types = types
        self.output = nn.Linear(config.node, types) if config.mentions else None
        self.concepts = ConceptJudge(config, types) if config.concepts else None
        # Of each type, what a logarithm of counts adds to the logit; nothing until it is learned.
        self.knowledge = nn.Parameter(torch.zeros(types, FEATURES)) if config.knowledge else None

    def forward(self, batch: GraphBatch, features: Tensor) -> Tensor:
        """Scores the candidate pairs of a batch.

        Args:
            batch: of ``features.collate``.
            features: shape: (words of the batch's vocabulary, WHOLE + GRAMS), int32; of ``text.features``.

        Returns:
            shape: (pairs, types), logits; those of types that the pair cannot have mean nothing.
        """
        return self.judge(batch, *self.read(batch, features))

    def read(self, batch: GraphBatch, features: Tensor, attention: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Returns the mentions in their document, shape: (mentions, node), and the words' part in what lies between.

        The latter as sums from the beginning, so that any span's mean is a difference of two; shape: (tokens + 1,
        node).

        Args:
            batch: as of ``forward``.
            features: as of ``forward``.
            attention: gets of each layer how much of it every edge has, shape: (edges,), the mean of its heads.
        """
        device = features.device
        states = self.dropout(self.encode(batch, features))  # shape: (tokens, states)
        of_mention, of_sentence, of_between = self.spans(states).chunk(3, dim=1)
        first, last = as_tensor(batch.first, device), as_tensor(batch.last, device)
        mentions = self.mention(torch.cat([states[first], states[last]], dim=1))
        mentions = mentions + span_means(of_mention, first, last + 1) + self.label(as_tensor(batch.label, device))
        row_start = as_tensor(batch.row_start, device)
        # shape: (nodes, node); sections begin alike and learn what they hold from their sentences
        nodes = self.section.expand(batch.nodes, -1).clone()
        nodes[as_tensor(batch.mention_node, device)] = mentions
        nodes[as_tensor(batch.sentence_node, device)] = span_means(
            of_sentence, row_start, row_start + as_tensor(batch.row_length, device)
        )
        # In double precision: the sums run through the whole batch, and a document's scores depend on it alone.
        sums = torch.cat([states.new_zeros(1, of_between.shape[1]), of_between]).double().cumsum(0)
        edges, attributes = self.edges(batch, device)
        for attend, norm in zip(self.attention, self.norms, strict=True):
            if attention is None:
                heard = attend(norm(nodes), edges, attributes)
            else:
                heard, (_, weights) = attend(norm(nodes), edges, attributes, return_attention_weights=True)
                attention.append(weights.mean(dim=1))
            nodes = nodes + self.dropout(gelu(heard))
        return nodes[as_tensor(batch.mention_node, device)], sums

    def edges(self, batch: GraphBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the edges, shape: (2, edges), and their attributes, shape: (edges, EDGE_SIZE + 1)."""
        distance = as_tensor(batch.edge_distance, device).log1p().unsqueeze(1)
        kind = self.edge_kind(as_tensor(batch.edge_kind, device))
        return as_tensor(batch.edges, device), torch.cat([kind, distance], dim=1)

    def judge(self, batch: GraphBatch, mentions: Tensor, sums: Tensor) -> Tensor:
        """Scores the pairs; arguments of ``read``, returns as ``forward``."""
        device = mentions.device
        first, last = as_tensor(batch.first, device), as_tensor(batch.last, device)
        head, tail = as_tensor(batch.pairs, device).t()
        # What lies between the two: from the end of the earlier to the start of the later; nothing where they touch.
        start = torch.minimum(last[head], last[tail]) + 1
        end = torch.maximum(torch.maximum(first[head], first[tail]), start)
        between = ((sums[end] - sums[start]) / (end - start).clamp(min=1).unsqueeze(1)).to(mentions.dtype)
        mentions = self.dropout(mentions)
        both = torch.cat([mentions[head] * mentions[tail], as_tensor(batch.pair_features, device)], dim=1)
        hidden = self.pair_head(mentions)[head] + self.pair_tail(mentions)[tail] + self.pair_both(both) + between
        logits = hidden.new_zeros(len(head), self.types)
        if self.concepts is not None:
            hidden, logits = self.concepts(batch, hidden)
        if self.output is not None:
            logits = logits + self.output(self.dropout(gelu(hidden)))
        if self.knowledge is not None:
            # shape: (pairs, types, FEATURES) -> (pairs, types)
            logits = logits + (as_tensor(batch.pair_knowledge, device) * self.knowledge).sum(dim=2)
        return logits

    def encode(self, batch: GraphBatch, features: Tensor) -> Tensor:
        """Returns the states of all tokens. shape: (tokens, 2 * hidden)."""
        device = features.device
        words = self.encoder.embed(features)
        # shape: (tokens, 2 * width)
        tokens = words[as_tensor(batch.words, device)] + self.label_input(as_tensor(batch.covers, device))
        parts, order = [], []
        for positions, inside, lengths in batch.buckets:
            places, mask = as_tensor(positions, device), as_tensor(inside, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.training and self.compute == "bfloat16"):
                encoded = self.encoder(tokens[places], as_tensor(lengths, device))
            parts.append(encoded[mask])
            order.append(positions[inside])
        back = np.empty(len(batch.words), dtype=np.int64)  # where the state of a token stands among the parts
        back[np.concatenate(order)] = np.arange(len(batch.words))
        return torch.cat(parts)[as_tensor(back, device)]


class ConceptJudge(nn.Module):
    """Judges pairs of concepts from all pairs of their mentions, beside the other pairs of their document.

    Which of a document's drugs has brought about its diseases is said of some by their words alone; of the others it
    follows from there being, or not, a likelier one. So each pair of concepts hears the strongest of what all pairs of
    the same labels in its document show.
    """

    def __init__(self, config: NetworkConfig, types: int) -> None:
        super().__init__()
        self.features = nn.Linear(CONCEPT_FEATURES, config.node, bias=False)
        self.rivals = nn.Linear(config.node, config.node)
        self.both = nn.Linear(2 * config.node, config.node)
        self.own = nn.Linear(config.node, types)
        self.output = nn.Linear(config.node, types, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, batch: GraphBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pairs with what their concepts add.

        Args:
            batch: of ``features.collate``.
            hidden: shape: (pairs, node); what the classifier knows of each pair.

        Returns:
            ``hidden`` with what it knows of their concepts, and what these add to the logits, shape: (pairs, types): to
            all pairs of two concepts the same.
        """
        device = hidden.device
        joined = join_concepts(batch)
        group, document = as_tensor(joined.group, device), as_tensor(joined.in_document, device)
        hidden = hidden + self.features(as_tensor(concept_features(batch, joined), device))[group]
        # shape: (groups, node)
        strongest = self.dropout(gelu(group_maxima(hidden, group, len(joined.head))))
        rivals = group_maxima(gelu(self.rivals(strongest)), document, int(joined.in_document.max(initial=-1)) + 1)
        both = gelu(self.both(torch.cat([strongest, rivals[document]], dim=1)))
        return hidden, (self.own(strongest) + self.output(self.dropout(both)))[group]


def group_maxima(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Returns the largest value of each group's rows, column by column. shape: (groups, size).

    Args:
        values: shape: (rows, size).
        group: shape: (rows,), int64; which of the groups a row belongs to.
        groups: how many there are; each holds a row.
    """
    index = group.unsqueeze(1).expand_as(values)
    return values.new_zeros(groups, values.shape[1]).scatter_reduce(0, index, values, "amax", include_self=False)


def span_means(values: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Returns the mean of each of some spans of rows; shape: (spans, size). None is empty; they may overlap.

    Args:
        values: shape: (rows, size).
        start: shape: (spans,), int64; first row.
        end: shape: (spans,), int64; behind the last.
    """
    length = end - start
    span = torch.repeat_interleave(torch.arange(len(start), device=values.device), length)
    within = torch.arange(len(span), device=values.device) - (length.cumsum(0) - length)[span]
    sums = values.new_zeros(len(start), values.shape[1]).index_add(0, span, values[start[span] + within])
    return sums / length.unsqueeze(1)


def pool_groups(logits: Tensor, group: Tensor, groups: int, *, smooth: bool = True) -> Tensor:
    """Returns one logit for each group of pairs: a maximum over its pairs, smooth (log-sum-exp) or not.

    Args:
        logits: shape: (pairs, types).
        group: shape: (pairs,), int64; which of the groups a pair belongs to.
        groups: how many there are; each holds a pair.
        smooth: as networks are trained that judge each pair by itself; where all pairs of a group have the same
            logits, there is nothing to sum.

    Returns:
        shape: (groups, types). A group of one pair has that pair's logit.
    """
    index = group.unsqueeze(1).expand_as(logits)
    if not smooth:
        return group_maxima(logits, group, groups)
    top = logits.new_full((groups, logits.shape[1]), -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
    return top + torch.zeros_like(top).scatter_add(0, index, (logits - top[group]).exp()).log()


def as_tensor(values: np.ndarray, device: torch.device) -> Tensor:
    """Returns an array as a tensor on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
