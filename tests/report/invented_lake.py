"""A warehouse of several invented partitions, published as the line publishes."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpipe.ids import hash_text, make_id
from medpipe.lake import contracts
from medpipe.lake.publish import PublishInput, publish_partition
from tests.lake.invented import write_chunks

DISEASES = {
    "asthma": "J45.909",
    "copd": "J44.9",
    "pneumonia": "J18.9",
    "heart failure": "I50.9",
    "type 2 diabetes": "E11.9",
    "migraine": "G43.909",
}
SYMPTOMS = {
    "cough": "R05.9",
    "wheezing": "R06.2",
    "dyspnea": "R06.0",
    "fever": "R50.9",
    "edema": "R60.9",
    "fatigue": "R53.83",
    "headache": "R51.9",
}
OF = {
    "asthma": ("wheezing", "cough", "dyspnea"), "copd": ("dyspnea", "cough"), "pneumonia": ("fever", "cough"),
    "heart failure": ("edema", "dyspnea"), "type 2 diabetes": ("fatigue",), "migraine": ("headache",),
}  # fmt: skip
OTHERS = {
    "DRUG": "salbutamol",
    "DOSAGE": "100 mcg twice daily",
    "TEST": "chest X-ray",
    "ANATOMY": "left lung",
    "AGE": "54-year-old",
    "SEX": "woman",
}


def partition_rows(day: str, notes: int, *, drifted: bool = False, seed: int = 3) -> dict[str, list[dict[str, Any]]]:
    """Rows of a partition: each note has a disease, some of its symptoms, a few other things; ``drifted`` has more drugs, less sure."""
    draw = random.Random(f"{seed}{day}")
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in contracts.TABLES}
    for number in range(notes):
        disease = draw.choice(list(DISEASES))
        symptoms = [one for one in OF[disease] if draw.random() < 0.8]
        others = [
            label for label in OTHERS if draw.random() < (0.9 if drifted and label in ("DRUG", "DOSAGE") else 0.4)
        ]
        text = f"Patient {number} has {disease} with {' and '.join(symptoms)}. " + ". ".join(
            OTHERS[one] for one in others
        )
        document = make_id("document", "notes.ndjson", str(number), None, hash_text(text))
        rows["documents"].append({
            "document_id": document, "source": "notes.ndjson", "record": f"line {number}", "format": "ndjson", "patient_id": f"p{number % 40}",
            "encounter_id": None, "note_type": draw.choice(["Progress note", "Discharge summary"]), "note_type_code": None,
            "note_status": None, "authored_at": datetime(2026, 1, 30, tzinfo=UTC), "authored_at_text": None, "media_type": None,
            "encoding": "utf-8", "language": "en", "text": text, "text_hash": hash_text(text), "n_chars": len(text), "status": "processed",
            "n_sections": 0, "n_entities": 0, "n_relations": 0, "n_summaries": 0, "run_id": "r-ingest",
        })  # fmt: skip
        found: dict[str, str] = {}
        mentions = (
            [(disease, "DISEASE", DISEASES[disease])]
            + [(one, "SYMPTOM", SYMPTOMS[one]) for one in symptoms]
            + [(OTHERS[one], one, None) for one in others]
        )
        for words, label, code in mentions:
            start = text.index(words)
            score = min(0.999, max(0.01, draw.betavariate(3, 2) if drifted else draw.betavariate(8, 2)))
            found[words] = make_id("entity", document, "tagger@1", start, start + len(words), label)
            rows["entities"].append({
                "entity_id": found[words], "document_id": document, "patient_id": f"p{number % 40}", "section_id": None, "start": start,
                "end": start + len(words), "text": words, "label": label, "subtype": None, "score": score, "parent_entity_id": None,
                "depth": 0, "fragments": None, "negated": label == "SYMPTOM" and draw.random() < 0.2, "uncertain": False,
                "hypothetical": False, "historical": False, "family": False, "code_system": "ICD-10-CM" if code else None, "code": code,
                "code_score": 0.95 if code else None, "model": "tagger@1", "run_id": "r-tag",
            })  # fmt: skip
        negated = {row["entity_id"] for row in rows["entities"] if row["negated"]}
        for one in symptoms:
            rows["relations"].append({
                "relation_id": make_id("relation", document, "relations@1", "has_symptom", found[disease], found[one]),
                "document_id": document, "patient_id": f"p{number % 40}", "type": "has_symptom", "head_entity_id": found[disease],
                "tail_entity_id": found[one], "score": 0.8, "negated": found[one] in negated, "evidence_start": 0,
                "evidence_end": text.index("."), "sentence_distance": 0, "model": "relations@1", "run_id": "r-relate",
            })  # fmt: skip
    for number, code in enumerate(["OCR_NEEDED", "OCR_NEEDED", "TEXT_EMPTY"]):
        rows["quarantine"].append({
            "record_id": make_id("quarantine", "scans", str(number), "ingest", code), "source": "scans", "record": str(number),
            "document_id": None, "stage": "ingest", "code": code, "message": "…", "remedy": "…", "attempt": 1, "run_id": "r-ingest",
        })  # fmt: skip
    seconds = {"ingest": 0.5, "tag": 8.0, "relate": 4.0, "summarize": 16.0}
    written = {"ingest": "documents", "tag": "entities", "relate": "relations", "summarize": "summaries"}
    for hour, stage in enumerate(seconds):
        counts = {"candidates_cut": 12.0} if stage == "relate" else {}
        if stage != "ingest":
            counts |= {"tokens": 40.0 * notes, "padded_tokens": 50.0 * notes}
        rows["runs"].append({
            "run_id": f"r-{stage}", "stage": stage, "partition": day, "started_at": datetime(2026, 2, 1, hour, tzinfo=UTC),
            "finished_at": datetime(2026, 2, 1, hour, 30, tzinfo=UTC), "code_version": "0.1.0",
            "model_name": None if stage == "ingest" else f"{stage}-model", "weights_hash": None if stage == "ingest" else "0" * 32,
            "schema_versions": [], "device": "cpu", "rows_in": notes, "rows_out": len(rows[written[stage]]),
            "rejects": 3 if stage == "ingest" else 0, "seconds": seconds[stage], "peak_memory_mb": 700.0, "gpu_fragmentation": None,
            "gpu_busy": None, "tokens_per_s": None, "useful_tokens": None,
            "counts": [{"name": name, "value": value} for name, value in counts.items()],
        })  # fmt: skip
    return rows


def publish(root: Path, day: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    funnel = {
        "sources": 2, "records": len(rows["documents"]) + 5, "not_notes": 2, "not_a_note:Patient": 2, "rejected": 3,
        "rejected:OCR_NEEDED": 2, "rejected:TEXT_EMPTY": 1, "documents": len(rows["documents"]), "unchanged": 0,
    }  # fmt: skip
    facts = {
        "fingerprint": {"code": "0.1.0", "schemas": {"documents": "1.1.0"}},
        "sources": {"notes.ndjson": "d"},
        "funnel": funnel,
    }
    sources = frozenset({"notes.ndjson", "scans"})
    work = root.parent / f"work-{day}"
    publish_partition(
        PublishInput(warehouse=root, partition=day, tables=write_chunks(work, rows, 1), sources=sources, facts=facts)
    )


def fortnight(root: Path, *, days: int = 6, notes: int = 60) -> Path:
    """Publishes ``days`` partitions that are alike and a last one that is not."""
    for number in range(days):
        day = f"2026-01-{25 + number}"
        publish(root, day, partition_rows(day, notes, drifted=number == days - 1))
    return root
