"""CDA files: XML documents, fragments of them, wrappers around them, and MIME packages that hold them.

A file is one record for each ``ClinicalDocument`` in it (or one for a fragment), one for each file that is embedded in
an entry, and one for each image, which is counted. XML that is known to be no note (style sheets, schemas, the
metadata of an XDM package) is counted; XML that no reader knows is refused, for it may hold notes.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from lxml import etree

from medpipe.ingest.cda import mime
from medpipe.ingest.cda.text import (
    WITHDRAWN,
    Attached,
    Rendered,
    attached_of,
    document_elements,
    is_cda,
    is_cda_root,
    render_element,
)
from medpipe.ingest.content import Content, Refused
from medpipe.ingest.notes import Reading
from medpipe.ingest.syntax import safe_xml
from medpipe.records import Document, Reject, Skipped

XDS = "urn:ihe:iti:xds-b:2007"  # requests and answers that carry documents in base64 (IHE ITI TF-2, 3.41 and 3.43)
Item = Document | Reject | Skipped
Beside = Callable[[str], Content | None]

# Roots of XML that is no note, by namespace (or a part of it) and local name.
NOT_NOTES: tuple[tuple[str, str, str], ...] = (
    ("http://www.w3.org/1999/XSL/Transform", "stylesheet", "XSL style sheet"),
    ("http://www.w3.org/1999/XSL/Transform", "transform", "XSL style sheet"),
    ("http://www.w3.org/2001/XMLSchema", "schema", "XML schema"),
    ("http://purl.oclc.org/dsdl/schematron", "schema", "Schematron schema"),
    ("http://www.ascc.net/xml/schematron", "schema", "Schematron schema"),
    ("http://purl.oclc.org/dsdl/svrl", "schematron-output", "Schematron report"),
    ("urn:oasis:names:tc:ebxml-regrep", "SubmitObjectsRequest", "XDM metadata"),
    ("urn:oasis:names:tc:ebxml-regrep", "RegistryObjectList", "XDM metadata"),
    ("urn:ihe:iti:svs:2008", "RetrieveValueSetResponse", "value set"),
    ("urn:hl7-org:v3/voc", "systems", "value set"),
    ("http://www.lantanagroup.com/voc", "systems", "value set"),
)
DOCUMENT_TAG = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?ClinicalDocument[\s>]")  # behind what should not stand there
PACKED_XML = re.compile(rb"Content-Type:\s*(?:text|application)/(?:[a-z0-9.-]+\+)?xml|ClinicalDocument", re.IGNORECASE)
MEDIA_BY_SUFFIX = {
    ".pdf": "application/pdf", ".rtf": "text/rtf", ".txt": "text/plain", ".htm": "text/html", ".html": "text/html",
    ".xml": "text/xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".gif": "image/gif",
    ".tif": "image/tiff", ".tiff": "image/tiff",
}  # fmt: skip


def sniff_xml(head: bytes, suffix: str) -> str | None:
    """Returns the format of what may be XML or a MIME package, by its first bytes; ``None`` where it is neither.

    XML that no other reader takes is left to this one, which counts or refuses it; HTML is not, nor is what calls
    itself text and begins with a tag that nobody knows.
    """
    if mime.is_package(head):
        return "ccda" if PACKED_XML.search(head) else None
    root = safe_xml.root_name(head)
    if root is None:
        return "ccda" if DOCUMENT_TAG.search(head) or suffix in (".xml", ".ccda", ".cda") else None
    namespace, name = root
    if namespace == "http://hl7.org/fhir":
        return "fhir"
    if name.lower() == "html" or suffix in (".htm", ".html", ".xhtml"):
        return None
    declared = head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<?xml")
    known = is_cda_root(namespace, name) or declared or suffix not in ("", ".txt", ".text")
    return "ccda" if known else None


def read_ccda(content: Content, reading: Reading) -> Iterator[Item]:
    """Reads an XML file that holds CDA documents, or a MIME package of such files.

    Raises:
        Refused: XML_INVALID, XML_FORBIDDEN, FORMAT_UNKNOWN for XML that is no CDA and is not known, and what
            ``decode`` says of the bytes.
    """
    raw = content.read(reading.max_file_bytes)
    if mime.is_package(raw):
        yield from read_mime(raw, reading)
    else:
        yield from read_xml(raw, content.beside, reading)


def read_xml(raw: bytes, beside: Beside, reading: Reading) -> Iterator[Item]:
    """Yields the documents of an XML file, and what is embedded in them.

    Raises:
        Refused: as ``read_ccda``.
    """
    root, encoding = safe_xml.parse(raw)
    if kind := not_a_note(root):
        yield Skipped(kind)
        return
    names: dict[str, int] = {}
    for number, document in enumerate(root.iter(f"{{{XDS}}}Document")):
        names[f"Document/{number}"] = 1
        yield read_attached(attached_of(document, "B64"), f"Document/{number}", {}, beside, reading)
    for element in document_elements(root):
        rendered = render_element(element, encoding)
        count = names[rendered.record] = names.get(rendered.record, 0) + 1
        record = rendered.record if count == 1 else f"{rendered.record}~{count}"
        yield from read_rendered(rendered, record, beside, reading)
    if not names:
        yield from read_packed(root, reading)


def read_packed(root: etree._Element, reading: Reading) -> Iterator[Item]:
    """Yields the documents that an answer of a web service holds as text, escaped or as CDATA.

    Raises:
        Refused: FORMAT_UNKNOWN where there is none.
    """
    found = 0
    for element in root.iter("*"):
        if len(element) == 0 and (element.text or "").lstrip().startswith("<"):
            raw = (element.text or "").encode("utf-8", "surrogatepass")
            if is_cda(raw):
                yield reading.attachment(f"{safe_xml.split_tag(element)[1]}/{found}", raw, "text/xml", "utf-8")
                found += 1
    if not found:
        raise Refused("FORMAT_UNKNOWN")


def not_a_note(root: etree._Element) -> str | None:
    """Returns what XML is that is known to be no note."""
    found, name = safe_xml.split_tag(root)
    for namespace, local, kind in NOT_NOTES:
        if name == local and found.startswith(namespace):
            return kind
    return None


def read_rendered(rendered: Rendered, record: str, beside: Beside, reading: Reading) -> Iterator[Item]:
    """Yields the note of a document, then the files in it, each a record of its own."""
    status = rendered.facts.get("note_status")
    facts = dict(rendered.facts)
    encoding = facts.pop("encoding", None)
    if status in WITHDRAWN:
        yield Skipped(f"ClinicalDocument ({status})")
        return
    if rendered.not_a_note:
        yield Skipped(rendered.not_a_note)
    elif rendered.error:
        yield reading.reject(record, rendered.error, **rendered.fields)
    elif rendered.body is not None:
        yield read_attached(rendered.body, record, facts, beside, reading)
    else:
        yield reading.document(record, rendered.text, sections=rendered.sections or None, encoding=encoding, **facts)
    for number, attached in enumerate(rendered.attached):
        yield read_attached(attached, f"{record}#attachment.{number}", facts | dict(attached.facts), beside, reading)
    for kind in rendered.uncounted:
        yield Skipped(kind)


def read_attached(
    attached: Attached, record: str, facts: Mapping[str, Any], beside: Beside, reading: Reading
) -> Document | Reject:
    """Returns the note of a file in a document or beside it; a reference is resolved inside the input only."""
    if attached.error:
        return reading.reject(record, attached.error)
    if attached.reference is None:
        return reading.attachment(record, attached.raw, attached.media, attached.charset, **facts)
    found = resolve(attached.reference, beside)
    if found is None:
        return reading.reject(record, "ATTACHMENT_UNRESOLVED")
    try:
        raw = found.read(reading.max_file_bytes)
    except Refused as refused:
        return reading.reject(record, refused.code, **refused.fields)
    media = attached.media or MEDIA_BY_SUFFIX.get(found.suffix)
    return reading.attachment(record, raw, media, attached.charset, **facts)


def resolve(reference: str, beside: Beside) -> Content | None:
    """Returns what a reference names in the same input: as it is written, or with its ``%20`` read as a space."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", reference) and not reference.lower().startswith(("cid:", "mid:")):
        return None  # an address, never opened
    return beside(reference) or beside(unquote(reference))


