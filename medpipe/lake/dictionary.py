"""The data dictionary: every table and column, from the contracts, as one page of Markdown (``schemas/README.md``)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from medpipe.lake import contracts

HEAD = """\
# The tables

Made from the contracts in [schemas/](../schemas) by `medpipe schema docs`; a test holds it to them. Offsets are
half-open intervals of Unicode code points. Each file is `WAREHOUSE/TABLE/vMAJOR/dt=YYYY-MM-DD/part-0.parquet`.
"""


def write_dictionary() -> str:
    """Returns the page."""
    return "\n".join([HEAD, *(line for table in contracts.TABLES for line in table_lines(table))])


def table_lines(table: str) -> Iterator[str]:
    """Yields the lines of a table: what a row is, its columns, what changed from version to version."""
    version = contracts.current_version(table)
    contract = contracts.load_contract(table)
    yield f"## {table}\n"
    yield f"{contract['schema'][0]['description']} Version {version}.\n"
    yield "| column | type | null | meaning |"
    yield "|---|---|---|---|"
    for column in contracts.properties(table):
        key = " **Key.**" if column.get("primaryKey") else ""
        null = "" if column.get("required") else "yes"
        meaning = f"{cell(column['description'])}{key}{facts(column)}"
        yield f"| `{column['name']}` | {cell(column['physicalType'])} | {null} | {meaning} |"
    yield ""
    known = contracts.versions(table)
    if len(known) > 1:
        yield "Versions:\n"
        for old, new in pairwise(known):
            reasons = "; ".join(cell(reason.partition(": ")[2]) for reason in contracts.diff(table, old, new).reasons)
            yield f"- {new} ({contracts.declared(old, new)}): {reasons}."
        yield ""


def facts(column: dict[str, Any]) -> str:
    """Returns what the contract demands of a column's values."""
    said = []
    limits = column.get("logicalTypeOptions", {})
    if limits:
        said.append(" to ".join(f"{limits[name]}" for name in ("minimum", "maximum") if name in limits) or "")
        if "maximum" not in limits:
            said[-1] = f"at least {said[-1]}"
    for rule in column.get("quality", ()):
        said.append("one of " + ", ".join(f"`{value}`" for value in rule["arguments"]["validValues"]))
    said += [f"leads to `{one['to']}`" for one in column.get("relationships", ())]
    return f" ({'; '.join(said)})" if said else ""


def cell(text: str) -> str:
    """Returns text as a cell of a Markdown table: without line ends, bars, or tags of HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
