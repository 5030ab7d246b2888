"""FHIR: every resource is valid R4 (fhir.resources), and says what the tables say and no more."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from medpipe.export.fhir import EXTENSION, TYPES, export_fhir, plain, reference, system_uri
from medpipe.lake.publish import publish_partition
from tests.export.warehouses import NIGHTS, make_warehouse
from tests.lake.invented import publish_input, rows_of

Resources = dict[str, list[dict[str, Any]]]


def read(folder: Path) -> Resources:
    """The resources of an export, each validated."""
    found: Resources = {}
    for path in sorted(folder.iterdir()):
        assert path.suffix == ".ndjson"
        found[path.stem] = [json.loads(line) for line in path.read_bytes().splitlines()]
        model = get_fhir_model_class(path.stem)
        for resource in found[path.stem]:
            model.model_validate(resource)
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, dict[str, list[dict[str, Any]]]]]]:
    folder = tmp_path_factory.mktemp("fhir")
    return folder / "lake", make_warehouse(folder / "lake", folder / "work")


def test_all_resources_are_valid_and_complete(lake, tmp_path: Path) -> None:
    root, nights = lake
    counts = export_fhir(root, tmp_path / "fhir")
    found = read(tmp_path / "fhir")
    assert set(found) == set(TYPES) and {kind: len(rows) for kind, rows in found.items()} == {
        kind: counts[kind] for kind in TYPES
    }
    last = {row["document_id"]: night for night, rows in nights for row in rows["documents"]}
    documents = {
        row["document_id"]: row
        for night, rows in nights
        for row in rows["documents"]
        if last[row["document_id"]] == night
    }
    entities = {
        row["entity_id"]: row for night, rows in nights for row in rows["entities"] if last[row["document_id"]] == night
    }
    assert {one["id"] for one in found["DocumentReference"]} == set(documents)
    for one in found["DocumentReference"]:
        text = base64.b64decode(one["content"][0]["attachment"]["data"]).decode("utf-8")
        assert text == documents[one["id"]]["text"]

    stated = {key: row for key, row in entities.items() if not (row["family"] or row["hypothetical"])}
    for kind, label in (("Condition", "DISEASE"), ("Observation", "SYMPTOM"), ("MedicationStatement", "DRUG")):
        assert {one["id"] for one in found[kind]} == {key for key, row in stated.items() if row["label"] == label}
    known = [row for row in entities.values() if row["label"] in ("DISEASE", "SYMPTOM", "DRUG")]
    assert counts["family"] == sum(row["family"] for row in known)
    assert counts["hypothetical"] == sum(row["hypothetical"] and not row["family"] for row in known)
    assert counts["other_labels"] == len(entities) - len(known)

    for one in found["Condition"]:
        row = entities[one["id"]]
        code = lambda name, one=one: one.get(name, {}).get("coding", [{}])[0].get("code")  # noqa: E731
        assert code("verificationStatus") == (
            "refuted" if row["negated"] else "unconfirmed" if row["uncertain"] else None
        )
        assert code("clinicalStatus") == (None if row["negated"] else "inactive" if row["historical"] else "active")
        assert one["code"]["text"] == row["text"]
        if row["code"]:
            assert one["code"]["coding"] == [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "D86.9"}]
        for detail in one.get("evidence", []):
            symptom = entities[detail["detail"][0]["reference"].removeprefix("Observation/")]
            assert symptom["label"] == "SYMPTOM" and symptom["document_id"] == row["document_id"]
    assert any("evidence" in one for one in found["Condition"])
    for one in found["Observation"]:
        row = entities[one["id"]]
        assert one.get("valueBoolean") == (False if row["negated"] else None if row["uncertain"] else True)
        assert ("effectiveDateTime" in one) == (
            documents[row["document_id"]]["authored_at"] is not None and not row["historical"]
        )
    for one in found["MedicationStatement"]:
        assert one["status"] == ("not-taken" if entities[one["id"]]["negated"] else "unknown")

    ids = {f"{kind}/{one['id']}" for kind in TYPES for one in found[kind]}
    assert {one["target"][0]["reference"] for one in found["Provenance"]} == {
        f"{kind}/{one['id']}" for kind in ("Condition", "Observation", "MedicationStatement") for one in found[kind]
    }
    for one in found["Provenance"]:
        row = entities[one["id"]]
        source = one["entity"][0]
        assert source["what"]["reference"] in ids
        spans = [part["valueString"] for part in source["extension"] if part["url"].endswith("source-span")]
        parts = row["fragments"] or [row]
        assert spans == [f"char={part['start']},{part['end']}" for part in parts]
        assert one["recorded"] == "2026-02-01T01:00:00Z" and row["model"] in one["agent"][0]["who"]["display"]


def test_parts_become_elements(tmp_path: Path) -> None:
    rows = rows_of("a.txt", 1, entities=0)
    text = "severe pain in the left knee; sodium 140 mmol/L; aspirin 100 mg daily; Mother: pain"
    document = rows["documents"][0] | {"text": text, "patient_id": "p 1/ä", "encounter_id": "e1", "authored_at": None}
    example = rows_of("a.txt", 1)["entities"][0]
    rows["documents"] = [document]

    def entity(words: str, label: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
        start = text.index(words)
        made = {"entity_id": f"{label.lower()}-{start}", "document_id": document["document_id"], "start": start, "end": start + len(words),
                "text": words, "label": label, "parent_entity_id": parent, "negated": False, "fragments": None}  # fmt: skip
        return example | made | more

    pain = entity("severe pain in the left knee", "SYMPTOM")
    rows["entities"] = [
        pain, entity("severe", "SEVERITY", pain["entity_id"]), entity("left knee", "ANATOMY", pain["entity_id"]),
        entity("sodium", "TEST"), entity("140 mmol/L", "LAB_VALUE"), entity("aspirin", "DRUG"), entity("100 mg daily", "DOSAGE"),
        entity("knee", "TEST"),
    ]  # fmt: skip
    relation = rows_of("a.txt", 1)["relations"][0] | {"document_id": document["document_id"]}
    by_label = {row["label"]: row["entity_id"] for row in rows["entities"] if row["text"] != "knee"}
    rows["relations"] = [
        relation | {"relation_id": f"r{n}", "type": "any", "head_entity_id": by_label[head], "tail_entity_id": by_label[tail], "negated": no}
        for n, (head, tail, no) in enumerate(
            [("TEST", "LAB_VALUE", False), ("DRUG", "DOSAGE", False), ("SYMPTOM", "DOSAGE", False), ("DRUG", "ANATOMY", True)]
        )
    ]  # fmt: skip
    rows["summaries"] = []
    publish_partition(replace(publish_input(tmp_path / "lake", tmp_path / "w", rows), partition=NIGHTS[0]))
    counts = export_fhir(tmp_path / "lake", tmp_path / "fhir")
    found = read(tmp_path / "fhir")
    assert counts["other_labels"] == 5  # four that are parts, and the test without a value
    observations = {one["code"]["text"]: one for one in found["Observation"]}
    assert set(observations) == {pain["text"], "sodium"}
    assert observations[pain["text"]]["bodySite"] == {"text": "left knee"}
    assert observations["sodium"]["valueString"] == "140 mmol/L"
    assert found["MedicationStatement"][0]["dosage"] == [{"text": "100 mg daily"}]
    assert found["MedicationStatement"][0]["subject"] == {"type": "Patient", "identifier": {"value": "p 1/ä"}}
    assert found["MedicationStatement"][0]["context"] == {"reference": "Encounter/e1"}
    assert "date" not in found["DocumentReference"][0]


def test_ids_systems_and_strings() -> None:
    assert reference("Patient", "a-1.B") == {"reference": "Patient/a-1.B"}
    assert reference("Patient", "x" * 65) == {"type": "Patient", "identifier": {"value": "x" * 65}}
    assert reference("Patient", " ") is None and reference("Patient", None) is None
    assert system_uri("SNOMED CT") == "http://snomed.info/sct" and system_uri("local") is None
    assert system_uri("urn:oid:1.2.3") == "urn:oid:1.2.3" and system_uri(None) is None
    assert plain("a\x00b\tc ") == "a b\tc" and plain(" \x07") is None
    assert EXTENSION.endswith("/")
