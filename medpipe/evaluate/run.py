"""Which evaluation belongs to which model; each lives in the module of its metric."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

# kind -> module, function
EVALUATIONS = {
    "tagger": ("spans", "evaluate_tagger"),
    "assertion": ("assertion", "evaluate_assertion"),
    "codes": ("codes", "evaluate_codes"),
    "relations": ("relations", "evaluate_relations"),
    "summarizer": ("summaries", "evaluate_summarizer"),
}


def evaluate(
    kind: str,
    corpus: Path,
    *,
    model: str | None,
    labels: Path | None,
    style: str | None = None,
    device: str,
    profile: str = "standard",
    terminology: tuple[Path, ...] | Path = (),
) -> dict[str, Any]:
    """Returns the scores of a model on a corpus, as fractions of one; ``model`` None is the shipped one."""
    module, function = EVALUATIONS[kind]
    options: dict[str, Any] = {"device": device} if kind not in ("assertion", "codes") else {}
    if kind in ("tagger", "summarizer"):
        options["profile"] = profile
    if kind == "codes":
        options["terminology"] = terminology
    if model is not None:
        options["model"] = model
    if labels is not None and kind in ("tagger", "codes", "relations"):
        options["labels"] = labels
    if style is not None and kind == "tagger":
        options["style"] = style
    scores: dict[str, Any] = getattr(import_module(f"medpipe.evaluate.{module}"), function)(corpus, **options)
    return scores