# --- MIME packages --------------------------------------------------------------------------


def read_mime(raw: bytes, reading: Reading) -> Iterator[Item]:
    """Yields the notes of a MIME package (as CDA R2 is exchanged): of each part that no document refers to.

    Raises:
        Refused: RECORD_INVALID where it holds no parts.
    """
    parts = mime.parts_of(raw)
    used: set[str] = set()

    def beside(reference: str) -> Content | None:
        part = mime.find_part(parts, reference)
        if part is None:
            return None
        used.add(part.name)
        return mime.part_content(part)

    for part in sorted(parts, key=lambda one: not one.is_xml):  # documents first: they tell what is used
        if part.name in used:
            continue
        inside = reading.inside(part.name)
        try:
            if part.is_xml:
                yield from read_xml(part.raw, beside, inside)
            else:
                yield inside.attachment("0", part.raw, part.media, part.charset)
        except Refused as refused:
            yield inside.reject(refused.record, refused.code, **refused.fields)


# --- XDM packages ---------------------------------------------------------------------------


def xdm_role(member: str, names: Collection[str]) -> str | None:
    """Returns what a member of a .zip is in an XDM package (IHE ITI TF-2, 3.32), where it is no note; else ``None``.

    Args:
        member: its path in the archive.
        names: the paths of all members.
    """
    path = member.replace("\\", "/").upper()
    if posixpath.splitext(path)[1] in (".XSL", ".XSLT"):
        return "XSL style sheet"
    folder, name = posixpath.split(path)
    inside = f"{folder}/".startswith("IHE_XDM/") or "/IHE_XDM/" in f"/{folder}/"
    if inside and name == "METADATA.XML":
        return "XDM metadata"
    if not inside and name in XDM_FILES:
        beside = posixpath.join(folder, "IHE_XDM/")
        if any(other.replace("\\", "/").upper().startswith(beside) for other in names):
            return XDM_FILES[name]
    return None


XDM_FILES = {
    "INDEX.HTM": "XDM index page", "INDEX.HTML": "XDM index page", "README.TXT": "XDM readme",
    "README": "XDM readme", "AUTORUN.INF": "XDM readme",
}  # fmt: skip
