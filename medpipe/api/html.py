"""A note in a notebook: one piece of HTML without scripts, links or fonts; all text of the note is escaped.

Made for a cell, not for a page: mentions are marked in one another, assertions shown, codes on hover, relations and the
summary below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medpipe.api.note import Entity, Note

# Hue of each label; the colours are translucent, so that they stand on light and dark pages.
HUES = {
    "DISEASE": 0, "SYMPTOM": 30, "ANATOMY": 265, "DRUG": 145, "DOSAGE": 165, "PROCEDURE": 210, "TEST": 190,
    "LAB_VALUE": 180, "SEVERITY": 50, "TEMPORAL": 290, "AGE": 325, "SEX": 340,
}  # fmt: skip
STYLE = """<style>
.medpipe-note .text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.9;max-width:60em}
.medpipe-note mark{color:inherit;border-radius:.25em;padding:.1em 0;background:hsla(var(--h),80%,50%,.22)}
.medpipe-note mark[data-label]::after{content:attr(data-label);font-size:.65em;padding:0 .4em;opacity:.8}
.medpipe-note mark.off{text-decoration:line-through;opacity:.75}
.medpipe-note mark.other{border-bottom:1px dashed}
</style>"""
# Control characters and those that turn the direction of what follows: shown as what they are, a thing not to be seen.
HIDDEN = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F),
     *range(0x2066, 0x206A), 0xFEFF),
    "\ufffd",
)  # fmt: skip


def render_note(note: Note) -> str:
    """Returns the note as HTML."""
    parts = [STYLE, '<div class="medpipe-note">']
    for problem in note.problems:
        parts.append(f"<p><b>{safe(problem.code)}</b> {safe(problem.message)}</p>")
    parts.append(f'<div class="text" dir="auto">{"".join(mark_text(note.text, note.entities))}</div>')
    if note.relations:
        rows = "".join(
            f"<li>{safe(one.head.text)} <i>{safe(one.type)}</i> {safe(one.tail.text)} {one.score:.2f}"
            f"{' (negated)' if one.negated else ''}</li>"
            for one in note.relations
        )
        parts.append(f"<details><summary>{len(note.relations)} relations</summary><ul>{rows}</ul></details>")
    if note.summary is not None:
        parts.append(f"<p><b>Summary</b> {safe(note.summary.text)}</p>")
    return "".join([*parts, "</div>"])


def mark_text(text: str, entities: Sequence[Entity]) -> Iterator[str]:
    """Yields the text, escaped, with its mentions marked.

    It is cut at every border of a mention, and each piece is marked for all mentions over it: also where mentions
    cross, tags are closed in their order.
    """
    borders = sorted({0, len(text)} | {place for one in entities for place in (one.start, one.end)})
    begins: dict[int, list[Entity]] = {}
    for one in entities:
        begins.setdefault(one.start, []).append(one)
    open_ones: list[Entity] = []
    for start, end in pairwise(borders):
        open_ones = [one for one in open_ones if one.end > start] + begins.get(start, [])
        tags = "".join(open_tag(one, last=one.end == end) for one in open_ones)
        yield tags + safe(text[start:end]) + "</mark>" * len(open_ones)


def open_tag(entity: Entity, *, last: bool) -> str:
    """Returns the tag of a piece of a mention; the last piece shows the label."""
    assertions = sorted(entity.assertions)
    title = " ".join([entity.label, f"{entity.score:.2f}", *assertions])
    if entity.code:
        title += f" {entity.code_system} {entity.code}"
    kind = "off" if entity.negated else "other" if assertions else ""
    label = f' data-label="{safe(entity.label)}"' if last else ""
    return f'<mark style="--h:{HUES.get(entity.label, 220)}" class="{kind}" title="{safe(title)}"{label}>'


def safe(text: str) -> str:
    """Returns text of a note as HTML that cannot be anything else."""
    return escape(text.translate(HIDDEN), quote=True)
