"""FHIR, DSTU2 to R6, JSON and XML: which resources are notes, and what they say about themselves.

Resources are read as plain objects: exports mix releases and are messier than any of them, and one odd field must not
cost the note. Nothing is fetched (``links``).

A record of a FHIR source is a note or, for a resource that holds none, the resource. Notes are

- each attachment of a DocumentReference, the forms and the conclusion of a DiagnosticReport (one that repeats the
  text of another, in another format, is counted and not taken again), the text payloads of a Communication;
- a Composition, put together from its title and its sections' narratives; a ClinicalImpression (description, summary,
  notes); a Binary with text that no attachment of the input names;
- an Observation's text or attachment, an answer to a questionnaire, a comment (``note``) on any resource, if it has
  at least 25 words: shorter ones are values and remarks, not narrative, and are counted as ``Kind (comment)``;
- the narrative ``text.div`` of a resource about a patient whose status is ``additional`` (not made of the data alone);
  of the kinds named above also one without a status, and one that says it was generated but holds what stands nowhere
  in the resource. A Composition's sections count whatever their status, for there the narrative is the document.

Counted and not taken: resources that are withdrawn (superseded, entered in error, cancelled, deprecated), replaced by
another of the same file (``relatesTo``), or an older version in a history; pictures, sounds and videos of Media.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.ingest.content import Content, Refused
from medpipe.ingest.fhir.fields import listed, objects, withdrawn
from medpipe.ingest.fhir.links import REPLACING, Scope, entries_of, older_versions
from medpipe.ingest.fhir.notes import NOTES, Item, NoteReader, read_other
from medpipe.ingest.fhir.xml_form import read_xml
from medpipe.ingest.notes import Reading
from medpipe.ingest.syntax.json_text import json_kind, parse_values
from medpipe.records import Reject, Skipped

KIND = re.compile(r"[A-Z][A-Za-z]{2,40}")
ID = re.compile(r"[^\s\x00-\x1f\ud800-\udfff]{1,200}")  # the standard allows less, exports write more
UNKNOWN_KIND = "unknown resource"


def read_fhir(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads a file of FHIR resources: one, a Bundle, a list of them, or several one behind the other."""
    raw = content.read(reading.max_file_bytes)
    found = [("0", read_xml(raw))] if is_xml(raw) else list(parse_values(raw, "0", reading))
    del raw
    yield from (item for item in found if isinstance(item, Reject))
    if not found:
        yield Skipped("empty file")
    values = [item for item in found if not isinstance(item, Reject)]
    if len(values) == 1 and isinstance(values[0][1], list) and values[0][1]:
        values = [(str(index), value) for index, value in enumerate(values[0][1])]
    yield from read_values(values, scope_of(values, reading, content))


def scope_of(values: Sequence[tuple[str, Any]], reading: Reading, content: Content) -> Scope:
    """Returns the scope of resources that stand beside each other in a file."""
    beside = [one for _, value in values for one in objects(value)]
    return Scope(reading, content, [(None, one) for one in beside])


def is_xml(raw: bytes) -> bool:
    """Says whether bytes are XML rather than JSON, in any encoding of either."""
    return raw[:64].lstrip(b"\xef\xbb\xbf\xfe\xff\x00 \t\r\n").startswith(b"<")


def read_values(values: Sequence[tuple[str, Any]], scope: Scope) -> Iterator[Item]:
    """Yields what parsed resources hold; a Bundle's entries one by one.

    Args:
        values: each with its place in the file, which names records that have no id.
        scope: what they know of one another.
    """
    names: dict[str, Mapping[str, Any]] = {}
    # A stack instead of recursion: Bundles may lie in Bundles as deep as the parser allows.
    stack = [(value, place, scope) for place, value in reversed(values)]
    while stack:
        item, place, around = stack.pop()
        if item == []:
            yield Skipped("empty list")
        if isinstance(item, list):
            stack += [(inner, f"{place}.{index}", around) for index, inner in reversed(list(enumerate(item)))]
            continue
        if not isinstance(item, dict):
            yield around.reading.reject(place, "RECORD_NOT_OBJECT", kind=json_kind(item))
            continue
        kind = item.get("resourceType")
        if kind == "Bundle":
            inner, found = open_bundle(item, place, around)
            yield from found
            stack += inner
        elif kind == "Parameters":
            inner, found = open_parameters(item, place, around)
            yield from found
            stack += inner
        elif isinstance(kind, str) and KIND.fullmatch(kind):
            yield from read_resource(item, kind, unique_name(item, around.url_of.get(id(item)), place, names), around)
        elif not_a_resource := what_else(item):
            yield Skipped(not_a_resource)
        elif "resourceType" not in item and (wrapped := inside_of(item)):
            stack += [(inner, f"{place}/inside.{index}", around) for index, inner in reversed(list(enumerate(wrapped)))]
        else:
            yield around.reading.reject(place, "RECORD_INVALID", where="resourceType")


Waiting = list[tuple[Any, str, Scope]]


