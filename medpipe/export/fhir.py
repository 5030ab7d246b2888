"""FHIR R4 (4.0.1): what notes say of a patient as resources, one NDJSON file a type (the form of Bulk Data exports).

- DISEASE is a ``Condition``: negated ``refuted``, uncertain ``unconfirmed``, historical ``inactive``, else ``active``.
- SYMPTOM is an ``Observation`` whose value is true or false; ``possible`` where it is uncertain.
- TEST is an ``Observation`` with the value of the LAB_VALUE that is related to it, or lies in it; without one a test
  that a note mentions is no observation.
- DRUG is a ``MedicationStatement``, ``not-taken`` where it is negated, else ``unknown``: a note that names a drug
  ("allergic to…") does not say that it is taken.
- Each has a ``Provenance``: the note (``DocumentReference``, with the text), the stage with its model (Device, by
  name), the time of the run, and the source span: half-open code points of the text as RFC 5147 writes them
  (``char=12,20``), one for each fragment.

ANATOMY and SEVERITY that lie in a mention or are related to it are its body site and severity, DOSAGE is a drug's
dosage, and symptoms that are related to a disease are its evidence. Nothing is final: observations are
``preliminary``.

Mentions of the family and hypothetical ones are no statement about the patient: they are left out and counted, as are
other labels. Patients and encounters are referred to by the ids that the source gave, as identifiers where these are
no FHIR ids.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from medpipe import __version__
from medpipe.export.folder import whole_folder
from medpipe.export.notes import NoteRows, Row, assertions_of, latest_notes, spans_of
from medpipe.lake import warehouse

TYPES = ("DocumentReference", "Condition", "Observation", "MedicationStatement", "Provenance")
EXTENSION = "https://github.com/medpipe/medpipe/fhir/StructureDefinition/"
FHIR_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
# The URIs of code systems (https://terminology.hl7.org), by name without punctuation.
SYSTEMS = {
    "icd10cm": "http://hl7.org/fhir/sid/icd-10-cm",
    "icd10": "http://hl7.org/fhir/sid/icd-10",
    "snomed": "http://snomed.info/sct",
    "snomedct": "http://snomed.info/sct",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "loinc": "http://loinc.org",
    "atc": "http://www.whocc.no/atc",
    "umls": "http://www.nlm.nih.gov/research/umls",
    "mesh": "https://www.nlm.nih.gov/mesh",
    "hpo": "http://human-phenotype-ontology.org",
}

Resource = dict[str, Any]


def export_fhir(root: Path, out: Path, *, partition: str | None = None) -> dict[str, int]:
    """Writes what a warehouse says of its patients as FHIR R4, a file a type; memory stays flat.

    Args:
        root: the warehouse.
        out: the folder; it must not exist yet or be empty.
        partition: ``YYYY-MM-DD``; all if not given.

    Returns:
        How many resources of each type were written, and how many mentions were left out as ``family``,
        ``hypothetical``, or of ``other_labels`` (those that became a part of another resource included).

    Raises:
        MedpipeError: WAREHOUSE_INVALID, OUTPUT_EXISTS, DISK_FULL, PERMISSION_DENIED.
    """
    notes = latest_notes(root, partition)
    counts: Counter[str] = Counter(dict.fromkeys((*TYPES, "family", "hypothetical", "other_labels"), 0))
    times: dict[str, dict[str, str]] = {}  # of the partitions: run -> when it ended
    with whole_folder(out) as folder, ExitStack() as stack:
        sinks: dict[str, BinaryIO] = {
            kind: stack.enter_context((folder / f"{kind}.ndjson").open("wb")) for kind in TYPES
        }
        for note in notes:
            if note.partition not in times:
                times = {note.partition: run_times(root, note.partition)}
            for resource in note_resources(note, times[note.partition], counts):
                sinks[resource["resourceType"]].write(orjson.dumps(resource, option=orjson.OPT_APPEND_NEWLINE))
                counts[resource["resourceType"]] += 1
    return dict(counts)


def run_times(root: Path, partition: str) -> dict[str, str]:
    """Returns when each run of a partition ended, as a FHIR instant."""
    runs = warehouse.read_table(root, "runs", partition=partition, columns=["run_id", "finished_at"])
    return {row["run_id"]: instant(row["finished_at"]) for row in runs.to_pylist()}


def note_resources(note: NoteRows, times: dict[str, str], counts: Counter[str]) -> Iterator[Resource]:
    """Yields the resources of a note, and adds to ``counts`` what is left out."""
    yield document_reference(note.document)
    parts = related_parts(note)
    for entity in note.entities:
        make = MAKERS.get(entity["label"])
        if make is None:
            counts["other_labels"] += 1
        elif entity["family"]:
            counts["family"] += 1
        elif entity["hypothetical"]:
            counts["hypothetical"] += 1
        else:
            resource = make(entity, parts.get(entity["entity_id"], []), note.document)
            if resource is None:
                counts["other_labels"] += 1
                continue
            yield resource
            recorded = times.get(entity["run_id"], f"{note.partition}T00:00:00Z")
            yield provenance(entity, resource["resourceType"], recorded)


def related_parts(note: NoteRows) -> dict[str, list[Row]]:
    """Returns for each entity those that lie in it or that a relation joins it with, which is not negated."""
    by_id = {entity["entity_id"]: entity for entity in note.entities}
    found: dict[str, list[Row]] = {}
    for entity in note.entities:
        if entity["parent_entity_id"] in by_id:
            found.setdefault(entity["parent_entity_id"], []).append(entity)
    for relation in note.relations:
        head, tail = relation["head_entity_id"], relation["tail_entity_id"]
        if not relation["negated"] and head in by_id and tail in by_id:
            found.setdefault(head, []).append(by_id[tail])
            found.setdefault(tail, []).append(by_id[head])
    return found


# --- resources ------------------------------------------------------------------------------


def document_reference(document: Row) -> Resource:
    """Returns the note with its text, to which the source spans refer."""
    kind = concept(document["note_type"], "LOINC", document["note_type_code"])
    return without_none({
        "resourceType": "DocumentReference",
        "id": document["document_id"],
        "identifier": [{"value": f"{document['source']}#{document['record']}"}],
        "status": "current",
        "type": kind,
        "subject": patient(document),
        "date": document["authored_at"] and instant(document["authored_at"]),
        "content": [{
            "attachment": without_none({
                "contentType": "text/plain; charset=utf-8",
                "language": document["language"],
                "data": base64.b64encode(document["text"].encode("utf-8")).decode("ascii"),
            })
        }],
        "context": {"encounter": [encounter(document)]} if document["encounter_id"] else None,
    })  # fmt: skip


def condition(entity: Row, parts: list[Row], document: Row) -> Resource | None:
    """Returns a disease."""
    status = "refuted" if entity["negated"] else "unconfirmed" if entity["uncertain"] else None
    clinical = None if entity["negated"] else "inactive" if entity["historical"] else "active"
    symptoms = [part for part in parts if part["label"] == "SYMPTOM" and is_stated(part)]
    return common("Condition", entity, document, {
        "clinicalStatus": coded("http://terminology.hl7.org/CodeSystem/condition-clinical", clinical),
        "verificationStatus": coded("http://terminology.hl7.org/CodeSystem/condition-ver-status", status),
        "severity": first_text(parts, "SEVERITY"),
        "code": entity_concept(entity),
        "bodySite": texts(parts, "ANATOMY"),
        "encounter": encounter(document),
        "recordedDate": written_at(document),
        "evidence": [{"detail": [{"reference": f"Observation/{part['entity_id']}"}]} for part in symptoms] or None,
    })  # fmt: skip


def symptom(entity: Row, parts: list[Row], document: Row) -> Resource | None:
    """Returns a symptom: seen, not seen, or possible."""
    value: Resource = (
        {"valueCodeableConcept": {"text": "possible"}}
        if entity["uncertain"] and not entity["negated"]
        else {"valueBoolean": not entity["negated"]}
    )
    return observation(entity, parts, document, value)


def test(entity: Row, parts: list[Row], document: Row) -> Resource | None:
    """Returns a test with its value; ``None`` where it has none."""
    values = texts(parts, "LAB_VALUE")
    if not values or entity["negated"]:
        return None
    return observation(entity, parts, document, {"valueString": "; ".join(value["text"] for value in values)})


def observation(entity: Row, parts: list[Row], document: Row, value: Resource) -> Resource:
    """Returns an Observation; when the past was, is not known."""
    return common("Observation", entity, document, {
        "status": "preliminary",
        "code": entity_concept(entity),
        "encounter": encounter(document),
        "effectiveDateTime": written_at(document) if not entity["historical"] else None,
        "bodySite": first_text(parts, "ANATOMY"),
        "derivedFrom": [{"reference": f"DocumentReference/{document['document_id']}"}],
    } | value)  # fmt: skip


def medication(entity: Row, parts: list[Row], document: Row) -> Resource | None:
    """Returns a drug that the note names."""
    return common("MedicationStatement", entity, document, {
        "status": "not-taken" if entity["negated"] else "unknown",
        "medicationCodeableConcept": entity_concept(entity),
        "context": encounter(document),
        "dateAsserted": written_at(document),
        "derivedFrom": [{"reference": f"DocumentReference/{document['document_id']}"}],
        "dosage": texts(parts, "DOSAGE"),
    })  # fmt: skip


MAKERS = {"DISEASE": condition, "SYMPTOM": symptom, "TEST": test, "DRUG": medication}


def common(kind: str, entity: Row, document: Row, facts: Resource) -> Resource:
    """Returns a resource with what all have: id, subject, and what is said of the mention."""
    said = [{"url": EXTENSION + "assertion", "valueCode": name} for name in assertions_of(entity)]
    head = {"resourceType": kind, "id": entity["entity_id"], "extension": said or None, "subject": patient(document)}
    return without_none(head | facts)


def provenance(entity: Row, kind: str, recorded: str) -> Resource:
    """Returns who found a resource, when, and where in which note."""
    spans = [
        {"url": EXTENSION + "source-span", "valueString": f"char={start},{end}"} for start, end in spans_of(entity)
    ]
    score = {"url": EXTENSION + "score", "valueDecimal": round(entity["score"], 4)}
    participant = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    return {
        "resourceType": "Provenance",
        "id": entity["entity_id"],
        "target": [{"reference": f"{kind}/{entity['entity_id']}"}],
        "recorded": recorded,
        "agent": [
            {
                "type": {"coding": [{"system": participant, "code": "assembler"}]},
                "who": {"type": "Device", "display": f"medpipe {__version__} {entity['model']}"},
            }
        ],
        "entity": [
            {
                "extension": [*spans, score],
                "role": "source",
                "what": {"reference": f"DocumentReference/{entity['document_id']}"},
            }
        ],
    }


# --- data types -----------------------------------------------------------------------------


def patient(document: Row) -> Resource:
    """Returns the reference to the patient; where the source names none, one that says so."""
    found = reference("Patient", document["patient_id"])
    return found if found is not None else {"display": "unknown"}


def encounter(document: Row) -> Resource | None:
    """Returns the reference to the encounter, where the source names one."""
    return reference("Encounter", document["encounter_id"])


def reference(kind: str, identifier: str | None) -> Resource | None:
    """Returns a reference by the id that a source gave; as an identifier where it cannot be a FHIR id."""
    if not identifier or not identifier.strip():
        return None
    if FHIR_ID.fullmatch(identifier):
        return {"reference": f"{kind}/{identifier}"}
    return {"type": kind, "identifier": {"value": identifier.strip()}}


def entity_concept(entity: Row) -> Resource:
    """Returns a mention as a CodeableConcept: the words of the note, and the code where there is one."""
    made = concept(entity["text"], entity["code_system"], entity["code"])
    assert made is not None
    return made


def concept(text: str | None, system: str | None, code: str | None) -> Resource | None:
    """Returns a CodeableConcept; ``None`` of nothing."""
    coding = without_none({"system": system_uri(system), "code": code}) if code and code.strip() else None
    made = without_none({"coding": [coding] if coding else None, "text": plain(text)})
    return made or None


def system_uri(name: str | None) -> str | None:
    """Returns the URI of a code system; ``None`` where it is not known and none itself."""
    if name and re.match(r"(https?|urn):\S+$", name):
        return name
    return SYSTEMS.get(re.sub(r"[^a-z0-9]", "", (name or "").lower()))


def coded(system: str, code: str | None) -> Resource | None:
    """Returns a status as FHIR codes it."""
    return {"coding": [{"system": system, "code": code}]} if code else None


def texts(parts: list[Row], label: str) -> list[Resource] | None:
    """Returns the parts of a label as ``{"text": …}``, each wording once; ``None`` where there are none."""
    wordings = dict.fromkeys(part["text"] for part in parts if part["label"] == label and is_stated(part))
    return [{"text": plain(wording)} for wording in wordings] or None


def first_text(parts: list[Row], label: str) -> Resource | None:
    """Returns the first of ``texts``, for elements that there may be one of."""
    found = texts(parts, label)
    return found[0] if found else None


def is_stated(entity: Row) -> bool:
    """Says whether a mention is a statement about the patient, so that it has a resource of its own."""
    return not (entity["family"] or entity["hypothetical"])


def plain(text: str | None) -> str | None:
    """Returns text as a FHIR string may be: not empty, without control characters but tab and line ends."""
    cleaned = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", " ", text or "").strip()
    return cleaned or None


def instant(moment: Any) -> str:
    """Returns a time as FHIR writes it, with its zone."""
    return str(moment.isoformat()).replace("+00:00", "Z")


def written_at(document: Row) -> str | None:
    """Returns when a note was written as a FHIR dateTime: a day where the source says no more."""
    moment = document["authored_at"]
    if moment is None:
        return None
    return str(moment.date().isoformat()) if document["authored_at_precision"] == "day" else instant(moment)


def without_none(resource: Resource) -> Resource:
    """Returns a resource without what is not known: FHIR knows no null."""
    return {name: value for name, value in resource.items() if value is not None}
