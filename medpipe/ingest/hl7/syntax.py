"""How HL7 v2 is written: messages in a stream of bytes, segments, fields, escape sequences, character sets.

Follows chapter 2 (Control) of HL7 v2.1 to 2.9, and takes what systems write beside it: any line ends, also inside a
field; MLLP bytes; a wrong MSH-2; character sets that are none. What it does not understand it keeps as it is written.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Protocol

from medpipe.ingest.content import Refused
from medpipe.ingest.syntax.decoding import Decoded, decode

CHUNK = 1 << 20
HEADERS = (b"MSH", b"FHS", b"BHS", b"BTS", b"FTS")
# Segments of HL7 v2, which are known with white space before them and in small letters, and those that may be empty
# (the names of others are words of notes: PID, PSH, LOC).
SEGMENT_NAMES = (
    "ABS ACC ADD AFF AIG AIL AIP AIS AL1 APR ARQ ARV AUT BHS BLC BLG BPO BPX BTS BTX BUI CDM CDO CER CM0 CM1 CM2 CNS "
    "CON CSP CSR CSS CTD CTI DAT DB1 DEV DG1 DMI DON DPS DRG DSC DSP DST ECD ECR EDU EQP EQU ERR EVN FAC FHS FT1 FTS "
    "GOL GP1 GP2 GT1 IAM IAR IIM ILT IN1 IN2 IN3 INV IPC IPR ISD ITM IVC IVT LAN LCC LCH LDP LOC LRL MCP MFA MFE MFI "
    "MRG MSA MSH NCK NDS NK1 NPU NSC NST NTE OBR OBX ODS ODT OH1 OH2 OH3 OH4 OM1 OM2 OM3 OM4 OM5 OM6 OM7 OM8 OMC ORC "
    "ORG OVR PAC PCE PCR PD1 PDA PDC PEO PES PID PKG PM1 PMT PR1 PRA PRB PRC PRD PRT PSG PSH PSL PSS PTH PV1 PV2 PYE "
    "QAK QID QPD QRD QRF QRI RCP RDF RDT REL RF1 RFI RGS RMI RQ1 RQD RXA RXC RXD RXE RXG RXO RXR RXV SAC SCD SCH SCP "
    "SDD SFT SGH SGT SHP SID SLT SPM STF STZ TCC TCD TQ1 TQ2 TXA UAC UB1 UB2 VAR VND"
)
SEGMENTS = frozenset(SEGMENT_NAMES.split())
EMPTY_NAMES = "AL1 BTS DG1 DSC EVN FTS GT1 IN1 IN2 NK1 NTE OBR OBX ORC PD1 PR1 PV1 PV2 SPM TXA"
EMPTY_SEGMENTS = frozenset(EMPTY_NAMES.split())
HEADER = re.compile(rb"[MFB][SHT][HS][^A-Za-z0-9_\s]")
BEFORE_HEADER = b" \t\xef\xbb\xbf"  # white space and a byte order mark
LINE_ENDS = b"\r\n\x0b\x1c"  # with the bytes around a message of MLLP
SEGMENT_LINE = re.compile(rb"[ \t]*[A-Z][A-Z0-9]{2}[^A-Za-z0-9\s]")


class Readable(Protocol):
    """What is read in chunks."""

    def read(self, size: int) -> bytes:
        """Returns the next bytes; none at the end."""


# --- a stream of bytes ----------------------------------------------------------------------


def looks_like_hl7(head: bytes, suffix: str) -> bool:
    """Says whether the beginning of a file is HL7 v2: headers, segments without a header, or text before a header.

    A file that is called ``.hl7`` and holds nothing that another format begins with is HL7 v2 too.
    """
    if wide := wide_encoding(head):
        head = head.decode(wide, "replace").removeprefix("\ufeff").encode()
    start = head.lstrip(BEFORE_HEADER + LINE_ENDS)
    if HEADER.match(start) and start[:3] in HEADERS:
        return True
    lines = [line for line in re.split(rb"[\r\n]+", start[:4096]) if line.strip()][:3]
    if len(lines) > 1 and all(line[3:4] == b"|" and line[:3].decode("latin-1") in SEGMENTS for line in lines):
        return True
    tables = (".csv", ".tsv", ".psv")  # which may hold a message in a column
    if suffix not in tables and b"\x00" not in head and re.search(rb"MSH\|\^~\\{1,2}&(?:amp;)?#?\|", head):
        return True
    return suffix in (".hl7", ".hl7v2", ".er7", ".oru", ".adt", ".mdm") and not start.startswith((b"<", b"{", b"["))


def wide_encoding(head: bytes) -> str | None:
    """Returns the name of UTF-16 or UTF-32 where the bytes begin like it, with a byte order mark or without."""
    for mark, name in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")):
        if head.startswith(mark):
            return name
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = head.lstrip(b"\x00 \r\n\t\x0b")[:5]
    if start.startswith((b"M\x00S\x00H", b"F\x00H\x00S", b"B\x00H\x00S")):
        return "utf-16-le" if head.lstrip(b" \r\n\t\x0b")[:1] != b"\x00" else "utf-16-be"
    return None


class Recoded:
    """A stream of UTF-16 or UTF-32, read as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.reader = codecs.getreader(encoding)(stream)

    def read(self, size: int) -> bytes:
        """Returns the next bytes, as UTF-8.

        Raises:
            Refused: TEXT_UNDECODABLE where they are not in that encoding.
        """
        try:
            return self.reader.read(size).removeprefix("\ufeff").encode("utf-8")
        except UnicodeError as error:
            raise Refused("TEXT_UNDECODABLE") from error


