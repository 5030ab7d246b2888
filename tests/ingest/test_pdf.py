"""PDF: what a person sees on the page, in order, once; and no file hangs or fills the machine."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from medpipe.ingest.bodies.pdf import read_pdf
from tests.ingest.pdfs import bomb, lines, pdf, show, stream

LIMIT = 1_000_000


def text_of(raw: bytes) -> str:
    text, code, kind = read_pdf(raw, LIMIT)
    assert code is None, (code, kind)
    return text


def test_pages_lines_and_paragraphs() -> None:
    first = lines("Discharge summary\nShe has a non-\nproductive cough – 38.5 °C.\n\nPlan: rest.")
    assert text_of(pdf([first, lines("Page two.")])) == (
        "Discharge summary\nShe has a non-\nproductive cough – 38.5 °C.\n\nPlan: rest.\n\nPage two."
    )


def test_order_of_drawing_does_not_matter() -> None:
    page = show((72, 600, "last"), (72, 700, "fi"), (150, 650, "138"), (72, 650, "Na"), (77, 700, "rst"))
    assert text_of(pdf([page])) == "first\nNa  138\nlast"


def test_what_is_printed_over_itself_is_read_once() -> None:
    bold = show((72, 700, "Allergies: penicillin"), (72.3, 700, "Allergies: penicillin"))
    assert text_of(pdf([bold])) == "Allergies: penicillin"


def test_tables_are_read_by_rows_and_columns_of_text_one_after_the_other() -> None:
    left = [f"left column line {n} of running text" for n in range(6)]
    right = [f"right column line {n} of running text" for n in range(6)]
    places = [(72, 700 - 14 * n, line) for n, line in enumerate(left)]
    places += [(330, 700 - 14 * n, line) for n, line in enumerate(right)]
    assert text_of(pdf([show(*places)])) == "\n".join(left) + "\n\n" + "\n".join(right)
    by_rows = [place for row in zip(places[:6], places[6:], strict=True) for place in row]
    assert text_of(pdf([show(*by_rows)])).startswith("left column line 0 of running text  right column line 0")


def test_letter_spacing_parts_no_words() -> None:
    page = b"BT /F1 10 Tf 3 Tc 72 700 Td (REPORT) Tj ET"
    assert text_of(pdf([page])) == "REPORT"


def test_raised_letters_stay_in_their_line() -> None:
    page = b"BT /F1 10 Tf 72 700 Td (10) Tj 6 Tf 4 Ts (9) Tj 0 Ts 10 Tf (/L) Tj 0 -14 Td (below) Tj ET"
    assert text_of(pdf([page])) == "109/L\nbelow"


def test_turned_pages_and_text_at_the_side() -> None:
    page = show((72, 700, "upright text of the note")) + b" BT /F1 10 Tf 0 1 -1 0 30 100 Tm (at the side) Tj ET"
    assert text_of(pdf([page])) == "upright text of the note\n\nat the side"
    assert text_of(pdf([page], page=b"/Rotate 90")) == "upright text of the note\n\nat the side"


def test_form_fields_and_typed_annotations_are_seen() -> None:
    look = b"/Type /XObject /Subtype /Form /BBox [0 0 100 20] /Resources << /Font << /F1 3 0 R >> >>"
    fields = [
        b"<< /Subtype /Widget /Rect [200 690 300 710] /AP << /N 4 0 R >> >>",
        b"<< /Subtype /Widget /Rect [200 640 300 660] /F 2 /AP << /N 5 0 R >> >>",
        b"<< /Subtype /Link /Rect [0 0 9 9] >>",
    ]
    more = [stream(b"BT /F1 10 Tf 2 10 Td (Jane Doe) Tj ET", look), stream(b"BT /F1 10 Tf (hidden) Tj ET", look)]
    raw = pdf([show((72, 700, "Name of the patient:"))], *more, page=b"/Annots [%s]" % b" ".join(fields))
    assert text_of(raw) == "Name of the patient:  Jane Doe"


def test_a_user_password_is_needed_or_not() -> None:
    page = lines("Kept from printing only.")
    assert text_of(pdf([page], password="")) == "Kept from printing only."
    assert read_pdf(pdf([page], password="secret"), LIMIT)[1] == "PDF_ENCRYPTED"


def test_scans_need_ocr() -> None:
    image = stream(
        b"\0", b"/Type /XObject /Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace /DeviceGray"
    )
    drawn = b"q 612 0 0 792 0 0 cm /Im Do Q "
    resources = b"/XObject << /Im 4 0 R >>"
    assert read_pdf(pdf([drawn], image, resources=resources), LIMIT)[1] == "OCR_NEEDED"
    stamped = drawn + show((72, 20, "Scanned 01/30/2026 page 1"))
    assert read_pdf(pdf([stamped], image, resources=resources), LIMIT)[1] == "OCR_NEEDED"
    with_layer = drawn + lines("\n".join(f"Line {n} of a text layer behind the scan." for n in range(20)))
    assert text_of(pdf([with_layer], image, resources=resources)).startswith("Line 0 of a text layer")
    assert read_pdf(pdf([b"0 0 m 100 100 l S"]), LIMIT)[1] == "OCR_NEEDED"


def test_fonts_that_name_no_characters_need_ocr() -> None:
    inner = b"<< /Type /Font /Subtype /CIDFontType2 /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) >> >>"
    font = b"<< /Type /Font /Subtype /Type0 /Encoding /Identity-H /DescendantFonts [%s] >>" % inner
    raw = pdf([b"BT /F2 10 Tf 72 700 Td (ABABABAB) Tj ET"], font, resources=b"/Font << /F2 4 0 R >>")
    assert read_pdf(raw, LIMIT)[1] == "OCR_NEEDED"


@pytest.mark.parametrize("raw", [b"%PDF-1.7", b"%PDF-1.4\n%%EOF", pdf([])])
def test_broken_files_have_a_code(raw: bytes) -> None:
    text, code, kind = read_pdf(raw, LIMIT)
    assert (text, code) == ("", "PDF_INVALID") and kind


def test_a_file_with_a_wrong_table_of_objects_is_read_one_that_breaks_off_is_not() -> None:
    raw = pdf([lines("Moved on its way.")])
    assert text_of(b"\r\n\r\n" + raw + b"\0\0\0") == "Moved on its way."
    assert read_pdf(raw[: raw.rindex(b"trailer")], LIMIT)[1] == "PDF_INVALID"


def test_a_form_that_draws_forms_ends_and_the_next_file_is_read() -> None:
    levels = 14
    look = (
        b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /Font << /F1 3 0 R >> /XObject << /X %d 0 R >> >>"
    )
    forms = [stream(b"/X Do " * 9, look % (5 + level)) for level in range(levels)]
    forms.append(stream(b"BT /F1 10 Tf (x) Tj ET", b"/Type /XObject /Subtype /Form /BBox [0 0 9 9]"))
    started = time.perf_counter()
    text, code, kind = read_pdf(pdf([b"/X Do"], *forms, resources=b"/XObject << /X 4 0 R >>"), LIMIT, 0)
    assert (text, code, kind) == ("", "PDF_INVALID", "it takes too long")
    assert time.perf_counter() - started < 30  # on a busy machine; a second or two of processor time
    assert text_of(pdf([lines("The next note.")])) == "The next note."


def test_what_unpacks_to_gigabytes_is_refused() -> None:
    raw = pdf([b""], stream(bomb(2000), b"/Filter /FlateDecode"), page=b"/Contents 4 0 R")
    raw = raw.replace(b"/Contents 6 0 R /Contents 4 0 R", b"/Contents 4 0 R                ")
    text, code, kind = read_pdf(raw, LIMIT, 0)
    assert (text, code) == ("", "PDF_INVALID") and kind in ("it takes too much memory", "it takes too long")


def test_more_pages_than_wanted_are_not_read() -> None:
    text, code, _ = read_pdf(pdf([lines("One page of some words.")] * 50), 100)
    assert code is None and 100 < len(text) < 200


def test_mutated_files_end_as_text_or_code() -> None:
    chance = random.Random(5)
    raw = pdf([lines("Cough and fever."), show((72, 700, "Plan"))], password="")
    for _ in range(60):
        broken = bytearray(raw)
        for _ in range(chance.choice((1, 3, 20))):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        del broken[chance.randrange(len(broken) // 2, len(broken)) :]
        text, code, _ = read_pdf(bytes(broken), LIMIT)
        assert (code is None) != (not text) or code is None


@pytest.mark.corpora
def test_a_real_report_has_its_words_in_order(ehr: Path) -> None:
    text = text_of((ehr / "text" / "google_simhospital" / "note1.pdf").read_bytes())
    assert len(text) == 941 and text.count("\n1. ") == 1 and text.index("\n3. ") < text.index("\n4. ")
