"""Trains the reranker of codes on corpora whose mentions have ids, and writes its weights.

The terminology is made of the corpora themselves: the (id, mention) pairs of the documents of train. So that a mention
is not its own term, the documents are cut into folds, and the mentions of a fold are looked up among the terms of the
others. Many mentions have an id that no term has, and those teach it to say "none". What is learned is one conditional
logit for matches in all words and one for near ones (``medpipe.tag.codes``); since few matches are near, every mention
also teaches the second once more, with the terms hidden that have all its words.

And since a terminology may lack the concept of a mention, it does so a third time with all terms of its id hidden:
"none" is right then, however alike the names of other concepts are.

The threshold is chosen on dev, looked up among the terms of train, of its own corpus and of the other: the lowest at
which the codes of each are as precise as wanted, and the near matches of all by themselves.

    python -m medpipe.learn.codes CORPORA --out medpipe/tag/codes.json

with CORPORA the folder that holds ``bc5cdr`` and ``ncbi_disease``. Deterministic; seconds on a CPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medpipe.errors import MedpipeError
from medpipe.learn.corpora import read_lines
from medpipe.tag.abbreviations import expand_mentions
from medpipe.tag.codes import (
    EXACT_FEATURES,
    NEAR_FEATURES,
    WEIGHTS_FILE,
    Candidates,
    CodeList,
    Reranker,
    look_up,
    make_lists,
    make_mention,
)
from medpipe.tag.terminology import CODED, Terms

CORPORA = ("bc5cdr", "ncbi_disease")
FOLDS = 10
PENALTY = 1e-4  # of the squared weights, beside the mean log-likelihood
PRECISION = 0.85  # wanted on each corpus; what is promised is 0.8
PRECISION_NEAR = 0.8  # of the near matches alone
LEAST_THRESHOLD = 0.5

# Labels of mentions in corpora that name their types otherwise; other types are looked up among all terms.
TYPES = {
    "Chemical": "DRUG", "Disease": "DISEASE",
    "SpecificDisease": "DISEASE", "Modifier": "DISEASE", "DiseaseClass": "DISEASE", "CompositeMention": "DISEASE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GoldMention:
    """A mention of a corpus, its abbreviations expanded, and the ids that it may have."""

    document: int
    written: str
    text: str
    label: str
    codes: frozenset[str]


def read_mentions(path: Path, labels: Mapping[str, str] = TYPES) -> list[GoldMention]:
    """Returns the mentions of a corpus whose types stand for a label that has codes.

    Args:
        path: JSON lines as in ``medpipe.learn.corpora``, entities with ``norm``, a list of ids.
        labels: type -> label; a type that is a label of its own need not be in it.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    found = []
    for number, record in read_lines(path):
        try:
            text = str(record["text"])
            kept = [
                (raw["spans"][0][0], raw["spans"][-1][1], label, frozenset(map(str, raw.get("norm") or ())))
                for raw in record.get("entities", [])
                if (label := labels.get(raw["type"], raw["type"])) in CODED
            ]
            if any(not 0 <= start < end <= len(text) for start, end, _, _ in kept):
                raise ValueError("a span outside the text")
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason=type(error).__name__) from error
        written = [text[start:end] for start, end, _, _ in kept]
        full = expand_mentions(text, written, [start for start, _, _, _ in kept])
        found += [
            GoldMention(number, one, other, label, codes)
            for one, other, (_, _, label, codes) in zip(written, full, kept, strict=True)
        ]
    return found


def make_terms(mentions: Iterable[GoldMention], system: str = "") -> Terms:
    """Returns the different (id, mention) pairs as a terminology. A mention with several ids names none of them."""
    pairs = dict.fromkeys(
        (next(iter(mention.codes)), mention.text, mention.label) for mention in mentions if len(mention.codes) == 1
    )
    terms = Terms()
    for code, text, label in pairs:
        terms.add(code, system or code.partition(":")[0], text, (label,))
    return terms


@dataclass(frozen=True, slots=True)
class Example:
    """The candidates of a mention and which of them is right; -1 where none is."""

    candidates: Candidates
    right: int


