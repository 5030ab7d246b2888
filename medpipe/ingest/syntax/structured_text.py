"""Bytes of JSON and XML to text."""

from __future__ import annotations

import re

from medpipe.ingest.syntax.decoding import BOMS, Decoded, decode

# Bytes beyond ASCII with what stands beside them.
BEYOND = re.compile(rb"[ -~]{0,6}[\x80-\xff](?:[ -~]{0,6}[\x80-\xff])*[ -~]{0,6}")
SAMPLE = 1 << 18  # bytes in which they are looked for


def decode_structured(raw: bytes, charset: str | None) -> Decoded:
    """Decodes JSON or XML; what ``decode`` would refuse as text alone is refused.

    Names and marks, which are ASCII, must not outvote the text between them: in a Bundle in Japanese or Cyrillic most
    characters are those of markup.
    """
    if not raw.startswith(tuple(mark for mark, _ in BOMS)) and b"\0" not in raw[:64] and not raw.isascii():
        first = next((at for at in range(0, len(raw), SAMPLE) if not raw[at : at + SAMPLE].isascii()), 0)
        alone = decode(b" ".join(BEYOND.findall(raw[first : first + SAMPLE])), charset)
        if alone.error == "TEXT_UNDECODABLE":
            return alone
    return decode(raw, charset)
