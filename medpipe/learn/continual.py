"""Continues a tagger on a site's own corrections without forgetting what it knew.

Corrections rarely say everything: who annotates diseases says nothing about drugs, and a few hundred notes are no
picture of all that the model has learned. What is learned is therefore kept apart from what is held:

- *Labels that occur in the corrections* (or that the label map names) get the likelihood of the annotation, as in
  ``learn.tagger``; the others get none, so no absence is learned from silence.
- *The others* are held by distillation: on the same sentences the network's emissions for them are to stay those of
  the model it was continued from (learning without forgetting, Li and Hoiem 2016; Hinton et al. 2015).
- *Replay* (Robins 1995): every epoch meets a sample of other sentences too, on which the old model's answers are held
  for all labels. They come from ``notes``, of which a site has many and which nobody needs to have annotated, or from
  ``corpora``, the model's own training data; there the annotation trains as well (as in Buzzega et al. 2020).
- *Interpolation*: the weights at the end lie between the old ones and the new ones (WiSE-FT, Wortsman et al. 2022).
- *Elastic penalty*: every weight is pulled back to where it began, all with the same force (L2-SP, Li et al. 2018; the
  diagonal Fisher weights of Kirkpatrick et al. 2017 would need the old corpora). Off: what it holds, interpolation
  holds at less cost.

The CRF's transitions, which all labels share, are not trained.

How many of the old weights are kept is chosen on held-out data of the old labels: as few as let no set of it fall by
more than four fifths of what is allowed (the choice flatters it a little). A part of the corrections, by their
texts' hashes, is held out and chooses nothing. The new model takes its place at ``out`` only where it is better than
the old one on that part, and not worse than allowed on any set of the old labels. The schedule is fixed.

What each part is worth: a tagger of our labels was trained on MACCROBAT alone (12 epochs) and continued for five on
the first 400 documents of Chia's train set, 81 of them held out, whose Condition, Drug, Procedure, Measurement, Value
and Temporal were mapped to DISEASE, DRUG, PROCEDURE, TEST, LAB_VALUE and TEMPORAL. Micro F1 on both dev sets;
MACCROBAT apart for these six labels and for the six that Chia does not annotate. It is a hard case: a trial's
conditions are diseases and symptoms alike, so the two annotations contradict each other. One seed; half a point is
within the noise.

| | old weights | Chia | MACCROBAT | its six | others |
|---|---:|---:|---:|---:|---:|
| before | | 31.5 | 65.9 | 66.1 | 65.0 |
| naive, silence taken for absence | 0 % | 55.7 | 34.1 | 46.8 | 1.2 |
| naive, silent labels without loss | 0 % | 55.7 | 51.8 | 46.7 | 62.8 |
| | 50 % | 44.2 | 63.4 | 63.4 | 64.2 |
| | 75 % | 36.9 | 65.4 | 65.8 | 64.7 |
| distillation | 0 % | 54.2 | 52.6 | 47.6 | 64.1 |
| | 50 % | 42.2 | 64.0 | 63.4 | 65.4 |
| | 75 % | 36.1 | 65.7 | 65.8 | 65.3 |
| distillation, elastic penalty 0.01 | 0 % | 49.7 | 55.8 | 52.5 | 64.4 |
| distillation, elastic penalty 0.1 | 0 % | 43.8 | 59.8 | 58.7 | 65.2 |
| | 50 % | 36.4 | 65.0 | 65.2 | 65.1 |
| and replay of as many tokens of unannotated case reports | 0 % | 51.4 | 63.9 | 63.0 | 64.7 |
| of three times as many | 0 % | 49.7 | 65.0 | 64.5 | 65.0 |
| | 25 % | 44.2 | 65.3 | 65.1 | 64.9 |
| and replay of MACCROBAT (2.3 times), annotation alone | 0 % | 51.7 | 65.2 | 64.3 | 66.1 |
| annotation and old answers | 0 % | 48.6 | 65.6 | 65.0 | 66.1 |

What the command promotes, the old weights' part chosen as above: from corrections alone Chia 35.1 and MACCROBAT 65.6
(80 %); with corpora to replay 48.7 and 65.8 (0 %). With 500 unannotated case reports it keeps 50 %, MACCROBAT 65.6.
Both naive candidates are refused.

So: with corpora or notes to replay from, corrections teach most of what they can; from corrections alone, little can be
learned where they contradict the old annotation before more than 0.5 F1 is forgotten.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from medpipe.errors import MedpipeError
from medpipe.evaluate.spans import LabelMap, find_label_map, make_label_map, score_spans, tag_texts
from medpipe.export.brat import read_brat
from medpipe.ids import hash_text, make_id
from medpipe.lake import files, warehouse
from medpipe.learn.config import list_configs, load_config
from medpipe.learn.continual_card import write_card
from medpipe.learn.corpora import AnnotatedDocument, make_document, read_documents
from medpipe.learn.loop import STATE_FILE, LoopConfig, Trainer
from medpipe.learn.pretrain import read_texts
from medpipe.learn.tagger import (
    Batch,
    SamplingConfig,
    TaggerConfig,
    TrainingRows,
    encode_corpus,
    make_batches,
    make_training_rows,
    parse_config,
)
from medpipe.tag.network import NetworkConfig, TaggerNetwork, likelihood_loss
from medpipe.tag.stage import Tagger
from medpipe.text.features import WordTable
from medpipe.text.rows import Rows, make_rows, pad_rows
from medpipe.weights import find_model, hash_model, read_config, save_model

HELD_OUT = 5  # one document of so many is held out
ALLOWED_FALL = 0.005  # of the micro F1 on the old labels' held-out data
CAREFUL = 0.8  # the part of it that ``choose_keep`` uses up: the same documents will judge
KEEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # what ``choose_keep`` tries
PROMOTION_FILE = "promotion.json"
TRAINING_FILE = "training.json"  # what the checkpoint beside it is of


@dataclass(frozen=True, slots=True)
class ContinualConfig:
    """The knobs; the ``[continual]`` table of a config. Chosen by measurement: see the module's docstring."""

    epochs: int = 5
    learning_rate: float = 1e-3
    average_decay: float = 0.98
    batch_tokens: int = 1024
    distillation: float = 1.0  # weight of what holds the labels that are not annotated
    elastic: float = 0.0  # weight of the pull back to the old weights
    keep: float | None = None  # part of the old weights in the weights at the end; None: chosen on held-out data
    replay: float = 3.0  # replayed tokens for a token of corrections, where there are notes or corpora
    notes: int = 500  # unannotated texts to replay from, at most
    train_transitions: bool = False
    seed: int = 13


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a site annotated, in the model's labels."""

    train: list[AnnotatedDocument]
    held_out: list[AnnotatedDocument]
    label_map: LabelMap
    dropped: dict[str, int]  # entities of types that have no label, by type

    @property
    def labels(self) -> list[str]:
        """The labels that are annotated, by name."""
        return sorted(self.label_map.annotates)


