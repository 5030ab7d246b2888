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
from medpipe.evaluate.spans import Fragments, LabelMap, Span, count_scores, make_label_map, score_spans
from medpipe.learn.corpora import AnnotatedDocument, read_documents
from medpipe.learn.distill import DistillationConfig, distill
from medpipe.learn.divide import Divider, fit_divider
from medpipe.learn.loop import LoopConfig, Trainer, lower_precision
from medpipe.learn.pretrain import PretrainingConfig, pretrain
from medpipe.learn.tagger_card import FOLDS, write_card
from medpipe.tag.decode import calibrate
from medpipe.tag.features import encode_spans, entity_tokens
from medpipe.tag.fragments import GAP, find_fragments, split_gaps
from medpipe.tag.network import NetworkConfig, TaggerNetwork, likelihood_loss
from medpipe.tag.stage import find_spans, to_characters
from medpipe.text.batches import bucket_batches
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows, pad_rows
from medpipe.weights import save_model

Table = TypeVar("Table")

DEV_BUDGET = 8192  # padded tokens of a batch when scoring
PRIOR = 0.5  # by how much a label's slope and intercept are expected to differ from those of all labels


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
            if entry.get("discontinuous") and next(iter(auxiliary), None) != GAP:
                raise ValueError(f"{entry['folder']} is discontinuous: {GAP} = [] must be the first auxiliary label")
            corpora.append(
                {"folder": entry["folder"], "style": "clinical", "repeat": 1, "unsure": {}}
                | {"late_repeat": entry.get("repeat", 1)}
                | dict(entry)
                | {"annotates": [*annotates, GAP] if entry.get("discontinuous") else annotates}
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
    texts: list[str]
    rows: Rows
    gold: list[set[Span]]
    discontinuous: list[set[Fragments]]  # of the gold entities those with a gap
    label_map: LabelMap


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a document of a dev set."""

    spans: list[tuple[Span, float]]  # with log-probabilities
    discontinuous: set[Fragments]


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
        learned = gold + divide_spans(gold, document.text, dividers)
        if GAP in label_map.annotates:
            learned += [(*gap, GAP) for gap in sorted(label_map.map_gaps(document))]
        placed = [
            (entity_tokens(rows.tokens[number], rows.sentences[number], start, end), labels[label])
            for start, end, label in learned
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


def make_batches(rows: TrainingRows, sampling: SamplingConfig, rng: np.random.Generator, epoch: int = 0) -> list[Batch]:
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
        texts = [document.text for document in documents]
        dev.append(
            DevCorpus(
                folder=entry["folder"],
                texts=texts,
                rows=make_rows(texts, table),
                gold=[label_map.map_gold(document) for document in documents],
                discontinuous=[label_map.map_discontinuous(document) for document in documents],
                label_map=label_map,
            )
        )
    return dev


def predict_dev(
    network: TaggerNetwork, dev: Sequence[DevCorpus], features: Tensor, labels: Sequence[str], *, gaps: bool = False
) -> list[list[Found]]:
    """Returns what is found in every document of every dev set; with ``gaps`` also which parts mentions have."""
    device = network.output.weight.device
    with torch.inference_mode():
        vectors = network.embed(features.to(device))
    predicted = []
    for corpus in dev:
        decoded, _, _ = find_spans(network, vectors, corpus.rows, token_budget=DEV_BUDGET, labels=len(labels) + gaps)
        spans, holes = split_gaps(to_characters(decoded, corpus.rows), len(labels))
        fragments = find_fragments(spans, holes, corpus.texts)
        names = [labels[label] for label in spans.label]
        placed = list(zip(spans.start.tolist(), spans.end.tolist(), names, strict=True))
        scored = list(zip(placed, spans.score.tolist(), strict=True))
        parts: list[set[Fragments]] = [set() for _ in corpus.gold]
        for number, pieces in fragments.items():
            for *_, label in corpus.label_map.map_predicted([placed[number]]):
                parts[spans.text[number]].add((tuple(pieces), label))
        predicted.append([Found(scored[spans.of_text(number)], parts[number]) for number in range(len(corpus.gold))])
    return predicted


def score_dev(
    network: TaggerNetwork, dev: Sequence[DevCorpus], features: Tensor, labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Returns the scores of every dev set, as ``score_spans`` gives them."""
    predicted = predict_dev(network, dev, features, labels)
    return {corpus.folder: score_found(corpus, found) for corpus, found in zip(dev, predicted, strict=True)}


def score_found(corpus: DevCorpus, found: Sequence[Found]) -> dict[str, Any]:
    """Returns the scores of what was found in a dev set."""
    counted = [corpus.label_map.map_predicted(span for span, _ in one.spans) for one in found]
    return score_spans(corpus.gold, counted)


def fit_calibration(
    log_probability: np.ndarray, right: np.ndarray, towards: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Returns slope and intercept on the logit that fit probabilities to how often the model is right (Platt 1999).

    Args:
        log_probability: shape: (entities,), float64.
        right: shape: (entities,), bool.
        towards: slope and intercept of all labels, for one that has few entities: it departs from them as far as its
            own entities say (a Gaussian prior of ``PRIOR`` standard deviation).
    """
    if towards is None and not 0 < right.sum() < len(right):
        return 1.0, 0.0
    probability = torch.from_numpy(np.clip(np.exp(log_probability), 1e-6, 1 - 1e-6))
    logit = torch.log(probability / (1 - probability))
    start = torch.tensor(towards or (1.0, 0.0), dtype=torch.float64)
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    target = torch.from_numpy(right.astype(np.float64))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(weights[0] * logit + weights[1], target, reduction="sum")
        if towards is not None:
            loss = loss + ((weights - start) ** 2).sum() / (2 * PRIOR**2)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call, arg-type]
    slope, intercept = weights.tolist()
    return round(slope, 4), round(intercept, 4)


def reliability(probability: np.ndarray, right: np.ndarray, bins: int = 10) -> list[tuple[int, float, float]]:
    """Returns for every bin of equal width how many scores lie in it, their mean and which share of them is right.

    Bins with no score are left out; drawn, this is the reliability diagram (DeGroot and Fienberg 1983).
    """
    which = np.minimum((probability * bins).astype(int), bins - 1)
    filled = [which == number for number in range(bins) if (which == number).any()]
    return [(int(own.sum()), float(probability[own].mean()), float(right[own].mean())) for own in filled]


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Returns the expected calibration error (Naeini et al. 2015) over the bins of ``reliability``.

    Of few scores it is not small even where they are right: chance alone parts their mean from the share of right ones.
    """
    if not len(probability):
        return 0.0
    return sum(count * abs(mean - share) for count, mean, share in reliability(probability, right)) / len(probability)


def chance_error(probability: np.ndarray, draws: int = 200) -> float:
    """Returns what the calibration error of exact scores would be on average: what chance alone makes of it."""
    rng = np.random.default_rng(0)
    return float(
        np.mean([calibration_error(probability, rng.random(len(probability)) < probability) for _ in range(draws)])
    )


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
    write_card(out / "MODEL_CARD.md", parsed, result)
    return result


@dataclass(frozen=True, slots=True)
class Judged:
    """The entities that were found on dev and count there. All arrays have the shape (entities,)."""

    label: np.ndarray  # str
    log_probability: np.ndarray  # float64
    right: np.ndarray  # bool
    fold: np.ndarray  # int64; entities of a document are of one fold


def judge(dev: Sequence[DevCorpus], predicted: Sequence[Sequence[Found]]) -> Judged:
    """Returns which of the entities that were found are right."""
    judged: list[tuple[str, float, bool, int]] = []
    documents = 0
    for corpus, found in zip(dev, predicted, strict=True):
        for one, gold in zip(found, corpus.gold, strict=True):
            documents += 1
            for span, score in one.spans:
                if counted := corpus.label_map.map_predicted([span]):
                    judged.append((span[2], score, bool(counted & gold), documents % FOLDS))
    return Judged(
        label=np.array([label for label, *_ in judged], dtype=object),
        log_probability=np.array([score for _, score, *_ in judged], dtype=np.float64),
        right=np.array([right for *_, right, _ in judged], dtype=bool),
        fold=np.array([fold for *_, fold in judged], dtype=np.int64),
    )


def fit_labels(judged: Judged, chosen: np.ndarray, labels: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns slope and intercept for every label, fitted to the ``chosen`` entities (a mask)."""
    shared = fit_calibration(judged.log_probability[chosen], judged.right[chosen])
    fitted = {}
    for label in labels:
        own = chosen & (judged.label == label)
        fitted[label] = fit_calibration(judged.log_probability[own], judged.right[own], shared)
    return fitted


def calibrate_labels(judged: Judged, table: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Returns the calibrated probabilities of all entities."""
    slope, intercept = np.array([table[label] for label in judged.label], dtype=np.float64).reshape(-1, 2).T
    return calibrate(judged.log_probability, slope, intercept)


def finish(config: TaggerConfig, network: TaggerNetwork, dev: Sequence[DevCorpus], features: Tensor) -> dict[str, Any]:
    """Scores and calibrates the trained network on dev."""
    gaps = GAP in config.auxiliary
    predicted = predict_dev(network, dev, features, config.labels, gaps=gaps)
    scores = {corpus.folder: score_found(corpus, found) for corpus, found in zip(dev, predicted, strict=True)}
    judged = judge(dev, predicted)
    table = fit_labels(judged, np.ones(len(judged.label), dtype=bool), config.labels)
    # How far off the scores are is measured on documents that had no part in fitting them.
    probability = np.zeros(len(judged.label))
    for fold in range(FOLDS):
        held_out = judged.fold == fold
        if held_out.any():
            probability[held_out] = calibrate_labels(judged, fit_labels(judged, ~held_out, config.labels))[held_out]
    of_label = {label: judged.label == label for label in config.labels}
    discontinuous = {
        corpus.folder: count_scores(corpus.discontinuous, [one.discontinuous for one in found])
        for corpus, found, entry in zip(dev, predicted, config.corpora, strict=True)
        if GAP in entry["annotates"]
    }
    return {
        "score": float(np.mean([result["micro"]["f1"] for result in scores.values()])),
        "dev": scores,
        "discontinuous": discontinuous,
        "calibration": table,
        "calibration_error": calibration_error(probability, judged.right),
        "calibration_errors": {
            label: {
                "count": int(own.sum()),
                "error": calibration_error(probability[own], judged.right[own]),
                "chance": chance_error(probability[own]),
            }
            for label, own in of_label.items()
        },
        "reliability": reliability(probability, judged.right),
        "config": asdict(config),
    }
