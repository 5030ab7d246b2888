"""RTF as a person reads it in a word processor."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.bodies.rtf import NotRtfError, read_rtf


def text_of(body: bytes | str, head: bytes = b"\\rtf1\\ansi") -> str:
    raw = body if isinstance(body, bytes) else body.encode("ascii")
    return read_rtf(b"{" + head + b" " + raw + b"}")[0]


FONTS = r"{\fonttbl{\f0\fswiss\fcharset0 Arial;}{\f1\fcharset204 Arial Cyr;}{\f2\fcharset128 MS Gothic;}{\f3\fcharset2 Symbol;}{\f4\fcharset2 Wingdings;}{\f5\cpg437 Terminal;}}"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"Rest \b and\b0  fluids.\par Then\line go.\par", "Rest and fluids.\nThen\ngo."),
        ("one\\\ntwo\\'a0mg\\\n\\\nfour", "one\ntwo\xa0mg\n\nfour"),  # as Cocoa writes
        ("a\\tab\r\nb\r\nc\\par\r\nd", "a\tbc\nd"),
        (r"caf\'e9 \'93q\'94 \emdash\endash\bullet\lquote x\rquote\~y\_z co\-operate \{\}\\", "café “q” —–•‘x’\xa0y‑z cooperate {}\\"),
        (r"\u8217?s \u-10179?\u-8704? \uc2\u12354\'82\'a0 {\uc0\u181 g} {\uc3\u945 abc}d \u65?", "’s 😀 あ µg αd A"),
        (r"\u55357?x", "\ufffdx"),
        (FONTS + r"\f1\'cf\'f0\f0  caf\'e9 \f2\'82\'a0\'83\\ \f5\'81\f0", "Пр café あソ ü"),
        (FONTS + r"\f3 m\f0 g, \u-3913? {\f3\'b3}5, {\f4\'fc} {\f4 x}{\plain m}", "μg, • ≥5, ✓ ☒m"),
        (r"{\listtext\f3\'b7\tab}one\par{\pntext 2.\tab}{\*\pn{\pntxtb no}}two", "·\tone\n2.\ttwo"),
        (r"see {\field{\*\fldinst HYPERLINK \\l x}{\fldrslt the plan}} page {\field{\*\fldinst PAGE}{\fldrslt 2}}", "see the plan page 2"),
        (
            r"{\field{\*\fldinst FORMCHECKBOX {\*\formfield{\fftype1\ffres1}}}{\fldrslt }} fever "
            r"{\field{\*\fldinst FORMCHECKBOX {\*\formfield{\fftype1\ffres25\ffdefres0}}}{\fldrslt }} cough",
            "[x] fever [ ] cough",
        ),
        (r"a{\pict\wmetafile8 0102ffee}{\*\shppict{\pict\pngblip 00}}{\nonshppict{\pict 01}}b{\object{\*\objdata 01}{\result c}}", "abc"),
        (r"kept {\deleted gone}{\v hidden}\v also\v0{\revised new}{\*\annotation no}{\*\unknown no}{\xe no}{\*\bkmkstart x}", "kept new"),
        (r"a{\shp{\*\shpinst{\sp{\sn n}{\sv 1}}{\shptxt In a box.\par}}{\shprslt twice}}b", "a\nIn a box.\nb"),
        (r"{\upr{ansi}{\*\ud{\u945?lpha}}} z", "αlpha z"),
        (r"{\info{\title no}}{\stylesheet{\s0 no;}{\*\cs1 no;}}{\colortbl;\red0;}{\*\generator no;}x", "x"),
        (
            r"Before\par\trowd\cellx1\cellx2\cellx3\intbl\cell Day\cell\cell\row\trowd\intbl Na\cell 138\par low\cell\cell\row"
            r"\trowd\intbl K\cell\cell stop\cell\trowd\cellx1\row\pard After\par",
            "Before\n| Day\nNa | 138\nlow\nK |  | stop\nAfter",
        ),
        (
            r"\trowd\intbl\itap2 4.1\nestcell fasting\nestcell{\*\nesttableprops\trowd\nestrow}{\nonesttables\par}\itap1\cell x\cell\row",
            "4.1 | fasting | x",
        ),
        (
            r"{\header Jane Doe\par}{\headerf Jane Doe\par}{\footer Page \chpgn\par}Body{\footnote a note} end\par",
            "Jane Doe\n\nBody end\n\na note\n\nPage",
        ),
        (r"\*\b one", "one"),
    ],
)  # fmt: skip
def test_what_a_person_reads(body: str, text: str) -> None:
    assert text_of(body) == text


@pytest.mark.parametrize(
    ("head", "body", "text", "encoding"),
    [
        (b"\\rtf1\\mac", b"caf\\'8e", "café", "macintosh"),
        (b"\\rtf1\\pca", b"gr\\'81n", "grün", "ibm850"),
        (b"\\rtf1\\ansi\\ansicpg1251", b"\\'cf\\'f0", "Пр", "windows-1251"),
        (b"\\rtf1\\ansi\\ansicpg932", b"\\'82a\\'82\\'a0", "Ｂあ", "windows-31j"),
        (b"\\rtf1\\ansi\\ansicpg65001", b"\\'c3\\'a9", "é", "utf-8"),
        (b"\\rtf1\\ansi\\ansicpg99999", b"\\'e9\\'81", "é\x81", "windows-1252"),
        (b"\\rtf1\\ansi", "naïve – \\'e9".encode(), "naïve – é", "windows-1252"),  # came through JSON or XML as UTF-8
        (b"\\rtf1\\ansi", b"na\xefve", "naïve", "windows-1252"),
    ],
)
def test_code_pages(head: bytes, body: bytes, text: str, encoding: str) -> None:
    assert read_rtf(b"{" + head + b" " + body + b"}") == (text, encoding)


def test_binary_data_is_passed_over() -> None:
    assert text_of(b"a{\\pict\\bin6 }{\\x}}}b\\bin3 }}}c\\u8217\\bin1 }d") == "abc’d"


def test_ends() -> None:
    assert read_rtf(b" \r\n{\\rtf1 one\\par}\x00\x00 behind the end")[0] == "one"
    assert read_rtf(b"{\\rtf1 one\\par}\r\n{\\rtf1 two\\par}")[0] == "one\n\ntwo"
    assert read_rtf(b"{\\rtf1 one {\\b two \\'e")[0].startswith("one two")
    for raw in (b"plain", b"{\\rtf1{\\fonttbl{\\f0 Ar", b"x{\\rtf1 y}"):
        with pytest.raises(NotRtfError):
            read_rtf(raw)


@pytest.mark.parametrize(
    "piece",
    [b"{", b"}", b"\\par", b"\\'e9", b"\\u8217?", b"{\\*", b"\\cell\\row", b"{\\upr", b"{\\fonttbl", b"{\\header x", b"\\", b"{\\rtf1 x}",
     b"{\\field{\\fldinst x}{\\fldrslt y}}", b"\\trowd x\\cell\\row", b"{\\pict "],
)  # fmt: skip
def test_hostile_files_take_linear_time(piece: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(NotRtfError):
        read_rtf(b"{\\rtf1 " + piece * (300_000 // len(piece)))
    assert time.process_time() - started < 3


PIECES = st.sampled_from([
    b"{", b"}", b"\\*", b"\\b ", b"\\u-1?", b"\\uc9 ", b"\\'e9", b"\\'8", b"\\f1 ", b"\\bin3 ", b"\\cell ", b"\\row ", b"\\trowd ", b"text", b"\xff",
    b"\\fonttbl", b"\\fcharset2 ", b"\\ansicpg932 ", b"\\header ", b"\\pict ", b"\\upr", b"\\v ", b"\\", b"\r\n", b"\\fldrslt ", b"\\fftype1",
])  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_any_tokens_give_text(pieces: list[bytes]) -> None:
    try:
        text, _ = read_rtf(b"{\\rtf1" + b"".join(pieces))
    except NotRtfError:
        return
    text.encode("utf-8")
