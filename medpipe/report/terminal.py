"""What a person reads on the terminal: each note with its entities, relations and summary, then the funnel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from medpipe.records import ASSERTIONS
from medpipe.report.explain import path_line
from medpipe.report.notes import Note

STYLES = {
    "DISEASE": "bold red", "SYMPTOM": "yellow", "ANATOMY": "cyan", "DRUG": "green", "DOSAGE": "dark_sea_green4",
    "PROCEDURE": "blue", "TEST": "magenta", "LAB_VALUE": "purple", "SEVERITY": "dark_orange",
    "TEMPORAL": "bright_black", "AGE": "bright_black", "SEX": "bright_black",
}  # fmt: skip
# Characters of a note that would move the cursor or turn the direction of the line.
HIDDEN = dict.fromkeys(
    [*range(0x00, 0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], " "
)

STATUS = {
    "failed": "failed (see quarantine)",
    "unsupported_language": "in a language that no model knows; not processed",
}


def one_line(text: str) -> str:
    """Returns ``text`` on one line, without control characters, which a terminal would obey."""
    return " ".join(text.translate(HIDDEN).split())


def print_note(console: Console, note: Note) -> None:
    """Prints a note: heading, entities (nesting and assertions shown), relations, summary."""
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
    parts += [entity_tree(note), relation_lines(note)]
    if note.summary is not None:
        parts.append(summary_lines(note.summary))
    console.print(Panel(Group(*parts), title=escape(title), title_align="left", border_style="dim"))


def entity_tree(note: Note) -> Tree:
    """Returns the entities in the order of the note, nested ones below the one that holds them, repeats counted."""
    tree = Tree(Text(f"Entities ({len(note.entities)})", style="bold"))
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

    for one, times in Counter(shape(entity) for entity in children.get(None, [])).items():
        add(tree, one, times)
    return tree


def code_of(entity: Mapping[str, Any]) -> str:
    """Returns an entity's code as a person reads it: system, code, probability; empty where it has none."""
    if entity.get("code") is None:
        return ""
    score = min(entity["code_score"], 0.99)  # nothing is certain
    return one_line(f"{entity['code_system']} {entity['code']} {score:.2f}")


def relation_lines(note: Note) -> Group:
    """Returns one line a disease with its symptoms; a denied one is struck through."""
    by_id = {entity["entity_id"]: entity for entity in note.entities}
    found: dict[tuple[str, str], dict[str, tuple[float, bool]]] = {}
    for relation in note.relations:
        head, tail = by_id[relation["head_entity_id"]], by_id[relation["tail_entity_id"]]
        tails = found.setdefault((one_line(head["text"]), relation["type"]), {})
        text = one_line(tail["text"])
        score, negated = tails.get(text, (0.0, True))
        tails[text] = (max(score, relation["score"]), negated and relation["negated"])
    lines = [Text(f"Relations ({len(note.relations)})", style="bold")]
    for (disease, kind), tails in found.items():
        line = Text(f"  {disease} ", style="bold red").append(f"─{kind}→ ", style="dim")
        for index, (text, (score, negated)) in enumerate(sorted(tails.items(), key=lambda item: -item[1][0])):
            line.append(", " if index else "").append(text, style="strike dim" if negated else "yellow")
            line.append(f" {score:.2f}{' negated' if negated else ''}", style="dim")
        lines.append(line)
    lines += [line for relation in note.relations for line in explanation_lines(relation, by_id, note.document)]
    return Group(*lines)


def explanation_lines(
    relation: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]], document: Mapping[str, Any]
) -> Iterator[Text]:
    """Yields what a relation rests on, where that was asked for: its sentences, and the path of attention."""
    explanation = relation.get("explanation")
    if explanation is None:
        return
    text = document["text"]
    head, tail = by_id[relation["head_entity_id"]], by_id[relation["tail_entity_id"]]
    yield Text(f"  {one_line(head['text'])} ─{relation['type']}→ {one_line(tail['text'])}", style="bold")
    for start, end in explanation["evidence"]:
        yield Text(f"    “{one_line(text[start:end])}”", style="italic")
    if explanation["path"]:
        path = one_line(path_line(explanation, text))
        yield Text(f"    {path}  (attention {explanation['attention']:.3f})", style="dim")


def summary_lines(summary: Mapping[str, Any]) -> Group:
    """Returns the summary and the outcome of its check; generated words, not copied from the note, in italics."""
    text = Text()
    cursor = 0
    for token in summary["tokens"]:
        text.append(summary["text"][cursor : token["start"]].translate(HIDDEN))
        style = "italic" if token["source_start"] is None else ""
        text.append(summary["text"][token["start"] : token["end"]].translate(HIDDEN), style=style)
        cursor = token["end"]
    text.append(summary["text"][cursor:].translate(HIDDEN))
    copied = sum(token["source_start"] is not None for token in summary["tokens"])
    check = "checked" if summary["faithful"] else "NOT FAITHFUL"
    told = f"Summary ({summary['method']}, {copied}/{len(summary['tokens'])} words copied, {check}"
    told += f", {summary['n_repaired']} sentences repaired)" if summary["n_repaired"] else ")"
    return Group(Text(told, style="bold"), Padding(text, (0, 0, 0, 2)))


def print_funnel(console: Console, outcome: Mapping[str, Any], warehouse: str) -> None:
    """Prints what went in, what came out and what was left out, and why; then where the Parquet lies."""
    counts = outcome["counts"]
    table = Table(
        title=f"Funnel of {outcome['partition']}", title_justify="left", show_header=False, box=None, padding=(0, 2)
    )
    rows: list[tuple[str, Any]] = [("sources seen", outcome["sources"])]
    if outcome["unchanged"]:
        rows.append(("  done before, unchanged", outcome["unchanged"]))
    if counts:
        rows += [
            ("records read", counts.get("records", 0)),
            ("  not a note", counts.get("not_notes", 0)),
            ("  the same note again", counts.get("duplicates", 0)),
            ("  quarantined", counts.get("rejected", 0)),
            ("notes with text", counts.get("documents", 0)),
            ("  in a language that no model knows", counts.get("unsupported_language", 0)),
            ("  done before, unchanged", counts.get("unchanged", 0)),
            ("entities", counts.get("entities", 0)),
            ("relations", counts.get("relations", 0)),
            ("summaries", counts.get("summaries", 0)),
            ("rows in quarantine", counts.get("quarantined", 0)),
        ]
    optional = {"  the same note again", "  done before, unchanged", "  in a language that no model knows"}
    for name, value in rows:
        if value or name not in optional:
            table.add_row(name, f"{int(value):,}")
    console.print(table)
    kinds = {name.partition(":")[2]: value for name, value in counts.items() if name.startswith("not_a_note:")}
    if kinds:
        shown = ", ".join(
            f"{kind} {int(value):,}" for kind, value in sorted(kinds.items(), key=lambda item: -item[1])[:12]
        )
        console.print(Text(f"  not notes: {shown}", style="dim"))
    causes = {name.partition(":")[2]: value for name, value in counts.items() if name.startswith("rejected:")}
    if causes:
        shown = ", ".join(f"{code} {int(value):,}" for code, value in sorted(causes.items(), key=lambda item: -item[1]))
        console.print(Text(f"  quarantined: {shown}", style="dim"))
    console.print(Text(f"Tables: {warehouse}/<table>/v1/dt={outcome['partition']}/part-0.parquet"))
