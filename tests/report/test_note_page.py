"""The page of a note, read without a browser: what is on it, where its links lead, and that no note gets out of its place."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import lxml.html
import pytest

from medpipe.errors import MedpipeError
from medpipe.report.graph import MAX_EDGES, draw_graph
from medpipe.report.html import write_page
from medpipe.report.note_page import copied_runs, note_page, view_note
from medpipe.report.palette import LABEL_COLOURS, OTHER, SURFACES, label_class, palette_css
from tests.report.invented_notes import TEXT, asthma, entity, hostile, large, make_note, relation, summary_of


def parsed(html: str) -> Any:
    return lxml.html.document_fromstring(html)


def data_of(page: Any) -> Any:
    return json.loads(page.xpath('//script[@id="data"]')[0].text)


@pytest.fixture(scope="module")
def page() -> Any:
    return parsed(note_page([asthma()]))


def test_the_text_is_on_the_page_character_for_character(page: Any) -> None:
    lines = page.xpath('//div[@class="line"]')
    assert [line.text_content() for line in lines] == TEXT.split("\n")
    for line in lines:
        assert TEXT[int(line.get("data-o")) :].startswith(line.text_content())


def test_mentions_nest_and_say_what_is_denied(page: Any) -> None:
    [inner] = page.xpath('//mark[normalize-space()="left lung"]')
    assert inner.getparent().text_content() == "left lung cancer" and "h1" in inner.getparent().get("class").split()
    [fever] = page.xpath('//mark[normalize-space()="fever"]')
    assert {"negated", label_class("SYMPTOM")} <= set(fever.get("class").split())


def test_codes_scores_and_assertions_are_in_the_list_and_in_the_data(page: Any) -> None:
    rows = {" ".join(item.text_content().split()) for item in page.xpath('//ul[contains(@class,"mentions")]/li')}
    assert {"disease asthma 0.90 ICD-10-CM J45.909", "symptom fever negated, 0.90"} <= rows
    entities = data_of(page)["notes"][0]["entities"]
    assert ["DISEASE", 0.9, 0, "asthma", "ICD-10-CM J45.909", -1, ""] in entities
    assert next(one for one in entities if one[3] == "left lung")[5] == next(
        i for i, one in enumerate(entities) if one[3] == "left lung cancer"
    )


def test_relations_have_their_evidence(page: Any) -> None:
    arcs = data_of(page)["notes"][0]["relations"]
    entities = data_of(page)["notes"][0]["entities"]
    assert [(entities[head][3], entities[tail][3], negated) for head, tail, _, _, negated, _, _ in arcs] == [
        ("asthma", "wheezing", 0), ("left lung cancer", "fever", 1),
    ]  # fmt: skip
    assert "asthma with wheezing" in TEXT[arcs[0][5] : arcs[0][6]]
    assert [link.get("href") for link in page.xpath('//a[@class="relation"]')] == ["#n0-l0", "#n0-l0"]
    assert len(page.xpath('//*[contains(@class,"curve")]')) == 2


def test_every_copied_word_of_the_summary_leads_to_its_source(page: Any) -> None:
    words = page.xpath('//a[@class="copied"]/span')
    assert [word.text for word in words] == ["asthma", "with", "wheezing", "and", "Salbutamol"]
    for word in words:
        assert TEXT[int(word.get("data-s")) : int(word.get("data-t"))] == word.text
    assert [link.text_content() for link in page.xpath('//a[@class="copied"]')] == [
        "asthma with wheezing and",
        "Salbutamol",
    ]
    assert [made.text for made in page.xpath('//span[@class="made"]')] == ["then"]


def test_runs_break_where_the_note_goes_another_way() -> None:
    tokens = summary_of("a b c d", ["a", "b", "d"])["tokens"]
    assert [[token["source_start"] for token in run] for run in copied_runs(tokens, "a b c d")] == [[0, 2], [6]]


def test_parts_of_a_summary_have_headings() -> None:
    note = asthma()
    assert note.summary is not None
    parts = [{"name": "problems", "start": 0, "end": 24}, {"name": "plan", "start": 25, "end": 40}]
    note.summary["sections"] = parts
    [text] = parsed(note_page([note])).xpath('//p[@class="summary-text"]')
    assert " ".join(text.text_content().split()) == "Problems asthma with wheezing and Plan then Salbutamol"


def test_sections_are_an_outline_with_targets(page: Any) -> None:
    links = page.xpath('//ol[@class="outline"]//a')
    assert [(link.text_content(), link.get("href")) for link in links] == [("HISTORY", "#n0-s0"), ("PLAN", "#n0-s1")]
    for link in page.xpath("//a[@href]"):
        assert page.xpath(f'//*[@id="{link.get("href")[1:]}"]'), link.get("href")
    assert [one.get("aria-level") for one in page.xpath('//span[@role="heading"]')] == ["3", "3"]


def test_nothing_is_fetched_and_only_our_script_runs() -> None:
    for html in (note_page([asthma()]), note_page([hostile()])):
        page = parsed(html)
        policy = page.xpath('//meta[@http-equiv="Content-Security-Policy"]/@content')[0]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
        for tag, rule in (("style", "style-src"), ("script", "script-src")):
            [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
            digest = b64encode(sha256(content.encode()).digest()).decode()
            assert f"{rule} 'sha256-{digest}'" in policy
        assert not page.xpath("//link | //img | //iframe | //object | //embed | //base | //*[@src] | //*[@style]")
        assert not [name for element in page.iter() for name in getattr(element, "attrib", {}) if name.startswith("on")]
        assert all(href.startswith("#") for href in page.xpath("//@href"))


def test_a_hostile_note_stays_text() -> None:
    html = note_page([hostile()])
    page = parsed(html)
    assert len(page.xpath("//script")) == 2 and not page.xpath("//b | //i")
    assert "</script><script>" not in html.split('id="data">')[1].split("</script>")[0]
    assert not re.search(
        "[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\U000e0000-\U000e007f]",
        html,
    )
    assert "{{ 7*7 }}" in page.text_content() and "49" not in page.xpath('//div[@class="text"]')[0].text_content()
    assert page.xpath("//h1")[0].text_content() == "<script>document.title='owned'</script>"
    assert "lang" not in page.xpath('//div[@class="text"]')[0].attrib
    assert data_of(page)["labels"][-1] == "<b onclick=x>"


def test_several_notes_are_one_page() -> None:
    page = parsed(note_page([asthma(), hostile()], left_out=1200))
    assert len(page.xpath("//article")) == 2 and "1,200 more notes" in page.text_content()
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))


def test_a_note_without_anything() -> None:
    page = parsed(note_page([make_note("", status="unsupported_language", language=None)]))
    assert "no model knows" in page.text_content() and "none found" in page.text_content()


def test_rows_of_a_newer_minor_version_and_holes_are_taken() -> None:
    note = make_note(
        TEXT,
        [
            entity(
                TEXT,
                "asthma with wheezing",
                "SYMPTOM",
                fragments=[{"start": 31, "end": 33}, {"start": 45, "end": 48}],
                new=1,
            )
        ],
    )
    marks = parsed(note_page([note])).xpath("//mark")
    assert [mark.text for mark in marks] == [TEXT[31:33], TEXT[45:48]] and len(
        {mark.get("data-e") for mark in marks}
    ) == 1


def test_a_large_note_is_a_page_of_reasonable_size() -> None:
    assert len(note_page([large()])) < 1_500_000


def test_the_graph_shows_the_surest_and_has_few_crossings() -> None:
    text = " ".join(f"d{i:02} s{i:02}" for i in range(60))
    heads = [entity(text, f"d{i:02}", "DISEASE") for i in range(60)]
    tails = [entity(text, f"s{i:02}", "SYMPTOM") for i in range(60)]
    rows = [relation(head, tail, 0, 1) for head, tail in zip(heads, tails, strict=True)]
    graph = draw_graph([*heads, *tails], rows, [(i, 60 + i) for i in range(60)])
    assert graph is not None and len(graph["curves"]) == MAX_EDGES and graph["cut"] == 60 - MAX_EDGES
    ends = [
        curve["path"].split()[0] == "M150" and curve["path"].split()[1].split("C")[0] == curve["path"].split()[-1]
        for curve in graph["curves"]
    ]
    assert all(ends)  # each straight across


def test_relations_without_their_entities_are_left_out() -> None:
    one = entity(TEXT, "asthma", "DISEASE")
    lost = relation(one, one | {"entity_id": "elsewhere"}, 0, 5)
    assert view_note(make_note(TEXT, [one], [lost]), 0)["relations"] == []


def test_a_page_is_written_whole_or_told_why_not(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "a.html", "<p>é")
    assert (tmp_path / "new" / "a.html").read_bytes() == "<p>é".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]
    for path in (tmp_path / "new", tmp_path / "new" / "a.html" / "b.html"):
        with pytest.raises(MedpipeError, match="SETTING_INVALID"):
            write_page(path, "")


# --- colours --------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2: (L1 + 0.05) / (L2 + 0.05)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_is_that_of_wcag_aa(theme: int) -> None:
    surface = {name: colours[theme] for name, colours in SURFACES.items()}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in ("text", "muted", "accent", "good", "warn", "bad"):
        for ground in ("page", "panel"):
            assert contrast(surface[name], surface[ground]) >= 4.5, (name, ground)
    assert (
        contrast(surface["text"], surface["found"]) >= 4.5 and contrast(surface["text"], surface["accent-soft"]) >= 4.5
    )
    assert contrast(surface["muted"], surface["accent-soft"]) >= 4.5
    for label, colours in {**LABEL_COLOURS, "other": OTHER}.items():
        ink, tint = colours[2 * theme], colours[2 * theme + 1]
        assert contrast(surface["text"], tint) >= 7, label
        assert (
            contrast(ink, tint) >= 4.5
            and contrast(ink, surface["panel"]) >= 4.5
            and contrast(ink, surface["page"]) >= 4.5
        ), label


def test_both_themes_name_the_same_colours() -> None:
    light, dark, chosen, *_ = palette_css().splitlines()
    names = [re.findall(r"(--[\w-]+):", rule) for rule in (light, dark, chosen)]
    assert names[0] == names[1] == names[2] and len(names[0]) == len(set(names[0]))
