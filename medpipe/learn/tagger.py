"""Trains the tagger, jointly over corpora that annotate different labels.

A corpus's label map (``[[corpora]]`` of the config) says what its types are in our labels; a label that it does not
annotate gets no loss from its sentences. Batches mix all corpora, so the encoder is shared from the first step.

Besides the text, the network is told the annotation style of a sentence's corpus, so that conventions (an eligibility
criterion is annotated otherwise than a case report) do not blur; with the chance ``plain_style`` it is told the first
style, that of clinical narrative, which is also what it is told at inference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medpipe.device import resolve_device
from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import LabelMap, Span, make_label_map, score_spans
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.learn.distill import DistillationConfig, distill
from medpipe.learn.divide import Divider, fit_divider
from medpipe.learn.loop import LoopConfig, Trainer, lower_precision
from medpipe.learn.pretrain import PretrainingConfig, pretrain
from medpipe.tag.features import encode_spans, entity_tokens
from medpipe.tag.network import NetworkConfig, TaggerNetwork, likelihood_loss
from medpipe.tag.stage import find_spans, to_characters
from medpipe.text.batches import bucket_batches
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows, pad_rows
from medpipe.weights import save_model

Table = TypeVar("Table")

DEV_BUDGET = 8192  # padded tokens of a batch when scoring


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How batches are made; the ``[sampling]`` table of a config."""

    batch_tokens: int = 2048
    upper_case: float = 0.0
    lower_case: float = 0.0
    plain_style: float = 0.0
    late_epoch: int = 0  # from this epoch on (0 is the first) a corpus's ``late_repeat`` counts


@dataclass(frozen=True, slots=True)
class TaggerConfig:
    """A training config, checked."""

    name: str
    version: str
    labels: list[str]
    auxiliary: dict[str, list[str]]
    divided: list[str]  # auxiliary labels whose mentions train the likelier of its parts, too
    corpora: list[dict[str, Any]]
    styles: list[str]
    network: NetworkConfig
    training: LoopConfig
    sampling: SamplingConfig
    ablations: list[dict[str, Any]]  # what was tried: ``what``, ``corpus``, ``f1``; for the card
    distillation: DistillationConfig | None
    pretraining: PretrainingConfig | None

    @property
    def all_labels(self) -> list[str]:
        """The labels that the model gives, then those that it is only trained on."""
        return [*self.labels, *self.auxiliary]


