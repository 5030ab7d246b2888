"""The network of the summaries: a hierarchical encoder, a content selector, a pointer-generator.

Encoder: Bloom-hashed words with suffix, shape and mention features -> BiLSTM over the tokens of a sentence -> pooled
sentences with their place in the note -> BiLSTM over the sentences. Selector: one logit a sentence, one a token
(Gehrmann et al. 2018, "Bottom-up abstractive summarization"). Generator: an LSTM that attends to the tokens of the
selected sentences, copies or generates (See et al. 2017, "Get to the point") and is held back by coverage.

Two changes let a whole summary be trained in one pass instead of step by step. The decoder is fed the memory of the
token it copied last (known in training from the alignment) instead of the last context vector. And coverage is
summed over the attention before its own effect, so that it needs no recursion. A learned preference for where to
copy next relative to the last copy ("the next token", "a few words on") replaces what recurrence would have learned.

Cannot do: attend to anything outside the selected tokens; write a word that is in neither the note nor the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medpipe.summarize.features import (
    FLAGS,
    POSITIONS,
    SECTION_BUCKETS,
    SHAPES,
    SUFFIX_BUCKETS,
    WORD_BUCKETS,
    Rows,
    SourceBatch,
)

REACH = 8  # relative positions further than this share one preference
STEPS = 2 * REACH + 4  # -REACH..REACH, further back, further on, nothing copied yet
FLOOR = 1e-9  # keeps logarithms finite
MASKED = -1e4  # a logit that no softmax notices, also in half precision


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes; the ``[network]`` table of a config."""

    word_size: int = 64
    token_hidden: int = 128  # a direction
    sentence_hidden: int = 96  # a direction
    memory_size: int = 192
    decoder_hidden: int = 256
    output_size: int = 128
    dropout: float = 0.2
    feature_dropout: float = 0.25  # of all mention features of a note, so that a missing tagger does not hurt


@dataclass(frozen=True, slots=True)
class Reading:
    """What the selector knows of a batch of notes, laid end to end, before a token is remembered."""

    states: Tensor  # shape: (tokens, 2 * token_hidden)
    context: Tensor  # shape: (sentences, 2 * sentence_hidden)
    sentence_of: Tensor  # shape: (tokens,), int64
    sentence_logits: Tensor  # shape: (sentences,)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder knows of a batch of notes, laid end to end."""

    memory: Tensor  # shape: (tokens, memory)
    token_logits: Tensor  # shape: (tokens,)
    sentence_logits: Tensor  # shape: (sentences,)


@dataclass(frozen=True, slots=True)
class Memory:
    """The selected tokens of each note, padded: all that the decoder sees."""

    values: Tensor  # shape: (notes, slots, memory)
    mask: Tensor  # shape: (notes, slots), bool
    prior: Tensor  # shape: (notes, slots): log of the token's selection probability
    ids: Tensor  # shape: (notes, slots), int64: extended vocabulary


@dataclass(frozen=True, slots=True)
class Attention:
    """One or more decoder steps of one or more rows a note."""

    copy: Tensor  # shape: (notes, rows, slots): where to copy from; sums to one
    raw: Tensor  # shape: (notes, rows, slots): before coverage; what coverage sums up
    words: Tensor  # shape: (notes, rows, vocabulary): what to generate; sums to one
    gate: Tensor  # shape: (notes, rows, 1): probability to generate


