"""Whether the tables of a partition keep their contracts: read side by side, some documents at a time.

Within a document: types, nulls, ranges, values, keys, references and offsets. Across documents only keys can collide;
those are looked at by their hashes, a part of the key space at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.lake import contracts, files
from medpipe.lake.merge import align_sorted
from medpipe.text.slices import slice_texts

BY_DOCUMENT = ("documents", "sections", "entities", "relations", "summaries")  # sorted by document_id
BLOCK_DOCUMENTS = 512
BLOCK_ROWS = 8192
HASHED_KEYS = 1 << 23  # keys whose hashes are held at a time (8 bytes each)

Blocks = Mapping[str, pa.Table]  # of each table the rows of some documents; a table that has none is absent


def check_tables(paths: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Returns table and problem of all that breaks the contracts; ``paths`` has the file of every table."""
    checker = Checker(paths)
    if not checker.problems():
        for blocks in iter_blocks(paths):
            checker.take(blocks)
        checker.end()
    return checker.problems()


def check_file(table: str, path: Path) -> list[str]:
    """Returns what breaks the contract within one file: schema, nulls, ranges, values, keys, order.

    The contract is that of the version which the file names: partitions that an earlier version made stay right.
    """
    if problem := schema_problem(table, path):
        return [problem]
    found: Counter[str] = Counter()
    rules = Rules(table, path)
    for block in files.iter_file(path, BLOCK_ROWS, rules.columns):
        found.update(rules.problems(block))
    return [*found, *([f"{rules.key} is not unique"] if has_repeated_keys(path, rules.key) else [])]


def schema_problem(table: str, path: Path) -> str | None:
    """Says that a file's schema is not that of the version which it names."""
    actual = files.read_schema(path)
    version = (actual.metadata or {}).get(contracts.VERSION_KEY, b"").decode()
    if version not in contracts.versions(table) or not actual.equals(contracts.arrow_schema(table, version)):
        return f"its schema is not that of version {version or contracts.current_version(table)}"
    return None


def iter_blocks(paths: Mapping[str, Path]) -> Iterator[dict[str, pa.Table]]:
    """Yields the rows of some documents after the other: of the five tables that are sorted by document.

    Columns are those that a contract says something of which its Parquet type does not say. ``quarantine`` has the ids
    of documents that its rows name.
    """
    streams = [
        files.iter_file(
            paths[table],
            BLOCK_DOCUMENTS if table in ("documents", "summaries") else BLOCK_ROWS,
            Rules(table, paths[table]).columns,
        )
        for table in BY_DOCUMENT
    ]
    named = [block.filter(pc.is_valid(block["document_id"])) for block in _narrow(paths["quarantine"], "document_id")]
    if named:
        streams.append(iter([pa.concat_tables(named).sort_by("document_id")]))
    for parts in align_sorted(streams, "document_id"):
        found = zip((*BY_DOCUMENT, "quarantine"), parts, strict=False)
        yield {table: part for table, part in found if part is not None}


class Rules:
    """What the contract of one file's version says of its columns."""

    def __init__(self, table: str, path: Path) -> None:
        self.properties = contracts.properties(table, contracts.version_of(table, files.read_schema(path)))
        self.key: str = next(one["name"] for one in self.properties if one.get("primaryKey"))
        self.order = "document_id" if table in BY_DOCUMENT else self.key
        self.last: Any = None  # the highest value of ``order`` so far
        # Lists and structs are as their types say; whatever else has nulls, ranges or values to be looked at.
        self.columns = [one["name"] for one in self.properties if "<" not in one["physicalType"]]

    def problems(self, block: pa.Table) -> Iterator[str]:
        """Yields what is wrong with some rows, by themselves and after those before."""
        for column in self.properties:
            name = column["name"]
            if name in self.columns:
                yield from _column_problems(column, block[name])
        keys = block[self.order]
        if not len(keys):
            return
        ascending = pc.all(pc.less_equal(keys.slice(0, len(keys) - 1), keys.slice(1)), min_count=0).as_py()
        if not ascending or (self.last is not None and keys[0].as_py() < self.last):
            yield f"it is not sorted by {self.order}"
        self.last = keys[-1].as_py()


def _column_problems(column: Mapping[str, Any], values: pa.ChunkedArray) -> Iterator[str]:
    name = column["name"]
    if column.get("required") and values.null_count:
        yield f"{name} holds nulls"
    limits = column.get("logicalTypeOptions", {})
    low, high = limits.get("minimum"), limits.get("maximum")
    if low is not None and pc.any(pc.less(values, low)).as_py():
        yield f"{name} is below {low}"
    if high is not None and pc.any(pc.greater(values, high)).as_py():
        yield f"{name} is above {high}"
    for rule in column.get("quality", ()):
        allowed = pa.array(rule["arguments"]["validValues"], pa.string())
        if not pc.all(pc.is_in(values.drop_null(), allowed), min_count=0).as_py():  # nulls are judged above
            yield f"{name} holds a value that the contract does not name"


