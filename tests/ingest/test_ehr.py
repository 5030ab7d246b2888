"""Real exports, which nobody of this project wrote: every file ends as rows, every record is accounted for.

``python -m tests.ingest.test_ehr EHR`` prints the table.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from medpipe.ingest.inputs import Inputs
from medpipe.ingest.read import read_source
from medpipe.ingest.sources import find_sources
from medpipe.ingest.stage import read_chunks
from medpipe.records import Document, Reject, Skipped

# Folder: notes that must at least be found in it.
FOLDERS = {
    "fhir": 45, "fhir_ndjson": 8, "ccda": 250, "hl7v2": 600, "omop": 1250, "csv_notes": 600, "text": 60,
}  # fmt: skip
LIMITS = {"max_note_chars": 5_000_000, "chunk_documents": 512, "chunk_chars": 10**7}


@pytest.mark.corpora
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_record_of_a_real_export_is_accounted_for(ehr: Path, folder: str) -> None:
    counts: Counter[str] = Counter()
    for output in read_chunks(find_sources([str(ehr / folder)]), format="auto", run_id="r", **LIMITS):
        counts.update(output.counts)
    assert counts["documents"] >= FOLDERS[folder]
    assert counts["records"] == counts["documents"] + counts["duplicates"] + counts["not_notes"] + counts["rejected"]
    assert not counts["rejected:STAGE_FAILED"]


@pytest.mark.corpora
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_real_file_ends_as_something_and_soon(ehr: Path, folder: str) -> None:
    sources = find_sources([str(ehr / folder)])
    inputs = Inputs(sources)
    for source in sources:
        started = time.perf_counter()
        items = list(read_source(source, max_note_chars=5_000_000, inputs=inputs))
        assert items, source.name
        assert time.perf_counter() - started < 20, source.name
        for item in items:
            if isinstance(item, Document):
                assert all(0 <= part.start <= part.end <= len(item.text) for part in item.sections)
            else:
                assert isinstance(item, Reject | Skipped)


def main(root: Path) -> None:
    """Prints a line for each folder: files, records, notes, characters, what was no note, what was refused."""
    for folder in FOLDERS:
        sources = find_sources([str(root / folder)])
        counts: Counter[str] = Counter()
        formats: Counter[str] = Counter()
        for output in read_chunks(sources, format="auto", run_id="r", **LIMITS):
            counts.update(output.counts)
            counts["chars"] += sum(output.rows["documents"]["n_chars"].to_pylist())
            formats.update(output.rows["documents"]["format"].to_pylist())

        def named(prefix: str, counts: Counter[str] = counts) -> str:
            kinds = [(key.partition(":")[2], n) for key, n in counts.most_common() if key.startswith(prefix)]
            return ", ".join(f"{kind} {n:,}" for kind, n in kinds)

        print(
            f"| {folder} | {len(sources)} | {counts['records']:,} | {counts['documents']:,} ({named_formats(formats)}) | "
            f"{counts['chars']:,} | {counts['duplicates']} | {counts['not_notes']:,}: {named('not_a_note:')} | "
            f"{counts['rejected']:,}: {named('rejected:')} | {named('language:')} |"
        )


def named_formats(formats: Counter[str]) -> str:
    """Returns which readers read how many."""
    return ", ".join(f"{name} {n:,}" for name, n in formats.most_common())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