def split_messages(stream: Readable, limit: int) -> Iterator[bytes | None]:
    """Yields messages, from one header segment to the next; ``None`` for one of more than ``limit`` bytes.

    What stands before the first header comes first, if anything does. Headers and trailers of batches and files come
    each on their own. No more than one message and a chunk of the stream are held.
    """
    held = bytearray()
    searched, cut_off, at_start = 0, False, True
    while chunk := stream.read(CHUNK):
        held += chunk
        begins = 0
        for found in HEADER.finditer(held, searched):
            place = found.start()
            if found[0][:3] not in HEADERS or (place == begins and not at_start and not cut_off):
                continue
            end = _end_before(held, place, begins)
            if end is None:
                continue
            if end > begins and not cut_off:
                yield bytes(held[begins:end])
            begins, cut_off, at_start = place, False, False
        del held[:begins]
        searched = max(0, len(held) - 8)  # a header may lie across two chunks
        if len(held) > limit:
            if not cut_off:
                yield None
            cut_off = True
            del held[:-64]
            searched = max(0, len(held) - 8)
    if held and not cut_off:
        yield bytes(held)


def _end_before(held: bytearray, place: int, begins: int) -> int | None:
    """Returns where ends what comes before a header at ``place``; ``None`` where there is no header.

    A header begins a line. MSH with the recommended separators is one inside a line too: behind what a log writes
    there, which is left out, or behind a segment whose line end is missing.
    """
    before = place
    while before > begins and held[before - 1] in BEFORE_HEADER:
        before -= 1
    if before == begins or held[before - 1] in LINE_ENDS:
        return before
    if held[place : place + 7] != b"MSH|^~\\":
        return None
    line = max(held.rfind(end, begins, place) for end in (b"\r", b"\n", b"\x0b", b"\x1c")) + 1
    line = max(line, begins)
    return place if SEGMENT_LINE.match(held, line, place) else line


# --- a message ------------------------------------------------------------------------------


