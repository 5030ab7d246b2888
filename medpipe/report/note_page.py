"""The page of notes: text with its entities, relations, summary and sections, in one file that asks for nothing.

Everything is in the HTML, so that the page can be read, printed and searched without its script; the script adds
filters, keys, arcs and the way from a word of the summary or from a relation to the characters it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medpipe.records import ASSERTIONS, LABELS
from medpipe.report.characters import one_line, shown
from medpipe.report.graph import draw_graph
from medpipe.report.highlight import Mark, line_of, render, split_lines
from medpipe.report.html import make_page
from medpipe.report.notes import Note
from medpipe.report.palette import label_class, label_name

STATUS = {
    "failed": "A stage could not take this note; the quarantine says why.",
    "unsupported_language": "The note is in a language that no model knows; it was kept and not processed.",
}
MAX_NOTES, MAX_CHARS = 200, 2_000_000  # of a page; the first note is on it whatever its length
MAX_MENTION = 200  # characters of a mention in lists and cards; the note itself has all of it
LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def note_page(notes: Iterable[Note], *, left_out: int = 0) -> str:
    """Returns the page of one note or of several, of which one is shown at a time.

    Args:
        notes: at least one.
        left_out: how many more notes the run has; the page says so.
    """
    views = [view_note(note, number) for number, note in enumerate(notes)]
    labels = sorted({label for view in views for label in view["labels"]}, key=_label_order)
    context = {
        "title": views[0]["title"] if len(views) == 1 else f"{len(views)} notes",
        "notes": views,
        "left_out": left_out,
        "labels": [{"name": label, "shown": label_name(label), "colour": label_class(label)} for label in labels],
        "data": {"labels": labels, "assertions": ASSERTIONS, "notes": [view.pop("data") for view in views]},
    }
    return make_page("note.html.j2", context, styles=("page.css", "note.css"), scripts=("theme.js", "note.js"))


def _label_order(label: str) -> tuple[int, str]:
    return (LABELS.index(label) if label in LABELS else len(LABELS), label)


def view_note(note: Note, number: int) -> dict[str, Any]:
    """Returns what the template shows of a note; ids of its elements begin with ``n<number>-``."""
    document = note.document
    prefix = f"n{number}"
    lines = split_lines(document["text"])
    rows = {entity["entity_id"]: index for index, entity in enumerate(note.entities)}
    relations = [one for one in note.relations if one["head_entity_id"] in rows and one["tail_entity_id"] in rows]
    relations.sort(key=lambda one: (-one["score"], rows[one["head_entity_id"]], rows[one["tail_entity_id"]]))
    pairs = [(rows[one["head_entity_id"]], rows[one["tail_entity_id"]]) for one in relations]
    marks = [*heading_marks(note), *map(entity_mark, range(len(note.entities)), note.entities)]
    language = document.get("language") or ""
    date = document["authored_at"].date().isoformat() if document["authored_at"] else document["authored_at_text"]
    facts = {
        "Patient": document["patient_id"], "Encounter": document["encounter_id"], "Written": date,
        "Status": document.get("note_status"), "Source": document["source"], "Record": document["record"],
        "Id": document["document_id"],
    }  # fmt: skip
    return {
        "prefix": prefix,
        "title": one_line(document["note_type"] or "Clinical note"),
        "subtitle": one_line(" · ".join(part for part in (date, document["patient_id"], document["source"]) if part)),
        "language": language if LANGUAGE.fullmatch(language) else None,
        "facts": [(name, one_line(value)) for name, value in facts.items() if value],
        "status": STATUS.get(document["status"]),
        "n_chars": document["n_chars"],
        "n_entities": len(note.entities),
        "body": render(document["text"], marks, prefix),
        "outline": outline(note, prefix),
        "summary": view_summary(note.summary, document["text"], lines, prefix) if note.summary else None,
        "relations": view_relations(note.entities, relations, pairs, lines, prefix),
        "graph": draw_graph(note.entities, relations, pairs),
        "mentions": view_mentions(note.entities, prefix),
        "labels": {entity["label"] for entity in note.entities},
        "data": note_data(note, rows, relations, pairs),
    }


# --- text and sections ----------------------------------------------------------------------


def entity_mark(index: int, entity: Mapping[str, Any]) -> Mark:
    """Returns the mark of an entity: its fragments, where it has holes; colours and assertions as classes."""
    fragments = tuple((part["start"], part["end"]) for part in entity.get("fragments") or ())
    classes = ["e", label_class(entity["label"]), *(name for name in ASSERTIONS if entity[name])]
    return Mark(f"e{index}", fragments or ((entity["start"], entity["end"]),), " ".join(classes))


def heading_marks(note: Note) -> list[Mark]:
    """Returns the headings of the sections, as far as the note has them; numbers are those of ``outline``."""
    marks = []
    text = note.document["text"]
    for index, (section, depth) in enumerate(sections_in_order(note)):
        written = text[section["start"] : section["body_start"]].rstrip()
        if written:
            span = (section["start"], section["start"] + len(written))
            marks.append(Mark(f"s{index}", (span,), level=min(6, 3 + depth)))
    return marks


def sections_in_order(note: Note) -> list[tuple[dict[str, Any], int]]:
    """Returns the sections in the order of the text, outer ones first, each with how many lie around it."""
    parents = {section["section_id"]: section["parent_section_id"] for section in note.sections}

    def depth(section_id: str) -> int:
        seen = 0
        while (above := parents.get(section_id)) is not None and seen < len(parents):
            section_id, seen = above, seen + 1
        return seen

    ordered = sorted(note.sections, key=lambda one: (one["start"], -one["end"], depth(one["section_id"])))
    return [(section, depth(section["section_id"])) for section in ordered]


def outline(note: Note, prefix: str) -> list[dict[str, Any]]:
    """Returns the sections as links: title, level from 0, target, entities that begin in each."""
    counts: dict[str | None, int] = {}
    for entity in note.entities:
        counts[entity["section_id"]] = counts.get(entity["section_id"], 0) + 1
    lines = split_lines(note.document["text"])
    found = []
    for index, (section, depth) in enumerate(sections_in_order(note)):
        written = note.document["text"][section["start"] : section["body_start"]].strip()
        anchor = f"s{index}" if written else f"l{line_of(lines, section['start'])}"
        title = one_line(section["title"] or section["name"].replace("_", " ").capitalize())
        found.append({
            "title": title, "level": min(depth, 5), "href": f"#{prefix}-{anchor}", "code": section["code"],
            "entities": counts.get(section["section_id"], 0),
        })  # fmt: skip
    return found


# --- summary --------------------------------------------------------------------------------


def view_summary(
    summary: Mapping[str, Any], text: str, lines: Sequence[tuple[int, int]], prefix: str
) -> dict[str, Any]:
    """Returns the summary as HTML, every word with its source, and the outcome of its check.

    Words that follow one another in the note, too, are one link, so that a keyboard meets few of them.
    """
    tokens = summary["tokens"]
    parts = summary.get("sections") or []
    headings = {part["start"]: part["name"] for part in parts if {one["name"] for one in parts} != {"summary"}}
    html: list[Markup] = []
    cursor = 0
    for run in copied_runs(tokens, text, headings):
        first = run[0]
        html.append(shown(summary["text"][cursor : first["start"]]))
        for start in sorted(place for place in headings if place <= first["start"]):
            name = one_line(str(headings.pop(start))).replace("_", " ").capitalize()
            html.append(Markup('<strong class="part">{}</strong> ').format(name))
        words = []
        cursor = first["start"]
        for token in run:
            words.append(shown(summary["text"][cursor : token["start"]]))
            word = shown(summary["text"][token["start"] : token["end"]])
            source = Markup('<span data-s="{}" data-t="{}">{}</span>')
            copied = token["source_start"] is not None
            words.append(source.format(token["source_start"], token["source_end"], word) if copied else word)
            cursor = token["end"]
        inside = Markup("").join(words)
        if first["source_start"] is None:
            html.append(Markup('<span class="made" title="written by the model, not copied">{}</span>').format(inside))
        else:
            link = Markup('<a class="copied" href="#{}-l{}" data-s="{}" data-t="{}">{}</a>')
            line = line_of(lines, first["source_start"])
            html.append(link.format(prefix, line, first["source_start"], run[-1]["source_end"], inside))
    html.append(shown(summary["text"][cursor:]))
    n_copied = sum(token["source_start"] is not None for token in tokens)
    return {
        "html": Markup("").join(html), "method": summary["method"], "copied": n_copied, "words": len(tokens),
        "faithful": summary["faithful"], "repaired": summary["n_repaired"],
    }  # fmt: skip


def copied_runs(
    tokens: Sequence[Mapping[str, Any]], text: str, parts: Iterable[int] = ()
) -> list[list[Mapping[str, Any]]]:
    """Returns the tokens in runs: copied one after the other from the note with only space between, or generated.

    ``parts`` are where parts of the summary begin; no run goes across.
    """
    runs: list[list[Mapping[str, Any]]] = []
    for token in tokens:
        before = runs[-1][-1] if runs else None
        if before is not None and any(before["start"] < start <= token["start"] for start in parts):
            before = None
        if before is not None and (token["source_start"] is None) == (before["source_start"] is None):
            gap = None if token["source_start"] is None else text[before["source_end"] : token["source_start"]]
            follows = gap is None or (token["source_start"] >= before["source_end"] and not gap.strip())
            if follows:
                runs[-1].append(token)
                continue
        runs.append([token])
    return runs


# --- relations and mentions -----------------------------------------------------------------


def view_relations(
    entities: Sequence[Mapping[str, Any]],
    relations: Sequence[Mapping[str, Any]],
    pairs: Sequence[tuple[int, int]],
    lines: Sequence[tuple[int, int]],
    prefix: str,
) -> list[dict[str, Any]]:
    """Returns the relations as sentences with a link to their evidence, the surest first."""
    return [
        {
            "index": index, "head": mention(entities[head]), "tail": mention(entities[tail]),
            "type": relation["type"].replace("_", " "), "score": percent(relation["score"]),
            "negated": relation["negated"], "href": f"#{prefix}-l{line_of(lines, relation['evidence_start'])}",
            "colours": (label_class(entities[head]["label"]), label_class(entities[tail]["label"])),
        }
        for index, (relation, (head, tail)) in enumerate(zip(relations, pairs, strict=True))
    ]  # fmt: skip


def view_mentions(entities: Sequence[Mapping[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """Returns the mentions, those that say the same as one: where they are, how often, the best score."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, entity in enumerate(entities):
        asserted = tuple(name for name in ASSERTIONS if entity[name])
        key = (entity["label"], mention(entity).casefold(), asserted, entity["code_system"], entity["code"])
        groups.setdefault(key, []).append(index)
    return [
        {
            "text": mention(entities[found[0]]), "label": key[0], "label_shown": label_name(key[0]),
            "colour": label_class(key[0]), "assertions": key[2], "code": code_text(entities[found[0]]),
            "score": percent(max(entities[index]["score"] for index in found)), "indices": found,
            "href": f"#{prefix}-e{found[0]}",
        }
        for key, found in sorted(groups.items(), key=lambda item: (_label_order(item[0][0]), item[1][0]))
    ]  # fmt: skip


