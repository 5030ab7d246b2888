"""Names of character sets, and which Western one undeclared 8-bit text is in.

Windows-1252 is by far the most common, and reads any bytes without an error, so it is taken unless it reads badly: a
capital behind a small letter (``filthyÓ``), a bullet or a currency sign inside of a word, a quotation mark between
letters. Then Mac Roman, the DOS page 850 and Windows-1250 are tried, and one is taken that reads clearly better. On
short sentences of eight languages this names the page more often than general detectors do, which guess among a
hundred (charset-normalizer 3.5 names one in five English sentences in Windows-1252 right), and it never takes a
well-read Windows-1252 text for anything else.
"""

from __future__ import annotations

import codecs
import re
from functools import cache

# Handler of undecodable bytes: each is read as Windows-1252, and the five that it leaves open as their C1 controls,
# as https://encoding.spec.whatwg.org/ has it. Nothing is dropped or replaced.
ONE_BY_ONE = "medpipe-windows-1252"


def _one_by_one(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    raw = error.object[error.start : error.end]
    return "".join(WINDOWS_1252[value] for value in raw), error.end


WINDOWS_1252 = [bytes([value]).decode("cp1252", "ignore") or chr(value) for value in range(256)]
codecs.register_error(ONE_BY_ONE, _one_by_one)

# Python's names of codecs that are not, in lower case, those of IANA.
IANA = {
    "ascii": "us-ascii", "mac-roman": "macintosh", "cp932": "windows-31j", "cp949": "windows-949",
    "cp950": "big5", "cp874": "windows-874", "utf-16-le": "utf-16le", "utf-16-be": "utf-16be",
    "utf-32-le": "utf-32le", "utf-32-be": "utf-32be", "utf-8-sig": "utf-8", "shift_jis": "shift_jis",
    "big5hkscs": "big5-hkscs", "hz": "hz-gb-2312",
}  # fmt: skip


@cache
def standard_name(codec: str) -> str:
    """Returns IANA's name of one of Python's codecs, in lower case: ``cp1252`` -> ``windows-1252``.

    Two that were read together are joined by ``+``, as they are given; a name that Python does not know stays.
    """
    if "+" in codec:
        return "+".join(map(standard_name, codec.split("+")))
    try:
        name = codecs.lookup(codec).name
    except LookupError:
        return codec.lower()
    if name in IANA:
        return IANA[name]
    if match := re.fullmatch(r"cp(125\d|\d{3,4})", name):
        return f"windows-{match[1]}" if match[1].startswith("125") else f"ibm{match[1]}"
    return re.sub(r"^iso(8859|2022)", r"iso-\1", name).replace("_", "-")


# Codecs of Python that are no character sets, or that nobody may choose from outside.
REFUSED = frozenset(("utf-7", "idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "mbcs", "oem"))
# What is meant where a narrower name is declared, as browsers take it.
WIDER = {
    "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874", "gb2312": "gb18030",
    "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950",
}  # fmt: skip


def find_codec(charset: str | None) -> str | None:
    """Returns Python's name of a declared character set, ``None`` where it knows none of that name."""
    # HL7 and XML write ISO 8859 in ways of their own: "8859/1", "ISO_8859-1:1987", "UNICODE UTF-8".
    name = (charset or "").strip(" \t\"'").lower()
    name = re.sub(r":\d{4}$", "", name).replace("unicode ", "")
    name = re.sub(r"^8859[/-](\d+)$", r"iso-8859-\1", name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._:+ -]{0,40}", name):
        return None
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    usable = getattr(found, "_is_text_encoding", True) and found.name.replace("_", "-") not in REFUSED
    return found.name if usable else None


# --- Western code pages -----------------------------------------------------------------------

CANDIDATES = ("cp1252", "mac_roman", "cp850", "cp1250")
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
SAMPLE_BYTES = 1 << 18
SAMPLE = 4000  # characters beyond ASCII that are judged at most
# A text of a Western language is mostly in plain letters, and so is a word that has others; one in markup, too.
MOST_ACCENTED, MOST_IN_WORDS, LEAST_ACCENTED = 0.4, 0.6, 10
WORD = re.compile(r"[^\W\d_]{3,}")

QUOTES = frozenset("“”„‟«»‹›‘‚¿¡")
CURRENCIES = frozenset("€£¥¢")
BETWEEN_LETTERS = frozenset("–—…\xa0·’")
BESIDE_LETTERS = frozenset("§©®™±×÷•†‡‰≤≥≠≈√∞∑∆→←↑↓■●▪◦°¹²³¼½¾")


def western_codec(raw: bytes) -> str | None:
    """Returns the codec that undeclared 8-bit bytes read best in; ``None`` where no Western one can be meant."""
    # Around the first such byte: a long text is not judged whole.
    first = BEYOND_ASCII.search(raw)
    start = max(0, first.start() - 1000) if first else 0
    raw = raw[start : start + SAMPLE_BYTES]
    best, best_score = "cp1252", 0
    for codec in CANDIDATES:
        text = raw.decode(codec, ONE_BY_ONE)
        well, badly = _judge(text)
        if codec == "cp1252":
            if _mostly_accented(text):
                return None
            if badly * 2 <= well:
                return codec
            best_score = max(well - badly + 1, 1)
        elif well - badly > best_score:
            best, best_score = codec, well - badly
    return best


def _mostly_accented(text: str) -> bool:
    """Says whether letters beyond ASCII are most of a text's letters, or of those of the words that have any."""
    beyond = sum(1 for match in NOT_ASCII.finditer(text) if match[0].isalpha())
    if beyond < LEAST_ACCENTED:
        return False
    if beyond > MOST_ACCENTED * (beyond + len(re.findall(r"[A-Za-z]", text))):
        return True
    words = [word for word in WORD.findall(text) if not word.isascii()]
    inside = sum(len(NOT_ASCII.findall(word)) for word in words)
    return inside >= LEAST_ACCENTED and inside > MOST_IN_WORDS * sum(map(len, words))


def _judge(text: str) -> tuple[int, int]:
    """Returns how well and how badly the characters beyond ASCII stand among their neighbours."""
    well = badly = 0
    for count, match in enumerate(NOT_ASCII.finditer(text)):
        if count == SAMPLE:
            break
        at = match.start()
        near = text[max(0, at - 2) : at + 3]
        if match[0] in CURRENCIES:
            score = 1 if any(map(str.isdigit, near)) else -2
        else:
            score = _judge_one(match[0], text[at - 1 : at] or " ", text[at + 1 : at + 2] or " ")
        well, badly = well + max(score, 0), badly + max(-score, 0)
    return well, badly


def _judge_one(character: str, before: str, after: str) -> int:
    inside = before.isalpha() and after.isalpha()
    if character in "ªºµ":
        return 1 if character == "µ" or not inside else -2
    if character.islower():
        if before.isupper() and after.isupper():
            return -1
        return 2 if before.isalpha() or after.isalpha() or (before + after).isspace() else 0
    if character.isupper():
        if not before.isalpha():
            return 1 if after.isalpha() else 0
        return 1 if before.isupper() and not after.islower() else -2
    if character in BETWEEN_LETTERS:
        return 0 if inside else 1
    if character in QUOTES or character in BESIDE_LETTERS:
        return -2 if inside else 1
    return -2
