"""The page of a run: what a partition took in, gave out and left out, how fast, and whether it is like those before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medpipe.report import charts
from medpipe.report.characters import one_line
from medpipe.report.html import make_page
from medpipe.report.palette import label_class, label_name
from medpipe.report.run_figures import MIN_CELL, MIN_NOTES, PARTITIONS, SHIFTED, STABLE


def run_page(figures: Mapping[str, Any]) -> str:
    """Returns the page of ``run_figures.figures``."""
    context = {
        "title": f"Run of {figures['partition']}",
        "figures": figures,
        "headline": headline(figures),
        "charts": charts,
        "number": number,
        "percent": lambda share: "" if share is None else f"{100 * share:.0f} %",
        "label_class": label_class,
        "label_name": label_name,
        "one_line": one_line,
        "limits": {
            "partitions": PARTITIONS, "notes": MIN_NOTES, "stable": STABLE, "shifted": SHIFTED, "cell": MIN_CELL,
        },
    }  # fmt: skip
    return make_page("run.html.j2", context, styles=("page.css", "run.css"), scripts=("theme.js",))


def headline(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the few figures that say whether the night went well: name, value, kind (good, warn, bad or nothing)."""
    steps = {step["name"]: step["count"] for step in figures["funnel"]["steps"]}
    rows = figures["funnel"]["rows"]
    seconds = sum(stage["seconds"] for stage in figures["throughput"])
    shifted = [one["name"] for one in figures["drift"] if one["state"] == "shifted"]
    watched = [one["name"] for one in figures["drift"] if one["state"] == "watch"]
    drift = ("shifted", "bad") if shifted else ("watch", "warn") if watched else ("none", "good")
    return [
        ("notes processed", number(steps["Notes processed"]), ""),
        ("entities", number(rows["entities"]), ""),
        ("relations", number(rows["relations"]), ""),
        ("in quarantine", number(rows["quarantine"]), "warn" if rows["quarantine"] else "good"),
        ("seconds of work", number(seconds), ""),
        ("drift", *drift) if figures["drift"] else ("drift: too few notes", "–", ""),
    ]


def number(value: float | None) -> str:
    """Returns a number as a person reads it: thousands apart, two figures after the point where it is small."""
    if value is None:
        return ""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
