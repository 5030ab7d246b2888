"""CSV (RFC 4180, UTF-8, with a header): a file a table, for whoever has nothing that reads Parquet.

A null is an empty field and an empty text a pair of quotes; lists (fragments, tokens, counts) are JSON. Types get
lost on the way: ``medpipe schema show TABLE`` has them.
"""

from __future__ import annotations

from pathlib import Path

from medpipe.export.catalog import literal, name, open_catalog
from medpipe.export.folder import check_partitions, whole_folder
from medpipe.lake import contracts, warehouse


def export_csv(root: Path, out: Path, *, partition: str | None = None) -> dict[str, int]:
    """Writes every table of a warehouse as ``TABLE.csv``, partition by partition, with a column ``dt``.

    Args:
        root: the warehouse.
        out: the folder; it must not exist yet or be empty.
        partition: ``YYYY-MM-DD``; all if not given.

    Returns:
        How many rows each table has.

    Raises:
        MedpipeError: WAREHOUSE_INVALID, OUTPUT_EXISTS, DISK_FULL, PERMISSION_DENIED.
    """
    check_partitions(root, partition)
    where = f"WHERE dt = {literal(partition)}::DATE" if partition is not None else ""
    counts = {}
    with whole_folder(out) as folder, open_catalog(root) as catalog:
        for table in contracts.TABLES:
            columns = ", ".join(
                f"to_json({name(column['name'])}) AS {name(column['name'])}"
                if column["physicalType"].startswith("list<")
                else name(column["name"])
                for column in contracts.properties(table)
            )
            target = literal(str(folder / f"{table}.csv"))
            order = ", ".join(["dt", *(name(column) for column in warehouse.ORDER[table])])
            written = catalog.execute(
                f"COPY (SELECT {columns}, dt FROM {table} {where} ORDER BY {order}) TO {target} (HEADER)"
            ).fetchone()
            counts[table] = int(written[0]) if written else 0
    return counts
