"""The JSON Schema of what ``medpipe run --json`` prints: the envelope, and in it rows as the contracts have them.

``schemas/medpipe.run.1.json`` is the first promise of the major version: later ones may add keys, so readers must
ignore those that they do not know; a key that is there keeps its type and its meaning (a test compares).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from medpipe.lake import contracts

RUN_JSON = "medpipe.run/1"  # name and major version
ROWS = {"sections": "section", "entities": "entity", "relations": "relation"}


def run_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12) for the contracts of this version."""
    count = {"type": "integer", "minimum": 0}
    rows = {table: {"$ref": f"#/$defs/{name}"} for table, name in ROWS.items()}
    document = row_schema("documents")
    for table, row in rows.items():
        document["properties"][table] = {"type": "array", "items": row, "description": f"Rows of `{table}`."}
    summary = {"anyOf": [{"$ref": "#/$defs/summary"}, {"type": "null"}], "description": "Row of `summaries`."}
    document["properties"]["summary"] = summary
    document["required"] += [*rows, "summary"]
    envelope = {
        "schema": {"const": RUN_JSON, "description": "Name and major version of this schema."},
        "warehouse": {"type": "string", "description": "Where the tables lie."},
        "partition": {"type": "string", "format": "date", "description": "Partition, YYYY-MM-DD."},
        "sources": count | {"description": "Sources seen."},
        "unchanged": count | {"description": "Sources that the partition held already, not read again."},
        "rows": {
            "type": "object", "additionalProperties": count,
            "description": "Rows of each table of the partition; absent where there was nothing to do.",
        },
        "schema_versions": {
            "type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            "description": "Version of each table's contract; absent where there was nothing to do.",
        },
        "counts": {
            "type": "object", "additionalProperties": {"type": "number"},
            "description": "The funnel: records, documents, rejected, not_notes, …, rejected:CODE, not_a_note:KIND.",
        },
        "documents": {
            "type": "array", "items": {"$ref": "#/$defs/document"},
            "description": "Every note of the sources of this run, by source and place in it.",
        },
    }  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:medpipe:run:1",
        "title": "What `medpipe run --json` prints",
        "description": "Readers ignore keys that they do not know: later minor versions add some.",
        "type": "object",
        "properties": envelope,
        "required": [name for name in envelope if name not in ("rows", "schema_versions")],
        "$defs": {
            "document": document,
            **{name: row_schema(table) for table, name in ROWS.items()},
            "summary": row_schema("summaries"),
        },
    }


def row_schema(table: str) -> dict[str, Any]:
    """Returns the schema of a table's row: every column of its contract, with its meaning."""
    fields = contracts.arrow_schema(table)
    described = {field.name: (field.metadata or {}).get(b"description", b"").decode() for field in fields}
    return {
        "type": "object",
        "properties": {
            field.name: value_schema(field.type, nullable=field.nullable) | {"description": described[field.name]}
            for field in fields
        },
        "required": list(fields.names),
    }


def value_schema(kind: pa.DataType, *, nullable: bool) -> dict[str, Any]:
    """Returns the schema of a value of an Arrow type as JSON has it."""
    if pa.types.is_list(kind):
        made: dict[str, Any] = {"type": "array", "items": value_schema(kind.value_type, nullable=False)}
    elif pa.types.is_struct(kind):
        names = [field.name for field in kind]
        made = {"type": "object", "properties": {field.name: value_schema(field.type, nullable=True) for field in kind}}
        made["required"] = names
    elif pa.types.is_timestamp(kind):
        made = {"type": "string", "format": "date-time"}
    elif pa.types.is_boolean(kind):
        made = {"type": "boolean"}
    elif pa.types.is_integer(kind):
        made = {"type": "integer"}
    elif pa.types.is_floating(kind):
        made = {"type": "number"}
    else:
        made = {"type": "string"}
    return made | {"type": [made["type"], "null"]} if nullable else made
