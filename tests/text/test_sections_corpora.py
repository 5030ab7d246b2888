"""How well headings are found and named in notes whose structure is known.

C-CDA documents and FHIR Compositions tell their sections with LOINC codes; here they are written out as plain text, a
title line above its narrative, and read back. ACI-Bench notes have headings of a known set on lines of their own.
Narratives repeat titles and hold headings of their own, so the precision against the told sections is a lower bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medpipe.text.sections import find_sections, section_name

pytestmark = pytest.mark.corpora

BLOCKS = {"paragraph", "table", "tr", "list", "item", "caption", "br", "p", "li", "div", "h1", "h2", "h3", "ul", "ol"}
ACI_TITLES = """cc|chief complaint|history of present illness|hpi|review of systems|physical exam|physical examination|
    exam|results|assessment and plan|assessment|plan|instructions|social history|vitals|vitals reviewed|medications|
    current medications|medical history|family history|past history|past medical history|allergies|surgical history|
    past surgical history|impression|immunizations|procedure|procedures|diagnosis|vital signs|history"""
ACI = {" ".join(title.split()) for title in ACI_TITLES.split("|")}


@dataclass
class Told:
    """A text and the headings that are known to be in it: where each begins, and its canonical name."""

    text: str = ""
    headings: dict[int, str] = field(default_factory=dict)

    def add(self, title: str, code: str | None, narrative: str) -> None:
        name = section_name(title, code)[0]
        self.headings[len(self.text)] = section_name(title)[0] if name == "other" else name
        self.text += f"{title}\n{narrative}\n\n"


def write_out(node) -> str:  # type: ignore[no-untyped-def]
    """Markup as lines of text, the cells of a row behind each other."""
    out: list[str] = []

    def walk(one) -> None:  # type: ignore[no-untyped-def]
        name = one.tag.rpartition("}")[2] if isinstance(one.tag, str) else ""
        cell = name in ("td", "th") and one.getprevious() is not None
        out.append("\n" if name in BLOCKS else " | " if cell else "")
        out.append("- " if name in ("item", "li") else "")
        out.append(" ".join((one.text or "").split()) if name else "")
        for child in one:
            walk(child)
        out.append("\n" if name in BLOCKS else "")
        out.append(" " + " ".join(one.tail.split()) if one.tail and one.tail.strip() else "")

    walk(node)
    return re.sub(r"\s*\n\s*", "\n", "".join(out)).strip()


def ccda(folder: Path) -> Iterator[Told]:
    etree = pytest.importorskip("lxml.etree")
    options = {"recover": True, "resolve_entities": False, "no_network": True, "load_dtd": False}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".xml", ".ccda")):
        try:
            tree = etree.parse(str(path), etree.XMLParser(**options))
        except etree.XMLSyntaxError:
            continue
        told = Told()
        for section in tree.iter("{*}section"):
            title, code, narrative = (section.find(f"{{*}}{name}") for name in ("title", "code", "text"))
            words = " ".join("".join(title.itertext()).split()) if title is not None else ""
            if words:
                told.add(
                    words, None if code is None else code.get("code"), "" if narrative is None else write_out(narrative)
                )
        if told.headings:
            yield told


def compositions(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        if value.get("resourceType") == "Composition":
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from compositions(one)


def fhir(folder: Path) -> Iterator[Told]:
    html = pytest.importorskip("lxml.html")
    for path in sorted(folder.rglob("*.json")):
        try:
            found = list(compositions(json.loads(path.read_text(encoding="utf-8-sig"))))
        except ValueError:
            continue
        for composition in found:
            told = Told()
            for section in composition.get("section", []):
                codes = [coding.get("code") for coding in section.get("code", {}).get("coding", [])]
                markup = section.get("text", {}).get("div")
                if section.get("title"):
                    told.add(
                        section["title"],
                        codes[0] if codes else None,
                        write_out(html.fromstring(markup)) if markup else "",
                    )
            if told.headings:
                yield told


def aci(path: Path) -> Iterator[Told]:
    for line in path.read_text(encoding="utf-8").splitlines():
        told = Told(json.loads(line)["summary"])
        at = 0
        for row in told.text.splitlines(keepends=True):
            words = row.strip()
            if words.rstrip(":").lower() in ACI and (words.isupper() or words[-1] == ":"):
                told.headings[at + row.index(words[0])] = section_name(words)[0]
            at += len(row)
        yield told


def score(texts: Iterator[Told], *, outer: bool) -> dict[str, float]:
    """Precision and recall of headings by where they begin, and how many of those found have the right name.

    Args:
        texts: with their headings.
        outer: only sections that lie in no other count as found.
    """
    told = found = both = named = 0
    for one in texts:
        sections = [part for part in find_sections(one.text) if part.title and (part.parent is None or not outer)]
        places = {
            part.body_start - len(one.text[part.start : part.body_start].lstrip()): part.name for part in sections
        }
        told, found = told + len(one.headings), found + len(places)
        shared = places.keys() & one.headings.keys()
        both += len(shared)
        named += sum(places[place] == one.headings[place] for place in shared)
    return {"precision": both / found, "recall": both / told, "names": named / both, "told": told}


def show(name: str, one: dict[str, float]) -> None:
    print(f"\n{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in one.items()))


def test_ccda(ehr: Path) -> None:
    texts = list(ccda(ehr / "ccda"))
    whole, outer = score(iter(texts), outer=False), score(iter(texts), outer=True)
    show("C-CDA, all headings", whole)
    show("C-CDA, outer headings", outer)
    assert whole["told"] > 2_500
    assert whole["recall"] >= 0.99 and whole["names"] >= 0.99
    assert outer["precision"] >= 0.96 and outer["recall"] >= 0.97


def test_fhir_compositions(ehr: Path) -> None:
    outer = score(fhir(ehr / "fhir"), outer=True)
    show("FHIR Compositions, outer headings", outer)
    assert outer["told"] >= 50
    assert outer["precision"] >= 0.85 and outer["recall"] >= 0.96 and outer["names"] >= 0.96


def test_aci_bench(corpora: Path) -> None:
    texts = list(aci(corpora / "aci_bench" / "dev.jsonl"))
    outer, whole = score(iter(texts), outer=True), score(iter(texts), outer=False)
    show("ACI-Bench dev, outer headings", outer)
    show("ACI-Bench dev, all headings", whole)
    assert outer["precision"] >= 0.94 and outer["recall"] >= 0.98 and outer["names"] >= 0.98


@pytest.mark.parametrize("corpus", ["ncbi_disease", "raredis", "bc5cdr", "genia", "mts_dialog", "primock57"])
def test_texts_without_sections_have_none(corpora: Path, corpus: str) -> None:
    """Abstracts and dialogues; those of the abstracts that are structured ("RESULTS: …") are left out."""
    lines = (corpora / corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [record.get("text") or record["source"] for record in map(json.loads, lines)]
    plain = [text for text in texts if not re.search(r"\b[A-Z]{4,}[A-Z /]*:", text)]
    wrong = sum(any(section.title for section in find_sections(text)) for text in plain)
    print(f"\n{corpus}: {wrong} of {len(plain)} texts with a heading")
    assert len(plain) > 40
    assert wrong <= len(plain) // 500
