"""What the terminal shows: nesting, assertions, repeats, relations; never a control character of a note."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from medpipe.records import ASSERTIONS
from medpipe.report.notes import Note
from medpipe.report.terminal import one_line, print_funnel, print_note


def entity(
    key: str, text: str, label: str, start: int, parent: str | None = None, **assertions: bool
) -> dict[str, Any]:
    row = {
        "entity_id": key,
        "section_id": None,
        "text": text,
        "label": label,
        "start": start,
        "end": start + len(text),
        "depth": 0,
    }
    return row | {"parent_entity_id": parent} | dict.fromkeys(ASSERTIONS, False) | assertions


def note(
    entities: list[dict[str, Any]], relations: Sequence[dict[str, Any]] = (), summary: dict[str, Any] | None = None
) -> Note:
    document = {
        "document_id": "0123456789abcdef", "source": "a.json", "record": "0", "note_type": "Progress note", "patient_id": "p1", "authored_at": None,
        "authored_at_text": "last week", "n_chars": 10, "status": "processed",
    }  # fmt: skip
    return Note(document, [], entities, list(relations), summary)


def printed(one: Note, width: int = 80) -> str:
    out = io.StringIO()
    print_note(Console(file=out, width=width), one)
    return out.getvalue()


def test_nested_entities_stand_below_their_parent_and_repeats_are_counted() -> None:
    shown = printed(note([
        entity("1", "left lung cancer", "DISEASE", 0), entity("2", "left lung", "ANATOMY", 0, "1"),
        entity("3", "cough", "SYMPTOM", 30, negated=True), entity("4", "cough", "SYMPTOM", 50, negated=True),
        entity("5", "cough", "SYMPTOM", 70),
    ]))  # fmt: skip
    lines = [line.strip("│ ").rstrip() for line in shown.splitlines()]
    disease = next(i for i, line in enumerate(lines) if "left lung cancer" in line)
    assert lines[disease + 1].endswith("ANATOMY   left lung")
    assert any("cough  negated  ×2" in line for line in lines)
    assert "Entities (5)" in shown


def test_relations_are_grouped_by_disease() -> None:
    entities = [
        entity("1", "flu", "DISEASE", 0),
        entity("2", "fever", "SYMPTOM", 10),
        entity("3", "rash", "SYMPTOM", 20),
    ]
    relations = [
        {"head_entity_id": "1", "tail_entity_id": tail, "type": "has_symptom", "score": score, "negated": False}
        for tail, score in (("2", 0.7), ("3", 0.9))
    ]
    shown = [line.strip("│ ") for line in printed(note(entities, relations)).splitlines()]
    at = shown.index("└── flu")
    assert shown[at - 1] == "Relations (2)"
    assert shown[at + 1 : at + 3] == ["├── has symptom rash  0.90", "└── has symptom fever  0.70"]


def test_a_relation_is_negated_only_where_every_mention_of_it_is() -> None:
    entities = [
        entity("1", "flu", "DISEASE", 0),
        entity("2", "fever", "SYMPTOM", 10),
        entity("3", "rash", "SYMPTOM", 20),
    ]
    relations = [
        {"head_entity_id": "1", "tail_entity_id": tail, "type": "has_symptom", "score": 0.7, "negated": negated}
        for tail, negated in (("2", True), ("2", False), ("3", True))
    ]
    shown = printed(note(entities, relations))
    assert "fever  0.70 " in shown and "rash  0.70  negated" in shown


def test_entities_stand_below_their_sections_where_there_are_several() -> None:
    one = note([
        entity("1", "cough", "SYMPTOM", 0) | {"section_id": "s1"}, entity("2", "cough", "SYMPTOM", 9) | {"section_id": "s2"},
    ])  # fmt: skip
    one.sections.extend([
        {"section_id": "s1", "title": "History\x1b[2J:", "name": "history"}, {"section_id": "s2", "title": None, "name": "physical_exam"},
    ])  # fmt: skip
    shown = [line.strip("│ ├└─") for line in printed(one).splitlines()]
    assert shown[shown.index("History [2J:") + 1] == "SYMPTOM   cough"
    assert shown[shown.index("physical exam") + 1] == "SYMPTOM   cough"


def test_no_color_leaves_out_colours_and_keeps_words(monkeypatch: pytest.MonkeyPatch) -> None:
    one = note([entity("3", "cough", "SYMPTOM", 30, negated=True)])

    def on_a_terminal() -> str:
        out = io.StringIO()
        print_note(Console(file=out, width=80, force_terminal=True, color_system="standard"), one)
        return out.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", on_a_terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[;m]", on_a_terminal()) and "negated" in on_a_terminal()


def test_summary_says_what_was_copied_and_checked() -> None:
    tokens = [
        {"start": 0, "end": 5, "source_start": 3, "source_end": 8, "probability": 1.0},
        {"start": 6, "end": 10, "source_start": None, "source_end": None, "probability": 0.5},
    ]
    summary = {"text": "Fever went", "tokens": tokens, "method": "mixed", "faithful": True, "n_repaired": 1}
    shown = printed(note([], summary=summary))
    assert "Summary (mixed, 1/2 words copied, checked, 1 sentences repaired)" in shown
    assert "Fever went" in shown


def test_the_parts_of_a_summary_stand_below_their_names() -> None:
    text = "Chronic heart failure.  No fever. Furosemide 40 mg."
    starts = [0, 8, 14, 24, 27, 34, 45, 48]
    tokens = [{"start": at, "end": at + 2, "source_start": at, "source_end": at + 2, "probability": 1.0} for at in starts]
    parts = [("problems", 0, 22), ("pertinent_negatives", 24, 33), ("treatment", 34, 51)]
    summary = {
        "text": text, "tokens": tokens, "method": "extractive", "faithful": True, "n_repaired": 0,
        "sections": [{"name": name, "start": start, "end": end} for name, start, end in parts],
    }  # fmt: skip
    shown = [line.strip("│ ") for line in printed(note([], summary=summary)).splitlines()]
    at = shown.index("Problems")
    assert shown[at : at + 6] == [
        "Problems", "Chronic heart failure.", "Pertinent negatives", "No fever.", "Treatment", "Furosemide 40 mg.",
    ]  # fmt: skip


def test_a_summary_without_parts_has_no_headings() -> None:
    summary = {"text": "Fever went", "tokens": [], "method": "mixed", "faithful": True, "n_repaired": 0}
    summary["sections"] = [{"name": "summary", "start": 0, "end": 10}]
    shown = [line.strip("│ ") for line in printed(note([], summary=summary)).splitlines()]
    assert shown[shown.index("Summary (mixed, 0/0 words copied, checked)") + 1] == "Fever went"


def test_hostile_text_cannot_move_the_cursor_or_format() -> None:
    hostile = "a\x1b[2Jb\u202ec [bold]x[/bold] \r\n\x07"
    assert one_line(hostile) == "a [2Jb c [bold]x[/bold]"
    tokens = [{"start": 0, "end": len(hostile), "source_start": 0, "source_end": 1, "probability": 1.0}]
    summary = {"text": hostile, "tokens": tokens, "method": "extractive", "faithful": True, "n_repaired": 0}
    shown = printed(note([entity("1", hostile, "DISEASE", 0)], summary=summary))
    assert not {"\x1b", "\u202e", "\r", "\x07"} & set(shown)
    assert "[bold]x[/bold]" in shown


def test_empty_note_and_narrow_terminal() -> None:
    assert "Entities (0)" in printed(note([]), width=30)
    assert max(len(line) for line in printed(note([entity("1", "x" * 90, "DRUG", 0)]), width=30).splitlines()) <= 30


def test_funnel_names_what_was_left_out() -> None:
    out = io.StringIO()
    counts = {
        "records": 9,
        "documents": 4,
        "not_notes": 3,
        "not_a_note:Patient": 3,
        "rejected": 2,
        "rejected:TEXT_EMPTY": 2,
    }
    outcome = {"partition": "2026-01-31", "sources": 2, "unchanged": 0, "counts": counts}
    print_funnel(Console(file=out, width=100), outcome, "lake")
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["records", "read", "9", "━" * 20] in rows and ["notes", "with", "text", "4", "━" * 8 + "╸"] in rows
    narrow = io.StringIO()
    print_funnel(Console(file=narrow, width=34), outcome, "lake")
    assert "━" not in narrow.getvalue() and max(map(len, narrow.getvalue().splitlines())) <= 34
    assert "not notes: Patient 3" in out.getvalue()
    assert "quarantined: TEXT_EMPTY 2" in out.getvalue()
    assert "the same note again" not in out.getvalue()


def test_a_code_stands_beside_its_mention() -> None:
    coded = entity("1", "flu", "DISEASE", 0) | {"code_system": "ICD-10-CM", "code": "J11.1", "code_score": 0.9973}
    plain = entity("2", "cough", "SYMPTOM", 9) | {"code_system": None, "code": None, "code_score": None}
    shown = printed(note([coded, coded | {"entity_id": "3"}, plain]))
    lines = [line.strip("│ ").rstrip() for line in shown.splitlines()]
    assert any(line.endswith("flu  ICD-10-CM J11.1 0.99  ×2") for line in lines)
    assert any(line.endswith("SYMPTOM   cough") for line in lines)


def test_a_code_moves_no_cursor() -> None:
    bad = {"code_system": "S\x1b[2J", "code": "C\x07", "code_score": 0.9}
    assert "\x1b[2J" not in printed(note([entity("1", "flu", "DISEASE", 0) | bad]))
