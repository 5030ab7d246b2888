"""The contracts of the tables: one YAML file a version, in the form of the Open Data Contract Standard 3.1.

``schemas/<table>/<major.minor.patch>.yaml`` is the only place where a column is named; the Arrow schema, the checks
and the documentation are derived from it.

``physicalType`` is the Arrow type as Arrow writes it, but ``boolean`` and ``timestamp_tz`` (microseconds, UTC), the
names under which datacontract-cli knows them. For the same reason a list of structs has no ``items``: datacontract-cli
1.2.8 makes a DuckDB type of them and does not quote the names, and ``end`` and ``table`` are words of SQL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from medpipe.errors import MedpipeError

TABLES = ("documents", "sections", "entities", "relations", "summaries", "quarantine", "runs")
VERSION_KEY = b"medpipe.schema_version"

PRIMITIVES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp_tz": pa.timestamp("us", tz="UTC"),
}


def schema_root() -> Path:
    """Returns the folder of the contracts: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


# --- versions -------------------------------------------------------------------------------


def versions(table: str) -> list[str]:
    """Returns the versions of a table's contract, oldest first.

    Raises:
        MedpipeError: CONTRACT_UNKNOWN.
    """
    found = [path.stem for path in (schema_root() / table).glob("*.yaml")] if table in TABLES else []
    if not found:
        raise MedpipeError("CONTRACT_UNKNOWN", name=table)
    return sorted(found, key=version_numbers)


def version_numbers(version: str) -> tuple[int, ...]:
    """Returns ``(major, minor, patch)``."""
    return tuple(int(part) for part in version.split("."))


@cache
def current_version(table: str) -> str:
    """Returns the newest version of a table's contract."""
    return versions(table)[-1]


def major(table: str) -> int:
    """Returns the major version of a table: it stands in the path of its files."""
    return version_numbers(current_version(table))[0]


@cache
def load_contract(table: str, version: str | None = None) -> dict[str, Any]:
    """Returns a contract as the YAML has it; the newest where no version is given.

    Raises:
        MedpipeError: CONTRACT_UNKNOWN.
    """
    wanted = version or current_version(table)
    path = schema_root() / table / f"{wanted}.yaml"
    if table not in TABLES or not path.is_file():
        raise MedpipeError("CONTRACT_UNKNOWN", name=f"{table} {wanted}")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def properties(table: str, version: str | None = None) -> list[dict[str, Any]]:
    """Returns the columns of a contract, as the standard describes them."""
    return list(load_contract(table, version)["schema"][0]["properties"])


# --- Arrow ----------------------------------------------------------------------------------


def parse_type(written: str) -> pa.DataType:
    """Returns the Arrow type that is written ``int32``, ``list<…>`` or ``struct<name: type, …>``."""
    if written in PRIMITIVES:
        return PRIMITIVES[written]
    if match := re.fullmatch(r"list<(.*)>", written):
        return pa.list_(parse_type(match.group(1)))
    if match := re.fullmatch(r"struct<(.*)>", written):
        pairs = [field.split(": ", 1) for field in re.split(r", (?=\w+: )", match.group(1))]
        return pa.struct([(name, parse_type(kind)) for name, kind in pairs])
    raise ValueError(f"no Arrow type {written!r}")


@cache
def arrow_schema(table: str, version: str | None = None) -> pa.Schema:
    """Returns the Arrow schema of a table: columns in order, nullability, descriptions, version."""
    fields = [
        pa.field(
            column["name"],
            parse_type(column["physicalType"]),
            nullable=not column.get("required", False),
            metadata={"description": column["description"]},
        )
        for column in properties(table, version)
    ]
    return pa.schema(fields, metadata={VERSION_KEY: (version or current_version(table)).encode()})


def empty_table(table: str) -> pa.Table:
    """Returns the table without rows."""
    return arrow_schema(table).empty_table()


