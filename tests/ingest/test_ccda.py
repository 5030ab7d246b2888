"""CDA documents: their text, sections and facts; what they hold beside it; files that are no documents."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.cda import text as cda_text
from medpipe.ingest.cda.reader import read_ccda, sniff_xml, xdm_role
from medpipe.ingest.content import Content, Refused, bytes_content
from medpipe.ingest.inputs import Inputs
from medpipe.ingest.notes import Reading
from medpipe.ingest.read import read_source
from medpipe.ingest.sniff import sniff
from medpipe.ingest.sources import Source
from medpipe.records import Document, Reject, Skipped

LOINC = 'codeSystem="2.16.840.1.113883.6.1"'
HEADER = f"""<id root="1.2.3" extension="d7"/><code code="18842-5" {LOINC} displayName="Discharge summary"/>
<title>Discharge  Summary
of St. Elsewhere</title><effectiveTime value="20260130214000+0100"/><languageCode code="eng"/>
<recordTarget><patientRole><id root="2.16.840.1.113883.4.1" extension="000-00-0000"/><id nullFlavor="UNK"/>
<id root="1.2.9" extension=" p1 "/></patientRole></recordTarget>
<componentOf><encompassingEncounter><id root="1.2.8" extension="e1"/></encompassingEncounter></componentOf>"""
BODY = f"""<component><structuredBody>
<component><section><code code="10164-2" {LOINC}/><title>HPI</title><text>Cough for <b>two</b> weeks.</text></section></component>
<component><section><title>Allergies</title><text/><entry><observation><value>never shown</value></observation></entry></section></component>
<component><section nullFlavor="NI"><code code="48765-2" {LOINC} displayName="Allergies, adverse reactions"/><text>None known.</text></section></component>
<component><section><title>Physical Exam</title><component><section><title>Lungs</title><text><paragraph>Clear.</paragraph></text>
<component><section><text>Bases dull.</text></section></component></section></component>
<component><section><title>Skin</title><text>Warm.</text></section></component></section></component>
<component><section><title>Plan</title><text><list><item>Rest</item></list></text></section></component>
</structuredBody></component>"""
CRLF = "CC: cough\r\n\r\nPLAN: rest\r\n"
TEXT = """Discharge Summary of St. Elsewhere

HPI
Cough for two weeks.

Allergies, adverse reactions
None known.

Physical Exam

Lungs
Clear.

Bases dull.

Skin
Warm.

