"""What the relations of a note rest on: their sentences, and the strongest path of attention between the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medpipe.lake import contracts
from medpipe.report.notes import Note

if TYPE_CHECKING:
    from medpipe.relate.stage import Relater


def explain_notes(notes: Iterator[Note], relater: Relater) -> Iterator[Note]:
    """Yields the notes with a key ``explanation`` in every relation.

    It holds ``evidence`` (limits of sentences), ``path`` (steps with ``node``, ``start``, ``end`` and ``edge``, the
    kind of the edge to the next one) and ``attention``, the product of the attention along the path; offsets are those
    of the note's text. Null where another model told the relation.
    """
    for note in notes:
        yield replace(note, relations=explain_note(note, relater)) if note.relations else note


def explain_note(note: Note, relater: Relater) -> list[dict[str, Any]]:
    """Returns the relations of a note with their explanations; see ``explain_notes``."""
    from medpipe.relate.stage import read_chunk

    tables = {
        name: pa.Table.from_pylist(rows, schema=contracts.arrow_schema(name))
        for name, rows in (("documents", [note.document]), ("sections", note.sections), ("entities", note.entities))
    }
    chunk = read_chunk(tables, relater.labels, relater.rules)
    place = {key: number for number, key in enumerate(chunk.entities["entity_id"].to_pylist())}
    ours: list[int] = []  # relations that this model told
    pairs: list[tuple[int, int]] = []
    for number, row in enumerate(note.relations):
        head, tail = place.get(row["head_entity_id"]), place.get(row["tail_entity_id"])
        if row["model"] == str(relater.model) and head is not None and tail is not None:
            ours.append(number)
            pairs.append((head, tail))
    found: list[Any] = []
    if pairs and chunk.texts:
        found = relater.explain(chunk.texts[0], chunk.section_starts[0], chunk.mentions[0], pairs)
    by_number = {number: asdict(one) for number, one in zip(ours, found, strict=False)}
    return [row | {"explanation": by_number.get(number)} for number, row in enumerate(note.relations)]


def path_line(explanation: Mapping[str, Any], text: str) -> str:
    """Returns a path as a person reads it: ``gout ─near→ pain``."""
    steps = explanation["path"]
    words = [text[step["start"] : step["end"]] if step["node"] == "mention" else f"[{step['node']}]" for step in steps]
    line = words[0] if words else ""
    for (step, _), word in zip(pairwise(steps), words[1:], strict=True):
        line += f" ─{step['edge']}→ {word}"
    return line