def mention(entity: Mapping[str, Any]) -> str:
    """Returns a mention's text on one line, cut where it is long."""
    text = one_line(entity["text"])
    return text if len(text) <= MAX_MENTION else text[: MAX_MENTION - 1] + "…"


def code_text(entity: Mapping[str, Any]) -> str:
    """Returns system and code of an entity; empty where it has none."""
    return "" if entity["code"] is None else one_line(f"{entity['code_system']} {entity['code']}")


def percent(score: float) -> str:
    """Returns a probability as a person reads it; nothing is certain."""
    return f"{min(score, 0.99):.2f}"


def note_data(
    note: Note, rows: Mapping[str, int], relations: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Returns what the script knows of a note: entities and relations as arrays, by their place in the page."""
    names = {section["section_id"]: section["title"] or section["name"] for section in note.sections}
    entities = [
        [
            entity["label"], round(entity["score"], 3),
            sum(1 << bit for bit, name in enumerate(ASSERTIONS) if entity[name]),
            mention(entity), code_text(entity), rows.get(entity["parent_entity_id"] or "", -1),
            one_line(names.get(entity["section_id"]) or ""),
        ]
        for entity in note.entities
    ]  # fmt: skip
    arcs = [
        [head, tail, one["type"].replace("_", " "), round(one["score"], 3), int(one["negated"]),
         one["evidence_start"], one["evidence_end"]]
        for one, (head, tail) in zip(relations, pairs, strict=True)
    ]  # fmt: skip
    return {"entities": entities, "relations": arcs}
