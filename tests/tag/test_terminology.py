"""What a site supplies is read as it is, or refused with the row; ICD-10-CM gives names that notes use."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medpipe.errors import MedpipeError
from medpipe.tag import terminology
from medpipe.tag.terminology import CODED, PREFERRED, Terms, icd_variants, identify, read_icd10cm, read_terminology

HEAD = "code,system,term,label,preferred\n"
ROWS = 'C1,HPO,"Pain, in the knee",symptom,1\nC2,RxNorm,Examplin,DRUG,\nC3,SCT,both,,no\n'


def read(path: Path, content: str | bytes) -> Terms:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    terms = Terms()
    read_terminology(path, terms)
    return terms


def test_a_csv_file(tmp_path: Path) -> None:
    terms = read(tmp_path / "t.csv", HEAD + ROWS)
    assert terms.code == ["C1", "C2", "C3"]
    assert terms.system == ["HPO", "RxNorm", "SCT"]
    assert terms.term == ["Pain, in the knee", "Examplin", "both"]
    assert terms.words[0] == ("pain", "knee")
    assert terms.labels == [("SYMPTOM",), ("DRUG",), CODED]
    assert terms.weight == [PREFERRED, 1, 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", 'CODE\tterm\tSystem\tmore\nC1\t5" tube "pain\tSCT\tx\n'),
        ("t.txt", 'term;code;system\n5"" tube ""pain;C1;SCT\n'.replace('""', '"')),
        ("t.csv", '\ufeffsystem|code|term\r\nSCT|C1|5" tube "pain\r\n\r\n'),
    ],
)
def test_other_separators_orders_and_quotes(name: str, content: str, tmp_path: Path) -> None:
    terms = read(tmp_path / name, content)
    assert (terms.code, terms.system, terms.term, terms.labels) == (["C1"], ["SCT"], ['5" tube "pain'], [CODED])


def test_a_parquet_file(tmp_path: Path) -> None:
    table = pa.table({"code": [17, 18], "system": ["SCT"] * 2, "term": ["a pain", "b"], "preferred": [True, None]})
    pq.write_table(table, tmp_path / "t.parquet")
    terms = Terms()
    read_terminology(tmp_path / "t.parquet", terms)
    assert terms.code == ["17", "18"]
    assert terms.weight == [PREFERRED, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "column code, system, term"),
        ("code,term\n", "column system"),
        (HEAD, "no rows"),
        (HEAD + "C1,S,ok,,\n,S,x,,\n", "row 2 has no code"),
        (HEAD + "C1,,x,,\n", "row 1 has no system"),
        (HEAD + "C1,S,  ,,\n", "row 1 has no term"),
        (HEAD + "C1,S,x,ANATOMY,\n", "label of row 1"),
        (HEAD + "C1,S,x,,maybe\n", "preferred of row 1"),
        (HEAD + "C1,S\n", "row 1 has 2 fields"),
        (HEAD + 'C1,S,"never closed,,\n', "no CSV"),
        (HEAD.encode() + b"C1,S,\xff\xfe,,\n", "UTF-8"),
        (HEAD + "C1,S," + "x" * 500_000 + ",,\n", "row 1 has a field"),
        (b"\x00" * 1000, "column"),
    ],
)
def test_what_is_no_terminology_is_refused_with_the_row(content: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MedpipeError) as caught:
        read(tmp_path / "t.csv", content)
    assert caught.value.code == "TERMINOLOGY_INVALID"
    assert reason in caught.value.sentence
    assert "t.csv" in caught.value.sentence
    assert "never closed" not in str(caught.value)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PAR1", b"PAR1" * 50, HEAD.encode()):
        with pytest.raises(MedpipeError) as caught:
            read(tmp_path / "t.parquet", content)
        assert caught.value.code == "TERMINOLOGY_INVALID"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminology, "MOST_ROWS", 2)
    with pytest.raises(MedpipeError, match="more than 2 rows"):
        read(tmp_path / "t.csv", HEAD + ROWS)
    monkeypatch.setattr(terminology, "MOST_BYTES", 10)
    with pytest.raises(MedpipeError, match="MiB"):
        read(tmp_path / "t.csv", HEAD + ROWS)


def test_the_limit_of_a_field_is_not_lowered_for_others(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    read(tmp_path / "t.csv", HEAD + ROWS)
    assert csv.field_size_limit() >= before


def test_identity_follows_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminology, "find_icd10cm", lambda: None)
    path = tmp_path / "t.csv"
    path.write_text(HEAD + ROWS)
    one = identify([path])
    path.write_text(HEAD + ROWS + ROWS)
    assert identify([path]) != one == identify([path])[:0] + one
    assert identify([]) == []
    with pytest.raises(MedpipeError) as caught:
        identify([tmp_path / "no.csv"])
    assert caught.value.code == "INPUT_NOT_FOUND"
    with pytest.raises(MedpipeError) as caught:
        identify([tmp_path])
    assert caught.value.code == "INPUT_UNREADABLE"


@pytest.mark.parametrize(
    ("text", "variants"),
    [
        ("Examplitis, unspecified organism", ["Examplitis"]),
        ("Essential (primary) examplosis", ["Essential examplosis", "Essential (primary) examplosis"]),
        ("Great examplosis syndrome [GES] NOS", ["Great examplosis syndrome", "GES"]),
        ("Examplosis [Miller]", ["Examplosis"]),
        ("Exampline disorders [XYZ]", ["Exampline disorders"]),
        ("Examplosis [chickenpox]", ["Examplosis", "chickenpox"]),
        ("Other examplosis", []),
        ("Other specified examplosis", []),
        ("Other and unspecified examplosis", ["examplosis"]),
        ("any condition in B00", []),
        ("Examplosis, not elsewhere classified", ["Examplosis"]),
        ("Examplosis, site not specified", ["Examplosis"]),
        ("Examplosis, of unspecified toe, left", ["Examplosis, left"]),
        ("Exampline abuse, unspecified with withdrawal", ["Exampline abuse, unspecified with withdrawal"]),
        ("Examplosis and collapse", ["Examplosis and collapse", "Examplosis", "collapse"]),
        ("Acute and chronic examplosis", ["Acute and chronic examplosis"]),
        ("", []),
    ],
)
def test_variants_of_icd10cm(text: str, variants: list[str]) -> None:
    assert icd_variants(text) == variants


TABULAR = """<?xml version="1.0"?><ICD10CM.tabular><chapter><section id="A00-A09">
<diag><name>A00</name><desc>Examplitis</desc><includes><note>sore example (A00-A01)</note></includes>
  <diag><name>A00.0</name><desc>Acute examplitis</desc><inclusionTerm><note>Miller's fever</note></inclusionTerm></diag>
  <diag><name>A00.9</name><desc>Examplitis, unspecified</desc></diag>
  <diag><name>A00.8</name><desc>Other examplitis</desc></diag>
