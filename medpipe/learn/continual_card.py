"""The model card of a tagger that was continued: from what, on what, and what it scored before and after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def write_card(path: Path, figures: dict[str, Any], old_card: Path) -> None:
    """Writes the card; ``figures`` is what ``continue_training`` made, ``old_card`` that of the model before."""
    continued, documents = figures["continued"], figures["documents"]
    config = continued["config"]
    lines = [
        f"# {continued['name']} {continued['version']}, continued",
        "",
        f"Continued from {continued['name']} {continued['version']} (weights {continued['weights_hash'][:12]}) with "
        "`medpipe train tagger --from`, on corrections of a site.",
        "",
        f"- Corrections: {documents['train']} documents to train on, {documents['held_out']} held out by their texts' "
        f"hashes; annotated: {', '.join(figures['labels'])}. They are not part of this folder.",
        f"- {config['epochs']} epochs, {figures['seconds']:.0f} s of training; "
        + f"{continued['replayed']} sentences to replay from.",
        f"- What is not annotated is held by distillation (weight {config['distillation']}), every weight by an "
        f"elastic penalty ({config['elastic']}); {100 * continued['keep']:.0f} % of the old weights are kept.",
        f"- Promoted: {'yes' if figures['promoted'] else 'no, ' + figures['reason']}.",
        "",
        "## Scores on held-out data, micro F1 before and after (exact span and label)",
        "",
        "| data | label | before | after | support |",
        "|---|---|---:|---:|---:|",
    ]
    for name, after in figures["scores"]["after"].items():
        before = figures["scores"]["before"][name]
        lines.append(_row(f"**{name}**", "**all**", before["micro"], after["micro"]))
        for label in sorted(set(before["labels"]) | set(after["labels"])):
            lines.append(_row("", label, before["labels"].get(label), after["labels"].get(label)))
    lines += [
        "",
        "`score` is calibrated as that of the model before; how well it holds on the site's notes was not measured.",
        "",
        "## The model that it was continued from",
        "",
    ]
    if old_card.is_file():  # its headings lie below the one above
        lines.append(re.sub(r"^#", "###", old_card.read_text(encoding="utf-8"), flags=re.MULTILINE))
    else:
        lines.append("It has no card.")
    path.write_text("\n".join(lines), encoding="utf-8")


def _row(name: str, label: str, before: dict[str, float] | None, after: dict[str, float] | None) -> str:
    shown = ["–" if scores is None else f"{100 * scores['f1']:.1f}" for scores in (before, after)]
    support = next(int(scores["support"]) for scores in (before, after) if scores is not None)
    return f"| {name} | {label} | {shown[0]} | {shown[1]} | {support} |"
