"""spaCy: notes as ``Doc`` objects, and ``DocBin`` files of them.

A mention is a ``Span`` in ``doc.spans["medpipe"]``, where spans may lie in one another and cross; those that lie in no
other are ``doc.ents`` too. ``span.id_`` is the entity's id, ``span.kb_id_`` its code. Extensions: ``span._.negated``
and the other assertions, ``span._.score``, ``span._.fragments``; spaCy keeps these by place, so that of two mentions
of equal extent one wins: ``doc._.medpipe_entities[span.id_]`` has them for every one. ``doc._.medpipe_relations``
(``type``, ``head``, ``tail``: ids of entities), ``doc._.medpipe_summary``, ``doc._.medpipe_document_id``,
``doc._.medpipe_status``. Call ``register_extensions()`` before they are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.errors import MedpipeError
from medpipe.export.folder import check_partitions, whole_folder
from medpipe.export.notes import NoteRows, Row, latest_notes, spans_of
from medpipe.records import ASSERTIONS

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

KEY = "medpipe"  # of doc.spans
NOTES_A_FILE = 1000
CHARACTERS_A_FILE = 20_000_000
SPAN_EXTENSIONS = (*ASSERTIONS, "score", "fragments")
DOC_EXTENSIONS = ("medpipe_entities", "medpipe_relations", "medpipe_summary", "medpipe_document_id", "medpipe_status")


def import_spacy() -> Any:
    """Returns spaCy.

    Raises:
        MedpipeError: EXTRA_MISSING.
    """
    try:
        import spacy
    except ImportError:
        raise MedpipeError("EXTRA_MISSING", package="spacy", extra="spacy") from None
    return spacy


def register_extensions() -> None:
    """Makes the extensions known to spaCy; those that are known stay."""
    import_spacy()
    from spacy.tokens import Doc, Span

    for name in SPAN_EXTENSIONS:
        if not Span.has_extension(name):
            Span.set_extension(name, default=None)
    for name in DOC_EXTENSIONS:
        if not Doc.has_extension(name):
            Doc.set_extension(name, default=None)


def export_spacy(root: Path, out: Path, *, partition: str | None = None) -> dict[str, int]:
    """Writes the processed notes of a warehouse as a folder of ``DocBin`` files, a thousand notes each.

    ``spacy train`` takes the folder. Tokens are those of ``spacy.blank("en")``, cut where a mention begins or ends
    within one: every span is exactly the mention.

    Returns: How many ``documents`` and ``entities`` were written, and how many documents were ``left_out``, because
    no tagger has seen them.

    Raises:
        MedpipeError: EXTRA_MISSING, WAREHOUSE_INVALID, OUTPUT_EXISTS, DISK_FULL, PERMISSION_DENIED.
    """
    spacy = import_spacy()
    from spacy.tokens import DocBin

    check_partitions(root, partition)
    register_extensions()
    blank = spacy.blank("en")
    blank.max_length = 1 << 31
    counts = {"documents": 0, "entities": 0, "left_out": 0}
    with whole_folder(out) as folder:
        for number, notes in enumerate(cut_files(processed(latest_notes(root, partition), counts))):
            docs = DocBin(store_user_data=True)
            for note in notes:
                docs.add(make_doc(blank, note))
                counts["documents"] += 1
                counts["entities"] += len(note.entities)
            docs.to_disk(folder / f"notes-{number:05d}.spacy")
    return counts


def processed(notes: Iterator[NoteRows], counts: dict[str, int]) -> Iterator[NoteRows]:
    """Yields the notes that a tagger has seen and counts the others."""
    for note in notes:
        if note.document["status"] == "processed":
            yield note
        else:
            counts["left_out"] += 1


def cut_files(notes: Iterator[NoteRows]) -> Iterator[Iterator[NoteRows]]:
    """Yields the notes of one file after the other; each has to be read before the next is asked for."""

    def one_file(first: NoteRows) -> Iterator[NoteRows]:
        characters = 0
        for note in itertools.chain([first], itertools.islice(notes, NOTES_A_FILE - 1)):
            yield note
            characters += len(note.document["text"])
            if characters >= CHARACTERS_A_FILE:
                return

    for first in notes:
        yield one_file(first)


def make_doc(blank: Language, note: NoteRows) -> Doc:
    """Returns a note as a Doc whose tokens begin and end where its mentions do."""
    from spacy.tokens import Doc

    text = note.document["text"]
    tokenized = blank.make_doc(text)
    borders = {token.idx for token in tokenized} | {token.idx + len(token) for token in tokenized}
    borders |= {place for row in note.entities for place in (row["start"], row["end"])} | {0, len(text)}
    pieces = [(start, end) for start, end in itertools.pairwise(sorted(borders)) if start < end]
    words: list[str] = []
    spaces: list[bool] = []
    for start, end in pieces:
        # spaCy holds a single space behind a word as a flag of the word, unless a mention begins or ends with it.
        if text[start:end] == " " and words and not spaces[-1] and not inside_border(note.entities, start, end):
            spaces[-1] = True
        else:
            words.append(text[start:end])
            spaces.append(False)
    doc = Doc(blank.vocab, words=words, spaces=spaces)
    annotate(doc, note.document, note.entities, note.relations, note.summary)
    return doc


def inside_border(entities: Sequence[Row], start: int, end: int) -> bool:
    """Says whether a mention begins or ends with the space at ``start``."""
    return any(row["start"] == start or row["end"] == end for row in entities)


def annotate(doc: Doc, document: Row, entities: Sequence[Row], relations: Sequence[Row], summary: Row | None) -> None:
    """Puts what was found in a text onto its Doc; a mention that tokens do not fit gets the tokens that it touches."""
    from spacy.util import filter_spans

    spans = []
    found: dict[str, dict[str, Any]] = {}
    for row in entities:
        code = f"{row['code_system']}:{row['code']}" if row["code"] else ""
        span = doc.char_span(
            row["start"], row["end"], row["label"], kb_id=code, span_id=row["entity_id"], alignment_mode="expand"
        )
        if span is None:  # white space that the tokens do not hold
            continue
        facts = {name: row[name] for name in ASSERTIONS} | {
            "score": row["score"],
            "fragments": tuple(spans_of(row)) if row["fragments"] else None,
        }
        for name, fact in facts.items():
            span._.set(name, fact)
        found[row["entity_id"]] = facts
        spans.append(span)
    doc.spans[KEY] = spans
    doc.set_ents(filter_spans(spans))
    doc._.medpipe_entities = found
    doc._.medpipe_relations = [
        {"type": row["type"], "head": row["head_entity_id"], "tail": row["tail_entity_id"], "score": row["score"]}
        for row in relations
    ]
    doc._.medpipe_summary = summary["text"] if summary else None
    doc._.medpipe_document_id = document.get("document_id")
    doc._.medpipe_status = document.get("status", "failed")
