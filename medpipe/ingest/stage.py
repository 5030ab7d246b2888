"""The first stage: sources in, chunks of documents out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from medpipe.ids import make_id
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.read import read_source
from medpipe.ingest.sources import Source
from medpipe.ingest.tables.mapping import ColumnMapping
from medpipe.lake import contracts
from medpipe.records import Document, Reject, Skipped, StageOutput
from medpipe.text.language import is_supported


def read_chunks(
    sources: Sequence[Source],
    *,
    format: str,
    max_note_chars: int,
    max_file_bytes: int = 256 << 20,
    inputs: Inputs | None = None,
    mapping: ColumnMapping | None = None,
    languages: Sequence[str] = ("en",),
    chunk_documents: int,
    chunk_chars: int,
    run_id: str,
) -> Iterator[StageOutput]:
    """Yields chunks of whole documents with their sections and rejects; at least one, which may be empty.

    ``inputs`` are all sources of the run, of which ``sources`` may be a part: references between them are resolved.
    ``mapping`` says which columns of tables are what.

    Each chunk's tables are sorted by document id. A note that stands twice in the sources (same place, patient and
    text) is taken once and counted as a duplicate. In the counts of all chunks together
    ``records = documents + duplicates + not_notes + rejected``.
    """
    seen: set[bytes] = set()  # 16 bytes a note
    chunk = _Chunk(run_id, languages)
    chunk.counts["sources"] = len(sources)
    inputs = inputs or Inputs(sources)
    for source in sources:
        items = read_source(
            source,
            format=format,
            max_note_chars=max_note_chars,
            max_file_bytes=max_file_bytes,
            inputs=inputs,
            mapping=mapping,
        )
        for item in items:
            if isinstance(item, Document):
                key = bytes.fromhex(item.document_id)
                if key in seen:
                    chunk.counts.update(("records", "duplicates"))
                    continue
                seen.add(key)
            chunk.add(item)
            if chunk.is_full(chunk_documents, chunk_chars):
                yield chunk.finish()
                chunk = _Chunk(run_id, languages)
    if chunk.counts or not seen:
        yield chunk.finish()


class _Chunk:
    """The documents and rejects that were read since the last chunk was given out."""

    def __init__(self, run_id: str, languages: Sequence[str]) -> None:
        self.run_id = run_id
        self.languages = languages
        self.documents: list[Document] = []
        self.rejects: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self.chars = 0

    def add(self, item: Document | Reject | Skipped) -> None:
        self.counts["records"] += 1
        if isinstance(item, Document):
            self.documents.append(item)
            self.chars += len(item.text)
            self.counts["documents"] += 1
            if not is_supported(item.language, self.languages):
                self.counts.update(("unsupported_language", f"language:{item.language}"))
        elif isinstance(item, Reject):
            self.rejects.append(item)
            self.counts.update(("rejected", f"rejected:{item.code}"))
        else:
            self.counts.update(("not_notes", f"not_a_note:{item.kind}"))

    def is_full(self, documents: int, chars: int) -> bool:
        # Rejects are rows too: a file of a million bad lines must not pile up in memory.
        return len(self.documents) >= documents or self.chars >= chars or len(self.rejects) >= 100 * documents

    def finish(self) -> StageOutput:
        documents = sorted(self.documents, key=lambda document: document.document_id)
        rows = {
            "documents": documents_table(documents, self.run_id, self.languages),
            "sections": sections_table(documents, self.run_id),
        }
        return StageOutput(rows, self.rejects, dict(self.counts))


# Columns that a document's row takes from the record as they are.
COPIED = (
    "document_id", "source", "record", "format", "patient_id", "encounter_id", "note_type", "note_type_code",
    "note_status", "authored_at", "authored_at_text", "media_type", "encoding", "language", "text", "text_hash",
)  # fmt: skip


def documents_table(documents: Sequence[Document], run_id: str, languages: Sequence[str]) -> pa.Table:
    """Returns documents as rows; the counts of later stages are zero until publish.

    Notes in another language than ``languages`` get the status with which later stages pass them over.
    """
    count = len(documents)
    columns = {name: [getattr(document, name) for document in documents] for name in COPIED}
    zero = [0] * count
    known = [is_supported(document.language, languages) for document in documents]
    return contracts.conform("documents", columns | {
        "n_chars": [len(document.text) for document in documents],
        "status": ["processed" if one else "unsupported_language" for one in known],
        "n_sections": [len(document.sections) for document in documents], "n_entities": zero, "n_relations": zero,
        "n_summaries": zero, "run_id": [run_id] * count,
    })  # fmt: skip


def sections_table(documents: Sequence[Document], run_id: str) -> pa.Table:
    """Returns the sections of documents as rows, in the order of the documents."""
    columns: dict[str, list] = {
        name: [] for name in contracts.arrow_schema("sections").names if name not in ("run_id", "schema_version")
    }
    for document in documents:
        ids = section_ids(document)
        columns["section_id"] += ids
        columns["document_id"] += [document.document_id] * len(ids)
        columns["parent_section_id"] += [
            None if part.parent is None else ids[part.parent] for part in document.sections
        ]
        for name in ("name", "title", "code", "start", "end", "body_start"):
            columns[name] += [getattr(part, name) for part in document.sections]
    return contracts.conform("sections", columns | {"run_id": [run_id] * len(columns["section_id"])})


def section_ids(document: Document) -> list[str]:
    """Returns the ids of a document's sections; those with the same place and name (empty ones) are numbered."""
    ids: list[str] = []
    seen: set[str] = set()
    for number, part in enumerate(document.sections):
        place = ("section", document.document_id, part.start, part.end, part.name)
        section_id = make_id(*place)
        if section_id in seen:
            section_id = make_id(*place, number)
        seen.add(section_id)
        ids.append(section_id)
    return ids
