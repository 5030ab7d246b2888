"""What other documents tell of a pair of concepts: a table of relations, fed back as features of a candidate pair.

The table is the one that ``medpipe export knowledge-graph`` makes of a warehouse; training makes one of its corpora's
relations. A model that was trained with it keeps it in its folder (``knowledge.parquet``), where a site may put its own
in the place. While a model is trained, what a document itself tells is taken out of the table for that document: else
the gold of a pair would be among its features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.lake import files

FILE = "knowledge.parquet"
FEATURES = 3  # documents that tell the pair; relations that the head has, and the tail, with any concept
SCHEMA = pa.schema(
    [
        pa.field("type", pa.string(), nullable=False),
        pa.field("head", pa.string(), nullable=False),
        pa.field("head_code", pa.string()),
        pa.field("tail", pa.string(), nullable=False),
        pa.field("tail_code", pa.string()),
        pa.field("documents", pa.int64(), nullable=False),
    ]
)
Told = tuple[int, str, str]  # type, and the keys of head and tail


def concept_key(words: str, code: str | None) -> str:
    """Returns what names a concept: its code or, without one, its words in lower case."""
    return f"\0{code}" if code is not None else " ".join(words.lower().split())


@dataclass(frozen=True)
class Knowledge:
    """How many documents tell a relation between two concepts."""

    types: tuple[str, ...]
    told: tuple[tuple[Told, int], ...]  # and the number of documents

    @classmethod
    def read(cls, path: Path, types: Sequence[str]) -> Knowledge:
        """Reads a table with the columns of ``SCHEMA``; relations of types that the model has not are left out.

        Raises:
            files.DamagedFileError, KeyError, ValueError: there is none, or it is another table.
        """
        table = files.read_table(path).select(SCHEMA.names).cast(SCHEMA)
        table = table.filter(pc.is_in(table["type"], pa.array(types, pa.string())))
        columns = [column.to_pylist() for column in table.columns]
        return cls(
            tuple(types),
            tuple(
                ((types.index(kind), concept_key(head, head_code), concept_key(tail, tail_code)), documents)
                for kind, head, head_code, tail, tail_code, documents in zip(*columns, strict=True)
            ),
        )

    @classmethod
    def count(cls, types: Sequence[str], documents: Iterable[Collection[Told]]) -> Knowledge:
        """Counts what some documents tell, each relation once a document."""
        counted = Counter(one for told in documents for one in set(told))
        return cls(tuple(types), tuple(sorted(counted.items())))

    def write(self, path: Path) -> None:
        """Writes the table; a concept with a code has the code for its name."""

        def columns(end: str, key: str) -> dict[str, str | None]:
            code = key.removeprefix("\0") if key.startswith("\0") else None
            return {end: code or key, f"{end}_code": code}

        rows = [
            {"type": self.types[kind], **columns("head", head), **columns("tail", tail), "documents": documents}
            for (kind, head, tail), documents in self.told
        ]
        files.write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Returns the number of every concept that is known."""
        keys = sorted({key for (_, head, tail), _ in self.told for key in (head, tail)})
        return {key: number for number, key in enumerate(keys)}

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pairs as numbers (``pair_numbers``), ascending, and their documents; shape: (pairs,) each."""
        kind, head, tail, documents = self.columns
        number = self.pair_numbers(kind, head, tail)
        order = np.argsort(number)
        return number[order], documents[order]

    @cached_property
    def columns(self) -> np.ndarray:
        """Returns type, head, tail and documents of all pairs. shape: (4, pairs), int64."""
        rows = [(kind, self.numbers[head], self.numbers[tail], count) for (kind, head, tail), count in self.told]
        return np.array(rows, dtype=np.int64).reshape(-1, 4).T

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many relations each concept has as a head, and as a tail. shape: (types, concepts + 1) each.

        A relation that several documents tell counts once each; the last concept is that of all that are not known.
        """
        counted = []
        for end in (1, 2):
            counts = np.zeros((len(self.types), len(self.numbers) + 1))
            np.add.at(counts, (self.columns[0], self.columns[end]), self.columns[3])
            counted.append(counts)
        return counted[0], counted[1]

    def pair_numbers(self, kind: np.ndarray, head: np.ndarray, tail: np.ndarray) -> np.ndarray:
        """Returns one number for type, head and tail; the arrays are broadcast."""
        size = len(self.numbers) + 1
        return (kind * size + head) * size + tail

    def features(self, keys: Sequence[str], pairs: np.ndarray, own: Collection[Told] = ()) -> np.ndarray:
        """Returns what is known of pairs.

        Args:
            keys: of each concept of the document.
            pairs: shape: (pairs, 2), int64; numbers of the concepts of head and tail.
            own: what the document itself has told to the table: it does not count.

        Returns:
            shape: (pairs, types, FEATURES), float32; logarithms of one plus the counts.
        """
        known = np.array([self.numbers.get(key, len(self.numbers)) for key in keys], dtype=np.int64)
        head, tail = known[pairs.T]  # shape: (pairs,)
        kinds = np.arange(len(self.types))
        wanted = self.pair_numbers(kinds, head[:, None], tail[:, None])  # shape: (pairs, types)
        numbers, documents = self.pairs
        at = np.minimum(np.searchsorted(numbers, wanted), max(0, len(numbers) - 1))
        told = np.where(numbers[at] == wanted, documents[at], 0) if len(numbers) else np.zeros(wanted.shape, np.int64)
        counts = np.stack([told, self.ends[0].T[head], self.ends[1].T[tail]], axis=2).astype(np.float32)
        place = {key: number for number, key in enumerate(keys)}
        for kind, one, two in own:
            of_head, of_tail = pairs[:, 0] == place.get(one, -1), pairs[:, 1] == place.get(two, -1)
            counts[of_head & of_tail, kind, 0] -= 1
            counts[of_head, kind, 1] -= 1
            counts[of_tail, kind, 2] -= 1
        return np.asarray(np.log1p(counts), dtype=np.float32)