@dataclass(frozen=True, slots=True)
class HeldSet:
    """Documents that a model is scored on."""

    name: str
    documents: list[AnnotatedDocument]
    label_map: LabelMap


def continue_training(
    source: Path,
    *,
    out: Path,
    model: str | Path = "tagger",
    labels: Path | None = None,
    hold: Sequence[Path] = (),
    notes: Path | None = None,
    corpora: Path | None = None,
    config: Mapping[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a tagger further and puts it in place at ``out`` if it is better.

    Until then it lies in ``OUT.candidate``, beside ``out``, and stays there where promotion is refused. A model that
    was at ``out`` before lies in ``OUT.previous`` afterwards.

    Args:
        source: the corrections: a BRAT folder, or JSON lines in the corpus format.
        out: the model's folder.
        model: name or folder of the model to continue.
        labels: TOML file with a table ``labels`` (type -> label of the model) and optionally a list ``annotates``;
            without it a type is the label of the same name.
        hold: files in the corpus format or BRAT folders that the old labels are judged on, or folders of corpora, of
            which the dev sets that the model was chosen with are taken; default: ``corpora``.
        notes: a warehouse with more notes of the site, or JSON lines with ``text``: nobody needs to have annotated
            them, the old model's answers on them are held.
        corpora: folder of the corpora that the model was trained on, to replay a sample of.
        config: a config with a table ``continual``; default: that of ``ContinualConfig``.
        device: auto, cpu, cuda or cuda:N.
        resume: goes on from the checkpoint in the candidate's folder, if it is of the same corrections and model.
        report: gets lines of progress.

    Returns:
        ``promoted``, ``before`` and ``after`` (micro F1 by held-out set), ``labels``, ``scores``, ``seconds``.

    Raises:
        MedpipeError: PROMOTION_REFUSED; SETTING_INVALID, CONFIG_INVALID, CORPUS_NOT_FOUND, CORPUS_INVALID,
            MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_UNAVAILABLE.
    """
    knobs = parse_continual(config or {})
    old_folder = find_model(model)
    model_config = read_config(old_folder)
    corrections = read_corrections(source, model_config, labels)
    if corrections.dropped:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(corrections.dropped.items()))
        report(f"types without a label of the model are left out: {kinds}")
    old_sets = [one for path in (hold or ([corpora] if corpora else [])) for one in read_held(path, model_config)]
    if not old_sets:
        raise MedpipeError(
            "SETTING_INVALID", name="--hold", reason="annotated data of the old labels is needed to judge what is kept"
        )
    old_sets = name_apart(old_sets)

    old = Tagger.load(old_folder, device=device)
    # Neither what is held out nor, again, what is trained on.
    own = [*corrections.train, *corrections.held_out, *(document for one in old_sets for document in one.documents)]
    known = {hash_text(document.text) for document in own}
    rows, first_replayed = make_rows_to_train(
        corrections,
        model_config,
        WordTable(old.network.config.buckets),
        notes=read_notes(notes, known, most=knobs.notes) if notes is not None else (),
        corpora=corpora,
    )
    report(
        f"{len(corrections.train)} documents, {first_replayed} sentences of corrections "
        f"({', '.join(corrections.labels)}); {len(rows.start) - first_replayed} sentences to replay from; "
        f"{len(corrections.held_out)} documents held out"
    )
    out = out.absolute()  # "." has no name
    candidate = out.with_name(f"{out.name}.candidate")
    fingerprint = make_id("training", hash_model(old_folder), str(asdict(knobs)), _hash_rows(rows))
    resume = prepare_candidate(candidate, fingerprint, resume=resume, report=report)
    network = Tagger.load(old_folder, device=device).network
    weights, seconds = fine_tune(
        network, old.network, rows, first_replayed, knobs, folder=candidate, resume=resume, report=report
    )

    def write(keep: float) -> Tagger:
        """Writes the candidate with this part of the old weights, and loads it as it would be used."""
        history = [*model_config.get("continued", []), continued | {"keep": keep}]
        mixed = interpolate(old.network.state_dict(), weights, keep=keep)
        save_model(candidate, mixed, model_config | {"continued": history})
        return Tagger.load(candidate, device=device)

    continued = {
        "name": model_config["name"],
        "version": model_config["version"],
        "weights_hash": old.model.weights_hash,
        "documents": len(corrections.train),
        "labels": corrections.labels,
        "replayed": len(rows.start) - first_replayed,
        "config": asdict(knobs),
    }
    continued["keep"] = knobs.keep if knobs.keep is not None else choose_keep(old, write, old_sets, report=report)
    new = write(continued["keep"])

    judging = [HeldSet("corrections", corrections.held_out, corrections.label_map), *old_sets]
    before, after = score_sets(old, judging), score_sets(new, judging)
    figures: dict[str, Any] = {
        "before": {name: scores["micro"]["f1"] for name, scores in before.items()},
        "after": {name: scores["micro"]["f1"] for name, scores in after.items()},
        "scores": {"before": before, "after": after},
        "labels": corrections.labels,
        "documents": {"train": len(corrections.train), "held_out": len(corrections.held_out)},
        "seconds": seconds,
        "continued": continued,
    }
    reason = refusal(figures["before"], figures["after"])
    figures = {"promoted": reason is None, "reason": reason} | figures
    write_card(candidate / "MODEL_CARD.md", figures, old_folder / "MODEL_CARD.md")
    files.write_json(candidate / PROMOTION_FILE, figures)
    if reason is not None:
        raise MedpipeError("PROMOTION_REFUSED", reason=reason, path=candidate)
    for leftover in (STATE_FILE, TRAINING_FILE):
        (candidate / leftover).unlink(missing_ok=True)
    promote(candidate, out)
    return figures


def parse_continual(config: Mapping[str, Any]) -> ContinualConfig:
    """Returns the ``[continual]`` table of a config, checked.

    Raises:
        MedpipeError: CONFIG_INVALID.
    """
    try:
        return ContinualConfig(**config.get("continual", {}))
    except TypeError as error:
        raise MedpipeError("CONFIG_INVALID", name=config.get("name", "?"), reason=error) from error


# --- what is read ---------------------------------------------------------------------------


def read_annotated(path: Path) -> list[AnnotatedDocument]:
    """Returns the annotated documents of a BRAT folder or of a file in the corpus format.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    if path.is_dir():
        return [make_document(record, path, number) for number, record in enumerate(read_brat(path), 1)]
    return read_documents(path)


def read_corrections(source: Path, model_config: Mapping[str, Any], labels: Path | None) -> Corrections:
    """Reads the corrections and holds some of their documents out.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID; CONFIG_INVALID where the label map is none or names labels that
            the model does not have; SETTING_INVALID where no entity has a label of the model or there is only one
            document.
    """
    documents = read_annotated(source)
    known = [*model_config["labels"], *model_config["auxiliary"]]
    if labels is not None:
        label_map = find_label_map(source, {"auxiliary": model_config["auxiliary"]}, labels)
        assert label_map.gold is not None
        if unknown := (set(label_map.gold.values()) | label_map.annotates) - set(known):
            reason = f"the model has no label {', '.join(sorted(unknown))}"
            raise MedpipeError("CONFIG_INVALID", name=labels, reason=reason)
    else:
        kinds = {entity.label for document in documents for entity in document.entities} & set(known)
        label_map = make_label_map({kind: kind for kind in sorted(kinds)}, None, model_config["auxiliary"])
    assert label_map.gold is not None
    dropped: dict[str, int] = {}
    for document in documents:
        for entity in document.entities:
            if entity.label not in label_map.gold:
                dropped[entity.label] = dropped.get(entity.label, 0) + 1
    if not label_map.annotates:
        raise MedpipeError("SETTING_INVALID", name="--labels", reason=f"no entity in {source} has a label of the model")
    train, held_out = hold_out(documents)
    if not train:
        raise MedpipeError("SETTING_INVALID", name="--from", reason=f"{source} holds fewer than two different texts")
    return Corrections(train, held_out, label_map, dropped)


def hold_out(documents: Sequence[AnnotatedDocument]) -> tuple[list[AnnotatedDocument], list[AnnotatedDocument]]:
    """Returns the documents to train on and those held out: one of ``HELD_OUT`` by the hash of its text.

    So a document stays on its side when others are added, and equal texts are never on both. Where chance leaves a
    side empty, the text with the lowest hash is held out.
    """
    hashes = {document.doc_id: hash_text(document.text) for document in documents}
    chosen = {one for one in hashes.values() if int(make_id("held out", one)[:8], 16) % HELD_OUT == 0}
    if not chosen or chosen == set(hashes.values()):
        chosen = set(sorted(set(hashes.values()))[:1])
    held_out = [document for document in documents if hash_text(document.text) in chosen]
    return [document for document in documents if hash_text(document.text) not in chosen], held_out


def read_held(path: Path, model_config: Mapping[str, Any]) -> list[HeldSet]:
    """Returns the held-out sets of the old labels that a path gives; see ``continue_training``.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    known = [*model_config["labels"], *model_config["auxiliary"]]
    if path.is_dir() and not any(path.rglob("*.ann")):
        folders = [entry["folder"] for entry in model_config.get("corpora", [])]
        paths = [file for folder in folders if (file := path / folder / "dev.jsonl").is_file()]
        if not paths:
            raise MedpipeError("CORPUS_NOT_FOUND", path=path)
    else:
        paths = [path]
    sets = []
    for file in paths:
        documents = read_annotated(file)
        label_map = find_label_map(file, model_config, None)
        if label_map.gold is None:  # identity: what is annotated is what stands in it
            seen = frozenset(entity.label for document in documents for entity in document.entities)
            label_map = LabelMap(None, (label_map.annotates or seen) & frozenset(known), label_map.predicted)
        sets.append(HeldSet(file.parent.name if file.stem == "dev" else file.stem, documents, label_map))
    return sets


def name_apart(sets: Iterable[HeldSet]) -> list[HeldSet]:
    """Returns the sets with names of their own: ``dev``, ``dev 2``; ``corrections`` is that of the corrections."""
    count: Counter[str] = Counter({"corrections": 1})
    named = []
    for one in sets:
        count[one.name] += 1
        named.append(replace(one, name=f"{one.name} {count[one.name]}") if count[one.name] > 1 else one)
    return named


def read_notes(path: Path, known: Set[str], *, most: int) -> list[str]:
    """Returns texts of notes: of the processed documents of a warehouse, or of the lines of a file with ``text``.

    Args:
        path: a warehouse, or JSON lines with ``text`` (or ``source``).
        known: hashes of texts to leave out: those of the corrections, of which some are held out.
        most: how many texts at most; those with the lowest hashes, so that the same ones are met each time.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    if not path.is_dir():
        texts = {hash_text(text): text for text in read_texts(path.parent, [path.name]) if text}
        return [texts[one] for one in sorted(set(texts) - known)[:most]]
    places: dict[str, tuple[str, str]] = {}  # by hash
    for partition in warehouse.partitions(path):
        columns = ["document_id", "text_hash", "status"]
        rows = warehouse.read_table(path, "documents", partition=partition, columns=columns).to_pylist()
        places |= {row["text_hash"]: (partition, row["document_id"]) for row in rows if row["status"] == "processed"}
    if not places:
        raise MedpipeError("CORPUS_NOT_FOUND", path=path)
    wanted = sorted(places[one] for one in sorted(set(places) - known)[:most])
    found: list[str] = []
    for partition, group in groupby(wanted, key=itemgetter(0)):
        chosen = pc.field("document_id").isin([document_id for _, document_id in group])
        table = warehouse.read_table(path, "documents", partition=partition, columns=["text"], filters=chosen)
        found += table["text"].to_pylist()
    return found


def make_rows_to_train(
    corrections: Corrections,
    model_config: Mapping[str, Any],
    table: WordTable,
    *,
    notes: Sequence[str] = (),
    corpora: Path | None = None,
) -> tuple[TrainingRows, int]:
    """Returns the sentences of the corrections and behind them those to replay from; and where these begin."""
    labels = {name: number for number, name in enumerate([*model_config["labels"], *model_config["auxiliary"]])}
    levels = model_config["network"].get("levels", NetworkConfig().levels)
    rows = make_rows([document.text for document in corrections.train], table)
    tags, _ = encode_corpus(corrections.train, rows, corrections.label_map, labels, levels, {})
    own = without_annotation(rows, tags)
    own.annotated[:, [labels[name] for name in corrections.labels]] = True
    parts = [own]
    if notes:
        rows = make_rows(notes, table)
        parts.append(without_annotation(rows, np.zeros((len(rows.words), len(labels), levels), dtype=np.int8)))
    if corpora is not None:
        parts.append(make_training_rows(replay_config(model_config), corpora, table)[0])
    return join_rows(parts, table), len(own.start)


def without_annotation(rows: Rows, tags: np.ndarray) -> TrainingRows:
    """Returns sentences, as written and in the style of inference, of which no label is annotated."""
    return TrainingRows(
        words=np.stack([rows.words] * 3),
        start=rows.start,
        length=rows.length,
        tags=tags,
        annotated=np.zeros((len(rows.start), tags.shape[1]), dtype=bool),
        style=np.zeros(len(rows.start), dtype=np.int64),
        epoch=np.zeros(len(rows.start), dtype=np.int64),
        features=torch.zeros(0),
    )


def join_rows(parts: Sequence[TrainingRows], table: WordTable) -> TrainingRows:
    """Returns sentences of several kinds, whose words are all of one table, one kind behind the other."""
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=1 if name == "words" else 0)
        for name in ("words", "length", "tags", "annotated", "style", "epoch")
    }
    offset = np.cumsum([0, *(part.words.shape[1] for part in parts[:-1])])
    start = np.concatenate([part.start + first for part, first in zip(parts, offset, strict=True)])
    return TrainingRows(**joined, start=start, features=torch.from_numpy(table.features.copy()))