def parse_config(config: Mapping[str, Any]) -> TaggerConfig:
    """Checks a config and fills in what it leaves out.

    Raises:
        MedpipeError: CONFIG_INVALID.
    """
    name = str(config.get("name", "?"))
    try:
        labels = [str(label) for label in config["labels"]]
        auxiliary = {str(whole): [str(part) for part in parts] for whole, parts in config.get("auxiliary", {}).items()}
        divided = [str(whole) for whole in config.get("divided", [])]
        if unknown := set(divided) - set(auxiliary):
            raise ValueError(f"{sorted(unknown)} to be divided are no auxiliary labels")
        corpora = []
        for entry in config["corpora"]:
            mapping = entry.get("labels")
            annotates = sorted(set(entry.get("annotates", labels if mapping is None else mapping.values())))
            unknown = set(annotates) - set(labels) - set(auxiliary)
            if unknown:
                raise ValueError(f"{entry['folder']} maps to unknown labels {sorted(unknown)}")
            corpora.append(
                {"folder": entry["folder"], "style": "clinical", "repeat": 1, "unsure": {}}
                | {"late_repeat": entry.get("repeat", 1)}
                | dict(entry)
                | {"annotates": annotates}
            )
        if not corpora:
            raise ValueError("no corpora")
        return TaggerConfig(
            name=name,
            version=str(config["version"]),
            labels=labels,
            auxiliary=auxiliary,
            divided=divided,
            corpora=corpora,
            styles=list(dict.fromkeys(entry["style"] for entry in corpora)),
            network=NetworkConfig(**config.get("network", {})),
            training=LoopConfig(**config.get("training", {})),
            sampling=SamplingConfig(**config.get("sampling", {})),
            ablations=[dict(row) for row in config.get("ablations", [])],
            distillation=parse_table(DistillationConfig, config.get("distillation")),
            pretraining=parse_table(PretrainingConfig, config.get("pretraining")),
        )
    except KeyError as error:
        raise MedpipeError("CONFIG_INVALID", name=name, reason=f"no {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise MedpipeError("CONFIG_INVALID", name=name, reason=error) from error


def parse_table(kind: Callable[..., Table], table: Mapping[str, Any] | None) -> Table | None:
    """Returns a table that has a ``training`` table of its own, checked; ``None``: there is none."""
    if table is None:
        return None
    return kind(**{**table, "training": LoopConfig(**table.get("training", {}))})


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """All training sentences, ready to be cut into batches."""

    words: np.ndarray  # shape: (3, tokens), int32; as written, in capitals, in lower case
    start: np.ndarray  # shape: (rows,), int64; first token
    length: np.ndarray  # shape: (rows,), int64
    tags: np.ndarray  # shape: (tokens, labels, levels), int8
    annotated: np.ndarray  # shape: (rows, labels), bool
    style: np.ndarray  # shape: (rows,), int64
    epoch: np.ndarray  # shape: (rows,), int64; the first in which the row is seen
    features: Tensor  # shape: (words, features), int32; of every word


@dataclass(frozen=True, slots=True)
class Batch:
    """Which rows are a batch, and how they are seen."""

    rows: np.ndarray  # shape: (batch,), int64
    case: np.ndarray  # shape: (batch,), int64; 0 as written, 1 in capitals, 2 in lower case
    style: np.ndarray  # shape: (batch,), int64


@dataclass(frozen=True, slots=True)
class DevCorpus:
    """A dev set, ready to be scored."""

    folder: str
    rows: Rows
    gold: list[set[Span]]
    label_map: LabelMap


def read_split(corpora: Path, entry: Mapping[str, Any], split: str) -> list[AnnotatedDocument]:
    """Returns a corpus's documents of a split."""
    return read_documents(corpora / entry["folder"] / entry.get(split, f"{split}.jsonl"))


def make_training_rows(config: TaggerConfig, corpora: Path, table: WordTable) -> tuple[TrainingRows, dict[str, Any]]:
    """Reads the train splits and encodes them; also says what could not be encoded."""
    labels = {label: number for number, label in enumerate(config.all_labels)}
    levels = config.network.levels
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("words", "start", "length", "tags", "annotated", "style", "epoch")
    }
    facts: dict[str, Any] = {}
    tokens_before = 0
    read = {entry["folder"]: read_split(corpora, entry, "train") for entry in config.corpora}
    dividers = make_dividers(config, read)
    for entry in config.corpora:
        documents = read[entry["folder"]]
        texts = [document.text for document in documents]
        rows = make_rows(texts, table)
        cased = [[fold(token) for text, part in zip(texts, rows.tokens, strict=True) for token in part.strings(text)]
                 for fold in (str.upper, str.lower)]  # fmt: skip
        label_map = make_label_map(entry.get("labels"), entry["annotates"], {})
        tags, counts = encode_corpus(documents, rows, label_map, labels, levels, dividers)
        annotated = np.zeros((len(rows.start), len(labels)), dtype=bool)
        parts_of = [part for whole in dividers if whole in entry["annotates"] for part in config.auxiliary[whole]]
        annotated[:, [labels[label] for label in (*entry["annotates"], *parts_of)]] = True
        mark_unsure(annotated, documents, rows, entry["unsure"], labels)
        facts[entry["folder"]] = {
            "documents": len(documents),
            "sentences": len(rows.start),
            "tokens": len(rows.words),
        } | counts
        for number in range(max(entry["repeat"], entry["late_repeat"])):  # the same tokens, more than once an epoch
            late = number >= entry["repeat"]
            parts["epoch"].append(np.full(len(rows.start), config.sampling.late_epoch if late else 0))
            parts["start"].append(rows.start + tokens_before)
            parts["length"].append(rows.length)
            parts["annotated"].append(annotated)
            parts["style"].append(np.full(len(rows.start), config.styles.index(entry["style"])))
        parts["words"].append(np.stack([rows.words, *(table.look_up(words) for words in cased)]))
        parts["tags"].append(tags)
        tokens_before += len(rows.words)
    joined = {name: np.concatenate(values, axis=1 if name == "words" else 0) for name, values in parts.items()}
    return TrainingRows(**joined, features=torch.from_numpy(table.features.copy())), facts


