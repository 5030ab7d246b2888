"""The notes of each kind of FHIR resource; ``fhir`` says which they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from medpipe.ingest.bodies.html import html_to_text
from medpipe.ingest.content import Refused, bytes_content
from medpipe.ingest.fhir.composition import assemble, says_more
from medpipe.ingest.fhir.fields import (
    GENERATED,
    WORD,
    concept,
    first,
    first_text,
    listed,
    media_type,
    objects,
    status_of,
    texts,
    withdrawn,
    words_of,
)
from medpipe.ingest.fhir.links import Scope, attached_bytes, binary_bytes, reference_id
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped
Resource = Mapping[str, Any]
NoteReader = Callable[[Resource, str, str, Scope], Iterator[Item]]

DEEPEST = 2  # resources that are attachments of resources
NARRATIVE_WORDS = 25  # of a value or a comment that is a note rather than a remark
LINE_WORDS = 4  # on average, of results that are lines of a text
ALIKE = 0.9  # of the words of a note in one format that it has in another
MOST_COMPARED = 20  # notes of one resource that are compared with one another
# Media types that may hold the text of a note; a picture may be a scanned page (OCR_NEEDED says so).
READABLE = (
    "text/", "image/", "application/pdf", "application/rtf", "application/xml", "application/xhtml", "application/hl7",
    "application/fhir", "application/msword", "application/vnd.",
)  # fmt: skip
UNKNOWN = ("application/octet-stream", "application/gzip", "binary/octet-stream")  # says nothing: the bytes do
MAIN_TYPES = frozenset({"text", "image", "audio", "video", "application", "model", "multipart", "message", "font"})


# --- what resources have in common ----------------------------------------------------------


def facts_of(resource: Resource, scope: Scope, *authored: Any) -> dict[str, Any]:
    """Returns the columns of a note that its resource tells: patient, encounter, time, status, language.

    Args:
        resource: of any release: ``subject`` or ``patient``; ``encounter`` or ``context``, which may hold references.
        scope: where references are followed.
        authored: values that may be the time of authorship, the best first.
    """
    context = resource.get("context")
    encounters = [*listed(resource.get("encounter")), *listed(first(context).get("encounter")), *listed(context)]
    patients = [*listed(resource.get("subject")), *listed(resource.get("patient"))]
    patients += listed(first(context).get("sourcePatientInfo"))
    patient = reference_id(patients, "Patient", scope, resource) if patients else scope.only_patient()
    return {
        "patient_id": patient,
        "encounter_id": reference_id(encounters, "Encounter", scope, resource),
        "authored_at": first_text(*authored),
        "note_status": status_of(resource.get("docStatus")) or status_of(resource.get("status")),
        "language": first_text(resource.get("language")),
    }


def typed(*concepts: Any) -> dict[str, str | None]:
    """Returns the note's type as columns."""
    words, code = concept(*concepts)
    return {"note_type": words, "note_type_code": code}


def start_of(period: Any) -> Any:
    """Returns when a Period began, or else ended."""
    return first_text(first(period).get("start"), first(period).get("end"))


def narrative_of(resource: Resource, *, stated: bool = False) -> str | None:
    """Returns a resource's narrative as a person reads it, if there is one that was not generated from its data.

    Args:
        resource: of any kind.
        stated: whether it must say so (``additional``), or is believed where it says nothing. Where it says that it was
            generated, but most of it stands nowhere in the resource and there are no results that it may come from, it
            is not believed.
    """
    narrative = first(resource.get("text"))
    status = status_of(narrative.get("status"))
    if stated and status != "additional":
        return None
    text = render(narrative.get("div"))
    if text and status in GENERATED and (resource.get("result") or not says_more(text, resource)):
        return None
    return text


def render(markup: Any) -> str | None:
    """Returns the text of XHTML, also where it was escaped once too often."""
    markup = "\n".join(item for item in listed(markup) if isinstance(item, str))
    text = html_to_text(markup) if markup else ""
    if text.startswith("<") and text.endswith(">"):
        text = html_to_text(text)
    return text or None


def is_narrative(text: str) -> bool:
    """Says whether a text is long enough to be a note."""
    return len(text) > 2 * NARRATIVE_WORDS and (
        len(text.split()) >= NARRATIVE_WORDS or len(WORD.findall(text)) >= NARRATIVE_WORDS
    )


