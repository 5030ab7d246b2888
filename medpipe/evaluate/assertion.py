"""Scores of assertion: precision, recall and F1 of each assertion that a corpus annotates.

A corpus is JSON lines of ``text``, ``start``, ``end`` (code points of one mention) and booleans such as ``negated``
and ``historical``. The text is read as a note would be: its sentences and sections are found, not given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medpipe.errors import MedpipeError
from medpipe.learn.corpora import read_lines
from medpipe.records import ASSERTIONS
from medpipe.tag.assertion import Assertion
from medpipe.text.sections import find_sections, telling_names
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import tokenize

SCORED = ("negated", "historical")


def score(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Returns precision, recall, F1 and support of one assertion; 0 where nothing is predicted or nothing is gold.

    Args:
        predicted: shape: (mentions,), bool.
        gold: shape: (mentions,), bool.
    """
    right, found, support = int((predicted & gold).sum()), int(predicted.sum()), int(gold.sum())
    return {
        "precision": right / found if found else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (found + support) if found + support else 0.0,
        "support": support,
    }


def evaluate_assertion(corpus: Path, *, model: str | Path = "assertion") -> dict[str, Any]:
    """Scores assertion on a corpus of single mentions.

    Args:
        corpus: JSON lines; see the module's docstring.
        model: "assertion" for what is shipped, or a cue file.

    Returns:
        ``{"negated": {"precision", "recall", "f1", "support"}, "historical": {…}}``, fractions of one.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND; CORPUS_INVALID where a field is missing or a mention lies outside its text.
    """
    assertion = Assertion.load(model)
    texts, starts, ends, gold = [], [], [], []
    for number, record in read_lines(corpus):
        try:
            text, start, end = str(record["text"]), int(record["start"]), int(record["end"])
            gold.append([bool(record[name]) for name in SCORED])
        except (KeyError, TypeError, ValueError) as error:
            raise MedpipeError("CORPUS_INVALID", path=corpus, line=number, reason=type(error).__name__) from error
        if not 0 <= start < end <= len(text):
            raise MedpipeError("CORPUS_INVALID", path=corpus, line=number, reason="a span outside the text")
        texts.append(text)
        starts.append(np.array([start]))
        ends.append(np.array([end]))
    tokens = [tokenize(text) for text in texts]
    sentences = [split_sentences(text, of) for text, of in zip(texts, tokens, strict=True)]
    sections = [[_section_at(text, int(at[0]))] for text, at in zip(texts, starts, strict=True)]
    answers = assertion.assert_batch(texts, tokens, sentences, starts, ends, sections)
    # shape: (mentions, ASSERTIONS)
    predicted = np.concatenate([np.zeros((0, len(ASSERTIONS)), dtype=bool), *answers])
    wanted = np.array(gold, dtype=bool).reshape(-1, len(SCORED))
    return {name: score(predicted[:, ASSERTIONS.index(name)], wanted[:, at]) for at, name in enumerate(SCORED)}


def _section_at(text: str, offset: int) -> str:
    """Returns the name of the innermost section at an offset, as the tagger's stage gives it to the cues."""
    sections = find_sections(text)
    around = [number for number, section in enumerate(sections) if section.start <= offset < section.end]
    return telling_names(sections)[around[-1]]
