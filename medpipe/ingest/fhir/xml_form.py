"""FHIR in XML (https://hl7.org/fhir/R5/xml.html): the same objects as its JSON.

An element with a ``value`` is a text, an element with children an object, what stands several times a list; where
JSON has a list of one, XML gives the one. Numbers and booleans stay texts. XHTML stays markup. Comments, processing
instructions and the extensions of primitive values are left out.
"""

from __future__ import annotations

import io
import re
from typing import Any

from lxml import etree

from medpipe.ingest.content import Refused
from medpipe.ingest.syntax.decoding import BOMS
from medpipe.ingest.syntax.structured_text import decode_structured

FHIR = "http://hl7.org/fhir"
SHORT = 100  # characters of a value that may come again
DEEPEST = 200  # elements in elements; resources nest to a few dozen
# All that may stand before the root, or before a document type.
PROLOG = re.compile(rb"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*", re.DOTALL)
DECLARED = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
PREFIX = re.compile(r"(</?)[\w.-]+:(?=[\w.-])")  # of a tag
DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
# What XML 1.0 does not allow in a text, written as a character or as a reference (XML 1.1 allows the latter).
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|&#(?:x0*(?:[0-8bcef]|1[0-9a-f])|0*(?:[0-8]|1[124-9]|2\d|3[01]));", re.I)  # fmt: skip  # noqa: E501


def read_xml(raw: bytes) -> dict[str, Any]:
    """Returns the resource of an XML document from a stranger: nothing is fetched, no entity is declared or expanded.

    A declared encoding that the bytes deny is put right: UTF-8 where they are that, else what ``decode`` finds.
    Control characters, which XML 1.0 forbids, become spaces.

    Raises:
        Refused: XML_FORBIDDEN where there is a document type; XML_INVALID where it does not parse, or elements nest
            too deep; RECORD_INVALID where the root is of another standard; TEXT_BINARY, TEXT_UNDECODABLE.
    """
    encoding = _encoding(raw)
    start = raw
    if encoding not in ("utf-8", None):
        start = raw.decode(encoding, "replace").encode("utf-8", "replace")
    start = start.removeprefix(b"\xef\xbb\xbf")
    # Before anything is parsed, as far as it reaches: with huge_tree the parser sets no limit to what entities become.
    prolog = PROLOG.match(start)
    if prolog and start[prolog.end() : prolog.end() + 9].upper() == b"<!DOCTYPE":
        raise Refused("XML_FORBIDDEN")
    del start
    try:
        return _parse(raw, encoding)
    except (etree.XMLSyntaxError, LookupError, ValueError):  # the latter where it declares an encoding that is none
        return _parse_again(raw)


def _encoding(raw: bytes) -> str | None:
    """Returns the encoding of XML where the bytes themselves tell it; ``None``: as declared."""
    for mark, name in BOMS:
        if raw.startswith(mark):
            return "utf-8" if name == "utf-8-sig" else name
    if raw[:2] in (b"<\0", b"\0<"):
        return "utf-16-le" if raw[:1] == b"<" else "utf-16-be"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "utf-8"


def _parse(raw: bytes, encoding: str | None) -> dict[str, Any]:
    """Parses XML; the entries of a Bundle become objects one by one, so that no tree of all of them is built."""
    # huge_tree: an attachment of more than 10 MB is one attribute; the size of the file is bounded by the reader.
    events = etree.iterparse(
        io.BytesIO(raw), events=("start", "end"), tag=("{*}Bundle", "{*}entry"), resolve_entities=False,
        no_network=True, load_dtd=False, dtd_validation=False, huge_tree=True, encoding=encoding, remove_comments=True,
        remove_pis=True,
    )  # fmt: skip
    making = _Objects()
    entries = []
    root = None
    for event, element in events:
        if event == "start":
            root = element if root is None and element.getparent() is None else root
        elif element.getparent() is root and root is not None:
            entries.append(making.fields(element, 1))
            element.clear()
            del root[: root.index(element)]
    root = events.root
    if root.getroottree().docinfo.internalDTD is not None:
        raise Refused("XML_FORBIDDEN")
    space, _, name = root.tag.rpartition("}")
    if space and not space.startswith("{" + FHIR):
        raise Refused("RECORD_INVALID", where="the root element, which is not of FHIR")
    for element in root.findall("{*}entry") if entries else ():
        root.remove(element)
    resource = {"resourceType": name} | making.fields(root, 0)
    return resource | {"entry": entries} if entries else resource


def _parse_again(raw: bytes) -> dict[str, Any]:
    """Parses what strict XML refused, if all that is wrong with it are its encoding and control characters."""
    declared = DECLARED.search(raw[:1000])
    decoded = decode_structured(raw, declared[1].decode() if declared else None)
    if decoded.error:
        raise Refused(decoded.error, kind=decoded.kind)
    text = CONTROL.sub(" ", DECLARATION.sub("", decoded.text.lstrip("\ufeff \t\r\n"), count=1))
    if text.lstrip()[:9].upper() == "<!DOCTYPE":
        raise Refused("XML_FORBIDDEN")
    try:
        return _parse(text.encode("utf-8", "replace"), "utf-8")
    except etree.XMLSyntaxError as error:
        line, column = error.position
        raise Refused("XML_INVALID", where=f"line {line} column {column}") from None


class _Objects:
    """Makes objects of elements. Names and values that come again are kept once: Bundles repeat themselves."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # of a tag
        self.known: dict[str, str] = {}  # short values

    def fields(self, element: etree._Element, depth: int) -> dict[str, Any]:
        """Returns the children of an element by name; its ``id`` and ``url`` attributes too."""
        if depth > DEEPEST:
            raise Refused("XML_INVALID", where=f"line {element.sourceline}: elements nest more than {DEEPEST} deep")
        found: dict[str, Any] = {name: self.short(value) for name, value in element.items() if name in ("id", "url")}
        for child in element:
            tag = child.tag
            if not isinstance(tag, str):  # an entity that was not resolved
                continue
            name = self.names.get(tag) or self.names.setdefault(tag, local_name(tag))
            value = self.value(child, name, depth)
            if value is None:
                continue
            if name not in found:
                found[name] = value
            elif isinstance(found[name], list):
                found[name].append(value)
            else:
                found[name] = [found[name], value]
        return found

    def value(self, element: etree._Element, name: str, depth: int) -> Any:
        """Returns the text, the object, the resource or resources, or the markup of an element."""
        if name == "div":
            return _markup(element)
        value = element.get("value")
        if value is not None:
            return self.short(value)
        if not len(element):
            return element.text.strip() or None if element.text else None  # not the standard's way, but plain
        inner = [child for child in element if isinstance(child.tag, str) and local_name(child.tag)[:1].isupper()]
        if inner:  # entry.resource, contained, parameter.resource
            made = [{"resourceType": local_name(child.tag)} | self.fields(child, depth + 2) for child in inner]
            return made if len(made) > 1 else made[0]
        return self.fields(element, depth + 1)

    def short(self, value: str) -> str:
        """Returns the value, the same object each time where it is short."""
        return self.known.setdefault(value, value) if len(value) < SHORT else value


def local_name(tag: str) -> str:
    """Returns a tag without its namespace."""
    return tag[tag.rfind("}") + 1 :]


def _markup(element: etree._Element) -> str:
    """Returns an XHTML element as markup, its tags without prefixes."""
    markup = str(etree.tostring(element, encoding="unicode", with_tail=False))
    return PREFIX.sub(r"\1", markup) if element.prefix else markup
