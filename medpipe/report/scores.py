"""Scores and speeds as tables for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Column, Table


def print_scores(console: Console, figures: Mapping[str, Any]) -> None:
    """Prints the nested figures of an evaluation: a row for each group that has figures of its own."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    flat = {name: value for name, value in figures.items() if not isinstance(value, Mapping)}
    if flat:
        rows.append(("all", flat))
    for name, value in figures.items():
        if isinstance(value, Mapping):
            nested = {key: below for key, below in value.items() if isinstance(below, Mapping)}
            own = {key: below for key, below in value.items() if not isinstance(below, Mapping)}
            rows += [(name, own)] if own else []
            rows += [(f"  {key}", below) for key, below in nested.items()]
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    table = Table("", *(Column(name, overflow="fold", justify="right") for name in columns))
    for name, row in rows:
        table.add_row(name, *(_shown(row.get(column)) for column in columns))
    console.print(table)


def print_bench(console: Console, figures: Mapping[str, Any]) -> None:
    """Prints the speeds of ``medpipe bench``: a column for each part, a row for each figure."""
    parts = {name: value for name, value in figures.items() if isinstance(value, Mapping)}
    table = Table("", *(Column(part, justify="right") for part in parts))
    for row in dict.fromkeys(key for value in parts.values() for key in value if key != "formats"):
        table.add_row(row, *(_shown(value.get(row)) for value in parts.values()))
    console.print(table)
    formats = parts.get("ingest", {}).get("formats", {})
    if formats:
        table = Table("ingest", *(Column(name, justify="right") for name in next(iter(formats.values()))))
        for format, row in formats.items():
            table.add_row(format, *(_shown(value) for value in row.values()))
        console.print(table)
    for name in ("machine", "device", "profile", "cold_start_s"):
        if name in figures:
            console.print(f"{name}: {figures[name]}")


def print_peers(console: Console, figures: Mapping[str, Any]) -> None:
    """Prints the figures of ``medpipe bench tag --peers``: a row for each tagger, ratios of ours to each peer."""
    ratios = figures["ratios"]
    peers = list(next(iter(ratios.values()), {}))
    columns = ("words/s", "words/CPU s", "F1", *(f"× {peer}" for peer in peers))
    table = Table("", *(Column(name, justify="right") for name in columns))
    for name, row in figures["taggers"].items():
        times = [f"{ratios[name][peer]:.1f}" if name in ratios else "" for peer in peers]
        table.add_row(name, f"{row['words_per_s']:,}", f"{row['words_per_cpu_s']:,}", f"{100 * row['f1']:.1f}", *times)
    console.print(table)
    console.print(f"{figures['words']:,} words a round, {figures['threads']} threads; {figures['machine']}")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
