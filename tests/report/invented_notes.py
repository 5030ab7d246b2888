"""Invented notes as the tables would give them, for the pages: small, hostile and large ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from medpipe.records import ASSERTIONS, LABELS
from medpipe.report.notes import Note

TEXT = (
    "HISTORY: A 54-year-old woman has asthma with wheezing and left lung cancer. She denies fever.\n"
    "\n"
    "PLAN: Salbutamol 100 mcg twice daily, CT of the chest.\n"
)


def entity(
    text: str, words: str, label: str, *, nth: int = 0, parent: str | None = None, **more: Any
) -> dict[str, Any]:
    start = -1
    for _ in range(nth + 1):
        start = text.index(words, start + 1)
    row = {
        "entity_id": f"{label}{start}", "section_id": None, "start": start, "end": start + len(words), "text": words, "label": label,
        "score": 0.9, "parent_entity_id": parent, "depth": 0, "fragments": None, "code_system": None, "code": None, "code_score": None,
    }  # fmt: skip
    return row | dict.fromkeys(ASSERTIONS, False) | more


def section(text: str, title: str, name: str, end: int | None = None) -> dict[str, Any]:
    start = text.index(title)
    return {
        "section_id": name, "parent_section_id": None, "name": name, "title": title.rstrip(":"), "code": None,
        "start": start, "end": len(text) if end is None else end, "body_start": start + len(title),
    }  # fmt: skip


def relation(head: dict[str, Any], tail: dict[str, Any], start: int, end: int, **more: Any) -> dict[str, Any]:
    row = {
        "head_entity_id": head["entity_id"], "tail_entity_id": tail["entity_id"], "type": "has_symptom", "score": 0.8,
        "negated": False, "evidence_start": start, "evidence_end": end, "sentence_distance": 0,
    }  # fmt: skip
    return row | more


def make_note(
    text: str,
    entities: Sequence[dict[str, Any]] = (),
    relations: Sequence[dict[str, Any]] = (),
    sections: Sequence[dict[str, Any]] = (),
    summary: dict[str, Any] | None = None,
    **document: Any,
) -> Note:
    row = {
        "document_id": "d" * 32, "source": "a.json", "record": "0", "format": "json", "patient_id": "p1", "encounter_id": None,
        "note_type": "Progress note", "note_status": "final", "authored_at": None, "authored_at_text": "last week", "language": "en",
        "text": text, "n_chars": len(text), "n_entities": len(entities), "status": "processed",
    }  # fmt: skip
    ordered = sorted(entities, key=lambda one: (one["start"], -one["end"]))
    return Note(row | document, list(sections), ordered, list(relations), summary)


def asthma() -> Note:
    """A note with all that a page shows: nesting, negation, a code, a relation, a summary with a word of its own."""
    disease = entity(TEXT, "asthma", "DISEASE", code_system="ICD-10-CM", code="J45.909", code_score=0.97)
    wheezing = entity(TEXT, "wheezing", "SYMPTOM", score=0.6)
    cancer = entity(TEXT, "left lung cancer", "DISEASE")
    lung = entity(TEXT, "left lung", "ANATOMY", parent=cancer["entity_id"], depth=1)
    fever = entity(TEXT, "fever", "SYMPTOM", negated=True)
    others = [
        entity(TEXT, "54-year-old", "AGE"), entity(TEXT, "woman", "SEX"), entity(TEXT, "Salbutamol", "DRUG"),
        entity(TEXT, "100 mcg twice daily", "DOSAGE", score=0.4), entity(TEXT, "CT", "TEST"), entity(TEXT, "chest", "ANATOMY"),
    ]  # fmt: skip
    end = TEXT.index(" She denies")
    relations = [
        relation(disease, wheezing, 9, end),
        relation(cancer, fever, 9, TEXT.index("fever") + 6, negated=True, score=0.55),
    ]
    summary = summary_of(TEXT, ["asthma", "with", "wheezing", "and", ("then",), "Salbutamol"])
    sections = [section(TEXT, "HISTORY:", "history", TEXT.index("PLAN")), section(TEXT, "PLAN:", "plan")]
    return make_note(TEXT, [disease, wheezing, cancer, lung, fever, *others], relations, sections, summary)


def summary_of(text: str, words: Sequence[str | tuple[str]]) -> dict[str, Any]:
    """A summary of words copied from where they first stand in the text, and of generated ones, given as tuples."""
    tokens, written, cursor = [], "", 0
    for word in words:
        copied = isinstance(word, str)
        said = word if isinstance(word, str) else word[0]
        source = text.index(said, cursor) if copied else None
        start = len(written) + bool(written)
        written += (" " if written else "") + said
        tokens.append({
            "start": start, "end": start + len(said), "source_start": source,
            "source_end": None if source is None else source + len(said), "probability": 0.9,
        })  # fmt: skip
        cursor = source or cursor
    return {
        "text": written,
        "sections": None,
        "tokens": tokens,
        "method": "abstractive",
        "faithful": True,
        "n_repaired": 0,
    }


HOSTILE = (
    "</script><script>document.title='owned'</script> <img src=x onerror=\"document.title='owned'\"> fever &amp; &#x3c;b&#x3e;\n"
    "\u202egnp.exe\u202c \u2066isolated\u2069 \u200f\u061c \x00\x07\x1b[2J\x7f\x85 tab\there \u2028 line \u2029 \ufeff\U000e0041\n"
    "]]> <!-- --> {{ 7*7 }} {% raw %} ${7*7} ' onmouseover='document.title=1' \" style=\"x\r\n"
    "old mac\rשלום עולם مرحبا 👩🏽‍⚕️ é\u0301 \U0001f600 cough end"
)


def hostile() -> Note:
    """A note whose text, ids, titles and codes try to leave their place."""
    first = HOSTILE.split("\n")[0]
    entities = [
        entity(HOSTILE, first[:60], "DISEASE", code_system="</script>", code='"><script>document.title="owned"</script>'),
        entity(HOSTILE, "fever", "SYMPTOM"), entity(HOSTILE, "<script>document", "<b onclick=x>"), entity(HOSTILE, "cough end", "SYMPTOM"),
        entity(HOSTILE, "\u202egnp.exe\u202c", "DRUG"), entity(HOSTILE, "\U0001f600 cough", "TEST"),
    ]  # fmt: skip
    bad = "<script>document.title='owned'</script>\u202e"
    sections = [section(HOSTILE, "</script>", "x") | {"title": bad, "code": '" onclick="x'}]
    relations = [relation(entities[0], entities[1], 0, 60, type="</script><b>")]
    summary = summary_of(HOSTILE, ["</script><script>document.title='owned'</script>", ("<i>",), "fever", "cough"])
    return make_note(
        HOSTILE, entities, relations, sections, summary, note_type=bad, source=bad, record=bad, patient_id=bad,
        authored_at_text=bad, language='en" onload="x', note_status=bad, encounter_id=bad,
    )  # fmt: skip


def large(characters: int = 100_000, mentions: int = 2_000, *, line: int = 90, seed: int = 5) -> Note:
    """A note of a given size: invented words in lines of about ``line`` characters, nested and crossing mentions."""
    draw = random.Random(seed)
    words = [
        "fever",
        "cough",
        "asthma",
        "left",
        "lung",
        "stable",
        "mg",
        "daily",
        "without",
        "pain",
        "of",
        "the",
        "chest",
        "since",
        "Monday",
    ]
    parts, size, column = [], 0, 0
    while size < characters:
        word = draw.choice(words)
        column = 0 if column > line else column + len(word) + 1
        parts.append(word + (" " if column else "\n"))
        size += len(parts[-1])
    text = "".join(parts)[:characters]
    starts = [index + 1 for index, character in enumerate(text[:-60]) if character in " \n"]
    rows = []
    for number, start in enumerate(sorted(draw.sample(starts, mentions))):
        end = text.index(" ", start + draw.randrange(3, 40))
        flags = {name: draw.random() < 0.1 for name in ASSERTIONS}
        rows.append(
            entity(text[start:], text[start:end], draw.choice(LABELS), score=round(draw.random(), 3), **flags)
            | {"entity_id": f"e{number}", "start": start, "end": end}
        )
    diseases = [row for row in rows if row["label"] == "DISEASE"]
    symptoms = [row for row in rows if row["label"] == "SYMPTOM"]
    relations = [
        relation(
            head, tail, min(head["start"], tail["start"]), max(head["end"], tail["end"]), score=round(draw.random(), 3)
        )
        for head, tail in zip(diseases, symptoms, strict=False)
    ]
    summary = summary_of(text, text[:600].split()[:90])
    return make_note(text, rows, relations, [], summary)
