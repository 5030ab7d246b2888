"""Characters of a note that would move a cursor, turn the direction of a line or hide: what is shown in their place."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

# Controls (C0, DEL, C1), marks, embeddings, overrides and isolates of the bidirectional algorithm (UAX 9), separators
# that are line breaks to some, and the tag characters, which nobody sees and programs read.
BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
UNSEEN = f"\x00-\x1f\x7f-\x9f{BIDI}\u200b\u2028\u2029\u2060\ufeff\U000e0000-\U000e007f"
HIDDEN = re.compile(f"[{UNSEEN}]")
HIDDEN_IN_A_LINE = re.compile(f"[{UNSEEN}]".replace("\x00-\x1f", "\x00-\x08\x0a-\x1f"))  # a tab is no secret


def one_line(text: str) -> str:
    """Returns ``text`` on one line, without characters that a terminal or a browser would obey."""
    return " ".join(HIDDEN.sub(" ", text).split())


def plain_lines(text: str) -> str:
    """Returns ``text`` with its line feeds, without other characters that a terminal would obey."""
    return "\n".join(HIDDEN.sub(" ", line) for line in text.split("\n"))


def shown(text: str) -> Markup:
    """Returns ``text`` as HTML, every hidden character as a small sign that counts as one (``<span class=ctl>``)."""
    parts = []
    cursor = 0
    for match in HIDDEN_IN_A_LINE.finditer(text):
        parts += [escape(text[cursor : match.start()]), _sign(match.group())]
        cursor = match.end()
    parts.append(escape(text[cursor:]))
    return Markup("").join(parts)


def _sign(character: str) -> Markup:
    name = unicodedata.name(character, "control character").lower()
    return Markup('<span class="ctl" title="{}">U+{:04X}</span>').format(name, ord(character))