class BiLSTM(nn.Module):
    """Both directions over rows of a flat list, each row read backwards from its own end.

    Equal to a packed bidirectional LSTM, without packing, which is slower on CPU.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(size, hidden, batch_first=True)
        self.back = nn.LSTM(size, hidden, batch_first=True)

    def forward(self, items: Tensor, rows: list[Rows]) -> Tensor:
        """Maps items, shape (items, size), to states, shape (items, 2 * hidden)."""
        hidden = self.ahead.hidden_size
        states = items.new_zeros(items.shape[0], 2 * hidden)
        for part in rows:
            ahead, _ = self.ahead(items[part.forward])  # shape: (rows, width, hidden)
            back, _ = self.back(items[part.backward])
            there = ahead[part.mask]
            states = states.index_put((part.forward[part.mask],), torch.cat([there, self._align(back, part)], dim=-1))
        return states

    @staticmethod
    def _align(back: Tensor, part: Rows) -> Tensor:
        """Returns the backward states in the order of the forward ones."""
        lengths = part.mask.sum(dim=1, keepdim=True)
        column = torch.arange(part.mask.shape[1], device=back.device)
        turned = (lengths - 1 - column).clamp(min=0)  # shape: (rows, width)
        return back.gather(1, turned.unsqueeze(-1).expand_as(back))[part.mask]


class SummaryNetwork(nn.Module):
    """See the module's docstring.

    Args:
        config: sizes.
        vocabulary_buckets: shape: (vocabulary, 2), int64; the embedding rows of the generator's words.
    """

    vocabulary_buckets: Tensor

    def __init__(self, config: NetworkConfig, vocabulary_buckets: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("vocabulary_buckets", vocabulary_buckets, persistent=False)
        size, memory, hidden = config.word_size, config.memory_size, config.decoder_hidden
        self.words = nn.EmbeddingBag(WORD_BUCKETS, size, mode="sum")
        self.suffixes = nn.Embedding(SUFFIX_BUCKETS, size)
        self.shapes = nn.Embedding(SHAPES, size)
        self.marks = nn.Embedding(3, size)  # padding, start, end
        self.flags = nn.Linear(FLAGS, size, bias=False)
        for table in (self.words, self.suffixes, self.shapes, self.marks):
            nn.init.normal_(table.weight, std=0.3)
        self.token_lstm = BiLSTM(size, config.token_hidden)
        pooled = 2 * config.token_hidden
        place = 16
        self.place_tables = nn.ModuleList(
            [nn.Embedding(rows, place) for rows in (POSITIONS, POSITIONS, POSITIONS, SECTION_BUCKETS)]
        )
        self.pooling = nn.Linear(2 * pooled + FLAGS + 4 * place, 2 * config.sentence_hidden)
        # What a training corpus never shows (a section's name, an assertion, relations) must not add noise later.
        nn.init.zeros_(self.flags.weight)
        nn.init.zeros_(self.place_tables[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.pooling.weight[:, pooled : pooled + FLAGS])
        self.sentence_lstm = BiLSTM(2 * config.sentence_hidden, config.sentence_hidden)
        wide = 2 * config.sentence_hidden
        self.sentence_score = nn.Sequential(
            nn.Linear(2 * wide, wide), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(wide, 1)
        )
        self.remember = nn.Linear(pooled + wide, memory)
        self.norm = nn.LayerNorm(memory)
        self.token_score = nn.Sequential(nn.Linear(memory, memory // 2), nn.ReLU(), nn.Linear(memory // 2, 1))
        self.drop = nn.Dropout(config.dropout)

        self.decoder = nn.LSTM(size + memory + 1, hidden, batch_first=True)
        self.query = nn.Linear(hidden, memory)
        self.next_step = nn.Linear(hidden, STEPS)
        self.prior_weight = nn.Parameter(torch.tensor(0.5))
        self.coverage_weight = nn.Parameter(torch.tensor(-1.0))  # of a softplus: coverage can only hold back
        self.mix = nn.Linear(hidden + memory, config.output_size)
        self.output = nn.Linear(config.output_size, len(vocabulary_buckets))
        self.gate = nn.Linear(hidden + memory + size, 1)

    # --- encoder and selector ---------------------------------------------------------------

    def encode(self, batch: SourceBatch) -> Encoded:
        """Returns memory and selection logits of all tokens and sentences of a batch."""
        reading = self.read(batch)
        memory, token_logits = self.remember_tokens(reading)
        return Encoded(memory, token_logits, reading.sentence_logits)

    def read(self, batch: SourceBatch) -> Reading:
        """Reads all tokens in their sentences, and scores the sentences: the cheap look at a whole note."""
        flags = batch.flags
        if self.training and self.config.feature_dropout:
            counts = torch.from_numpy(batch.token_counts).to(flags.device)
            keep = torch.rand(len(counts), device=flags.device) >= self.config.feature_dropout
            flags = flags * keep.repeat_interleave(counts).unsqueeze(-1)
        embedded = (
            self.words(batch.words) + self.suffixes(batch.suffixes) + self.shapes(batch.shapes) + self.flags(flags)
        )
        states = self.drop(self.token_lstm(self.drop(embedded), batch.token_rows))  # shape: (tokens, 2 * hidden)
        sentences = self.sentence_vectors(states, flags, batch)
        context = self.drop(self.sentence_lstm(self.drop(sentences), batch.sentence_rows))
        sentence_logits = self.sentence_score(torch.cat([sentences, context], dim=-1)).squeeze(-1)
        return Reading(states, context, batch.sentence_of, sentence_logits)

    def remember_tokens(self, reading: Reading, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns what the decoder attends to, and the logit of each token's selection.

        Args:
            reading: of a batch.
            where: tokens, int64, of any shape; all where it is not given. A long note is routed past this step: only
                its selected sentences are remembered.

        Returns:
            shape: that of ``where`` with (memory,) behind it, and that of ``where``.
        """
        states = reading.states if where is None else reading.states[where]
        sentence = reading.sentence_of if where is None else reading.sentence_of[where]
        memory = self.norm(self.remember(torch.cat([states, reading.context[sentence]], dim=-1)))
        return memory, self.token_score(memory).squeeze(-1)

    def sentence_vectors(self, states: Tensor, flags: Tensor, batch: SourceBatch) -> Tensor:
        """Pools the tokens of each sentence and adds its place; shape: (sentences, 2 * sentence_hidden)."""
        count = len(batch.places)
        index = batch.sentence_of.unsqueeze(-1)
        flagged = torch.cat([states, flags], dim=-1)
        highest = flagged.new_zeros(count, flagged.shape[1]).scatter_reduce(
            0, index.expand_as(flagged), flagged, "amax", include_self=False
        )
        mean = states.new_zeros(count, states.shape[1]).scatter_reduce(
            0, index.expand_as(states), states, "mean", include_self=False
        )
        places = [table(batch.places[:, column]) for column, table in enumerate(self.place_tables)]
        return torch.tanh(self.pooling(torch.cat([highest, mean, *places], dim=-1)))

    # --- decoder ----------------------------------------------------------------------------

    def embed_words(self, ids: Tensor, own: Tensor) -> Tensor:
        """Embeds extended identifiers.

        Args:
            ids: shape: (notes, steps), int64.
            own: shape: (notes, words, 2), int64; the embedding rows of each note's own words; at least one word wide.

        Returns:
            shape: (notes, steps, word_size).
        """
        size = len(self.vocabulary_buckets)
        known = self.vocabulary_buckets[ids.clamp(max=size - 1)]  # shape: (notes, steps, 2)
        place = (ids - size).clamp(min=0).unsqueeze(-1).expand(-1, -1, 2)
        buckets = torch.where((ids < size).unsqueeze(-1), known, own.gather(1, place))
        embedded = self.words(buckets.reshape(-1, 2)).reshape(*ids.shape, -1)
        marks = self.marks(ids.clamp(max=2))
        return torch.where((ids < 3).unsqueeze(-1), marks, embedded)

    def decoder_input(self, embedded: Tensor, values: Tensor, last: Tensor, copied: Tensor) -> Tensor:
        """Returns the decoder's input: the last word, the memory of the last copied token, whether the two are one.

        Args:
            embedded: shape: (notes, steps, word_size), the last words.
            values: shape: (notes, slots, memory).
            last: shape: (notes, steps), int64, slot copied last, -1 for none yet.
            copied: shape: (notes, steps), bool, the last word is that copy.
        """
        index = last.clamp(min=0).unsqueeze(-1).expand(-1, -1, values.shape[-1])
        recalled = values.gather(1, index) * (last >= 0).unsqueeze(-1)
        return torch.cat([embedded, recalled, copied.unsqueeze(-1).to(embedded)], dim=-1)

    def scores(self, states: Tensor, memory: Memory, last: Tensor) -> Tensor:
        """Returns the attention logits before coverage; shape: (notes, rows, slots)."""
        keys = memory.values.transpose(1, 2)  # shape: (notes, memory, slots)
        scores = self.query(states) @ keys / self.config.memory_size**0.5
        slots = torch.arange(memory.values.shape[1], device=states.device)
        step = (slots - last.unsqueeze(-1)).clamp(-REACH - 1, REACH + 1) + REACH + 1  # shape: (notes, rows, slots)
        step = torch.where((last >= 0).unsqueeze(-1), step, STEPS - 1)
        scores = scores + self.next_step(states).gather(2, step)
        scores = scores + self.prior_weight * memory.prior.unsqueeze(1)
        return scores.masked_fill(~memory.mask.unsqueeze(1), MASKED)

    def attend(self, states: Tensor, embedded: Tensor, scores: Tensor, coverage: Tensor, memory: Memory) -> Attention:
        """Returns attention, word distribution and gate, given how much each slot was attended before."""
        held_back = scores - F.softplus(self.coverage_weight) * coverage
        copy = torch.softmax(held_back, dim=-1)
        context = copy @ memory.values  # shape: (notes, rows, memory)
        both = torch.cat([states, context], dim=-1)
        words = torch.softmax(self.output(self.drop(torch.tanh(self.mix(both)))), dim=-1)
        gate = torch.sigmoid(self.gate(torch.cat([both, embedded], dim=-1)))
        return Attention(copy, torch.softmax(scores, dim=-1), words, gate)

    def forward(
        self, inputs: Tensor, own: Tensor, last: Tensor, copied: Tensor, memory: Memory
    ) -> tuple[Attention, Tensor]:
        """Runs the decoder over whole summaries whose words are given (teacher forcing).

        Args:
            inputs: shape: (notes, steps), int64, extended identifiers, the start mark first.
            own, last, copied, memory: as above.

        Returns:
            The distributions of every step, and the coverage before it, shape: (notes, steps, slots).
        """
        embedded = self.drop(self.embed_words(inputs, own))
        states, _ = self.decoder(self.decoder_input(embedded, memory.values, last, copied))
        states = self.drop(states)
        scores = self.scores(states, memory, last)
        raw = torch.softmax(scores, dim=-1)
        coverage = raw.cumsum(dim=1) - raw
        return self.attend(states, embedded, scores, coverage, memory), coverage