class Checker:
    """Checks a partition block by block: ``take`` all of ``iter_blocks``, then ``end``."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = paths
        self.found: dict[tuple[str, str], None] = {}  # in the order in which they were found
        self.lost: Counter[tuple[str, str, str]] = Counter()  # table, column, table that it leads to -> values
        self.misplaced = 0
        for table in contracts.TABLES:
            if problem := schema_problem(table, paths[table]):
                self.found[table, problem] = None
        if self.found:
            return
        self.rules = {table: Rules(table, paths[table]) for table in contracts.TABLES}
        for table in ("quarantine", "runs"):
            self._add(table, check_file(table, paths[table]))
        runs = [block["run_id"] for block in _narrow(paths["runs"], "run_id")]
        self.runs = pa.concat_arrays(
            [chunk for column in runs for chunk in column.chunks] or [pa.array([], pa.string())]
        )
        for block in _narrow(paths["quarantine"], "run_id"):
            self._refer("quarantine", "run_id", block["run_id"], "runs", self.runs)

    def _add(self, table: str, problems: Iterator[str] | list[str]) -> None:
        for problem in problems:
            self.found[table, problem] = None

    def take(self, blocks: Blocks) -> None:
        """Checks the rows of some documents."""
        for table, block in blocks.items():
            if table == "quarantine":
                self._refer(
                    table, "document_id", block["document_id"], "documents", _keys(blocks, "documents", "document_id")
                )
                continue
            self._add(table, self.rules[table].problems(block))
            key = self.rules[table].key
            if pc.count_distinct(block[key]).as_py() != len(block):
                self._add(table, [f"{key} is not unique"])
            for column in self.rules[table].properties:
                for relationship in column.get("relationships", ()):
                    other, _, name = relationship["to"].partition(".")
                    keys = self.runs if other == "runs" else _keys(blocks, other, name)
                    self._refer(table, column["name"], block[column["name"]], other, keys)
        if "entities" in blocks and "documents" in blocks:
            self.misplaced += count_misplaced(blocks["documents"], blocks["entities"])

    def _refer(self, table: str, column: str, values: pa.ChunkedArray, other: str, keys: pa.Array) -> None:
        known = values.drop_null()
        lost = len(known) - (pc.sum(pc.is_in(known, keys)).as_py() or 0)
        if lost:
            self.lost[table, column, other] += lost

    def end(self) -> None:
        """Looks for keys that stand in two documents."""
        for table in BY_DOCUMENT[1:]:
            key = self.rules[table].key
            if (table, f"{key} is not unique") not in self.found and has_repeated_keys(self.paths[table], key):
                self._add(table, [f"{key} is not unique"])

    def problems(self) -> list[tuple[str, str]]:
        """Returns table and problem of what was found so far."""
        found = list(self.found)
        for (table, column, other), count in self.lost.items():
            found.append((table, f"{count} values of {column} lead to no row of {other}"))
        if self.misplaced:
            found.append(("entities", f"{self.misplaced} texts are not what stands at their offsets"))
        return found


def count_misplaced(documents: pa.Table, entities: pa.Table) -> int:
    """Returns how many entities have another text than ``text[start:end]`` of their document."""
    number = pc.index_in(entities["document_id"], documents["document_id"].combine_chunks())
    entities = entities.filter(number.is_valid())  # those of no document are lost references
    owner = number.drop_null().to_numpy().astype(np.int64)
    texts = documents["text"].combine_chunks().cast(pa.string())
    lengths = pc.utf8_length(texts).to_numpy()[owner]
    start, end = (entities[name].to_numpy().astype(np.int64) for name in ("start", "end"))
    inside = (start >= 0) & (start <= end) & (end <= lengths)
    said = slice_texts(texts, owner[inside], start[inside], end[inside])
    mentions = entities["text"].combine_chunks().cast(pa.string()).filter(pa.array(inside))
    same = pc.sum(pc.equal(said, mentions)).as_py() or 0
    return len(entities) - same


def has_repeated_keys(path: Path, key: str) -> bool:
    """Says whether a key stands twice in a file, wherever.

    Compared are 64-bit hashes, HASHED_KEYS at a time; keys whose hashes are equal are compared themselves.
    """
    parts = -(-files.count_rows(path) // HASHED_KEYS)
    for part in range(parts):
        hashes = [mine[mine % parts == part] for mine, _ in _hashed(path, key)]
        ordered = np.sort(np.concatenate(hashes))
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            suspects = [keys.filter(pa.array(np.isin(mine, twice))) for mine, keys in _hashed(path, key)]
            column = pa.chunked_array(suspects)
            if pc.count_distinct(column).as_py() != len(column):
                return True
    return False


def _hashed(path: Path, key: str) -> Iterator[tuple[np.ndarray, pa.Array]]:
    for block in _narrow(path, key):
        keys = block[key].combine_chunks()
        yield pd.util.hash_array(keys.to_numpy(zero_copy_only=False), categorize=False), keys


def _narrow(path: Path, column: str) -> Iterator[pa.Table]:
    return files.iter_file(path, 1 << 16, [column])


def _keys(blocks: Blocks, table: str, name: str) -> pa.Array:
    return blocks[table][name].combine_chunks() if table in blocks else pa.array([], pa.string())
