"""HL7 v2: every message is accounted for, a note is the text of its report in order and once. All data are invented."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.content import bytes_content
from medpipe.ingest.hl7 import embedded as hl7_embedded
from medpipe.ingest.hl7.syntax import Message, charsets, parse_message, separators, split_messages, unescape
from medpipe.ingest.notes import Reading
from medpipe.ingest.read import read_content, read_source
from medpipe.ingest.sniff import sniff
from medpipe.ingest.sources import Source
from medpipe.ingest.syntax.charsets import standard_name
from medpipe.records import Document, Reject, Skipped

MSH = r"MSH|^~\&|LAB|HOSP|EHR|HOSP|20240305101500-0500||{type}|C{id}|P|2.5.1|||||{country}|{charset}"
PID = "PID|1||77^^^HOSP^PI~4711^^^HOSP^MR||Invented^Ida||19500101|F||||||||||ACC9"
PV1 = "PV1|1|I|W^1^1||||||||||||||||V88"
OBR = "OBR|1|P1|F1|24627-2^CT chest^LN|||202403050900|||||||||||||||20240305100000||{service}|{status}"


def msh(type: str = "ORU^R01^ORU_R01", id: Any = 1, charset: str = "") -> str:
    return MSH.format(type=type, id=id, charset=charset, country="")


def obr(status: str = "F", service: str = "", code: str = "24627-2^CT chest^LN") -> str:
    return OBR.format(status=status, service=service).replace("24627-2^CT chest^LN", code)


def obx(text: str, type: str = "TX", key: str = "R^Report^L", status: str = "F", **more: str) -> str:
    unit, limits, flag = more.get("unit", ""), more.get("limits", ""), more.get("flag", "")
    return f"OBX|1|{type}|{key}||{text}|{unit}|{limits}|{flag}|||{status}|||{more.get('time', '')}"


def nte(text: str) -> str:
    return f"NTE|1|L|{text}"


def message(*segments: str, header: str | None = None, end: str = "\r") -> str:
    return end.join([header or msh(), PID, PV1, *segments]) + end


def items(content: str | bytes, name: str = "a.hl7", **options: Any) -> list[Any]:
    raw = content if isinstance(content, bytes) else content.encode("utf-8")
    reading = Reading(name, "hl7v2", **({"max_note_chars": 100_000} | options))
    return list(read_content(bytes_content(name, raw), reading))


def texts(content: str | bytes, **options: Any) -> list[str]:
    found = items(content, **options)
    assert all(isinstance(item, Document) for item in found), found
    return [item.text for item in found]


def kinds(content: str | bytes, **options: Any) -> list[str]:
    return [
        item.kind if isinstance(item, Skipped) else item.code if isinstance(item, Reject) else "note"
        for item in items(content, **options)
    ]


# --- what is a note -------------------------------------------------------------------------


def test_a_report_over_many_lines_is_one_note_in_order_and_once() -> None:
    lines = ["Technique: helical.", "", "The lungs are clear.", "No effusion."]
    (note,) = items(message("ORC|RE", obr(), *map(obx, lines)))
    assert note.text == "\n".join(lines)
    assert (note.record, note.format, note.encoding, note.media_type) == ("1/C1#report.1", "hl7v2", "us-ascii", None)
    assert (note.patient_id, note.encounter_id) == ("4711", "V88")
    assert (note.note_type, note.note_type_code, note.note_status) == ("CT chest", "24627-2", "F")
    assert note.authored_at is not None and note.authored_at.isoformat() == "2024-03-05T14:00:00+00:00"
    assert note.authored_at_text == "202403050900"


def test_names_of_observations_are_headings_where_they_change() -> None:
    parts = [
        obx("Nodule in the left lobe.", key="F1^FINDINGS^L"), obx("No effusion.", key="F1^FINDINGS^L"),
        nte("Compared with the study of May."), obx("Stable.", key="71260&IMP^CT^C4"),
        obx("REC: see us again in a year", key="REC^Rec^L"), obx("12", "NM", "S^Size^L", unit="mm", limits="0-5", flag="H"),
    ]  # fmt: skip
    assert texts(message(obr(), *parts)) == [
        "FINDINGS:\nNodule in the left lobe.\nNo effusion.\nCompared with the study of May.\n"
        "Impression:\nStable.\nREC: see us again in a year\nSize: 12 mm (0-5) H"
    ]


def test_each_report_of_a_message_is_a_note_of_its_own() -> None:
    content = message(
        nte("Of the patient."), "ORC|1", obr(), obx("First report here."), nte("Of the first."), "ORC|2", nte("Of the order."),
        obr(code="X^MRI^L"), nte("Of the request."), obx("Second report here."),
    )  # fmt: skip
    found = items(content)
    assert [item.text for item in found] == [
        "Of the patient.\nFirst report here.\nOf the first.", "Of the order.\nOf the request.\nSecond report here.",
    ]  # fmt: skip
    assert [(item.record, item.note_type) for item in found] == [
        ("1/C1#report.1", "CT chest"),
        ("1/C1#report.2", "MRI"),
    ]


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        ([obx("Positive", "ST")], False),
        ([obx("Not detected.", "TX")], False),
        ([obx("< 0.5 ng/mL", "TX"), obx("5.1", "NM", "K^Potassium^L")], False),
        ([obx("A1^Escherichia coli^L", "CWE")], False),
        ([obx("A1^Escherichia coli^SCT", "ST")], False),
        ([obx("AB12 CD34 EF56 7 8 9 10 11 12", "ST")], False),
        ([obx("E. coli", "ST", "O^Organism^L"), obx("Fluid", "ST", "S^Source^L")], False),
        ([obx("Positive", "ST"), nte("Called to the ward.")], True),
        ([obx("Heart is enlarged", "TX")], True),
        ([obx("Clear", "FT"), obx("Lungs", "FT")], False),
        ([obx("The heart is a little larger than last year", "ST")], True),
        ([obx("The heart is", "ST"), obx("a little larger", "ST"), obx("than last year.", "ST")], True),
        ([obx(r"Heart: large\.br\Lungs: clear", "ST")], True),
        ([obx("Normal.", "ST", "I^Impression^L")], True),
        ([obx("Blood", "ST", "S^Specimen^L")], False),
        ([obx("Positive", "ST"), nte("-----")], False),
        ([obx("^The heart is a little larger than last year", "CWE")], True),
        ([obx("The heart is a little larger than last year", "", "R^^L")], True),
    ],
)
def test_prose_or_result(parts: list[str], note: bool) -> None:
    assert kinds(message(obr(), *parts)) == (["note"] if note else ["HL7 ORU^R01 (results only)"])


def test_results_are_shown_in_a_report_that_is_a_note() -> None:
    parts = [
        obx("7.1", "NM", "K^Potassium^L", unit="mmol/L^millimole^UCUM", limits="3.5-5", flag="HH~A"), obx("^>^100", "SN", "B^Bugs^L"),
        obx("A^Ash~B^Birch", "CWE", "P^Pollen^L"), obx('""', "ST", "E^Empty^L"), obx("Yes", "TX", "^^^Z9^Fasting^L", flag="N"), nte("Hemolysed."),
    ]  # fmt: skip
    expected = "Potassium: 7.1 mmol/L (3.5-5) HH\nBugs: >100\nPollen: Ash, Birch\nFasting: Yes\nHemolysed."
    assert texts(message(obr(), *parts)) == [expected]


def test_a_service_of_imaging_makes_short_text_a_note() -> None:
    assert texts(message(obr(service="RAD"), obx("Normal", "ST"))) == ["Normal"]


@pytest.mark.parametrize(
    ("type", "segments", "expected"),
    [
        ("ADT^A01", [obx("Echocardiographic report")], "Echocardiographic report"),
        ("SIU^S12", ["AIL|1", nte("Bring the old films.")], "Bring the old films."),
        ("VXU^V04", ["ORC|RE", "RXA|0|1|2024", nte("Sore arm last time.")], "Sore arm last time."),
        ("UDM^Q05", ["DSP|1||Discharge letter", "DSP|2||Went home well."], "Discharge letter\nWent home well."),
        ("RDE^O11", ["ORC|NW", "RXE|1", nte(r"Take with food \T\ water.")], "Take with food & water."),
    ],
)
def test_text_in_any_message(type: str, segments: list[str], expected: str) -> None:
    assert texts(message(*segments, header=msh(type))) == [expected]


@pytest.mark.parametrize(
    ("type", "segments", "expected"),
    [
        ("ADT^A04^ADT_A01", [], "HL7 ADT^A04"),
        ("ORM_O01", [obr()], "HL7 ORM^O01 (no text)"),
        ("ORU", [obx("5", "NM")], "HL7 ORU (results only)"),
        ("", [obr()], "HL7 (no type) (no text)"),
        ("secret^words", [], "HL7 (no type)"),
        ("ACK^R01^ACK", ["MSA|AA|1|Nothing to read"], "HL7 ACK^R01"),
    ],
)
def test_what_is_no_note_is_counted_by_its_type(type: str, segments: list[str], expected: str) -> None:
    assert kinds(message(*segments, header=msh(type))) == [expected]


# --- documents (MDM), and what is current ----------------------------------------------------


def txa(
    number: str, parent: str = "", completion: str = "AU", available: str = "AV", type: str = "DS^Discharge summary"
) -> str:
    return f"TXA|1|{type}|TX|20240301||202403020800|202403030800|||||{number}^SYS|{parent}|||file|{completion}||{available}"


def mdm(event: str, *segments: str, id: Any = 1) -> str:
    return message(*segments, header=msh(f"MDM^{event}^MDM_{event}", id))


def test_a_document_is_a_note_whole() -> None:
    content = mdm(
        "T02",
        "ORC|1",
        obr(),
        nte("On the order."),
        "OBR|2|||X^Other^L",
        txa("D1"),
        obx("Alive"),
        obx("Well", "ST", "2^B"),
    )
    (note,) = items(content)
    assert note.text == "On the order.\nReport:\nAlive\nB:\nWell"
    assert (note.note_type, note.note_type_code, note.note_status) == ("Discharge summary", "24627-2", "AU")
    assert note.authored_at_text == "202403020800"
    assert note.authored_at is not None and note.authored_at.isoformat() == "2024-03-02T13:00:00+00:00"


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([obr("X"), obx("It was not done.")], "HL7 ORU^R01 (cancelled)"),
        ([obr("D"), obx("It was not done.")], "HL7 ORU^R01 (deleted)"),
        ([obr("F"), obx("Of another patient.", status="W"), nte("Wrong patient.")], "HL7 ORU^R01 (withdrawn)"),
        ([obr("F"), txa("1", available="OB"), obx("Old news here.")], "HL7 ORU^R01 (obsolete)"),
        ([obr("F"), txa("1", completion="CA"), obx("Old news here.")], "HL7 ORU^R01 (cancelled)"),
    ],
)
def test_what_is_not_current_is_counted(segments: list[str], expected: str) -> None:
    assert kinds(message(*segments)) == [expected]


def test_withdrawn_observations_are_left_out_with_their_comments() -> None:
    parts = [
        obx("First line here."),
        obx("Wrong line here.", status="D"),
        nte("On the wrong line."),
        obx("Last line here.", status="C"),
        nte("Good."),
    ]
    assert texts(message(obr(), *parts)) == ["First line here.\nLast line here.\nGood."]


def test_later_messages_replace_and_cancel_documents_of_the_file() -> None:
    content = "".join([
        mdm("T02", txa("A"), obx("First version."), id=1), mdm("T02", txa("B"), obx("Kept as it is."), id=2),
        mdm("T10", txa("A2", "A^SYS"), obx("Second version."), id=3), mdm("T08", txa("A2"), obx("Second version, edited."), id=4),
        mdm("T02", txa("C"), obx("Not meant to be."), id=5), mdm("T11", txa("C"), id=6),
        mdm("T06", txa("B2", "B"), obx("Addendum to it."), id=7), mdm("T02", txa("D"), obx("Dictated."), id=8),
        mdm("T03", txa("D", available="UN"), id=9), mdm("T02", txa("E", available="UN"), obx("Not yet."), id=10),
    ])  # fmt: skip
    assert [item.text if isinstance(item, Document) else item.kind for item in items(content)] == [
        "HL7 MDM^T02 (superseded)", "Kept as it is.", "HL7 MDM^T10 (superseded)", "Second version, edited.",
        "HL7 MDM^T02 (cancelled)", "HL7 MDM^T11 (cancelled)", "Addendum to it.", "HL7 MDM^T02 (cancelled)",
        "HL7 MDM^T03 (unavailable)", "HL7 MDM^T02 (unavailable)",
    ]  # fmt: skip


def test_two_patients_in_one_message() -> None:
    content = "\r".join(
        [
            msh(),
            "PID|1|E1",
            obr(),
            obx("About the first."),
            "PID|2||E2^^^^SS~E3",
            "PV1|1",
            obr(),
            obx("About the second."),
        ]
    )
    assert [(note.patient_id, note.encounter_id, note.text) for note in items(content)] == [
        ("E1", None, "About the first."), ("E2", None, "About the second."),
    ]  # fmt: skip
    swap = "\r".join([msh("ADT^A17"), "PID|1||E1", obx("About the first."), "PID|2||E2", obx("About the second.")])
    assert [(note.patient_id, note.text) for note in items(swap)] == [
        ("E1", "About the first."),
        ("E2", "About the second."),
    ]


def test_orders_after_their_observation_request() -> None:
    content = message(
        "SPM|1",
        obr(code="A^First^L"),
        "ORC|1",
        nte("One."),
        obx("Two and three."),
        "SPM|2",
        obr(code="B^Second^L"),
        "ORC|2",
        obx("Four and five."),
        header=msh("OUL^R22"),
    )
    assert [(note.note_type, note.text) for note in items(content)] == [
        ("First", "One.\nTwo and three."),
        ("Second", "Four and five."),
    ]


@pytest.mark.parametrize(
    ("segments", "written"),
    [
        (["OBR|1|||A^B|||2024|||||||||||||||20240102"], "20240102"),
        (["OBR|1|||A^B"], "20240305101500-0500"),
        (["OBR|1|||A^B|||20240101^D"], "20240101"),
        (["OBR|1|||A^B", obx("x", "NM", time="20230101")], "20230101"),
    ],
)
def test_the_time_is_the_first_that_is_a_date(segments: list[str], written: str) -> None:
    (note,) = items(message(*segments, nte("Comment.")))
    assert note.authored_at_text == written


# --- embedded documents ----------------------------------------------------------------------


@pytest.fixture
def attachments(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes, str | None, str | None]]:
    """What would become of attachments: their record, bytes, media type and charset."""
    seen: list[tuple[str, bytes, str | None, str | None]] = []

    def attachment(
        self: Reading, record: str, raw: bytes, media: str | None, charset: str | None, **facts: Any
    ) -> Document | Reject:
        seen.append((record, raw, media, charset))
        assert facts["patient_id"] == "4711"
        return self.document(record, f"document {len(seen)}", **facts)

    def other(raw: bytes, name: str, reading: Reading) -> Iterator[Document | Reject]:
        seen.append((name, raw, "other", None))
        yield reading.document(name, f"document {len(seen)}")

    monkeypatch.setattr(Reading, "attachment", attachment)
    monkeypatch.setattr(hl7_embedded, "read_other", other)
    return seen


PDF = b"%PDF-1.4 " + bytes(range(256)) * 2
PDF64 = base64.b64encode(PDF).decode()
HTML64 = base64.b64encode(b"<html><body>Rest &amp; fluids, three times a day</body></html>").decode()


@pytest.mark.parametrize(
    ("value", "raw", "media"),
    [
        (f"^application^pdf^Base64^{PDF64}", PDF, "application/pdf"),
        (f"SYS^AP^PDF^base64^{PDF64}", PDF, "application/pdf"),
        (f"^TEXT^html^Base64^{HTML64}", base64.b64decode(HTML64), "text/html"),
        (f"App5^NS^Octet-stream^Base64^{PDF64}", PDF, "application/pdf"),
        (f"^^application/pdf^^{PDF64}", PDF, "application/pdf"),
        (f"PDF^Base64^{PDF64}", PDF, "application/pdf"),
        (f"PDF^Base64^^{PDF64}", PDF, "application/pdf"),
        (PDF64, PDF, "application/pdf"),
        ("All is well.", b"All is well.", None),
        (r"^TX^^A^Take with food \T\ water.\.br\Daily.", b"Take with food & water.\nDaily.", "text/plain"),
        ("^TEXT^plain^Hex^" + b"Take with food and water.".hex(), b"Take with food and water.", "text/plain"),
        (f"^application^pdf^Base64^{PDF64[:60]}\\X0D0A\\{PDF64[60:]}", PDF, "application/pdf"),
        (f"^application^pdf^Base64^{PDF64[:60]}\n{PDF64[60:]}\n", PDF, "application/pdf"),
        (f"^application^pdf^Base64^{PDF64[:60]}~{PDF64[60:]}", PDF, "application/pdf"),
        ("^TEXT^XML^A^<a>b^c</a> and some more words", b"<a>b^c</a> and some more words", "text/xml"),
    ],
)  # fmt: skip
def test_encapsulated_data(attachments: list[Any], value: str, raw: bytes, media: str) -> None:
    (note,) = items(message(obr(), obx(value, "ED", "D^Letter^L")))
    assert [(record, found, kind) for record, found, kind, _ in attachments] == [("1/C1#report.1/OBX.1", raw, media)]
    assert note.note_type == "CT chest"


def test_a_document_in_pieces_is_put_together(attachments: list[Any]) -> None:
    pieces = [obx(f"^AP^PDF^Base64^{PDF64[at : at + 100]}", "ED", "D^Letter^L") for at in range(0, len(PDF64), 100)]
    whole = obx(f"^AP^PDF^Base64^{PDF64}", "ED", "D^Letter^L")
    content = message(obr(), obx("See the letter."), *pieces, whole, obx(f"^AP^PDF^Base64^{PDF64}", "ED", "E^Other^L"))
    assert kinds(content) == ["note"] * 4
    assert [raw for _, raw, _, _ in attachments] == [PDF] * 3
    places = [2, 2 + len(pieces), 3 + len(pieces)]
    assert [record for record, *_ in attachments] == [f"1/C1#report.1/OBX.{place}" for place in places]


def test_pieces_that_were_encoded_each(attachments: list[Any]) -> None:
    pieces = [base64.b64encode(PDF[at : at + 100]).decode() for at in range(0, len(PDF), 100)]
    items(message(obr(), *(obx(f"^AP^PDF^Base64^{piece}", "ED") for piece in pieces)))
    assert [raw for _, raw, _, _ in attachments] == [PDF]


@pytest.mark.parametrize(
    ("lines", "media", "raw"),
    [
        ([PDF64], "application/pdf", PDF),
        ([PDF64[:200], PDF64[200:]], "application/pdf", PDF),
        ([r"{\E\rtf1\E\ansi Lungs are", r"clear.\E\par}"], "text/rtf", b"{\\rtf1\\ansi Lungs are\nclear.\\par}"),
        (["<html><body>Lungs are", "clear.</body></html>"], "text/html", b"<html><body>Lungs are\nclear.</body></html>"),
    ],
)  # fmt: skip
def test_documents_in_text(attachments: list[Any], lines: list[str], media: str, raw: bytes) -> None:
    assert kinds(message(obr(), *map(obx, lines))) == ["note"]
    assert [(found, kind) for _, found, kind, _ in attachments] == [(raw, media)]


def test_text_that_only_looks_like_a_document() -> None:
    assert texts(message(obr(), obx("<5 cells seen in the field"), obx("The plan: <b> is no tag"))) == [
        "<5 cells seen in the field\nThe plan: <b> is no tag"
    ]


def test_cda_documents_go_to_their_reader(attachments: list[Any]) -> None:
    cda = '<?xml version="1.0" encoding="utf-16"?><ClinicalDocument>né</ClinicalDocument>'
    package = f"MIME-Version: 1.0\\X0D0A\\Content-Type: multipart/related; boundary=b\\X0D0A0D0A\\--b\\X0D0A\\Content-Type: text/xml\\X0D0A0D0A\\{cda}\\X0D0A\\--b\\X0D0A\\Content-Type: text/plain\\X0D0A0D0A\\A stylesheet\\X0D0A\\--b--"
    items(message(obr(), obx(f"^TEXT^XML^A^{cda}", "ED"), obx(f"^multipart^related^A^{package}", "ED", "P^P")))
    assert [(name, media) for name, _, media, _ in attachments] == [
        ("1/C1#report.1/OBX.1.xml", "other"), ("1/C1#report.1/OBX.2/part.1.xml", "other"), ("1/C1#report.1/OBX.2/part.2", "text/plain"),
    ]  # fmt: skip
    assert attachments[0][1] == cda.replace(' encoding="utf-16"', "").encode()
    assert attachments[2][1] == b"A stylesheet"


@pytest.mark.parametrize(
    ("value", "type", "code"),
    [
        ("^application^pdf^Base64^", "ED", "TEXT_MISSING"),
        ("App5^NS^Octet-stream^Base64", "ED", "TEXT_MISSING"),
        (f"^application^pdf^Base64^{PDF64[:-3]}", "ED", "BASE64_INVALID"),
        ("^TEXT^plain^Hex^0g1234567890123456789012345", "ED", "RECORD_INVALID"),
        ("http://127.0.0.1/x.pdf^^AP^PDF", "RP", "ATTACHMENT_UNRESOLVED"),
        ("file:///etc/passwd^^TEXT^plain", "RP", "ATTACHMENT_UNRESOLVED"),
        ("/etc/passwd^^TEXT^plain", "RP", "ATTACHMENT_UNRESOLVED"),
        ("../../../../etc/passwd", "RP", "ATTACHMENT_UNRESOLVED"),
    ],
)
def test_documents_that_cannot_be_had(value: str, type: str, code: str) -> None:
    found = items(message(obr(), obx("See the letter."), obx(value, type, "D^Letter^L")))
    assert isinstance(found[0], Document) and found[0].text == "See the letter."
    assert [(item.record, item.code) for item in found[1:]] == [("1/C1#report.1/OBX.2", code)]


def test_references_are_resolved_inside_the_input(tmp_path: Path) -> None:
    from medpipe.ingest.inputs import Inputs

    (tmp_path / "letter.txt").write_text("Dear colleague, all is well.")
    (tmp_path / "a.hl7").write_text(
        message(obr(), obx(r"\E\\E\share\E\out\E\letter.txt^^TEXT^plain", "RP"), obx("gone.txt", "RP", "2"))
    )
    sources = [Source(tmp_path / name, name) for name in ("a.hl7", "letter.txt")]
    found = list(read_source(sources[0], max_note_chars=1000, inputs=Inputs(sources)))
    assert found[0].text == "Dear colleague, all is well."
    assert found[1].code == "ATTACHMENT_UNRESOLVED"


# --- how it is written -----------------------------------------------------------------------

LINES = ["Line one is here.", "Line two is here."]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\n\n", "\r\r\n", "\r\n\r\n", "\x1c\r", "\n\r"])
def test_any_line_ends(end: str) -> None:
    one = message(obr(), *map(obx, LINES), end=end)
    assert texts(one + one) == ["\n".join(LINES)] * 2


@pytest.mark.parametrize("start", ["", "\ufeff", "\x0b", "\r\n", " ", "\x0b\ufeff", "\n\t"])
@pytest.mark.parametrize("stop", ["", "\x1c\r", "\x1c", "\n\n", "\x1a"])
def test_bytes_around_messages(start: str, stop: str) -> None:
    one = start + message(obr(), *map(obx, LINES)) + stop
    assert texts(one + one) == ["\n".join(LINES)] * 2


def test_mixed_line_ends_also_inside_a_field() -> None:
    content = (
        message(obr()).replace("\rPID", "\r\nPID")
        + "OBX|1|TX|R^R||Line one.\n\nLine three,\r\nTSH high|||||F\n  nte|1||A comment.\n"
    )
    assert texts(content) == ["Line one.\n\nLine three,\nTSH high\nA comment."]


def test_batches_are_only_around_messages() -> None:
    one = message(obr(), *map(obx, LINES))
    content = f"FHS|^~\\&|A\rBHS|^~\\&|A\r{one}{one}BTS|2\rBHS|^~\\&\r{one}BTS|1\rFTS|2\r"
    assert texts(content) == ["\n".join(LINES)] * 3
    assert [item.record for item in items(content)] == [f"{n}/C1#report.1" for n in (1, 2, 3)]


def test_continued_segments_and_messages() -> None:
    first = "\r".join([msh(id=1), PID, obr(), "OBX|1|TX|R^R||The lungs are cle", "DSC|P7|F"])
    second = "\r".join([msh(id=2) + "|", "ADD|ar. The heart ", "ADD|is small.||||||F", obx("The end of it."), ""])
    second = second.replace("|2.5.1||||", "|2.5.1||P7||")
    assert texts(f"{first}\r{second}{message(obr(), obx('Another one here.'))}") == [
        "The lungs are clear. The heart is small.\nR:\nThe end of it.".replace("R:\n", "Report:\n").replace("The lungs", "R:\nThe lungs"),
        "Another one here.",
    ]  # fmt: skip
    assert texts(f"{first}\r{message(obr(), obx('Another one here.'))}") == ["The lungs are cle", "Another one here."]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("^~\\&", "a & b ^ c ~ d"), ("^~\\&#", "a & b ^ c ~ d"), ("^~\\\\&", "a & b ^ c ~ d"), ("^~\\", "a & b ^ c ~ d"),
        ("", "a & b ^ c ~ d"), ("^~\\&amp;", "a & b ^ c ~ d"), ("^^^^", "a & b ^ c ~ d"),
    ],
)  # fmt: skip
def test_odd_encoding_characters(written: str, text: str) -> None:
    content = message(obr(), obx(r"a \T\ b \S\ c \R\ d")).replace("^~\\&", written)
    assert texts(content) == [text]


def test_other_separators() -> None:
    content = message(obr(), obx("a ~ b is a ratio")).translate(str.maketrans("|^~\\&", "$%*@!"))
    assert texts(content.replace("a * b", "a @R@ b*c@F@")) == ["a * b\nc$ is a ratio"]
    assert separators("") == separators("^~\\&") == ("^", "~", "\\", "&")


def test_messages_as_strings_of_a_program() -> None:
    content = message(obr(), obx(r"One.\.br\Two \T\ three.")).replace("\\", "\\\\").rstrip("\r").replace("\r", "\\r")
    assert texts(content) == ["One.\nTwo & three."]
    assert texts(message(obr(), nte("Comment.") + r"|\r", end="\n")) == ["Comment."]


MESSAGE = parse_message((msh() + "\r").encode())
assert isinstance(MESSAGE, Message)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"\F\\S\\T\\R\\E\\P\ ", "|^&~\\# "),
        (r"a\.br\b\.sp\c\.sp2\d\.SP+2\e", "a\nb\nc\n\nd\n\ne"),
        (r"\.in4\a\.ti+2\b\.sk3\c\.ce\d\.fi\e\.nf\f", "    a  b   c\ndef"),
        (r"\H\bold\N\ plain", "bold plain"),
        (r"\X0D0A\a\XC3A9\b\XC3\\XA9\c\XE9\d", "\r\naébécéd"),
        (r"\Z99\ \Q\ \.xy\ \X4\ \X4G\ C:\dir\sub \unclosed", r"\Z99\ \Q\ \.xy\ \X4\ \X4G\ C:\dir\sub \unclosed"),
        (r"\E\.br\E\ ", r"\.br\ "),
        ("a\\", "a\\"),
        (r"\C2842\plain", "plain"),
        ("\\M2442\\F|K\\\\\\C2842\\ ok".replace("F|K\\\\", "F|"), "日 ok"),
    ],
)  # fmt: skip
def test_escape_sequences(written: str, text: str) -> None:
    assert isinstance(MESSAGE, Message)
    assert unescape(written, MESSAGE) == text


@pytest.mark.parametrize(
    ("charset", "codec", "text", "encoding"),
    [
        ("UNICODE UTF-8", "utf-8", "Fièvre à 39 °C", "utf-8"),
        ("8859/1", "latin-1", "Fièvre à 39 °C", "iso-8859-1"),
        ("8859/1", "cp1252", "Fièvre – 39 °C", "windows-1252"),
        ("8859/1", "utf-8", "Fièvre à 39 °C", "utf-8"),
        ("8859/2", "iso8859-2", "Gorączka od tygodnia", "iso-8859-2"),
        ("8859/5", "iso8859-5", "Температура выше нормы", "iso-8859-5"),
        ("8859/15", "iso8859-15", "Coût de 5 €", "iso-8859-15"),
        ("ASCII", "utf-8", "Fièvre à 39 °C", "utf-8"),
        ("ASCII", "cp1252", "Fièvre – 39 °C", "windows-1252"),
        ("", "cp1252", "Fièvre – 39 °C", "windows-1252"),
        ("UNICODE UTF-16", "utf-8", "Fièvre à 39 °C", "utf-8"),
        ("no such set", "utf-8", "Fièvre à 39 °C", "utf-8"),
        ("ASCII~ISO IR87", "iso2022_jp", "胸部CT は正常", "iso-2022-jp-2"),
        ("ISO IR14~ISO IR87", "shift_jis", "ハイ スキャン", "shift-jis"),
        ("GB 18030-2000", "gb18030", "肺 部 清晰", "gb18030"),
        ("BIG-5", "big5", "肺 部 清 晰", "big5hkscs"),
        ("GB 18030-2000", "utf-8", "肺 部 清晰", "utf-8"),
        ("", "iso2022_jp", "胸部CT は正常", "iso-2022-jp-2"),
        ("KS X 1001", "euc_kr", "폐는 깨끗합니다", "windows-949"),
    ],
)
def test_character_sets(charset: str, codec: str, text: str, encoding: str) -> None:
    content = message(obr(), obx(text), obx("And more of it."), header=msh(charset=charset)).encode(codec)
    (note,) = items(content)
    assert (note.text, note.encoding) == (f"{text}\nAnd more of it.", standard_name(encoding))


def test_names_of_character_sets() -> None:
    assert charsets("8859/9~ISO-8859-9~windows-1254~utf8~UNICODE~rot13~8859/12") == (
        "iso8859-9",
        "iso8859-9",
        "cp1254",
        "utf-8",
    )


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings(codec: str) -> None:
    content = message(obr(), obx("Fièvre à 39 °C"), header=msh(charset="UNICODE UTF-16"))
    (first, second) = items((content + content).encode(codec))
    assert first.text == second.text == "Fièvre à 39 °C"
    assert first.encoding == standard_name(codec)


def test_broken_wide_encoding_is_refused() -> None:
    content = message(obr(), obx("Fièvre à 39 °C")).encode("utf-16") + b"\x00\xd8\x00\xd8\x00"
    assert "TEXT_UNDECODABLE" in kinds(content)


def test_each_message_has_its_own_encoding() -> None:
    good = message(obr(), obx("All is well here.")).encode()
    bad = message(obr(), obx("All is \x81 here.")).encode("latin-1")
    assert kinds(good + bad + good) == ["note", "note", "note"]
    first, second = items(good + bad)
    assert first.encoding == "us-ascii" and second.encoding == "ibm850" and "ü" in second.text
    bad_page = message(obr(), obx("Температура выше нормы, кашель.")).encode("cp1251")
    assert kinds(good + bad_page + good) == ["note", "TEXT_UNDECODABLE", "note"]


# --- files ----------------------------------------------------------------------------------


def test_records_have_names_of_their_own() -> None:
    one = message(obr(), obx("All is well here."), obr(), obx("And here as well."))
    found = items(one + one + message(header=msh(id="")) + one.replace("|C1|", "|a b/7#|"))
    names = [item.record for item in found if not isinstance(item, Skipped)]
    assert names[:4] == ["1/C1#report.1", "1/C1#report.2", "2/C1#report.1", "2/C1#report.2"] and len(set(names)) == len(
        names
    )
    assert names[-1].startswith("4/a_b_7_#")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{PID}\r{obr()}\r{obx('No header here.')}\r", ["HL7_INVALID"]),
        ("BHS|^~\\&|A\rPID|1||5\rOBX|1|TX|||No header here.\rBTS|1", ["HL7_INVALID"]),
        ("Exported on Monday\n" + message(obr(), obx("All is well here.")), ["HL7_INVALID", "note"]),
        ("2024-03-05 RECEIVED " + message(obr(), obx("All is well here.")), ["note"]),
        ("MSH|^~\\&|", ["HL7_INVALID"]),
        ("FHS|^~\\&|A\rFTS|0", ["HL7_INVALID"]),
    ],
)
def test_what_is_no_message_is_refused(content: str, expected: list[str]) -> None:
    assert kinds(content) == expected


def test_messages_behind_what_a_log_writes_or_without_a_line_end() -> None:
    one = message(obr(), nte("Comment.")).rstrip("\r")
    assert texts(f"10:15 IN {one}\n10:16 IN {one}{one}\r") == ["Comment."] * 3


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "MSH|^~\\&|A", "hl7v2"), ("a", "\x0bMSH|^~\\&|A", "hl7v2"), ("a.csv", "\ufeffFHS|^~\\&|", "hl7v2"),
        ("a.dat", "MSH#%*@!#A", "hl7v2"), ("a.txt", "log 1\nlog 2 MSH|^~\\&|A|B", "hl7v2"), ("a.txt", "PID|1||5\rOBX|1|TX|||text", "hl7v2"),
        ("a.hl7", "nothing of it", "hl7v2"), ("a.txt", "MSH is short for nothing", "text"), ("a.txt", "PID: see below\nOBX: none", "text"),
    ],
)  # fmt: skip
def test_messages_are_known_by_their_content(name: str, content: str, expected: str) -> None:
    assert sniff(bytes_content(name, content.encode())) == expected


def test_messages_that_are_too_large_are_refused_and_the_next_are_read() -> None:
    small = message(obr(), obx("All is well here."))
    content = small + message(obr(), obx("x " * 2_000_000)) + small
    assert kinds(content, max_file_bytes=1 << 20) == ["note", "SOURCE_TOO_LARGE", "note"]
    assert kinds(content, max_note_chars=100) == ["note", "TEXT_TOO_LARGE", "note"]


class Small(io.RawIOBase):
    """A stream that gives few bytes at a time."""

    def __init__(self, raw: bytes, size: int) -> None:
        self.inner, self.most = io.BytesIO(raw), size

    def read(self, size: int = -1) -> bytes:
        return self.inner.read(self.most)


@given(
    st.lists(
        st.sampled_from(
            ["MSH|^~\\&|A", "PID|1", "MSH|x", "BHS|^", "junk", " ", "\r", "\n", "\x0b", "\x1c", "MS", "H|^~\\&"]
        ),
        max_size=30,
    ),
    st.integers(1, 9),
)
def test_messages_do_not_depend_on_how_the_stream_is_cut(parts: list[str], size: int) -> None:
    raw = "".join(parts).encode()
    whole = list(split_messages(io.BytesIO(raw), 1 << 20))
    assert list(split_messages(Small(raw, size), 1 << 20)) == whole
    kept = b"".join(part for part in whole if part)
    assert sum(map(len, whole)) <= len(raw) and kept.count(b"MSH|^~\\&|A") == raw.count(b"MSH|^~\\&|A")


def test_a_bug_costs_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from medpipe.ingest.hl7 import reader as hl7v2

    real = hl7v2.split_reports

    def broken(message: Message, by_document: bool) -> Any:
        if message.header[10] == "C2":
            raise KeyError("note text")
        return real(message, by_document)

    monkeypatch.setattr(hl7v2, "split_reports", broken)
    content = "".join(message(obr(), obx("All is well here."), header=msh(id=number)) for number in (1, 2, 3))
    found = items(content)
    assert [type(item).__name__ for item in found] == ["Document", "Reject", "Document"]
    assert (found[1].record, found[1].code) == ("2/C2", "STAGE_FAILED") and "note text" not in found[1].message


def test_no_reject_and_no_kind_holds_text() -> None:
    canary = "CANARY7391"
    bad = [
        f"{canary}\r", message(obr(), obx(canary, "ED"), obx(canary, "RP", "2")), message(header=msh(canary)), message(obr(), obx(f"^a^b^Base64^{canary}!{canary}{canary}", "ED")),
        message(header=f"MSH|^~\\&|{canary}"), message(obr(canary), obx("5", "NM")), message("OBX|1|" + canary),
    ]  # fmt: skip
    for content in bad:
        found = [item for item in items(content) if not isinstance(item, Document)]
        assert found and canary not in repr(found)


SEGMENT = st.one_of(
    st.sampled_from(
        [
            msh(),
            msh("MDM^T02"),
            msh("MDM^T10"),
            PID,
            PV1,
            obr(),
            obr("X"),
            txa("A"),
            txa("B", "A"),
            "ORC|1",
            "DSC|P|F",
            "ADD|x",
            "BHS|^~\\&",
            "MSH|",
            "MSH",
        ]
    ),
    st.builds(obx, st.text(max_size=30), st.sampled_from(["TX", "FT", "ST", "ED", "RP", "CWE", "NM", "SN", "", "X^Y"])),
    st.builds(nte, st.text(max_size=30)),
    st.text(max_size=20),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(SEGMENT, max_size=15),
    st.sampled_from(["\r", "\n", "\r\n", ""]),
    st.sampled_from(["utf-8", "utf-16", "cp1252"]),
)
def test_any_segments_give_items_with_names_of_their_own(segments: list[str], end: str, codec: str) -> None:
    raw = end.join(segments).encode(codec, "replace")
    found = list(read_content(bytes_content("a", raw), Reading("a", "hl7v2", 1000), "hl7v2"))
    assert found and all(isinstance(item, Document | Reject | Skipped) for item in found)
    assert not any(isinstance(item, Reject) and item.code == "STAGE_FAILED" for item in found)
    names = [item.record for item in found if not isinstance(item, Skipped)]
    assert len(set(names)) == len(names)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=60), min_size=1, max_size=6
    )
)
def test_text_comes_back_as_it_was_escaped(lines: list[str]) -> None:
    def escaped(line: str) -> str:
        marks = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
        return "".join(marks.get(letter, letter) for letter in line)

    lines = [f"The report: {line}." for line in lines]
    assert texts(message(obr(), *(obx(escaped(line)) for line in lines), header=msh(charset="UNICODE UTF-8"))) == [
        "\n".join(lines)
    ]
    assert texts(message(obr(), obx("~".join(map(escaped, lines))), header=msh(charset="UNICODE UTF-8"))) == [
        "\n".join(lines)
    ]
    assert texts(message(obr(), obx("\\.br\\".join(map(escaped, lines))), header=msh(charset="UNICODE UTF-8"))) == [
        "\n".join(lines)
    ]


def test_memory_does_not_grow_with_the_file() -> None:
    import tracemalloc

    one = message(obr(), *(obx(f"Line {number} of the report.") for number in range(20))).encode()

    class Endless(io.RawIOBase):
        left = 40_000_000

        def read(self, size: int = -1) -> bytes:
            size = min(size, self.left) // len(one) * len(one)
            self.left -= size
            return one * (size // len(one))

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

    tracemalloc.start()
    seen = sum(1 for _ in split_messages(Endless(), 1 << 28))
    assert seen > 10_000 and tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


# --- the real files -------------------------------------------------------------------------


@pytest.mark.corpora
def test_real_files_are_accounted_for(ehr: Path) -> None:
    files = [path for path in sorted((ehr / "hl7v2").glob("*/*")) if path.is_file()]
    seen: dict[str, int] = {}
    for path in files:
        found = list(read_source(Source(path, path.name), max_note_chars=5_000_000))
        assert found, path
        for item in found:
            code = item.code if isinstance(item, Reject) else type(item).__name__
            seen[code] = seen.get(code, 0) + 1
            assert code not in ("STAGE_FAILED", "FORMAT_UNKNOWN"), path
            if isinstance(item, Document):
                assert item.format == "hl7v2" or "!" in item.record
    assert seen["Document"] > 600 and seen["Skipped"] > 700