def open_bundle(bundle: Mapping[str, Any], place: str, around: Scope) -> tuple[Waiting, list[Item]]:
    """Returns what waits in a Bundle, its first entry last, and items for entries that are not read."""
    entries = listed(bundle.get("entry"))
    if not all(isinstance(entry, dict) for entry in entries) and not isinstance(bundle["entry"], list):
        return [], [around.reading.reject(place, "RECORD_INVALID", where="Bundle.entry")]
    if not entries:
        return [], [Skipped("Bundle (empty)")]
    scope = Scope(around.reading, around.content, entries_of(bundle), around)
    old = older_versions(bundle)
    waiting: Waiting = []
    items: list[Item] = []
    for index, entry in enumerate(entries):
        resource = entry
        if isinstance(entry, dict) and ("resource" in entry or "resourceType" not in entry):
            resource = entry.get("resource")
        if resource is None:
            items.append(Skipped("Bundle entry without resource"))
        elif index in old:
            items.append(Skipped(f"{safe_kind(resource)} (older version)"))
        else:
            waiting.append((resource, f"{place}/entry.{index}", scope))
    return waiting[::-1], items


def open_parameters(parameters: Mapping[str, Any], place: str, around: Scope) -> tuple[Waiting, list[Item]]:
    """Returns the resources in the parameters of an operation, the first last; at least one item."""
    waiting: Waiting = []
    stack = [(one, f"{place}/parameter.{n}") for n, one in enumerate(objects(parameters.get("parameter")))][::-1]
    while stack:
        parameter, name = stack.pop()
        if isinstance(parameter.get("resource"), dict):
            waiting.append((parameter["resource"], name, around))
        stack += [(part, f"{name}.{n}") for n, part in enumerate(objects(parameter.get("part")))][::-1]
    return waiting[::-1], [] if waiting else [Skipped("Parameters")]


def read_resource(resource: Mapping[str, Any], kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields the notes of one resource and of those that it contains, or what it is instead."""
    reader = NOTES.get(kind)
    if reader is None:
        yield from isolated(read_other, resource, kind, record, scope)
    elif status := withdrawn(resource):
        yield Skipped(f"{kind} ({status})")
        return
    elif kind in REPLACING and scope.is_replaced(resource):
        yield Skipped(f"{kind} (replaced)")
        return
    else:
        yield from isolated(reader, resource, kind, record, scope)
    if "contained" in resource:
        for index, inner in enumerate(objects(resource["contained"])):
            inner_kind = safe_kind(inner)
            if inner_kind != "Binary" and not withdrawn(inner):
                whole = {**inner, "contained": resource["contained"]}  # "#id" means the same inside
                key = inner.get("id")
                name = f"{record}#{key if isinstance(key, str) and ID.fullmatch(key) else index}"
                found = isolated(NOTES.get(inner_kind, read_other), whole, inner_kind, name, scope)
                # What is contained is a part of its container: only its notes are records.
                yield from (item for item in found if not isinstance(item, Skipped))


def isolated(reader: NoteReader, resource: Mapping[str, Any], kind: str, record: str, scope: Scope) -> Iterator[Item]:
    """Yields what a reader finds in a resource; a bug of a reader costs the resource, not the file."""
    try:
        yield from reader(resource, kind, record, scope)
    except (OSError, MedpipeError):
        raise
    except Refused as refused:
        yield scope.reading.reject(record, refused.code, **refused.fields)
    except Exception as error:  # its message may quote the note
        yield scope.reading.reject(record, "STAGE_FAILED", stage="ingest", kind=type(error).__name__)


def unique_name(resource: Mapping[str, Any], url: str | None, place: str, names: dict[str, Mapping[str, Any]]) -> str:
    """Returns ``Type/id``, or with what the entry's URL ends with; else the place in the file.

    Where another resource has the name already, the place stands behind it.
    """
    for key in (resource.get("id"), url.rstrip("/").rsplit("/", 1)[-1].removeprefix("urn:uuid:") if url else None):
        if isinstance(key, str) and ID.fullmatch(key):
            name = f"{resource['resourceType']}/{key}"
            return name if names.setdefault(name, resource) == resource else f"{name}@{place}"
    return place


def safe_kind(resource: Any) -> str:
    """Returns the type of a resource, if it is a word that may be one: kinds are counted and shown."""
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    return kind if isinstance(kind, str) and KIND.fullmatch(kind) else UNKNOWN_KIND


def inside_of(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the resources that an object of another make holds: the answer of an interface, a row of a database."""
    found = []
    stack: list[Any] = list(item.values())[::-1]
    while stack:
        value = stack.pop()
        if isinstance(value, dict) and safe_kind(value) != UNKNOWN_KIND and "resourceId" not in value:
            found.append(value)
        elif isinstance(value, dict | list):
            stack.extend(list(value.values() if isinstance(value, dict) else value)[::-1])
    return found


def what_else(item: Mapping[str, Any]) -> str | None:
    """Returns what an object is that lies beside the resources of a bulk export, if it is known."""
    if {"transactionTime", "output"} <= item.keys():  # https://hl7.org/fhir/uv/bulkdata/export.html
        return "bulk export manifest"
    if {"exportId", "eventId", "timestamp"} <= item.keys():  # the log of bulk-data clients
        return "bulk export log"
    return None
