"""CDA documents (HL7 CDA R2: C-CDA R1.1 and R2.1, CCD, eICR, QRDA and others) as text, sections and facts.

The text of a document is its title and its sections as a style sheet shows them: title, narrative block, nested
sections, in order. Coded entries are not rendered: the standard has the narrative say all that they say (CDA R2
§4.3.5). A section without narrative has no heading in the text. A body that is not XML (``nonXMLBody``), and files
embedded in entries, are handed on as bytes.

Elements are known by their local names: exports have several prefixes for ``urn:hl7-org:v3``, undeclared ones, none,
or another namespace. Fragments are taken as well: a file whose root is a section, a component or a structured body.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lxml import etree

from medpipe.ingest.bodies.html import html_to_text
from medpipe.ingest.cda import mime
from medpipe.ingest.cda.narrative import local_name, narrative_lines
from medpipe.ingest.content import Refused
from medpipe.ingest.syntax import safe_xml
from medpipe.ingest.syntax.decoding import decode, decode_base64
from medpipe.records import Section
from medpipe.text.sections import section_name

LOINC, SSN = "2.16.840.1.113883.6.1", "2.16.840.1.113883.4.1"
LOINC_CODE = re.compile(r"[0-9]{1,7}-[0-9]")
# Media types of a section's text that is no narrative.
FOREIGN = re.compile(
    r"(image|audio|video|multipart)/|text/rtf|application/(pdf|(x-)?rtf|msword|zip|gzip|dicom|octet-stream|vnd\.)"
)
# Fragments that hold narrative, and those that hold only what is known of patient, author or entry.
NARRATIVE_ROOTS = frozenset({"ClinicalDocument", "component", "structuredBody", "section", "nonXMLBody"})
OTHER_ROOTS = frozenset({
    "recordTarget", "patientRole", "author", "assignedAuthor", "dataEnterer", "informant", "custodian",
    "informationRecipient", "legalAuthenticator", "authenticator", "participant", "inFulfillmentOf", "documentationOf",
    "serviceEvent", "relatedDocument", "componentOf", "encompassingEncounter", "entry", "entryRelationship",
    "observation", "act", "encounter", "procedure", "substanceAdministration", "supply", "organizer",
    "observationMedia", "templateId", "effectiveTime",
})  # fmt: skip
# Languages that have a code of two letters, by theirs of three (ISO 639-2), which BCP 47 does not use for them.
TWO_LETTERS = {
    "eng": "en", "spa": "es", "fre": "fr", "fra": "fr", "ger": "de", "deu": "de", "ita": "it", "por": "pt", "dut": "nl",
    "nld": "nl", "dan": "da", "swe": "sv", "nor": "no", "fin": "fi", "pol": "pl", "cze": "cs", "ces": "cs", "gre": "el",
    "ell": "el", "hun": "hu", "tur": "tr", "rus": "ru", "jpn": "ja", "kor": "ko", "chi": "zh", "zho": "zh", "ara": "ar",
    "heb": "he", "hin": "hi", "vie": "vi",
}  # fmt: skip
# ActStatus (HL7 v3) of a document that is no longer to be relied on.
WITHDRAWN = frozenset({"nullified", "obsolete", "cancelled"})
HEAD_BYTES = 1 << 16  # of a body, to see what it is
MOST_NESTED = 5  # documents in bodies of documents
LARGEST_UNPACKED = 64 << 20  # bytes of compressed data in the document
HTML = re.compile(r"\s*<(?:!doctype|html|body|div|p|span|table|ul|ol|b|font|h[1-6]|br|pre|strong)\b[^<>]*>", re.I)
BASE64_LINE = re.compile(r"[A-Za-z0-9+/]+={0,2}")
MAGIC_MEDIA = {b"%pdf": "application/pdf", b"{\\rtf": "text/rtf", b"<?xml": "text/xml", b"<html": "text/html"}
EMBEDDED = etree.XPath(
    "descendant-or-self::*[translate(@representation, 'b', 'B') = 'B64' or local-name() = 'observationMedia']"
)


@dataclass(frozen=True, slots=True)
class Attached:
    """A file that a document holds or names: its bytes, a reference to it, or the code of an error."""

    raw: bytes = b""
    media: str | None = None
    charset: str | None = None
    reference: str | None = None
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document as a person reads it. Exactly one of ``text``, ``body``, ``not_a_note`` and ``error`` is set."""

    text: str = ""
    sections: tuple[Section, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # columns of the document
    record: str = "0"  # ClinicalDocument/root^extension of its id
    body: Attached | None = None  # of a document whose body is not XML
    attached: tuple[Attached, ...] = ()  # files embedded in entries and sections
    not_a_note: str | None = None  # what it is instead
    uncounted: tuple[str, ...] = ()  # kinds of what else it holds that is no note: images
    error: str | None = None  # a code of medpipe.errors
    fields: Mapping[str, object] = field(default_factory=dict)


def is_cda(head: bytes) -> bool:
    """Says whether bytes begin like a CDA document or, in HL7's namespace, a fragment of one."""
    name = safe_xml.root_name(head)
    return name is not None and is_cda_root(*name) and (name[0] != "" or name[1] == "ClinicalDocument")


def is_cda_root(namespace: str, name: str) -> bool:
    """Says whether a root element is that of a CDA document or of a fragment."""
    hl7 = namespace == "" or namespace.startswith("urn:hl7-org")
    known = name in NARRATIVE_ROOTS or name in OTHER_ROOTS or (name == "text" and namespace != "")
    return name == "ClinicalDocument" or (hl7 and known)


def render(raw: bytes) -> Rendered:
    """Returns a document as text, with what it and those around it say; its body is no document in its turn.

    Never raises for bad content.
    """
    said: dict[str, Any] = {}
    for _ in range(MOST_NESTED):
        rendered = render_one(raw)
        said = {**rendered.facts, **{name: fact for name, fact in said.items() if fact is not None}}
        body = rendered.body
        if body is None or not (is_cda(body.raw[:HEAD_BYTES]) or mime.is_package(body.raw)):
            return replace(rendered, facts=said)
        raw = body.raw
    return Rendered(error="RECORD_INVALID", fields={"where": f"documents in documents, more than {MOST_NESTED} deep"})


def render_one(raw: bytes) -> Rendered:
    """Returns one document, given as bytes (XML, or a MIME package of it), as text; never raises for bad content.

    A reference of its body is resolved in the package only. The body of a package without XML is its first part.
    """
    try:
        parts = mime.parts_of(raw) if mime.is_package(raw) else []
        document = next((part.raw for part in parts if part.is_xml), None)
        if parts and document is None:
            return Rendered(body=Attached(parts[0].raw, parts[0].media, parts[0].charset))
        root, encoding = safe_xml.parse(raw if document is None else document)
    except Refused as refused:
        return Rendered(error=refused.code, fields=refused.fields)
    documents = list(document_elements(root))
    if len(documents) != 1:
        return Rendered(error="RECORD_INVALID", fields={"where": "root element"})
    rendered = render_element(documents[0], encoding)
    part = mime.find_part(parts, rendered.body.reference) if rendered.body and rendered.body.reference else None
    if part is not None:
        rendered = replace(rendered, body=Attached(part.raw, part.media, part.charset))
    return rendered


def document_elements(root: etree._Element) -> Iterator[etree._Element]:
    """Yields the documents of a file: its root, or those that a wrapper holds; nothing where it is no CDA."""
    namespace, name = safe_xml.split_tag(root)
    if name == safe_xml.SEVERAL:
        for one in root.iterchildren("*"):
            yield from document_elements(one)
    elif is_cda_root(namespace, name):
        yield root
    else:
        yield from root.iter("{*}ClinicalDocument")


def render_element(root: etree._Element, encoding: str | None = None) -> Rendered:
    """Returns a document, or a fragment, as text."""
    facts, record = (header_facts(root), record_name(root)) if is_document(root) else ({}, "0")
    facts["encoding"] = encoding
    name = safe_xml.split_tag(root)[1]
    parts = list(section_parts(root))
    text, sections = assemble(words(child(root, "title")) if is_document(root) else None, parts)
    bodies = [content for body in root.iter("{*}nonXMLBody") for content in children(body, "text")]
    bodies = [root] if name == "text" else bodies
    if not text and bodies and has_markup(bodies[0]):
        text = "\n".join(narrative_lines(bodies.pop(0)))
    body = attached_of(bodies.pop(0)) if bodies and not text else None
    in_entries, uncounted = embedded(root)
    attached = [file for part in parts for file in part.files] + in_entries + [attached_of(one) for one in bodies]
    error = not_a_note = None
    if not text and body is None:
        if name in OTHER_ROOTS:
            not_a_note = f"CDA fragment ({name})"
        elif any(part.files for part in parts):
            not_a_note = "CDA document (its text is attached)"
        else:
            error = "TEXT_EMPTY" if any(part.has_text for part in parts) else "TEXT_MISSING"
    return Rendered(text, sections, facts, record, body, tuple(attached), not_a_note, tuple(uncounted), error)


# --- sections -------------------------------------------------------------------------------


@dataclass(slots=True)
class Part:
    """A section while the text is put together."""

    parent: int | None
    depth: int
    title: str | None
    code: str | None
    lines: list[str]
    files: list[Attached]
    has_text: bool  # it has a narrative block, though perhaps an empty one
    kept: bool = False  # it, or a section in it, says something


def assemble(title: str | None, parts: Sequence[Part]) -> tuple[str, tuple[Section, ...]]:
    """Returns the text of a title and sections, and the sections.

    Every section lasts until the next that is not inside it begins; text before the first is the section ``body``.
    The text is empty where no narrative says anything.
    """
    for part in reversed(parts):
        part.kept = part.kept or bool(part.lines)
        if part.kept and part.parent is not None:
            parts[part.parent].kept = True
    kept = [index for index, part in enumerate(parts) if part.kept]
    if not kept:
        return "", ()
    chunks: list[str] = []
    places: list[tuple[int, int]] = []  # start and beginning of the body
    length = 0
    if title:
        chunks += [title, "\n\n"]
        length = len(title) + 2
    for index in kept:
        part = parts[index]
        narrative = "\n".join(part.lines)
        heading = part.title or ""
        between = "\n" if heading and narrative else ""
        behind = "\n\n" if heading or narrative else ""
        places.append((length, length + len(heading) + len(between)))
        for chunk in (heading, between, narrative, behind):
            chunks.append(chunk)
            length += len(chunk)
    text = "".join(chunks).rstrip("\n")
    sections = [Section("body", 0, len(title) + 2, 0)] if title else []
    first = len(sections)
    numbers = {index: number for number, index in enumerate(kept, first)}
    ends = section_ends([parts[index].depth for index in kept], [start for start, _ in places], len(text))
    for index, (start, body), end in zip(kept, places, ends, strict=True):
        part = parts[index]
        name, code = ("body", None) if part.title is None and part.code is None else section_name(part.title, part.code)
        parent = None if part.parent is None else numbers[part.parent]
        sections.append(Section(name, start, end, min(body, end), part.title, code or part.code, parent))
    return text, tuple(sections)


def section_ends(depths: list[int], starts: list[int], length: int) -> list[int]:
    """Returns where each section ends: where the next begins that is not inside it."""
    ends = [length] * len(depths)
    open_ones: list[int] = []
    for index, depth in enumerate(depths):
        while open_ones and depths[open_ones[-1]] >= depth:
            ends[open_ones.pop()] = starts[index]
        open_ones.append(index)
    return ends


def section_parts(root: etree._Element) -> Iterator[Part]:
    """Yields all sections in the order of the document, with the number of the one that each is in."""
    footnotes = numbered_footnotes(root)
    count = 0
    inside: list[int] = []  # numbers of the sections that are open
    events = etree.iterwalk(root, events=("start", "end"), tag=("{*}section", "{*}text"))
    for event, element in events:
        if local_name(element.tag) == "text":
            if event == "start":
                events.skip_subtree()  # there may be HTML's <section> in it
        elif event == "start":
            yield section_part(element, inside, footnotes)
            inside.append(count)
            count += 1
        else:
            inside.pop()


def numbered_footnotes(root: etree._Element) -> dict[str, int]:
    """Returns the numbers of the footnotes that something refers to, by their IDs."""
    wanted = {mark.get("IDREF") for mark in root.iter("{*}footnoteRef")}
    notes = [note.get("ID", "") for note in root.iter("{*}footnote") if note.get("ID") in wanted]
    return {identifier: number for number, identifier in enumerate(notes, 1)}


def section_part(section: etree._Element, inside: Sequence[int], footnotes: Mapping[str, int]) -> Part:
    """Returns a section with the lines of its own narrative and the files that stand in their place."""
    code = child(section, "code")
    title = words(child(section, "title")) or (code_words(code) if code is not None else None)
    texts = children(section, "text")
    lines: list[str] = []
    files: list[Attached] = []
    for text in texts:
        if is_foreign(text):
            content = attached_of(text)
            plain = plain_lines(content)
            lines += plain
            if not plain and content.error != "TEXT_EMPTY":
                files.append(content)
        else:
            lines += narrative_lines(text, footnotes)
    parent = inside[-1] if inside else None
    return Part(parent, len(inside), title, loinc_of(code), lines, files, bool(texts))


def is_foreign(text: etree._Element) -> bool:
    """Says whether a section's text is no narrative markup: base64, another media type, escaped HTML or RTF."""
    if has_markup(text):
        return False
    if (text.get("representation") or "").upper() == "B64" or FOREIGN.match(media_of(text)):
        return True
    written = (text.text or "")[:1000]
    return written.lstrip().startswith("{\\rtf") or HTML.match(written) is not None


def plain_lines(content: Attached) -> list[str]:
    """Returns the lines of a file that is plain text or HTML; of others, and broken ones, none."""
    if content.error or content.reference or content.media not in ("text/plain", "text/html", None):
        return []
    decoded = decode(content.raw, content.charset)
    if decoded.error:
        return []
    plain = html_to_text(decoded.text) if HTML.match(decoded.text[:1000]) else decoded.text
    lines = plain.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n")
    return [line.rstrip() for line in lines] if any(lines) else []


# --- the header -----------------------------------------------------------------------------


def header_facts(document: etree._Element) -> dict[str, Any]:
    """Returns what the header says of the document, as columns of a document."""
    code = child(document, "code")
    title = child(document, "title")
    status = child(document, "statusCode")  # an extension: sdtc:statusCode
    related = child(document, "relatedDocument")
    return {
        "patient_id": id_of(document, "recordTarget", "patientRole"),
        "encounter_id": id_of(document, "componentOf", "encompassingEncounter"),
        "note_type": (code_words(code) if code is not None else None) or words(title),
        "note_type_code": loinc_of(code),
        "note_status": value(status, "code") or value(related, "typeCode"),
        "authored_at": time_of(child(document, "effectiveTime")) or time_of(child(document, "author", "time")),
        "language": language_of(child(document, "languageCode")),
    }


def record_name(document: etree._Element) -> str:
    """Returns the record's name: ``ClinicalDocument/root^extension`` of its id, ``0`` where it has none."""
    identifier = child(document, "id")
    parts = [part[:200] for part in (value(identifier, "root"), value(identifier, "extension")) if part]
    return f"ClinicalDocument/{'^'.join(parts)}" if parts else "0"


def id_of(document: etree._Element, *path: str) -> str | None:
    """Returns the id of a role or act: the extension of the first that is no social security number, or the root."""
    above = child(document, *path)
    written = children(above, "id") if above is not None else []
    found = [one for one in written if value(one, "extension") or usable_root(one)]
    found.sort(key=lambda one: (not value(one, "extension"), value(one, "root") == SSN))
    return (value(found[0], "extension") or value(found[0], "root")) if found else None


def usable_root(identifier: etree._Element) -> bool:
    """Says whether an id without extension names something: no unknown id, no authority in place of an id."""
    return value(identifier, "nullFlavor") is None and value(identifier, "root") not in (None, SSN)


def language_of(code: etree._Element | None) -> str | None:
    """Returns the language if what is written looks like one, as BCP 47 has it; ``english`` and worse occur."""
    written = (value(code, "code") or "").replace("_", "-")
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", written):
        return None
    primary, dash, rest = written.partition("-")
    return TWO_LETTERS.get(primary.lower(), primary) + dash + rest


def time_of(time: etree._Element | None) -> str | None:
    """Returns a time as it is written, or the beginning of an interval."""
    if time is None:
        return None
    return value(time, "value") or value(child(time, "low"), "value") or value(child(time, "center"), "value")


def code_words(code: etree._Element) -> str | None:
    """Returns what a code is called."""
    for one in (code, *children(code, "translation")):
        if name := value(one, "displayName"):
            return name
    return words(child(code, "originalText"))


def loinc_of(code: etree._Element | None) -> str | None:
    """Returns the LOINC code of a code or of its translations."""
    if code is None:
        return None
    for one in (code, *children(code, "translation")):
        written = value(one, "code") or ""
        if value(one, "codeSystem") in (LOINC, None) and LOINC_CODE.fullmatch(written):
            return written
    return None


# --- files in the document ------------------------------------------------------------------


def embedded(root: etree._Element) -> tuple[list[Attached], list[str]]:
    """Returns files that entries hold, and the kinds of what is not a note.

    A file whose text the narrative has too (the act's text refers to it, as C-CDA's Note Activity asks) is counted
    and not taken again; so are images, which illustrate the narrative.
    """
    attached: list[Attached] = []
    uncounted: list[str] = []
    said: dict[str, bool] | None = None  # ID -> there is text
    for element in EMBEDDED(root):
        name = local_name(element.tag)
        above = element.getparent()
        if name == "observationmedia":
            media = child(element, "value")
            if media is not None and (media.get("representation") or "").upper() != "B64":
                uncounted.append("CDA image" if media_of(media).startswith("image/") else "CDA reference to a file")
            continue
        if above is None or name not in ("text", "value") or local_name(above.tag) in ("nonxmlbody", "section"):
            continue  # the document's body or narrative; a title, a thumbnail, a signature
        content = attached_of(element)
        if (content.media or "").startswith("image/"):
            uncounted.append("CDA image")
            continue
        if said is None:
            said = {one.get("ID", ""): words(one) is not None for one in root.iter("*") if one.get("ID")}
        if said.get((value(child(element, "reference"), "value") or "").removeprefix("#")):
            uncounted.append("CDA attachment (its text is in the narrative)")
        elif content.error != "TEXT_EMPTY":
            attached.append(replace(content, facts=act_facts(above)))
    return attached, uncounted


def act_facts(act: etree._Element) -> dict[str, Any]:
    """Returns what an act says of the note that it holds, where it says it."""
    code = child(act, "code")
    best = code
    if code is not None and value(code, "code") == "34109-9":  # "Note": the translation tells which
        best = child(code, "translation") if child(code, "translation") is not None else code
    facts = {
        "note_type": code_words(best) if best is not None else None,
        "note_type_code": loinc_of(best),
        "authored_at": time_of(child(act, "author", "time")) or time_of(child(act, "effectiveTime")),
    }
    return {name: fact for name, fact in facts.items() if fact}


def attached_of(content: etree._Element, representation: str = "TXT") -> Attached:
    """Returns the bytes of encapsulated data (HL7 data type ED), or the reference in place of them.

    ``representation`` is that of data that does not say its own.
    """
    media, charset = media_of(content) or None, content.get("charset")
    written = "".join([content.text or "", *(part.tail or "" for part in content)]).strip()
    coded = (content.get("representation") or representation).upper() == "B64"
    reference = value(child(content, "reference"), "value") or value(child(content, "Include"), "href")  # or XOP's
    if not written and reference is None:
        return Attached(media=media, error="TEXT_EMPTY")
    if not written and reference is not None:
        if not reference.lower().startswith("data:"):
            return Attached(media=media, charset=charset, reference=reference)
        head, _, written = reference.partition(",")
        media, coded = head[5:].split(";")[0].lower() or media, head.lower().endswith(";base64")
    if not coded and not looks_base64(written, media):
        return Attached(written.encode("utf-8", "surrogatepass"), media or "text/plain", "utf-8")
    raw = decode_base64(written)
    if raw is None:
        return Attached(media=media, error="BASE64_INVALID")
    if packed := content.get("compression"):
        raw = unpack(raw, packed)
        if raw is None:
            return Attached(media=media, error="ARCHIVE_INVALID")
    if media is None or "/" not in media:
        start = raw[:64].lstrip().lower()
        media = next((kind for magic, kind in MAGIC_MEDIA.items() if start.startswith(magic)), None)
    return Attached(raw, media, charset)


def looks_base64(written: str, media: str | None) -> bool:
    """Says whether data that does not say so is base64: of a type that is no text, or lines of equal length of it."""
    if media is not None and not media.startswith("text/") and "xml" not in media:
        return True
    lines = [line.strip() for line in written.split("\n")]
    size = sum(map(len, lines))
    return (
        size >= 64
        and size % 4 == 0
        and len({len(line) for line in lines[:-1]}) <= 1
        and all(BASE64_LINE.fullmatch(line) for line in lines)
    )


def unpack(raw: bytes, packed: str) -> bytes | None:
    """Returns data that was compressed (ED.compression); ``None`` where it is broken, too large or unknown."""
    bits = {"DF": -15, "ZL": 15, "GZ": 31}.get(packed.upper())
    if bits is None:
        return None
    try:
        stream = zlib.decompressobj(bits)
        found = stream.decompress(raw, LARGEST_UNPACKED)
    except zlib.error:
        return None
    return found if stream.eof else None


# --- elements -------------------------------------------------------------------------------


def is_document(root: etree._Element) -> bool:
    """Says whether an element is a whole document, which has a header."""
    return local_name(root.tag) == "clinicaldocument"


def children(element: etree._Element, name: str) -> list[etree._Element]:
    """Returns the children of a local name."""
    return list(element.iterchildren(f"{{*}}{name}"))


def child(element: etree._Element, *path: str) -> etree._Element | None:
    """Returns the first child of a local name, and so on down the path."""
    found: etree._Element | None = element
    for name in path:
        found = next(found.iterchildren(f"{{*}}{name}"), None) if found is not None else None
    return found


def value(element: etree._Element | None, attribute: str) -> str | None:
    """Returns an attribute without white space around it; ``None`` where it is missing or empty."""
    written = element.get(attribute) if element is not None else None
    return (written.strip() or None) if written else None


def words(element: etree._Element | None) -> str | None:
    """Returns the text of an element in one line."""
    return " ".join("".join(element.itertext()).split()) or None if element is not None else None


def has_markup(content: etree._Element) -> bool:
    """Says whether a body that should not be XML is a narrative all the same."""
    return any(local_name(one.tag) not in ("reference", "thumbnail") for one in content.iterchildren("*"))


def media_of(content: etree._Element) -> str:
    """Returns the media type in lower case, without parameters."""
    return (content.get("mediaType") or "").partition(";")[0].strip().lower()
