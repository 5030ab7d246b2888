"""Trains the summarizer: selector and pointer-generator together, on pairs of a source and its summary.

Entity and relation features come from the shipped models, run once over all sources and kept in the output
folder. References say things that their source does not; a sentence with too few words from the note teaches the
selector alone, and a single foreign word is read by the generator but never asked of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medpipe.device import resolve_device
from medpipe.errors import MedpipeError
from medpipe.evaluate.summaries import annotate
from medpipe.learn.corpora import SummaryPair, read_pairs
from medpipe.learn.loop import LoopConfig, Trainer
from medpipe.records import ModelId
from medpipe.summarize.align import align_tokens, oracle_sentences
from medpipe.summarize.decode import Outcome, compose
from medpipe.summarize.features import (
    Source,
    Vocabulary,
    Words,
    collate,
    describe_words,
    hash_words,
    is_template,
    word_buckets,
)
from medpipe.summarize.network import FLOOR, Encoded, Memory, NetworkConfig, SummaryNetwork
from medpipe.summarize.notes import read_notes
from medpipe.summarize.repair import DecodeConfig
from medpipe.summarize.select import within_budget
from medpipe.summarize.stage import Summarizer
from medpipe.summarize.template_words import TEMPLATE_WORDS
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import Tokens, tokenize
from medpipe.weights import find_model, load_weights, read_config, save_model

ALIGNED_BONUS = 20.0  # on the logit of a sentence that the reference copies from: the generator always sees it
BEAMS = 4  # of the search that compares epochs


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What becomes of references; the ``[targets]`` table of a config."""

    max_words: int = 120
    min_supported: float = 0.5
    attended: int = 300
    batch_notes: int = 16


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights of the losses beside the likelihood of the summary; the ``[loss]`` table."""

    copy: float = 0.5
    coverage: float = 0.2
    sentences: float = 2.0
    tokens: float = 0.5


@dataclass(frozen=True, slots=True)
class Example:
    """A pair as targets."""

    source: Source
    types: np.ndarray  # shape: (words,), uint64: the part of the reference that the generator learns
    known: np.ndarray  # shape: (words,), int64: identifier in the vocabulary, -1 for none
    aligned: np.ndarray  # shape: (words,), int64: source token, -1 for none
    sentence_labels: np.ndarray  # shape: (sentences,), float32
    token_labels: np.ndarray  # shape: (tokens,), float32


def make_example(source: Source, summary: str, vocabulary: Vocabulary, config: TargetConfig) -> Example | None:
    """Returns the targets of one pair; none where the source or the summary has no words."""
    tokens = tokenize(summary)
    words = describe_words(summary, tokens)
    if len(source.tokens) == 0 or not source.eligible.any() or not words.wordlike.any():
        return None
    oracle = oracle_sentences(source, words.types[words.wordlike])
    kept = supported_words(split_sentences(summary, tokens), words, source, config)
    words = Words(words.types[kept], words.suffixes[kept], words.shapes[kept], words.wordlike[kept])
    known = vocabulary.lookup(words.types)
    aligned = align_tokens(source, words, is_template(words.types), oracle)
    sentence_labels = np.zeros(len(source.sentences), dtype=np.float32)
    sentence_labels[oracle] = 1.0
    token_labels = np.zeros(len(source.tokens), dtype=np.float32)
    token_labels[aligned[aligned >= 0]] = 1.0
    return Example(source, words.types, known, aligned, sentence_labels, token_labels)


def shuffle_sentences(source: Source, random: np.random.Generator) -> Source:
    """Returns a source with its sentences in another order; tokens and mentions lead to the places where they were.

    For sources whose sentences say the same in any order (the findings of a report): more to learn from a small corpus.
    Each sentence has the place of the one whose turn it takes; sections go with their sentences.
    """
    order = random.permutation(len(source.sentences))
    tokens = np.concatenate([np.arange(*source.sentences[index]) for index in order]) if len(order) else order
    lengths = source.lengths[order]
    ends = np.cumsum(lengths)
    places = source.places.copy()
    places[:, 3] = source.places[order, 3]
    return replace(
        source,
        tokens=Tokens(source.tokens.start[tokens], source.tokens.end[tokens]),
        types=source.types[tokens],
        suffixes=source.suffixes[tokens],
        shapes=source.shapes[tokens],
        wordlike=source.wordlike[tokens],
        flags=source.flags[tokens],
        sentences=np.stack([ends - lengths, ends], axis=1).astype(source.sentences.dtype),
        sentence_of=np.repeat(np.arange(len(order)), lengths),
        places=places,
        eligible=source.eligible[order],
        sections=[source.sections[index] for index in order.tolist()],
    )


def supported_words(sentences: np.ndarray, words: Words, source: Source, config: TargetConfig) -> np.ndarray:
    """Returns the summary tokens of the sentences that rest on the source, up to ``max_words``."""
    content = ~is_template(words.types) & words.wordlike
    found = np.isin(words.types, source.types)
    kept: list[np.ndarray] = []
    room = config.max_words
    for first, end in sentences.tolist():
        if end - first > room:
            break
        inside = content[first:end]
        if config.min_supported and (not inside.any() or found[first:end][inside].mean() < config.min_supported):
            continue
        kept.append(np.arange(first, end))
        room -= end - first
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


# --- tensors ------------------------------------------------------------------------------


def choose_slots(example: Example, logits: np.ndarray, budget: int) -> np.ndarray:
    """Returns the source tokens that the generator attends to: those the reference copies, then the selector's best."""
    copied = np.bincount(example.source.sentence_of[example.aligned[example.aligned >= 0]], minlength=len(logits))
    scores = logits + ALIGNED_BONUS * np.minimum(copied, 3)
    sentences = within_budget(scores, example.source.lengths, np.ones(len(logits), dtype=bool), budget)
    chosen = np.zeros(len(logits), dtype=bool)
    chosen[sentences] = True
    return np.flatnonzero(chosen[example.source.sentence_of])