def make_dividers(config: TaggerConfig, read: Mapping[str, Sequence[AnnotatedDocument]]) -> dict[str, Divider]:
    """Returns a classifier for each label that is divided, fitted to the corpora that annotate all its parts."""
    dividers = {}
    for whole in config.divided:
        parts = config.auxiliary[whole]
        mentions = [
            (document.text[start:end], label)
            for entry in config.corpora
            if set(parts) <= set(entry["annotates"])
            for document in read[entry["folder"]]
            for start, end, label in sorted(
                make_label_map(entry.get("labels"), entry["annotates"], {}).map_gold(document)
            )
            if label in parts
        ]
        if mentions:
            dividers[whole] = fit_divider([text for text, _ in mentions], [label for _, label in mentions], parts)
    return dividers


def divide_spans(spans: Sequence[Span], text: str, dividers: Mapping[str, Divider]) -> list[Span]:
    """Returns the spans of labels that are divided, as the part that each most likely is."""
    found: list[Span] = []
    for whole, divider in dividers.items():
        places = [(start, end) for start, end, label in spans if label == whole]
        named = divider.divide([text[start:end] for start, end in places])
        found += [(start, end, part) for (start, end), part in zip(places, named, strict=True)]
    return found


def encode_corpus(
    documents: Sequence[AnnotatedDocument],
    rows: Rows,
    label_map: LabelMap,
    labels: Mapping[str, int],
    levels: int,
    dividers: Mapping[str, Divider],
) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the tags of all tokens of a corpus, and how many entities there are and could not be encoded."""
    tags, entities, across, crowded = [], 0, 0, 0
    for number, document in enumerate(documents):
        gold = sorted(label_map.map_gold(document))
        placed = [
            (entity_tokens(rows.tokens[number], rows.sentences[number], start, end), labels[label])
            for start, end, label in gold + divide_spans(gold, document.text, dividers)
        ]
        spans = [(*interval, label) for interval, label in placed if interval is not None]
        part, lost = encode_spans(spans, len(rows.tokens[number]), len(labels), levels)
        tags.append(part)
        entities += len(gold)
        across += sum(interval is None for interval, _ in placed[: len(gold)])
        crowded += lost
    return np.concatenate(tags), {"entities": entities, "across_sentences": across, "no_level": crowded}


def mark_unsure(
    annotated: np.ndarray,
    documents: Sequence[AnnotatedDocument],
    rows: Rows,
    unsure: Mapping[str, Sequence[str]],
    labels: Mapping[str, int],
) -> None:
    """Takes the labels of ``unsure`` from the sentences that hold an entity of its types."""
    first_row = np.searchsorted(rows.text, np.arange(len(documents)))
    for number, document in enumerate(documents):
        for entity in document.entities:
            if entity.label not in unsure or not len(rows.sentences[number]):
                continue
            touched = np.searchsorted(rows.tokens[number].start, [entity.start, entity.end - 1], side="right") - 1
            one, other = np.searchsorted(rows.sentences[number][:, 0], touched, side="right") - 1
            columns = [labels[label] for label in unsure[entity.label]]
            annotated[first_row[number] + one : first_row[number] + other + 1, columns] = False


def make_batches(
    rows: TrainingRows, sampling: SamplingConfig, rng: np.random.Generator, epoch: int = 0
) -> list[Batch]:
    """Cuts all rows of an epoch into batches of about equal length, in random order."""
    shuffled = rng.permutation(np.flatnonzero(rows.epoch <= epoch))
    buckets = bucket_batches(rows.length[shuffled], sampling.batch_tokens)
    batches = []
    for index in rng.permutation(len(buckets)):
        chosen = shuffled[buckets[index]]
        draw = rng.random(len(chosen))
        case = np.where(draw < sampling.upper_case, 1, np.where(draw < sampling.upper_case + sampling.lower_case, 2, 0))
        style = np.where(rng.random(len(chosen)) < sampling.plain_style, 0, rows.style[chosen])
        batches.append(Batch(chosen, case, style))
    return batches


def batch_loss(
    network: TaggerNetwork, batch: Batch, rows: TrainingRows, device: torch.device, compute: str = "float32"
) -> Tensor:
    """Returns the loss of a batch for every token; ``compute`` as in the loop's config."""
    positions, inside = pad_rows(rows.start[batch.rows], rows.length[batch.rows])
    words = np.where(inside, rows.words[batch.case[:, None], positions], 0)
    unique, inverse = np.unique(words, return_inverse=True)
    features = rows.features[torch.from_numpy(unique).long()].to(device)
    # shape: (batch * time, 2 * width) -> (batch, time, 2 * width)
    vectors = network.embed(features).index_select(0, torch.from_numpy(inverse.reshape(-1)).to(device))
    vectors = vectors.view(*words.shape, -1)
    lengths = torch.from_numpy(rows.length[batch.rows]).to(device)
    with lower_precision(device, compute):
        hidden = network.encode(vectors, lengths, torch.from_numpy(batch.style).to(device))
    emissions = network.score(hidden)
    tags = torch.from_numpy(np.where(inside[:, :, None, None], rows.tags[positions], 0)).to(device)
    annotated = torch.from_numpy(rows.annotated[batch.rows]).to(device)
    return likelihood_loss(network, emissions, lengths, tags, annotated) / int(rows.length[batch.rows].sum())