def conform(table: str, data: pa.Table | Mapping[str, list[Any]]) -> pa.Table:
    """Returns ``data`` as a table of exactly the contract: columns ordered, types cast, ``schema_version`` filled in.

    Raises:
        MedpipeError: CONTRACT_BROKEN where a column is missing or unknown, does not fit its type, or holds a null that
            the contract forbids. The message names the column, never a value.
    """
    schema = arrow_schema(table)
    given = set(data.column_names if isinstance(data, pa.Table) else data)
    wrong = (given | {"schema_version"}) ^ set(schema.names)
    if wrong:
        reason = f"columns missing or unknown: {', '.join(sorted(wrong))}"
        raise MedpipeError("CONTRACT_BROKEN", table=table, reason=reason)
    size = len(data[schema.names[0]])
    columns = []
    for field in schema:
        if field.name == "schema_version":
            columns.append(pa.repeat(pa.scalar(current_version(table), pa.string()), size))
            continue
        values: Any = data[field.name]
        try:
            column = values.cast(field.type) if isinstance(data, pa.Table) else pa.array(values, field.type)
        except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError) as error:
            reason = f"{field.name} is no {field.type} ({type(error).__name__})"
            raise MedpipeError("CONTRACT_BROKEN", table=table, reason=reason) from None  # the cause quotes values
        if len(column) != size:
            raise MedpipeError("CONTRACT_BROKEN", table=table, reason=f"{field.name} has {len(column)} of {size} rows")
        if not field.nullable and column.null_count:
            raise MedpipeError("CONTRACT_BROKEN", table=table, reason=f"{field.name} holds {column.null_count} nulls")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def upgrade(table: str, data: pa.Table) -> pa.Table:
    """Returns rows of an earlier minor version as rows of the current one: the columns that came later are null.

    ``schema_version`` stays what it was when the row was written.
    """
    schema = arrow_schema(table)
    if data.schema.equals(schema):
        return data
    columns = [
        data[field.name].cast(field.type) if field.name in data.column_names else pa.nulls(len(data), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


# --- change ---------------------------------------------------------------------------------


def fingerprint(table: str, version: str | None = None) -> str:
    """Returns a hash of all that a reader of the table relies on: names, types, nullability, order, keys, meaning.

    ``schemas/fingerprints.json`` holds it for every released version; a change without a new version fails the tests.
    """
    kept = ("name", "physicalType", "required", "primaryKey", "description", "quality", "logicalTypeOptions")
    facts = [{key: column.get(key) for key in kept} for column in properties(table, version)]
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def released_fingerprints() -> dict[str, dict[str, str]]:
    """Returns the committed fingerprints: table -> version -> hash."""
    return dict(json.loads((schema_root() / "fingerprints.json").read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Change:
    """What a difference between two contracts means: ``level`` is ``none``, ``patch``, ``minor`` or ``major``."""

    level: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.level, *(f"  {reason}" for reason in self.reasons)])


def diff(table: str, old: str, new: str) -> Change:
    """Returns what changed from one version of a contract to another; see ``compare``."""
    return compare(properties(table, old), properties(table, new))


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Change:
    """Compares the columns of two contracts.

    Major: a column is gone (or renamed), has another type, became required or optional, or means something else: the
    description of a key, an id or an offset changed, or fewer values are allowed. Minor: a nullable column is new, or
    more values are allowed. Patch: other words.
    """
    found = list(_differences({one["name"]: one for one in old}, {one["name"]: one for one in new}))
    order = ("none", "patch", "minor", "major")
    level = max((level for level, _ in found), key=order.index, default="none")
    return Change(level, tuple(f"{level}: {reason}" for level, reason in found))


def _differences(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, column in old.items():
        if name not in new:
            yield "major", f"{name} is gone"
            continue
        now = new[name]
        if column["physicalType"] != now["physicalType"]:
            yield "major", f"{name} was {column['physicalType']} and is {now['physicalType']}"
        if column.get("required") != now.get("required"):
            yield "major", f"{name} became {'required' if now.get('required') else 'optional'}"
        if column["description"] != now["description"]:
            yield ("major" if _means_place(column) else "patch"), f"{name} is described otherwise"
        if column.get("logicalTypeOptions") != now.get("logicalTypeOptions"):
            yield "major", f"{name} has another range"
        before, after = _valid_values(column), _valid_values(now)
        if before != after:
            yield (
                ("minor" if before is not None and after is not None and before < after else "major"),
                f"{name} allows other values",
            )
    for name, column in new.items():
        if name not in old:
            yield ("major" if column.get("required") else "minor"), f"{name} is new"
    kept = [name for name in old if name in new]
    if kept != [name for name in new if name in old]:
        yield "patch", "the order of columns changed"


def _means_place(column: dict[str, Any]) -> bool:
    """Says whether a column is an id or an offset, whose description is its meaning."""
    name = column["name"]
    return bool(column.get("primaryKey")) or name.endswith("_id") or bool(re.search(r"(^|_)(start|end)$", name))


def _valid_values(column: dict[str, Any]) -> set[str] | None:
    for rule in column.get("quality", ()):
        if rule.get("metric") == "invalidValues":
            return set(rule["arguments"]["validValues"])
    return None