@dataclass(frozen=True, slots=True)
class Targets:
    """What the decoder reads and should say; see ``SummaryNetwork.forward``."""

    memory: Memory
    own: Tensor  # shape: (notes, words, 2)
    inputs: Tensor  # shape: (notes, steps), int64
    last: Tensor  # shape: (notes, steps), int64
    copied: Tensor  # shape: (notes, steps), bool
    said: Tensor  # shape: (notes, steps), int64
    weight: Tensor  # shape: (notes, steps), float32; 0 for padding and for words without a source


def make_targets(
    examples: Sequence[Example],
    encoded: Encoded,
    counts: np.ndarray,
    slots: Sequence[np.ndarray],
    vocabulary: Vocabulary,
) -> Targets:
    """Returns the decoder's tensors for a batch whose attended tokens are ``slots``."""
    notes = len(examples)
    width = max(len(chosen) for chosen in slots)
    steps = max(len(example.types) for example in examples) + 1
    firsts = np.cumsum(counts) - counts
    flat = np.zeros((notes, width), dtype=np.int64)
    mask = np.zeros((notes, width), dtype=bool)
    ids = np.zeros((notes, width), dtype=np.int64)
    inputs = np.zeros((notes, steps), dtype=np.int64)
    last = np.full((notes, steps), -1, dtype=np.int64)
    copied = np.zeros((notes, steps), dtype=bool)
    said = np.zeros((notes, steps), dtype=np.int64)
    weight = np.zeros((notes, steps), dtype=np.float32)
    own: list[np.ndarray] = []
    for row, (example, chosen) in enumerate(zip(examples, slots, strict=True)):
        n_slots, n_words = len(chosen), len(example.types)
        flat[row, :n_slots] = firsts[row] + chosen
        mask[row, :n_slots] = True
        joint, own_types = vocabulary.extend(np.concatenate([example.source.types[chosen], example.types]))
        own.append(word_buckets(own_types))
        ids[row, :n_slots] = joint[:n_slots]
        words = joint[n_slots:]
        said[row, : n_words + 1] = [*words.tolist(), Vocabulary.END]
        inputs[row, : n_words + 1] = [Vocabulary.START, *words.tolist()]
        sayable = (words < vocabulary.size) | np.isin(words, joint[:n_slots])
        weight[row, : n_words + 1] = [*sayable.tolist(), n_words > 0]
        slot_of = np.full(len(example.source.tokens) + 1, -1, dtype=np.int64)
        slot_of[chosen] = np.arange(n_slots)
        slot = slot_of[example.aligned]  # -1 (no source) reads the last entry, which is -1
        copied[row, 1 : n_words + 1] = slot >= 0
        place = np.where(slot >= 0, np.arange(n_words), -1)
        latest = np.maximum.accumulate(place) if n_words else place
        last[row, 1 : n_words + 1] = np.where(latest >= 0, slot[np.maximum(latest, 0)], -1)
    widest = max(1, max(len(buckets) for buckets in own))
    table = np.zeros((notes, widest, 2), dtype=np.int64)
    for row, buckets in enumerate(own):
        table[row, : len(buckets)] = buckets
    device = encoded.memory.device

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    index = tensor(flat)
    memory = Memory(
        values=encoded.memory[index],
        mask=tensor(mask),
        prior=F.logsigmoid(encoded.token_logits[index]).detach(),
        ids=tensor(ids),
    )
    return Targets(memory, tensor(table), tensor(inputs), tensor(last), tensor(copied), tensor(said), tensor(weight))


