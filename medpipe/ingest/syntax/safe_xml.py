"""XML from anywhere: parsed without DTD, entities or network, bounded, and mended only where no text is lost.

What real exports get wrong is mended: an encoding that is not the one declared, junk before the declaration, prefixes
that nobody declared, ``&nbsp;``, a bare ``&`` or ``<``, control characters, ``<br>`` that is not closed, several
documents one after another. What is cut off or wrongly nested is refused: nobody can say what was lost.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from html.entities import html5

from lxml import etree

from medpipe.ingest.content import Refused
from medpipe.ingest.syntax.decoding import decode

SEVERAL = "several-documents"  # the element around documents that stood one after another in a file
LARGEST_PLAIN = 8_000_000  # bytes; above this the parser's limits on the length of one text are lifted
MOST_MARKS = 4_000_000  # tags and attributes: each takes about 200 bytes in memory
# Declared encodings that cannot be meant: the declaration itself was readable as ASCII, or they are no charsets.
NEVER = re.compile(r"utf[-_]?(7|16|32)|ucs|iso[-_]?10646|unicode|idna|punycode|undefined|mbcs|oem|escape")
C1, NOT_CP1252 = re.compile(rb"[\x80-\x9f]"), re.compile(rb"[\x81\x8d\x8f\x90\x9d]")

DECLARATION = re.compile(rb"<\?xml\s[^<>]{0,200}?encoding\s*=\s*[\"']\s*([A-Za-z][\w.:-]{0,40})")
NAME = rb"[A-Za-z_\x80-\xff][\w.\x80-\xff-]*"
LOCAL_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
START_TAG = re.compile(rb"<(" + NAME + rb")(?::(" + NAME + rb"))?(?=[\s/>:])")
ATTRIBUTES = re.compile(rb"(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+')*+")
DOCTYPE = re.compile(rb"<!DOCTYPE\s+[^\s<>\[]{1,200}\s*>", re.IGNORECASE)  # one that declares and refers to nothing
# Breaches that cost no text: undeclared prefixes, "--" in a comment, an attribute given twice.
HARMLESS = frozenset({"ERR_HYPHEN_IN_COMMENT", "ERR_ATTRIBUTE_REDEFINED"})
MOST_ERRORS = 100  # the parser reports no more than these, but always the first fatal one

NOT_WHITE = re.compile(rb"\S")
OPAQUE = re.compile(rb"<!\[CDATA\[|<!--")
BREACH = re.compile(
    rb"(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]|\xed[\xa0-\xbf][\x80-\xbf])"
    rb"|<\?xml\s[^<>]{0,200}\?>"
    rb"|<(?P<void>br|hr|col|img)(?P<rest>(?=[\s>])[^<>/]*+)>(?!\s*+</(?P=void))"
    rb"|(?P<end>\]\]>)"
    rb"|(?P<less><)(?![A-Za-z_:/!?\x80-\xff])"
    rb"|&(?:(?P<entity>[A-Za-z][A-Za-z0-9]{0,31};)|(?P<number>#(?:[0-9]{1,7}|[xX][0-9A-Fa-f]{1,6});))?"
)
LEGAL_ENTITIES = frozenset({b"amp;", b"lt;", b"gt;", b"quot;", b"apos;"})


def parse(raw: bytes) -> tuple[etree._Element, str]:
    """Returns the root element, without comments and processing instructions, and the encoding of the bytes.

    Elements whose prefix is not declared have no namespace.

    Raises:
        Refused: XML_FORBIDDEN for a DOCTYPE that declares or refers, XML_INVALID, RECORD_INVALID where there is too
            much markup, TEXT_EMPTY, or what ``decode`` says of the bytes.
    """
    data, encoding = to_utf8(raw)
    if not data.strip():
        raise Refused("TEXT_EMPTY")
    start = find_root(data)
    if start is None:
        raise Refused("XML_INVALID", where="line 1")
    if data.count(b"<") + data.count(b"=") > MOST_MARKS:
        raise Refused("RECORD_INVALID", where=f"more than {MOST_MARKS:,} tags and attributes")
    lines = data.count(b"\n", 0, start)
    data = data[start:] if start else data
    root, line, kind = _parse(data)
    if line:
        data = mend(data)
        root, _, kind = _parse(data)
    if kind == "ERR_DOCUMENT_END":
        root, _, kind = _parse(b"<%b>%b</%b>" % (SEVERAL.encode(), data, SEVERAL.encode()))
    if kind or root is None:
        raise Refused("XML_INVALID", where=f"line {line + lines}")
    return root, encoding


def _parse(data: bytes) -> tuple[etree._Element | None, int, str | None]:
    """Returns the root; and line and kind of the first breach that may have cost text, or 0 and ``None``."""
    parser = etree.XMLParser(
        recover=True, resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True,
        encoding="utf-8", huge_tree=len(data) > LARGEST_PLAIN,
    )  # fmt: skip
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        return None, error.lineno or 1, "ERR_SYNTAX"
    breaches = [error for error in parser.error_log if error.level_name == "FATAL"]
    unknown = len(parser.error_log) >= MOST_ERRORS and bool(breaches)  # what followed was not reported
    for breach in breaches:
        if unknown or breach.type_name not in HARMLESS:
            return root, breach.line or 1, breach.type_name
    if len(parser.error_log) and root is not None:
        for element in root.iter("*"):
            name = split_tag(element)[1]
            if ":" in name:
                local = name.rpartition(":")[2]
                element.tag = local if LOCAL_NAME.fullmatch(local) else "unnamed"
    return root, 0, None


def split_tag(element: etree._Element) -> tuple[str, str]:
    """Returns namespace (or "") and local name of an element; ``etree.QName`` raises for namespaces with braces."""
    namespace, _, name = element.tag.rpartition("}")
    return namespace[1:], name


def to_utf8(raw: bytes) -> tuple[bytes, str]:
    """Returns the bytes as UTF-8 without a byte order mark, and the name of the encoding they were in.

    Bytes that are valid UTF-8 and not ASCII are UTF-8, whatever a declaration says.

    Raises:
        Refused: what ``decode`` says of bytes that are no text.
    """
    declared = DECLARATION.search(raw, 0, 2000)
    charset = declared[1].decode("ascii").lower() if declared else None
    if charset and NEVER.search(charset):
        charset = None
    if raw.startswith(codecs.BOM_UTF8):
        raw = raw[len(codecs.BOM_UTF8) :]
    if b"\x00" not in raw[:4] and not raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if (not raw.isascii() or charset is None or not charset.startswith("iso-2022")) and _is_utf8(raw):
            return raw, "utf-8"
        if charset in ("utf-8", "utf8", "us-ascii", "ascii"):
            charset = None
        elif charset in ("iso-8859-1", "latin1", "latin-1") and C1.search(raw) and not NOT_CP1252.search(raw):
            charset = "cp1252"  # as browsers do: nobody writes C1 control characters
    decoded = decode(raw, charset)
    if decoded.error:
        raise Refused(decoded.error, kind=decoded.kind)
    return decoded.text.removeprefix("\ufeff").encode("utf-8", "surrogatepass"), decoded.encoding


def _is_utf8(raw: bytes) -> bool:
    """Says whether the bytes are UTF-8, without a copy of all of them as text."""
    if raw.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(raw)
    try:
        for start in range(0, len(raw), 1 << 20):
            decoder.decode(view[start : start + (1 << 20)])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def find_root(data: bytes) -> int | None:
    """Returns where the root's start tag begins, behind junk, declaration, comments and instructions.

    Raises:
        Refused: XML_FORBIDDEN for a DOCTYPE that declares something or refers to another file.
    """
    place = data.find(b"<")
    while place >= 0:
        if data.startswith(b"<?", place):
            end = data.find(b"?>", place)
        elif data.startswith(b"<!--", place):
            end = data.find(b"-->", place + 4)
        elif data.startswith(b"<!", place):
            plain = DOCTYPE.match(data, place)
            if plain is None:
                raise Refused("XML_FORBIDDEN")
            end = plain.end()
        elif START_TAG.match(data, place):
            return place
        else:
            end = place + 1
        if end < 0:
            return None
        place = data.find(b"<", end)
    return None


def root_name(head: bytes) -> tuple[str, str] | None:
    """Returns namespace (or "") and local name of the root of what may be XML, from its first bytes.

    ``None`` where anything but white space, declarations and comments stands before the first start tag. For choosing
    a reader: nothing is parsed and nothing is raised.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "ignore").encode("utf-8", "ignore")
    elif b"\x00" in head[:4]:
        head = head.replace(b"\x00", b"")
    head = head.removeprefix(codecs.BOM_UTF8)
    place = behind_white(head, 0)
    while head.startswith(b"<", place):
        if head.startswith((b"<?", b"<!"), place):
            close = b"-->" if head.startswith(b"<!--", place) else b">"
            end = head.find(close, place + 2)
            if end < 0:
                return None
            place = behind_white(head, end + len(close))
            continue
        tag = START_TAG.match(head, place)
        if tag is None:
            return None
        prefix, name = (tag[1], tag[2]) if tag[2] else (b"", tag[1])
        attributes = ATTRIBUTES.match(head, tag.end())
        declared = re.search(
            rb"\sxmlns" + (b":" + re.escape(prefix) if prefix else b"") + rb"\s*=\s*[\"']([^\"']*)",
            attributes[0] if attributes else b"",
        )
        return declared[1].decode("utf-8", "replace").strip() if declared else "", name.decode("utf-8", "replace")
    return None