</diag></section><section id="Y00"><diag><name>Y00</name><desc>Fall from an example</desc></diag></section>
</chapter></ICD10CM.tabular>"""


def test_a_tabular_list(tmp_path: Path) -> None:
    path = tmp_path / "list.xml"
    path.write_text(TABULAR)
    terms = Terms()
    read_icd10cm(path, terms)
    rows = set(zip(terms.term, terms.code, terms.weight, strict=True))
    assert rows == {
        ("Examplitis", "A00.9", PREFERRED),  # the category has the same name and leaves it to the full code
        ("sore example", "A00", 1.0),
        ("sore example (A00-A01)", "A00", 1.0),
        ("Acute examplitis", "A00.0", PREFERRED),
        ("Miller's fever", "A00.0", 1.0),
    }
    assert set(terms.labels) == {("DISEASE", "SYMPTOM")}
    assert set(terms.system) == {"ICD-10-CM"}


def test_the_index_decides_where_the_list_has_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.xml").write_text(TABULAR)
    (tmp_path / "index.toml").write_text('"examplitis" = "A00.0"\n"sore throat" = "A00.9"\n"gone" = "A99"\n')
    monkeypatch.setattr(terminology, "INDEX_FILE", tmp_path / "index.toml")
    terms = Terms()
    read_icd10cm(tmp_path / "list.xml", terms)
    codes = list(zip(terms.term, terms.code, strict=True))
    assert ("examplitis", "A00.0") in codes and ("sore throat", "A00.9") in codes
    assert not {"Examplitis", "gone"} & set(terms.term)


def test_a_broken_tabular_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.xml").write_text(TABULAR[:200])
    with pytest.raises(MedpipeError) as caught:
        read_icd10cm(tmp_path / "list.xml", Terms())
    assert caught.value.code == "TERMINOLOGY_INVALID"


def test_the_code_set_of_the_package() -> None:
    path = terminology.find_icd10cm()
    if path is None:
        pytest.skip("simple-icd-10-cm is not installed")
    terms = Terms()
    read_icd10cm(path, terms)
    codes = dict(zip(terms.term, terms.code, strict=True))
    assert len(terms) > 40_000
    assert (codes["Pneumonia"], codes["Essential hypertension"]) == ("J18.9", "I10")
    index = tomllib.loads(terminology.INDEX_FILE.read_text())
    assert {code for name, code in index.items() if codes.get(name) != code} == set()
