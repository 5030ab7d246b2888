"""The catalogue: a DuckDB file of views over a warehouse, for people who write SQL.

It holds no row. Each view of a table reads the Parquet files that the manifests name, when it is asked: what is
published later is seen without making the catalogue again. Partitions that earlier versions of a contract made read as
today's. The comments of views and columns are those of the contracts.

The file holds the warehouse's absolute path or URL; after a move, make it again. Who opens the catalogue of a store
gives DuckDB what it needs to read there: its extension httpfs, or fsspec's file system.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.errors import MedpipeError
from medpipe.export.views import DERIVED
from medpipe.lake import contracts, files, warehouse
from medpipe.lake.migrations import MIGRATIONS
from medpipe.storage import as_store

if TYPE_CHECKING:
    import duckdb

FILE = "catalog.duckdb"
# DuckDB's names of the contracts' types.
SQL_TYPES = {
    "string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT", "double": "DOUBLE",
    "boolean": "BOOLEAN", "timestamp_tz": "TIMESTAMPTZ",
}  # fmt: skip
PARTITION = "Partition in which the row lies."
LATEST = "Where a note was processed in several partitions: its rows of the last one."


@dataclass(frozen=True, slots=True)
class View:
    """A view: what it selects, what a row of it is, and what its columns mean."""

    name: str
    sql: str
    comment: str
    columns: Mapping[str, str]


def write_catalog(root: Path, out: Path | None = None) -> dict[str, Any]:
    """Writes the catalogue of a warehouse, or replaces it.

    Args:
        root: the warehouse.
        out: the file; ``catalog.duckdb`` in the warehouse if not given.

    Returns:
        ``catalog``, the path, and ``views``, their names.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where nothing was published; DISK_FULL, PERMISSION_DENIED.
    """
    if not warehouse.partitions(root):
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason="no partition at all")
    path = out or root / FILE
    made = list(views(root))
    with files.written_aside(path) as aside, connect(aside, root) as catalog:
        for view in made:
            add_view(catalog, view)
        catalog.close()  # before it is renamed
    return {"catalog": str(path), "views": [view.name for view in made]}


def open_catalog(root: Path) -> duckdb.DuckDBPyConnection:
    """Returns a catalogue in memory: what exports read."""
    if not warehouse.partitions(root):
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason="no partition at all")
    catalog = connect(":memory:", root)
    # Sorting spills to the disk beyond this; the files go when the connection is closed.
    spill = Path(tempfile.gettempdir()) / f"medpipe-duckdb-{os.getpid()}"
    catalog.execute(f"SET memory_limit = '1GB'; SET temp_directory = {literal(str(spill))}")
    for view in views(root):
        add_view(catalog, view)
    return catalog


def connect(path: Path | str, root: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Opens DuckDB with times in UTC and nothing that reaches beyond the machine and the warehouse's store."""
    import duckdb

    settings: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    connection = duckdb.connect(str(path), config=settings)
    connection.execute("SET TimeZone = 'UTC'")
    if (store := as_store(root)) is not None:
        connection.register_filesystem(store.fs)
    return connection


def add_view(catalog: duckdb.DuckDBPyConnection, view: View) -> None:
    """Creates a view with its comments."""
    catalog.execute(f"CREATE OR REPLACE VIEW {view.name} AS {view.sql}")
    catalog.execute(f"COMMENT ON VIEW {view.name} IS {literal(view.comment)}")
    for column, meaning in view.columns.items():
        catalog.execute(f"COMMENT ON COLUMN {view.name}.{name(column)} IS {literal(meaning)}")