def behind_white(data: bytes, place: int) -> int:
    """Returns the first place, from one on, that is not white space."""
    found = NOT_WHITE.search(data, place)
    return found.start() if found else len(data)


# --- mending --------------------------------------------------------------------------------


def mend(data: bytes) -> bytes:
    """Returns XML (UTF-8) in which what is plainly meant as text is escaped, and HTML's entities are characters."""
    return b"".join(part if opaque else BREACH.sub(_mended, part) for opaque, part in _parts(data))


def _mended(breach: re.Match[bytes]) -> bytes:
    if breach["control"]:
        return b"\n" if breach["control"] in b"\x0b\x0c" else b" "
    if breach["void"]:
        return b"<%b%b/>" % (breach["void"], breach["rest"])
    if breach["end"]:
        return b"]]&gt;"
    if breach["less"]:
        return b"&lt;"
    if breach["entity"]:
        if breach["entity"] in LEGAL_ENTITIES:
            return breach[0]
        character = html5.get(breach["entity"].decode("ascii"))
        return character.encode("utf-8") if character else b"&amp;" + breach["entity"]
    if breach["number"]:
        digits = breach["number"][1:-1].lower()
        code = int(digits[1:], 16) if digits.startswith(b"x") else int(digits)
        legal = code in (9, 10, 13) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or 0x10000 <= code <= 0x10FFFF
        return breach[0].lower() if legal else b" "
    return b"&amp;" if breach[0] == b"&" else b""  # else: a declaration in the middle


def _parts(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yields CDATA sections and comments (as they are, but for control characters), and what lies between them."""
    place = 0
    while opening := OPAQUE.search(data, place):
        yield False, data[place : opening.start()]
        close = b"]]>" if opening[0] != b"<!--" else b"-->"
        end = data.find(close, opening.end())
        end = len(data) if end < 0 else end + 3
        yield True, re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", b" ", data[opening.start() : end])
        place = end
    yield False, data[place:]
