"""A Composition as the text that a person reads, and its sections.

The title, then each section in its order (https://hl7.org/fhir/R5/documents.html#presentation): its heading, its
narrative, the sections inside it. Sections together cover the text; the title is a section ``body`` before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medpipe.ingest.fhir.fields import GENERATED, WORD, concept, first, first_text, objects, status_of, words_of
from medpipe.records import Section
from medpipe.text.sections import section_name

MORE_CHARS = 100  # of a narrative that says it was generated, but holds what stands nowhere in the data


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a Composition as it is to be written."""

    heading: str | None
    code: str | None  # LOINC
    body: str | None
    parent: int | None  # index of the section around it


def assemble(composition: Mapping[str, Any], render: Callable[[Any], str | None]) -> tuple[str, list[Section] | None]:
    """Returns a Composition as text, and its sections.

    The text is empty where there is none but headings. The sections are ``None`` where only one has a text, which
    may be a whole note with headings of its own.

    Args:
        composition: the resource.
        render: makes text of XHTML.
    """
    parts = _outline(composition, render)
    bodies = [part.body for part in parts if part.body]
    narrative = _own_narrative(composition, render, bodies)
    if not bodies and not narrative:
        return "", None
    head = [text.strip() for text in (first_text(composition.get("title")), narrative) if text]
    if len(head) == 2 and words_of(head[1]).startswith(words_of(head[0])):
        head = head[1:]
    text, sections = _write(head, parts)
    return text, sections if len(bodies) > 1 else None


def _outline(composition: Mapping[str, Any], render: Callable[[Any], str | None]) -> list[Part]:
    """Returns the sections that have a heading or a text, each before those inside it."""
    parts: list[Part] = []
    waiting: list[tuple[Mapping[str, Any], int | None]] = [
        (section, None) for section in reversed(objects(composition.get("section")))
    ]
    while waiting:
        section, parent = waiting.pop()
        words, code = concept(section.get("code"))
        heading = first_text(section.get("title"), words)
        body = render(first(section.get("text")).get("div")) or _why_empty(section)
        if heading or body:
            heading, body = _without_repetition(heading, body)
            parts.append(Part(heading, code, body, parent))
            parent = len(parts) - 1
        waiting += [(inner, parent) for inner in reversed(objects(section.get("section")))]
    return parts


def _why_empty(section: Mapping[str, Any]) -> str | None:
    """Returns why a section has no text, where it says so: "Nil Known", "Unavailable"."""
    return concept(section.get("emptyReason"))[0]


def _write(head: Sequence[str], parts: Sequence[Part]) -> tuple[str, list[Section]]:
    """Writes a text: what stands before the sections, then the sections, with blank lines between them."""
    written = [f"{text}\n\n" for text in head]
    length = sum(map(len, written))
    sections = [Section("body", 0, length, 0)] if head else []
    shift = len(sections)
    for part in parts:
        heading = f"{part.heading}\n" if part.heading else ""
        body = f"{part.body}\n\n" if part.body else ""
        name, code = section_name(part.heading, part.code)
        start, begin, end = length, length + len(heading), length + len(heading) + len(body)
        parent = None if part.parent is None else part.parent + shift
        sections.append(Section(name, start, end, begin, title=part.heading, code=code, parent=parent))
        written += [heading, body]
        length = end
    text = "".join(written).rstrip()
    for index in reversed(range(len(sections))):
        section = sections[index]
        start, begin, end = (min(place, len(text)) for place in (section.start, section.body_start, section.end))
        sections[index] = replace(section, start=start, body_start=begin, end=end)
        if section.parent is not None and sections[section.parent].end < end:  # it ends where its last part does
            sections[section.parent] = replace(sections[section.parent], end=end)
    return text, sections


def _without_repetition(heading: str | None, body: str | None) -> tuple[str | None, str | None]:
    """Returns heading and text of a section, without the heading that its narrative repeats as its first line."""
    heading = " ".join(heading.split()) if heading else None
    line, _, rest = (body or "").partition("\n")
    if heading and words_of(line) == words_of(heading):
        return heading, rest.strip("\n") or None
    return heading, body


def _own_narrative(
    composition: Mapping[str, Any], render: Callable[[Any], str | None], bodies: Sequence[str]
) -> str | None:
    """Returns the Composition's own narrative, unless it was made of its data or repeats its sections."""
    text = first(composition.get("text"))
    narrative = render(text.get("div"))
    if not narrative or not bodies:
        return narrative
    if words_of(narrative) in words_of("\n".join(bodies)):
        return None
    if status_of(text.get("status")) in GENERATED and not says_more(narrative, composition):
        return None
    return narrative


def says_more(narrative: str, resource: Mapping[str, Any]) -> bool:
    """Says whether most of a narrative stands nowhere in the data that it says it was generated from."""
    known: set[str] = set()
    stack: list[Any] = [{name: value for name, value in resource.items() if name != "text"}]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            known.update(word for name in item for word in WORD.findall(str(name).casefold()))
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, str):
            known.update(WORD.findall(item.casefold()))
    words = WORD.findall(narrative.casefold())
    new = sum(len(word) for word in words if word not in known)
    return new > MORE_CHARS and 2 * new > sum(map(len, words))
