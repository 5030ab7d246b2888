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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from medpipe.errors import MedpipeError
from medpipe.lake.migrations import MIGRATIONS

TABLES = ("documents", "sections", "entities", "relations", "summaries", "quarantine", "runs")
VERSION_KEY = b"medpipe.schema_version"

LEVELS = ("none", "patch", "minor", "major")  # of a change

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
    """Returns rows of an earlier version as rows of the current one.

    Of an earlier minor version: the columns that came later are null, and ``schema_version`` stays what it was when the
    row was written. Of an earlier major one: by its migrations, and ``schema_version`` becomes the current, because the
    row says now what it means there.
    """
    schema = arrow_schema(table)
    if data.schema.equals(schema):
        return data
    written = version_of(table, data.schema)
    for number in range(version_numbers(written)[0], major(table)):
        data = MIGRATIONS[table, number].rows(data)
    migrated = version_numbers(written)[0] < major(table)
    columns = [
        pa.repeat(pa.scalar(current_version(table), pa.string()), len(data))
        if field.name == "schema_version" and migrated
        else data[field.name].cast(field.type)
        if field.name in data.column_names
        else pa.nulls(len(data), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def version_of(table: str, schema: pa.Schema) -> str:
    """Returns the version that a file's or table's schema names; the current where it names none."""
    return (schema.metadata or {}).get(VERSION_KEY, b"").decode() or current_version(table)


# --- change ---------------------------------------------------------------------------------


def fingerprint(table: str, version: str | None = None) -> str:
    """Returns a hash of all that a reader of the table relies on: names, types, nullability, order, keys, meaning.

    ``schemas/fingerprints.json`` holds it for every released version; a change without a new version fails the tests.
    """
    kept = ("name", "physicalType", "required", "primaryKey", "description", "quality", "logicalTypeOptions")
    facts = [
        {key: column.get(key) for key in kept}
        | {key: value for key, value in [("meaningSince", _meaning_since(column))] if value is not None}
        for column in properties(table, version)
    ]
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
    change = compare(properties(table, old), properties(table, new))
    if load_contract(table, old)["schema"][0]["description"] == load_contract(table, new)["schema"][0]["description"]:
        return change
    level = max(change.level, "patch", key=LEVELS.index)
    return Change(level, ("patch: what a row is, is described otherwise", *change.reasons))


def declared(old: str, new: str) -> str:
    """Returns what two version numbers say of a change: ``none``, ``patch``, ``minor`` or ``major``."""
    names = ("major", "minor", "patch")
    pairs = zip(names, version_numbers(old), version_numbers(new), strict=True)
    return next((name for name, before, after in pairs if before != after), "none")


def review(tables: Sequence[str] = TABLES) -> list[str]:
    """Returns what is wrong with the versions of the contracts; empty where all is right.

    Each version must have its fingerprint, and a number that says no less than what changed since the one before; a new
    major version needs a migration.
    """
    problems = []
    released = released_fingerprints()
    for table in tables:
        known = versions(table)
        for version in sorted({*known, *released[table]}, key=version_numbers):
            if version not in known:
                problems.append(f"{table} {version} was released and is gone")
            elif version not in released[table]:
                problems.append(f"{table} {version} has no fingerprint in fingerprints.json")
            elif fingerprint(table, version) != released[table][version]:
                problems.append(f"{table} {version} was released and has changed: make it a new version")
        for old, new in pairwise(known):
            change, said = diff(table, old, new), declared(old, new)
            if LEVELS.index(said) < LEVELS.index(change.level):
                problems.append(f"{table} {new} is a {said} version of {old}, but {'; '.join(change.reasons)}")
            if said == "major" and (table, version_numbers(old)[0]) not in MIGRATIONS:
                problems.append(f"{table} {new} has no migration from {old}")
    return problems


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Change:
    """Compares the columns of two contracts.

    Major: a column is gone (or renamed), has another type, became required or optional, or means something else: the
    description of a key, an id or an offset changed, its ``meaningSince`` did, or fewer values are allowed; a required
    column is new. Minor: a nullable column is new, or more values are allowed. Patch: other words.

    What only a person can tell, that a column means something else though it looks the same, its contract says: the
    custom property ``meaningSince`` is the version since when it means what it does.
    """
    found = list(_differences({one["name"]: one for one in old}, {one["name"]: one for one in new}))
    level = max((level for level, _ in found), key=LEVELS.index, default="none")
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
        if _meaning_since(column) != _meaning_since(now):
            yield "major", f"{name} means something else"
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


def _meaning_since(column: dict[str, Any]) -> str | None:
    for custom in column.get("customProperties", ()):
        if custom["property"] == "meaningSince":
            return str(custom["value"])
    return None


def _means_place(column: dict[str, Any]) -> bool:
    """Says whether a column is an id or an offset, whose description is its meaning."""
    name = column["name"]
    return bool(column.get("primaryKey")) or name.endswith("_id") or bool(re.search(r"(^|_)(start|end)$", name))


def _valid_values(column: dict[str, Any]) -> set[str] | None:
    for rule in column.get("quality", ()):
        if rule.get("metric") == "invalidValues":
            return set(rule["arguments"]["validValues"])
    return None