def make_dev(config: TaggerConfig, corpora: Path, table: WordTable) -> list[DevCorpus]:
    """Reads the dev splits."""
    dev = []
    for entry in config.corpora:
        documents = read_split(corpora, entry, "dev")
        label_map = make_label_map(entry.get("labels"), entry["annotates"], config.auxiliary)
        gold = [label_map.map_gold(document) for document in documents]
        dev.append(
            DevCorpus(entry["folder"], make_rows([document.text for document in documents], table), gold, label_map)
        )
    return dev


def predict_dev(
    network: TaggerNetwork, dev: Sequence[DevCorpus], features: Tensor, labels: Sequence[str]
) -> list[list[list[tuple[Span, float]]]]:
    """Returns the entities of every document of every dev set, with their log-probabilities."""
    device = network.output.weight.device
    with torch.inference_mode():
        vectors = network.embed(features.to(device))
    predicted = []
    for corpus in dev:
        spans, _, _ = find_spans(network, vectors, corpus.rows, token_budget=DEV_BUDGET, labels=len(labels))
        starts, ends = to_characters(spans, corpus.rows)
        names = [labels[label] for label in spans.label]
        found = list(zip(zip(starts.tolist(), ends.tolist(), names, strict=True), spans.score.tolist(), strict=True))
        predicted.append([found[spans.of_text(number)] for number in range(len(corpus.gold))])
    return predicted


