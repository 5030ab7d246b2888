"""FHIR R4 resources: which of them are notes, and what they say about themselves.

Resources are read as plain dicts: exports are messier than the standard (https://hl7.org/fhir/R4/), and one odd field
must not cost the note. Nothing is fetched: an attachment that is only a URL is found in the same input or goes to
quarantine.

A record is an attachment of a DocumentReference or DiagnosticReport, the conclusion of a DiagnosticReport without
attachments, or any other resource (which is counted as not a note).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medpipe.ingest.decoding import decode_base64
from medpipe.ingest.notes import Reading, clean
from medpipe.records import Document, Reject, Skipped

# Statuses of a note that is no longer to be relied on (status and docStatus).
WITHDRAWN = frozenset({"superseded", "entered-in-error", "cancelled"})
LOINC = "http://loinc.org"


def read_resource(resource: Any, where: str, reading: Reading) -> Iterator[Document | Reject | Skipped]:
    """Yields what a resource holds; a Bundle's entries one by one.

    Args:
        resource: parsed JSON.
        where: place in the file, for records that have no id.
        reading: the file.
    """
    # A stack instead of recursion: Bundles may lie in Bundles as deep as the JSON parser allows.
    stack: list[tuple[Any, str, Mapping[str, Any]]] = [(resource, where, {})]
    while stack:
        item, place, binaries = stack.pop()
        if not isinstance(item, dict):
            yield reading.reject(place, "RECORD_NOT_OBJECT", kind=json_kind(item))
            continue
        kind = item.get("resourceType")
        if kind == "Bundle":
            entries = item.get("entry") or []
            if not isinstance(entries, list):
                yield reading.reject(place, "RECORD_INVALID", where="Bundle.entry")
                continue
            known = dict(binaries) | binaries_of(entries)
            for index in reversed(range(len(entries))):
                entry = entries[index]
                inner = entry.get("resource") if isinstance(entry, dict) else entry
                if inner is None:
                    inner = {"resourceType": "Bundle entry without resource"}
                stack.append((inner, f"{place}/entry.{index}", known))
        elif kind == "DocumentReference":
            yield from read_document_reference(item, record_name(item, place), binaries, reading)
        elif kind == "DiagnosticReport":
            yield from read_diagnostic_report(item, record_name(item, place), binaries, reading)
        elif isinstance(kind, str) and kind:
            yield Skipped(clean(kind[:60]) or "")
        else:
            yield reading.reject(place, "RECORD_INVALID", where="resourceType")


def read_document_reference(
    resource: Mapping[str, Any], record: str, binaries: Mapping[str, Any], reading: Reading
) -> Iterator[Document | Reject | Skipped]:
    """Yields the attachments of a DocumentReference."""
    for status in (resource.get("status"), resource.get("docStatus")):
        if isinstance(status, str) and status in WITHDRAWN:
            yield Skipped(f"DocumentReference ({status})")
            return
    context = first(resource.get("context"))
    facts: dict[str, Any] = {
        "patient_id": reference_id(resource.get("subject")),
        "encounter_id": reference_id(first(context.get("encounter")) or context),
        "authored_at": resource.get("date") or first(context.get("period")).get("start"),
        **note_type(resource.get("type")),
    }
    contents = resource.get("content")
    contents = contents if isinstance(contents, list) else [contents]
    if not any(isinstance(content, dict) for content in contents):
        yield reading.reject(record, "TEXT_MISSING")
    for index, content in enumerate(contents):
        if isinstance(content, dict):
            yield read_attachment(content.get("attachment"), f"{record}#content.{index}", facts, binaries, reading)


def read_diagnostic_report(
    resource: Mapping[str, Any], record: str, binaries: Mapping[str, Any], reading: Reading
) -> Iterator[Document | Reject | Skipped]:
    """Yields the attachments of a DiagnosticReport, or its conclusion; one with neither holds only coded results."""
    status = resource.get("status")
    if isinstance(status, str) and status in WITHDRAWN:
        yield Skipped(f"DiagnosticReport ({status})")
        return
    facts: dict[str, Any] = {
        "patient_id": reference_id(resource.get("subject")),
        "encounter_id": reference_id(resource.get("encounter")),
        "authored_at": resource.get("effectiveDateTime") or resource.get("issued"),
        **note_type(resource.get("code")),
    }
    forms = resource.get("presentedForm")
    conclusion = resource.get("conclusion")
    if isinstance(forms, list) and forms:
        for index, form in enumerate(forms):
            yield read_attachment(form, f"{record}#presentedForm.{index}", facts, binaries, reading)
    elif isinstance(conclusion, str) and conclusion.strip():
        yield reading.document(f"{record}#conclusion", conclusion, **facts)
    else:
        yield Skipped("DiagnosticReport (no text)")


def read_attachment(
    attachment: Any, record: str, facts: Mapping[str, Any], binaries: Mapping[str, Any], reading: Reading
) -> Document | Reject:
    """Returns the note of an attachment: its data, or that of the Binary of the same Bundle which its URL names."""
    if not isinstance(attachment, dict):
        return reading.reject(record, "TEXT_MISSING")
    media, charset = media_type(attachment.get("contentType"))
    data, url = attachment.get("data"), attachment.get("url")
    if not data and isinstance(url, str) and url:
        binary = binaries.get(url) or binaries.get("/".join(url.split("/")[-2:]))
        if binary is None:
            return reading.reject(record, "ATTACHMENT_UNRESOLVED")
        data = binary.get("data") or binary.get("content")
        if media is None:
            media, charset = media_type(binary.get("contentType"))
    if not isinstance(data, str) or not data.strip():
        return reading.reject(record, "TEXT_MISSING")
    raw = decode_base64(data)
    if raw is None:
        return reading.reject(record, "BASE64_INVALID")
    return reading.attachment(record, raw, media, charset, **facts)


# --- fields ---------------------------------------------------------------------------------


def binaries_of(entries: list[Any]) -> dict[str, Any]:
    """Returns the Binary resources of a Bundle by the URLs under which its attachments may name them."""
    found: dict[str, Any] = {}
    for entry in entries:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict) and resource.get("resourceType") == "Binary":
            for name in (f"Binary/{resource.get('id')}", entry.get("fullUrl")):
                if isinstance(name, str):
                    found[name] = resource
    return found


def record_name(resource: Mapping[str, Any], place: str) -> str:
    """Returns ``Type/id``, or the place in the file where the resource has no id."""
    name = resource.get("id")
    return f"{resource['resourceType']}/{name}" if isinstance(name, str) and name else place


def first(value: Any) -> dict[str, Any]:
    """Returns an object, the first object of a list, or an empty one."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    return value if isinstance(value, dict) else {}