def read_attachment(
    attachment: Any, record: str, facts: Mapping[str, Any], scope: Scope, container: Resource
) -> Iterator[Item]:
    """Yields the note of an attachment, or a reject that says why there is none; of FHIR in it, all its notes."""
    reading = scope.reading
    if not isinstance(attachment, dict):
        yield reading.reject(record, "TEXT_MISSING")
        return
    try:
        raw, media, charset = attached_bytes(attachment, scope, container)
    except Refused as refused:
        yield reading.reject(record, refused.code, **refused.fields)
        return
    if is_fhir(raw):
        yield from _inside(raw, record, scope)
        return
    facts = dict(facts)
    facts["authored_at"] = facts.get("authored_at") or attachment.get("creation")
    facts["language"] = first_text(attachment.get("language")) or facts.get("language")
    yield reading.attachment(record, raw, media, charset, **facts)


def is_fhir(raw: bytes) -> bool:
    """Says whether an attachment is a FHIR resource itself: a document (Bundle) that a DocumentReference points to."""
    start = raw[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    return (start == b"{" and b'"resourceType"' in raw) or (
        start == b"<" and b'xmlns="http://hl7.org/fhir"' in raw[:4096]
    )


def _inside(raw: bytes, record: str, scope: Scope) -> Iterator[Item]:
    """Yields the notes of an attachment that is FHIR; its other resources are no records of the source."""
    from medpipe.ingest.fhir.reader import read_fhir

    reading = scope.reading.inside(record)
    if scope.reading.member.count("#") >= DEEPEST:  # it may even hold itself
        yield scope.reading.reject(record, "ARCHIVE_TOO_DEEP", limit=DEEPEST)
        return
    try:
        found = list(read_fhir(bytes_content("", raw), reading))
    except Refused as refused:
        found = [reading.reject("0", refused.code, **refused.fields)]
    notes: list[Item] = [item for item in found if not isinstance(item, Skipped)]
    yield from notes or [Skipped("attached FHIR (no text)")]


def distinct(items: Iterable[Item], kind: str) -> Iterator[Item]:
    """Yields the items of one resource; a note whose words another holds too is counted as the same text again.

    A resource often has its note in several formats, and its conclusion in the report's text.
    """
    items = list(items)
    notes = {number: item for number, item in enumerate(items) if isinstance(item, Document)}
    words = {number: words_of(note.text) for number, note in notes.items()} if 1 < len(notes) <= MOST_COMPARED else {}
    kept = {
        number: mine
        for number, mine in words.items()
        if not mine.strip()
        or not any(mine in other and (mine != other or n < number) for n, other in words.items() if n != number)
    }
    for number in list(kept):
        before = [n for n in kept if n < number and notes[n].media_type != notes[number].media_type]
        if any(_alike(kept[n], kept[number]) for n in before):
            del kept[number]
    for number, item in enumerate(items):
        yield Skipped(f"{kind} (same text again)") if number in words and number not in kept else item


def _alike(one: str, other: str) -> bool:
    """Says whether two texts are the same note in two formats, of which one has a page's head or lacks a picture's."""
    first_words, other_words = Counter(one.split()), Counter(other.split())
    both = (first_words & other_words).total()
    return both >= ALIKE * max(first_words.total(), other_words.total(), 1)


# --- kinds ----------------------------------------------------------------------------------


def read_document_reference(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields the attachments of a DocumentReference.

    ``date`` (R4) is ``created`` or ``indexed`` in DSTU2 and STU3; ``type`` may be left to ``class`` or ``category``.
    """
    facts = facts_of(resource, scope, resource.get("date"), resource.get("created"), resource.get("indexed"))
    period = start_of(first(resource.get("context")).get("period")) or start_of(resource.get("period"))
    facts |= typed(resource.get("type"), resource.get("class"), resource.get("category"))
    items: list[Item] = []
    for index, content in enumerate(listed(resource.get("content"))):
        attachment = first(first(content).get("attachment")) or None
        if attachment and not facts["authored_at"]:
            attachment = {"creation": period} | attachment
        items += read_attachment(attachment, f"{record}#content.{index}", facts, scope, resource)
    items += _narrative(resource, record, facts, scope)
    yield from distinct(items or [scope.reading.reject(record, "TEXT_MISSING")], kind)


def read_diagnostic_report(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields the forms of a DiagnosticReport, its conclusion and its narrative."""
    effective = first_text(resource.get("effectiveDateTime"), start_of(resource.get("effectivePeriod")))
    facts = facts_of(resource, scope, effective, resource.get("issued"))
    facts |= typed(resource.get("code")) | {"note_type": concept(resource.get("code"), resource.get("category"))[0]}
    items: list[Item] = []
    for index, form in enumerate(listed(resource.get("presentedForm"))):
        items += read_attachment(form, f"{record}#presentedForm.{index}", facts, scope, resource)
    if conclusion := "\n\n".join([*texts(resource.get("conclusion")), *texts(resource.get("note"))]):
        items.append(scope.reading.document(f"{record}#conclusion", conclusion, **facts))
    items += _narrative(resource, record, facts, scope)
    if not items and (text := text_of_results(resource, scope)):
        items.append(scope.reading.document(f"{record}#result", text, **facts))
    yield from distinct(items or [Skipped("DiagnosticReport (no text)")], kind)


def text_of_results(report: Resource, scope: Scope) -> str | None:
    """Returns the text of a report whose lines are Observations of the same Bundle, as converters of HL7 v2 make them.

    Results are such lines if most of them are texts of several words; then they are joined in the report's order,
    each run of the same code under its name.
    """
    if any(report.get(name) for name in ("presentedForm", "conclusion", "note")) or narrative_of(report):
        return None
    lines: list[tuple[str | None, str]] = []
    results = [first_text(one.get("reference")) for one in objects(report.get("result"))]
    for reference in results:
        result = (scope.find(reference, report) if reference else None) or {}
        if text := "\n".join(texts(result.get("valueString"))):
            lines.append((concept(result.get("code"))[0], text))
    words = sum(len(WORD.findall(text)) for _, text in lines)
    if 2 * len(lines) <= len(results) or words < max(NARRATIVE_WORDS, LINE_WORDS * len(lines)):
        return None
    parts: list[str] = []
    last = None
    for heading, text in lines:
        if heading and heading != last:
            parts.append(f"\n{heading}:" if parts else f"{heading}:")
        parts.append(text)
        last = heading
    return "\n".join(parts)


def is_shown(text: str, scope: Scope) -> bool:
    """Says whether a note of the same Bundle shows a text: a Composition its entries, a report its results."""
    words = words_of(text)
    around: Scope | None = scope
    while around is not None:
        if around.shown is None:
            around.shown = [words_of(note) for _, one in around.resources if (note := _shown_by(one, around))]
        if any(words in shown for shown in around.shown):
            return True
        around = around.around
    return False


def _shown_by(resource: Resource, scope: Scope) -> str | None:
    if withdrawn(resource):
        return None
    if resource.get("resourceType") == "Composition":
        return assemble(resource, render)[0]
    return text_of_results(resource, scope) if resource.get("resourceType") == "DiagnosticReport" else None


def read_clinical_impression(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields a ClinicalImpression: what it describes, its summary and its notes are one text."""
    effective = first_text(resource.get("effectiveDateTime"), start_of(resource.get("effectivePeriod")))
    facts = facts_of(resource, scope, resource.get("date"), effective) | typed(resource.get("code"))
    parts = [text for name in ("description", "summary", "prognosis", "note") for text in texts(resource.get(name))]
    items: list[Item] = []
    if parts:
        items.append(scope.reading.document(f"{record}#summary", "\n\n".join(dict.fromkeys(parts)), **facts))
    items += _narrative(resource, record, facts, scope)
    yield from distinct(items or [Skipped("ClinicalImpression (no text)")], kind)


def read_communication(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields what was communicated in words: texts, attachments and Binary resources."""
    facts = facts_of(resource, scope, resource.get("sent"), resource.get("received"))
    facts |= typed(resource.get("category"), resource.get("topic"))
    items: list[Item] = []
    for index, payload in enumerate(objects(resource.get("payload"))):
        name = f"{record}#payload.{index}"
        attachment = first(payload.get("contentAttachment") or payload.get("content"))
        binary = first(payload.get("contentReference")).get("reference")
        if text := first_text(payload.get("contentString"), first(payload.get("contentCodeableConcept")).get("text")):
            items.append(scope.reading.document(name, text, **facts))
        elif attachment:
            items += read_attachment(attachment, name, facts, scope, resource)
        elif isinstance(binary, str) and "Binary/" in binary:
            items += read_attachment({"url": binary}, name, facts, scope, resource)
    for index, text in enumerate(texts(resource.get("note"))):
        items.append(scope.reading.document(f"{record}#note.{index}", text, **facts))
    items += _narrative(resource, record, facts, scope)
    yield from distinct(items or [Skipped("Communication (no text)")], kind)


def read_composition(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields a Composition as one note with its sections."""
    facts = facts_of(resource, scope, resource.get("date"))
    facts |= typed(resource.get("type"), resource.get("class"), resource.get("category"))
    text, sections = assemble(resource, render)
    if text:
        yield scope.reading.document(record, text, sections=sections, **facts)
    else:
        yield Skipped("Composition (no text)")


def read_binary(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields a Binary that may hold a note and that no attachment names."""
    media, _ = media_type(resource.get("contentType"))
    if media and not media.startswith(READABLE) and not media.endswith("+xml") and media not in UNKNOWN:
        yield Skipped(f"Binary ({_main_type(media)})")
    elif scope.is_attached(resource):
        yield Skipped("Binary")
    else:
        try:
            raw, media, charset = binary_bytes(resource)
        except Refused as refused:
            yield scope.reading.reject(record, refused.code, **refused.fields)
            return
        context = first(resource.get("securityContext"))  # of R4 and R5; it may be the patient
        if is_fhir(raw):
            yield from _inside(raw, record, scope)
            return
        facts = {"patient_id": reference_id(context, "Patient", scope, resource) or scope.only_patient()}
        yield scope.reading.attachment(record, raw, media, charset, **facts)


def read_media(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields a Media that holds a text; pictures, sounds and videos are no notes."""
    content = first(resource.get("content"))
    media, _ = media_type(content.get("contentType"))
    if media is None or not media.startswith(READABLE) or media.startswith("image/"):
        yield from read_other(resource, f"Media ({_main_type(media)})" if media else kind, record, scope)
        return
    created = first_text(resource.get("createdDateTime"), start_of(resource.get("createdPeriod")))
    facts = facts_of(resource, scope, created, resource.get("occurrenceDateTime"), resource.get("issued"))
    yield from read_attachment(content, f"{record}#content", facts | typed(resource.get("type")), scope, resource)


def read_other(resource: Resource, kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields the narrative and the long comments of a resource that is otherwise data."""
    comments = dict(_comments(resource))
    long = {name: text for name, text in comments.items() if is_narrative(text)}
    about = any(name in resource for name in ("subject", "patient"))
    narrative = narrative_of(resource, stated=True) if about and "text" in resource else None
    attachment = first(resource.get("valueAttachment"))  # R5's Observation
    if not long and not narrative and not attachment:
        yield Skipped(f"{kind} (comment)" if comments else kind)
        return
    if status := withdrawn(resource):
        yield Skipped(f"{kind} ({status})")
        return
    times = [*(resource.get(name) for name in TIMES), *(start_of(resource.get(name)) for name in PERIODS)]
    facts = facts_of(resource, scope, *times)
    facts |= typed(resource.get("code"), resource.get("type"), resource.get("category"))
    if narrative:
        long["text"] = narrative
    items: list[Item] = [
        Skipped(f"{kind} (same text again)")
        if is_shown(text, scope)
        else scope.reading.document(f"{record}#{name}", text, **facts)
        for name, text in long.items()
    ]
    if attachment:
        items += read_attachment(attachment, f"{record}#value", facts, scope, resource)
    yield from distinct(items, kind)


# When the data of other resources was recorded, else when it happened.
TIMES = (
    "issued", "recordedDate", "dateRecorded", "assertedDate", "dateAsserted", "authoredOn", "authored", "dateWritten",
    "created", "date", "effectiveDateTime", "performedDateTime", "occurrenceDateTime", "recorded", "statusDate",
)  # fmt: skip
PERIODS = ("effectivePeriod", "performedPeriod", "occurrencePeriod", "period")


def _narrative(resource: Resource, record: str, facts: Mapping[str, Any], scope: Scope) -> Iterator[Item]:
    if "text" in resource and (text := narrative_of(resource)):
        yield scope.reading.document(f"{record}#text", text, **facts)


def _comments(resource: Resource) -> Iterator[tuple[str, str]]:
    """Yields the free texts of a resource that is data, with the name of the field that holds them."""
    for name in ("valueString", "note", "notes", "comment", "comments"):
        if name in resource:
            for index, text in enumerate(texts(resource[name])):
                yield f"{name}.{index}", text
    for index, part in enumerate(objects(resource.get("component"))):
        for text in texts(part.get("valueString")):
            yield f"component.{index}", text
    if resource.get("resourceType") == "QuestionnaireResponse":
        yield from _answers(resource)


def _answers(response: Resource) -> Iterator[tuple[str, str]]:
    """Yields the answers in words; groups and questions (DSTU2) or items nest in any depth."""
    stack: list[tuple[str, Any]] = [("item", response.get("item")), ("group", response.get("group"))]
    while stack:
        around, value = stack.pop()
        for index, item in enumerate(objects(value)):
            place = f"{around}.{index}"  # a linkId may stand again
            for number, answer in enumerate(objects(item.get("answer"))):
                if text := first_text(answer.get("valueString")):
                    yield f"{place}.{number}", text
                stack += [(f"{place}.{number}.{name}", answer[name]) for name in ("item", "group") if name in answer]
            stack += [(f"{place}.{name}", item[name]) for name in ("item", "group", "question") if name in item]


def _main_type(media: str) -> str:
    main = media.partition("/")[0]
    return main if main in MAIN_TYPES else "other"


NOTES: dict[str, NoteReader] = {
    "DocumentReference": read_document_reference,
    "DiagnosticReport": read_diagnostic_report,
    "Composition": read_composition,
    "ClinicalImpression": read_clinical_impression,
    "Communication": read_communication,
    "Binary": read_binary,
    "Media": read_media,
}
