"""Gives the tagger's encoder what a sentence encoder knows of words, before it meets a label.

The BiLSTM learns to predict the teacher's state of every word (Hinton et al. 2015, *Distilling the knowledge in a
neural network*; from a transformer into a BiLSTM as Tang et al. 2019), some of the words masked, so that it learns
what a context says of a word as well. The embeddings alone learn to predict the same state: that makes word vectors
of the hashed table and, since whole words are dropped at random, of its character n-grams too (mimicking, Pinter et
al. 2017), so that a word that no text held has a vector. Both heads are thrown away.

The teacher is read once; its states lie beside the checkpoint, one byte a number, until the training is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medpipe.learn.loop import LoopConfig, Trainer, lower_precision
from medpipe.learn.pretrain import mask_batch, read_texts
from medpipe.learn.teacher import Teacher, find_teacher
from medpipe.text.batches import bucket_batches
from medpipe.text.encoder import SentenceEncoder
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows, pad_rows

STATES_FILE = "teacher.safetensors"
SAMPLE = 2000  # sentences that give the mean and the deviation of the states
CHUNK = 512  # sentences that the teacher reads at a time
STEPS = 32  # of the byte for one standard deviation: states beyond four deviations are cut


@dataclass(frozen=True, slots=True)
class DistillationConfig:
    """The ``[distillation]`` table of a config."""

    texts: list[str]  # files below the corpora's folder; pairs give their sources, documents their texts
    held_out: list[str]  # as ``texts``; to choose the weights with
    layers: list[int] = field(default_factory=lambda: [4])  # of the teacher, whose states are averaged
    size: int = 384  # of the teacher's states
    masked: float = 0.15  # of the words
    dropout: float = 0.1
    batch_tokens: int = 4096
    compute: str = "bfloat16"  # of the teacher
    training: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, slots=True)
class States:
    """The teacher's states of all words of some texts, standardised."""

    values: Tensor  # shape: (tokens, size), int8, ``STEPS`` to a standard deviation
    known: Tensor  # shape: (tokens,), bool; false where the teacher could not read so far


