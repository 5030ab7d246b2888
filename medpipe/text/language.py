"""The language of a note.

The shipped models know English only, and English notes are the many: one must never be taken for a foreign one. So a
note in which ordinary English words are common enough is English without more ado; every other is asked of py3langid,
a naive Bayes classifier over byte n-grams (Lui & Baldwin 2012, ACL, System Demonstrations), restricted to the languages
that notes are written in; and what is not sure (lists of drugs, tables, a few words) has no language: ``None``, which
counts as supported. Of a long note three windows are looked at; all must agree.

Tags are those of BCP 47 (RFC 5646). Detected ones have the language alone (``es``); those that a source gives keep what
they say (``en-US``), written as the RFC recommends.

Of 57,194 English texts (notes, abstracts, dialogues, single sections and tables of C-CDA documents, Blue Button
exports) one is called foreign, which goes on in Spanish; 93 % are called English. Of 40,000 single lines of such texts
one is. Invented notes in 23 other languages are recognised from 160 characters on, four of five or more from 80.

It cannot tell what a note in two languages is mostly in: where its windows disagree, the answer is ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from medpipe.text.titles import words_of

WINDOW = 500  # characters
SURE = 0.8  # probability from which the classifier is believed
SURE_ENGLISH = 0.5  # and from which it is believed that a text is English: being wrong costs less
VERY_SURE = 0.99  # and above which it is believed against the source
FEWEST_LETTERS = 25  # of a text in the Latin alphabet; no language is told from less
LAST_LATIN = "\u0250"  # the letters of European languages are below
MANY_LETTERS = 200  # of a text that is believed against its source
# Share and number of ordinary English words in a window that make it English. Spanish, French, German, Italian,
# Portuguese, Dutch, Polish and Swedish notes have less than a hundredth.
ENGLISH_SHARE, ENGLISH_WORDS = 0.06, 4
# Common words of English notes that are no words of other European languages.
ENGLISH = words_of("""
    the and with this that which from were been being has have she her his they their there who would should could
    about after before without when while where other than then these those patient's patients denies denied reports
    reported noted history seen presents presented presenting year years old woman daily twice blood pressure heart
    chest breath right left both pain lower upper mild moderate severe showed shown found given taken underwent
    following follow-up did does not but any some because since until well within through between during under also
    today yesterday week weeks month months night morning mother father brother sister bowel lung lungs kidney liver
    surgery treated treatment diagnosed increased decreased unremarkable swelling shortness weight loss
