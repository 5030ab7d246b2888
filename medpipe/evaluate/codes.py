"""Scores of codes: the mentions of a corpus are given, and their codes are compared with the ids that they have.

A corpus is JSON lines as for the tagger, entities with ``norm``, a list of ids written as the terminology writes its
codes. A mention with several ids names several concepts; no single code is right for it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.learn.codes import TYPES, answer, make_terms, read_mentions, score_answers
from medpipe.tag.codes import WEIGHTS_FILE, Reranker, make_lists
from medpipe.tag.terminology import CODED, Terms, as_paths, find_icd10cm, read_icd10cm, read_terminology


def load_terms(terminology: Sequence[Path]) -> Terms:
    """Returns the terms of some files, or those of ICD-10-CM where none is given.

    A JSON-lines file is an annotated corpus, whose different (id, mention) pairs are its terms.

    Raises:
        MedpipeError: EXTRA_MISSING where there is neither a file nor ICD-10-CM, and what reading the files raises.
    """
    terms = Terms()
    for path in terminology:
        if path.suffix in (".jsonl", ".ndjson"):
            terms.extend(make_terms(read_mentions(path)))
        else:
            read_terminology(path, terms)
    if not terminology:
        release = find_icd10cm()
        if release is None:
            raise MedpipeError("EXTRA_MISSING", package="simple-icd-10-cm", extra="codes")
        read_icd10cm(release, terms)
    return terms


def evaluate_codes(
    corpus: Path,
    *,
    terminology: Sequence[Path] | Path = (),
    labels: Path | None = None,
    model: str | Path = WEIGHTS_FILE,
) -> dict[str, Any]:
    """Scores the codes that the mentions of a corpus would get.

    Args:
        corpus: JSON lines; see the module's docstring.
        terminology: files, see ``load_terms``; ICD-10-CM if none is given.
        labels: TOML map from the corpus's types to DISEASE, SYMPTOM, DRUG; that of the corpora that the README names
            if not given.
        model: JSON file of the reranker.

    Returns:
        The figures of ``score_answers`` over all mentions and, below ``DISEASE`` and so on, over those of each label.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, SETTING_INVALID, MODEL_INVALID; see ``load_terms``.
    """
    reranker = Reranker.load(Path(model))
    mentions = read_mentions(corpus, TYPES if labels is None else _read_labels(labels))
    lists = make_lists(load_terms(as_paths(terminology)))
    figures: dict[str, Any] = dict(score_answers(answer(mentions, lists, reranker), reranker.threshold))
    for label in CODED:
        of_label = [mention for mention in mentions if mention.label == label]
        if of_label:
            figures[label] = score_answers(answer(of_label, lists, reranker), reranker.threshold)
    return figures


def _read_labels(path: Path) -> dict[str, str]:
    try:
        return {str(name): str(label) for name, label in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError) as error:
        raise MedpipeError("SETTING_INVALID", name="--labels", reason=error) from error