Plan
- Rest"""


def cda(body: str = BODY, header: str = HEADER) -> bytes:
    return f'<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:sdtc="urn:hl7-org:sdtc">{header}{body}</ClinicalDocument>'.encode()


def section(text: str, more: str = "") -> str:
    return f"<component><structuredBody><component><section><title>Note</title>{text}{more}</section></component></structuredBody></component>"


def unstructured(text: str) -> bytes:
    return cda(f"<component><nonXMLBody>{text}</nonXMLBody></component>")


def read(raw: bytes | str, beside: dict[str, bytes] | None = None) -> list[Document | Reject | Skipped]:
    raw = raw.encode() if isinstance(raw, str) else raw
    files = {name: bytes_content(name, data) for name, data in (beside or {}).items()}
    content = Content("a.xml", bytes_content("a.xml", raw).open, len(raw), files.get)
    reading = Reading("a.xml", "ccda", 100_000)
    try:
        return list(read_ccda(content, reading))
    except Refused as refused:
        return [reading.reject(refused.record, refused.code, **refused.fields)]


def note(items: list[Document | Reject | Skipped]) -> Document:
    (document,) = items
    assert isinstance(document, Document), document
    return document


def kinds(items: list[Any]) -> list[str]:
    names = {Reject: "code", Skipped: "kind", Document: "text"}
    return [getattr(item, names[type(item)]) for item in items]


def b64(raw: bytes | str) -> str:
    return base64.b64encode(raw.encode() if isinstance(raw, str) else raw).decode()


# --- documents ------------------------------------------------------------------------------


def test_text_and_facts() -> None:
    document = note(read(cda()))
    assert document.text == TEXT
    assert document.record == "ClinicalDocument/1.2.3^d7"
    assert (document.patient_id, document.encounter_id, document.language) == ("p1", "e1", "en")
    assert (document.note_type, document.note_type_code, document.note_status) == ("Discharge summary", "18842-5", None)
    assert (document.authored_at_text, document.encoding) == ("20260130214000+0100", "utf-8")


def test_sections_cover_the_text_and_nest() -> None:
    document = note(read(cda()))
    found = [
        (one.name, one.title, one.parent, document.text[one.start : one.body_start].strip(), document.text[one.body_start : one.end].strip())
        for one in document.sections
    ]  # fmt: skip
    assert found == [
        ("body", None, None, "", "Discharge Summary of St. Elsewhere"),
        ("history_of_present_illness", "HPI", None, "HPI", "Cough for two weeks."),
        ("allergies", "Allergies, adverse reactions", None, "Allergies, adverse reactions", "None known."),
        ("physical_exam", "Physical Exam", None, "Physical Exam", "Lungs\nClear.\n\nBases dull.\n\nSkin\nWarm."),
        (found[4][0], "Lungs", 3, "Lungs", "Clear.\n\nBases dull."),
        ("body", None, 4, "", "Bases dull."),
        (found[6][0], "Skin", 3, "Skin", "Warm."),
        ("plan", "Plan", None, "Plan", "- Rest"),
    ]
    assert document.sections[1].code == "10164-2"
    top = [one for one in document.sections if one.parent is None]
    assert [one.start for one in top[1:]] == [one.end for one in top[:-1]]
    assert (top[0].start, top[-1].end) == (0, len(document.text))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"<", b"<c:").replace(b"<c:/", b"</c:").replace(b" xmlns=", b" xmlns:c="),
        lambda raw: raw.replace(b"<", b"<c:").replace(b"<c:/", b"</c:").replace(b' xmlns="urn:hl7-org:v3"', b""),
        lambda raw: raw.replace(b' xmlns="urn:hl7-org:v3"', b""),
        lambda raw: raw.replace(b"urn:hl7-org:v3", b"urn:hl7-org:v3-other"),
        lambda raw: raw.replace(b"<text>Cough", b'<text ID="a" xsi:type="T">Cough'),
        lambda raw: b'\n <?xml version="1.0" encoding="UTF-16"?>\n<?xml-stylesheet href="a.xsl"?><!-- c -->' + raw,
        lambda raw: raw.decode().encode("utf-16"),
        lambda raw: raw.replace(b"two", b"<!-- three --><?pi x?><![CDATA[two]]>"),
    ],
)  # fmt: skip
def test_how_it_is_written_does_not_matter(change: Any) -> None:
    raw = change(cda())
    assert note(read(raw)).text == TEXT
    assert cda_text.is_cda(raw)


def test_header_that_says_little() -> None:
    document = note(read(cda(section("<text>Cough.</text>"), "<code code='x'/><languageCode code='english'/><id/>")))
    assert (document.text, document.record) == ("Note\nCough.", "0")
    assert (document.note_type, document.note_type_code, document.language, document.patient_id) == (None,) * 4


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ('<id root="1.2" extension="7"/>', "7"), ('<id root="6e1f"/>', "6e1f"), ('<id nullFlavor="NI" root="1.2"/>', None),
        ('<id root="2.16.840.1.113883.4.1"/>', None), ("<id/>", None), ("", None),
        ('<id root="6e1f"/><id root="1.2" extension="7"/>', "7"),
    ],
)  # fmt: skip
def test_patient_ids(ids: str, expected: str | None) -> None:
    header = f"<recordTarget><patientRole>{ids}</patientRole></recordTarget>"
    assert note(read(cda(section("<text>Cough.</text>"), header))).patient_id == expected


def test_codes_in_translations_and_times_as_intervals() -> None:
    header = f"""<code code="x" codeSystem="9.9"><translation code="11506-3" {LOINC} displayName="Progress note"/></code>
    <effectiveTime><low value="20260130"/></effectiveTime>"""
    document = note(read(cda(section("<text>Cough.</text>"), header)))
    assert (document.note_type, document.note_type_code, document.authored_at_text) == (
        "Progress note", "11506-3", "20260130",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("element", "status"),
    [
        ('<sdtc:statusCode code="active"/>', "active"),
        ('<relatedDocument typeCode="RPLC"><parentDocument/></relatedDocument>', "RPLC"),
        ("<relatedDocument/>", None),
    ],
)
def test_status(element: str, status: str | None) -> None:
    assert note(read(cda(section("<text>Cough.</text>"), element))).note_status == status


def test_a_withdrawn_document_is_counted() -> None:
    raw = cda(section("<text>Cough.</text>"), '<sdtc:statusCode code="nullified"/>')
    assert read(raw) == [Skipped("ClinicalDocument (nullified)")]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (cda(""), "TEXT_MISSING"),
        (b"<ClinicalDocument/>", "TEXT_MISSING"),
        (cda(section("")), "TEXT_MISSING"),
        (cda(section("<text nullFlavor='NI'/>")), "TEXT_EMPTY"),
        (cda(section("<text>\n <table><tr><td>\xa0</td></tr></table></text>")), "TEXT_EMPTY"),
        (cda(section("<text><content revised='delete'>x</content></text>")), "TEXT_EMPTY"),
        (cda(section(f"<text>{'x' * 100_001}</text>")), "TEXT_TOO_LARGE"),
        (cda()[:-40], "XML_INVALID"),
        (b"", "TEXT_EMPTY"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + cda(), "XML_FORBIDDEN"),
        (b"<Other><text>x</text></Other>", "FORMAT_UNKNOWN"),
        (b'<Patient xmlns="http://hl7.org/fhir"/>', "FORMAT_UNKNOWN"),
    ],
)
def test_refused(raw: bytes, code: str) -> None:
    assert kinds(read(raw)) == [code]


def test_html_sections_in_a_narrative_are_no_sections() -> None:
    document = note(read(cda(section("<text>a<section><title>b</title><text>c</text></section></text>"))))
    assert (document.text.split()[-4:], len(document.sections)) == (["Note", "a", "b", "c"], 2)


def test_footnotes_are_numbered_through_the_document() -> None:
    first = "<text>A<footnoteRef IDREF='f1'/><footnote ID='f1'>one</footnote></text>"
    second = "<component><section><text>B<footnoteRef IDREF='f2'/><footnote ID='f2'>two</footnote></text></section></component>"
    text = note(read(cda(section(first, second)))).text
    assert "A[1] [1: one]" in text and "B[2] [2: two]" in text


# --- fragments, wrappers, other XML ---------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        "<section><title>Plan</title><text>Rest.</text><entry><observation xsi:type='x'/></entry></section>",
        "<component><section><title>Plan</title><text>Rest.</text></section></component>",
        "<structuredBody xmlns='urn:hl7-org:v3'><component><section><title>Plan</title><text>Rest.</text></section></component></structuredBody>",
    ],
)
def test_fragments(raw: str) -> None:
    document = note(read(raw))
    assert (document.text, document.record, [one.name for one in document.sections]) == ("Plan\nRest.", "0", ["plan"])


def test_fragments_without_narrative() -> None:
    assert read("<recordTarget><patientRole sdtc:x='1'/></recordTarget>") == [Skipped("CDA fragment (recordTarget)")]
    assert kinds(read("<component><observation/></component>")) == ["TEXT_MISSING"]
    assert kinds(read("<text xmlns='urn:hl7-org:v3'><paragraph>Rest.</paragraph></text>")) == ["Rest."]


def test_several_documents_in_a_file() -> None:
    one = cda(section("<text>One.</text>"))
    two = cda(section("<text>Two.</text>"))
    declared = b'<?xml version="1.0"?>\n'
    items = read(declared + one + b"\n" + declared + two + b"\n<section><text>Three.</text></section>")
    assert [(item.record, item.text.split()[-1]) for item in items if isinstance(item, Document)] == [
        ("ClinicalDocument/1.2.3^d7", "One."), ("ClinicalDocument/1.2.3^d7~2", "Two."), ("0", "Three."),
    ]  # fmt: skip


def test_documents_in_wrappers() -> None:
    one = cda(section("<text>One.</text>"), "").decode()
    assert kinds(read(f"<Answer><Item>{one}</Item><Item>{one}</Item></Answer>")) == ["Note\nOne."] * 2
    escaped = one.replace("&", "&amp;").replace("<", "&lt;")
    assert (
        kinds(read(f"<Envelope><return> {escaped}</return><r><![CDATA[<?xml version='1.0'?>{one}]]></r></Envelope>"))
        == ["Note\nOne."] * 2
    )
    xds = f"""<Envelope><RetrieveDocumentSetResponse xmlns="urn:ihe:iti:xds-b:2007"><DocumentResponse>
    <mimeType>text/xml</mimeType><Document>{b64(one)}</Document></DocumentResponse><DocumentResponse><Document>?</Document>
    </DocumentResponse></RetrieveDocumentSetResponse></Envelope>"""
    assert kinds(read(xds)) == ["Note\nOne.", "BASE64_INVALID"]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("<xsl:stylesheet xmlns:xsl='http://www.w3.org/1999/XSL/Transform'/>", "XSL style sheet"),
        ("<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'/>", "XML schema"),
        ("<schema xmlns='http://purl.oclc.org/dsdl/schematron'/>", "Schematron schema"),
        ("<SubmitObjectsRequest xmlns='urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0'/>", "XDM metadata"),
    ],
)
def test_xml_that_is_no_note(raw: str, kind: str) -> None:
    assert read(raw) == [Skipped(kind)]


# --- bodies and files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f'<text mediaType="text/plain" representation="B64">{b64("CC: cough — dry.")}</text>',
        f'<text mediaType="text/plain" representation="B64">\n {b64("CC: cough — dry.")[:10]}\n {b64("CC: cough — dry.")[10:]}</text>',
        '<text mediaType="text/plain">CC: cough — dry.</text>',
        "<text>CC: cough — dry.</text>",
        f'<text mediaType="text/plain" representation="B64" charset="cp1252">{b64("CC: cough — dry.".encode("cp1252"))}</text>',
        f'<text representation="B64" compression="GZ">{b64(gzip.compress("CC: cough — dry.".encode()))}</text>',
        f'<text representation="B64" compression="ZL">{b64(zlib.compress("CC: cough — dry.".encode()))}</text>',
        f'<text><reference value="data:text/plain;base64,{b64("CC: cough — dry.")}"/></text>',
        f'<text mediaType="text/html" representation="B64">{b64("<p>CC: cough — dry.</p>")}</text>',
        '<text><paragraph>CC: cough — <content>dry</content>.</paragraph></text>',
        '<text><reference value="note%201.txt"/></text>',
        '<text mediaType="text/plain"><reference value="note 1.txt"/></text>',
        f'<text mediaType="application/xml" representation="B64">{b64(cda(section("<text>x</text>")).replace(b"Note", b"CC: cough").replace(b"x</text>", b"dry.</text>"))}</text>',
    ],
)  # fmt: skip
def test_bodies_that_are_not_xml(text: str) -> None:
    document = note(read(unstructured(text), {"note 1.txt": "CC: cough — dry.".encode()}))
    assert "CC: cough" in document.text and document.text.endswith("dry.")
    assert (document.record, document.patient_id, document.note_type_code) == (
        "ClinicalDocument/1.2.3^d7",
        "p1",
        "18842-5",
    )
    assert document.sections


def test_base64_that_does_not_say_so() -> None:
    long = "CC: cough — dry. " * 10
    assert note(read(unstructured(f'<text mediaType="text/plain">{b64(long)}</text>'))).text == long
    words = "coughcoughcough " * 16
    assert note(read(unstructured(f'<text mediaType="text/plain">{words}</text>'))).text == words.strip()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('<text mediaType="text/plain" representation="B64">!</text>', "BASE64_INVALID"),
        ('<text mediaType="text/plain" representation="B64"> </text>', "TEXT_EMPTY"),
        ("<text/>", "TEXT_EMPTY"),
        ("", "TEXT_MISSING"),
        ('<text><reference value="other.pdf"/></text>', "ATTACHMENT_UNRESOLVED"),
        ('<text><reference value="http://127.0.0.1:1/x"/></text>', "ATTACHMENT_UNRESOLVED"),
        ('<text><reference value="file:///etc/passwd"/></text>', "ATTACHMENT_UNRESOLVED"),
        ('<text><reference value="../../../etc/passwd"/></text>', "ATTACHMENT_UNRESOLVED"),
        (f'<text representation="B64" compression="GZ">{b64("x")}</text>', "ARCHIVE_INVALID"),
        (f'<text representation="B64" compression="7Z">{b64("x")}</text>', "ARCHIVE_INVALID"),
        (
            f'<text representation="B64" compression="ZL">{b64(zlib.compress(bytes(80 << 20)))}</text>',
            "ARCHIVE_INVALID",
        ),
    ],
)
def test_bodies_that_cannot_be_had(text: str, code: str) -> None:
    assert kinds(read(unstructured(text))) == [code]


def test_a_reference_to_itself_ends() -> None:
    raw = unstructured('<text mediaType="text/xml"><reference value="a.xml"/></text>')
    assert kinds(read(raw, {"a.xml": raw})) == ["ATTACHMENT_UNRESOLVED"]


@pytest.mark.parametrize(
    "text",
    [
        f'<text mediaType="text/plain" representation="B64">{b64(CRLF)}</text>',
        "<text mediaType='text/html'>&lt;p&gt;CC: cough&lt;/p&gt;&lt;br&gt;&lt;p&gt;PLAN: rest&lt;/p&gt;</text>",
        "<text><![CDATA[<div>CC: cough</div><br/><div>PLAN: rest</div>]]></text>",
        "<text>CC: cough\n\nPLAN: rest</text>",
    ],
)
def test_sections_whose_text_is_no_markup(text: str) -> None:
    document = note(read(cda(section(text), "")))
    assert [line for line in document.text.split("\n") if line] == ["Note", "CC: cough", "PLAN: rest"]


def test_a_section_that_is_a_file() -> None:
    text = f'<text mediaType="application/pdf" representation="B64">{b64("%PDF-1.4")}</text>'
    items = read(cda(section(text)))
    assert items[0] == Skipped("CDA document (its text is attached)")
    assert isinstance(items[1], Reject) and items[1].record == "ClinicalDocument/1.2.3^d7#attachment.0"


def entry(text: str, more: str = "") -> str:
    return f"<entry><act><code code='34109-9' {LOINC}><translation code='34746-8' {LOINC} displayName='Nurse note'/></code>{text}{more}</act></entry>"


def test_files_in_entries() -> None:
    shown = entry(f'<text mediaType="text/rtf" representation="B64">{b64("rtf")}<reference value="#n1"/></text>')
    hidden = entry(
        f'<text mediaType="text/plain" representation="B64">{b64("CC: fever.")}<reference value="#n2"/></text>',
        '<author><time value="20260131"/></author>',
    )
    image = f'<entry><observationMedia><value mediaType="image/gif" representation="B64">{b64("GIF")}</value></observationMedia></entry>'
    link = '<entry><observationMedia><value mediaType="image/gif"><reference value="a.gif"/></value></observationMedia></entry>'
    thumbnail = f'<entry><act><text><thumbnail representation="B64">{b64("x")}</thumbnail></text></act></entry>'
    items = read(
        cda(section('<text><paragraph ID="n1">Cough.</paragraph></text>', shown + hidden + image + link + thumbnail))
    )
    first, second, *others = items
    assert isinstance(first, Document) and first.text.endswith("Note\nCough.")
    assert isinstance(second, Document) and second.text == "CC: fever."
    assert (second.record, second.note_type, second.note_type_code, second.authored_at_text, second.patient_id) == (
        "ClinicalDocument/1.2.3^d7#attachment.0", "Nurse note", "34746-8", "20260131", "p1",
    )  # fmt: skip
    assert Counter(kinds(others)) == {"CDA attachment (its text is in the narrative)": 1, "CDA image": 2}


# --- MIME and attachments of other formats --------------------------------------------------


def package(*parts: str) -> bytes:
    head = 'From: a\nMIME-Version: 1.0\nContent-Type: multipart/related; type="text/xml";\n boundary="=="\n\n'
    return (head + "".join(f"--==\n{part}\n" for part in parts) + "--==--\n").encode()


DOCUMENT_PART = "Content-Type: text/xml\n\n" + unstructured('<text><reference value="cid:n@x"/></text>').decode()
NOTE_PART = f"Content-Type: text/plain\nContent-ID: <n@x>\nContent-Transfer-Encoding: base64\n\n{b64('CC: cough.')}\n"


def test_mime_packages() -> None:
    items = read(package(NOTE_PART, DOCUMENT_PART, "Content-Type: text/plain\n\nBeside it."))
    assert kinds(items) == ["CC: cough.", "Beside it."]
    assert [item.record for item in items if isinstance(item, Document)] == [
        "part.1!ClinicalDocument/1.2.3^d7", "part.2!0",
    ]  # fmt: skip
    assert kinds(read(package("Content-Type: text/xml\n\n<a"))) == ["XML_INVALID"]
    assert kinds(read(b"MIME-Version: 1.0\n\nno parts")) == ["RECORD_INVALID"]
    assert kinds(read(package(*["\n\nx"] * 10_001))) == ["RECORD_INVALID"]


@pytest.mark.parametrize("media", ["text/xml", "application/hl7-v3+xml", "application/cda+xml", None, "text/plain"])
def test_documents_as_attachments_of_other_formats(media: str | None) -> None:
    reading = Reading("a.json", "fhir", 100_000)
    document = reading.attachment("r", cda(), media, None, patient_id="other", note_type=None)
    assert isinstance(document, Document)
    assert (document.text, document.patient_id, document.note_type_code) == (TEXT, "other", "18842-5")
    assert (document.record, document.format, len(document.sections)) == ("r", "fhir", 8)


def test_packages_and_bodies_as_attachments() -> None:
    reading = Reading("a.hl7", "hl7v2", 100_000)
    found = [
        reading.attachment("r", package(DOCUMENT_PART, NOTE_PART), "multipart/related", None),
        reading.attachment("r", unstructured("<text>CC: cough.</text>"), "text/xml", None),
        reading.attachment("r", unstructured('<text><reference value="a.pdf"/></text>'), "text/xml", None),
        reading.attachment("r", cda(""), "text/xml", None),
        reading.attachment("r", cda()[:-9], "text/xml", None),
        reading.attachment("r", package("Content-Type: text/plain\n\nx"), "multipart/related", None),
    ]
    assert kinds(found) == [
        "CC: cough.", "CC: cough.", "ATTACHMENT_UNRESOLVED", "TEXT_MISSING", "XML_INVALID", "x",
    ]  # fmt: skip


def test_documents_in_documents() -> None:
    raw = cda(section("<text>Cough.</text>"), "<title>Inner</title>")
    for depth in range(8):
        found = Reading("a.json", "fhir", 10**6).attachment("r", raw, "text/xml", None)
        if depth < cda_text.MOST_NESTED:
            assert isinstance(found, Document) and found.text == "Inner\n\nNote\nCough."
            assert found.patient_id == ("p1" if depth else None)
        else:
            assert isinstance(found, Reject) and found.code == "RECORD_INVALID"
        raw = unstructured(f'<text mediaType="text/xml" representation="B64">{b64(raw)}</text>')


def test_html_attachments_are_no_fragments() -> None:
    document = Reading("a.json", "fhir", 1000).attachment("r", b"<section><p>Rest.</p></section>", "text/html", None)
    assert isinstance(document, Document) and document.text == "Rest."


# --- choosing the reader --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "suffix", "expected"),
    [
        (cda(), ".txt", "ccda"), (cda(), "", "ccda"), (cda().decode().encode("utf-16"), ".xml", "ccda"),
        (b"junk\n" + cda(), ".txt", "ccda"), (b"<section><text/></section>", ".xml", "ccda"),
        (b"<section><p/></section>", ".html", None), (b"<html>", ".xml", None), (b"<!DOCTYPE html><html>", ".txt", None),
        (b'<Bundle xmlns="http://hl7.org/fhir">', ".xml", "fhir"), (b"<other>", ".xml", "ccda"), (b"", ".xml", "ccda"),
        (b"<other>", ".txt", None), (b"<other>", "", None), (b'<?xml version="1.0"?><other>', "", "ccda"),
        (b"< 5 days", ".txt", None), (b"Plain.", ".txt", None), (package(DOCUMENT_PART), "", "ccda"),
        (package("Content-Type: text/plain\n\nx"), "", None),
    ],
)  # fmt: skip
def test_xml_is_found_by_content(head: bytes, suffix: str, expected: str | None) -> None:
    assert sniff_xml(head, suffix) == expected


def test_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").write_bytes(unstructured('<text><reference value="n.txt"/></text>'))
    (tmp_path / "in" / "n.txt").write_text("CC: cough.")
    sources = [Source(tmp_path / "in" / name, f"in/{name}") for name in ("a.xml", "n.txt")]
    inputs = Inputs(sources)
    assert sniff(inputs.content(sources[0])) == "ccda"
    document = note(list(read_source(sources[0], max_note_chars=1000, inputs=inputs)))
    assert (document.text, document.format, document.source) == ("CC: cough.", "ccda", "in/a.xml")


# --- XDM ------------------------------------------------------------------------------------


def test_xdm_roles() -> None:
    names = [
        "INDEX.HTM", "README.TXT", "IHE_XDM/", "IHE_XDM/SUBSET01/METADATA.XML", "IHE_XDM/SUBSET01/DOC.XML",
        "IHE_XDM/SUBSET01/CDA.XSL", "IHE_XDM/SUBSET01/README.TXT", "other/README.TXT",
    ]  # fmt: skip
    roles = ["XDM index page", "XDM readme", None, "XDM metadata", None, "XSL style sheet", None, None]
    assert [xdm_role(name, names) for name in names] == roles
    inner = [f"out\\{name.lower()}" for name in names]
    assert [xdm_role(name, inner) for name in inner] == roles
    assert xdm_role("README.TXT", ["README.TXT", "a.xml"]) is None
    assert xdm_role("METADATA.XML", ["METADATA.XML"]) is None


# --- properties -----------------------------------------------------------------------------

SECTION = st.recursive(
    st.tuples(st.sampled_from(["", "Plan", "HPI"]), st.sampled_from(["", "Rest.", "a\nb"]), st.just(())),
    lambda inner: st.tuples(
        st.sampled_from(["", "Plan"]), st.sampled_from(["", "Rest."]), st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


def markup(part: tuple[str, str, tuple]) -> str:
    title, text, inner = part
    inside = "".join(f"<component>{markup(one)}</component>" for one in inner)
    return f"<section>{f'<title>{title}</title>' if title else ''}<text>{text}</text>{inside}</section>"


def words(part: tuple[str, str, tuple]) -> list[str]:
    title, text, inner = part
    inside = [word for one in inner for word in words(one)]
    return [*title.split(), *text.split(), *inside] if text or inside else []


@settings(max_examples=200, deadline=None)
@given(st.lists(SECTION, min_size=1, max_size=4))
def test_sections_of_any_shape(parts: list[tuple[str, str, tuple]]) -> None:
    rendered = cda_text.render(f"<structuredBody>{''.join(map(markup, parts))}</structuredBody>".encode())
    assert rendered.text.split() == [word for part in parts for word in words(part)]
    if not rendered.text:
        assert rendered.error == "TEXT_EMPTY" and not rendered.sections
    for number, one in enumerate(rendered.sections):
        assert 0 <= one.start <= one.body_start <= one.end <= len(rendered.text)
        assert rendered.text[one.start : one.body_start].strip() == (one.title or "")
        if one.parent is not None:
            parent = rendered.sections[one.parent]
            assert one.parent < number and parent.start <= one.start and one.end <= parent.end
    top = [one for one in rendered.sections if one.parent is None]
    assert [one.start for one in top] == [0, *[one.end for one in top]][: len(top)]


# --- the real files -------------------------------------------------------------------------


@pytest.mark.corpora
def test_real_files(ehr: Path) -> None:
    found: Counter[str] = Counter()
    for path in sorted((ehr / "ccda").rglob("*")):
        if path.suffix.lower() not in (".xml", ".ccda"):
            continue
        for item in read_source(Source(path, path.name), max_note_chars=5_000_000):
            found[item.code if isinstance(item, Reject) else type(item).__name__] += 1
    assert found["Document"] >= 180
    assert found["STAGE_FAILED"] == 0 and found["XML_INVALID"] <= 1