@dataclass(slots=True)
class Message:
    """A message: its separators, its segments as written, and the fields of its MSH (``header[9]`` is MSH-9)."""

    separator: str  # of fields
    component: str
    repetition: str
    escape: str
    subcomponent: str
    encoding: str
    header: list[str]
    lines: list[str]  # the segments behind MSH

    def fields(self, segment: str) -> list[str]:
        """Returns the fields of a segment: that of index 3 is the third."""
        return segment.split(self.separator)

    def first(self, value: str, component: int = 1) -> str:
        """Returns a component of the first repetition of a field, as text."""
        parts = value.split(self.repetition, 1)[0].split(self.component)
        return self.text(parts[component - 1]) if len(parts) >= component else ""

    def text(self, value: str) -> str:
        """Returns a value as text: escape sequences resolved, ``""`` (delete what you have) empty."""
        value = value.strip(" ")
        if value == '""':
            return ""
        return unescape(value, self) if self.escape in value else value

    def prose(self, value: str) -> str:
        """Returns the text of a field that a person reads: a repetition is a line."""
        if value == '""':
            return ""
        if self.escape not in value:
            return value.replace(self.repetition, "\n")
        return "\n".join(unescape(part, self) for part in value.split(self.repetition))


def parse_message(raw: bytes, forced: str | None = None) -> Message | Decoded:
    """Returns a message of its bytes, which begin with MSH; or, as ``decode`` does, why they are no text.

    Args:
        raw: one message.
        forced: the encoding that the whole stream was in (the bytes are UTF-8 then).
    """
    end = min((place for place in (raw.find(b"\r"), raw.find(b"\n")) if place > 0), default=len(raw))
    head = raw[:end].split(raw[3:4])
    if forced is not None:
        decoded = Decoded(raw.decode("utf-8"), forced)
    else:
        decoded = decode_message(raw, head[17].decode("latin-1") if len(head) > 17 else "")
        if decoded.error:
            return decoded
    text = decoded.text
    mark = text[3]
    written = text[4:].split(mark, 1)[0].split("\r", 1)[0].split("\n", 1)[0]
    if "&amp;" in written or "&#" in written:  # the message was written into XML
        text = html.unescape(text)
        written = html.unescape(written)
    if "\\\\" in written and not SINGLE_ESCAPE.search(text):  # it was written as a string of a program
        text = text.replace("\\\\", "\\")
    component, repetition, escape, subcomponent = separators(written.replace("\\\\", "\\"))
    lines = split_segments(text, mark)
    name, *fields = lines[0].split(mark)
    header = [name, mark, *fields]  # MSH-1 is the separator itself
    return Message(mark, component, repetition, escape, subcomponent, decoded.encoding, header, lines[1:])


# An escape sequence with one escape character, in a message whose MSH-2 has two.
SINGLE_ESCAPE = re.compile(r"(?<!\\)\\(?:\.\w\w[ +\-\d]*|[FSTREHN]|X[0-9A-Fa-f]+)\\")


def separators(written: str) -> tuple[str, str, str, str]:
    """Returns the separators of MSH-2: of component, repetition, escape, subcomponent.

    Those that are missing, are letters or stand there twice are the recommended ones.
    """
    found: list[str] = []
    for place, usual in enumerate("^~\\&"):
        one = written[place : place + 1]
        found.append(usual if not one or one.isalnum() or one.isspace() or one in found else one)
    return found[0], found[1], found[2], found[3]


# Line ends that somebody wrote out, before a segment.
WRITTEN_LINE_END = re.compile(
    rf"(?:\\r\\n|\\r|\\n|<[Cc][Rr]>)(?=(?:{'|'.join(sorted(SEGMENTS))}|Z[A-Z0-9]{{2}})\|)|(?<=\|)\\r(?:\\n)?(?=\"?\s*[\r\n]|$)"
)


