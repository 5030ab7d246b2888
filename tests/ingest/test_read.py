"""Readers: what is a note becomes one, what is not is counted, what is broken goes to quarantine; nothing vanishes."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.ids import make_id
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.read import READERS, read_source
from medpipe.ingest.sniff import sniff
from medpipe.ingest.sources import Source
from medpipe.records import Document, Reject, Skipped

TEXT = "CC: cough.\nHPI: She has a cough — and 38,5 °C fever 🤒.\n"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def reference(data: Any = None, **changes: Any) -> dict[str, Any]:
    attachment = {"contentType": "text/plain", "data": b64(TEXT) if data is None else data}
    return {
        "resourceType": "DocumentReference", "id": "d1", "status": "current", "subject": {"reference": "Patient/p1"},
        "date": "2026-01-30T21:40:00+01:00", "content": [{"attachment": attachment}],
        "type": {"coding": [{"system": "http://loinc.org", "code": "11506-3", "display": "Progress note"}]},
        "context": {"encounter": [{"reference": "Encounter/e1"}]},
    } | changes  # fmt: skip


def read(tmp_path: Path, content: Any, name: str = "a.json", **options: Any) -> list[Document | Reject | Skipped]:
    path = tmp_path / name
    raw = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(raw)
    return list(read_source(Source(path, name), **({"max_note_chars": 10_000} | options)))


def code(items: list[Any]) -> list[str]:
    return [item.code if isinstance(item, Reject) else type(item).__name__ for item in items]


def test_document_reference(tmp_path: Path) -> None:
    (note,) = read(tmp_path, reference())
    assert isinstance(note, Document)
    assert (note.text, note.patient_id, note.encounter_id) == (TEXT, "p1", "e1")
    assert (note.note_type, note.note_type_code, note.format) == ("Progress note", "11506-3", "fhir")
    assert note.authored_at is not None and note.authored_at.isoformat() == "2026-01-30T20:40:00+00:00"
    assert note.authored_at_text == "2026-01-30T21:40:00+01:00"
    assert (note.source, note.record, note.encoding) == ("a.json", "DocumentReference/d1#content.0", "utf-8")
    assert note.document_id == make_id("document", "a.json", note.record, "p1", note.text_hash)
    assert [section.name for section in note.sections] == ["chief_complaint", "history_of_present_illness"]


def test_diagnostic_report_form_or_conclusion_or_neither(tmp_path: Path) -> None:
    report = {"resourceType": "DiagnosticReport", "id": "r", "status": "final"}
    form = report | {
        "presentedForm": [{"contentType": "text/plain", "data": b64("No fracture.")}],
        "conclusion": "No Fracture",
    }
    assert [getattr(item, "text", item) for item in read(tmp_path, form)] == [
        "No fracture.", Skipped("DiagnosticReport (same text again)"),
    ]  # fmt: skip
    assert [note.text for note in read(tmp_path, form | {"conclusion": "None."})] == ["No fracture.", "None."]
    assert [note.text for note in read(tmp_path, report | {"conclusion": "Pneumonia."})] == ["Pneumonia."]
    assert read(tmp_path, report) == [Skipped("DiagnosticReport (no text)")]


def test_bundles_in_bundles_and_their_binaries(tmp_path: Path) -> None:
    by_url = reference() | {"content": [{"attachment": {"contentType": "text/plain", "url": "Binary/b1"}}]}
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": b64("Kept in a Binary.")}
    inner = {"resourceType": "Bundle", "entry": [{"resource": by_url}, {"resource": {"resourceType": "Patient"}}]}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": inner}, {"resource": binary}, {"fullUrl": "x"}, 7]}
    items = read(tmp_path, bundle)
    assert [item.text for item in items if isinstance(item, Document)] == ["Kept in a Binary."]
    assert Counter(item.kind for item in items if isinstance(item, Skipped)) == {
        "Patient": 1, "Binary": 1, "Bundle entry without resource": 1,
    }  # fmt: skip
    assert [item.code for item in items if isinstance(item, Reject)] == ["RECORD_NOT_OBJECT"]


@pytest.mark.parametrize("status", ["superseded", "entered-in-error"])
def test_withdrawn_notes_are_counted_and_not_processed(tmp_path: Path, status: str) -> None:
    assert read(tmp_path, reference(status=status)) == [Skipped(f"DocumentReference ({status})")]
    assert read(tmp_path, reference(docStatus=status)) == [Skipped(f"DocumentReference ({status})")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"content": [{"attachment": {"url": "http://127.0.0.1:1/x"}}]}, "ATTACHMENT_UNRESOLVED"),
        ({"content": [{"attachment": {"url": "file:///etc/passwd"}}]}, "ATTACHMENT_UNRESOLVED"),
        (
            {"content": [{"attachment": {"contentType": "application/pdf", "data": b64(bytes(range(100)))}}]},
            "PDF_INVALID",
        ),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": b64("%PDF-1.4")}}]}, "PDF_INVALID"),
        ({"content": [{"attachment": {"contentType": "application/json", "data": b64("{}")}}]}, "MEDIA_UNSUPPORTED"),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": b64(TEXT)[:-3]}}]}, "BASE64_INVALID"),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": "not base64!"}}]}, "BASE64_INVALID"),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": b64(" \n")}}]}, "TEXT_EMPTY"),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": b64("x" * 10_001)}}]}, "TEXT_TOO_LARGE"),
        ({"content": [{"attachment": {"contentType": "text/plain"}}]}, "TEXT_MISSING"),
        ({"content": [{"attachment": "text"}]}, "TEXT_MISSING"),
        ({"content": None}, "TEXT_MISSING"),
    ],
)
def test_bad_attachments_get_a_code(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert code(read(tmp_path, reference() | change)) == [expected]


def test_one_bad_attachment_does_not_cost_the_other(tmp_path: Path) -> None:
    good = reference()["content"][0]
    assert code(read(tmp_path, reference() | {"content": [{"attachment": {"data": "!"}}, good]})) == [
        "BASE64_INVALID",
        "Document",
    ]


@pytest.mark.parametrize(
    ("raw", "encoding", "text"),
    [
        (b"\xef\xbb\xbfna\xc3\xafve", "utf-8", "naïve"),
        ("naïve".encode("utf-16"), "utf-16le", "naïve"),
        ("naïve cough".encode("utf-16-le"), "utf-16le", "naïve cough"),
        ("naïve – “cough”".encode("cp1252"), "windows-1252", "naïve – “cough”"),
        (b"line one\r\nline two\r", "utf-8", "line one\r\nline two\r"),
    ],
)
def test_encodings_are_found_and_recorded(tmp_path: Path, raw: bytes, encoding: str, text: str) -> None:
    (note,) = read(tmp_path, raw, "a.txt")
    assert isinstance(note, Document)
    assert (note.text, note.encoding, note.format) == (text, encoding, "text")


def test_declared_charset_is_used(tmp_path: Path) -> None:
    attachment = {"contentType": "text/plain; charset=iso-8859-15", "data": b64("5 €".encode("iso-8859-15"))}
    (note,) = read(tmp_path, reference() | {"content": [{"attachment": attachment}]})
    assert note.text == "5 €"


def test_undecodable_bytes_are_refused_not_replaced(tmp_path: Path) -> None:
    assert code(read(tmp_path, "кашель и температура с утра".encode("cp1251"), "a.txt")) == ["TEXT_UNDECODABLE"]
    assert code(read(tmp_path, bytes(range(32)) * 10, "a.txt")) == ["TEXT_BINARY"]


def test_html_is_rendered(tmp_path: Path) -> None:
    page = "<html><head><script>alert('x')</script></head><body><h2>Plan</h2><p>Rest &amp; fluids.</p>"
    page += "<ul><li>one</li><li>two</li></ul>"
    attachment = {
        "contentType": "text/html",
        "data": b64(page + "<table><tr><td>Na</td><td>138</td></tr></table></body></html>"),
    }
    (note,) = read(tmp_path, reference() | {"content": [{"attachment": attachment}]})
    assert [line for line in note.text.split("\n") if line] == ["Plan", "Rest & fluids.", "- one", "- two", "Na | 138"]


def test_simple_json(tmp_path: Path) -> None:
    one = {"document_id": 7, "patient_id": "p", "authored_at": "2026-01", "text": TEXT, "note_type": "Visit"}
    items = read(tmp_path, [one, {"text": 5}, 5])
    assert code(items) == ["Document", "TEXT_MISSING", "RECORD_NOT_OBJECT"]
    assert (items[0].record, items[0].format, items[0].authored_at, items[0].authored_at_text) == (
        "7",
        "json",
        None,
        "2026-01",
    )
    assert code(read(tmp_path, {"text": "\ud83d cough"})) == ["TEXT_INVALID"]


def test_lines_of_json(tmp_path: Path) -> None:
    lines = [
        json.dumps(reference()),
        "",
        '"only text"',
        "null",
        "{broken",
        json.dumps({"text": "simple"}),
        '{"resourceType": "Patient"}',
    ]
    items = read(tmp_path, "\n".join(lines), "a.ndjson")
    assert code(items) == ["Document", "RECORD_NOT_OBJECT", "RECORD_NOT_OBJECT", "JSON_INVALID", "Document", "Skipped"]
    assert items[3].record == "line 5"


def test_deep_json_is_refused(tmp_path: Path) -> None:
    assert code(read(tmp_path, '{"resourceType":' + "[" * 1_000_000, "a.json")) in (["JSON_TOO_DEEP"], ["JSON_INVALID"])
    assert code(read(tmp_path, "[" * 100_000 + "]" * 100_000, "a.json")) == ["JSON_TOO_DEEP"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("notes", json.dumps(reference(), indent=1), "fhir"),
        ("notes.txt", json.dumps(reference()), "fhir"),
        ("notes.json", json.dumps(reference()) + "\n" + json.dumps(reference()), "ndjson"),
        ("a.json", "\ufeff" + json.dumps({"text": "x"}), "json"),
        ("a.ndjson", '"text"\n1\n', "ndjson"),
        ("a.txt", "Plain.", "text"),
        ("a.json", "not json", "json"),
        ("a.xml", "<ClinicalDocument/>", "ccda"),
        ("a.txt", "MSH|^~\\&|", "hl7v2"),
        ("a.pdf", "%PDF-1.7", "text"),
        ("a.csv", "a,b", "table"),
    ],
)
def test_format_is_found_by_content(tmp_path: Path, name: str, content: str, expected: str | None) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert sniff(Inputs().content(Source(tmp_path / name, name))) == expected


def test_long_first_line_of_ndjson(tmp_path: Path) -> None:
    line = json.dumps(reference(b64("x" * 100_000)))
    assert code(read(tmp_path, f"{line}\n{line}\n", "a", max_note_chars=10**6)) == ["Document", "Document"]


def test_unknown_format_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        read(tmp_path, "x", format="poem")
    assert caught.value.code == "SETTING_INVALID"
    with pytest.raises(MedpipeError) as caught:
        list(read_source(Source(tmp_path / "gone", "gone"), max_note_chars=1))
    assert caught.value.code == "INPUT_UNREADABLE"


def test_no_reject_holds_note_text(tmp_path: Path) -> None:
    canary = "CANARY7391"
    bad = [
        json.dumps(reference(canary)), f'{{"resourceType": "{canary}', f'"{canary}"', json.dumps({"text": [canary]}),
        json.dumps({"resourceType": "DocumentReference", "content": canary}), json.dumps({"text": canary + "\ud800"}),
    ]  # fmt: skip
    items = read(tmp_path, "\n".join([json.dumps({"resourceType": "Patient"}), *bad]), "a.ndjson")
    rejects = [item for item in items if isinstance(item, Reject)]
    assert len(rejects) == len(bad)
    assert canary not in repr(rejects)


# --- anything in, something accounted for out -------------------------------------------------

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(
        ["resourceType", "entry", "resource", "content", "attachment", "data", "url", "contentType", "status", "text",
         "type", "coding", "subject", "reference", "id", "date", "context", "presentedForm", "conclusion"]
        ), inner, max_size=5)),
    max_leaves=20,
)  # fmt: skip
KINDS = st.sampled_from(["DocumentReference", "DiagnosticReport", "Bundle", "Patient"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, kind=KINDS)
def test_any_json_gives_items_and_no_crash(tmp_path: Path, value: Any, kind: str) -> None:
    if isinstance(value, dict):
        value = value | {"resourceType": kind}
    raw = json.dumps(value).encode("utf-8", "surrogatepass")
    for name in ("fhir", "ndjson", "json"):
        items = read(tmp_path, raw, format=name)
        assert all(isinstance(item, Document | Reject | Skipped) for item in items)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=300), name=st.sampled_from(sorted(READERS)))
def test_any_bytes_give_items_and_no_crash(tmp_path: Path, raw: bytes, name: str) -> None:
    for item in read(tmp_path, raw, format=name):
        if isinstance(item, Document):
            item.text.encode("utf-8")
            assert item.sections[0].start == 0 and item.sections[-1].end == len(item.text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_samples_give_items_and_no_crash(tmp_path: Path, samples: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in samples.rglob("*") if path.is_file())))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        change = data.draw(st.sampled_from(["cut", "flip", "splice", "double"]))
        if change == "cut":
            del raw[at:]
        elif change == "flip" and raw:
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "splice":
            raw[at:at] = data.draw(st.binary(max_size=20))
        else:
            raw[at:at] = raw[at : at + 200]
    items = read(tmp_path, bytes(raw), path.name)
    assert all(isinstance(item, Document | Reject | Skipped) for item in items)
