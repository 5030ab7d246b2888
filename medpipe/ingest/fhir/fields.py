"""Fields of FHIR resources, read as exports write them: an object where a list belongs, a number where a text does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from medpipe.ingest.syntax.names import clean

# How LOINC is named as a code system: its URL, its OID (DSTU2 and converted CDA), and what HL7 v2 calls it.
LOINC = frozenset({"loinc.org", "2.16.840.1.113883.6.1", "ln", "loinc"})
# Statuses of what is no longer to be relied on, in any release: DocumentReference.status and docStatus, Composition,
# DiagnosticReport and event statuses. "deprecated" is R5's word for a document that another has taken the place of.
WITHDRAWN = frozenset({"superseded", "entered-in-error", "cancelled", "deprecated", "not-done", "retired", "revoked"})
# Narratives (https://hl7.org/fhir/R5/narrative.html#Narrative) that were made of the resource's data.
GENERATED = frozenset({"generated", "extensions", "empty"})
# A reference to a resource by type and id: relative or absolute, with or without a version, an operation, a query.
REFERENCE = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/([^/?#\s]+)(?:/_history/[^/?#]+)?(?:/\$[\w-]+)?/?(?:[?#].*)?$")
CONDITIONAL = re.compile(r"^(?:.*/)?([A-Z][A-Za-z]+)\?(?:.*&)?identifier=(?:[^|&]*\|)?([^|&]+)")
WORD = re.compile(r"\w+")


def listed(value: Any) -> list[Any]:
    """Returns a list as it is, anything else as a list of one, ``None`` as none (XML does not tell one from many)."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def objects(value: Any) -> list[dict[str, Any]]:
    """Returns the objects of a list, or the one object."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def first(value: Any) -> dict[str, Any]:
    """Returns an object, the first object of a list, or an empty one."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                return item
    return {}


def first_text(*values: Any) -> str | None:
    """Returns the first value that is a text and not blank."""
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def texts(value: Any) -> Iterator[str]:
    """Yields the texts of a value that are not blank: a string, strings, or annotations with a ``text``."""
    for item in listed(value):
        text = item.get("text") if isinstance(item, dict) else item
        if isinstance(text, str) and text.strip():
            yield text


def status_of(value: Any) -> str | None:
    """Returns a status in the standard's form: a code, or a CodeableConcept (docStatus of DSTU2)."""
    if not isinstance(value, str):
        value = first_text(*(coding.get("code") for coding in objects(first(value).get("coding"))))
        if value is None:
            return None
    status = str(value).strip().lower()
    return status if status.isalpha() else re.sub(r"[\s_]+", "-", status) or None


def withdrawn(resource: Mapping[str, Any]) -> str | None:
    """Returns the status that says that a resource is not to be relied on, if one does."""
    for name in ("status", "docStatus"):
        if (status := status_of(resource.get(name))) in WITHDRAWN:
            return status
    return "not-done" if resource.get("notDone") in (True, "true") else None  # STU3's Communication and Procedure


def is_loinc(coding: Mapping[str, Any]) -> bool:
    """Says whether a coding is one of LOINC."""
    system = coding.get("system")
    if not isinstance(system, str):
        return False
    name = system.strip().lower().rstrip("/")
    return name.removeprefix("https://").removeprefix("http://").removeprefix("www.").removeprefix("urn:oid:") in LOINC


def concept(*concepts: Any) -> tuple[str | None, str | None]:
    """Returns the words and the LOINC code of CodeableConcepts, each from the first that has them; else a code."""
    words: list[Any] = []
    codes: list[Any] = []
    loinc: list[Any] = []
    for one in (item for value in concepts for item in objects(value)):
        codings = objects(one.get("coding"))
        mine = [coding for coding in codings if is_loinc(coding)]
        loinc += [coding.get("code") for coding in mine]
        words += [one.get("text"), *(coding.get("display") for coding in (*mine, *codings))]
        codes += [coding.get("code") for coding in codings]
    return clean(first_text(*words, *codes)), clean(first_text(*loinc))


def media_type(written: Any) -> tuple[str | None, str | None]:
    """Returns media type and charset of ``text/plain; charset=utf-8``."""
    if not isinstance(written, str) or not written.strip():
        return None, None
    media, _, rest = written.partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?([^\s;\"']+)", rest, re.IGNORECASE)
    return media.strip().lower() or None, charset[1] if charset else None


def words_of(text: str) -> str:
    """Returns a text's words alone, for telling whether another text holds the same."""
    return f" {' '.join(WORD.findall(text.casefold()))} "
