"""What a person reads on the terminal: each note with its summary, relations and entities, then the funnel.

Nothing is said by colour alone: what is denied is struck through and called negated, labels are written out. Rich
leaves colours out where ``NO_COLOR`` is set (https://no-color.org), and all styles where the output is no terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from medpipe.records import ASSERTIONS
from medpipe.report.characters import one_line, plain_lines
from medpipe.report.explain import path_line
from medpipe.report.notes import Note

STYLES = {
    "DISEASE": "bold red", "SYMPTOM": "yellow", "ANATOMY": "cyan", "DRUG": "green", "DOSAGE": "dark_sea_green4",
    "PROCEDURE": "blue", "TEST": "magenta", "LAB_VALUE": "purple", "SEVERITY": "dark_orange",
    "TEMPORAL": "bright_black", "AGE": "bright_black", "SEX": "bright_black",
}  # fmt: skip
STATUS = {
    "failed": "failed (see quarantine)",
    "unsupported_language": "in a language that no model knows; not processed",
}
BAR_COLUMNS = 60  # a narrower terminal gets the funnel without bars


def print_note(console: Console, note: Note) -> None:
    """Prints a note: heading, summary, relations, entities (by section, nesting and assertions shown)."""
    document = note.document
    facts = [document["note_type"], f"patient {document['patient_id']}" if document["patient_id"] else None]
    facts.append(
        document["authored_at"].date().isoformat() if document["authored_at"] else document["authored_at_text"]
    )
    facts.append(f"{document['n_chars']:,} characters")
    title = one_line(f"{document['source']} · {document['record']}")
    heading = Text(" · ".join(one_line(fact) for fact in facts if fact), style="dim")
    parts: list[Any] = [heading]
    if document["status"] != "processed":
        parts.append(Text(f"status: {STATUS.get(document['status'], document['status'])}", style="bold red"))
    if note.summary is not None:
        parts += ["", summary_lines(note.summary)]
    if note.relations:
        parts += ["", relation_tree(note), *explanation_lines(note)]
    parts += ["", entity_tree(note)]
    console.print(
        Panel(
            Group(*parts), title=escape(title), title_align="left", border_style="dim",
            subtitle=f"id {document['document_id'][:12]}", subtitle_align="right",
        )
    )  # fmt: skip


def entity_tree(note: Note) -> Tree:
    """Returns the entities in the order of the note, below their sections where there are several.

    Nested ones stand below the one that holds them; repeats within a section are counted.
    """
    tree = Tree(Text(f"Entities ({len(note.entities)})", style="bold"), guide_style="dim")
    children: dict[str | None, list[dict[str, Any]]] = {}
    for entity in note.entities:
        children.setdefault(entity["parent_entity_id"], []).append(entity)

    def shape(entity: dict[str, Any]) -> tuple[Any, ...]:
        nested = tuple(shape(child) for child in children.get(entity["entity_id"], []))
        asserted = tuple(name for name in ASSERTIONS if entity[name])
        return entity["label"], one_line(entity["text"]), asserted, code_of(entity), nested

    def add(branch: Tree, one: tuple[Any, ...], times: int) -> None:
        label, text, assertions, code, nested = one
        line = Text()
        line.append(f"{label:<10}", style=STYLES.get(label, ""))
        line.append(text, style="strike" if "negated" in assertions else "")
        if assertions:
            line.append("  " + ", ".join(assertions), style="italic red" if "negated" in assertions else "italic")
        if code:
            line.append(f"  {code}", style="dim")
        if times > 1:
            line.append(f"  ×{times}", style="dim")
        below = branch.add(line)
        for child, count in Counter(nested).items():
            add(below, child, count)

    for title, found in by_section(note, children.get(None, [])):
        branch = tree.add(Text(title, style="bold dim")) if title else tree
        for one, times in Counter(shape(entity) for entity in found).items():
            add(branch, one, times)
    return tree


def by_section(note: Note, entities: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns the entities with the title of the section that each begins in; no titles where it is one section."""
    titles = {one["section_id"]: one_line(one["title"] or one["name"].replace("_", " ")) for one in note.sections}
    groups: dict[str, list[dict[str, Any]]] = {}
    for entity in entities:
        groups.setdefault(titles.get(entity.get("section_id"), ""), []).append(entity)
    return list(groups.items()) if len(groups) > 1 else [("", list(entities))]


def code_of(entity: Mapping[str, Any]) -> str:
    """Returns an entity's code as a person reads it: system, code, probability; empty where it has none."""
    if entity.get("code") is None:
        return ""
    score = min(entity["code_score"], 0.99)  # nothing is certain
    return one_line(f"{entity['code_system']} {entity['code']} {score:.2f}")


def relation_tree(note: Note) -> Tree:
    """Returns what each disease leads to, the surest first; a denied one is struck through."""
    by_id = {entity["entity_id"]: entity for entity in note.entities}
    found: dict[str, dict[tuple[str, str], tuple[float, bool]]] = {}
    for relation in note.relations:
        head, tail = by_id[relation["head_entity_id"]], by_id[relation["tail_entity_id"]]
        tails = found.setdefault(one_line(head["text"]), {})
        key = relation["type"].replace("_", " "), one_line(tail["text"])
        score, negated = tails.get(key, (0.0, True))
        tails[key] = (max(score, relation["score"]), negated and relation["negated"])
    tree = Tree(Text(f"Relations ({len(note.relations)})", style="bold"), guide_style="dim")
    for disease, tails in found.items():
        branch = tree.add(Text(disease, style=STYLES["DISEASE"]))
        for (kind, text), (score, negated) in sorted(tails.items(), key=lambda item: -item[1][0]):
            line = Text(f"{kind} ", style="dim").append(text, style="not dim strike" if negated else "not dim yellow")
            branch.add(line.append(f"  {min(score, 0.99):.2f}{'  negated' if negated else ''}"))
    return tree