def make_examples(
    mentions: Iterable[GoldMention], lists: Mapping[str, CodeList], *, hide: str = "nothing"
) -> list[Example]:
    """Looks the mentions up and says which candidate is right. Mentions without candidates teach nothing.

    Args:
        mentions: with their ids; of one with several ids, no single code is right.
        lists: the terms by label.
        hide: "names", the terms that have all words of the mention; "codes", all terms of its ids.
    """
    examples = []
    for gold in mentions:
        codes = lists.get(gold.label)
        mention = make_mention(gold.text, written=gold.written)
        if codes is None or mention is None:
            continue
        if hide == "nothing":
            found = codes.find(mention)
        else:
            found = codes.find_near(mention, hidden=gold.codes if hide == "codes" else ())
        if found is None:
            continue
        hits = [place for place, code in enumerate(found.codes) if {codes.codes[code][1]} == gold.codes]
        examples.append(Example(found, hits[0] if hits else -1))
    return examples


def cross_examples(mentions: Sequence[GoldMention], folds: int = FOLDS) -> list[Example]:
    """Returns the examples of a corpus, each fold of documents looked up among the terms of the others."""
    examples = []
    for fold in range(folds):
        terms = make_terms(mention for mention in mentions if mention.document % folds != fold)
        held = [mention for mention in mentions if mention.document % folds == fold]
        examples += make_examples(held, make_lists(terms))
    return examples


def hidden_examples(mentions: Sequence[GoldMention]) -> list[Example]:
    """Returns near matches: each different mention looked up as if no term had all its words, or none its id."""
    different = {(one.label, one.text.lower(), one.codes): one for one in mentions}
    lists = make_lists(make_terms(mentions))
    return [example for hide in ("names", "codes") for example in make_examples(different.values(), lists, hide=hide)]


