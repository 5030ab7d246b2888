"""Assertion: invented sentences, each mention in brackets with what must be asserted of it.

``[fever|n]`` is negated, ``u`` uncertain, ``y`` hypothetical, ``h`` historical, ``f`` family; ``[fever]`` none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.records import ASSERTIONS
from medpipe.tag.assertion import CUES_FILE, Assertion, compile_cues, expand_phrase, shipped_cues
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import Tokens, tokenize

LETTERS = dict(zip("nuyhf", ASSERTIONS, strict=True))
MENTION = re.compile(r"\[([^\]|]+)(?:\|(\w*))?\]")


def parse(marked: str) -> tuple[str, list[tuple[int, int]], np.ndarray]:
    """Returns the text without marks, the mentions and what must be asserted of them."""
    text, spans, gold, at = "", [], [], 0
    for match in MENTION.finditer(marked):
        text += marked[at : match.start()]
        spans.append((len(text), len(text) + len(match.group(1))))
        gold.append([letter in (match.group(2) or "") for letter in LETTERS])
        text += match.group(1)
        at = match.end()
    return text + marked[at:], spans, np.array(gold, dtype=bool).reshape(-1, len(ASSERTIONS))


def prepare(text: str) -> tuple[Tokens, np.ndarray]:
    tokens = tokenize(text)
    return tokens, split_sentences(text, tokens)


def answer(text: str, spans: Sequence[tuple[int, int]], section: str = "body") -> np.ndarray:
    tokens, sentences = prepare(text)
    limits = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return Assertion.load().assert_entities(
        text, tokens, sentences, limits[:, 0], limits[:, 1], [section] * len(limits)
    )


def check(marked: str, section: str = "body") -> None:
    text, spans, gold = parse(marked)
    for (start, end), got, wanted in zip(spans, answer(text, spans, section), gold, strict=True):
        assert {name for name, value in zip(ASSERTIONS, got, strict=True) if value} == {
            name for name, value in zip(ASSERTIONS, wanted, strict=True) if value
        }, text[start:end]


NEGATED = [
    "No [fever|n].",
    "No evidence of [pulmonary embolism|n].",
    "There is no definite evidence of [metastatic disease|n] in the [liver|n].",
    "She denies [chest pain|n], [dyspnea|n], or [palpitations|n].",
    "Denies: [cough|n], [hemoptysis|n].",
    "The patient denied any [headache|n] or [neck stiffness|n].",
    "He doesn't have [diabetes|n].",
    "She has never had a [seizure|n].",
    "The patient did not have any complaints of [chest pain|n].",
    "Lungs are clear without [wheezes|n], [rales|n] or [rhonchi|n].",
    "Chest x-ray was negative for [infiltrate|n] or [effusion|n].",
    "He ruled out for [myocardial infarction|n].",
    "[Pulmonary embolism|n] was ruled out by CT.",
    "[Edema|n]: none.",
    "[Clubbing|n] - absent.",
    "[Occult blood|n] was negative.",
    "No [masses|n] are seen.",
    "[Lymphadenopathy|n] is not appreciated.",
    "Patient is free of [pain|n].",
    "Neither [fever|n] nor [rash|n] was reported.",
    "In the absence of [infection|n], steroids were given.",
    "I do not think this is [sepsis|n].",
    "There is nothing to add; no [murmur|n].",
    "No findings to suggest [osteomyelitis|n].",
    "The CT failed to reveal any [hemorrhage|n].",
    "Her [nausea|n] and [vomiting|n] have resolved.",
    "She was not [confused|n] or [agitated|n] overnight.",
    "Pt w/o [complaints|n].",
    "No [cyanosis|n], [clubbing|n], or [edema|n], there is a [systolic murmur].",
    "He has had no [weight loss|n] and no [night sweats|n].",
    "[Chest pain|n], [syncope|n], and [orthopnea|n] were all denied.",
    "She is not reporting [tremor|n], [constipation|n], [heat intolerance|n], [palpitations|n] or [muscle weakness|n].",
    "There is no focal opacity to suggest [pneumonia|n].",
    "GENERAL: Negative [weakness|n], negative [fatigue|n].",
    "They have not noted him to have any [fevers|n].",
    "[Hepatitis C] treated; PCR negative for [relapse|n].",
    "No severe [headache|n] or mild [photophobia|n].",
]
AFFIRMED = [
    "She has [fever] and [chills].",
    "Denies chest pain but reports [dyspnea].",
    "No fever, however [cough] persists.",
    "No nausea. [Vomiting] twice.",
    "No acute distress, has [pedal edema].",
    "No rash; [pruritus] continues.",
    "No murmurs, normal [heart sounds].",
    "No complaints except for mild [back pain].",
    "Symptoms occur with or without [exertion].",
    "Not only [fever] but also [rigors].",
    "The [cough] did not improve.",
    "No significant change in the [effusion].",
    "Gram negative [bacteremia].",
    "The patient was not compliant with [lisinopril].",
    "The [pain] was not relieved by rest.",
    "No. 5 [catheter] was used.",
    "No doubt this is [gout].",
    "No recurrence due to [chemotherapy].",
    "She has an [absence seizure] weekly.",
]
UNCERTAIN = [
    "Possible [pneumonia|u].",
    "Suspected [deep vein thrombosis|u].",
    "Findings are suspicious for [malignancy|u].",
    "This may represent [atelectasis|u].",
    "Cannot rule out [fracture|u].",
    "We cannot exclude [pulmonary embolism|u].",
    "[Pneumonia|u] cannot be excluded.",
    "Rule out [appendicitis|u].",
    "R/o [DVT|u].",
    "?[cellulitis|u]",
    "[Cholecystitis|u] versus [biliary colic|u].",
    "The lesion is most likely a [hemangioma|u].",
    "Differential diagnosis includes [lymphoma|u] and [sarcoidosis|u].",
    "There is concern for [aspiration|u].",
    "[Sepsis|u] is suspected.",
    "Questionable [nodule|u] in the left lung.",
    "Ultrasound to evaluate for [gallstones|u].",
    "Opacity, likely [edema|u].",
    "[Myocarditis|nu] is unlikely.",
    "Low suspicion for [dissection|nu].",
    "Confusion likely secondary to [opioids|u].",
    "The [pneumonia] will be treated as soon as possible.",
    "Not certain if this is [gout|u].",
]
HYPOTHETICAL = [
    "Return if [fever|y] or [vomiting|y] occurs.",
    "Call for [bleeding|y] or increasing [pain|y].",
    "Should she develop [chest pain|y], go to the emergency room.",
    "Acetaminophen as needed for [pain|y].",
    "Ibuprofen prn [headache|y].",
    "Patient at risk for [falls|y].",
    "Heparin for prophylaxis of [DVT|y].",
    "If the [swelling|y] worsens, come back.",
    "Monitor for [bleeding|y].",
    "[Fall|y] precautions.",
    "Watch for signs of [infection|y].",
    "Risks include but are not limited to [bleeding|y], [infection|y], [nerve damage|y], and [nonunion|y].",
    "She asked if the [rash] would heal.",
]
HISTORICAL = [
    "History of [hypertension|h] and [diabetes|h].",
    "H/o [stroke|h].",
    "Past medical history significant for [asthma|h], [gout|h], and [COPD|h].",
    "Status post [appendectomy|h].",
    "S/p [CABG|h].",
    "He had [measles|h] as a child.",
    "[Hip fracture|h] five years ago.",
    "Prior [myocardial infarction|h].",
    "She has a remote history of [tuberculosis|h] who presents with [cough].",
    "History of [lupus|h], now with [joint pain].",
    "No history of [seizures|nh].",
    "No known [drug allergies|nh].",
    "HISTORY OF PRESENT ILLNESS: [Cough] and [fever].",
    "A 3-day history of [abdominal pain].",
    "Two-week history of [fatigue].",
    "A 60-year-old man with [weakness].",
    "History and physical: [edema] noted.",
    "Compared to prior study, the [nodule] is larger.",
    "Former [smoker|h].",
    "[Tobacco use|h] daily.",
    "[Alcohol withdrawal] on admission.",
    "She presented with a history of [headaches] since Monday.",
    "[Hypertension|h].",
    "[Pneumothorax].",
]
FAMILY = [
    "Family history of [breast cancer|f].",
    "Mother had [diabetes|f] and [hypertension|f].",
    "Her father died of [colon cancer|f].",
    "[Migraine|f] in her sister.",
    "No family history of [sudden death|nf].",
    "[Stroke|f] (maternal grandmother).",
    "[Stroke|f] on paternal side.",
    "Mother states that he has [fever].",
    "Brought in by his daughter for [confusion].",
    "She lives with her mother and has [asthma].",
    "Father had [gout|f]; the patient has [psoriasis].",
    "According to her husband and per her son she had [syncope].",
]


@pytest.mark.parametrize("marked", [*NEGATED, *AFFIRMED, *UNCERTAIN, *HYPOTHETICAL, *HISTORICAL, *FAMILY])
def test_invented_sentences(marked: str) -> None:
    check(marked)


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marked",
    [
        "He denies [fever|n] but has [cough].",
        "He denies [fever|n]; [cough] is present.",
        "No [fever|n] although [chills] were noted.",
        "No [fever|n] except [low-grade temperature].",
        "No [pneumonia|n] after [lobectomy].",
        "Possible [stroke|u], however [migraine] is present.",
        "1) No [polyps|n] 2) [Diverticula]",
        "ABDOMEN: no [tenderness|n] SKIN: [rash]",
        "[Cough], and [fever|n] was denied.",
    ],
)
def test_a_stop_ends_a_scope(marked: str) -> None:
    check(marked)


def test_a_list_keeps_its_assertion_to_the_last_item() -> None:
    items = ", ".join(f"[symptom{letter}|n]" for letter in "abcdefghij")
    check(f"The patient denies {items}, or [palpitations|n].")


def test_a_scope_ends_with_its_sentence() -> None:
    check("No [fever|n]. [Cough] since Monday.")
    check("[Rash] on arms. Denied by nobody.\n\n[Edema] in both legs.\nNo [cyanosis|n].")
    check("History of [gout|h].\n\n[Fever] today.")


def test_a_phrase_does_not_run_over_a_sentence_end() -> None:
    check("He smoked a little, he said no.\n\nEvidence of [cancer].")
    check("She asked about her family.\n\nHistory of [asthma|h].")


def test_a_cue_inside_a_mention_does_not_negate_it() -> None:
    check("[No-reflow] was seen after [stenting].")
    check("[Non-small cell lung cancer] and [pneumonia].")
    check("[Lack of appetite], [vomiting].")
    check("[Negative symptoms] of schizophrenia.")
    check("[Loss of consciousness] and [headache].")


def test_a_mention_that_begins_with_a_cue_has_its_assertion() -> None:
    check("[history of falls|h] and [weakness|h]")
    check("[status post CABG|h]")
    check("[possible pneumonia|u]")
    check("[family history of glaucoma|f]")


def test_nested_mentions_are_asserted_each() -> None:
    text = "No pain in the left arm."
    got = answer(text, [(3, 23), (3, 7), (15, 23)])
    assert got[:, 0].all() and not got[:, 1:].any()


@pytest.mark.parametrize(
    ("section", "marked"),
    [
        ("family_history", "[Breast cancer|f], [asthma|f]."),
        ("past_medical_history", "[Hypertension|h]\n[Gout|h]"),
        ("past_medical_history", "No [diabetes|nh]."),
        ("social_history", "Retired. [Depression|h]."),
        ("assessment", "[Hypertension]."),
        ("history_of_present_illness", "[Cough]."),
    ],
)
def test_sections_assert(section: str, marked: str) -> None:
    check(marked, section)


# --- the interface ----------------------------------------------------------------------------------------------------


def test_nothing_in_nothing_out() -> None:
    assert answer("", []).shape == (0, len(ASSERTIONS))
    assert answer("No fever.", []).shape == (0, len(ASSERTIONS))
    assert answer("   ", [(0, 2)]).tolist() == [[False] * len(ASSERTIONS)]
    assert Assertion.load().assert_batch([], [], [], [], [], []) == []


def test_a_mention_without_a_token_has_nothing_asserted() -> None:
    assert not answer("No  fever", [(2, 4)]).any()


def test_offsets_survive_letters_that_change_their_length_in_lower_case() -> None:
    check("İİİ: no [fever|n] ﬁ, ẞ; [cough]")
    check("NO [FEVER|n] 😀 BUT [COUGH].")


def test_half_a_surrogate_pair_is_no_error() -> None:
    check("\ud83d no [fever|n]")


NOTES = [
    "Denies [fever|n] and",
    "[cough]. History of",
    "[gout|h]. Mother had [asthma|f].",
    "",
    "No",
    "[rash]",
    "[edema] was",
    "ruled out",
    "if [pain|y]",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NOTES), max_size=6))
def test_the_answer_does_not_depend_on_the_rest_of_the_batch(marked: list[str]) -> None:
    texts, spans, gold = zip(*map(parse, marked), strict=True) if marked else ((), (), ())
    prepared = [prepare(text) for text in texts]
    limits = [np.array(of, dtype=np.int64).reshape(-1, 2) for of in spans]
    got = Assertion.load().assert_batch(
        texts,
        [tokens for tokens, _ in prepared],
        [sentences for _, sentences in prepared],
        [of[:, 0] for of in limits],
        [of[:, 1] for of in limits],
        [["body"] * len(of) for of in limits],
    )
    assert len(got) == len(marked)
    for answered, wanted in zip(got, gold, strict=True):
        assert answered.tolist() == wanted.tolist()


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="no .:,#12fever\n-()if?", max_size=60), st.data())
def test_any_text_and_any_span_has_an_answer(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert answer(text, [(start, end)]).shape == (1, len(ASSERTIONS))


# --- the cue file -----------------------------------------------------------------------------------------------------


def test_a_phrase_is_expanded() -> None:
    assert list(expand_phrase("no <a|b|>", {})) == [("no", "a"), ("no", "b"), ("no",)]
    assert list(expand_phrase("<{kin}|x> y", {"kin": ["m", "n o"]})) == [("m", "y"), ("n", "o", "y"), ("x", "y")]


def test_phrases_are_words_as_texts_are_cut() -> None:
    import tomllib

    source = tomllib.loads(CUES_FILE.read_text(encoding="utf-8"))
    lists = [source["idle"], *source["stops"].values(), *(cue["phrases"] for cue in source["cues"])]
    for phrase in (spelled for phrases in lists for spelled in phrases):
        for words in expand_phrase(phrase, source["words"]):
            for word in words:
                assert word == "#" or tokenize(word).strings(word) == [word.lower()], phrase


def test_every_kind_of_cue_asserts_and_has_a_scope() -> None:
    cues = shipped_cues()
    is_cue = cues.asserts.any(axis=1)
    assert ((cues.reach > 0) | cues.begins | cues.alone)[is_cue].all()
    assert cues.asserts.any(axis=0).all()
    assert not cues.reach[~is_cue].any()


def painted_by_hand(numbers: list[str], mention: int) -> bool:
    """Negation by one cue ``no`` that reaches three tokens and stops at ``but``; ``no way`` is idle."""
    return any(
        numbers[cue] == "no"
        and numbers[cue + 1] != "way"
        and mention - cue <= 3
        and "but" not in numbers[cue + 1 : mention + 1]
        for cue in range(mention)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["no", "way", "but", "pain"]), min_size=1, max_size=12))
def test_scopes_equal_those_found_by_hand(words: list[str]) -> None:
    cues = compile_cues(
        {
            "idle": ["no way"],
            "words": {},
            "stops": {"contrast": ["but"]},
            "cues": [{"of": ["negated"], "side": "before", "reach": 3, "stops": ["contrast"], "phrases": ["no"]}],
            "sections": {},
        }
    )
    text = " ".join(words)
    tokens = tokenize(text)
    sentences = np.array([[0, len(tokens)]], dtype=np.int32)
    got = Assertion(cues).assert_entities(text, tokens, sentences, tokens.start, tokens.end, ["body"] * len(tokens))
    assert got[:, 0].tolist() == [painted_by_hand(words, mention) for mention in range(len(words))]


def test_a_cue_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        "idle = []\n[words]\n[stops]\n[sections]\n"
        '[[cues]]\nof = ["negated"]\nside = "after"\nreach = 2\nphrases = ["nix"]\n'
    )
    text = "fever nix"
    tokens, sentences = prepare(text)
    got = Assertion.load(own).assert_entities(text, tokens, sentences, np.array([0]), np.array([5]), ["body"])
    assert got[0, 0]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "idle = [",
        "idle = []",
        "idle = []\ncues = []\n[words]\n[stops]\n[sections]\n",
        'idle = []\n[words]\n[stops]\n[sections]\n[[cues]]\nof = ["x"]',
    ],
)
def test_a_cue_file_that_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "cues.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MedpipeError) as caught:
        Assertion.load(path)
    assert caught.value.code == ("MODEL_NOT_FOUND" if content is None else "MODEL_INVALID")
