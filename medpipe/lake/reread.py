"""Notes of a partition as ingest gave them, from the published tables: what their later stages are done again with.

No source is opened: text, sections and what ingest could not take stand in the tables. Documents get the run's id and
no counts, as if they had just been read; a document that a later stage refused is whole again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import CODES, MedpipeError
from medpipe.lake import contracts, files, warehouse
from medpipe.records import Reject, StageOutput
from medpipe.text.language import is_supported

COUNTS = ("n_entities", "n_relations", "n_summaries")  # of later stages; those of sections stay


def reread_chunks(
    root: Path,
    partition: str,
    sources: Sequence[str],
    *,
    languages: Sequence[str],
    chunk_documents: int,
    chunk_chars: int,
    run_id: str,
) -> Iterator[StageOutput]:
    """Yields the published documents of sources, with their sections, in chunks of whole documents.

    The chunks are sorted by document id, as those of ``ingest.stage.read_chunks`` are; the last one brings what ingest
    had quarantined of the sources. In the counts of all chunks together ``records = documents + rejected``.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where a table is damaged.
    """
    try:
        for documents in _cut(root, partition, sources, chunk_documents, chunk_chars):
            rows = {
                "documents": _as_read(documents, languages, run_id),
                "sections": _as_of_run(_sections_of(root, partition, documents), run_id),
            }
            foreign = pc.sum(pc.equal(rows["documents"]["status"], "unsupported_language")).as_py()
            counts = {"documents": len(documents), "records": len(documents), "unsupported_language": foreign}
            yield StageOutput(rows, counts={name: float(value) for name, value in counts.items() if value})
        rejects = _rejects_of_ingest(root, partition, sources)
    except files.DamagedFileError as damaged:
        raise MedpipeError("WAREHOUSE_INVALID", path=damaged.path, reason="it is damaged") from None
    counts = {"sources": len(sources), "records": len(rejects), "rejected": len(rejects)}
    for reject in rejects:
        counts[f"rejected:{reject.code}"] = counts.get(f"rejected:{reject.code}", 0) + 1
    nothing = {name: contracts.empty_table(name) for name in ("documents", "sections")}
    yield StageOutput(nothing, rejects, {name: float(value) for name, value in counts.items()})


def _cut(
    root: Path, partition: str, sources: Sequence[str], chunk_documents: int, chunk_chars: int
) -> Iterator[pa.Table]:
    """Yields the documents of the sources, in the table's order, as many at a time as a chunk may hold."""
    wanted = pa.array(sources, pa.string())
    held = contracts.empty_table("documents")
    for block in warehouse.iter_rows(root, "documents", partition, chunk_documents):
        held = pa.concat_tables([held, block.filter(pc.is_in(block["source"], wanted))])
        while (count := _fitting(held, chunk_documents, chunk_chars)) < len(held):
            yield held.slice(0, count)
            held = held.slice(count)
    if len(held):
        yield held


def _fitting(documents: pa.Table, chunk_documents: int, chunk_chars: int) -> int:
    """Returns how many of the documents, from the first, fill a chunk: one at least, all where it is not full."""
    sizes = np.cumsum(documents["n_chars"].to_numpy())
    by_chars = int(np.searchsorted(sizes, chunk_chars, side="right"))
    return min(len(documents), chunk_documents, max(1, by_chars))


def _sections_of(root: Path, partition: str, documents: pa.Table) -> pa.Table:
    ids = documents["document_id"].combine_chunks()
    # Both tables are sorted by document: the range lets row groups be passed over.
    within = (pc.field("document_id") >= ids[0]) & (pc.field("document_id") <= ids[-1])
    return warehouse.read_table(
        root, "sections", partition=partition, filters=within & pc.field("document_id").isin(ids)
    )


def _as_read(documents: pa.Table, languages: Sequence[str], run_id: str) -> pa.Table:
    known = [is_supported(language, languages) for language in documents["language"].to_pylist()]
    status = pa.array(["processed" if one else "unsupported_language" for one in known], pa.string())
    rows = _with_column(_as_of_run(documents, run_id), "status", status)
    for name in COUNTS:
        rows = _with_column(rows, name, pa.array(np.zeros(len(rows), np.int32)))
    return rows


def _as_of_run(rows: pa.Table, run_id: str) -> pa.Table:
    return _with_column(rows, "run_id", pa.repeat(pa.scalar(run_id, pa.string()), len(rows)))


def _with_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), values)


def _rejects_of_ingest(root: Path, partition: str, sources: Sequence[str]) -> list[Reject]:
    of_ingest = (pc.field("stage") == "ingest") & pc.field("source").isin(list(sources))
    rows = warehouse.read_table(root, "quarantine", partition=partition, filters=of_ingest).to_pylist()
    rejects = []
    for row in rows:
        remedy = CODES[row["code"]].remedy if row["code"] in CODES else ""
        message = f"{row['message']} {remedy}" if remedy else row["message"]
        rejects.append(
            Reject(row["source"], row["record"], "ingest", row["code"], message, document_id=row["document_id"])
        )
    return rejects