def summary_loss(
    network: SummaryNetwork,
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    *,
    targets: TargetConfig,
    weights: LossConfig,
) -> Tensor:
    """Returns the loss of a batch: likelihood, copy supervision, coverage, sentence and token selection."""
    device = network.vocabulary_buckets.device
    batch = collate([example.source for example in examples], device)
    encoded = network.encode(batch)
    sentence_labels = torch.from_numpy(np.concatenate([example.sentence_labels for example in examples])).to(device)
    token_labels = torch.from_numpy(np.concatenate([example.token_labels for example in examples])).to(device)
    loss = weights.sentences * F.binary_cross_entropy_with_logits(encoded.sentence_logits, sentence_labels)
    loss = loss + weights.tokens * F.binary_cross_entropy_with_logits(encoded.token_logits, token_labels)

    logits = encoded.sentence_logits.detach().cpu().numpy()
    cuts = np.cumsum(batch.sentence_counts)[:-1]
    slots = [
        choose_slots(example, part, targets.attended)
        for example, part in zip(examples, np.split(logits, cuts), strict=True)
    ]
    wanted = make_targets(examples, encoded, batch.token_counts, slots, vocabulary)
    attention, coverage = network(wanted.inputs, wanted.own, wanted.last, wanted.copied, wanted.memory)
    size = len(network.vocabulary_buckets)
    same = wanted.memory.ids.unsqueeze(1) == wanted.said.unsqueeze(-1)  # shape: (notes, steps, slots)
    copy = (attention.copy * (same & wanted.memory.mask.unsqueeze(1))).sum(dim=-1)
    gate = attention.gate.squeeze(-1)
    known = attention.words.gather(2, wanted.said.clamp(max=size - 1).unsqueeze(-1)).squeeze(-1) * (wanted.said < size)
    likelihood = gate * known + (1 - gate) * copy
    total = wanted.weight.sum().clamp(min=1)
    loss = loss - (torch.log(likelihood + FLOOR) * wanted.weight).sum() / total

    # The slot copied at a step is what the next step calls the last copy.
    right = torch.cat([wanted.last[:, 1:], wanted.last[:, :1]], dim=1)
    is_copy = torch.cat([wanted.copied[:, 1:], wanted.copied[:, :1]], dim=1)
    exact = attention.copy.gather(2, right.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    supervised = torch.log(exact + FLOOR) + torch.log(1 - gate + FLOOR)
    loss = loss - weights.copy * (supervised * is_copy).sum() / total
    held = torch.minimum(attention.copy, coverage).sum(dim=-1)
    return loss + weights.coverage * (held * wanted.weight).sum() / total


# --- training -----------------------------------------------------------------------------


def train(
    config: dict[str, Any],
    *,
    corpora: Path,
    out: Path,
    device: str = "auto",
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a summarizer and writes its folder; returns the dev scores.

    Raises:
        MedpipeError: CONFIG_INVALID, CORPUS_NOT_FOUND, CORPUS_INVALID, DEVICE_UNAVAILABLE.
    """
    name = config.get("name", "summarizer")
    try:
        targets = TargetConfig(**config.get("targets", {}))
        weights = LossConfig(**config.get("loss", {}))
        network_config = NetworkConfig(**config.get("network", {}))
        loop_config = LoopConfig(**config.get("training", {}))
        decode = DecodeConfig(**config.get("decode", {}))
        open_words = {name: int(config["vocabulary"][name]) for name in config.get("vocabulary", ())}
        modes = tuple(config.get("choose_by", ("extractive", "abstractive")))
        splits = [(part, corpora / part["folder"]) for part in config["corpora"]]
        version = str(config["version"])
    except (KeyError, TypeError) as error:
        raise MedpipeError("CONFIG_INVALID", name=name, reason=error) from error
    where = resolve_device(device)
    out.mkdir(parents=True, exist_ok=True)
    read = [[pair for file in part["train"] for pair in read_pairs(folder / file)] for part, folder in splits]
    vocabulary = Vocabulary(
        [*sorted(TEMPLATE_WORDS), *frequent_words([pair.summary for pairs in read for pair in pairs], **open_words)]
    )

    taught: list[Example] = []
    dev: list[tuple[Source, str]] = []
    for (part, folder), pairs in zip(splits, read, strict=True):
        sources = read_sources(pairs, config, out, device=device)
        examples = [make_example(*both, vocabulary, targets) for both in zip(sources, _summaries(pairs), strict=True)]
        usable = [example for example in examples if example is not None]
        taught += usable * int(part.get("repeat", 1))
        random = np.random.default_rng([loop_config.seed, len(taught)])
        for _ in range(int(part.get("shuffled", 0))):
            mixed = [shuffle_sentences(source, random) for source in sources]
            made = [make_example(*both, vocabulary, targets) for both in zip(mixed, _summaries(pairs), strict=True)]
            taught += [example for example in made if example is not None]
        looked_at = [pair for file in part.get("dev", []) for pair in read_pairs(folder / file)]
        looked_at = looked_at[: config.get("dev_limit", 80)]
        dev += zip(read_sources(looked_at, config, out, device=device), _summaries(looked_at), strict=True)
        report(f"{part['folder']}: {len(usable)} of {len(pairs)} pairs to learn from, {len(looked_at)} to choose by")

    torch.manual_seed(loop_config.seed)
    network = SummaryNetwork(network_config, torch.from_numpy(vocabulary.buckets)).to(where)
    if "initial" in config:
        begin_with(network, str(config["initial"]), vocabulary)
    report(f"{sum(value.numel() for value in network.parameters()) / 1e6:.2f} million weights")

    def make_batches(epoch: int, random: np.random.Generator) -> list[list[Example]]:
        return example_batches(taught, targets.batch_notes, random)

    def compute_loss(module: nn.Module, batch: Sequence[Example]) -> Tensor:
        assert isinstance(module, SummaryNetwork)
        return summary_loss(module, batch, vocabulary, targets=targets, weights=weights)

    def evaluate(module: nn.Module) -> tuple[float, dict[str, Any]]:
        assert isinstance(module, SummaryNetwork)
        return dev_score(module, vocabulary, decode, dev, modes)

    trainer = Trainer(
        network,
        config=loop_config,
        folder=out,
        make_batches=make_batches,
        compute_loss=compute_loss,
        evaluate=evaluate,
        report=report,
    )
    best = trainer.train(resume=resume)
    network.load_state_dict(best)
    done = trainer.progress
    scores = {"dev": done.best_score, "epoch": done.best_epoch, "minutes": done.seconds / 60}
    saved = {
        "name": name,
        "version": version,
        "network": asdict(network_config),
        "decode": asdict(decode),
        "vocabulary": vocabulary.words[3:],
        "trained_on": [
            {"folder": part["folder"], "files": part["train"], "licence": part.get("licence")} for part, _ in splits
        ],
    }
    save_model(out, best, saved)
    if not (out / "MODEL_CARD.md").is_file():
        (out / "MODEL_CARD.md").write_text(model_card(saved, scores), encoding="utf-8")
    return scores


def frequent_words(summaries: Sequence[str], *, most: int = 0, count: int = 1) -> list[str]:
    """Returns the words that references say most often, beside the template words; sorted.

    A benchmark model may generate them; the check of the shipped model knows the template words alone, so a word that
    is generated and that the note does not hold fails it.

    Args:
        summaries: the references.
        most: how many words; 0: none.
        count: how often a word has to occur at least.
    """
    times = Counter(word.lower() for text in summaries for word in tokenize(text).strings(text))
    frequent = [word for word, seen in times.most_common() if seen >= count and word not in TEMPLATE_WORDS]
    chosen = sorted(frequent[:most])
    # Two words of one hash (a letter that is not folded) would be one word.
    unique = np.unique(hash_words(chosen), return_index=True)[1] if chosen else ()
    return [chosen[index] for index in sorted(unique)]


def begin_with(network: SummaryNetwork, model: str, vocabulary: Vocabulary) -> None:
    """Starts a network from another model: all weights of the same name and shape, and the output of shared words.

    Raises:
        MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID.
    """
    folder = find_model(model)
    state, words = load_weights(folder), read_config(folder)["vocabulary"]
    mine = network.state_dict()
    rows = Vocabulary(words)
    own = np.arange(vocabulary.size)
    theirs = np.concatenate([np.arange(3), rows.lookup(hash_words(vocabulary.words[3:]))])
    for name, value in state.items():
        if name.startswith("output.") and name in mine and mine[name].shape[1:] == value.shape[1:]:
            mine[name][own[theirs >= 0]] = value.to(mine[name])[theirs[theirs >= 0]]
        elif name in mine and mine[name].shape == value.shape:
            mine[name].copy_(value)


def example_batches(examples: Sequence[Example], size: int, random: np.random.Generator) -> list[list[Example]]:
    """Returns shuffled batches of notes of about equal length."""
    lengths = np.array([len(example.source.tokens) for example in examples])
    order = np.argsort(lengths * random.uniform(0.8, 1.25, len(lengths)), kind="stable")
    batches = [[examples[index] for index in order[first : first + size]] for first in range(0, len(order), size)]
    return [batches[index] for index in random.permutation(len(batches))]


def dev_score(
    network: SummaryNetwork,
    vocabulary: Vocabulary,
    decode: DecodeConfig,
    dev: Sequence[tuple[Source, str]],
    modes: Sequence[str] = ("extractive", "abstractive"),
) -> tuple[float, dict[str, Any]]:
    """Returns the mean of word and word-pair F-measure of extracts and of drafts before their check, and both.

    Args:
        network, vocabulary, decode: the model.
        dev: sources and their references.
        modes: what is scored: "extractive", "abstractive" or both.
    """
    figures: dict[str, Any] = {}
    model = ModelId("training", "0", "")
    for mode in modes:
        # Epochs are compared by the best of a small beam: samples take ten times as long.
        quick = replace(decode, mode=mode, beams=min(decode.beams, BEAMS), samples=0)
        stage = Summarizer(network, vocabulary, quick, model=model)
        outcomes = stage.summarize([source for source, _ in dev])
        values = [
            overlap_f(compose(source, outcome.sentences).text, summary)
            for (source, summary), outcome in zip(dev, outcomes, strict=True)
            if isinstance(outcome, Outcome)
        ]
        figures[mode] = float(np.mean(values)) if values else 0.0
    return float(np.mean(list(figures.values()))), figures


def overlap_f(text: str, reference: str) -> float:
    """Returns the mean F-measure of shared words and of shared word pairs (ROUGE-1 and ROUGE-2 without stemming)."""
    scores = []
    for length in (1, 2):
        said, wanted = _grams(text, length), _grams(reference, length)
        shared = sum((said & wanted).values())
        scores.append(2 * shared / max(1, said.total() + wanted.total()))
    return sum(scores) / 2


def _grams(text: str, length: int) -> Counter[tuple[int, ...]]:
    words = describe_words(text, tokenize(text))
    types = words.types[words.wordlike].tolist()
    return Counter(zip(*(types[first:] for first in range(length)), strict=False))


def _summaries(pairs: Sequence[SummaryPair]) -> list[str]:
    return [pair.summary for pair in pairs]


def read_sources(pairs: Sequence[SummaryPair], config: dict[str, Any], out: Path, *, device: str) -> list[Source]:
    """Returns the sources of pairs with the entities that the config's models find in them."""
    texts = [pair.source for pair in pairs]
    tables = annotate(
        texts, tagger=config.get("tagger"), relations=config.get("relations"), device=device, cache=out / "annotated"
    )
    return [note.source for note in read_notes(tables)]


def model_card(config: dict[str, Any], scores: dict[str, Any]) -> str:
    """Returns the card of a model that was just trained."""
    data = "\n".join(
        f"- {part['folder']} ({', '.join(part['files'])}), {part['licence']}" for part in config["trained_on"]
    )
    return f"""# {config["name"]} {config["version"]}

Content selector and pointer-generator with coverage for clinical notes (`medpipe/summarize/network.py`).

Trained by `medpipe train {config["name"]}` on

{data}

Best of its training at epoch {scores["epoch"]} after {scores["minutes"]:.0f} minutes: mean of ROUGE-1 and ROUGE-2
(unstemmed) {scores["dev"]:.3f} on dev. Measure it with `medpipe evaluate summarizer`.
"""