def score_dev(
    network: TaggerNetwork, dev: Sequence[DevCorpus], features: Tensor, labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Returns the scores of every dev set, as ``score_spans`` gives them."""
    predicted = predict_dev(network, dev, features, labels)
    return {
        corpus.folder: score_spans(
            corpus.gold, [corpus.label_map.map_predicted(span for span, _ in spans) for spans in found]
        )
        for corpus, found in zip(dev, predicted, strict=True)
    }


def fit_calibration(log_probability: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Returns slope and intercept on the logit that fit probabilities to how often the model is right (Platt 1999)."""
    if not 0 < right.sum() < len(right):
        return 1.0, 0.0
    probability = torch.from_numpy(np.clip(np.exp(log_probability), 1e-6, 1 - 1e-6))
    logit = torch.log(probability / (1 - probability))
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    target = torch.from_numpy(right.astype(np.float64))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(weights[0] * logit + weights[1], target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call, arg-type]
    slope, intercept = weights.tolist()
    return round(slope, 4), round(intercept, 4)


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Returns the expected calibration error (Naeini et al. 2015) over bins of equal width."""
    if not len(probability):
        return 0.0
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(probability[which == number].mean() - right[which == number].mean()) * (which == number).mean()
        for number in range(bins)
        if (which == number).any()
    ]
    return float(sum(gaps))


def train(
    config: dict[str, Any],
    *,
    corpora: Path,
    out: Path,
    device: str,
    resume: bool,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a tagger and writes ``model.safetensors``, ``config.json`` and ``MODEL_CARD.md`` to ``out``.

    Args:
        config: a training config, as ``learn.config.load_config`` gives it.
        corpora: folder that holds the corpora's folders.
        out: the model's folder; the checkpoint lies there too while it trains.
        device: auto, cpu, cuda or cuda:N.
        resume: goes on from the checkpoint in ``out``, if there is one.
        report: gets a line after every epoch.

    Returns:
        ``score`` (mean micro F1 over the corpora's dev sets), ``dev`` (the scores of each), ``seconds``.

    Raises:
        MedpipeError: CONFIG_INVALID, CORPUS_NOT_FOUND, CORPUS_INVALID, DEVICE_UNAVAILABLE.
    """
    parsed = parse_config(config)
    where = resolve_device(device)
    torch.manual_seed(parsed.training.seed)
    network = TaggerNetwork(parsed.network, labels=len(parsed.all_labels), styles=len(parsed.styles)).to(where)
    before = taught = None
    if parsed.distillation is not None:
        taught = distill(
            network, parsed.distillation, corpora=corpora, out=out / "distillation", resume=resume, report=report
        )
    if parsed.pretraining is not None:
        before = pretrain(
            network, parsed.pretraining, corpora=corpora, out=out / "pretraining", resume=resume, report=report
        )
    table = WordTable(parsed.network.buckets)
    rows, facts = make_training_rows(parsed, corpora, table)
    dev = make_dev(parsed, corpora, table)
    features = torch.from_numpy(table.features.copy())
    report(f"{len(rows.start)} sentences, {int(rows.length.sum())} tokens an epoch, {len(features)} different words")

    def evaluate(module: nn.Module) -> tuple[float, dict[str, Any]]:
        assert isinstance(module, TaggerNetwork)
        scores = {
            folder: float(result["micro"]["f1"])
            for folder, result in score_dev(module, dev, features, parsed.labels).items()
        }
        return float(np.mean(list(scores.values()))), scores

    def compute_loss(module: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(module, TaggerNetwork)
        return batch_loss(module, batch, rows, where, parsed.training.compute)

    trainer = Trainer(
        network,
        config=parsed.training,
        folder=out,
        make_batches=lambda epoch, rng: make_batches(rows, parsed.sampling, rng, epoch),
        compute_loss=compute_loss,
        evaluate=evaluate,
        report=report,
    )
    started = time.monotonic()
    best = trainer.train(resume=resume)
    network.load_state_dict(best)
    # What is shipped is scored: float16 weights, as they lie on disk.
    network.load_state_dict({name: value.half().float() for name, value in best.items()})
    network.constrain()
    network.eval()
    result = finish(parsed, network, dev, features)
    result |= {
        "seconds": trainer.progress.seconds,
        "wall_seconds": time.monotonic() - started,
        "epochs": trainer.progress.best_epoch,
    }
    result |= {"train": facts, "distillation": taught, "pretraining": before}
    model_config = {
        "name": parsed.name,
        "version": parsed.version,
        "labels": parsed.labels,
        "auxiliary": parsed.auxiliary,
        "styles": parsed.styles,
        "network": {field.name: getattr(parsed.network, field.name) for field in fields(NetworkConfig)},
        "calibration": result["calibration"],
        "corpora": [
            {"folder": entry["folder"], "annotates": entry["annotates"]}
            | ({"labels": entry["labels"]} if "labels" in entry else {})
            for entry in parsed.corpora
        ],
    }
    save_model(out, network.state_dict(), model_config)
    from medpipe.learn.tagger_card import write_card

    write_card(out / "MODEL_CARD.md", parsed, result)
    return result


def finish(config: TaggerConfig, network: TaggerNetwork, dev: Sequence[DevCorpus], features: Tensor) -> dict[str, Any]:
    """Scores and calibrates the trained network on dev."""
    from medpipe.tag.decode import calibrate

    predicted = predict_dev(network, dev, features, config.labels)
    scores: dict[str, Any] = {}
    judged: list[tuple[str, float, bool]] = []  # label, log-probability, right
    for corpus, found in zip(dev, predicted, strict=True):
        mapped = corpus.label_map
        scores[corpus.folder] = score_spans(
            corpus.gold, [mapped.map_predicted(span for span, _ in spans) for spans in found]
        )
        for spans, gold in zip(found, corpus.gold, strict=True):
            for span, score in spans:
                if counted := mapped.map_predicted([span]):
                    judged.append((span[2], score, bool(counted & gold)))
    logs = np.array([score for _, score, _ in judged])
    right = np.array([hit for *_, hit in judged], dtype=bool)
    slope, intercept = fit_calibration(logs, right)
    probability = calibrate(logs, slope, intercept)
    names = np.array([label for label, *_ in judged])
    errors = {label: calibration_error(probability[names == label], right[names == label]) for label in config.labels}
    return {
        "score": float(np.mean([result["micro"]["f1"] for result in scores.values()])),
        "dev": scores,
        "calibration": [slope, intercept],
        "calibration_error": calibration_error(probability, right),
        "calibration_errors": errors,
        "config": asdict(config),
    }