""")
# The languages that the classifier chooses from: those of countries that keep their records on computers. Rare ones
# and Latin only take from what they resemble.
LANGUAGES = (
    "en", "es", "fr", "de", "it", "pt", "ca", "eu", "nl", "sv", "da", "no", "fi", "is", "pl", "cs", "sk", "sl", "hr",
    "ro", "hu", "tr", "et", "lv", "lt", "sq", "ru", "uk", "be", "bg", "mk", "sr", "el", "ka", "hy", "ar", "fa", "ur",
    "he", "hi", "bn", "ta", "te", "th", "vi", "id", "ms", "tl", "zh", "ja", "ko", "zxx",
)  # fmt: skip
NO_LANGUAGE = "zxx"  # numbers, markup, codes (ISO 639-2)
WORD = re.compile(r"[a-z][a-z'-]+")
# ISO 639-2 codes and English names of the languages that sources most often give.
WRITTEN = {
    "en": "eng english", "es": "spa spanish castilian", "fr": "fra fre french", "de": "deu ger german",
    "it": "ita italian", "pt": "por portuguese", "nl": "nld dut dutch", "pl": "pol polish",
    "sv": "swe swedish", "da": "dan danish",
    "no": "nor norwegian", "fi": "fin finnish", "cs": "ces cze czech", "el": "ell gre greek", "ru": "rus russian",
    "uk": "ukr ukrainian", "tr": "tur turkish", "ar": "ara arabic", "he": "heb hebrew", "zh": "zho chi chinese",
    "ja": "jpn japanese", "ko": "kor korean", "vi": "vie vietnamese", "hi": "hin hindi", "ro": "ron rum romanian",
    "hu": "hun hungarian", "th": "tha thai", "fa": "fas per persian farsi", "tl": "tgl tagalog",
}  # fmt: skip
PRIMARY = {written: tag for tag, words in WRITTEN.items() for written in words.split()}
UNKNOWN = frozenset(
    ("und", "mis", "mul", "zxx", "unk", "unknown", "none", "null", "asku", "nask", "ni", "na", "oth", "other")
)
TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")  # RFC 5646, section 2.1, what of it occurs


def detect_language(text: str) -> str | None:
    """Returns the language of a text as a BCP 47 tag; ``None`` where it is not sure."""
    found = _detect(text)
    return found[0] if found else None


def choose_language(text: str, written: str | None) -> str | None:
    """Returns the language of a text whose source may give one.

    The source is believed, unless the text is long enough and surely something else: records say "en" of whatever was
    typed into them, and the language that the patient speaks stands where that of the note should.
    """
    tag = normal_tag(written)
    found = _detect(text)
    if tag is None or found is None:
        return tag if found is None else found[0]
    language, probability = found
    if language == primary(tag) or probability < VERY_SURE or sum(map(str.isalpha, text[:5_000])) < MANY_LETTERS:
        return tag
    return language


def is_supported(language: str | None, supported: Sequence[str]) -> bool:
    """Says whether notes of a language can be processed: whether its primary language is one of the given ones.

    A note without a language is processed.
    """
    return language is None or primary(language) in {primary(one) for one in supported}


def primary(tag: str) -> str:
    """Returns the primary language of a tag: ``en`` of ``en-US``."""
    return tag.replace("_", "-").partition("-")[0].lower()


def normal_tag(written: str | None) -> str | None:
    """Returns a language as sources write it as a BCP 47 tag; ``None`` for what says nothing.

    Letter case is that of RFC 5646, section 2.1.1 (``en-US``, ``zh-Hant``); three-letter codes and English names of the
    commonest languages become two-letter codes.
    """
    text = (written or "").strip().replace("_", "-")
    text = PRIMARY.get(text.lower(), text)
    if text.lower() in UNKNOWN or not TAG.fullmatch(text):
        return None
    first, *rest = text.split("-")
    first = PRIMARY.get(first.lower(), first.lower())
    if first in UNKNOWN:
        return None
    return "-".join([first, *(_subtag(part) for part in rest)])


def _subtag(part: str) -> str:
    if len(part) == 2 and part.isalpha():
        return part.upper()
    return part.title() if len(part) == 4 and part.isalpha() else part.lower()


def _detect(text: str) -> tuple[str, float] | None:
    """Returns the language that all windows agree on, and how sure the least sure of them is."""
    answers = [_ask(window) for window in _windows(text)]
    sure = [one for one in answers if one[1] >= (SURE_ENGLISH if one[0] == "en" else SURE) and one[0] != NO_LANGUAGE]
    languages = {language for language, _ in sure}
    if len(languages) != 1:
        return None
    (language,) = languages
    if language != "en" and any(answer[0] == "en" for answer in answers):
        return None  # part of it may be English
    return language, min(probability for _, probability in sure)


def _windows(text: str) -> list[str]:
    """Returns up to three pieces of a text: of its beginning, middle and end."""
    count = min(3, 1 + len(text) // WINDOW)
    size = min(WINDOW, -(-len(text) // count))
    step = (len(text) - size) // max(1, count - 1)
    return [text[at : at + size] for at in range(0, count * step, step)] if count > 1 else [text]


def _ask(window: str) -> tuple[str, float]:
    """Returns the language of a piece of text and its probability."""
    words = WORD.findall(window.lower())
    english = sum(map(ENGLISH.__contains__, words))
    if english >= ENGLISH_WORDS and english >= ENGLISH_SHARE * len(words) and _is_latin(window, words):
        return "en", 1.0
    letters = "".join(filter(str.isalpha, window))
    if len(letters) < FEWEST_LETTERS and max(letters, default="") < LAST_LATIN:
        return NO_LANGUAGE, 0.0
    capitals = sum(map(str.isupper, letters))
    language, probability = _classifier().classify(window.lower() if 2 * capitals > len(letters) else window)
    return str(language), float(probability)


def _is_latin(window: str, words: list[str]) -> bool:
    """Says whether most letters of a piece of text are those of the English words in it."""
    return window.isascii() or 2 * sum(map(len, words)) > sum(map(str.isalpha, window))


@cache
def _classifier() -> Any:
    # Takes half a second and 100 MB to load, and is needed for few notes.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    classifier.set_languages(LANGUAGES)
    return classifier