def reference_id(reference: Any) -> str | None:
    """Returns the id that a reference names (``Patient/7`` -> ``7``), or the value of its identifier."""
    one = first(reference)
    written = one.get("reference")
    if isinstance(written, str) and written:
        return written.removeprefix("urn:uuid:").rstrip("/").split("/")[-1] or None
    return clean(first(one.get("identifier")).get("value"))


def note_type(concept: Any) -> dict[str, str | None]:
    """Returns the words and the LOINC code of a CodeableConcept."""
    one = first(concept)
    codings = [coding for coding in one.get("coding") or [] if isinstance(coding, dict)] if one.get("coding") else []
    loinc = next((coding for coding in codings if coding.get("system") == LOINC), {})
    words = one.get("text") or loinc.get("display") or next((c["display"] for c in codings if c.get("display")), None)
    return {"note_type": clean(words), "note_type_code": clean(loinc.get("code"))}


def media_type(written: Any) -> tuple[str | None, str | None]:
    """Returns media type and charset of ``text/plain; charset=utf-8``."""
    if not isinstance(written, str) or not written.strip():
        return None, None
    media, _, rest = written.partition(";")
    charset = rest.partition("charset=")[2].split(";")[0].strip(" \"'") or None
    return media.strip().lower(), charset


def json_kind(value: Any) -> str:
    """Returns what JSON calls a value."""
    names = {
        type(None): "null",
        bool: "boolean",
        int: "number",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return names[type(value)]