def fit(examples: Sequence[Example], features: int) -> np.ndarray:
    """Returns the weights with the highest penalised likelihood of the right candidates. shape: (features,)

    The problem is convex; L-BFGS in double precision finds its one optimum.
    """
    widest = max((len(example.candidates.codes) for example in examples), default=0)
    inputs = torch.zeros(len(examples), widest + 1, features, dtype=torch.float64)  # the last is "none of them"
    absent = torch.ones(len(examples), widest + 1, dtype=torch.bool)
    absent[:, -1] = False
    right = torch.empty(len(examples), dtype=torch.long)
    for place, example in enumerate(examples):
        count = len(example.candidates.codes)
        inputs[place, :count] = torch.from_numpy(example.candidates.features)
        absent[place, :count] = False
        right[place] = example.right if example.right >= 0 else widest
    weights = torch.zeros(features, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = (inputs @ weights).masked_fill(absent, -torch.inf)
        value = torch.nn.functional.cross_entropy(logits, right) + PENALTY * (weights**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().numpy().round(4)


@dataclass(frozen=True, slots=True)
class Answers:
    """The best code of each mention: its probability (0 where there is none), whether it is right, how it was found."""

    score: np.ndarray  # shape: (mentions,), float64
    right: np.ndarray  # shape: (mentions,), bool
    exact: np.ndarray  # shape: (mentions,), bool: a term has the mention's words
    known: np.ndarray  # shape: (mentions,), bool: one of its ids is in the terminology
    linked: np.ndarray  # shape: (mentions,), bool: it has an id at all


def answer(mentions: Sequence[GoldMention], lists: Mapping[str, CodeList], reranker: Reranker) -> Answers:
    """Looks mentions up and compares with their ids."""
    everything = {label: {code for _, code in codes.codes} for label, codes in lists.items()}
    rows = []
    for gold in mentions:
        codes = lists.get(gold.label)
        known = len(gold.codes) == 1 and gold.codes <= everything.get(gold.label, set())
        written = gold.written if gold.written != gold.text else None
        found = look_up(codes, reranker, gold.text, written) if codes is not None else None
        if codes is None or found is None:
            rows.append((0.0, False, False, known, bool(gold.codes)))
            continue
        candidates, scores = found
        best = int(np.argmax(scores))
        right = {codes.codes[candidates.codes[best]][1]} == gold.codes
        rows.append((float(scores[best]), right, candidates.exact, known, bool(gold.codes)))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return Answers(table[:, 0], *(table[:, column].astype(bool) for column in range(1, 5)))


def choose_threshold(
    answers: Sequence[Answers], precision: float = PRECISION, precision_near: float = PRECISION_NEAR
) -> float:
    """Returns the lowest threshold, in steps of 0.01, at which the codes given are as precise as wanted; else 1."""
    for threshold in np.arange(LEAST_THRESHOLD, 1.0, 0.01).round(2).tolist():
        each = [one.right[one.score >= threshold] for one in answers]
        near = np.concatenate([one.right[(one.score >= threshold) & ~one.exact] for one in answers])
        if all(len(right) and right.mean() >= precision for right in each) and (
            not len(near) or near.mean() >= precision_near
        ):
            return float(threshold)
    return 1.0


def score_answers(answers: Answers, threshold: float) -> dict[str, float]:
    """Returns precision, coverage, recall and F1 at a threshold, and what the best code without one would be worth.

    ``coverage`` is the share of mentions that get a code, ``recall`` of those with an id that get the right one,
    ``known`` of mentions whose id the terminology has, ``accuracy`` of mentions with an id whose best code is right
    whatever its probability; ``near`` counts the codes given without a term that
    has all words, ``near_precision`` is theirs; ``ece`` is the calibration error of the given codes in ten bins.
    """
    given = answers.score >= threshold
    right = given & answers.right
    near = given & ~answers.exact
    linked = max(int(answers.linked.sum()), 1)
    precision = float(right.sum() / max(given.sum(), 1))
    recall = float(right.sum() / linked)
    return {
        "mentions": len(given),
        "precision": precision,
        "coverage": float(given.mean()) if len(given) else 0.0,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "near_precision": float((near & answers.right).sum() / max(near.sum(), 1)),
        "near": int(near.sum()),
        "accuracy": float((answers.right & (answers.score > 0)).sum() / linked),
        "known": float(answers.known.sum() / linked),
        "ece": calibration_error(answers.score[given], answers.right[given]),
        "threshold": threshold,
    }


def calibration_error(score: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Returns the expected calibration error: how far scores and share of right answers differ, bin by bin."""
    place = np.minimum((score * bins).astype(int), bins - 1)
    gaps = [
        abs(float(score[place == one].mean()) - float(right[place == one].mean())) * float((place == one).mean())
        for one in range(bins)
        if (place == one).any()
    ]
    return float(sum(gaps))


def train(corpora: Path) -> tuple[Reranker, dict[str, Any]]:
    """Trains on train, chooses the threshold on dev. Returns the reranker and the scores on dev.

    Dev is looked up among the terms of its own corpus and among those of the other, which lacks most of its concepts:
    a code must hold there too.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID.
    """
    training = {name: read_mentions(corpora / name / "train.jsonl") for name in CORPORA}
    held = {name: read_mentions(corpora / name / "dev.jsonl") for name in CORPORA}
    examples = [example for mentions in training.values() for example in cross_examples(mentions)]
    exact = fit([one for one in examples if one.candidates.exact], len(EXACT_FEATURES))
    hidden = [example for mentions in training.values() for example in hidden_examples(mentions)]
    near = fit([one for one in examples if not one.candidates.exact] + hidden, len(NEAR_FEATURES))
    lists = {name: make_lists(make_terms(mentions)) for name, mentions in training.items()}
    pairs = {name: (name, name) for name in CORPORA}
    pairs |= {f"{one}, terms of {two}": (one, two) for one, two in permutations(CORPORA)}

    def answer_all(reranker: Reranker) -> dict[str, Answers]:
        return {name: answer(held[one], lists[two], reranker) for name, (one, two) in pairs.items()}

    threshold = choose_threshold(list(answer_all(Reranker(exact, near, LEAST_THRESHOLD)).values()))
    reranker = Reranker(exact, near, threshold)
    return reranker, {name: score_answers(one, threshold) for name, one in answer_all(reranker).items()}


def save(reranker: Reranker, scores: Mapping[str, Any], path: Path) -> None:
    """Writes the weights by the names of their features."""
    raw = {
        "threshold": reranker.threshold,
        "exact": dict(zip(EXACT_FEATURES, reranker.exact.tolist(), strict=True)),
        "near": dict(zip(NEAR_FEATURES, reranker.near.tolist(), strict=True)),
        "dev": {name: {key: round(value, 4) for key, value in figures.items()} for name, figures in scores.items()},
    }
    path.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Trains and writes the weights."""
    parser = argparse.ArgumentParser(description="Trains the reranker of codes.")
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE)
    options = parser.parse_args()
    reranker, scores = train(options.corpora)
    save(reranker, scores, options.out)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
