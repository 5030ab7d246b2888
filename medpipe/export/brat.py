"""BRAT standoff: documents of a warehouse as folders that people correct, and such folders as a corpus.

A document is two files, ``NAME.txt`` with its text, character for character, and ``NAME.ann`` with a line for each
entity (``T``), assertion (``A``), relation (``R``) and note (``#``); ``annotation.conf`` names the types. After the
standoff format of brat 1.3 (Stenetorp et al. 2012; https://brat.nlplab.org/standoff.html). Offsets are half-open code
points, as in our tables.

A line of an ``.ann`` file cannot hold a line break, so a mention that does is cut there into fragments, as brat itself
does. On the way back, fragments with nothing but a line break and other white space between them are one again. Where
that would not give the spans that were written, a note on the entity holds them (``#1 AnnotatorNotes T1 spans 0 9``);
it counts only as long as nobody moves the entity.

What BRAT cannot show is not exported: scores, codes, sections, summaries. What the corpus format has no place for is
not read: events (their triggers are entities), equivalences, normalizations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.export.folder import whole_folder
from medpipe.export.notes import assertions_of, latest_notes, spans_of
from medpipe.ids import make_id
from medpipe.records import ASSERTIONS, LABELS

Spans = list[tuple[int, int]]

# Where Python, and so brat's server, ends a line. Each is white space too.
LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
BROKEN = re.compile(f"[{LINE_BREAKS}]")
UNBROKEN = re.compile(f"[^{LINE_BREAKS}]+")
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

OFFSETS = r"\d+ \d+(?:;\d+ \d+)*"
ENTITY = re.compile(rf"(T\S+)\t(\S+) ({OFFSETS})(?:\t(.*))?")
RELATION = re.compile(r"R\S+\t(\S+) (\S+?):(\S+) (\S+?):(\S+)\s*")
ATTRIBUTE = re.compile(r"[AM]\S+\t(\S+) (\S+)(?: (\S+))?\s*")
EVENT = re.compile(r"(E\S+)\t\S+?:(T\S+)")
SPANS_NOTE = re.compile(rf"#\S+\tAnnotatorNotes (T\S+)\tspans ({OFFSETS})\s*")

CONFIGURATION = """\
[entities]
{entities}

[relations]
{relations}
# Entities may lie in one another and cross.
<OVERLAP>\tArg1:<ENTITY>, Arg2:<ENTITY>, <OVL-TYPE>:<ANY>

[events]

[attributes]
{attributes}
"""


# --- warehouse -> folder --------------------------------------------------------------------


def export_brat(root: Path, out: Path, *, partition: str | None = None) -> dict[str, int]:
    """Writes the processed documents of a warehouse as a BRAT folder.

    The folder appears whole or not at all. Where a document stands in several partitions, the last one counts.

    Args:
        root: the warehouse.
        out: the folder; it must not exist yet or be empty, so that nobody's corrections are lost.
        partition: ``YYYY-MM-DD``; all if not given.

    Returns:
        How many ``documents``, ``entities`` and ``relations`` were written, and how many documents were
        ``left_out``, because no tagger has seen them.

    Raises:
        MedpipeError: WAREHOUSE_INVALID, OUTPUT_EXISTS, DISK_FULL, PERMISSION_DENIED.
    """
    counts = {"documents": 0, "entities": 0, "relations": 0, "left_out": 0}
    labels, types = dict.fromkeys(LABELS), dict[str, None]()
    notes = latest_notes(root, partition)
    with whole_folder(out) as aside:
        for note in notes:
            document = note.document
            if document["status"] != "processed":
                counts["left_out"] += 1
                continue
            entities = [_entity(row) for row in note.entities]
            relations = [
                {"type": row["type"], "head": row["head_entity_id"], "tail": row["tail_entity_id"]}
                for row in note.relations
            ]
            written = write_document(aside, document["document_id"], document["text"], entities, relations)
            labels |= dict.fromkeys(entity["type"] for entity in entities)
            types |= dict.fromkeys(relation["type"] for relation in relations)
            counts["documents"] += 1
            counts["entities"] += written[0]
            counts["relations"] += written[1]
        write_configuration(aside, labels, sorted(types), ASSERTIONS)
    return counts


def _entity(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of ``entities`` in the corpus format."""
    return {
        "id": row["entity_id"],
        "type": row["label"],
        "spans": spans_of(row),
        "attributes": assertions_of(row),
    }


