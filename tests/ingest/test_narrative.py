"""The narrative block as a person reads it: everything that is seen, in order, once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from medpipe.ingest.cda.narrative import letters, list_marker, narrative_lines, roman, row_lines


def lines(markup: str, footnotes: dict[str, int] | None = None) -> list[str]:
    return narrative_lines(etree.fromstring(f"<text>{markup}</text>"), footnotes)


def test_paragraphs_and_inline_markup() -> None:
    markup = """
        <paragraph>She has a
            <content styleCode="Bold">cough</content>, dry.</paragraph>
        <paragraph/>
        Loose text <linkHtml href="http://x">a link</linkHtml>.
    """
    assert lines(markup) == ["She has a cough, dry.", "Loose text a link."]


def test_breaks() -> None:
    assert lines("CC: cough<br/>HPI: fever<br/><br/><br/>PLAN: rest<br/>") == [
        "CC: cough", "HPI: fever", "", "PLAN: rest",
    ]  # fmt: skip


def test_table_with_head_foot_and_caption() -> None:
    markup = """<table border="1"><caption>Labs</caption><colgroup><col/></colgroup>
        <thead><tr><th>Test</th><th>Value</th><th>Range</th></tr></thead>
        <tfoot><tr><td>*</td><td>fasting</td></tr></tfoot>
        <tbody><tr><td>Hb</td><td>9.8<br/>g/dL</td><td/></tr><tr><td/><td> </td><td/></tr>
        <tr><td/><td>7</td><td>1 - 9</td></tr></tbody></table>"""
    assert lines(markup) == ["Labs", "Test | Value | Range", "Hb | 9.8 g/dL", "| 7 | 1 - 9", "* | fasting"]


def test_spans_keep_the_columns() -> None:
    markup = """<table><tr><td rowspan="2">Chem</td><td>Na</td><td>139</td></tr><tr><td>K</td><td>4.1</td></tr>
        <tr><td colspan="3">All normal</td></tr><tr><td>A</td><td rowspan="2">1</td></tr><tr><td>B</td></tr>
        <tr><td>C</td><td>2</td></tr></table>"""
    assert lines(markup) == ["Chem | Na | 139", "| K | 4.1", "All normal", "A | 1", "B", "C | 2"]


@pytest.mark.parametrize("span", ["999999999", "x", "-1", "0", ""])
def test_odd_spans_do_no_harm(span: str) -> None:
    markup = f'<table><tr><td rowspan="{span}" colspan="{span}">a</td><td>b</td></tr><tr><td>c</td></tr></table>'
    assert [line.split(" | ")[-1] for line in lines(markup)] in (["b", "c"], ["b", "| c"])


def test_a_whole_note_in_a_cell_keeps_its_lines() -> None:
    note = "<br/>".join(["HPI: " + "cough and fever " * 8, "PMH: none", "PLAN: " + "rest " * 30])
    found = lines(f"<table><tr><td>2026-01-30</td><td>Dr. Doe</td><td>{note}</td><td>final</td></tr></table>")
    assert found[0] == "2026-01-30 | Dr. Doe |"
    assert [line[:4] for line in found[1:4]] == ["HPI:", "PMH:", "PLAN"]
    assert found[4:] == ["final"]
    assert lines("<table><tr><td> </td><td>CC: cough<br/>PLAN: rest</td></tr></table>") == ["CC: cough", "PLAN: rest"]


def test_row_lines_of_short_cells_are_one_line() -> None:
    assert row_lines([["a"], ["b", "c"], [], []]) == ["a | b c"]
    assert row_lines([[], []]) == []


def test_lists_nest() -> None:
    markup = """<list><caption>Problems</caption><item>Asthma<list listType="ordered"><item>mild</item>
        <item><caption>Since</caption>2010</item></list></item><item/><item>Gout
        <paragraph>since 2012</paragraph></item></list>"""
    assert lines(markup) == [
        "Problems", "- Asthma", "  1. mild", "  2. Since: 2010", "- Gout", "  since 2012",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("style", "number", "marker"),
    [
        ("", 3, "3. "), ("Arabic", 3, "3. "), ("LittleRoman", 4, "iv. "), ("BigRoman", 9, "IX. "),
        ("LittleAlpha", 28, "ab. "), ("BigAlpha", 3, "C. "), ("a", 2, "b. "), ("I", 2, "II. "), ("i", 2, "ii. "),
    ],
)  # fmt: skip
def test_markers(style: str, number: int, marker: str) -> None:
    assert list_marker(number, style) == marker


def test_numerals() -> None:
    assert [roman(number) for number in (1, 4, 14, 1990, 3999, 4000, 0)] == [
        "I", "IV", "XIV", "MCMXC", "MMMCMXCIX", "4000", "0",
    ]  # fmt: skip
    assert [letters(number) for number in (1, 26, 27, 702, 703, 0)] == ["A", "Z", "AA", "ZZ", "AAA", "0"]


def test_html_that_has_no_place_here() -> None:
    markup = """<div><h2>Plan</h2><ul><li><p>Rest</p></li><li><b>Fluids</b></li></ul>
        <ol start="3" type="a"><li>Call</li></ol><script>x()</script><style>p{}</style><span>End</span></div>"""
    assert lines(markup) == ["Plan", "- Rest", "- Fluids", "c. Call", "End"]


def test_namespaces_do_not_matter() -> None:
    element = etree.fromstring(
        '<h:text xmlns:h="urn:hl7-org:v3"><h:list><h:item>a</h:item></h:list>'
        '<x:table xmlns:x="http://www.w3.org/1999/xhtml"><x:tr><x:td>b</x:td><x:td>c</x:td></x:tr></x:table></h:text>'
    )
    assert narrative_lines(element) == ["- a", "b | c"]


def test_what_was_deleted_is_gone_and_what_was_inserted_is_kept() -> None:
    markup = '<content revised="delete">No <b>asthma</b></content><content revised="insert">Asthma</content>, <del>not</del> mild'
    assert lines(markup) == ["Asthma, mild"]
    assert lines('<table><tr><td>a</td><td revised="delete">b</td><td>c</td></tr></table>') == ["a | c"]


def test_pictures_leave_their_captions() -> None:
    markup = 'See <renderMultiMedia referencedObject="m1"><caption>Left hand</caption></renderMultiMedia> below'
    assert lines(markup) == ["See Left hand", "below"]


def test_captions_stand_before_their_text() -> None:
    assert lines("<paragraph><caption>Finding</caption>Normal.</paragraph>") == ["Finding: Normal."]
    assert lines("<paragraph><caption>Finding:</caption>Normal.</paragraph>") == ["Finding: Normal."]


def test_superscripts_do_not_join_numbers() -> None:
    assert lines("10<sup>9</sup>/L, H<sub>2</sub>O, kg/m<sup>2</sup>, 1<sup>st</sup>") == [
        "10^9/L, H2O, kg/m2, 1st"
    ]  # fmt: skip
    assert lines("<table><tr><td><sup>1</sup>Hb</td><td>9</td></tr></table>") == ["1 Hb | 9"]


def test_footnotes_stand_where_they_are_written() -> None:
    markup = 'Hb 9<footnoteRef IDREF="f"/>.<footnote ID="f">Low.</footnote><footnote ID="g">As of today.</footnote>'
    assert lines(markup, {"f": 1}) == ["Hb 9[1]. [1: Low.]", "As of today."]


def test_white_space_collapses_where_it_only_lays_out_the_markup() -> None:
    wrapped = """
            Dear Dr. Roe, thank you for referring this patient with a cough
            of two weeks. She has no fever and takes no medication, which
            we reviewed.
    """
    assert lines(f"<paragraph>{wrapped}</paragraph>") == [" ".join(wrapped.split())]
    assert lines("<td>Aspirin\n      81 mg</td>") == ["Aspirin 81 mg"]
    assert lines("<content>A</content>\n<content>B</content>") == ["A B"]


def test_line_ends_of_a_note_in_one_paragraph_are_kept() -> None:
    note = "CC: cough\nHPI: fever  38.5\n\n  - dry\nPLAN: rest"
    assert lines(f"<paragraph>{note}</paragraph>") == ["CC: cough", "HPI: fever  38.5", "", "  - dry", "PLAN: rest"]
    assert lines("CC: cough&#13;\n   HPI: fever") == ["CC: cough", "   HPI: fever"]


def test_an_indented_line_that_ends_early_was_meant_to_end() -> None:
    markup = """<paragraph>
        Assessment of a patient who was admitted with a cough of two weeks and fever
        Plan: rest
        Fluids and paracetamol as needed, return if the fever lasts longer than three

        days.
    </paragraph>"""
    assert lines(markup) == [
        "Assessment of a patient who was admitted with a cough of two weeks and fever Plan: rest",
        "Fluids and paracetamol as needed, return if the fever lasts longer than three", "", "days.",
    ]  # fmt: skip


def test_space_that_is_said_to_be_kept() -> None:
    assert lines('<paragraph xml:space="preserve">a\n\n   b   c\n</paragraph><p>d</p>') == ["a", "", "   b   c", "d"]
    assert lines("<pre>Na\t139\n K\t4.1</pre>tail  x") == ["Na\t139", " K\t4.1", "tail x"]
    assert lines('<div xml:space="preserve"><p xml:space="default">a\n  b</p></div>') == ["a b"]


def test_broken_structure_loses_nothing() -> None:
    markup = "<table>Loose<tr>stray<td>a</td>more<td>b</td>end</tr><td>c</td></table><tr><td>d</td></tr><item>e</item>"
    assert lines(markup) == ["Loose", "stray | a | more | b | end", "c", "d", "- e"]


def test_very_deep_markup_is_rendered_flat() -> None:
    deep = "<list><item>" * 100 + "x<table><tr><td>a</td><td>b</td></tr></table>" + "</item></list>" * 100
    assert "".join("".join(lines(deep + "<paragraph>tail</paragraph>")).replace("-", "").split()) == "xabtail"


BLOCK = st.sampled_from(["paragraph", "content", "list", "item", "table", "tr", "td", "div", "caption", "sub", "tbody"])
TREE = st.recursive(
    st.text(alphabet="abc .\n ", max_size=12),
    lambda inner: st.tuples(BLOCK, st.lists(inner, max_size=4)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TREE, max_size=4))
def test_all_text_is_there_once_and_in_order(parts: list[str]) -> None:
    element = etree.fromstring(f"<text>{''.join(parts)}</text>")
    found = "".join("".join(narrative_lines(element)).split())
    expected = "".join("".join(element.itertext()).split())
    kept = "".join(character for character in found if character not in "|-:")
    assert kept == expected
