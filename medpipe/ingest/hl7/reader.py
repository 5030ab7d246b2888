"""HL7 v2 messages: which of their text is a note, and what they say about it.

**What is a note.** A report: an OBR with what follows it; a TXA with the whole of its message (MDM); or a message that
has neither. It is a note where it holds prose:

- TX and FT of more than one word that are no bare result ("Not detected", "5.4 mg/dL"), also in any other report that
  holds prose, and everything that MDM and the old display segments (DSP) carry;
- ST, text without a type, and coded values that are only words, of eight words and more in one observation identifier,
  or on more than one line, or named as part of a report (IMPRESSION, FINDINGS, ``&IMP``), or of a service of imaging
  or pathology (OBR-24);
- comments (NTE), wherever they stand: they belong to the report they follow, those before the first one to that.

A note is its report as a person reads it: the observations in their order, once, those that are results as ``name:
value unit (range) flag``, repetitions as lines, the name of an observation as a heading where it changes, comments
where they stand. A report without prose (laboratory values, a lone "Positive") holds results and is counted as such;
so is a message without text.

Documents that are embedded (ED, base64 also in TX) and those that are referred to (RP) are notes of their own. Large
ones that were cut into several OBX of one identifier are put together again.

**What is current.** Observations with the status deleted, wrong or "cannot be obtained" (OBX-11 D, W, X) are left out,
with the comments that follow them; reports and documents that are cancelled, obsolete or unavailable (OBR-25, TXA-17,
TXA-19, MDM^T11) are counted, not read. A document that a later message of the same file replaces, edits or cancels
(MDM^T03, T04, T08 to T11; TXA-12, TXA-13) is counted too. A corrected ORU says nothing about which one it replaces, and
an addendum has the number of its report, so all are kept: ``note_status`` tells them apart.

**Why our own parser.** Measured on 118 files of twelve sources and on small messages, one core: ``hl7`` 0.4.5 (2022)
parses 8,000 a second, where this reader takes 40,000 from bytes to items. It parts segments at CR only (LF and CRLF
files come out as one segment or with line ends in their names: 72 of 118), loses the text of an escape sequence that it
does not know or that does not end, writes the field into the log when it does, knows no character sets and streams
nothing. ``hl7apy`` 1.3.5 takes 210 a second and refuses a quarter of the files (versions, names, encoding characters
that are not the standard's). Segments into fields is a split; what is left to do is the mess around: ``syntax``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC
from itertools import groupby
from typing import Any

from medpipe.ingest.content import Content, Refused
from medpipe.ingest.dates import parse_date, read_zone
from medpipe.ingest.hl7.embedded import (
    DOCUMENT_START,
    Embedded,
    embedded_in_text,
    embedded_reference,
    embedded_values,
    read_embedded,
)
from medpipe.ingest.hl7.syntax import (
    CHUNK,
    HEADER,
    HEADERS,
    Message,
    Recoded,
    control_id,
    message_type,
    parse_message,
    split_messages,
    wide_encoding,
)
from medpipe.ingest.notes import Reading
from medpipe.records import Document, Reject, Skipped

Item = Document | Reject | Skipped

# OBX-2 (table 0125, and what is met beside it); "" is none. Others are values that are coded or measured.
TEXT = frozenset(("TX", "FT", "TEXT", "TXT", "RTF", "HTML", "XML"))
STRING, CODED = frozenset(("ST", "", "STR", "STRING")), frozenset(("CE", "CWE", "CNE", "CF"))
EMBEDDED = frozenset(("ED", "PDF"))
MANY_WORDS = 8  # of ST in one observation identifier: no result is so long
# Words of which results are made that are text.
ANSWERS = (
    "not no non none all negative neg positive pos detected undetected reactive nonreactive seen found present absent "
    "normal abnormal high low trace few many moderate see comment comments note notes below above report attached "
    "pending in out of within limits range growth unknown indeterminate inconclusive equivocal invalid yes nil "
    "applicable done n/a na tnp qns performed test result results final preliminary"
)
RESULT_WORDS = frozenset(ANSWERS.split())
MEASURED = re.compile(r"[<>=≤≥~+-]*\s*\d[\d.,:/ +-]*\s*\S{0,15}")
# The third component of a coded value, by which one is known that is declared as text (table 0396).
CODE_SYSTEM = re.compile(
    r"LN|SCT|SNM\w{0,3}|HL7\d{4}|I9C?|I10\w?|C4|CPT\w?|RXNORM|NDC|CVX|CDCREC|UCUM|99\w{1,8}", re.ASCII
)
# OBX-3 may name the part of a report behind its code: 71020&IMP (chapter 7, Coded report section ID suffixes).
SUFFIXES = {
    "IMP": "Impression", "REC": "Recommendation", "GDT": "General Description", "MDT": "Microscopic Description",
    "TCM": "Technician's Comment", "ADT": "Addendum", "ANT": "Anatomic Site", "DEV": "Device", "CNP": "Procedures",
    "MED": "Medication",
}  # fmt: skip
REPORT_PARTS = frozenset(("impression", "impressions", "findings", "conclusion", "conclusions"))
# Diagnostic services (OBR-24, table 0074) whose results are reports.
SERVICES = "AU CP CT CTH CUS EC EN IMG MRI NMR NMS NRS OUS PAT PF PHY RAD RT RUS RX SP SR TRN US VR VUS XR XRC"
REPORT_SERVICES = frozenset(SERVICES.split())
DROPPED_RESULTS = {"D": "deleted", "W": "wrong", "X": "cancelled"}  # OBX-11, OBR-25
DROPPED_DOCUMENTS = {"CA": "cancelled", "OB": "obsolete", "UN": "unavailable"}  # TXA-17, TXA-19
MEMORY_FACTOR = 4  # a message of short segments takes more memory than a file of another format that is read whole
REPLACING = re.compile(rb"MDM[^A-Za-z0-9]T(?:03|04|08|09|10|11)")
LOINC = frozenset(("LN", "LOINC", "HTTP://LOINC.ORG", "2.16.840.1.113883.6.1"))


def read_hl7v2(content: Content, reading: Reading) -> Iterator[Item]:
    """Yields the notes of a file of messages; for a message or report without one what it is.

    A record is a report, named ``N/ID#report.R``: the number of the message in the file, its MSH-10, the report's
    number in it; or a document embedded in it (``…/OBX.K``), or a message without reports.

    Raises:
        Refused: HL7_INVALID where the file holds nothing at all.
    """
    limit = reading.max_file_bytes // MEMORY_FACTOR
    replaced = find_replaced(content, limit)
    number = 0
    for number, message in read_messages(content, limit):
        if isinstance(message, Refused):
            yield reading.reject(str(number), message.code, **message.fields)
            continue
        control = control_id(message)
        name = f"{number}/{control}" if control else str(number)
        try:
            yield from list(read_message(message, number, name, replaced, content, reading))
        except Refused as refused:
            yield reading.reject(name, refused.code, **refused.fields)
        except Exception as error:  # a bug costs one message, not the rest of the file
            yield reading.reject(name, "STAGE_FAILED", stage="ingest", kind=type(error).__name__)
    if not number:
        raise Refused("HL7_INVALID", where="there is no MSH segment")


# --- messages of a file ---------------------------------------------------------------------


def read_messages(content: Content, limit: int) -> Iterator[tuple[int, Message | Refused]]:
    """Yields the messages of a file with their numbers; what is none as what it is refused for.

    A message that was sent in fragments (DSC, then MSH-14 and ADD) is one message with the number of its first.
    """
    begun: tuple[int, Message] | None = None
    pointer, size = "", 0
    with closing(content.open()) as stream:
        encoding = wide_encoding(stream.read(64))
        stream.seek(0)
        number = 0
        for raw in split_messages(Recoded(stream, encoding) if encoding else stream, limit):
            message = _message_of(raw, encoding, limit)
            if message is None:
                continue
            number += 1
            if begun and isinstance(message, Message) and _at(message.header, 14) == pointer and size < limit:
                _go_on(begun[1], message)
                size += len(raw or b"")
            else:
                if begun:
                    yield begun
                    begun = None
                if isinstance(message, Refused):
                    yield number, message
                    continue
                begun, size = (number, message), len(raw or b"")
            pointer = _continuation(begun[1])
            if not pointer:
                yield begun
                begun = None
    if begun:
        yield begun


def _message_of(raw: bytes | None, encoding: str | None, limit: int) -> Message | Refused | None:
    """Returns the message of its bytes, or what they are refused for; ``None`` for what only surrounds messages."""
    if raw is None:
        return Refused("SOURCE_TOO_LARGE", limit=limit >> 20)
    header = raw[:3] if HEADER.match(raw) else b""
    if header != b"MSH":
        surrounds = header in HEADERS
        rest = re.sub(rb"^[^\r\n]*", b"", raw) if surrounds else raw
        if not rest.strip(b" \t\r\n\x00\x0b\x1a\x1c\x1d\xef\xbb\xbf"):
            return None
        where = "segments without MSH" if re.search(rb"(?:^|[\r\n])[A-Z][A-Z0-9]{2}\|", rest) else "text before MSH"
        return Refused("HL7_INVALID", where=where)
    message = parse_message(raw, encoding)
    if isinstance(message, Message):
        return message
    return Refused(message.error or "TEXT_UNDECODABLE", kind=message.kind)


def _continuation(message: Message) -> str:
    """Returns the pointer of the DSC segment that a fragment ends with; nothing where the message is complete."""
    last = message.lines[-1] if message.lines else ""
    fields = message.fields(last) if last.startswith("DSC") else []
    return _at(fields, 1) if _at(fields, 2) in ("", "F") else ""


def _go_on(begun: Message, fragment: Message) -> None:
    begun.lines.pop()  # its DSC
    lines = fragment.lines
    if lines and lines[0].startswith("ADD") and begun.lines:
        begun.lines[-1] += lines[0][4:]
        lines = lines[1:]
    begun.lines += lines


def find_replaced(content: Content, limit: int) -> dict[str, tuple[int, str]]:
    """Returns document numbers that messages of the file make obsolete: the number of that message, and what it does.

    Reads messages only where the file holds such as do that.
    """
    with closing(content.open()) as stream:
        encoding = wide_encoding(stream.read(64))
        stream.seek(0)
        source = Recoded(stream, encoding) if encoding else stream
        tail = b""
        while chunk := source.read(CHUNK):
            if REPLACING.search(tail + chunk):
                break
            tail = chunk[-8:]
        else:
            return {}
    replaced: dict[str, tuple[int, str]] = {}
    for number, message in read_messages(content, limit):
        if isinstance(message, Refused) or message_type(message)[0] != "MDM":
            continue
        event = message_type(message)[1]
        line = next((line for line in message.lines if line.startswith("TXA")), "")
        fields = message.fields(line)
        own, parent = (_document_number(message, _at(fields, place)) for place in (12, 13))
        has_text = any(line.startswith("OBX") for line in message.lines)
        if event == "T11" or (event in ("T03", "T04") and _status_of_document(fields)):
            replaced[own] = number, "cancelled"
        elif event in ("T09", "T10"):
            replaced[parent or own] = number, "superseded"
        if event in ("T04", "T08", "T10") and has_text:
            replaced[own] = number, "superseded"
    replaced.pop("", None)
    return replaced


def _document_number(message: Message, value: str) -> str:
    return next((part for part in value.split(message.component) if part.strip()), "").strip()


def _status_of_document(fields: list[str]) -> str | None:
    """Returns why a document is not current, by the fields of its TXA; ``None`` where it is."""
    for place in (17, 19):
        status = DROPPED_DOCUMENTS.get(_at(fields, place).strip().upper()[:2])
        if status:
            return status
    return None


# --- a message ------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """Segments of one report: PID, PV1, OBR and TXA as written, and those that hold text or results, in order."""

    patient: str = ""
    visit: str = ""
    order: str = ""
    document: str = ""
    lines: list[str] = field(default_factory=list)


def read_message(
    message: Message,
    number: int,
    name: str,
    replaced: dict[str, tuple[int, str]],
    content: Content,
    reading: Reading,
) -> Iterator[Item]:
    """Yields the notes of a message, at least one item."""
    code, event = message_type(message)
    kind = f"HL7 {code}^{event}" if code and event else f"HL7 {code or '(no type)'}"
    if not code and not message.lines:
        yield reading.reject(name, "HL7_INVALID", where="MSH is cut off")
        return
    reports = split_reports(message, by_document=code == "MDM")
    if not reports:
        yield Skipped(kind)
    for index, report in enumerate(reports, 1):
        document = message.fields(report.document)
        later, why = replaced.get(_document_number(message, _at(document, 12)), (0, ""))
        dropped = _status_of_document(document) or (why if later > number else None)
        if code != "MDM":  # there OBR tells of the order, not of the document
            dropped = dropped or DROPPED_RESULTS.get(_at(message.fields(report.order), 25).strip().upper())
        elif event == "T11":
            dropped = "cancelled"
        if dropped:
            yield Skipped(f"{kind} ({dropped})")
        else:
            yield from read_report(report, message, kind, f"{name}#report.{index}", content, reading)


def split_reports(message: Message, by_document: bool) -> list[Report]:
    """Returns the reports of a message in order.

    A report begins with OBR (with the ORC before it), in MDM with TXA. What stands before the first, of the patient or
    the visit, belongs to it. A message with neither is one report, if it holds observations or comments at all.
    """
    lines = message.lines
    start = "TXA" if by_document and any(line.startswith("TXA") for line in lines) else "OBR"
    reports: list[Report] = []
    current = Report()
    opened = False  # the current report has its OBR or TXA

    def close() -> None:
        nonlocal current, opened
        if opened or current.lines:
            reports.append(current)
        current, opened = Report(current.patient, current.visit), False

    for place, line in enumerate(lines):
        segment = line[:3]
        if segment in ("OBX", "NTE", "DSP"):
            current.lines.append(line)
        elif segment == start or (segment == "ORC" and opened and start == "OBR" and _precedes_order(lines, place)):
            if opened:
                close()
            if segment == start:
                opened = True
                current.order, current.document = (line, "") if start == "OBR" else (current.order, line)
        elif segment == "OBR":
            current.order = current.order or line
        elif segment == "TXA":
            current.document = line
        elif segment == "PID":
            if opened or (current.lines and current.patient):
                close()
            current.patient, current.visit = line, ""
        elif segment == "PV1":
            current.visit = line
    close()
    return reports


def _precedes_order(lines: list[str], place: int) -> bool:
    """Says whether the ORC at ``place`` belongs to the OBR that follows it, not to the one before (as in OUL)."""
    for following in range(place + 1, len(lines)):
        if lines[following][:3] in ("OBR", "ORC", "OBX", "TXA"):
            return lines[following].startswith("OBR")
    return False


# --- a report -------------------------------------------------------------------------------


@dataclass(slots=True)
class Observation:
    """An OBX: what it observed and the value, as text; or the document that it holds."""

    place: int  # among the OBX of its report
    fields: list[str]
    type: str
    key: str  # OBX-3 as written
    text: str = ""
    prose: bool = False
    documents: list[Embedded] = field(default_factory=list)


def read_report(
    report: Report, message: Message, kind: str, record: str, content: Content, reading: Reading
) -> Iterator[Item]:
    """Yields the note of a report and the documents embedded in it, or what it is when it holds none."""
    entries, dropped = read_entries(report, message)
    observations = [entry for entry in entries if isinstance(entry, Observation)]
    embed_documents(observations, message)
    mark_prose(observations, message, report)
    holds_prose = any(one.prose for one in observations) or any(
        re.search(r"[^\W_]", entry) for entry in entries if isinstance(entry, str)
    )
    text = render(entries, message) if holds_prose else ""
    documents = [(one.place, index, document) for one in observations for index, document in enumerate(one.documents)]
    if not text and not documents:
        results = any(observation.text.strip() for observation in observations)
        yield Skipped(f"{kind} ({'results only' if results else 'withdrawn' if dropped else 'no text'})")
        return
    facts = facts_of(report, observations, message)
    if text:
        yield reading.document(record, text, encoding=message.encoding, **facts)
    for number, again, document in documents:
        place = f"{record}/OBX.{number}" + (f".{again + 1}" if again else "")
        try:
            yield from read_embedded(document, place, content, reading, facts)
        except Refused as refused:
            yield reading.reject(place, refused.code, **refused.fields)


def read_entries(report: Report, message: Message) -> tuple[list[Observation | str], int]:
    """Returns the observations and comments of a report, and how many are left out because they are withdrawn."""
    entries: list[Observation | str] = []
    place, dropped, dropping = 0, 0, False
    for line in report.lines:
        fields = message.fields(line)
        if line.startswith("OBX"):
            place += 1
            dropping = _at(fields, 11).strip().upper() in DROPPED_RESULTS
            dropped += dropping
            if not dropping:
                type = _at(fields, 2).split(message.component, 1)[0].strip().upper()
                entries.append(Observation(place, fields, type, _at(fields, 3)))
        elif not dropping:
            entries.append(message.prose(_at(fields, 3)))  # NTE-3, DSP-3
    return entries, dropped


def embed_documents(observations: list[Observation], message: Message) -> None:
    """Sets the texts of observations, or the documents that they hold; pieces of one go to the first."""
    previous: Observation | None = None
    for observation in observations:
        value = _at(observation.fields, 5)
        if observation.type == "RP" and value.strip():
            observation.documents = [embedded_reference(value, message)]
        elif observation.type in EMBEDDED:
            observation.documents = embedded_values(value, message)
            if (
                previous is not None
                and previous.key == observation.key
                and previous.documents[-1].goes_on_with(observation.documents[0])
            ):
                previous.documents[-1].pieces += observation.documents.pop(0).pieces
                if not observation.documents:
                    continue
            previous = observation
            continue
        else:
            observation.text = value_text(observation, message)
        previous = None
    if any(DOCUMENT_START.match(one.text) for one in observations):
        embed_text(observations)


def embed_text(observations: list[Observation]) -> None:
    """Takes documents that are written into text out of it: over all lines of one identifier, or in one of them."""
    texts = [one for one in observations if one.type in TEXT | STRING]
    for _, lines in groupby(texts, key=lambda one: (one.key, one.type)):
        run = list(lines)
        document = embedded_in_text("\n".join(one.text for one in run)) if DOCUMENT_START.match(run[0].text) else None
        if document is not None:
            run[0].documents = [document]
            for one in run:
                one.text = ""
            continue
        for one in run:
            if DOCUMENT_START.match(one.text) and (document := embedded_in_text(one.text)):
                one.documents, one.text = [document], ""


def value_text(observation: Observation, message: Message) -> str:
    """Returns the value of an observation as a person reads it: text as it is, components one after the other."""
    value = _at(observation.fields, 5)
    if observation.type in TEXT | STRING:
        words = value.split(message.component, 6)
        if len(words) in (3, 6) and CODE_SYSTEM.fullmatch(words[2]):
            observation.type = "CE"
        else:
            return message.prose(value).replace("\r\n", "\n").replace("\r", "\n")
    texts = []
    for part in value.split(message.repetition):
        if message.component not in part:
            texts.append(message.text(part))
        elif observation.type in CODED:
            words = part.split(message.component)
            texts.append(message.text(next((words[at] for at in (1, 8, 4, 0) if _at(words, at).strip()), "")))
        else:
            between = "" if observation.type == "SN" else " "
            texts.append(between.join(message.text(word) for word in part.split(message.component) if word.strip()))
    return ", ".join(text for text in texts if text)


def mark_prose(observations: list[Observation], message: Message, report: Report) -> None:
    """Decides which observations are prose (see above, What is a note); all of one identifier are, or none."""
    service = message.first(_at(message.fields(report.order), 24)).upper()
    always = bool(report.document) or service in REPORT_SERVICES
    strings: dict[str, list[Observation]] = {}
    prose: set[str] = set()
    for one in observations:
        if not one.text or one.text.isspace():
            continue
        if one.type in TEXT:
            if always or not is_result(one.text) or is_heading(one, message):
                prose.add(one.key)
        elif one.type in STRING:
            strings.setdefault(one.key, []).append(one)
            if (always or is_heading(one, message)) and re.search(r"[^\W\d_]", one.text):
                prose.add(one.key)
        elif one.type in CODED and _at(one.fields, 5).startswith(message.component):
            strings.setdefault(one.key, []).append(one)
    for key, same in strings.items():
        words = sum(1 for one in same for word in one.text.split() if word.strip(".,;:()").isalpha())
        several_lines = any("\n" in one.text.strip() and not is_result(one.text) for one in same)
        if several_lines or words >= max(MANY_WORDS, 2 * len(same)):
            prose.add(key)
    for one in observations:
        one.prose = one.key in prose and one.type in TEXT | STRING | CODED


def is_result(text: str) -> bool:
    """Says whether text is a bare result: one word, a measured value, or only words of which results are made."""
    words = text.split(None, MANY_WORDS)
    if len(words) < 2 or (len(text) < 60 and MEASURED.fullmatch(text.strip())):
        return True
    return len(words) < MANY_WORDS and all(word.strip(".,;:!()*").lower() in RESULT_WORDS for word in words)


def is_heading(observation: Observation, message: Message) -> bool:
    """Says whether OBX-3 names a part of a report."""
    label, part = label_of(observation.key, message)
    return part or label.lower() in REPORT_PARTS


def label_of(key: str, message: Message) -> tuple[str, bool]:
    """Returns the words of OBX-3, and whether they are the name of a part of a report by its suffix."""
    words = key.split(message.repetition, 1)[0].split(message.component)
    code = words[0].split(message.subcomponent)
    if len(code) > 1 and code[-1].upper() in SUFFIXES:
        return SUFFIXES[code[-1].upper()], True
    label = next((words[at] for at in (1, 8, 4, 0, 3) if _at(words, at).strip()), "")
    return " ".join(message.text(label).split())[:200], False


def render(entries: list[Observation | str], message: Message) -> str:
    """Returns the text of a note: observations and comments in their order, names where they tell something."""
    observations = [entry for entry in entries if isinstance(entry, Observation)]
    several = len({one.key for one in observations if one.text.strip()}) > 1
    labels = {key: label_of(key, message)[0] for key in {one.key for one in observations}}
    lines: list[str] = []
    heading = ""  # of the lines before
    for entry in entries:
        if isinstance(entry, str):
            lines.append(entry)
            continue
        label = labels[entry.key]
        if not entry.prose:
            if entry.text.strip():
                lines.append(result_line(entry, label, message))
                heading = ""
            continue
        if several and entry.text.strip() and label != heading:
            heading = label
            if label and not entry.text.lstrip().lower().startswith(label.lower()):
                lines.append(label if label.endswith(":") else f"{label}:")
        if not entry.documents:
            lines.append(entry.text)
    return "\n".join(lines).strip("\n")


def result_line(observation: Observation, label: str, message: Message) -> str:
    """Returns ``name: value unit (range) flag``; that a value is normal goes without saying."""
    fields = observation.fields
    unit, limits = message.first(_at(fields, 6)), message.text(_at(fields, 7))
    flag = message.first(_at(fields, 8))
    parts = [observation.text.strip(), unit, f"({limits})" if limits else "", "" if flag == "N" else flag]
    value = " ".join(part for part in parts if part)
    return f"{label.removesuffix(':')}: {value}" if label else value


# --- what a report says about itself -----------------------------------------------------------


def facts_of(report: Report, observations: list[Observation], message: Message) -> dict[str, Any]:
    """Returns the columns of the report's documents.

    The time is when the document was made: TXA-6 (origination), TXA-4 (activity), TXA-7 (transcription); of a result
    OBR-7 (when it was observed), OBR-22 (reported); else OBX-14 and MSH-7; the first that is a date. A time without a
    zone is in that of MSH-7 (chapter 2A, DTM).
    """
    order, document = message.fields(report.order), message.fields(report.document)
    keys = {one.key for one in observations if one.prose or one.documents}
    only_key = keys.pop() if len(keys) == 1 else ""
    names = [_at(document, 2), _at(order, 4), only_key]
    times = [_at(document, place) for place in (6, 4, 7)] + [_at(order, place) for place in (7, 22)]
    times += [_at(one.fields, 14) for one in observations[:1]] + [_at(message.header, 7)]
    written = [time for value in times if (time := message.first(value))]
    status = [_at(document, 17), _at(order, 25), *(_at(one.fields, 11) for one in observations[:1])]
    return {
        "patient_id": patient_of(message.fields(report.patient), message),
        "encounter_id": _first_of(message, message.fields(report.visit), 19, 50)
        or _first_of(message, message.fields(report.patient), 18),
        "note_type": next((words for name in names if (words := words_of(name, message))), None),
        "note_type_code": next((code for name in names if (code := loinc_of(name, message))), None),
        "note_status": next((text for value in status if (text := message.first(value))), None),
        "authored_at": next((time for time in written if parse_date(time)[0]), written[0] if written else None),
        "zone": read_zone(_at(message.header, 7).split(message.component, 1)[0]) or UTC,
    }


def patient_of(fields: list[str], message: Message) -> str | None:
    """Returns the id of PID-3: the medical record number, the internal one, or the first; else PID-2 or PID-4."""
    found: dict[str, str] = {}
    for part in _at(fields, 3).split(message.repetition):
        value = message.first(part)
        if value:
            found.setdefault(message.first(part, 5).upper(), value)
    for type in ("MR", "MRN", "PI", "PT"):
        if type in found:
            return found[type]
    return next(iter(found.values()), None) or _first_of(message, fields, 2, 4)


def _first_of(message: Message, fields: list[str], *places: int) -> str | None:
    return next((value for place in places if (value := message.first(_at(fields, place)))), None)


def words_of(coded: str, message: Message) -> str | None:
    """Returns the words of a coded field, or its code where it has no words."""
    return next((words for place in (2, 9, 5, 1) if (words := " ".join(message.first(coded, place).split()))), None)


def loinc_of(coded: str, message: Message) -> str | None:
    """Returns the LOINC code of a coded field, if it is one or has one as its alternative."""
    for place in (1, 4, 10):
        if message.first(coded, place + 2).upper() in LOINC:
            return message.first(coded, place) or None
    return None


def _at(fields: list[str], place: int) -> str:
    """Returns a field, empty where the segment ends before it."""
    return fields[place] if place < len(fields) else ""