def views(root: Path) -> Iterator[View]:
    """Yields the views of a warehouse, each after those that it reads."""
    absolute = root.resolve()
    yield View(
        "manifests",
        "SELECT partition::DATE AS dt, tables"
        f" FROM read_json({literal(escape_glob(absolute) + '/_manifests/dt=*.json')},"
        " columns = {'partition': 'VARCHAR', 'tables': 'JSON'})",
        "What was published: the files of every partition.",
        {"dt": "Partition.", "tables": "Path, rows, bytes, hash and schema version of the file of every table."},
    )
    for table in contracts.TABLES:
        yield table_view(absolute, table)
    for table in ("documents", "sections", "entities", "relations", "summaries"):
        meanings = {column["name"]: column["description"] for column in contracts.properties(table)}
        sql = (
            f"SELECT * FROM {table} SEMI JOIN"
            " (SELECT document_id, max(dt) AS dt FROM documents GROUP BY ALL) USING (document_id, dt)"
        )
        yield View(f"latest_{table}", sql, f"{purpose(table)} {LATEST}", meanings | {"dt": PARTITION})
    for derived in DERIVED:
        yield View(*derived)


def table_view(root: Path, table: str) -> View:
    """Returns the view of a table: the rows of its published files, with the columns of today's contract and ``dt``.

    Columns that no file has yet are null: the first, empty part of the union gives names and types to all.
    """
    columns = contracts.properties(table)
    typed = ", ".join(f"NULL::{sql_type(column['physicalType'])} AS {name(column['name'])}" for column in columns)
    listed = ", ".join(name(column["name"]) for column in columns)
    glob = literal(f"{escape_glob(root)}/{table}/v*/dt=*/*.parquet")
    published = f"SELECT {literal(str(root) + '/')} || json_extract_string(tables, '$.{table}.path') FROM manifests"
    sql = f"""
        WITH rows AS (
            SELECT {typed}, NULL::DATE AS dt, NULL::VARCHAR AS filename WHERE false
            UNION ALL BY NAME
            SELECT * FROM read_parquet({glob}, union_by_name = true, hive_types = {{'dt': DATE}}, filename = true)
            WHERE filename IN ({published})
        )
        SELECT {listed}, dt FROM {migrated(table, "rows")}"""
    meanings = {column["name"]: column["description"] for column in columns}
    return View(table, sql, purpose(table), meanings | {"dt": PARTITION})


def migrated(table: str, rows: str) -> str:
    """Returns the SQL that makes today's rows of ``rows``, each of the major version that its file's path has."""
    changes = [MIGRATIONS[table, number].columns for number in range(1, contracts.major(table))]
    for number, columns in enumerate(changes, 1):
        of_it = f"contains(filename, '/{table}/v{number}/')"
        replaced = ", ".join(
            f"CASE WHEN {of_it} THEN {sql} ELSE {name(key)} END AS {name(key)}" for key, sql in columns.items()
        )
        after = literal(f"/{table}/v{number + 1}/")
        renamed = (
            f"CASE WHEN {of_it} THEN replace(filename, '/{table}/v{number}/', {after}) ELSE filename END AS filename"
        )
        version = literal(contracts.current_version(table))
        stamped = f"CASE WHEN {of_it} THEN {version} ELSE schema_version END AS schema_version"
        rows = f"(SELECT * REPLACE ({replaced}, {stamped}, {renamed}) FROM {rows})"
    return rows


def purpose(table: str) -> str:
    """Returns what a row of a table is, as its contract says."""
    return str(contracts.load_contract(table)["schema"][0]["description"])


def sql_type(written: str) -> str:
    """Returns DuckDB's type of one that a contract names."""
    if written in SQL_TYPES:
        return SQL_TYPES[written]
    if written.startswith("list<"):
        return f"{sql_type(written[5:-1])}[]"
    fields = (field.split(": ", 1) for field in written.removeprefix("struct<").removesuffix(">").split(", "))
    return f"STRUCT({', '.join(f'{name(field)} {sql_type(kind)}' for field, kind in fields)})"


def name(identifier: str) -> str:
    """Returns a quoted name: ``end`` and ``table`` are words of SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Returns a string as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def escape_glob(path: Path) -> str:
    """Returns a path in which no character stands for others."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in str(path))
