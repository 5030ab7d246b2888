"""Marks in the text: whatever nests or crosses, each character is there once, under exactly the marks that cover it."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpipe.report.characters import one_line, shown
from medpipe.report.highlight import Mark, line_of, nest, render, split_lines
from tests.report.invented_notes import HOSTILE


class Reader(HTMLParser):
    """Reads rendered text back: characters with the marks around them, by line; signs count as one character."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[list[tuple[str, frozenset[str]]]] = []
        self.offsets: list[int] = []
        self.open: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if "id" in found:
            self.ids.append(str(found["id"]))
        key = found.get("data-e") if tag == "mark" else found.get("class") if tag == "span" else None
        if tag == "div":
            self.lines.append([])
            self.offsets.append(int(found["data-o"] or 0))
        self.open.append((tag, key))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        around = frozenset(key for tag, key in self.open if tag == "mark" and key)
        if self.open and self.open[-1] == ("span", "ctl"):
            data = chr(int(data.removeprefix("U+"), 16))
        self.lines[-1] += [(character, around) for character in data]


BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines that do other things, too
TEXTS = st.text(alphabet=st.sampled_from('ab \n\r\t<>&"\u202e\x00\x1b\U0001f600é'), max_size=60)


@st.composite
def texts_with_marks(draw: st.DrawFn) -> tuple[str, list[Mark]]:
    text = draw(TEXTS)
    marks = []
    for index in range(draw(st.integers(0, 6)) if text else 0):
        cuts = sorted(set(draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=4))))
        spans = tuple(zip(cuts[::2], cuts[1::2], strict=False))
        if spans:
            marks.append(Mark(f"e{index}", spans, "e"))
    return text, marks


@BUSY
@given(texts_with_marks())
def test_every_character_is_there_once_under_the_marks_that_cover_it(made: tuple[str, list[Mark]]) -> None:
    text, marks = made
    read = Reader(render(text, marks, "n0"))
    lines = split_lines(text)
    assert read.offsets == [start for start, _ in lines]
    for (start, end), line in zip(lines, read.lines, strict=True):
        expected = [
            (text[at], frozenset(mark.key[1:] for mark in marks if any(low <= at < high for low, high in mark.spans)))
            for at in range(start, end)
        ]
        assert line == expected
    assert len(read.ids) == len(set(read.ids))


@BUSY
@given(texts_with_marks())
def test_pieces_nest_and_each_mark_has_one_first_piece(made: tuple[str, list[Mark]]) -> None:
    text, marks = made
    pieces = nest(marks, split_lines(text))
    for one in pieces:
        for other in pieces:
            assert not (one.start < other.start < one.end < other.end)
    firsts = [piece.mark for piece in pieces if piece.first]
    assert sorted(firsts) == sorted({piece.mark for piece in pieces})


@BUSY
@given(TEXTS)
def test_lines_are_those_of_str_splitlines_on_the_three_ends(text: str) -> None:
    ends = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert [text[start:end] for start, end in split_lines(text)] == ends


def test_heights_are_how_many_lie_within() -> None:
    marks = [Mark("e0", ((0, 9),)), Mark("e1", ((0, 5),)), Mark("e2", ((1, 3),)), Mark("e3", ((6, 8),))]
    assert [piece.height for piece in nest(marks, [(0, 9)])] == [2, 1, 0, 0]


def test_of_two_that_cross_the_later_is_cut() -> None:
    pieces = nest([Mark("e0", ((0, 6),)), Mark("e1", ((4, 9),))], [(0, 10)])
    assert [(piece.start, piece.end, piece.mark, piece.first) for piece in pieces] == [
        (0, 6, 0, True),
        (4, 6, 1, True),
        (6, 9, 1, False),
    ]


def test_headings_are_headings_once() -> None:
    html = render("A\nB text", [Mark("s0", ((0, 3),), level=3)], "n1")
    assert html.count('role="heading" aria-level="3" id="n1-s0"') == 1 and html.count('class="heading"') == 2


def test_line_of_an_offset() -> None:
    lines = split_lines("ab\n\ncd")
    assert [line_of(lines, offset) for offset in range(6)] == [0, 0, 0, 1, 2, 2]


def test_hidden_characters_are_shown_and_others_kept() -> None:
    html = str(shown("a\u202eb\x00c\t<é>"))
    assert html == (
        'a<span class="ctl" title="right-to-left override">U+202E</span>b'
        '<span class="ctl" title="control character">U+0000</span>c\t&lt;é&gt;'
    )
    assert not set(one_line(HOSTILE)) & set("\u202e\u2066\u200f\u061c\x00\x1b\x7f\x85\u2028\ufeff\U000e0041\n\r\t")
