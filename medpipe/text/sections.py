"""Sections of a note: headings as clinicians write them, their canonical names, and what lies in what.

A heading begins a line. Its title is known (``headings.toml``, see ``medpipe.text.titles``) or not; behind it stands a
colon or a dash, with text or without, or nothing. It may be marked: by Markdown's ``#`` and ``**``, list marks and
numbers, ``[ ]``, dashes (``--- X ---``), lines drawn below or around it. A known title counts where it can hardly be
anything else; an unknown one (name ``other``) in capitals, or marked, and where nothing says that it is a field.
Notes that lost their line ends are read too: a known title with a colon counts behind the end of a sentence.
Fields (``Date of birth: …``), vital signs, drugs with doses, table rows, the speakers of a dialogue and the lines of a
note all in capitals make no sections.

Nesting: the sections without a parent cover the text without gaps, in order. A section with a parent lies in it,
behind its heading, and stands behind it in the list; what stands between the heading of a parent and its first part
belongs to the parent alone, so the parts of a section need not cover it. A section has a parent because Markdown says
so, because it is a part by nature (``Lungs:`` in a physical exam, a problem in an assessment), or because it is
numbered, bulleted or indented below a heading that is not.

Measured on sections that documents tell, written out as text, by where a heading begins: C-CDA (189 documents, 2,756
sections) recall 0.999, precision of the outer ones 0.978, names 0.996; FHIR Compositions (60 sections) 0.983, 0.868 and
0.983; ACI-Bench dev (178 headings) 1.000, 0.962 and 1.000. What counts as wrong there is mostly a heading inside a
narrative. One of 4,451 abstracts and dialogues without sections is given one.

It cannot tell a table of contents from empty sections, nor see headings that only a font marks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from medpipe.records import Section
from medpipe.text.titles import LONGEST_TITLE, MOST_WORDS, Title, read_title, section_name, table, words_of

__all__ = ["find_sections", "is_part", "section_name", "telling_names"]

MOST_REPEATED = 2  # an unknown key of more lines than these is a field or a speaker
SHORTEST_FRAME = 8  # characters of a line drawn around an unknown title
RULES = "-=_*~"  # characters of drawn lines
# What may stand before a title: Markdown's heading marks, a list mark, a number, Markdown's bold.
MARKS = re.compile(
    r"""[ \t\xa0]*(?P<hash>\#{1,6})?[ \t]*
    (?:(?P<bullet>[-•*·▪◦‣–—>►■●○+])[ \t]+)?
    (?:(?P<number>\d{1,2}(?:\.\d{1,2}){1,3}\.?|\d{1,2}[.)]|(?<=\#)\d{1,2}(?=[ \t])|[IVX]{1,5}[.)]|[A-H][.)])[ \t]+)?
    (?P<bold>\*{1,3}|_{1,3})?""",
    re.VERBOSE,
)
DASH = re.compile(r"\s+[-–—]\s+|\s*[–—]\s*")
SECOND_OF_NUMBER = frozenset((".", ")", "I", "V", "X"))  # the second character of "A." and "IV."
LONGEST_LINE = 4 * LONGEST_TITLE  # what is read of a line to see whether it begins with a heading
COLUMNS = re.compile(r"\S(?:[ ]{3,}|\t+)\S|\|")  # of a table
FIELD = re.compile(r"\s*[A-Za-z][\w /().#'&-]{0,48}:(?!:)")
KEYS = re.compile(r"^[ \t]*([A-Z][\w /&.,'()-]{1,60}):", re.MULTILINE)
NUMBERS = re.compile(r"(?=.*\d)[\d\s/:.,@%-]*(?:[A-Z][a-z]{2,8}\.?)?[\d\s/:.,@%-]*(?:AM|PM)?")  # and dates
CARBON_COPY = re.compile(r"\s*(?:dr\b|doctor\b|.{0,60}\b(?:m\.?d|d\.?o|ph\.?d|r\.?n)\b)", re.IGNORECASE)

# A numbered line of a plan that begins so says what to do; it names no problem.
TO_DO = words_of("""
    add adjust admit advise advised as ask avoid await begin call check complete consider consult continue continued
    decrease discharge discharged discontinue discuss discussed draw encourage encouraged follow for get give given he
    hold i if in increase initiate keep maintain may monitor new no not obtain on order ordered patient please plan pt
    recheck recommend recommended refer referral referred repeat resume return review rtc schedule see send she start
    started stop stopped switch take taper the there they this titrate to trial try up use we when will with would
""")
SOAP = (("S", "subjective"), ("O", "objective"), ("A", "assessment"), ("P", "plan"))
NO_TITLE_END = ".,;?!"  # what the name of a problem does not end with, but before a list
SENTENCE_ENDS = (". ", "; ", ", ", "? ", "! ", ") ", "] ", ".\t", "  ")
OPEN_TITLES = ("other", "notes")  # names of sections that may hold any other: titles of whole notes


@dataclass(slots=True)
class Heading:
    """A line that may be a heading: what it says and how it is marked. Its name and place are judged later."""

    number: int  # of its line
    start: int  # of its first mark in the text
    body: int  # behind it
    title: str
    words: Title  # what the title says by itself
    kind: str  # "colon", "dash", "bare": what stands behind the title
    value: str = ""  # the text behind it on its line, cut
    indent: int = 0
    hashes: int = 0  # of Markdown
    marker: str = ""  # "bullet", "number"
    bold: bool = False
    drawn: int = 0  # 1: a line below it, 2: one above and below, 3: marks before and behind it
    name: str = "other"
    code: str | None = None
    level: int = 0  # that Markdown or a drawn line gives; 0: none
    depth: int | None = None  # number of the open sections that hold it, where its title says so
    parent: int | None = None
    problems: bool = False  # it, or what it lies in, may hold problems

    @property
    def alone(self) -> bool:
        """Says whether no text stands behind it on its line."""
        return not self.value

    @property
    def marked(self) -> bool:
        """Says whether anything but its words marks it as a heading."""
        return bool(self.hashes or self.bold or self.drawn)


def find_sections(text: str) -> list[Section]:
    """Returns the sections of a note in order, a parent before what lies in it.

    A text without headings is one section ``body``, an empty one has none. The work grows linearly with the text.
    """
    headings = _Reader(text).headings()
    if headings and not text[: headings[0].start].strip():
        headings[0].start = 0  # white space before the first heading belongs to it
    first = headings[0].start if headings else len(text)
    sections = [Section("body", 0, first, 0)] if first else []
    shift = len(sections)
    for heading, end in zip(headings, _ends(headings, len(text)), strict=True):
        parent = None if heading.parent is None else heading.parent + shift
        sections.append(
            Section(heading.name, heading.start, end, heading.body, heading.title, heading.code, parent)
        )  # fmt: skip
    return sections


def is_part(name: str) -> bool:
    """Says whether a section of this name only divides another one: a body system, a problem, an unknown heading."""
    kind = table().kinds.get(name)
    return name == "other" or (kind is not None and kind.part)


def telling_names(sections: Sequence[Section]) -> list[str]:
    """Returns for each section the name that tells what its text is: that of the section around it for a mere part.

    What stands under "Mother:" in a family history is of the family, what stands under "Skin:" in a physical exam is
    a finding of the exam.
    """
    names: list[str] = []
    for section in sections:
        around = names[section.parent] if section.parent is not None else None
        names.append(around if around is not None and is_part(section.name) else section.name)
    return names


def _ends(headings: list[Heading], length: int) -> list[int]:
    """Returns where each section ends: at the next heading that does not lie in it."""
    ends = [length] * len(headings)
    opened: list[int] = []
    for number, heading in enumerate(headings):
        while opened and opened[-1] != heading.parent:
            ends[opened.pop()] = heading.start
        opened.append(number)
    return ends


class _Reader:
    """Reads a note line by line; knows which sections are open where it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines(keepends=True)
        self.table = table()
        self.found: list[Heading] = []
        self.open: list[int] = []  # the open sections, the outermost first
        self.drawn = self._drawn_lines()
        self.box = -9  # the last drawn line that may be the upper edge of a box
        self.closed = -9  # the last that closed one
        self.has_problems = False  # the innermost open section, or what it lies in, may hold problems
        self.soap = 0  # letters of SOAP seen
        self.first_level: set[str] = set()  # forms of drawn titles that are on the first level

    def headings(self) -> list[Heading]:
        """Returns the headings of the note in order, with names and parents.

        Most lines are no headings. This loop sees that at a glance for nearly all of them; the rest is parsed.
        """
        titles, last_words, drawn = self.table.all, self.table.last_words, self.drawn
        at = 0
        for number, line in enumerate(self.lines):
            start, at = at, at + len(line)
            colon = line.find(":", 0, LONGEST_TITLE)
            if colon < 0:
                if len(line) > 2 * LONGEST_TITLE:  # a paragraph
                    if (
                        line[0] in " \t#"
                        or line.find(" - ", 0, LONGEST_TITLE) > 0
                        or line.find("–", 0, LONGEST_TITLE) > 0
                    ):
                        self.read_line(number, start)
                    if ":" in line:
                        self.read_inside(number, start, 0)
                    continue
                body = line.strip()
                if body and (
                    not body[0].isalpha()
                    or body.lower() in titles
                    or body.isupper()
                    or " - " in body
                    or not body.isascii()
                    or number + 1 in drawn
                    or number - 1 == self.box
                    or (self.has_problems and (body[-1] not in NO_TITLE_END or self._begins_items(number + 1)))
                ):
                    self.read_line(number, start)
                continue
            title = line[:colon].strip()
            last = title[title.rfind(" ") + 1 :].rstrip("*_").lower()
            after = 0
            if last in last_words or not title[:1].isalpha() or title.isupper() or not line[colon + 1 :].strip():
                after = self.read_line(number, start)
            if (not after and last in last_words) or line.find(":", colon + 1) >= 0:
                self.read_inside(number, start, after)
        return self.found

    def _begins_items(self, number: int) -> bool:
        """Says whether a line may be the first of a list, before which the name of a problem may end as a sentence."""
        return number < len(self.lines) and not self.lines[number].lstrip()[:1].isalpha()

    # --- a line -----------------------------------------------------------------------------------------------------

    def read_line(self, number: int, start: int) -> int:
        """Takes up the heading at the beginning of a line, if there is one; returns where it ends in the line, else 0."""
        if number in self.drawn:
            if number != self.closed:
                self.box = number
            return 0
        heading = self.parse(number, start)
        if heading is None:
            return 0
        name = self.judge(heading)
        if name is None:
            return 0
        self.take(heading, name)
        return heading.body - start

    def parse(self, number: int, start: int) -> Heading | None:
        """Returns what a line says as a heading; ``None`` where it can be none."""
        line = self.lines[number][:LONGEST_LINE]
        body = line.strip()
        if not body:
            return None
        at = first = line.index(body[0])
        hashes, marker, bold = 0, "", ""
        if not body[0].isalpha() or body[1:2] in SECOND_OF_NUMBER:
            inner = self._wrapped(body)
            if inner is not None:
                return self._wrapped_heading(number, start + first, body, inner)
            marks = MARKS.match(line)
            assert marks is not None  # all of it may be missing
            hashes, bold = len(marks["hash"] or ""), marks["bold"] or ""
            marker = "number" if marks["number"] else "bullet" if marks["bullet"] else ""
            at = marks.end()
        rest = line[at:].rstrip()
        stop, kind = rest.find(":", 0, LONGEST_TITLE), "colon"
        behind = at + stop + 1
        if stop < 0:
            dash = DASH.search(rest[:LONGEST_TITLE]) if not rest.isascii() or " -" in rest else None
            stop, kind = (dash.start(), "dash") if dash else (len(rest), "bare")
            behind = at + (dash.end() if dash else len(rest))
        title = rest[:stop].rstrip()
        if bold or hashes:
            title = title.rstrip("*_#").rstrip()
        if not title or len(title) > LONGEST_TITLE or not title[0].isalpha():
            return None
        if bold:
            closed = line.startswith(bold, at + len(title))  # **X**: or **X:**
            if not closed and line.startswith(bold, behind):
                closed, behind = True, behind + len(bold)
            bold = bold if closed else ""
        indent = len(line[:first].expandtabs(4)) if first else 0
        value = line[behind:].strip()
        heading = Heading(
            number, start + first, start + behind, title, read_title(title), kind, value, indent, hashes, marker, bool(bold)
        )  # fmt: skip
        if self.drawn and not value:
            self._see_drawn(heading)
        return heading

    def _wrapped_heading(self, number: int, start: int, body: str, inner: str) -> Heading | None:
        """Returns a heading with marks on both sides."""
        if not inner[:1].isalpha() or len(inner) > LONGEST_TITLE:
            return None
        drawn = 0 if body[0] == "[" else 3
        heading = Heading(number, start, start + len(body), inner, read_title(inner), "bare", drawn=drawn)
        return heading if drawn or heading.words.loose else None  # [NAME]: what de-identification left

    def _wrapped(self, body: str) -> str | None:
        """Returns what stands between marks that a line begins and ends with: ``--- X ---``, ``== X ==``, ``[X]``."""
        first = body[0]
        if first == "[" and body.rstrip(": ")[-1] == "]":
            return body.rstrip(": ")[1:-1].strip()
        if first not in RULES or body[-1] != first:
            return None
        inner = body.strip(first)
        before = len(body) - len(body.lstrip(first))
        # "**X**" is Markdown's bold, "- X -" a list item.
        least = 4 if first in "*_" else 2
        return inner.strip() if before >= least and len(body) - before - len(inner) >= 2 else None

    # --- lines that are drawn -----------------------------------------------------------------------------------------

    def _drawn_lines(self) -> frozenset[int]:
        """Returns the numbers of the lines that hold nothing but a rule: ``-----``, ``=====``."""
        text = self.text
        if not ("---" in text or "===" in text or "***" in text or "___" in text or "~~~" in text):
            return frozenset()
        return frozenset(
            number
            for number, line in enumerate(self.lines)
            if (body := line.strip()) and body[0] in RULES and len(body) > 2 and body == body[0] * len(body)
        )

    def _see_drawn(self, heading: Heading) -> None:
        """Says how lines are drawn around a heading, and takes them to it."""
        above, below = self._next_text(heading.number, -1), self._next_text(heading.number, 1)
        if COLUMNS.search(self.lines[heading.number].strip()) or below not in self.drawn or below - heading.number > 2:
            return
        if above == self.box and heading.number - above <= 2:
            heading.drawn = 2
            heading.start = self._starts[above] + len(self.lines[above]) - len(self.lines[above].lstrip())
        elif below == heading.number + 1:
            heading.drawn = 1
        else:
            return
        heading.body = self._starts[below] + len(self.lines[below].rstrip())

    def _next_text(self, number: int, step: int) -> int:
        """Returns the number of the next line with text, of at most three; -1 where there is none."""
        for other in (number + step, number + 2 * step, number + 3 * step):
            if 0 <= other < len(self.lines) and self.lines[other].strip():
                return other
        return -1

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(map(len, self.lines), initial=0))

    # --- is it one? ---------------------------------------------------------------------------------------------------

    def judge(self, heading: Heading) -> str | None:
        """Returns the name of a heading; ``None`` where the line is none."""
        if heading.title in ("CC", "C.C.") and CARBON_COPY.match(heading.value):
            return None
        if "|" in heading.value and not heading.marked:
            return None  # a row of a table
        named = self._part(heading) or self._known(heading) or self._letter(heading)
        if named or (self.has_problems and self._is_problem(heading)):
            return named or "problem"
        return "other" if heading.kind != "dash" and self._is_unknown_title(heading) else None

    def _part(self, heading: Heading) -> str | None:
        """Returns the name of a heading that is a part of an open section."""
        names, strict = heading.words.parts, heading.words.strict
        if names is None or heading.hashes or heading.drawn or (heading.kind == "bare" and heading.words.lower):
            return None
        own = strict is not None and not strict[1]  # it is the title of a section of its own, too
        if own and heading.alone:
            return None
        for depth in range(len(self.open), 0, -1):
            around = self.found[self.open[depth - 1]]
            name = names.get(around.name)
            if around.parent is not None and self.found[around.parent].name == around.name:
                continue  # "Labs:" in RESULTS
            # What is a part has none of the same kind; "Medications" behind "Allergies" is a section of its own.
            if name is not None and around.depth is None and (self.table.kinds[name].part or not own):
                heading.depth = depth
                return name
        # A body system without a heading above it that says "exam".
        name = names.get("physical_exam")
        if name is None or heading.kind == "dash" or len(heading.title) < 4:
            return None
        if heading.kind == "bare":
            return name if heading.words.capitals and self._is_capital_title(heading, True) else None
        top = self.found[self.open[0]].name if self.open else ""
        examined = top == "vital_signs" or (top != "other" and is_part(top))
        return name if heading.words.capitals or examined else None

    def _known(self, heading: Heading) -> str | None:
        """Returns the name of a heading with a known title."""
        words = heading.words
        title, capitals, lower = heading.title, words.capitals, words.lower
        if words.loose is None or (len(title) < 3 and not capitals):
            return None
        loose = heading.marked or capitals or (heading.kind == "colon" and words.named)
        if heading.kind == "bare" and not loose and heading.words.named:
            loose = self._after_blank(heading.number)
        found = words.loose if loose and heading.marker != "bullet" else words.strict
        if found is None or (heading.kind == "bare" and title[-1] == "."):
            return None
        name, weak = found
        if heading.marker == "bullet" and (weak or self._is_item(heading, name)):
            return None
        if heading.marked:
            return name
        if heading.kind == "dash":
            return name if not weak and not lower and (capitals or " " in title) else None
        if lower:
            return name if heading.kind == "colon" and not weak and self._after_end(heading.number) else None
        if words.columns:
            return None
        if heading.kind == "bare" and heading.indent and not capitals and not self._after_blank(heading.number):
            return None
        if heading.kind == "colon" and not capitals:
            if self._among_fields(heading.number) and self._keys[title] > MOST_REPEATED:
                return None
            if heading.value and name != "vital_signs" and NUMBERS.fullmatch(heading.value):
                return None
        if weak and not capitals:
            own_line = heading.alone and self._after_blank(heading.number, headings=False)
            return name if own_line or (heading.kind == "colon" and not self._among_fields(heading.number)) else None
        if weak and heading.kind == "bare":
            return name if self._after_blank(heading.number) else None
        return name

    def _is_item(self, heading: Heading, name: str) -> bool:
        """Says whether a line with a list mark is an item of a list rather than a heading."""
        if any(self.found[index].name == name for index in self.open):
            return True
        above = self.lines[heading.number - 1] if heading.number else ""
        marks = MARKS.match(above)
        return bool(marks and marks["bullet"]) and (not self.found or self.found[-1].number != heading.number - 1)

    def _letter(self, heading: Heading) -> str | None:
        """Returns the name of ``S:``, ``O:``, ``A:`` or ``P:`` where it is next in a note that has them all."""
        if len(heading.title) != 1 or heading.kind != "colon" or self.soap > 3 or not self._is_soap:
            return None
        letter, name = SOAP[self.soap]
        if heading.title != letter:
            return None
        self.soap += 1
        return name

    @cached_property
    def _is_soap(self) -> bool:
        return all(re.search(rf"^[ \t]*{letters}:", self.text, re.MULTILINE) for letters in ("S", "O", r"A(?:/?P)?"))

    def _is_problem(self, heading: Heading) -> bool:
        """Says whether a line of an assessment names a problem: ``1. Asthma``, ``#Asthma: …``, a short line alone."""
        title = heading.title.rstrip(".")
        words = title.split()
        if len(words) > MOST_WORDS or words[0].lower() in TO_DO or not (title[0].isupper() or heading.hashes):
            return False
        if heading.drawn or heading.words.columns:
            return False
        if heading.hashes:
            return not self._is_markdown and heading.kind != "dash"
        if heading.bold:
            return True
        if heading.kind == "colon":
            return heading.marker == "number" and not heading.value[:1].isdigit()
        if heading.kind == "dash":
            return False
        if heading.marker == "bullet" or heading.title[-1] in ",;" or len(words) > 6:
            return False
        below = heading.number + 1
        text = self.lines[below].strip() if below < len(self.lines) else ""
        if not text or MARKS.match(text)["number"]:  # type: ignore[index]
            return False
        if heading.marker == "number":
            return not text[0].islower()
        # A short line alone, directly above a list or a paragraph.
        listed = MARKS.match(text)["bullet"]  # type: ignore[index]
        told = len(text.split()) > max(4, 2 * len(words))
        return self._after_blank(heading.number) and bool(listed or told) and text[0] != "|"

    @cached_property
    def _is_markdown(self) -> bool:
        """Says whether ``#`` marks headings here rather than problems: known titles bear it."""
        found = re.findall(r"^#{1,6}[ \t]+(.{3,70})$", self.text, re.MULTILINE)
        return any(read_title(title).loose for title in found[:50])

    def _is_unknown_title(self, heading: Heading) -> bool:
        """Says whether a line with an unknown title is a heading."""
        words = heading.words
        if heading.hashes and heading.alone:
            text = self.lines[heading.number].lstrip().lstrip("#")
            return text[0] in " \t" and len(heading.title.split()) <= MOST_WORDS and heading.title[-1] not in ".,;"
        if not words.unknown or COLUMNS.search(self.lines[heading.number][:LONGEST_LINE].strip()):
            return False
        if words.field:
            return False
        if heading.drawn == 2 and not words.medical:  # "---" also stands between what is no section
            return len(self.lines[self.box].strip()) >= SHORTEST_FRAME
        if heading.drawn > 1:
            return True
        if heading.drawn == 1:
            return self._after_blank(heading.number) and (words.capitals or (words.named and words.medical))
        if heading.bold:
            return not heading.marker and (heading.alone or heading.kind == "colon")
        if heading.marker == "bullet" or heading.hashes:
            return False
        if words.capitals:
            return self._is_capital_title(heading, words.medical)
        titled = words.named and words.medical and self._keys[heading.title] <= MOST_REPEATED
        return heading.kind == "colon" and heading.alone and titled and self._after_blank(heading.number)

    def _is_capital_title(self, heading: Heading, medical: bool) -> bool:
        """Says whether a line with an unknown title in capitals is a heading."""
        if self._in_capitals or len(heading.title) < 4:
            return medical and heading.kind == "colon" and heading.alone and len(heading.title) > 3
        if heading.kind == "bare":
            below = self._next_text(heading.number, 1)
            alone = below >= 0 and not self.lines[below].isupper()
            return medical and alone and self._after_blank(heading.number)
        if self._keys[heading.title] > MOST_REPEATED:
            return False
        if heading.alone:
            return True
        if heading.value[0].isdigit():
            return False
        told = len(heading.value.split()) > 2 and not heading.value.isupper()
        return medical or (told and not self._among_fields(heading.number))

    @cached_property
    def _in_capitals(self) -> bool:
        """Says whether most of the note is in capitals, so that they mark nothing."""
        capitals = sum(len(line) for line in self.lines if line.isupper())
        return len(self.lines) > 4 and 2 * capitals > len(self.text)

    @cached_property
    def _keys(self) -> Counter[str]:
        return Counter(key.rstrip() for key in KEYS.findall(self.text))

    def _after_blank(self, number: int, *, headings: bool = True) -> bool:
        """Says whether a line is the first, or stands behind a blank or drawn line or a heading alone on its line."""
        if number == 0 or not self.lines[number - 1].strip() or number - 1 in self.drawn:
            return True
        return headings and bool(self.found) and self.found[-1].number == number - 1 and self.found[-1].alone

    def _after_end(self, number: int) -> bool:
        """Says whether a sentence may begin with a line."""
        return self._after_blank(number) or self.lines[number - 1].rstrip()[-1:] in ".!?:;"

    def _among_fields(self, number: int) -> bool:
        """Says whether a line stands among lines of the form ``Key: value`` whose keys are no titles."""
        for other in (self._next_text(number, -1), self._next_text(number, 1)):
            match = FIELD.match(self.lines[other]) if other >= 0 else None
            if match:
                words = read_title(match[0].strip(" \t:"))
                if words.strict is None and words.parts is None:
                    return True
        return False

    # --- headings inside a line -------------------------------------------------------------------------------------

    def read_inside(self, number: int, start: int, after: int) -> None:
        """Takes up known titles with a colon behind the end of a sentence: of notes that lost their line ends.

        Single words must be in capitals, parts must be in an open section that has them.
        """
        line, last_words = self.lines[number], self.table.last_words
        before = after  # nothing before here belongs to a title
        colon = line.find(":", max(after, 1))
        while colon >= 0:
            end = len(line[before:colon].rstrip()) + before
            word = line[max(before, line.rfind(" ", before, end) + 1) : end]
            if word.rstrip("*_").lower() in last_words and not word[:1].islower():
                at = self._title_before(line, before, end)
                title = line[at:end].rstrip("*_ ")
                if title and (heading := self._inner(number, start, at, colon, title)):
                    self.take(heading, heading.name)
            before = colon + 1
            colon = line.find(":", before)

    def _title_before(self, line: str, before: int, end: int) -> int:
        """Returns where the words before a colon begin, back to the end of a sentence; ``end`` where they are no title."""
        first = max(before, end - LONGEST_TITLE)
        cut = max(line.rfind(mark, first, end) for mark in SENTENCE_ENDS)
        if cut < 0 and not (before and first == before and line[before - 1] == ":"):
            return end
        at = first if cut < 0 else cut + 1
        while at < end and line[at] in " \t*_":
            at += 1
        return at if line[at : at + 1].isupper() else end

    def _inner(self, number: int, start: int, at: int, colon: int, title: str) -> Heading | None:
        """Returns a heading inside a line with its name; ``None`` where the words are none."""
        line = self.lines[number]
        comma = line[max(0, at - 4) : at].rstrip()[-1:] == ","
        value = line[colon + 1 : colon + 1 + LONGEST_TITLE].strip()
        words = read_title(title)
        heading = Heading(number, start + at, start + colon + 1, title, words, "colon", value)
        part = self._part(heading) if not comma else None
        if part is None and (words.strict is None or len(title) < 3):
            return None
        if part is None and not words.capitals and (" " not in title or comma or words.strict[1]):  # type: ignore[index]
            return None
        heading.name = part or words.strict[0]  # type: ignore[index]
        return heading

    # --- where it lies ----------------------------------------------------------------------------------------------

    def take(self, heading: Heading, name: str) -> None:
        """Adds a heading to those found, as a part of the section that it lies in."""
        heading.name = name
        if heading.drawn == 2:
            self.closed = self._next_text(heading.number, 1)
        elif heading.drawn == 1:
            self.closed = heading.number + 1
        heading.level = self._level(heading)
        depth = self._depth(heading)
        heading.parent = self.open[depth - 1] if depth else None
        kind = self.table.kinds.get(name)
        if kind is not None and (not kind.part or self._is_finding(heading)):
            heading.code = kind.code
        self.open[depth:] = [len(self.found)]
        self.found.append(heading)
        heading.problems = name in self.table.kinds["problem"].inside
        if heading.parent is not None and self.found[heading.parent].problems:
            heading.problems = True
        self.has_problems = heading.problems

    def _is_finding(self, heading: Heading) -> bool:
        """Says whether the code of a part holds where it lies: those of body systems mean findings of an exam."""
        around = [self.found[index].name for index in self.open[: heading.depth or 0]]
        return not {"review_of_systems", "subjective"} & set(around)

    def _level(self, heading: Heading) -> int:
        """Returns the level that the marks of a heading give; 0 where they give none."""
        if heading.hashes:
            self.first_level.add("#")
            return heading.hashes if heading.name != "problem" else 0
        if not heading.drawn:
            return 0
        form = "=" if self.text[heading.body - 1] == "=" else "-" * heading.drawn
        # Lines below titles, or frames, are of a second level where something else marks a first.
        level = 1 if heading.drawn == 3 or form == "=" or self.first_level <= {form} else 2
        if level == 1:
            self.first_level.add(form)
        return level

    def _depth(self, heading: Heading) -> int:
        """Returns how many of the open sections hold a heading."""
        if heading.depth is not None:
            return heading.depth
        if heading.level:
            return self._count(lambda one: 0 < one.level < heading.level)
        kind = self.table.kinds.get(heading.name)
        inside = kind.inside if kind else frozenset()
        if heading.name == "problem":
            siblings = self._count(lambda one: one.name == "problem")
            return siblings - 1 if siblings else self._count(lambda one: one.name in inside)
        if kind is not None and kind.part:
            return self._count(self._holds_all)
        for depth in range(len(self.open), 0, -1):
            one = self.found[self.open[depth - 1]]
            if one.name in inside and not self._holds_all(one):
                if self._begins(one, heading, depth):
                    return depth
            elif self._holds(one, heading):
                return depth
            if heading.marker and heading.marker == one.marker and one.name != "problem":
                return depth - 1  # siblings in a list
        return 0

    def _count(self, holds: Callable[[Heading], bool]) -> int:
        """Returns how many open sections there are up to the innermost that satisfies a condition."""
        for depth in range(len(self.open), 0, -1):
            if holds(self.found[self.open[depth - 1]]):
                return depth
        return 0

    def _holds_all(self, one: Heading) -> bool:
        """Says whether a section may hold any other: Markdown's, one in a frame, or a title of a whole note."""
        return one.level > 0 and (one.hashes > 0 or one.drawn > 1 or one.name in OPEN_TITLES)

    def _begins(self, one: Heading, heading: Heading, depth: int) -> bool:
        """Says whether a heading lies in a section that may hold it: vital signs in an exam, histories in SUBJECTIVE.

        One of the same form does only where the section has no text before its first part.
        """
        if not heading.alone or not one.alone or one.words.capitals != heading.words.capitals:
            return True
        if len(self.open) > depth and not is_part(self.found[self.open[depth]].name):
            return True
        return not self.text[one.body : heading.start].strip()

    def _holds(self, one: Heading, heading: Heading) -> bool:
        """Says whether an open section holds a heading that is no part by nature."""
        if self._holds_all(one):
            return True
        weaker = not heading.alone and not heading.words.capitals
        if one.name == "problem":
            return weaker and (heading.marker != "" or not self._after_blank(heading.number))
        if one.name == heading.name:  # "RESULTS", and in it "Labs: …"; or a title that a table under it repeats
            return one.alone and (weaker or not self.text[one.body : heading.start].strip())
        if one.name in OPEN_TITLES or is_part(one.name):
            return False
        if heading.name == "other":
            return self._holds_unknown(one, heading)
        if heading.marker and not one.marker:
            return True
        return one.alone and not one.marker and 2 <= heading.indent - one.indent <= 8

    def _holds_unknown(self, one: Heading, heading: Heading) -> bool:
        """Says whether an open section with a known title holds a heading with an unknown one."""
        if heading.marker or (2 <= heading.indent - one.indent <= 8 and one.alone):
            return True
        if not heading.words.capitals:
            return one.words.capitals or one.marked > heading.marked
        return one.name in self.table.containers and not heading.alone
