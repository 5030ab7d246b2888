"""What two ways to write one term have in common: its words, each in one spelling, in no order.

``Crohn's disease``, ``disease, Crohn`` and ``CROHN DISEASES`` are one term; so are ``leukaemia`` and ``leukemia``,
``type II diabetes`` and ``diabetes, type 2``, ``renal failure`` and ``kidney failure``. The rules are for English and
are applied to mentions and terms alike, so that a rule that is wrong for a word is mostly wrong on both sides.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST = 300  # characters of a term that are looked at

POSSESSIVE = re.compile(r"['\u2019\u02bc`]s?\b")
WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")
GREEK = str.maketrans({"α": " alpha ", "β": " beta ", "γ": " gamma ", "δ": " delta ", "κ": " kappa ", "ω": " omega "})
ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
ROMAN_AFTER = {"i": "1", "v": "5", "x": "10"}  # a numeral only behind one of these words
NUMBERED = frozenset({"type", "stage", "grade", "class", "factor", "phase", "group"})

# Words that add nothing to what a term means.
STOP_WORDS = frozenset({
    "a", "an", "and", "by", "due", "for", "from", "in", "nos", "of", "on", "or", "site", "specified", "the", "to",
    "unspecified", "with",
})  # fmt: skip
# Words that mean the same before another word, as plain English has it.
SAME = {
    "renal": ("kidney",), "hepatic": ("liver",), "cardiac": ("heart",), "pulmonary": ("lung",),
    "gastric": ("stomach",), "cerebral": ("brain",), "ocular": ("eye",), "cutaneous": ("skin",),
    "mammary": ("breast",), "cancer": ("malignant", "neoplasm"), "malignancy": ("malignant", "neoplasm"),
    "tumor": ("neoplasm",),
}  # fmt: skip
BRITISH = (
    (
        re.compile(
            r"(?<=.)ae(?=[a-z])|^[ao]e(?=[a-z]{3})|(?<=rrh)oe|(?<=[fc])oe(?=[tl])|(?<=[^aeiou])oe(?=dem)|(?<=am)oe"
        ),
        "e",
    ),
    (re.compile(r"(?<=[a-z]{3})our$"), "or"),
    (re.compile(r"sulph"), "sulf"),
    (re.compile(r"(?<=[a-z]{3})is(?=ation|ed$|ing$)"), "iz"),
    (re.compile(r"(?<=[a-z])yse(?=[dr]?$)"), "yze"),
    (re.compile(r"(?<=[a-z]{2}[bt])re$"), "er"),
)
PLURAL = (
    (re.compile(r"(?<=[a-z]{2})ies$"), "y"),
    (re.compile(r"(?<=[a-z]{2})itides$"), "itis"),
    (re.compile(r"(?<=[a-z]{2}o)mata$"), "ma"),
    (re.compile(r"(?<=[a-z]{2})(os|es|ys|stas)es$"), r"\1is"),
    (re.compile(r"(?<=[a-z])(ss|x|ch|sh|z)es$"), r"\1"),
    (re.compile(r"(?<=[a-z]{2}[^suio])s$"), ""),
)


def fold(text: str) -> str:
    """Returns ``text`` in lower case, without accents, Greek letters spelled out, possessives gone."""
    text = text[:LONGEST]
    if text.isascii():
        plain = text.lower()
        return POSSESSIVE.sub("", plain) if "'" in plain or "`" in plain else plain
    plain = unicodedata.normalize("NFKD", text).casefold().translate(GREEK)
    return POSSESSIVE.sub("", "".join(char for char in plain if not unicodedata.combining(char)))


@lru_cache(maxsize=1 << 17)
def normal_word(word: str) -> tuple[str, ...]:
    """Returns what a folded word becomes: the American singular, or the plain words for a learned one."""
    if len(word) > 3:
        for pattern, replacement in (*PLURAL, *BRITISH):
            word = pattern.sub(replacement, word)
    return SAME.get(word, (word,))


def normal_words(text: str) -> tuple[str, ...]:
    """Returns the words of a term in their one spelling, in the order of the text, without stop words.

    Where all words are stop words, they stay; where there is no word at all, the result is empty.
    """
    found = WORD.findall(fold(text))
    for place, word in enumerate(found):
        if word in ROMAN:
            found[place] = ROMAN[word]
        elif place and word in ROMAN_AFTER and found[place - 1] in NUMBERED:
            found[place] = ROMAN_AFTER[word]
    words: list[str] = []
    for word in [word for word in found if word not in STOP_WORDS] or found:
        words += normal_word(word)
    return tuple(words)


def make_key(words: tuple[str, ...]) -> str:
    """Returns what all ways to write a term share: its different words, sorted."""
    return " ".join(sorted(set(words)))
