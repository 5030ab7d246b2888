"""Languages: English is never called foreign, foreign notes are recognised, what a source writes is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.text.language import choose_language, detect_language, is_supported, normal_tag, primary
from tests.text.foreign_notes import MORE, NOTES

STORIES = {**{language: texts[0] for language, texts in NOTES.items()}, **MORE}

ENGLISH = [
    "The patient is a 55-year-old man with a history of gout who presents with pain in the left knee.",
    "HPI: She denies fever. No chills.\nPMH: asthma\nPlan: rest, fluids, follow-up in two weeks.",
    "THE PATIENT WAS SEEN IN CLINIC AND DENIES CHEST PAIN. SHE WILL RETURN IN ONE WEEK.",
    "Doctor: How are you?\nPatient: I have been well, thank you, but the knee is still sore when I walk.",
    "3/7 hx of sore throat and fever. No rash. Eating and drinking. Imp: viral URTI. Safety-netted.",
]
# What has no running text: it may have no language, but must not have a foreign one.
FRAGMENTS = [
    "",
    " \n\t",
    "Pt c/o SOB x3d, denies CP. PMH: HTN, DM2. Imp: CHF exac. Plan: Lasix, f/u 1w.",
    "NKDA",
    "No acute distress.",
    "Penicillin",
    "120/80 72 16 98.6",
    "- - - - - - -\n=======",
    "ASPIRIN 81 MG PO DAILY\nMETFORMIN 500 MG PO BID\nLISINOPRIL 10 MG PO DAILY\nATORVASTATIN 40 MG PO QHS",
    "Amoxicillin 500 mg capsule | 1 | oral | TID\nIbuprofen 400 mg tablet | 1 | oral | PRN\nCetirizine | 1 | oral | daily",
    "HTN, DM2, CAD s/p CABG x3, CHF EF 35%, COPD, CKD III, OSA on CPAP",
    "Na 138 K 4.2 Cl 101 CO2 25 BUN 14 Cr 0.9 Glu 101 WBC 5.4 Hgb 13.2 Plt 210",
    "Diagnosis: Diabetes mellitus, type 2. Angina pectoris. Fibrillatio atriorum. Ulcus ventriculi.",
    "CBC W AUTO DIFF PANEL\nHEMOGLOBIN A1C\nTSH\nLIPID PANEL\nURINALYSIS",
    "Maria Garcia Hernandez\nJuan Carlos Lopez\nCalle Mayor 12\nSan Antonio, TX 78201",
    "tab caps inj susp sol ung gtt supp amp vial",
    "\ufeff\u200b\ud83e",
]


@pytest.mark.parametrize("text", ENGLISH)
def test_english(text: str) -> None:
    assert detect_language(text) == "en"
    assert detect_language(text * 20) == "en"


@pytest.mark.parametrize("text", FRAGMENTS)
@pytest.mark.parametrize("times", [1, 30])
def test_what_is_not_sure_is_not_foreign(text: str, times: int) -> None:
    assert detect_language("\n".join([text] * times)) in (None, "en")


@pytest.mark.parametrize("language", [*NOTES, *MORE])
def test_foreign_notes(language: str) -> None:
    for text in [*NOTES.get(language, ()), *([MORE[language]] if language in MORE else [])]:
        assert detect_language(text) == language
        assert detect_language(text.upper()) == language
        assert detect_language(text * 10) == language
        assert detect_language(text[:160]) == language
        assert detect_language(text[:80]) in (language, None)


def test_a_note_that_is_partly_english_has_no_foreign_language() -> None:
    english, spanish = ENGLISH[0] * 8, NOTES["es"][0]
    for text in (english + spanish * 3, spanish * 3 + english, spanish + english + spanish):
        assert detect_language(text) in (None, "en")


@settings(deadline=None)  # the first text loads the classifier
@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_has_an_answer_and_always_the_same(text: str) -> None:
    answer = detect_language(text)
    assert answer is None or primary(answer) == answer
    assert detect_language(text) == answer


def test_english_does_not_load_the_classifier() -> None:
    program = (
        "import sys; from medpipe.text.language import detect_language as d; "
        f"assert d({ENGLISH[0]!r}) == 'en'; assert 'py3langid' not in sys.modules; "
        f"assert d({STORIES['es']!r}) == 'es'; assert 'py3langid' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("en_us", "en-US"),
        ("en-US", "en-US"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("eng", "en"),
        ("spa", "es"),
        ("ger-CH", "de-CH"),
        ("English", "en"),
        ("gsw", "gsw"),
        (" fr ", "fr"),
        ("", None),
        (None, None),
        ("unknown", None),
        ("und", None),
        ("UNK", None),
        ("123", None),
        ("a language", None),
        ("x" * 400, None),
    ],
)
def test_tags(written: str | None, expected: str | None) -> None:
    assert normal_tag(written) == expected


@pytest.mark.parametrize(
    ("text", "written", "expected"),
    [
        (ENGLISH[0], None, "en"),
        (ENGLISH[0], "en-GB", "en-GB"),
        (STORIES["es"], None, "es"),
        (STORIES["es"], "es-MX", "es-MX"),
        (STORIES["es"], "en", "es"),  # long and surely Spanish
        (STORIES["es"][:100], "en", "en"),  # too short to contradict its source
        ("NKDA", "es", "es"),
        ("NKDA", None, None),
        (ENGLISH[0], "es", "es"),
        (ENGLISH[0] * 4, "es", "en"),
        (ENGLISH[0] * 4, "unknown", "en"),
    ],
)
def test_source_and_text(text: str, written: str | None, expected: str | None) -> None:
    assert choose_language(text, written) == expected


def test_supported() -> None:
    assert is_supported(None, ["en"])
    assert is_supported("en-US", ["en"]) and is_supported("EN_gb", ["en-US"])
    assert not is_supported("es", ["en"])
    assert is_supported("es-MX", ["en", "es"])
    assert not is_supported("en", [])


@pytest.mark.corpora
@pytest.mark.parametrize("corpus", ["aci_bench", "primock57", "openi", "mts_dialog", "negex", "chia", "maccrobat"])
def test_english_corpora_are_not_foreign(corpora: Path, corpus: str) -> None:
    (path, *_) = sorted((corpora / corpus).glob("[dt]*.jsonl"))  # dev
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    texts = [record[key] for record in records for key in ("text", "source", "summary") if record.get(key)]
    answers = [detect_language(text) for text in texts]
    print(f"\n{corpus}: {len(texts)} texts, {answers.count('en')} English, {answers.count(None)} not sure")
    assert set(answers) <= {"en", None}
    assert detect_language("\n\n".join(texts[:20])) == "en"
