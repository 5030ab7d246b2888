"""Colours of the pages, light and dark, each pair with the contrast of WCAG 2.2 AA; a test computes it."""

from __future__ import annotations

from medpipe.records import LABELS

# name -> light, dark
SURFACES = {
    "page": ("#f7f6f3", "#131518"),
    "panel": ("#ffffff", "#1b1e22"),
    "line": ("#dedbd3", "#33383e"),
    "text": ("#1e2126", "#e6e8ea"),
    "muted": ("#585d66", "#a4abb4"),
    "accent": ("#2552a8", "#9fbcff"),
    "accent-soft": ("#e4ebfa", "#25324b"),
    "found": ("#ffe27a", "#6b5600"),
    "good": ("#2b6b2f", "#93d393"),
    "warn": ("#8a5300", "#f2b765"),
    "bad": ("#a3262a", "#ff9d97"),
}
# label -> ink, tint (light), ink, tint (dark): ink on the page and on the tint, text on the tint.
LABEL_COLOURS = {
    "DISEASE": ("#a3262a", "#fbe1df", "#ff9d97", "#4a2628"),
    "SYMPTOM": ("#7f4c00", "#fbe9c9", "#f2b765", "#43330f"),
    "ANATOMY": ("#0f5e6b", "#d7eff2", "#7fd0dc", "#143a41"),
    "DRUG": ("#28632c", "#dcf0d9", "#93d393", "#203d23"),
    "DOSAGE": ("#4f5e0e", "#ebf1cf", "#c0cf70", "#343a14"),
    "PROCEDURE": ("#2a55ad", "#e0e8fb", "#9dbcff", "#25345a"),
    "TEST": ("#733291", "#f0e1f6", "#dba4f0", "#3f274b"),
    "LAB_VALUE": ("#8f2d69", "#fae0ef", "#f59fce", "#492238"),
    "SEVERITY": ("#8f3a10", "#fbe4d6", "#f9a67c", "#492a1a"),
    "TEMPORAL": ("#48545f", "#e6eaee", "#b3c0ce", "#303840"),
    "AGE": ("#57506b", "#e9e6f1", "#c3bbd8", "#36323f"),
    "SEX": ("#655043", "#efe8e2", "#d3bfb0", "#3c342d"),
}
OTHER = ("#4a4d52", "#e9e9e9", "#c4c6c9", "#35383b")  # labels of a model that a site trained


def label_class(label: str) -> str:
    """Returns the CSS class of a label's colours; never the label itself, which a site's model may name as it likes."""
    return f"c{LABELS.index(label)}" if label in LABELS else "cx"


def label_name(label: str) -> str:
    """Returns a label as a person reads it."""
    return label.replace("_", " ").lower()


def palette_css() -> str:
    """Returns the colours as CSS custom properties: by the system's theme, or by ``data-theme`` where it is chosen."""
    light, dark = _variables(0), _variables(1)
    rules = [
        f":root{{color-scheme:light;{light}}}",
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}",
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}",
    ]
    for key in [*map(label_class, LABELS), "cx"]:
        rules.append(f".{key}{{--ink:var(--{key});--tint:var(--{key}t)}}")
    return "\n".join(rules) + "\n"


def _variables(theme: int) -> str:
    found = {name: colours[theme] for name, colours in SURFACES.items()}
    for label, colours in {**LABEL_COLOURS, "": OTHER}.items():
        key = label_class(label)
        found |= {key: colours[2 * theme], f"{key}t": colours[2 * theme + 1]}
    return ";".join(f"--{name}:{colour}" for name, colour in found.items())