def split_segments(text: str, mark: str) -> list[str]:
    """Returns the segments of a message.

    A line that does not begin like a segment belongs to the last field of the segment before, so does ADD; white space
    at the end of a segment is layout of the file.
    """
    if "\\r" in text or "\\n" in text or "<CR>" in text or "<cr>" in text:
        text = WRITTEN_LINE_END.sub("\r", text)
    text = text.replace("\r\n", "\r").replace("\n", "\r").replace("\x1c", "\r").replace("\x0b", "\r")
    if "\r\r\r\r" in text:
        text = re.sub(r"\r{4,}", "\r\r\r", text)
    begins_segment = segment_pattern(mark).match
    segments: list[str] = []
    more: list[str] = []  # of the last segment; joined once, for there may be thousands of lines
    for line in text.split("\r"):
        if not begins_segment(line) and segments:
            stripped = line.strip()
            known = SEGMENTS if stripped[3:4] == mark else EMPTY_SEGMENTS if len(stripped) == 3 else ()
            if stripped[:3].upper() not in known:
                more.append(f"\n{line}" if line else "\n")
                continue
            line = stripped[:3].upper() + stripped[3:]
        if line[:3] == "ADD" and len(segments) > 1:
            while more and not more[-1].strip():
                more.pop()
            more.append(line[4:])
            continue
        if more:
            segments[-1] = f"{segments[-1]}{''.join(more)}".rstrip("\n")
            more.clear()
        segments.append(line)
    if more:
        segments[-1] = f"{segments[-1]}{''.join(more)}".rstrip("\n")
    return segments


@lru_cache(maxsize=64)
def segment_pattern(mark: str) -> re.Pattern[str]:
    """Returns a pattern for the beginning of a segment: its name and the field separator."""
    return re.compile(rf"[A-Z][A-Z0-9]{{2}}{re.escape(mark)}")


# --- escape sequences -----------------------------------------------------------------------


@lru_cache(maxsize=64)
def escape_pattern(escape: str) -> re.Pattern[str]:
    """Returns a pattern for the escape sequences that are understood (chapter 2, Use of escape sequences in text)."""
    mark = re.escape(escape)
    return re.compile(
        rf"(?P<bytes>(?:{mark}X(?:[0-9A-Fa-f]{{2}})+{mark})+)"
        rf"|{mark}(?:(?P<one>[FSTREPHN])|\.(?P<format>[A-Za-z]{{2}})\s*(?P<count>[+-]?\d{{0,3}})"
        rf"|(?P<set>(?:C|M)(?:[0-9A-Fa-f]{{2}}){{2,3}})){mark}"
    )


def unescape(value: str, message: Message) -> str:
    r"""Returns a value with its escape sequences resolved; those that are not understood stay as they are.

    ``\F\ \S\ \T\ \R\ \E\ \P\`` are separators, ``\.br\ \.sp2\ \.ce\`` line ends, ``\.in4\ \.ti4\ \.sk4\`` spaces,
    ``\H\ \N\ \.fi\ \.nf\`` highlighting and wrapping, which text does not have; ``\X0D0A\`` bytes in the message's
    encoding; ``\C2842\ \M2442\`` a change of the character set by ISO 2022.
    """
    ones = {
        "F": message.separator, "S": message.component, "R": message.repetition, "T": message.subcomponent,
        "E": message.escape, "P": "#", "H": "", "N": "",
    }  # fmt: skip
    shifts = False

    def resolve(found: re.Match[str]) -> str:
        nonlocal shifts
        if found["one"]:
            return ones[found["one"]]
        if found["bytes"]:
            raw = bytes.fromhex(re.sub(rf"[X{re.escape(message.escape)}]", "", found["bytes"]))
            return _decode_bytes(raw, message.encoding)
        if found["set"]:
            shifts = True
            return f"\x1b{bytes.fromhex(found['set'][1:]).decode('latin-1')}"
        name, count = found["format"].lower(), int(found["count"]) if found["count"].strip("+-") else 0
        if name in ("br", "sp", "ce"):
            return "\n" * max(1, count if name == "sp" else 1)
        if name in ("in", "ti", "sk"):
            return " " * max(0, count)
        return "" if name in ("fi", "nf") else found[0]

    text = escape_pattern(message.escape).sub(resolve, value)
    if shifts:
        try:
            return text.encode("latin-1").decode("iso2022_jp_2")
        except UnicodeError:
            return value
    return text


