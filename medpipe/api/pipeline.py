"""The four stages as a function of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.api.note import Note
from medpipe.errors import MedpipeError
from medpipe.ids import make_id
from medpipe.ingest.notes import Reading
from medpipe.ingest.simple_json import read_one
from medpipe.ingest.stage import documents_table, sections_table
from medpipe.lake import contracts
from medpipe.lake.publish import COUNTED, fill_in
from medpipe.pipeline.chunks import READS, WRITES
from medpipe.pipeline.planning import make_fingerprint
from medpipe.pipeline.stages import Stage, load_stage, run_isolated
from medpipe.records import Document, Reject
from medpipe.settings import STAGES, Settings, load_settings

Text = str | Mapping[str, Any]  # a text, or medpipe's JSON of a note (README, What it reads)
SOURCE = "python"  # where such notes come from, in the column `source`
OF_A_NOTE = ("documents", "sections", "entities", "relations", "summaries")


def load(*, stages: Sequence[str] = STAGES[1:], **settings: Any) -> Pipeline:
    """Loads the models.

    Args:
        stages: which of ``tag``, ``relate`` and ``summarize`` to run: without ``summarize`` it is twice as fast.
        settings: any field of ``medpipe.settings.Settings``: ``device``, ``tagger``, ``relations``, ``summarizer``
            (names of shipped models, or folders), ``terminology``, ``languages``, ``min_relation_score``, …;
            ``medpipe.toml`` and ``MEDPIPE_*`` variables count as they do on the command line.

    Raises:
        MedpipeError: SETTING_INVALID, MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_UNAVAILABLE, TERMINOLOGY_INVALID.
    """
    wrong = [stage for stage in stages if stage not in WRITES]
    if wrong:
        raise MedpipeError("SETTING_INVALID", name="stages", reason=f"{wrong[0]!r} is none of {', '.join(WRITES)}")
    return Pipeline(load_settings(**settings), [stage for stage in STAGES if stage in stages])


class Pipeline:
    """The stages with their models, ready to be called; made by ``load``. Nothing is kept between calls."""

    def __init__(self, settings: Settings, stages: Sequence[str]) -> None:
        self.settings = settings
        self.stages: dict[str, Stage] = {stage: load_stage(stage, settings) for stage in stages}
        self.run_id = make_id("run", SOURCE, str(sorted(make_fingerprint(settings).items())))

    def __call__(self, text: str, **facts: Any) -> Note:
        """Returns what is found in one text.

        Args:
            text: the note.
            facts: ``patient_id``, ``encounter_id``, ``note_type``, ``note_type_code``, ``authored_at``, ``language``,
                ``document_id``, as in medpipe's JSON.

        A text that cannot be a note (empty, too long, lone surrogates, no text at all) raises nothing: its note has
        the status ``failed`` and ``problems``.
        """
        return next(self.pipe([{"text": text, **facts}]))

    def pipe(self, texts: Iterable[Text], *, batch_size: int = 64) -> Iterator[Note]:
        """Yields a note for every text, in their order, with flat memory.

        Args:
            texts: strings, or mappings with ``text`` and the facts of ``__call__``.
            batch_size: how many notes go through a stage together, or fewer, where they are long.
        """
        batch: list[Text] = []
        done = chars = 0
        for text in texts:
            batch.append(text)
            chars += len(_text_of(text))
            if len(batch) >= batch_size or chars >= self.settings.chunk_chars:
                yield from self._process(batch, done)
                done, chars, batch = done + len(batch), 0, []
        yield from self._process(batch, done)

    def _process(self, batch: Sequence[Text], first: int) -> Iterator[Note]:
        """Yields the notes of a batch, of which the first is number ``first`` of all."""
        reading = Reading(SOURCE, "json", self.settings.max_note_chars)
        read = [
            read_one({"text": text} if isinstance(text, str) else text, str(first + place), reading)
            for place, text in enumerate(batch)
        ]
        # A note that stands twice in a batch is processed once.
        documents = {one.document_id: one for one in read if isinstance(one, Document)}
        tables, rejects = self._run([documents[key] for key in sorted(documents)])
        rows = {name: rows_by_document(table) for name, table in tables.items()}
        for text, one in zip(batch, read, strict=True):
            if isinstance(one, Reject):
                nothing = {name: contracts.empty_table(name) for name in OF_A_NOTE}
                yield Note(_text_of(text), nothing, (one,))
                continue
            problems = tuple(reject for reject in rejects if reject.document_id == one.document_id)
            found = {name: table.slice(*rows[name].get(one.document_id, (0, 0))) for name, table in tables.items()}
            yield Note(one.text, found, problems)

    def _run(self, documents: Sequence[Document]) -> tuple[dict[str, pa.Table], list[Reject]]:
        """Runs the stages over documents sorted by id and returns their rows and what could not be taken."""
        tables = {
            "documents": documents_table(documents, self.run_id, self.settings.languages),
            "sections": sections_table(documents, self.run_id),
            **{name: contracts.empty_table(name) for name in WRITES.values()},
        }
        rejects: list[Reject] = []
        known = tables["documents"].filter(pc.equal(tables["documents"]["status"], "processed"))["document_id"]
        for name, stage in self.stages.items():
            failed = pa.array([reject.document_id for reject in rejects], pa.string())
            ids = known.filter(pc.invert(pc.is_in(known, failed))).combine_chunks()
            if not len(ids):
                break
            wanted = {table: tables[table].filter(pc.is_in(tables[table]["document_id"], ids)) for table in READS[name]}
            output = run_isolated(stage, wanted, run_id=self.run_id)
            tables |= output.rows
            rejects += output.rejects
        rows = {column: tables[table] for column, table in COUNTED.items()}
        refused = pa.array([reject.document_id for reject in rejects], pa.string())
        return tables | {"documents": fill_in(tables["documents"], rows, refused)}, rejects


def rows_by_document(table: pa.Table) -> dict[str, tuple[int, int]]:
    """Returns where the rows of each document stand in a table sorted by document: offset and length."""
    places: dict[str, tuple[int, int]] = {}
    for number, key in enumerate(table["document_id"].to_pylist()):
        first, length = places.get(key, (number, 0))
        places[key] = (first, length + 1)
    return places


def _text_of(text: Any) -> str:
    found = text.get("text") if isinstance(text, Mapping) else text
    return found if isinstance(found, str) else ""
