"""What the terminal shows: nesting, assertions, repeats, relations; never a control character of a note."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from medpipe.records import ASSERTIONS
from medpipe.report.notes import Note
from medpipe.report.terminal import one_line, print_funnel, print_note


def entity(
    key: str, text: str, label: str, start: int, parent: str | None = None, **assertions: bool
) -> dict[str, Any]:
    row = {"entity_id": key, "text": text, "label": label, "start": start, "end": start + len(text), "depth": 0}
    return row | {"parent_entity_id": parent} | dict.fromkeys(ASSERTIONS, False) | assertions


def note(
    entities: list[dict[str, Any]], relations: Sequence[dict[str, Any]] = (), summary: dict[str, Any] | None = None
) -> Note:
    document = {
        "source": "a.json", "record": "0", "note_type": "Progress note", "patient_id": "p1", "authored_at": None,
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
    assert "flu ─has_symptom→ rash 0.90, fever 0.70" in printed(note(entities, relations))


def test_summary_says_what_was_copied_and_checked() -> None:
    tokens = [
        {"start": 0, "end": 5, "source_start": 3, "source_end": 8, "probability": 1.0},
        {"start": 6, "end": 10, "source_start": None, "source_end": None, "probability": 0.5},
    ]
    summary = {"text": "Fever went", "tokens": tokens, "method": "mixed", "faithful": True, "n_repaired": 1}
    shown = printed(note([], summary=summary))
    assert "Summary (mixed, 1/2 words copied, checked, 1 sentences repaired)" in shown
    assert "Fever went" in shown


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
