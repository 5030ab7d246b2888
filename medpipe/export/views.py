"""The views of the catalogue that answer what analysts ask first: name, SQL, what a row is, what its columns mean."""

from __future__ import annotations

# The same concept: the same code, or where there is none, the same words.
CONCEPT = "coalesce({0}.code_system || ' ' || {0}.code, lower({0}.text))"

TIMELINE_SQL = f"""
    SELECT d.patient_id, coalesce(d.authored_at AT TIME ZONE 'UTC', d.dt) AS noted_at,
        d.authored_at IS NULL AS dated_by_partition, e.label, e.text AS mention,
        {CONCEPT.format("e")} AS concept,
        e.code_system, e.code, e.negated, e.uncertain, e.hypothetical, e.historical, e.family,
        NOT (e.negated OR e.uncertain OR e.hypothetical OR e.family) AS present,
        s.name AS section, d.note_type, e.score, e.entity_id, e.document_id, e.dt
    FROM latest_entities e
    JOIN latest_documents d USING (document_id, dt)
    LEFT JOIN latest_sections s ON s.section_id = e.section_id AND s.dt = e.dt
    WHERE e.label IN ('DISEASE', 'SYMPTOM', 'DRUG', 'PROCEDURE', 'TEST')"""

DISEASE_SYMPTOM_SQL = f"""
    SELECT {CONCEPT.format("d")} AS disease_concept, mode(lower(d.text)) AS disease,
        {CONCEPT.format("s")} AS symptom_concept, mode(lower(s.text)) AS symptom,
        count(DISTINCT r.patient_id) FILTER (NOT r.negated) AS patients,
        count(DISTINCT r.document_id) FILTER (NOT r.negated) AS notes,
        count(DISTINCT r.document_id) FILTER (r.negated) AS notes_negated,
        max(r.score) FILTER (NOT r.negated) AS best_score
    FROM latest_relations r
    JOIN latest_entities d ON d.entity_id = r.head_entity_id AND d.dt = r.dt
    JOIN latest_entities s ON s.entity_id = r.tail_entity_id AND s.dt = r.dt
    WHERE r.type = 'has_symptom' GROUP BY disease_concept, symptom_concept"""

DERIVED: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "patient_timeline",
        TIMELINE_SQL,
        "A mention of a disease, symptom, drug, procedure or test in a patient's notes, with the time of the note.",
        {
            "patient_id": "As in `documents`; null where the source tells none.",
            "noted_at": "When the note was written, UTC; midnight of the partition where the source does not tell.",
            "dated_by_partition": "The source does not tell when the note was written.",
            "label": "Kind of concept.",
            "mention": "The mention as written.",
            "concept": "Code system and code; the mention in lower case where it has no code.",
            "present": "Said of the patient and not negated, uncertain or hypothetical; it may lie in the past.",
            "section": "Canonical name of the innermost section.",
            "note_type": "Type of the note as the source names it.",
            "entity_id": "Key of `entities`.",
            "document_id": "Key of `documents`.",
            "dt": "Partition in which the row lies.",
        },
    ),
    (
        "disease_symptom",
        DISEASE_SYMPTOM_SQL,
        "A disease and a symptom that notes relate (has_symptom), over all notes.",
        {
            "disease_concept": "Code system and code of the disease; its words in lower case where it has no code.",
            "disease": "Its most frequent wording, in lower case.",
            "symptom_concept": "Code system and code of the symptom; its words in lower case where it has no code.",
            "symptom": "Its most frequent wording, in lower case.",
            "patients": "Patients of whom a note relates them; notes without a patient are not counted.",
            "notes": "Notes that relate them.",
            "notes_negated": "Notes that relate them, with one of the two negated or of the family.",
            "best_score": "Highest score of a relation that is not negated; null where all are.",
        },
    ),
)