def explanation_lines(note: Note) -> Iterator[Text]:
    """Yields what relations rest on, where that was asked for: their sentences, and the path of attention."""
    by_id = {entity["entity_id"]: entity for entity in note.entities}
    for relation in note.relations:
        explanation = relation.get("explanation")
        if explanation is None:
            continue
        text = note.document["text"]
        head, tail = by_id[relation["head_entity_id"]], by_id[relation["tail_entity_id"]]
        yield Text(f"  {one_line(head['text'])} ─{relation['type']}→ {one_line(tail['text'])}", style="bold")
        for start, end in explanation["evidence"]:
            yield Text(f"    “{one_line(text[start:end])}”", style="italic")
        if explanation["path"]:
            path = one_line(path_line(explanation, text))
            yield Text(f"    {path}  (attention {explanation['attention']:.3f})", style="dim")


def summary_lines(summary: Mapping[str, Any]) -> Group:
    """Returns the summary part by part and the outcome of its check; generated words, not copied, in italics."""
    copied = sum(token["source_start"] is not None for token in summary["tokens"])
    check = "checked" if summary["faithful"] else "NOT FAITHFUL"
    told = f"Summary ({summary['method']}, {copied}/{len(summary['tokens'])} words copied, {check}"
    told += f", {summary['n_repaired']} sentences repaired)" if summary["n_repaired"] else ")"
    lines: list[Any] = [Text(told, style="bold")]
    for name, start, end in summary_parts(summary):
        if name:
            lines.append(Text(f"  {name}", style="bold dim"))
        lines.append(Padding(summary_text(summary, start, end), (0, 0, 0, 4 if name else 2)))
    return Group(*lines)


def summary_parts(summary: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Returns the title of each part of a summary and its place in the text; one without a title where it has none."""
    parts = summary.get("sections") or []
    if not parts or {part["name"] for part in parts} == {"summary"}:
        return [("", 0, len(summary["text"]))]
    # What stands before the first part or between two belongs to the part before it, so that no word is lost.
    limits = [0, *(part["start"] for part in parts[1:]), len(summary["text"])]
    titles = [one_line(part["name"]).replace("_", " ").capitalize() for part in parts]
    return list(zip(titles, limits[:-1], limits[1:], strict=True))


def summary_text(summary: Mapping[str, Any], start: int, end: int) -> Text:
    """Returns a piece of a summary, without blanks at its end; generated words in italics."""
    text = Text()
    cursor = start
    for token in summary["tokens"]:
        if not start <= token["start"] < end:
            continue
        text.append(plain_lines(summary["text"][cursor : token["start"]]))
        style = "italic" if token["source_start"] is None else ""
        text.append(plain_lines(summary["text"][token["start"] : token["end"]]), style=style)
        cursor = token["end"]
    text.append(plain_lines(summary["text"][cursor:end]))
    text.rstrip()
    return text


def print_funnel(console: Console, outcome: Mapping[str, Any], warehouse: str) -> None:
    """Prints what went in, what came out and what was left out, and why; then where the Parquet lies."""
    counts = outcome["counts"]
    table = Table(
        title=f"Funnel of {outcome['partition']}", title_justify="left", show_header=False, box=None, padding=(0, 2)
    )
    steps = [
        ("records read", "records"), ("  not a note", "not_notes"), ("  the same note again", "duplicates"),
        ("  quarantined", "rejected"), ("notes with text", "documents"),
        ("  in a language that no model knows", "unsupported_language"), ("  done before, unchanged", "unchanged"),
        ("  done before, taken over", "reused"),
    ]  # fmt: skip
    optional = {"duplicates", "unchanged", "reused", "unsupported_language"}
    found = ["entities", "relations", "summaries"]
    table.add_row("sources seen", f"{outcome['sources']:,}")
    if outcome["unchanged"]:
        table.add_row("  done before, unchanged", f"{outcome['unchanged']:,}")
    if counts:
        most = max(1, int(counts.get("records", 0)))
        for name, key in steps:
            value = int(counts.get(key, 0))
            if value or key not in optional:
                style = "dim" if name.startswith(" ") else "green"
                bar = ProgressBar(most, value, width=20, complete_style=style, finished_style=style)
                cells = [bar] if console.width >= BAR_COLUMNS else []
                table.add_row(name, f"{value:,}", *cells)
        for name in found:
            table.add_row(name, f"{int(counts.get(name, 0)):,}")
        table.add_row("rows in quarantine", f"{int(counts.get('quarantined', 0)):,}")
    console.print(table)
    for told, prefix, most_kinds in (("not notes", "not_a_note:", 12), ("quarantined", "rejected:", None)):
        kinds = {name.removeprefix(prefix): int(value) for name, value in counts.items() if name.startswith(prefix)}
        if kinds:
            largest = sorted(kinds.items(), key=lambda item: -item[1])[:most_kinds]
            shown = ", ".join(f"{one_line(kind)} {value:,}" for kind, value in largest)
            console.print(Padding(Text(f"{told}: {shown}", style="dim"), (0, 0, 0, 2)))
    console.print(Text(f"Tables: {warehouse}/<table>/v*/dt={outcome['partition']}/part-0.parquet"))
