"""FHIR: which resources are notes in which release, what they say of themselves, and what they refer to."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.content import bytes_content
from medpipe.ingest.fhir import binaries
from medpipe.ingest.fhir.composition import assemble
from medpipe.ingest.fhir.notes import render
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.read import read_source
from medpipe.ingest.sources import find_sources
from medpipe.ingest.syntax.decoding import decode_base64
from medpipe.records import Document, Reject, Skipped

TEXT = "CC: cough.\nHPI: She has a cough — 38,5 °C fever.\n"
LONG = "The patient was seen at home after a fall in the garden; she had not lost consciousness, could move all limbs, and asked for her own doctor to be told of it."  # fmt: skip
PROGRESS = {"coding": [{"system": "http://loinc.org", "code": "11506-3", "display": "Progress note"}]}


def b64(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def attachment(text: str | bytes = TEXT, **changes: Any) -> dict[str, Any]:
    return {"contentType": "text/plain", "data": b64(text)} | changes


def reference(url: str | None = None, **changes: Any) -> dict[str, Any]:
    one = {"contentType": "text/plain", "url": url} if url else attachment()
    return {"resourceType": "DocumentReference", "id": "d", "content": [{"attachment": one}]} | changes


def binary(text: str | bytes = "In a Binary.", key: str = "b1", **changes: Any) -> dict[str, Any]:
    return {"resourceType": "Binary", "id": key, "contentType": "text/plain", "data": b64(text)} | changes


def bundle(*resources: Any, **changes: Any) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]} | changes


def read(folder: Path, *, only: str | None = None, **files: Any) -> list[Document | Reject | Skipped]:
    """Writes files (``a_json`` is ``a.json``; dictionaries as JSON, lists as lines) and reads them all, or one."""
    for key, content in files.items():
        path = folder / key.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(line) + "\n" for line in content)
        raw = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
        raw = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    sources = find_sources([str(folder)])
    inputs = Inputs(sources)
    return [
        item
        for source in sources
        if only is None or source.name == only
        for item in read_source(source, max_note_chars=20_000, max_file_bytes=100_000, inputs=inputs)
    ]


def texts(items: list[Any]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def codes(items: list[Any]) -> list[str]:
    return [item.code if isinstance(item, Reject) else getattr(item, "kind", "Document") for item in items]


# --- documents in every release ---------------------------------------------------------------

RELEASES = {
    "DSTU2": {
        "type": {"coding": [{"system": "urn:oid:2.16.840.1.113883.6.1", "code": "11506-3", "display": "Progress note"}]},
        "created": "2026-01-30T20:40:00Z", "indexed": "2026-01-31", "status": "current",
        "docStatus": {"coding": [{"system": "http://hl7.org/fhir/composition-status", "code": "final"}]},
        "context": {"encounter": {"reference": "Encounter/e1"}},
    },
    "STU3": {"type": PROGRESS, "created": "2026-01-30T20:40:00Z", "status": "current", "docStatus": "final",
             "context": {"encounter": {"reference": "https://ehr.example/fhir/Encounter/e1/_history/3"}}},
    "R4": {"type": PROGRESS, "date": "2026-01-30T20:40:00Z", "status": "current", "docStatus": "final",
           "context": {"encounter": [{"reference": "Encounter/e1"}], "period": {"start": "2026-01-29"}}},
    "R5": {"type": PROGRESS, "date": "2026-01-30T20:40:00Z", "status": "current", "docStatus": "final",
           "context": [{"reference": "EpisodeOfCare/x"}, {"reference": "Encounter/e1"}]},
    "only a class": {"class": PROGRESS, "period": {"start": "2026-01-30T20:40:00Z"}, "docStatus": "FINAL",
                     "context": [{"reference": "urn:uuid:e1", "type": "Encounter"}]},
}  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("markup", [False, True])
def test_a_document_of_every_release_in_json_and_xml(tmp_path: Path, release: str, markup: bool) -> None:
    resource = reference(subject={"reference": "Patient/p1"}, **RELEASES[release])
    (note,) = read(tmp_path, **({"a_xml": to_xml(resource)} if markup else {"a_json": resource}))
    assert isinstance(note, Document)
    assert (note.text, note.patient_id, note.encounter_id, note.note_status) == (TEXT, "p1", "e1", "final")
    assert (note.note_type, note.note_type_code, note.format) == ("Progress note", "11506-3", "fhir")
    assert note.authored_at is not None and note.authored_at.isoformat() == "2026-01-30T20:40:00+00:00"


@pytest.mark.parametrize(
    ("subject", "patient"),
    [
        ({"reference": "Patient/p1"}, "p1"),
        ([{"reference": "Patient/p1"}], "p1"),
        ({"reference": "https://ehr.example/r4/Patient/p1/_history/2"}, "p1"),
        ({"reference": "urn:uuid:aaaa"}, "p1"),
        ({"reference": "Patient?identifier=http://mrn|p1"}, "p1"),
        ({"reference": "#c"}, "mrn7"),
        ({"identifier": {"value": "p1"}}, "p1"),
        ({"reference": "p1"}, "p1"),
        ({"reference": "urn:uuid:elsewhere"}, "elsewhere"),
        ({"reference": "Group/g"}, None),
        ({"reference": 7}, None),
        ("p1", None),
    ],
)
def test_patients_are_found_however_they_are_named(tmp_path: Path, subject: Any, patient: str | None) -> None:
    note = reference(
        subject=subject, contained=[{"resourceType": "Patient", "id": "c", "identifier": [{"value": "mrn7"}]}]
    )
    entries = [{"resource": note}, {"fullUrl": "urn:uuid:aaaa", "resource": {"resourceType": "Patient", "id": "p1"}},
               {"resource": {"resourceType": "Patient", "id": "p2"}}]  # fmt: skip
    items = read(tmp_path, a_json=bundle(entry=entries))
    assert [item.patient_id for item in items if isinstance(item, Document)] == [patient]


def test_a_note_without_subject_is_about_the_only_patient(tmp_path: Path) -> None:
    items = read(tmp_path, a_json=bundle(reference(), {"resourceType": "Patient", "id": "p9"}))
    assert items[0].patient_id == "p9"  # type: ignore[union-attr]


def test_one_note_in_several_formats_is_one_note(tmp_path: Path) -> None:
    page = attachment(f"<html><body><p>{TEXT}</p></body></html>", contentType="text/html")
    other = attachment("Something else entirely.")
    items = read(tmp_path, a_json=reference(content=[{"attachment": one} for one in (attachment(), page, other)]))
    assert codes(items) == ["Document", "DocumentReference (same text again)", "Document"]
    assert texts(items) == [TEXT, "Something else entirely."]


def test_two_formats_that_differ_a_little_are_one_note_and_two_notes_are_two(tmp_path: Path) -> None:
    page = attachment(f"<p>{LONG.replace('fall', 'fall (picture)')}</p>", contentType="text/html")
    items = read(tmp_path, a_json=reference(content=[{"attachment": one} for one in (attachment(LONG), page)]))
    assert codes(items) == ["Document", "DocumentReference (same text again)"]
    follow_up = attachment(LONG.replace("fall", "stroke"))
    items = read(tmp_path, a_json=reference(content=[{"attachment": one} for one in (attachment(LONG), follow_up)]))
    assert codes(items) == ["Document", "Document"]


# --- other kinds ------------------------------------------------------------------------------

DIV = '<div xmlns="http://www.w3.org/1999/xhtml">{}</div>'


def narrative(text: str, status: str | None = "additional") -> dict[str, Any]:
    return {"div": DIV.format(text)} | ({"status": status} if status else {})


def report(**changes: Any) -> dict[str, Any]:
    return {"resourceType": "DiagnosticReport", "id": "r", "status": "final", "code": {"text": "Chest"}} | changes


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (report(presentedForm=[attachment("No fracture.")], conclusion="no FRACTURE"), ["No fracture."]),
        (report(presentedForm=[attachment("No fracture seen.")], conclusion="Fracture"), ["No fracture seen."]),
        (report(presentedForm=[attachment("Abnormal.")], conclusion="Normal."), ["Abnormal.", "Normal."]),
        (report(conclusion="A.", note=[{"text": "B."}]), ["A.\n\nB."]),
        (report(text=narrative("<p>Typed by hand.</p>")), ["Typed by hand."]),
        (report(text=narrative("<p>Typed by hand.</p>", None)), ["Typed by hand."]),
        (report(text=narrative("<p>Status final, code Chest</p>", "generated")), []),
        (report(text=narrative(LONG, "generated")), [LONG]),
        (report(text=narrative(LONG, "generated"), result=[{"reference": "Observation/o"}]), []),
        ({"resourceType": "Encounter", "subject": {"reference": "Patient/p"}, "text": narrative(LONG, None)}, []),
        ({"resourceType": "ClinicalImpression", "description": "Seen.", "summary": "Better.",
          "note": [{"text": "Call."}]}, ["Seen.\n\nBetter.\n\nCall."]),
        ({"resourceType": "Communication", "payload": [{"contentString": "Call me."}, {"contentAttachment": attachment()},
          {"contentReference": {"reference": "Patient/1"}}]}, ["Call me.", TEXT]),
        ({"resourceType": "Communication", "notDone": True, "payload": [{"contentString": "Call me."}]}, []),
        ({"resourceType": "Observation", "valueString": LONG}, [LONG]),
        ({"resourceType": "Observation", "valueString": "Positive"}, []),
        ({"resourceType": "Observation", "valueAttachment": attachment()}, [TEXT]),
        ({"resourceType": "Procedure", "note": [{"text": "Short."}, {"text": LONG}]}, [LONG]),
        ({"resourceType": "QuestionnaireResponse", "item": [{"linkId": "1", "item": [{"linkId": "1.1",
          "answer": [{"valueString": LONG}, {"valueString": "no"}]}]}]}, [LONG]),
        ({"resourceType": "CarePlan", "patient": {"reference": "Patient/1"}, "text": narrative("A plan.")}, ["A plan."]),
        ({"resourceType": "Organization", "text": narrative("A clinic.")}, []),
        ({"resourceType": "Media", "content": attachment(b"\x89PNG", contentType="image/png")}, []),
        ({"resourceType": "Media", "content": attachment()}, [TEXT]),
        ({"resourceType": "Parameters", "parameter": [{"name": "x", "part": [{"resource": reference()}]}]}, [TEXT]),
        ({"answer": {"status": "OK", "bundle": bundle(reference())}}, [TEXT]),
        ({"resourceType": "Claim", "contained": [reference(id="in"), binary()]}, [TEXT]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("markup", [False, True])
def test_what_is_a_note(tmp_path: Path, resource: dict[str, Any], expected: list[str], markup: bool) -> None:
    if markup and "resourceType" not in resource:
        return
    items = read(tmp_path, **({"a_xml": to_xml(resource)} if markup else {"a_json": resource}))
    assert texts(items) == expected
    assert expected or len(items) == 1, "what is not a note is counted"
    assert not any(isinstance(item, Reject) for item in items)


def test_answers_to_a_question_that_is_put_twice_are_two(tmp_path: Path) -> None:
    items = [{"linkId": "1", "answer": [{"valueString": f"{LONG} Visit {n}."}]} for n in range(2)]
    assert len(texts(read(tmp_path, a_json={"resourceType": "QuestionnaireResponse", "item": items}))) == 2


def test_lines_of_a_report_in_observations_are_one_note(tmp_path: Path) -> None:
    lines = ["The lungs are clear on both sides.", "No effusion and no pneumothorax was seen.", "Normal heart size and normal bones.", "Impression: a normal chest in two views."]  # fmt: skip
    results = [
        {"resourceType": "Observation", "id": f"o{n}", "code": {"text": "Findings" if n < 3 else "Impression"}, "valueString": line}
        for n, line in enumerate(lines)
    ]  # fmt: skip
    one = report(result=[{"reference": f"Observation/o{n}"} for n in range(4)])
    items = read(tmp_path, a_json=bundle(*results, one))
    assert texts(items) == ["\n".join(["Findings:", *lines[:3], "", "Impression:", lines[3]])]
    coded = [result | {"valueString": "Negative"} for result in results]
    assert texts(read(tmp_path, a_json=bundle(*coded, one))) == []


# --- compositions -----------------------------------------------------------------------------


def composition(*sections: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"resourceType": "Composition", "id": "c", "title": "Discharge Summary", "section": list(sections)} | changes


def section(title: str, text: str | None = None, *inner: dict[str, Any], **changes: Any) -> dict[str, Any]:
    part: dict[str, Any] = {"title": title} | changes
    if text is not None:
        part["text"] = narrative(text, "generated")
    return part | ({"section": list(inner)} if inner else {})


@pytest.mark.parametrize("markup", [False, True])
def test_a_composition_is_one_note_with_its_sections_in_order(tmp_path: Path, markup: bool) -> None:
    allergies = section("Allergies", "<p>Allergies</p><p>Penicillin.</p>")
    plan = section("Plan", None, section("Drugs", "<ul><li>Apixaban</li></ul>"), section("Diet", "Soft."), code={
        "coding": [{"system": "http://loinc.org", "code": "18776-5"}]})  # fmt: skip
    empty = section("Family history", emptyReason={"text": "Nil known"})
    resource = composition(
        allergies, plan, empty, subject={"reference": "Patient/p"}, status="final", date="2026-01-30"
    )
    (note,) = read(tmp_path, **({"a_xml": to_xml(resource)} if markup else {"a_json": resource}))
    assert isinstance(note, Document)
    assert note.text == (
        "Discharge Summary\n\nAllergies\nPenicillin.\n\nPlan\nDrugs\n- Apixaban\n\nDiet\nSoft.\n\nFamily history\nNil known"
    )
    parts = [(one.title, note.text[one.body_start : one.end].strip(), one.parent) for one in note.sections]
    assert parts == [
        (None, "Discharge Summary", None), ("Allergies", "Penicillin.", None),
        ("Plan", "Drugs\n- Apixaban\n\nDiet\nSoft.", None), ("Drugs", "- Apixaban", 2), ("Diet", "Soft.", 2),
        ("Family history", "Nil known", None),
    ]  # fmt: skip
    assert (note.sections[2].name, note.sections[2].code, note.record) == ("plan", "18776-5", "Composition/c")
    assert (note.patient_id, note.note_status, note.authored_at_text) == ("p", "final", "2026-01-30")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (narrative("Status final, title Discharge Summary", "generated"), False),
        (narrative(LONG, "generated"), True),
        (narrative("By hand.", "additional"), True),
        (narrative("Penicillin.", "additional"), False),
    ],
)
def test_a_composition_s_own_narrative_is_taken_where_it_says_more(own: dict[str, Any], expected: bool) -> None:
    text, _ = assemble(composition(section("Allergies", "Penicillin."), status="final", text=own), render)
    assert (str(render(own["div"])) in text.replace("Allergies\nPenicillin.", "")) is expected
    assert text.count("Penicillin") == 1


def test_compositions_of_headings_only_and_of_one_section(tmp_path: Path) -> None:
    assert codes(read(tmp_path, a_json=composition(section("Plan", "<b>Plan</b>"), section("Labs")))) == [
        "Composition (no text)"
    ]
    (note,) = read(tmp_path, a_json=composition(section("Note", "<p>HPI: Cough.</p><p>PLAN: Rest.</p>")))
    assert {"history_of_present_illness", "plan"} <= {one.name for one in note.sections}  # type: ignore[union-attr]


def test_what_a_composition_shows_is_not_taken_again(tmp_path: Path) -> None:
    entry = {"resourceType": "Observation", "id": "o", "subject": {}, "text": narrative("Wheezing for days.")}
    items = read(
        tmp_path, a_json=bundle(composition(section("Why", "Wheezing for days."), section("Plan", "Rest.")), entry)
    )
    assert codes(items) == ["Document", "Observation (same text again)"]


SECTIONS = st.recursive(
    st.builds(lambda title, text: section(title, text), st.text("ab :\n", max_size=6), st.text("xy <p>\n", max_size=8)),
    lambda inner: st.builds(lambda title, parts: section(title, None, *parts), st.text("cd", max_size=3), st.lists(inner, max_size=3)),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(SECTIONS, max_size=5), title=st.text("tu\n ", max_size=5))
def test_sections_cover_the_text_and_lie_inside_their_parents(parts: list[dict[str, Any]], title: str) -> None:
    text, sections = assemble(composition(*parts, title=title), render)
    if not sections:
        return
    assert sections[0].start == 0 and max(one.end for one in sections) == len(text)
    for index, one in enumerate(sections):
        assert 0 <= one.start <= one.body_start <= one.end <= len(text)
        if one.title and one.start < len(text):
            assert text[one.start :].startswith(one.title)
        if one.parent is not None:
            outer = sections[one.parent]
            assert one.parent < index and outer.start <= one.start and one.end <= outer.end
    tops = [one for one in sections if one.parent is None]
    assert all(before.end == after.start for before, after in pairwise(tops))


# --- what is not to be relied on --------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "kind"),
    [
        (reference(status="superseded"), "DocumentReference (superseded)"),
        (reference(status="Entered in error"), "DocumentReference (entered-in-error)"),
        (reference(docStatus="deprecated"), "DocumentReference (deprecated)"),
        (report(status="cancelled", conclusion="x"), "DiagnosticReport (cancelled)"),
        (composition(section("Plan", "Rest."), status="entered-in-error"), "Composition (entered-in-error)"),
        ({"resourceType": "Observation", "status": "cancelled", "valueString": LONG}, "Observation (cancelled)"),
    ],
)
def test_withdrawn_notes_are_counted_by_status(tmp_path: Path, resource: dict[str, Any], kind: str) -> None:
    assert codes(read(tmp_path, a_json=resource)) == [kind]


RELATIONS = {
    "R4": {"code": "replaces", "target": {"reference": "DocumentReference/old"}},
    "R5": {"code": {"coding": [{"code": "replaces"}]}, "target": {"reference": "https://x/DocumentReference/old/_history/1"}},
    "identifier": {"code": "replaces", "target": {"identifier": {"system": "s", "value": "1.2"}}},
}  # fmt: skip


@pytest.mark.parametrize("link", RELATIONS.values(), ids=RELATIONS)
@pytest.mark.parametrize("name", ["a_json", "a_ndjson", "a_xml"])
def test_what_another_replaces_is_not_current(tmp_path: Path, link: dict[str, Any], name: str) -> None:
    old = reference(id="old", masterIdentifier={"system": "s", "value": "1.2"})
    new = reference(id="new", relatesTo=[link])
    content: Any = [old, new] if name == "a_ndjson" else bundle(old, new)
    items = read(tmp_path, **{name: to_xml(content) if name == "a_xml" else content})
    assert codes(items) == ["DocumentReference (replaced)", "Document"]
    withdrawn = new | {"status": "entered-in-error"}
    content = [old, withdrawn] if name == "a_ndjson" else bundle(old, withdrawn)
    items = read(tmp_path, **{name: to_xml(content) if name == "a_xml" else content})
    assert codes(items) == ["Document", "DocumentReference (entered-in-error)"]


def test_what_is_replaced_is_named_by_entry_or_whole_identifier(tmp_path: Path) -> None:
    new = reference(id="new", relatesTo=[{"code": "replaces", "target": {"reference": "urn:uuid:ab"}}])
    entries = [{"fullUrl": "urn:uuid:ab", "resource": reference(id="old")}, {"resource": new}]
    assert codes(read(tmp_path, a_json=bundle(entry=entries))) == ["DocumentReference (replaced)", "Document"]
    assert codes(read(tmp_path, a_json=[bundle(reference(id="ab")), bundle(new)])) == ["Document", "Document"]
    new = reference(id="new", relatesTo=[{"code": "replaces", "target": {"identifier": {"system": "s", "value": "7"}}}])
    old = reference(id="old", identifier=[{"system": "another", "value": "7"}])
    assert codes(read(tmp_path, a_json=bundle(old, new))) == ["Document", "Document"]


def test_compositions_replace_compositions_and_appending_replaces_nothing(tmp_path: Path) -> None:
    old = composition(section("Plan", "Rest."), section("Diet", "Soft."), id="old")
    for link in ({"code": "replaces", "targetReference": {"reference": "Composition/old"}},
                 {"type": "replaces", "resourceReference": {"reference": "Composition/old"}}):  # fmt: skip
        new = composition(section("Plan", "Walk."), id="new", relatesTo=[link])
        assert codes(read(tmp_path, a_json=bundle(new, old))) == ["Document", "Composition (replaced)"]
    new["relatesTo"] = [{"code": "appends", "targetReference": {"reference": "Composition/old"}}]
    assert codes(read(tmp_path, a_json=bundle(new, old))) == ["Document", "Document"]


def test_of_a_history_only_the_last_version_counts(tmp_path: Path) -> None:
    def version(text: str, made: str | None) -> dict[str, Any]:
        meta = {"meta": {"lastUpdated": made}} if made else {}
        return reference(content=[{"attachment": attachment(text)}]) | meta

    newest_last = bundle(version("One.", "2026-01-01"), version("Two.", "2026-01-02"), type="history")
    assert texts(read(tmp_path, a_json=newest_last)) == ["Two."]
    undated = bundle(version("Two.", None), version("One.", None), type="history")
    items = read(tmp_path, a_json=undated)
    assert codes(items) == ["DocumentReference (older version)", "Document"] and texts(items) == ["Two."]
    gone = {"request": {"method": "DELETE", "url": "DocumentReference/d"}}
    deleted = bundle(type="history", entry=[gone, {"resource": version("One.", None)}])
    assert texts(read(tmp_path, a_json=deleted)) == []


def test_two_resources_of_one_id_have_names_of_their_own(tmp_path: Path) -> None:
    items = read(
        tmp_path, a_json=bundle(reference(), reference(content=[{"attachment": attachment("Other.")}]), reference())
    )
    assert len({item.record for item in items if isinstance(item, Document)}) == 2
    assert items[0].document_id == items[2].document_id  # type: ignore[union-attr]


# --- references -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "Binary/b1", "/Binary/b1", "https://ehr.example/fhir/Binary/b1", "Binary/b1/_history/1", "urn:uuid:bbbb",
        "https://ehr.example/Binary/b1?_format=json", "https://ehr.example/Binary/b1/$binary-access-read", "#inside",
        "data:text/plain;base64," + b64("In a Binary."), "data:text/plain,In%20a%20Binary.", " Binary/b1 ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_attachments_are_found_in_the_bundle(tmp_path: Path, url: str, first: bool) -> None:
    note = reference(url, contained=[binary(key="inside")])
    stored = {"fullUrl": "urn:uuid:bbbb", "resource": binary()}
    entries = [{"resource": note}, stored] if first else [stored, {"resource": note}]
    items = read(tmp_path, a_json=bundle(entry=entries))
    assert "In a Binary." in texts(items)
    if "Binary/" in url or "bbbb" in url:
        assert codes(items) == (["Document", "Binary"] if first else ["Binary", "Document"]), "taken once"


@pytest.mark.parametrize(
    "kept", ["Binary_ndjson", "Binary_ndjson_gz", "b_json", "b_xml", "pretty_json", "older_ndjson"]
)
def test_attachments_are_found_in_other_files(tmp_path: Path, kept: str) -> None:
    others = [binary(f"Text {n}.", f"b{n}") for n in range(3)]
    content: Any = [{"resourceType": "Patient", "id": "x"}, *others]
    if kept in ("b_json", "b_xml", "pretty_json"):
        content = bundle(*others)
        content = (
            to_xml(content) if kept == "b_xml" else json.dumps(content, indent=2 if kept == "pretty_json" else None)
        )
    if kept == "older_ndjson":  # STU3's name, and slashes as PHP writes them
        content = [{**one, "content": one.pop("data")} for one in others]
    lines = [reference(f"Binary/b{n}", id=f"d{n}") for n in (2, 0, 1)]
    notes = "\n".join(json.dumps(line) for line in lines)
    notes = notes.replace("Binary/", "Binary\\/") if kept == "older_ndjson" else notes
    items = read(tmp_path, notes_ndjson=notes, **{kept: content})
    assert texts(items) == ["Text 2.", "Text 0.", "Text 1."]
    if kept != "Binary_ndjson_gz":  # what reads archives has tests of its own
        assert Counter(codes(items))["Binary"] == 3, "no Binary is a note of its own"


def test_a_binary_that_nobody_names_is_a_note(tmp_path: Path) -> None:
    kinds = [binary(), binary("<p>Page.</p>", "b2", contentType="text/html"), binary(b"\0", "b3", contentType="audio/mpeg"),
             binary(key="b4", securityContext={"reference": "Patient/p"}), binary(key="b5", data="!"), binary(key="b6", data="")]  # fmt: skip
    request = {"request": {"method": "PUT", "url": "Binary/b7"}, "resource": binary(key="b7")}
    items = read(tmp_path, a_ndjson=[*kinds, bundle(entry=[request])])
    assert texts(read(tmp_path / "pretty", a_json=json.dumps(bundle(entry=[request]), indent=2))) == ["In a Binary."]
    assert codes(items) == [
        "Document",
        "Document",
        "Binary (audio)",
        "Document",
        "BASE64_INVALID",
        "TEXT_MISSING",
        "Document",
    ]
    assert items[3].patient_id == "p" and texts(items)[1] == "Page."  # type: ignore[union-attr]


def test_the_index_is_built_once_and_only_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = binaries.scan
    monkeypatch.setattr(binaries, "scan", lambda source, limit: scanned.append(source.name) or scan(source, limit))
    read(tmp_path, a_ndjson=[reference(), reference("http://elsewhere.example/x.pdf", id="e")])
    assert scanned == []
    items = read(tmp_path, a_ndjson=[reference(f"Binary/{n}", id=str(n)) for n in range(5)], b_ndjson=[binary(key="3")])
    assert scanned == ["a.ndjson", "b.ndjson"]
    assert codes(items) == [*["ATTACHMENT_UNRESOLVED"] * 3, "Document", "ATTACHMENT_UNRESOLVED", "Binary"]


def test_members_of_an_archive_are_looked_through_before_what_lies_around_it() -> None:
    def lines(*resources: dict[str, Any]) -> bytes:
        return b"".join(json.dumps(one).encode() + b"\n" for one in resources)

    around = Inputs().inside([bytes_content("a.ndjson", lines(binary("Outer."), binary("Only outer.", "b2")))])
    members = [
        bytes_content("a.ndjson.gz", gzip.compress(lines(binary("Inner.")))),
        bytes_content("b.ndjson", lines(reference("Binary/b2"))),
    ]
    inputs = around.inside(members)
    found = [inputs.find_binary(key) for key in ("b1", "b2", "b3")]
    assert [base64.b64decode(one["data"]) if one else None for one in found] == [b"Inner.", b"Only outer.", None]
    assert inputs.is_attached("b2") and not inputs.is_attached("b1") and not around.is_attached("b2")


@pytest.mark.parametrize("url", ["notes/a b.txt", "./notes/a%20b.txt", "notes\\a b.txt"])
def test_files_beside_are_attachments_and_read_once(tmp_path: Path, url: str) -> None:
    items = read(tmp_path, a_json=reference(url), **{"notes__a b_txt": "From a file."})
    assert texts(items).count("From a file.") == 1 if "\\" not in url else texts(items)[0] == "From a file."
    assert items[0].record == "DocumentReference/d#content.0"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "/etc/hostname", "../secret.txt", "../../etc/hostname", "http://127.0.0.1:9/Binary/b1x", "#b1",
     "//etc/hostname", "C:\\secret.txt", "Binary/", "Patient/p1", "a.json\0", ""],
)  # fmt: skip
def test_what_is_outside_the_input_is_never_opened(tmp_path: Path, url: str) -> None:
    (tmp_path / "secret.txt").write_text("SECRET")
    (tmp_path / "in").mkdir()
    patient = {"resourceType": "Patient", "id": "p1"}
    items = read(
        tmp_path / "in", a_json=bundle(reference() | {"content": [{"attachment": {"url": url}}]}, patient, binary())
    )
    assert codes(items)[0] == ("ATTACHMENT_UNRESOLVED" if url else "TEXT_MISSING")
    assert "SECRET" not in repr(items)


@pytest.mark.parametrize("markup", [False, True])
def test_an_attachment_that_is_fhir_itself_gives_its_notes(tmp_path: Path, markup: bool) -> None:
    inner = bundle(
        composition(section("Plan", "Rest."), section("Diet", "Soft.")), {"resourceType": "Patient", "id": "p"}
    )
    raw = to_xml(inner) if markup else json.dumps(inner)
    items = read(
        tmp_path, a_json=reference(content=[{"attachment": attachment(raw, contentType="application/fhir+json")}])
    )
    assert [item.record for item in items] == ["DocumentReference/d#content.0!Composition/c"]  # type: ignore[union-attr]
    assert items[0].patient_id == "p" and len(items[0].sections) == 3  # type: ignore[union-attr]
    alone = binary(raw, contentType="application/fhir+json")
    assert texts(read(tmp_path, a_json=alone)) == texts(items)
    nothing = attachment(json.dumps({"resourceType": "Patient"}))
    assert codes(read(tmp_path, a_json=reference(content=[{"attachment": nothing}]))) == ["attached FHIR (no text)"]
    itself = binary(json.dumps(reference("Binary/b1")))
    assert set(codes(read(tmp_path, a_ndjson=[reference("Binary/b1"), itself], only="a.ndjson"))) == {
        "ARCHIVE_TOO_DEEP",
        "Binary",
    }
    broken = attachment('{"resourceType": "Patient", ')
    items = read(tmp_path, a_json=reference(content=[{"attachment": broken}]), only="a.json")
    assert codes(items) == ["JSON_INVALID"]


def test_a_packed_cda_document_that_is_said_to_be_text_is_rendered(tmp_path: Path) -> None:
    cda = """<ClinicalDocument xmlns="urn:hl7-org:v3"><component><structuredBody><component><section><title>Plan</title>
    <text><paragraph>Rest.</paragraph></text></section></component></structuredBody></component></ClinicalDocument>"""
    packed = attachment(gzip.compress(cda.encode()))
    assert texts(read(tmp_path, a_json=reference(content=[{"attachment": packed}]))) == ["Plan\nRest."]


@given(st.binary(max_size=40), st.sampled_from([1, 7, 76]))
def test_base64_as_it_is_written(raw: bytes, width: int) -> None:
    plain = b64(raw)
    lines = "\r\n".join(plain[at : at + width] for at in range(0, len(plain), width))
    url_safe = base64.urlsafe_b64encode(raw).decode()
    for written in (plain, lines, url_safe, plain.rstrip("="), url_safe.rstrip("="), f" {plain}\n"):
        assert decode_base64(written) == raw


@pytest.mark.parametrize("data", ["YWJ", "YWJj!", "YW=Jj", "Y", "YWJjZ", "é", "a+b-", "YR"])
def test_base64_that_is_cut_or_changed_is_refused(data: str) -> None:
    assert decode_base64(data) is None


# --- XML --------------------------------------------------------------------------------------


def to_xml(resource: dict[str, Any], encoding: str | None = None) -> str:
    """Writes a resource as XML, as the standard maps it."""

    def element(name: str, value: Any) -> str:
        if isinstance(value, list):
            return "".join(element(name, one) for one in value)
        if isinstance(value, dict) and "resourceType" in value:
            return f"<{name}>{whole(value)}</{name}>"
        if isinstance(value, dict):
            return f"<{name}>{fields(value)}</{name}>"
        if name == "div":
            return str(value)
        return f"<{name} value={quoteattr(str(value).lower() if isinstance(value, bool) else str(value))}/>"

    def fields(value: dict[str, Any]) -> str:
        return "".join(element(name, inner) for name, inner in value.items() if name != "resourceType")

    def whole(value: dict[str, Any]) -> str:
        return f"<{value['resourceType']}>{fields(value)}</{value['resourceType']}>"

    root = resource["resourceType"]
    head = f'<?xml version="1.0" encoding="{encoding}"?>\n' if encoding else ""
    return f'{head}<!-- made up --><{root} xmlns="http://hl7.org/fhir">{fields(resource)}</{root}>'


@pytest.mark.parametrize(
    ("declared", "written"),
    [(None, "utf-8"), ("UTF-8", "utf-8-sig"), ("UTF-16", "utf-8"), ("ISO-8859-1", "utf-8"), ("UTF-16", "utf-16"),
     ("windows-1252", "cp1252"), ("UTF-8", "cp1252"), (None, "utf-16"), ("x-none", "utf-8"), ("us-ascii", "utf-8")],
)  # fmt: skip
def test_xml_in_the_encoding_that_it_has(tmp_path: Path, declared: str | None, written: str) -> None:
    words = "Fièvre, 38,5 °C – Überweisung."
    raw = to_xml(report(conclusion=words), declared).encode(written)
    assert texts(read(tmp_path, a_xml=raw)) == [words]


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><Patient xmlns="http://hl7.org/fhir"/>', "XML_FORBIDDEN"),
        ('<?xml version="1.0"?><!-- c --> <!DOCTYPE x SYSTEM "file:///etc/hosts"><Patient xmlns="http://hl7.org/fhir"/>', "XML_FORBIDDEN"),
        ('<Patient xmlns="http://hl7.org/fhir"><id value="1"/>', "XML_INVALID"),
        ('<Patient xmlns="http://hl7.org/fhir"><id value="&x;"/></Patient>', "XML_INVALID"),
        ('<Patient xmlns="http://hl7.org/fhir">' + "<a>" * 400 + "</a>" * 400 + "</Patient>", "XML_INVALID"),
        ('<Patient xmlns="http://hl7.org/fhir"><id value="1"/></Patient>', "Patient"),
        ('<f:Patient xmlns:f="http://hl7.org/fhir"><f:id value="1"/></f:Patient>', "Patient"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_is_refused(tmp_path: Path, xml: str, code: str, encoding: str) -> None:
    (item,) = read(tmp_path, a_xml=xml.encode(encoding))
    assert codes([item]) == [code]
    if code == "XML_INVALID":
        assert "line " in item.message  # type: ignore[union-attr]


def test_xml_forgives_what_is_no_markup(tmp_path: Path) -> None:
    xml = to_xml(report(conclusion="One.")).replace("One.", "One&#x1D; two\x0b three&#10;four")
    assert texts(read(tmp_path, a_xml=xml)) == ["One  two  three\nfour"]
    prefixed = to_xml(composition(section("Plan", "x"))).replace(
        narrative("x")["div"], '<h:div xmlns:h="http://www.w3.org/1999/xhtml"><h:p>A</h:p><h:p>B</h:p></h:div>'
    )
    assert texts(read(tmp_path, a_xml=prefixed)) == ["Discharge Summary\n\nPlan\nA\n\nB"]
    text = (
        f'<DiagnosticReport xmlns="http://hl7.org/fhir"><conclusion>{escape("A < B")}</conclusion></DiagnosticReport>'
    )
    assert texts(read(tmp_path, a_xml=text)) == ["A < B"]


# --- anything in ------------------------------------------------------------------------------

WHOLE = [
    reference(**RELEASES["R4"], relatesTo=[RELATIONS["R4"]], masterIdentifier={"value": "1"}, text=narrative("x")),
    reference("Binary/b1", subject={"reference": "urn:uuid:1", "identifier": {"value": "1"}}, id="e"),
    report(presentedForm=[attachment()], conclusion="x", result=[{"reference": "Observation/o"}], effectivePeriod={"start": "2026"}),
    report(result=[{"reference": "Observation/o"}], category=[PROGRESS]),
    composition(section("Plan", "x", section("Diet", "y"), emptyReason={"text": "z"}), section("B", "b", code=PROGRESS), text=narrative(LONG, "generated")),
    {"resourceType": "Communication", "payload": [{"contentString": "x"}, {"contentAttachment": attachment()}], "sent": "2026"},
    {"resourceType": "ClinicalImpression", "description": "x", "note": [{"text": "y"}]},
    {"resourceType": "Observation", "id": "o", "subject": {"reference": "Patient/p"}, "valueString": LONG, "note": [{"text": LONG}],
     "component": [{"valueString": LONG}], "text": narrative("x")},
    {"resourceType": "QuestionnaireResponse", "item": [{"linkId": "1", "answer": [{"valueString": LONG, "item": [{"answer": []}]}]}]},
    {"resourceType": "Media", "content": attachment(), "type": PROGRESS, "createdPeriod": {"start": "2026"}},
    {"resourceType": "Parameters", "parameter": [{"resource": reference(), "part": [{"resource": binary()}]}]},
    binary(securityContext={"reference": "Patient/p"}),
    {"resourceType": "Claim", "contained": [binary(key="c"), reference("#c")]},
    {"resourceType": "Patient", "id": "p", "identifier": [{"value": "1"}]},
    bundle(type="history", entry=[{"resource": reference(meta={"lastUpdated": "2026"}), "request": {"method": "PUT", "url": "x"}}]),
]  # fmt: skip
JUNK = st.sampled_from([None, 0, -1.5, True, "", "x", "\ud800", "\0", [], [[]], [None], {}, {"a": {}}, [{}], ["x"], [1, "x", {}], "Binary/b1",
                        "#", {"reference": "#"}, {"coding": "x"}, {"coding": [1]}, {"text": []}, "9" * 400, {"resourceType": 5}])  # fmt: skip


def mutated(value: Any, chance: st.DataObject, depth: int = 0) -> Any:
    """Puts junk at a random place."""
    if (depth > 1 and chance.draw(st.integers(0, 3)) == 0) or not isinstance(value, dict | list) or not value:
        return chance.draw(JUNK)
    key = chance.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else list(range(len(value)))))
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = mutated(copy[key], chance, depth + 1)
    return copy


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_wrong_types_anywhere_cost_at_most_their_resource(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    value: Any = bundle(*WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        value = mutated(value, data)
    entries = value.get("entry") if isinstance(value, dict) else None
    lines = (
        [entry.get("resource") if isinstance(entry, dict) else entry for entry in entries]
        if isinstance(entries, list)
        else []
    )
    for name, content in (("a_json", json.dumps(value)), ("a_ndjson", [line for line in lines if line is not None])):
        items = read(tmp_path_factory.getbasetemp() / "mutated", **{name: content}, only=name.replace("_", "."))
        assert items and "STAGE_FAILED" not in codes(items)


@pytest.mark.corpora
def test_real_files_hold_the_notes_that_a_person_sees(ehr: Path) -> None:
    counts: Counter[str] = Counter()
    for folder in ("fhir", "fhir_ndjson"):
        sources = find_sources([str(ehr / folder)])
        inputs = Inputs(sources)
        for source in sources:
            counts.update(codes(list(read_source(source, max_note_chars=10**6, inputs=inputs))))
    assert counts["STAGE_FAILED"] == 0 and counts["JSON_TOO_DEEP"] == 0
    assert counts["Document"] >= 50 and counts["DocumentReference (superseded)"] == 1022
