"""The tagger's model card: what it was trained on, what it scores, where it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.tag.fragments import GAP

if TYPE_CHECKING:
    from medpipe.learn.tagger import TaggerConfig

BAR = 40  # characters of the reliability diagram's bars
FOLDS = 5  # of the documents of dev: see ``learn.tagger.judge``

# Credits that the corpora's licences ask for, by folder (see each corpus's README).
CREDITS = {
    "maccrobat": "MACCROBAT2020 (Caufield et al. 2018, 2019), figshare 9764942, CC BY 4.0.",
    "raredis": (
        "RareDis (Martínez-deMiguel et al. 2022), annotations CC BY 4.0. The texts belong to the National Organization "
        "for Rare Disorders (NORD); they trained these weights and are not redistributed."
    ),
    "ncbi_disease": "NCBI Disease corpus (Doğan, Leaman, Lu 2014), U.S. National Library of Medicine, public domain.",
    "bc5cdr": "BC5CDR (Li et al. 2016), BioCreative V, public domain mark / CC BY 4.0.",
    "chia": "Chia (Kury et al. 2020), figshare 11855817, CC BY 4.0.",
    "phee": "PHEE (Sun et al. 2022), MIT License, © 2025 Sun Zhaoyue.",
    "multiclinsum_gs": (
        "MultiClinSum, English, gold standard (Rodriguez-Ortega et al. 2025), Zenodo 15459174, CC BY 4.0. Its case "
        "reports come from open-access journals; some may stand in other splits of MACCROBAT, without its annotations."
    ),
    "genia": "GENIA term corpus 3.02 (Kim et al. 2003), CC BY 3.0. Corpus annotations © GENIA Project.",
}

LIMITS = """
- English only. Trained on published case reports, encyclopaedia articles, abstracts and trial criteria; no clinic's own
  notes, so abbreviations and templates of an EHR are less well known to it than the figures say.
- An entity lies within one sentence; a discontinuous one is found as its outer extent, if at all{parts}.
- Entities of one label nest or overlap at most {levels} deep; of different labels, freely.
- `score` is the calibrated probability that span and label are exactly right, measured on the corpora above: on text of
  another kind it is too high.
