"""An invented warehouse of two nights: half of the first night's notes are processed again by another model."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpipe.ids import hash_text, make_id
from medpipe.lake import contracts
from medpipe.lake.publish import publish_partition
from medpipe.records import ASSERTIONS
from tests.lake.invented import publish_input, rows_of

NIGHTS = ("2026-01-30", "2026-01-31")
MENTIONS = {
    "DISEASE": ["sarcoidosis", "Sarcoidosis", "asthma", "type 2 diabetes"],
    "SYMPTOM": ["cough", "dry cough", "fever", "rash"],
    "DRUG": ["metformin", "aspirin"],
    "ANATOMY": ["skin"],
}
CODES = {"sarcoidosis": "D86.9", "Sarcoidosis": "D86.9", "cough": "R05.9"}

Rows = dict[str, list[dict[str, Any]]]


def make_rows(source: str, numbers: range, model: str, seed: int) -> Rows:
    """Rows of notes with mentions drawn by chance, relations, summaries; note ``n`` has the same text in every night."""
    tables: Rows = {table: [] for table in contracts.TABLES}
    example = rows_of("x", 1)
    for number in numbers:
        words, chance = random.Random(number), random.Random(seed * 1000 + number)
        named = [
            (label, words.choice(MENTIONS[label])) for label in words.choices(list(MENTIONS), k=words.randrange(7))
        ]
        text = f"Note {number}, <é> 🩺.\n" + " and\n".join(word for _, word in named) + " end"
        document = make_id("document", source, str(number), None, hash_text(text))
        patient = f"p{number % 5}" if number % 7 else None
        mine = {"document_id": document, "patient_id": patient, "model": model}
        section = make_id("section", document)
        tables["sections"].append(
            example["sections"][0]
            | mine
            | {"section_id": section, "end": len(text), "name": words.choice(["body", "plan"])}
        )
        entities, place = [], text.index("\n") + 1
        for label, word in named:
            if chance.random() < 0.85:
                flags = {name: chance.random() < 0.2 for name in ASSERTIONS}
                entities.append(example["entities"][0] | mine | flags | {
                    "entity_id": make_id("entity", document, model, place), "section_id": section, "start": place,
                    "end": place + len(word), "text": word, "label": label, "fragments": None,
                    "code": CODES.get(word), "code_system": "ICD-10-CM" if word in CODES else None,
                    "code_score": 0.9 if word in CODES else None, "score": round(chance.random(), 2),
                })  # fmt: skip
            place += len(word) + 5
        for outer in entities[1:2]:  # one mention in another, and one in two pieces
            inner = outer | {"entity_id": make_id("entity", document, model, "inner"), "label": "ANATOMY", "end": outer["start"] + 2,
                             "text": outer["text"][:2], "parent_entity_id": outer["entity_id"], "depth": 1, "code": None}  # fmt: skip
            entities.append(inner)
            outer["fragments"] = [
                {"start": outer["start"], "end": outer["start"] + 1},
                {"start": outer["end"] - 1, "end": outer["end"]},
            ]
        tables["entities"] += entities
        for disease in (one for one in entities if one["label"] == "DISEASE"):
            for symptom in (one for one in entities if one["label"] == "SYMPTOM"):
                if chance.random() < 0.7:
                    tables["relations"].append(example["relations"][0] | mine | {
                        "relation_id": make_id("relation", disease["entity_id"], symptom["entity_id"]),
                        "head_entity_id": disease["entity_id"], "tail_entity_id": symptom["entity_id"],
                        "score": round(chance.random(), 2), "negated": disease["negated"] or symptom["negated"],
                        "evidence_end": len(text),
                    })  # fmt: skip
        made = None if number % 4 == 0 else 0
        tables["summaries"].append(example["summaries"][0] | mine | {
            "summary_id": make_id("summary", document, model), "entity_ids": [], "n_repaired": number % 2,
            "tokens": [{"start": 0, "end": 4, "source_start": made, "source_end": made and 4, "probability": 0.5}],
        })  # fmt: skip
        tables["documents"].append(example["documents"][0] | {
            "document_id": document, "source": source, "record": str(number), "patient_id": patient, "text": text,
            "text_hash": hash_text(text), "n_chars": len(text), "language": "en",
            "authored_at": datetime(2026, 1, 1 + number % 20, 8, tzinfo=UTC) if number % 6 else None,
            "status": "processed" if number % 9 else "unsupported_language",
        })  # fmt: skip
    tables["quarantine"] = [
        example["quarantine"][0]
        | {"record_id": make_id("q", source, n), "source": source, "record": str(n), "code": code}
        for n, code in enumerate(["TEXT_EMPTY", "OCR_NEEDED", "OCR_NEEDED"])
    ]
    tables["runs"] = [row | {"run_id": f"{row['run_id']}"} for row in example["runs"]]
    return tables


def make_warehouse(root: Path, work: Path) -> list[tuple[str, Rows]]:
    """Publishes the two nights and returns their rows."""
    nights = [make_rows("a.ndjson", range(1, 41), "tagger@1", 1), make_rows("a.ndjson", range(20, 60), "tagger@2", 2)]
    for night, rows in zip(NIGHTS, nights, strict=True):
        publish_partition(replace(publish_input(root, work / night, rows), partition=night))
    return list(zip(NIGHTS, nights, strict=True))
