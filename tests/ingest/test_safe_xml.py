"""XML from anywhere: mended where nothing is lost, refused where something is, never expanded or fetched."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from medpipe.ingest.content import Refused
from medpipe.ingest.syntax import safe_xml


def text(raw: bytes) -> str:
    return "".join(safe_xml.parse(raw)[0].itertext())


def refused(raw: bytes) -> tuple[str, object]:
    with pytest.raises(Refused) as caught:
        safe_xml.parse(raw)
    return caught.value.code, caught.value.fields.get("where")


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        ("<a>é</a>".encode(), "utf-8"),
        ("\ufeff<a>é</a>".encode(), "utf-8"),
        ('<?xml version="1.0" encoding="utf-16"?><a>é</a>'.encode(), "utf-8"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?><a>é</a>'.encode(), "utf-8"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?><a>é</a>'.encode("latin-1"), "iso-8859-1"),
        ('<?xml version="1.0" encoding="UTF-8"?><a>é</a>'.encode("latin-1"), "windows-1252"),
        ('<?xml version="1.0" encoding="idna"?><a>é</a>'.encode("latin-1"), "windows-1252"),
        ('<?xml version="1.0" encoding="no-such-thing"?><a>é</a>'.encode("latin-1"), "windows-1252"),
        ('<?xml version="1.0" encoding="UTF-16"?><a>é</a>'.encode("utf-16le"), "utf-16le"),
        ("<a>é</a>".encode("utf-16-le"), "utf-16le"),
        ("\n<a>é</a>".encode("utf-16-be"), "utf-16be"),
    ],
)
def test_encodings(raw: bytes, encoding: str) -> None:
    root, found = safe_xml.parse(raw)
    assert (root.text, found) == ("é", encoding)


def test_encodings_of_other_scripts() -> None:
    for encoding in ("shift_jis", "iso-2022-jp", "euc-jp"):
        assert text(f'<?xml version="1.0" encoding="{encoding}"?><a>咳と熱</a>'.encode(encoding)) == "咳と熱"
    assert text('<?xml version="1.0" encoding="iso-8859-1"?><a>“dry” – cough</a>'.encode("cp1252")) == "“dry” – cough"


@pytest.mark.parametrize(
    "raw",
    [
        b'\n\n <?xml version="1.0"?>\n<a>x</a>',
        b'Exported 2026-01-30\n<?xml version="1.0"?><?xml-stylesheet href="CDA.xsl"?><!-- <b> --><a>x</a>\n\n',
        b'<!-- first --><?xml version="1.0"?><a>x</a>',
        b"<!DOCTYPE a><a>x</a>",
        b"<a>x<!-- a -- b --></a>",
        b'<a b="1" b="2">x</a>',
        b'<a xmlns:p="">x</a>',
        b"<a>x</a>\x00\x00",
    ],
)
def test_what_costs_no_text_is_passed_over(raw: bytes) -> None:
    assert text(raw).strip() == "x"


def test_prefixes_that_nobody_declared() -> None:
    root, _ = safe_xml.parse(b'<n:a><n:b xsi:type="ED">1</n:b><b>2</b><sdtc:c><p:d:e/></sdtc:c></n:a>')
    assert [element.tag for element in root.iter()] == ["a", "b", "b", "c", "e"]
    root, _ = safe_xml.parse(b'<a xmlns="u"><q:1>x</q:1></a>')
    assert etree.tostring(root, method="text") == b"x"
    safe_xml.parse(b'<a xmlns="u}v{w">x</a>')


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"<a>R & D&nbsp;&eacute; &lt; 5 < 6</a>", "R & D\xa0é < 5 < 6"),
        (b"<a>&nosuch; &amp;&#65;&nbsp;#12;</a>", "&nosuch; &A\xa0#12;"),
        (b"<a>x\x0by&#x1f;z&#XE9;</a>", "x\ny zé"),
        (b"<a>1<br>2<br clear='all'>3<br></br>4</a>", "1234"),
        (b"<a><![CDATA[x & <y>]]> & z<!-- & --></a>", "x & <y> & z"),
        (b"<a>x</a><?xml version='1.0'?><a>y</a>", "xy"),
        (b"<a b='&'>x < y</a>", "x < y"),
        (b"<a>x]]>y</a>", "x]]>y"),
    ],
)
def test_mending(raw: bytes, expected: str) -> None:
    assert text(raw) == expected


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"<a>\n<b>cut of", "line 2"), (b"<a>\n\n<b></a>", "line 3"), (b"no markup", "line 1"), (b"<<<", "line 1"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<a>\n<b c=d></a>", "line 4"), (b"<a><!-- open", "line 1"),
        (b"<a>" + b"<b>" * 100_000, "line 1"),
    ],
)  # fmt: skip
def test_what_may_have_cost_text_is_refused(raw: bytes, line: str) -> None:
    assert refused(raw) == ("XML_INVALID", line)


def test_empty() -> None:
    assert refused(b"") == refused(b"\xef\xbb\xbf \n") == ("TEXT_EMPTY", None)


@pytest.mark.parametrize(
    "raw",
    [
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><a>x</a>',
        b'<!DOCTYPE a PUBLIC "-//x" "a.dtd"><a>x</a>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b'junk <!-- x --><!ENTITY b "c"><a>&b;</a>',
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"),
    ],
)
def test_declarations_are_forbidden(raw: bytes) -> None:
    assert refused(raw)[0] == "XML_FORBIDDEN"


def test_a_declaration_behind_the_root_is_never_taken() -> None:
    assert refused(b'<a/><!DOCTYPE b [<!ENTITY c "d">]><b>&c;</b>')[0] == "XML_INVALID"


def test_too_much_markup() -> None:
    assert refused(b"<a>" + b"<" * (safe_xml.MOST_MARKS + 1))[0] == "RECORD_INVALID"


def test_a_very_long_text() -> None:
    assert len(text(b"<a>" + b"QUJD" * 3_000_000 + b"</a>")) == 12_000_000


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xef\xbb\xbf <?xml version='1.0'?><!-- <x> --><n:C a='>' xmlns:n='urn:v3'>", ("urn:v3", "C")),
        (b'<a xmlns="u"', ("u", "a")),
        (b"<a>", ("", "a")),
        ('<a xmlns="u">'.encode("utf-16"), ("u", "a")),
        ("<a/>".encode("utf-16le"), ("", "a")),
        (b"see <a>", None),
        (b"< 5", None),
        (b"<!-- open", None),
        (b"", None),
    ],
)
def test_root_name(head: bytes, expected: tuple[str, str] | None) -> None:
    assert safe_xml.root_name(head) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text("<>&;#ax1:/ !-[]\"'=\x0b", max_size=60).map(str.encode))
def test_anything_is_parsed_or_refused(raw: bytes) -> None:
    for one in (raw, b"<a>" + raw + b"</a>"):
        safe_xml.root_name(one)
        try:
            safe_xml.parse(one)
        except Refused as error:
            assert error.code


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_mending_loses_no_text(words: str) -> None:
    raw = words.replace("<", "&lt;").replace("&", " & ")
    found = text(f"<a>{raw}</a>".encode())
    assert found.replace("\ufffe", " ").replace("\uffff", " ") == raw.replace("\ufffe", " ").replace("\uffff", " ")