def _decode_bytes(raw: bytes, encoding: str) -> str:
    for name in (*encoding.split("+"), "utf-8", "cp1252"):
        try:
            return raw.decode(name)
        except (UnicodeDecodeError, LookupError):  # a message in two encodings has no codec
            continue
    return raw.decode("latin-1")


# --- character sets -------------------------------------------------------------------------

# Names of table 0211, and others that are met in MSH-18, without spaces and marks; in order of preference.
CHARSETS = {
    "ASCII": "ascii", "ISOIR6": "ascii", "USASCII": "ascii", "UNICODEUTF8": "utf-8", "UTF8": "utf-8",
    "ISOIR14": "shift_jis", "ISOIR13": "shift_jis", "ISOIR87": "iso2022_jp_2", "ISOIR159": "iso2022_jp_2",
    "SHIFTJIS": "cp932", "SJIS": "cp932", "MS932": "cp932", "WINDOWS31J": "cp932", "EUCJP": "euc_jp",
    "ISO2022JP": "iso2022_jp_2", "GB18030": "gb18030", "GB180302000": "gb18030", "GBK": "gb18030", "GB2312": "gb18030",
    "BIG5": "big5hkscs", "KSX1001": "cp949", "EUCKR": "cp949", "KSC5601": "cp949", "LATIN1": "iso8859-1",
    "KOI8R": "koi8_r", "TIS620": "iso8859-11",
}  # fmt: skip


@lru_cache(maxsize=256)
def charsets(declared: str) -> tuple[str, ...]:
    """Returns Python's names of the character sets of MSH-18, which may be repeated; none where it knows none."""
    found = []
    for one in re.split(r"[~^]", declared.upper()):
        name = re.sub(r"[^A-Z0-9]", "", one)
        latin = re.fullmatch(r"(?:ISO)?8859(\d{1,2})", name)
        windows = re.fullmatch(r"(?:WINDOWS|WIN|CP)(125\d)", name)
        if name in CHARSETS:
            found.append(CHARSETS[name])
        elif latin and int(latin[1]) in {*range(1, 12), 13, 14, 15, 16}:
            found.append(f"iso8859-{int(latin[1])}")
        elif windows:
            found.append(f"cp{windows[1]}")
    return tuple(found)


def decode_message(raw: bytes, declared: str) -> Decoded:
    """Decodes a message: as MSH-18 says where the bytes can be that, else as ``decode`` finds.

    Bytes that are not ASCII and are UTF-8 are UTF-8, whatever is declared: no other text looks so. ISO 2022 is known by
    its escape sequences.
    """
    if raw.isascii() and b"\x1b$" not in raw:
        return Decoded(raw.decode("ascii"), "ascii")
    names = charsets(declared)
    for name in ("iso2022_jp_2" if b"\x1b$" in raw else "utf-8", *names):
        if name == "iso8859-1" and re.search(rb"[\x80-\x9f]", raw):
            name = "cp1252"  # nobody writes C1 controls
        try:
            return Decoded(raw.decode(name).removeprefix("\ufeff"), name)
        except UnicodeDecodeError:
            continue
    return decode(raw)


def control_id(message: Message) -> str:
    """Returns MSH-10 as it may stand in the name of a record."""
    value = message.header[10] if len(message.header) > 10 else ""
    return re.sub(r"[^\w.:\-]+", "_", value, flags=re.ASCII)[:60]


def message_type(message: Message) -> tuple[str, str]:
    """Returns message code and trigger event of MSH-9 (``ORU``, ``R01``), each empty where it is none."""
    value = message.header[9] if len(message.header) > 9 else ""
    parts: Sequence[str] = re.split(rf"[{re.escape(message.component)}_]", value.strip().upper())
    code, event = parts[0], parts[1] if len(parts) > 1 else ""
    return (
        code if re.fullmatch(r"[A-Z][A-Z0-9]{2}", code, re.ASCII) else "",
        event if re.fullmatch(r"[A-Z][A-Z0-9]{2}", event, re.ASCII) else "",
    )
