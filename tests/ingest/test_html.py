"""HTML as a person reads it on the page."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.bodies.html import html_to_text

NESTED = """<table><tr><th></th><th></th><th>Day 1</th><th>Day 2</th></tr>
<tr><td></td><td><p>Na</p></td><td><p>138</p><p>low</p></td><td></td><td>repeat</td><td></td></tr><tr></tr>
<tr><td></td><td>K</td><td><table><tr><td>4.1</td><td>fasting</td></tr><tr><td>4.4</td></tr></table></td><td>stop</td></tr>
</table>after"""


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<h2>Plan</h2><p>Rest\n &amp;   <b>fluids</b>.</p>\n<p>Then</p>", "Plan\n\nRest & fluids.\n\nThen"),
        ("BP <120/80 & HR < 90, SpO2 > 94 %", "BP <120/80 & HR < 90, SpO2 > 94 %"),
        ("one<br>two<br><br>three<br></p><p>four", "one\ntwo\n\nthree\n\nfour"),
        ("<div>one</div><div><br></div><div>two</div>", "one\n\ntwo"),
        ("<p>one</p><p>&nbsp;</p><p>two&nbsp;mg</p>", "one\n\ntwo\xa0mg"),
        (NESTED, "| Day 1 | Day 2\nNa | 138\nlow |  | repeat\nK | 4.1 | fasting\n4.4 | stop\nafter"),
        ("<tr><td>Na<td>138", "Na | 138"),
        ("<td>Na</td> <td>138</td>", "Na 138"),
        (
            "<ol start=3><li>a<ul><li>b<li><p>c</p></ul><li value=9>d</ol><ol type=a><li>x<li>y</ol>",
            "3. a\n  - b\n  - c\n\n9. d\n\na. x\nb. y",
        ),
        ("<ol type=I><li>x<li>y<li>z<li></ol>", "I. x\nII. y\nIII. z"),
        ("<dl><dt>Dx<dd>MI<dd>HF</dl>", "Dx\nMI\nHF"),
        ("<pre>\n  a\n<b>b</b>\n\tc </pre>d", "  a\nb\n\tc\n\nd"),
        ('<div style="white-space: pre-wrap">one\n  two</div>', "one\n  two"),
        ("a&shy;b&#8203; &#150; &eacute;&copy &unknown; &#x1F912;", "ab\u200b – é© &unknown; 🤒"),
        ("<script>x</script><style>y</style><template>z</template><!-- c --><head><meta>", ""),
        ('<p hidden>a<p style="display: none">b<p style="VISIBILITY:hidden">c<p>d<b style="color:red">e</b>', "de"),
        ("<title>Visit note</title><h1>Visit note</h1>x", "Visit note\n\nx"),
        ("<title>Visit note</title><body>x", "Visit note\n\nx"),
        ("<svg><title>icon</title></svg>x", "x"),
        ('Pain <img src="http://127.0.0.1:1/x" alt="7 of 10"> today <img src=x>', "Pain [image: 7 of 10] today"),
        (
            "<input type=checkbox checked>Fever<input type=radio> Cough <input value='38.2'><input type=hidden value=x>",
            "[x] Fever [ ] Cough 38.2",
        ),
        ("<select><option>none<option selected>mild</select><textarea>\nfree\n text</textarea>", "mildfree\n text"),
        ("<q>none</q> said <del>he</del> she<sup>2</sup>", "“none” said he she2"),
        (
            '<?xml version="1.0"?><div xmlns="http://www.w3.org/1999/xhtml"><title/>a<script src="x"/><![CDATA[ <b> & ]]></div>',
            "a <b> &",
        ),
        ("<p>one</p></body></html><p>two", "one\n\ntwo"),
        ("<o:p>Word's</o:p> <b>own <i>tags</b></i>", "Word's own tags"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_person_reads(markup: str, text: str) -> None:
    assert html_to_text(markup) == text


@pytest.mark.parametrize(
    "markup",
    [
        "<" * 500_000, "<!" * 250_000, "<a " * 160_000, '<a b="' * 80_000, "<!--" * 120_000, "&" * 500_000,
        "<div>" * 100_000 + "x", "<table><tr><td>x" * 30_000, "<ul><li>x" * 50_000, "<ol><li>" * 50_000,
        "<?xml" + "<![CDATA[" * 50_000, "<pre>" + " " * 500_000, "<title " * 70_000, "<b><p>" * 80_000,
    ],
    ids=lambda markup: markup[:12],
)  # fmt: skip
def test_hostile_markup_takes_linear_time(markup: str) -> None:
    started = time.process_time()
    html_to_text(markup)
    assert time.process_time() - started < 3


def test_all_words_stay_however_deep() -> None:
    words = [f"w{number}" for number in range(3000)]
    assert html_to_text("<div><b>".join(words)).split() == words
    assert html_to_text("<table><tr><td>".join(words)).replace("|", " ").split() == words


TAGS = st.sampled_from(["p", "div", "table", "tr", "td", "th", "ul", "ol", "li", "pre", "br", "b", "span", "h1", "q", "img", "input", "title", "option", "textarea", "script"])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.tuples(st.sampled_from(["<{}>", "</{}>", "<{}/>"]), TAGS), st.text(max_size=8)), max_size=30)
)
def test_any_markup_gives_lines_without_blanks_at_their_ends(parts: list[tuple[str, str] | str]) -> None:
    markup = "".join(part if isinstance(part, str) else part[0].format(part[1]) for part in parts)
    text = html_to_text(markup)
    text.encode("utf-8")
    assert all(line == line.rstrip() for line in text.split("\n")) and "\n\n\n" not in text