def operations(config: NetworkConfig, *, tokens: int, attended: int, steps: int, beams: int) -> dict[str, float]:
    """Returns the floating-point operations of one note, a multiplication and an addition counted as two.

    Counted are the matrix products, which are nearly all; of sentences, 20 tokens each.

    Args:
        config: sizes.
        tokens: of the note.
        attended: tokens that are remembered and attended to; ``tokens``: the full global path.
        steps: words written.
        beams: of the search.

    Returns:
        ``read`` (encoder and selector), ``remember`` and ``attend`` (what grows with the tokens attended to) and
        ``write`` (the rest of the decoder).
    """
    size, memory, hidden = config.word_size, config.memory_size, config.decoder_hidden
    pooled, wide, place = 2 * config.token_hidden, 2 * config.sentence_hidden, 4 * 16

    def lstm(inputs: int, units: int) -> int:
        return 4 * units * (inputs + units)

    token = 2 * lstm(size, config.token_hidden) + FLAGS * size
    sentence = (2 * pooled + FLAGS + place) * wide + 2 * lstm(wide, config.sentence_hidden) + 2 * wide * wide + wide
    slot = (pooled + wide) * memory + memory * (memory // 2) + memory // 2
    step = lstm(size + memory + 1, hidden) + hidden * (memory + STEPS) + (hidden + memory) * config.output_size
    step += config.output_size * 256 + hidden + memory + size
    counted = {
        "read": tokens * token + tokens / 20 * sentence,
        "remember": attended * slot,
        "attend": steps * beams * attended * 2 * memory,
        "write": steps * beams * step,
    }
    return {name: 2.0 * value for name, value in counted.items()}


def extended_probabilities(attention: Attention, ids: Tensor, size: int) -> Tensor:
    """Returns the probability of every word of the extended vocabulary (See et al. 2017, equation 9).

    Args:
        attention: of ``rows`` rows a note.
        ids: shape: (notes, slots), int64, extended identifiers of the slots; padding has identifier 0 and no attention.
        size: of the extended vocabulary.

    Returns:
        shape: (notes, rows, size); each row sums to one.
    """
    notes, rows, vocabulary = attention.words.shape
    mixed = attention.words.new_zeros(notes, rows, size)
    mixed[:, :, :vocabulary] = attention.gate * attention.words
    index = ids.unsqueeze(1).expand(-1, rows, -1)
    return mixed.scatter_add(2, index, (1 - attention.gate) * attention.copy)