# --- corpus format -> files -----------------------------------------------------------------


def write_document(
    folder: Path, doc_id: str, text: str, entities: Sequence[Mapping[str, Any]], relations: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    """Writes the two files of a document in the corpus format.

    Args:
        folder: where they go.
        doc_id: their name; a hash of it where it is not safe as one.
        text: written as it is.
        entities: with ``id``, ``type``, ``spans`` and optionally ``attributes``; numbered ``T1``, ``T2``, … in their
            order, unless their ids have this form already. One that holds nothing but line breaks has no form in BRAT
            and is left out, with its relations.
        relations: with ``type``, ``head``, ``tail``.

    Returns:
        How many entities and relations were written.
    """
    name = doc_id if SAFE_NAME.fullmatch(doc_id) else make_id("document", doc_id)
    (folder / f"{name}.txt").write_bytes(text.encode("utf-8"))
    entities = [entity for entity in entities if cut_at_line_breaks(text, entity["spans"])]
    keep = all(re.fullmatch(r"T\d+", entity["id"]) for entity in entities)
    ids = {entity["id"]: entity["id"] if keep else f"T{number}" for number, entity in enumerate(entities, 1)}
    lines: list[str] = []
    attributes: list[tuple[str, str]] = []
    notes: list[tuple[str, Spans]] = []
    for entity in entities:
        spans = sorted((int(start), int(end)) for start, end in entity["spans"])
        pieces = cut_at_line_breaks(text, spans)
        words = " ".join(text[start:end] for start, end in pieces)
        lines.append(f"{ids[entity['id']]}\t{entity['type']} {format_spans(pieces)}\t{words}")
        attributes += [(ids[entity["id"]], attribute) for attribute in entity.get("attributes", ())]
        if join_at_line_breaks(text, pieces) != spans:
            notes.append((ids[entity["id"]], spans))
    for number, (target, attribute) in enumerate(attributes, 1):
        kind, _, value = attribute.partition(":")
        lines.append(f"A{number}\t{kind} {target}" + (f" {value}" if value else ""))
    relations = [relation for relation in relations if {relation["head"], relation["tail"]} <= set(ids)]
    for number, relation in enumerate(relations, 1):
        lines.append(f"R{number}\t{relation['type']} Arg1:{ids[relation['head']]} Arg2:{ids[relation['tail']]}")
    for number, (target, spans) in enumerate(notes, 1):
        lines.append(f"#{number}\tAnnotatorNotes {target}\tspans {format_spans(spans)}")
    (folder / f"{name}.ann").write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    return len(entities), len(relations)


def write_configuration(folder: Path, labels: Iterable[str], types: Iterable[str], attributes: Iterable[str]) -> None:
    """Writes ``annotation.conf``, without which brat shows nothing."""
    content = CONFIGURATION.format(
        entities="\n".join(labels),
        relations="\n".join(f"{kind}\tArg1:<ENTITY>, Arg2:<ENTITY>" for kind in types),
        attributes="\n".join(f"{name}\tArg:<ENTITY>" for name in attributes),
    )
    (folder / "annotation.conf").write_text(content, encoding="utf-8")


def cut_at_line_breaks(text: str, spans: Iterable[tuple[int, int]]) -> Spans:
    """Returns the parts of spans that lie on one line each."""
    return [match.span() for start, end in spans for match in UNBROKEN.finditer(text, start, end)]


def join_at_line_breaks(text: str, pieces: Iterable[tuple[int, int]]) -> Spans:
    """Returns the spans with those joined between which is a line break and nothing but white space."""
    joined: Spans = []
    for start, end in pieces:
        gap = text[joined[-1][1] : start] if joined else ""
        if gap.isspace() and BROKEN.search(gap):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def format_spans(spans: Iterable[tuple[int, int]]) -> str:
    """Returns spans as BRAT writes them: ``0 5;8 12``."""
    return ";".join(f"{start} {end}" for start, end in spans)


def parse_spans(written: str) -> Spans:
    """Returns the spans that ``OFFSETS`` matched, ascending."""
    return sorted((int(start), int(end)) for start, end in (part.split(" ") for part in written.split(";")))


# --- folder -> corpus format ----------------------------------------------------------------


def read_brat(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the documents of a BRAT folder, subfolders included, by name, in the corpus format.

    A text without its ``.ann`` file is left out: nobody has annotated it, and "nothing in it" would be a claim.

    Yields:
        ``doc_id`` (path below the folder, without suffix), ``text``, ``entities`` (``id``, ``type``, ``spans`` and,
        where there are some, ``attributes``: ``negated`` or ``Certainty:Low``), ``relations``.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND where there is no folder with an ``.ann`` file; CORPUS_INVALID with the line.
    """
    paths = sorted(folder.rglob("*.ann")) if folder.is_dir() else []
    if not paths:
        raise MedpipeError("CORPUS_NOT_FOUND", path=folder)
    for path in paths:
        yield read_document(path, path.relative_to(folder).with_suffix("").as_posix())


def read_document(path: Path, doc_id: str) -> dict[str, Any]:
    """Returns the document of an ``.ann`` file, its ``.txt`` file beside it; see ``read_brat``."""
    text = _read_text(path.with_suffix(".txt"))
    entities: dict[str, dict[str, Any]] = {}
    triggers: dict[str, str] = {}  # of events
    relations: list[tuple[int, str, str, str]] = []
    attributes: list[tuple[str, str]] = []
    noted: dict[str, Spans] = {}
    # Split at LF alone: the words of a mention may hold what other functions take for the end of a line.
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if match := ENTITY.fullmatch(line):
            identifier, kind, written, words = match.groups()
            spans = parse_spans(written)
            _check_entity(path, number, text, spans, words, known=identifier in entities)
            entities[identifier] = {"id": identifier, "type": kind, "spans": spans}
        elif match := RELATION.fullmatch(line):
            kind, *arguments = match.groups()
            (_, head), (_, tail) = sorted([(arguments[0], arguments[1]), (arguments[2], arguments[3])])
            relations.append((number, kind, head, tail))
        elif match := ATTRIBUTE.fullmatch(line):
            kind, target, value = match.groups()
            attributes.append((target, f"{kind}:{value}" if value else kind))
        elif match := EVENT.match(line):
            triggers[match[1]] = match[2]
        elif match := SPANS_NOTE.fullmatch(line):
            noted[match[1]] = parse_spans(match[2])
        elif line[:1] in ("T", "R", "A", "M", "E"):
            raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason=f"no {line[0]} line of BRAT")
    for identifier, entity in entities.items():
        # A note of ours is true as long as the entity stands where it stood.
        pieces, spans = entity["spans"], noted.get(identifier, [])
        unmoved = cut_at_line_breaks(text, spans) == pieces
        entity["spans"] = [list(span) for span in (spans if unmoved else join_at_line_breaks(text, pieces))]
    for target, attribute in attributes:  # those of relations have no place in the corpus format
        if entity_of := entities.get(triggers.get(target, target)):
            entity_of.setdefault("attributes", []).append(attribute)
    made = []
    for number, kind, *ends in relations:
        head, tail = (triggers.get(end, end) for end in ends)
        if not {head, tail} <= set(entities):
            raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason="a relation of what is not there")
        made.append({"type": kind, "head": head, "tail": tail})
    return {"doc_id": doc_id, "text": text, "entities": list(entities.values()), "relations": made}


def _read_text(path: Path) -> str:
    """Returns a file's text with its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise MedpipeError("CORPUS_INVALID", path=path, line=0, reason="no text beside the annotations") from error
    except UnicodeDecodeError as error:
        raise MedpipeError("CORPUS_INVALID", path=path, line=0, reason="no UTF-8") from error


def _check_entity(path: Path, number: int, text: str, spans: Spans, words: str | None, *, known: bool) -> None:
    """Raises CORPUS_INVALID where an entity cannot be what was annotated.

    Its words are compared with the text: where line ends were translated or offsets count something else than code
    points (UTF-16 units, bytes), every later mention would be taken from the wrong place.
    """
    reason = None
    if known:
        reason = "an id for the second time"
    elif any(not 0 <= start < end <= len(text) for start, end in spans):
        reason = "a span outside the text"
    elif words is not None and "".join(words.split()) != "".join(
        "".join(text[start:end] for start, end in spans).split()
    ):
        reason = "its words are not what stands at its offsets"
    if reason is not None:
        raise MedpipeError("CORPUS_INVALID", path=path, line=number, reason=reason)