def replay_config(model_config: Mapping[str, Any]) -> TaggerConfig:
    """Returns how the model's corpora are read: as its training config says where it is a shipped one, else as its
    own ``corpora`` say, in the style of inference.
    """
    name = model_config["name"]
    entries = model_config.get("corpora", [])
    if name in list_configs():
        shipped = {entry["folder"]: entry for entry in load_config(name)["corpora"]}
        entries = [shipped.get(entry["folder"], entry) for entry in entries]
    styles = set(model_config["styles"])
    entries = [
        dict(entry) | {"style": entry.get("style") if entry.get("style") in styles else model_config["styles"][0]}
        for entry in entries
    ]
    parsed = parse_config(
        {key: model_config[key] for key in ("name", "version", "labels", "auxiliary", "network")} | {"corpora": entries}
    )
    return replace(parsed, styles=list(model_config["styles"]))


def _hash_rows(rows: TrainingRows) -> str:
    """Returns a hash of what is trained on."""
    import hashlib

    digest = hashlib.sha256()
    for part in (rows.words, rows.start, rows.length, rows.tags, rows.annotated, rows.style, rows.features.numpy()):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


# --- training -------------------------------------------------------------------------------


def fine_tune(
    network: TaggerNetwork,
    old: TaggerNetwork,
    rows: TrainingRows,
    first_replayed: int,
    config: ContinualConfig,
    *,
    folder: Path,
    resume: bool,
    report: Callable[[str], None],
) -> tuple[dict[str, Tensor], float]:
    """Trains ``network``, which begins as ``old``, and returns its averaged weights and the seconds it took."""
    network.crf.requires_grad_(config.train_transitions)
    old.eval().requires_grad_(False)
    anchor = {name: value.detach().clone() for name, value in network.named_parameters()}

    def compute_loss(module: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(module, TaggerNetwork)
        loss = continual_loss(module, old, batch, rows, first_replayed, config)
        return loss + config.elastic * distance(module, anchor) if config.elastic else loss

    trainer = Trainer(
        network,
        # No weight decay: it would pull the weights to zero that the corrections say nothing about.
        config=LoopConfig(
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            weight_decay=0.0,
            average_decay=config.average_decay,
            evaluate_every=config.epochs,
            seed=config.seed,
        ),
        folder=folder,
        make_batches=lambda epoch, rng: sample_batches(rows, first_replayed, config, rng),
        compute_loss=compute_loss,
        evaluate=lambda module: (0.0, {}),  # the schedule is fixed: no epoch is chosen
        report=lambda line: report(re.sub(r" dev .*\)", "", line)),
    )
    return trainer.train(resume=resume), trainer.progress.seconds


def sample_batches(
    rows: TrainingRows, first_replayed: int, config: ContinualConfig, rng: np.random.Generator
) -> list[Batch]:
    """Returns the batches of an epoch: all corrections, and about ``replay`` times as many tokens of old sentences."""
    own = np.arange(first_replayed)
    others = first_replayed + rng.permutation(len(rows.start) - first_replayed)
    budget = config.replay * rows.length[own].sum()
    chosen = np.concatenate([own, others[np.cumsum(rows.length[others]) <= budget]])
    seen = replace(
        rows,
        start=rows.start[chosen],
        length=rows.length[chosen],
        annotated=rows.annotated[chosen],
        style=rows.style[chosen],
        epoch=rows.epoch[chosen],
    )
    batches = make_batches(
        seen, SamplingConfig(batch_tokens=config.batch_tokens), rng, epoch=int(seen.epoch.max(initial=0))
    )
    return [Batch(chosen[batch.rows], batch.case, batch.style) for batch in batches]


def continual_loss(
    network: TaggerNetwork,
    old: TaggerNetwork,
    batch: Batch,
    rows: TrainingRows,
    first_replayed: int,
    config: ContinualConfig,
) -> Tensor:
    """Returns the loss of a batch for every token: likelihood where annotated, distillation elsewhere and of what is
    replayed.
    """
    device = network.output.weight.device
    positions, inside = pad_rows(rows.start[batch.rows], rows.length[batch.rows])
    words = np.where(inside, rows.words[batch.case[:, None], positions], 0)
    unique, inverse = np.unique(words, return_inverse=True)
    features = rows.features[torch.from_numpy(unique).long()].to(device)
    place = torch.from_numpy(inverse.reshape(words.shape)).to(device)
    lengths = torch.from_numpy(rows.length[batch.rows]).to(device)
    style = torch.from_numpy(batch.style).to(device)
    annotated = torch.from_numpy(rows.annotated[batch.rows]).to(device)
    # shape: (batch, time, labels, levels, tags)
    emissions = network(network.embed(features)[place], lengths, style)
    tags = torch.from_numpy(np.where(inside[:, :, None, None], rows.tags[positions], 0)).to(device)
    loss = likelihood_loss(network, emissions, lengths, tags, annotated)
    silent = ~rows.annotated[batch.rows] | (batch.rows >= first_replayed)[:, None]  # shape: (batch, labels)
    if config.distillation and silent.any():
        with torch.no_grad():
            target = old(old.embed(features)[place], lengths, style)
        where = torch.from_numpy(inside[:, :, None] & silent[:, None]).to(device)
        loss = loss + config.distillation * distillation_loss(emissions, target, where)
    return loss / int(rows.length[batch.rows].sum())


def distillation_loss(emissions: Tensor, target: Tensor, silent: Tensor) -> Tensor:
    """Returns how far the emissions are from those of the old model, summed over tokens, labels and levels.

    The measure is the Kullback–Leibler divergence of the tags' distributions of each token: with equal transitions,
    equal emissions (up to a constant of the token) give equal posteriors.

    Args:
        emissions: shape: (batch, time, labels, levels, tags).
        target: of the old model, same shape.
        silent: shape: (batch, time, labels), bool; tokens and labels that nobody annotated.
    """
    # shape: (silent, levels, tags)
    wanted, given = log_softmax(target[silent].float(), dim=-1), log_softmax(emissions[silent].float(), dim=-1)
    return (wanted.exp() * (wanted - given)).sum()


def distance(network: nn.Module, anchor: Mapping[str, Tensor]) -> Tensor:
    """Returns half the squared distance of the trained weights from where they began."""
    moved = [(value - anchor[name]).square().sum() for name, value in network.named_parameters() if value.requires_grad]
    return 0.5 * torch.stack(moved).sum()


def choose_keep(
    old: Tagger, write: Callable[[float], Tagger], sets: Sequence[HeldSet], *, report: Callable[[str], None]
) -> float:
    """Returns the smallest part of the old weights with which no set's F1 falls by more than most of what is allowed.

    The last of ``KEEPS`` where none is careful enough.

    Args:
        old: the model that is continued.
        write: gives the model with a part of the old weights.
        sets: held-out data of the old labels.
        report: gets a line for each try.
    """
    before = score_sets(old, sets)
    for keep in KEEPS:
        after = score_sets(write(keep), sets)
        fall = max(before[name]["micro"]["f1"] - after[name]["micro"]["f1"] for name in before)
        report(f"with {keep:.0%} of the old weights the old labels' F1 changes by {-100 * fall:+.2f}")
        if fall <= CAREFUL * ALLOWED_FALL:
            return keep
    return KEEPS[-1]


def interpolate(old: Mapping[str, Tensor], new: Mapping[str, Tensor], *, keep: float) -> dict[str, Tensor]:
    """Returns weights between the old ones and the new ones; ``keep``: the old ones' part."""
    return {name: torch.lerp(value, old[name].to(value), keep) for name, value in new.items()}


# --- promotion ------------------------------------------------------------------------------


def score_sets(tagger: Tagger, sets: Iterable[HeldSet]) -> dict[str, dict[str, Any]]:
    """Returns the scores of every held-out set, as ``score_spans`` gives them."""
    scores = {}
    for held in sets:
        predicted = tag_texts(tagger, [document.text for document in held.documents])
        scores[held.name] = score_spans(
            [held.label_map.map_gold(document) for document in held.documents],
            [held.label_map.map_predicted(spans) for spans in predicted],
        )
    return scores


def refusal(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """Returns why a candidate is not promoted; ``None``: it is.

    Args:
        before: micro F1 of the old model by held-out set; ``corrections`` is that of the corrections, the others are
            of the old labels.
        after: of the candidate, the same sets.
    """
    if after["corrections"] <= before["corrections"]:
        return (
            f"on the held-out corrections it scores {100 * after['corrections']:.1f} F1, "
            f"not more than the {100 * before['corrections']:.1f} before"
        )
    fallen = {name: before[name] - after[name] for name in before if before[name] - after[name] > ALLOWED_FALL}
    if fallen:
        falls = ", ".join(f"{100 * fall:.1f} on {name}" for name, fall in fallen.items())
        return f"the old labels' F1 falls by {falls}, more than the {100 * ALLOWED_FALL:.1f} allowed"
    return None


def prepare_candidate(folder: Path, fingerprint: str, *, resume: bool, report: Callable[[str], None]) -> bool:
    """Makes the candidate's folder, empty unless its training goes on; returns whether it does."""
    state = folder / TRAINING_FILE
    known = files.read_json(state)["fingerprint"] if state.is_file() else None
    if resume and known == fingerprint:
        return True
    if resume and known is not None:
        report("corrections, model or config are not those of the checkpoint: starting anew")
    shutil.rmtree(folder, ignore_errors=True)
    files.write_json(state, {"fingerprint": fingerprint})
    return False


def promote(candidate: Path, out: Path) -> None:
    """Puts the candidate's folder in the place of ``out``; what was there lies in ``OUT.previous`` afterwards.

    A reader of ``out`` sees the old model or the new one, never parts of both.
    """
    with files.disk_faults(out):
        if not out.exists():
            candidate.replace(out)
        else:
            previous = out.with_name(f"{out.name}.previous")
            shutil.rmtree(previous, ignore_errors=True)
            if exchange(candidate, out):
                candidate.replace(previous)
            else:  # for a moment there is none at ``out``
                out.replace(previous)
                candidate.replace(out)
        files.sync(out.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step where the system can (Linux: renameat2 with RENAME_EXCHANGE)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_working_folder, swap = -100, 2
    return (
        rename is not None
        and rename(at_working_folder, os.fsencode(one), at_working_folder, os.fsencode(other), swap) == 0
    )