- `subtype` is empty.
"""


def write_card(path: Path, config: TaggerConfig, result: dict[str, Any]) -> None:
    """Writes the card; ``result`` is what ``train`` made."""
    lines = [
        f"# {config.name} {config.version}",
        "",
        "Nested BiLSTM-CRF over hashed words and character n-grams: a linear chain (BIOES) for each label and level.",
        f"Labels: {', '.join(config.labels)}.",
        "",
        f"Trained with `medpipe train tagger --config {config.name} --corpora DIR --out DIR`, best after epoch "
        f"{result['epochs']} of {config.training.epochs}, in {result['seconds']:.0f} s of training. Chosen by the "
        "mean micro F1 over the dev sets; the test sets were not looked at.",
        "",
        "## Training data",
        "",
        "| corpus | documents | sentences | tokens | entities | of these not learnable | seen an epoch |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in config.corpora:
        facts = result["train"][entry["folder"]]
        lost = facts["across_sentences"] + facts["no_level"]
        lines.append(
            f"| {entry['folder']} | {facts['documents']} | {facts['sentences']} | {facts['tokens']} "
            f"| {facts['entities']} | {lost} | {describe_repeat(entry)} |"
        )
    lines += ["", "Not learnable: across two sentences, or more levels deep than the model has.", ""]
    lines += [f"- {CREDITS.get(entry['folder'], entry['folder'])}" for entry in config.corpora]
    if config.distillation is not None:
        taught = result["distillation"]
        folders = list(dict.fromkeys(name.split("/")[0] for name in config.distillation.texts))
        lines += [
            "",
            "Before that, the encoder learned to predict how all-MiniLM-L6-v2 (Apache-2.0; used in training only) sees "
            f"every word of {taught['tokens']} tokens of unannotated text, {taught['epochs']} times over, in "
            f"{taught['seconds']:.0f} s ({100 * taught['explained']:.0f} % of the variance of its states on held-out "
            f"text). The texts: train files of {', '.join(folders)}.",
            "",
        ]
        annotated = [entry["folder"] for entry in config.corpora]
        lines += [f"- {CREDITS.get(folder, folder)}" for folder in folders if folder not in annotated]
    if config.pretraining is not None:
        done = result["pretraining"]
        folders = list(dict.fromkeys(name.split("/")[0] for name in config.pretraining.texts))
        lines += [
            "",
            f"Before that, the encoder guessed masked words in {done['tokens']} tokens of unannotated text, "
            f"{done['epochs']} times over, in {done['seconds']:.0f} s (loss on held-out text {done['loss']:.2f} nats "
            f"a word). The texts: train files of {', '.join(folders)}.",
            "",
        ]
        annotated = [entry["folder"] for entry in config.corpora]
        lines += [f"- {CREDITS.get(folder, folder)}" for folder in folders if folder not in annotated]
    wholes = {whole: parts for whole, parts in config.auxiliary.items() if whole != GAP}
    if wholes:
        lines += ["", "## Label maps", ""]
        parts = ", ".join(f"{whole} ({' or '.join(parts)})" for whole, parts in wholes.items())
        lines += [f"Trained only, never given: {parts}. In the scores below either label counts as it.", ""]
        if config.divided:
            lines += [
                f"A mention of {', '.join(config.divided)} trains one of its parts too: the one that a classifier of "
                "mentions, fitted to the corpora that annotate the parts, finds likelier.",
                "",
            ]
        for entry in config.corpora:
            lines.append(
                f"- {entry['folder']}: "
                + ", ".join(f"{kind} → {label}" for kind, label in entry.get("labels", {}).items())
            )
    lines += ["", f"## Scores on dev (exact span and label; mean micro F1 {100 * result['score']:.1f})", ""]
    lines += ["| corpus | label | P | R | F1 | support |", "|---|---|---:|---:|---:|---:|"]
    for folder, scores in result["dev"].items():
        lines.append(_score_row(f"**{folder}**", "**all**", scores["micro"]))
        lines += [_score_row("", label, one) for label, one in scores["labels"].items()]
        if scores["nested"]["support"]:
            lines.append(_score_row("", "nested", scores["nested"]))
    if result["as_used"]:
        lines += [
            "",
            "Above, the model is told whose conventions it is to follow: which style of annotation the corpus has. "
            f"`medpipe run` always follows the first, *{config.styles[0]}* (`medpipe evaluate tagger --style "
            f"{config.styles[0]}`), and is the farther from the others' gold the more these differ:",
            "",
            "| corpus | P | R | F1 | support |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [_score_row(f"**{folder}**", None, scores) for folder, scores in result["as_used"].items()]
    if config.ablations:
        lines += ["", "## Ablation (micro F1 on dev)", "", "| what | corpora | F1 |", "|---|---|---:|"]
        lines += [f"| {row['what']} | {row['corpus']} | {row['f1']:.1f} |" for row in config.ablations]
    if result["discontinuous"]:
        lines += [
            "",
            "## Discontinuous mentions on dev",
            "",
            "Found where all parts and the label are exactly right. (Above, they count by their outer extent.)",
            "",
            "| corpus | P | R | F1 | support |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [_score_row(folder, None, scores) for folder, scores in result["discontinuous"].items()]
    lines += [
        "",
        "## Calibration",
        "",
        "Platt scaling with a slope and an intercept for each label, drawn towards those of all labels. Expected "
        f"calibration error (ECE, 10 bins) on dev, every document scored by a fit to the others ({FOLDS} folds): "
        f"{result['calibration_error']:.3f} over all labels. Of few entities it cannot be small: beside it stands "
        "what exact scores would have on average, by chance.",
        "",
        "| label | entities found | ECE | by chance | slope | intercept |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for label, one in result["calibration_errors"].items():
        slope, intercept = result["calibration"][label]
        lines.append(
            f"| {label} | {one['count']} | {one['error']:.3f} | {one['chance']:.3f} | {slope:.2f} | {intercept:.2f} |"
        )
    lines += [
        "",
        "Reliability: how many of the entities with such a score are right.",
        "",
        *draw_reliability(result["reliability"]),
        "",
        "## Limits",
        LIMITS.format(
            levels=config.network.levels,
            parts="; its parts as well as said above" if result["discontinuous"] else "",
        ).rstrip(),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def describe_repeat(entry: dict[str, Any]) -> str:
    """Returns how often a corpus is seen in an epoch, early and late."""
    early, late = entry["repeat"], max(entry["repeat"], entry["late_repeat"])
    return f"{early} ×" if early == late else f"{early} ×, later {late} ×"


def draw_reliability(bins: list[tuple[int, float, float]]) -> list[str]:
    """Returns the reliability diagram as lines: a bar as long as the share that is right, a mark at the mean score."""
    lines = ["```", f"score   entities   right   0 {' ' * (BAR - 6)} 100 %"]
    for count, mean, share in bins:
        bar = list(("█" * round(share * BAR)).ljust(BAR + 1, "·"))
        bar[round(mean * BAR)] = "┃"
        lines.append(f"{100 * mean:4.1f} %  {count:8}  {100 * share:4.1f} %  {''.join(bar)}")
    return [*lines, "```", "", "┃ is where the bar would end if the scores were exact."]


def _score_row(corpus: str, label: str | None, scores: dict[str, float]) -> str:
    precision, recall, f1 = (f"{100 * scores[name]:.1f}" for name in ("precision", "recall", "f1"))
    if label is None:
        return f"| {corpus} | {precision} | {recall} | {f1} | {scores['support']} |"
    return f"| {corpus} | {label} | {precision} | {recall} | {f1} | {scores['support']} |"