class DistillationNetwork(nn.Module):
    """The encoder with two heads that predict the teacher's states: from the word alone, and from its sentence."""

    def __init__(self, encoder: SentenceEncoder, size: int, compute: str = "float32") -> None:
        super().__init__()
        self.compute = compute
        self.encoder = encoder
        self.alone = nn.Linear(2 * encoder.config.width, size)
        self.within = nn.Linear(2 * encoder.config.hidden, size)

    def forward(self, vectors: Tensor, lengths: Tensor, masked: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts the states.

        Args:
            vectors: shape: (batch, time, 2 * width).
            lengths: shape: (batch,).
            masked: shape: (batch, time), bool.
            known: shape: (batch, time), bool; whose states are asked for.

        Returns:
            From the words alone and from their sentences, shape: (known words, size) each.
        """
        with lower_precision(vectors.device, self.compute):
            hidden = self.encoder(vectors * ~masked[:, :, None], lengths)
        return self.alone(vectors[known]), self.within(hidden[known])


def distill(
    network: SentenceEncoder,
    config: DistillationConfig,
    *,
    corpora: Path,
    out: Path,
    resume: bool,
    report: Callable[[str], None],
    teacher: Teacher | None = None,
) -> dict[str, float]:
    """Trains the encoder in place; resumable as all training, its checkpoint in ``out``.

    The checkpoint knows no labels: put into another model's folder, it spares that model the distillation.

    Args:
        network: what is trained: its embeddings, LSTMs and norms.
        config: the ``[distillation]`` table.
        corpora: folder that holds the corpora's folders.
        out: folder of the checkpoint and of the teacher's states.
        resume: goes on from what lies in ``out``.
        report: gets a line of figures now and then.
        teacher: the encoder to learn from; the package's where none is given.

    Returns:
        ``tokens`` (an epoch), ``epochs``, ``explained`` (fraction of the states' variance, held out) and ``seconds``.

    Raises:
        MedpipeError: TEACHER_NOT_FOUND, CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    device = next(network.parameters()).device
    table = WordTable(network.config.buckets)
    rows, held_out = (make_rows(list(read_texts(corpora, files)), table) for files in (config.texts, config.held_out))
    features = torch.from_numpy(table.features.copy())
    report(f"distillation: {len(rows.words)} tokens an epoch, {len(features)} different words")

    @cache
    def get_states() -> list[States]:
        """Those of the training and of the held-out texts; not asked for where the training is done already."""
        found = teacher or Teacher(find_teacher(), compute=getattr(torch, config.compute), device=device)
        return load_states(found, [rows, held_out], table.words, config, file=out / STATES_FILE, report=report)

    torch.manual_seed(config.training.seed)
    encoder = SentenceEncoder(replace(network.config, dropout=config.dropout))
    model = DistillationNetwork(encoder, config.size, config.training.compute).to(device)

    def make_batches(epoch: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        shuffled = rng.permutation(len(rows.length))
        buckets = bucket_batches(rows.length[shuffled], config.batch_tokens)
        return [
            mask_batch(rows, shuffled[buckets[index]], config.masked, rng) for index in rng.permutation(len(buckets))
        ]

    def compute_loss(module: nn.Module, batch: tuple[np.ndarray, np.ndarray]) -> Tensor:
        return state_losses(module, rows, get_states()[0], *batch, features=features).sum()

    def evaluate(module: nn.Module) -> tuple[float, dict[str, Any]]:
        losses = [
            state_losses(module, held_out, get_states()[1], chosen, np.zeros((1, 1), dtype=bool), features=features)
            for chosen in bucket_batches(held_out.length, config.batch_tokens)
        ]
        alone, within = (1 - torch.stack(losses).mean(0)).tolist()
        return within, {"alone": alone, "within": within}

    trainer = Trainer(
        model, config=config.training, folder=out, make_batches=make_batches, compute_loss=compute_loss,
        evaluate=evaluate, report=report,
    )  # fmt: skip
    model.load_state_dict(trainer.train(resume=resume))
    network.load_state_dict(encoder.state_dict(), strict=False)  # a tagger has more than an encoder
    (out / STATES_FILE).unlink(missing_ok=True)
    return {
        "tokens": len(rows.words),
        "epochs": config.training.epochs,
        "explained": trainer.progress.best_score,
        "seconds": trainer.progress.seconds,
    }


def state_losses(
    module: nn.Module, rows: Rows, states: States, chosen: np.ndarray, mask: np.ndarray, *, features: Tensor
) -> Tensor:
    """Returns the mean squared error of a batch's standardised states, from words alone and from sentences.

    Args:
        module: a ``DistillationNetwork``.
        rows: all sentences.
        states: of all their words.
        chosen: shape: (batch,); which sentences.
        mask: shape: (batch, time) or one that fits it, bool; which words are hidden from the sentence.
        features: shape: (words, features), int32.

    Returns:
        shape: (2,).
    """
    assert isinstance(module, DistillationNetwork)
    device = module.alone.weight.device
    positions, inside = pad_rows(rows.start[chosen], rows.length[chosen])
    words = np.where(inside, rows.words[positions], 0)
    unique, inverse = np.unique(words, return_inverse=True)
    vectors = module.encoder.embed(features[torch.from_numpy(unique).long()].to(device))
    vectors = vectors.index_select(0, torch.from_numpy(inverse.reshape(-1)).to(device)).view(*words.shape, -1)
    known = torch.from_numpy(inside) & states.known[torch.from_numpy(positions)]  # shape: (batch, time)
    # shape: (known words, size)
    target = states.values[torch.from_numpy(positions)[known]].to(device).float() / STEPS
    lengths = torch.from_numpy(rows.length[chosen]).to(device)
    predicted = module(vectors, lengths, torch.from_numpy(mask).to(device), known.to(device))
    return torch.stack([((one - target) ** 2).mean() for one in predicted])


def load_states(
    teacher: Teacher,
    texts: Sequence[Rows],
    words: Sequence[str],
    config: DistillationConfig,
    *,
    file: Path,
    report: Callable[[str], None],
) -> list[States]:
    """Returns the states of some texts, from ``file`` if they lie there; else asks the teacher and writes them.

    Mean and deviation are those of a sample of the first of the texts.
    """
    asked = json.dumps({key: value for key, value in asdict(config).items() if key in ("texts", "held_out", "layers")})
    if file.is_file():
        with safe_open(file, framework="pt") as stored:
            if stored.metadata()["asked"] == asked:
                return [
                    States(stored.get_tensor(f"values/{number}"), stored.get_tensor(f"known/{number}"))
                    for number in range(len(texts))
                ]
    sample = np.random.default_rng(0).permutation(len(texts[0].length))[:SAMPLE]
    seen = torch.cat([state for _, state in read_states(teacher, texts[0], words, sample, config.layers)])
    mean, deviation = seen.mean(0), seen.std(0).clamp(min=1e-6)
    made = []
    for rows in texts:
        values = torch.zeros(len(rows.words), teacher.size, dtype=torch.int8)
        known = torch.zeros(len(rows.words), dtype=torch.bool)
        for first, state in read_states(teacher, rows, words, np.arange(len(rows.length)), config.layers):
            steps = ((state - mean) / deviation * STEPS).round().clamp(-127, 127)
            values[first : first + len(state)] = steps.to(torch.int8)
            known[first : first + len(state)] = True
        made.append(States(values, known))
        report(f"the teacher has read {int(known.sum())} words")
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"values/{number}": one.values for number, one in enumerate(made)}
    tensors |= {f"known/{number}": one.known for number, one in enumerate(made)}
    partial = file.with_name(file.name + ".partial")
    save_file(tensors, partial, metadata={"asked": asked})
    partial.replace(file)
    return made


def read_states(
    teacher: Teacher, rows: Rows, words: Sequence[str], chosen: np.ndarray, layers: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yields, for every sentence of ``chosen``, its first token and its words' states, shape: (words, size)."""
    chosen = chosen[np.argsort(rows.length[chosen], kind="stable")]  # alike lengths together: little padding
    for part in np.array_split(chosen, max(1, -(-len(chosen) // CHUNK))):
        sentences = [
            teacher.cut([words[word] for word in rows.words[rows.start[row] : rows.start[row] + rows.length[row]]])
            for row in part
        ]
        yield from zip(rows.start[part].tolist(), teacher.read(sentences, layers), strict=True)
