"""The Python API: the same rows as a run, typed results, and nothing that raises because of a note."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import medpipe
from medpipe import pipeline
from medpipe.api.html import render_note
from medpipe.api.note import Entity, Note
from medpipe.errors import MedpipeError
from medpipe.lake import contracts, warehouse
from medpipe.records import Reject
from medpipe.settings import load_settings
from tests.conftest import ROOT

NOTES = [
    "Assessment: Sarcoidosis with cough and mild fatigue. No fever. Methotrexate 15 mg weekly.",
    "HPI: Severe chest pain since two days.\n\nFamily history: Mother has rheumatoid arthritis.",
    "Patients with celiac disease have diarrhea, bloating and weight loss.",
    "Seen for asthma. She has wheezing and shortness of breath; denies skin rash.",
]


@pytest.fixture(scope="module")
def nlp() -> medpipe.Pipeline:
    return medpipe.load(device="cpu")


@pytest.fixture(scope="module")
def note(nlp: medpipe.Pipeline) -> Note:
    return nlp(NOTES[0], patient_id="p1", authored_at="2026-01-30")


def test_import_is_light() -> None:
    code = "import sys, medpipe; print([m for m in ('torch', 'pyarrow', 'pandas', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert {"load", "Note", "Pipeline"} <= set(dir(medpipe))
    with pytest.raises(AttributeError):
        medpipe.nothing  # noqa: B018


def test_rows_are_those_of_a_run(nlp: medpipe.Pipeline, tmp_path: Path) -> None:
    lines = [{"document_id": str(number), "text": text} for number, text in enumerate(NOTES)]
    (tmp_path / "python").write_text(json.dumps(lines))
    settings = load_settings(warehouse=tmp_path / "lake", device="cpu")
    pipeline.run(settings, "2026-01-31", [str(tmp_path / "python")])
    notes = list(nlp.pipe(NOTES))
    for table in ("documents", "sections", "entities", "relations", "summaries"):
        made = [row for note in notes for row in note.to_arrow(table).to_pylist()]
        written = warehouse.read_table(settings.warehouse, table, partition="2026-01-31").to_pylist()
        assert made, table
        key = contracts.properties(table)[0]["name"]
        same = {row[key]: plain(row) for row in made}
        assert {row[key]: plain(row) for row in written} == same, table


def plain(row: dict) -> dict:
    """A row without what depends on how notes were batched or where they were read."""
    loose = ("run_id", "score", "code_score", "tokens")
    return {name: value for name, value in row.items() if name not in loose}


def test_typed_results(note: Note) -> None:
    assert note.status == "processed" and not note.problems
    assert note.document["patient_id"] == "p1" and note.document["n_entities"] == len(note.entities)
    for entity in note.entities:
        assert note.text[entity.start : entity.end] == entity.text
        assert (entity.parent is None) == (entity.depth == 0) == (entity in note.roots)
        for child in entity.children:
            assert child.parent is entity and entity.start <= child.start and child.end <= entity.end
    by_text = {entity.text: entity for entity in note.entities}
    assert by_text["Sarcoidosis"].label == "DISEASE"
    assert by_text["fever"].negated and str(by_text["fever"]) == "SYMPTOM 'fever' negated"
    assert note.summary is not None and note.summary.faithful
    for token in note.summary.tokens:
        assert token.source_start is None or 0 <= token.source_start < len(note.text)
    assert "Sarcoidosis" not in repr(note)
    assert list(note.to_pandas()["text"]) == note.to_arrow()["text"].to_pylist()
    assert note.to_arrow("relations").schema.equals(contracts.arrow_schema("relations"))


def test_relations_lead_to_their_entities(nlp: medpipe.Pipeline) -> None:
    found = [(note, one) for note in nlp.pipe(NOTES) for one in note.relations]
    assert found
    for note, one in found:
        assert one.head in note.entities and one.tail in note.entities
        assert (
            one.evidence[0] <= min(one.head.start, one.tail.start)
            and max(one.head.end, one.tail.end) <= one.evidence[1]
        )
    scores = [one.score for one in found[0][0].relations]
    assert scores == sorted(scores, reverse=True)


def test_bad_texts_keep_their_place(nlp: medpipe.Pipeline) -> None:
    given = [NOTES[0], "", None, "\ud800", {"note": "x"}, 7, {"text": NOTES[0], "document_id": "0"}, NOTES[1]]
    notes = list(nlp.pipe(given, batch_size=3))  # type: ignore[arg-type]
    codes = [[problem.code for problem in note.problems] for note in notes]
    assert codes == [
        [],
        ["TEXT_EMPTY"],
        ["RECORD_NOT_OBJECT"],
        ["TEXT_INVALID"],
        ["TEXT_MISSING"],
        ["RECORD_NOT_OBJECT"],
        [],
        [],
    ]
    assert [note.status for note in notes] == ["processed"] + ["failed"] * 5 + ["processed"] * 2
    assert notes[0].to_arrow("entities").drop(["score", "code_score"]) == notes[6].to_arrow("entities").drop(
        ["score", "code_score"]
    )
    assert notes[1].document == {} and notes[1].entities == () and notes[1].summary is None
    assert "TEXT_EMPTY" in notes[1]._repr_html_()


def test_stages_can_be_left_out_and_are_checked() -> None:
    light = medpipe.load(stages=["tag"], device="cpu")
    note = light(NOTES[0])
    assert note.entities and note.relations == () and note.summary is None and note.status == "processed"
    with pytest.raises(MedpipeError) as caught:
        medpipe.load(stages=["poetry"])
    assert caught.value.code == "SETTING_INVALID"


def test_a_stage_that_fails_costs_one_note(nlp: medpipe.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = nlp.stages["tag"]
    real = tagger.run

    def breaks(tables, *, run_id):
        if any("asthma" in text for text in tables["documents"]["text"].to_pylist()):
            raise ValueError("words of a note")
        return real(tables, run_id=run_id)

    monkeypatch.setattr(tagger, "run", breaks)
    notes = list(nlp.pipe(NOTES))
    assert [note.status for note in notes] == ["processed", "processed", "processed", "failed"]
    assert [problem.code for problem in notes[3].problems] == ["STAGE_FAILED"]
    assert notes[3].text == NOTES[3] and notes[3].summary is None


class Tags(HTMLParser):
    """Checks that tags are closed in their order, and collects text and tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def entity(start: int, end: int, text: str, *assertions: str) -> Entity:
    return Entity(
        f"{start}-{end}",
        start,
        end,
        text[start:end],
        "DISEASE",
        0.5,
        0,
        (),
        frozenset(assertions),
        '"><b>',
        "<i>",
        1.0,
        None,
    )


def test_html_holds_nothing_but_the_note() -> None:
    text = "<script>alert(1)</script> crossing \u202egnissorc\u202c & \x07 end"
    note = Note(text, {name: contracts.empty_table(name) for name in ("documents", "sections", "entities", "relations", "summaries")},
                (Reject("s", "<b>", "tag", "STAGE_FAILED", "<img src=x onerror=alert(1)>"),))  # fmt: skip
    note.entities = (entity(0, 8, text), entity(4, 20, text, "negated"), entity(10, len(text), text, "family"))
    page = render_note(note)
    tags = Tags()
    tags.feed(page)
    assert not tags.open and tags.seen == {"style", "div", "mark", "p", "b"}
    assert "<script" not in page and "<img" not in page and "http" not in page
    assert text.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd").replace("\x07", "\ufffd") in tags.text


def test_html_of_a_real_note(note: Note) -> None:
    tags = Tags()
    tags.feed(note._repr_html_())
    assert not tags.open and note.text in tags.text
