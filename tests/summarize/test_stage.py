from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.lake import contracts
from medpipe.records import ASSERTIONS, Reject
from medpipe.summarize.decode import Said, compose
from medpipe.summarize.features import Source, Vocabulary, read_source
from medpipe.summarize.network import SummaryNetwork
from medpipe.summarize.profiles import identify_summarizer
from medpipe.summarize.repair import Selected
from medpipe.summarize.stage import Failure, Summarizer
from medpipe.text.tokens import tokenize
from medpipe.weights import save_model

ONLY_NEGATIVES = "Denies fever. No cough, no chest pain. There was no oedema. She had no rash."
TABLE = "\n".join(f"{name}\t{value}\t{unit}" for name, value, unit in [("Na", 138, "mmol/L"), ("K", 4.1, "mmol/L")] * 20)


def make_tables(texts: list[str], entities: list[tuple[int, int, int, str, bool]] = []) -> dict[str, pa.Table]:  # noqa: B006
    """Makes the tables of a chunk; an entity is (note, start, end, label, negated)."""
    names = [f"{index:032d}" for index in range(len(texts))]
    documents = pa.table(
        {
            "document_id": names,
            "patient_id": pa.array([None] * len(texts), pa.string()),
            "source": ["notes.json"] * len(texts),
            "record": [str(index) for index in range(len(texts))],
            "text": pa.array(texts, pa.string()),
        }
    )
    columns = {
        "entity_id": pa.array([f"e{index}" for index in range(len(entities))], pa.string()),
        "document_id": pa.array([names[row[0]] for row in entities], pa.string()),
        "start": pa.array([row[1] for row in entities], pa.int32()),
        "end": pa.array([row[2] for row in entities], pa.int32()),
        "label": pa.array([row[3] for row in entities], pa.string()),
        "negated": pa.array([row[4] for row in entities], pa.bool_()),
    }
    columns |= {name: pa.array([False] * len(entities), pa.bool_()) for name in ASSERTIONS if name != "negated"}
    return {
        "documents": documents,
        "sections": contracts.empty_table("sections"),
        "entities": pa.table(columns),
        "relations": contracts.empty_table("relations"),
    }


def run(stage: Summarizer, texts: list[str], **more: list) -> list[dict]:  # type: ignore[type-arg]
    output = stage.run(make_tables(texts, **more), run_id="r")
    assert output.rejects == []
    return output.rows["summaries"].to_pylist()


def test_the_rows_keep_the_contract(stage: Summarizer, note: str) -> None:
    table = stage.run(make_tables([note, ""]), run_id="r").rows["summaries"]
    assert table.schema.equals(contracts.arrow_schema("summaries"))
    assert table["summary_id"].to_pylist() != sorted(set(table["summary_id"].to_pylist()))[:1]
    assert len(set(table["summary_id"].to_pylist())) == 2


@pytest.mark.parametrize(
    ("mode", "samples"), [("mixed", 0), ("abstractive", 0), ("extractive", 0), ("mixed", 5), ("abstractive", 5)]
)
def test_every_copied_token_equals_its_source(stage: Summarizer, note: str, mode: str, samples: int) -> None:
    decode = replace(stage.decode, mode=mode, samples=samples)
    changed = Summarizer(stage.network, stage.vocabulary, decode, model=stage.model)
    texts = [note, ONLY_NEGATIVES, TABLE, note[::-1], "Ünïcode 𝒙 naïve café. " + note]
    for text, row in zip(texts, run(changed, texts), strict=True):
        assert row["tokens"], "a note with words has a summary"
        end = 0
        for token in row["tokens"]:
            assert end <= token["start"] < token["end"] <= len(row["text"])
            assert row["text"][end : token["start"]].strip() == "", "nothing but white space between tokens"
            end = token["end"]
            if token["source_start"] is not None:
                assert row["text"][token["start"] : end] == text[token["source_start"] : token["source_end"]]
        assert end == len(row["text"])


def test_a_note_without_words_has_an_empty_summary(stage: Summarizer) -> None:
    for row in run(stage, ["", " \n\t ", "--- ... ***"]):
        assert (row["text"], row["tokens"], row["sections"]) == ("", [], None)
        assert (row["method"], row["faithful"], row["n_sentences"]) == ("extractive", True, 0)


def test_a_very_short_note_is_its_own_summary(stage: Summarizer) -> None:
    rows = run(stage, ["Fever.", "x", "Cough for 3 days. No fever."])
    assert [row["text"] for row in rows] == ["Fever.", "x.", "Cough for 3 days. No fever."]
    assert {row["method"] for row in rows} == {"extractive"}


def test_a_note_of_headings_alone_still_has_a_summary(stage: Summarizer) -> None:
    (row,) = run(stage, ["ALLERGIES\n\nMEDICATIONS\n\nPLAN"])
    assert row["text"]


def places(token: dict) -> list:  # type: ignore[type-arg]
    return [value for name, value in token.items() if name != "probability"]


@pytest.mark.parametrize("samples", [0, 6])
def test_the_rest_of_the_chunk_changes_nothing(stage: Summarizer, note: str, samples: int) -> None:
    decode = replace(stage.decode, samples=samples)
    stage = Summarizer(stage.network, stage.vocabulary, decode, model=stage.model)
    texts = [note, ONLY_NEGATIVES, "", note + " " + note.lower(), TABLE, "Fever."]
    together = run(stage, texts)
    small = Summarizer(stage.network, stage.vocabulary, stage.decode, model=stage.model, token_budget=50)
    for alone in ([run(stage, [text])[0] for text in texts], run(small, texts)):
        for one, other in zip(together, alone, strict=True):
            assert one["text"] == other["text"]
            assert [places(token) for token in one["tokens"]] == [places(token) for token in other["tokens"]]
            probabilities = [[token["probability"] for token in row["tokens"]] for row in (one, other)]
            assert probabilities[0] == pytest.approx(probabilities[1], abs=2e-4)
    backwards = make_tables(texts)
    backwards["documents"] = backwards["documents"].take(list(range(len(texts)))[::-1])
    rows = stage.run(backwards, run_id="r").rows["summaries"].to_pylist()
    assert [row["text"] for row in rows] == [row["text"] for row in together], "sorted by document"


def test_samples_choose_what_is_said(stage: Summarizer, note: str) -> None:
    said = set()
    for samples in (0, 6):
        decode = replace(stage.decode, mode="abstractive", beams=6, samples=samples)
        (row,) = run(Summarizer(stage.network, stage.vocabulary, decode, model=stage.model), [note])
        said.add(row["text"])
    assert len(said) == 2


def test_thirty_pages_are_read_and_the_summary_stays_short(stage: Summarizer, note: str) -> None:
    long_note = "\n\n".join(note.replace("2.1", str(page)) for page in range(240))
    (row,) = run(stage, [long_note])
    assert len(long_note) > 90_000
    assert 0 < len(row["tokens"]) < 400


def test_what_the_summary_copied_is_named(stage: Summarizer) -> None:
    text = "She had pneumonia. No fever."
    tables = make_tables([text], [(0, 8, 17, "DISEASE", False), (0, 22, 27, "SYMPTOM", True)])
    tables["relations"] = pa.table(
        {
            "relation_id": ["r0", "r1"],
            "document_id": tables["documents"]["document_id"].to_pylist() * 2,
            "head_entity_id": ["e0", "e0"],
            "tail_entity_id": ["e1", "elsewhere"],
        }
    )
    (row,) = stage.run(tables, run_id="r").rows["summaries"].to_pylist()
    assert row["text"] == text
    assert row["entity_ids"] == ["e0", "e1"]
    assert row["relation_ids"] == ["r0"]


def draft(source: Source, *sentences: str) -> Selected:
    """Makes a draft whose words are copied from the first place in the note that has them."""
    strings = [word.lower() for word in source.tokens.strings(source.text)]
    words = [word for sentence in sentences for word in tokenize(sentence).strings(sentence)]
    sources = [strings.index(word.lower()) if word.lower() in strings else -1 for word in words]
    said = Said(words, np.array(sources), np.full(len(words), 0.5, dtype=np.float32))
    count = len(source.sentences)
    return Selected(list(range(count)), np.linspace(0.9, 0.1, count), said)


def test_a_sentence_that_fails_gives_way_to_the_note(stage: Summarizer, note: str) -> None:
    source = read_source(note)
    wrong = draft(source, "Furosemide was given twice daily.", "Furosemide 80 mg was given.", "There was fever.", "Pain in the right knee.")
    plain = Summarizer(stage.network, stage.vocabulary, replace(stage.decode, fill_tokens=0), model=stage.model)
    outcome = plain.finish(source, wrong)
    text = compose(source, outcome.sentences).text
    assert (outcome.findings.entities, outcome.findings.numbers, outcome.findings.polarity) == (1, 1, 3)
    assert (outcome.repaired, outcome.method, outcome.faithful) == (3, "mixed", True)
    assert text.startswith("Furosemide was given twice daily.")
    assert "There was no fever, cough or pain in the left knee." in text
    assert "80" not in text
    assert "right knee" not in text
    drafted = Summarizer(stage.network, stage.vocabulary, replace(stage.decode, mode="abstractive"), model=stage.model)
    unchecked = drafted.finish(source, wrong)
    assert not unchecked.faithful
    assert "80 mg" in compose(source, unchecked.sentences).text


def test_a_short_summary_is_filled_up_with_extracts(stage: Summarizer, note: str) -> None:
    source = read_source(note)
    filled = stage.finish(source, draft(source, "Creatinine was 2.1 mg/dL."))
    assert sum(one.extract >= 0 for one in filled.sentences) > 0
    assert sum(len(one.words) for one in filled.sentences) <= stage.decode.fill_tokens + 3


def test_a_note_that_fails_costs_only_itself(stage: Summarizer, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Summarizer.finish

    def fail(self: Summarizer, source, selected):  # type: ignore[no-untyped-def]
        if "POISON" in source.text:
            raise ValueError(source.text)
        return whole(self, source, selected)

    monkeypatch.setattr(Summarizer, "finish", fail)
    output = stage.run(make_tables([note, "POISON. " + note, "Fever."]), run_id="r")
    (reject,) = output.rejects
    assert isinstance(reject, Reject)
    assert (reject.code, reject.stage, reject.record) == ("STAGE_FAILED", "summarize", "1")
    assert "POISON" not in reject.message
    assert len(output.rows["summaries"]) == 2


def test_out_of_memory_halves_the_batch(stage: Summarizer, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Summarizer.select

    def select(self: Summarizer, sources):  # type: ignore[no-untyped-def]
        if len(sources) > 1 or "HUGE" in sources[0].text:
            raise torch.OutOfMemoryError
        return whole(self, sources)

    expected = stage.run(make_tables(["Fever.", note]), run_id="r").rows["summaries"]["text"].to_pylist()
    monkeypatch.setattr(Summarizer, "select", select)
    output = stage.run(make_tables(["Fever.", note, "HUGE " + note]), run_id="r")
    assert [reject.code for reject in output.rejects] == ["OUT_OF_MEMORY"]
    assert output.counts["batches_halved"] == 2
    assert output.rows["summaries"]["text"].to_pylist() == expected
    assert isinstance(Failure("OUT_OF_MEMORY", "memory"), Failure)


def test_a_model_comes_back_from_disk(stage: Summarizer, note: str, tmp_path: Path) -> None:
    from dataclasses import asdict

    config = {
        "name": "toy",
        "version": "1",
        "network": asdict(stage.network.config),
        "decode": asdict(stage.decode),
        "vocabulary": stage.vocabulary.words[3:],
    }
    save_model(tmp_path, stage.network.state_dict(), config, half=False)
    loaded = Summarizer.load(tmp_path, device="cpu")
    assert run(loaded, [note])[0]["text"] == run(stage, [note])[0]["text"]
    save_model(tmp_path, {"nothing": torch.zeros(1)}, config)
    with pytest.raises(MedpipeError, match="MODEL_INVALID"):
        Summarizer.load(tmp_path, device="cpu")


def test_fast_extracts_and_its_rows_say_so(stage: Summarizer, note: str, tmp_path: Path) -> None:
    """On notes that the generator writes for otherwise."""
    names = ("word_size", "token_hidden", "sentence_hidden", "memory_size", "decoder_hidden", "output_size")
    config = {
        "name": "toy", "version": "1", "network": {name: getattr(stage.network.config, name) for name in names},
        "vocabulary": stage.vocabulary.words[3:], "decode": {"max_length": 40, "min_length": 8},
    }  # fmt: skip
    save_model(tmp_path, stage.network.state_dict(), config)
    standard, fast = (Summarizer.load(tmp_path, device="cpu", profile=profile) for profile in ("standard", "fast"))
    assert fast.model == identify_summarizer(tmp_path, "fast") != identify_summarizer(tmp_path, "standard")
    assert identify_summarizer(tmp_path, "accurate") == standard.model == identify_summarizer(tmp_path, "standard")
    texts = [note, ONLY_NEGATIVES, note.replace("\n", " ")]
    written, taken = run(standard, texts), run(fast, texts)
    assert standard.select([read_source(note)])[0].draft is not None
    assert fast.select([read_source(note)])[0].draft is None
    for text, slow, quick in zip(texts, written, taken, strict=True):
        assert quick["method"] == "extractive" and quick["model"].startswith("toy+fast@")
        assert quick["summary_id"] != slow["summary_id"] and slow["model"].startswith("toy@")
        held = [word.lower() for word in tokenize(text).strings(text)]
        said = [word.lower() for word in tokenize(quick["text"]).strings(quick["text"])]
        assert said and {word for word in said if word != "."} <= set(held)


def test_template_words_need_no_source_and_facts_do(network: SummaryNetwork, vocabulary: Vocabulary) -> None:
    facts = ("no", "without", "denies", "left", "right", "bilateral", "he", "she", "man", "woman", "one", "two", "mg")
    facts += ("severe", "normal", "improved", "suspected", "stopped", "started", "days", "fever", "5")
    assert not set(facts) & set(vocabulary.words)
    assert len(network.vocabulary_buckets) == vocabulary.size


def encounter_tables(texts: list[str], encounters: list[str | None], days: list[int | None]) -> dict[str, pa.Table]:
    from datetime import UTC, datetime

    tables = make_tables(texts)
    times = [None if day is None else datetime(2026, 1, day, tzinfo=UTC) for day in days]
    documents = tables["documents"].append_column("encounter_id", pa.array(encounters, pa.string()))
    tables["documents"] = documents.append_column("authored_at", pa.array(times, pa.timestamp("us", tz="UTC")))
    return tables


def test_an_encounter_has_one_summary_whose_words_lead_to_its_notes(stage: Summarizer, note: str) -> None:
    texts = ["On day two she had a rash over both arms. " + note, "Elsewhere.", "On day one he came with cough and with gout.", "No time is known."]
    output = stage.run_encounters(encounter_tables(texts, ["e", None, "e", "e"], [9, 1, 3, None]), run_id="r")
    (row,) = output.rows["summaries"].to_pylist()
    names = [f"{index:032d}" for index in range(4)]
    assert row["document_ids"] == [names[2], names[0], names[3]], "in the order of time; without a time last"
    assert (row["document_id"], row["encounter_id"], row["scope"]) == (names[3], "e", "encounter")
    used = set()
    for token, place in zip(row["tokens"], row["token_documents"], strict=True):
        if token["source_start"] is not None:
            source = texts[names.index(row["document_ids"][place])]
            used.add(place)
            assert source[token["source_start"] : token["source_end"]] == row["text"][token["start"] : token["end"]]
    assert len(used) > 1
    again = stage.run_encounters(encounter_tables(texts[::-1], ["e", "e", None, "e"], [None, 3, 1, 9]), run_id="r")
    assert again.rows["summaries"]["text"].to_pylist() == [row["text"]], "the order of the rows changes nothing"


def test_a_row_says_what_was_checked_and_what_became_of_it(stage: Summarizer, note: str) -> None:
    (row,) = run(stage, [note])
    assert row["checks"] == ["entities", "numbers", "sides", "negation"]
    assert row["n_repaired"] == row["n_replaced"] + row["n_dropped"]
    assert (row["scope"], row["document_ids"], row["token_documents"]) == ("note", None, None)
    end = 0
    for part in row["sections"]:
        assert row["text"][end : part["start"]].strip() == ""
        end = part["end"]
    assert end == len(row["text"])


def test_a_long_note_is_routed_past_the_generator(stage: Summarizer, note: str) -> None:
    routed = Summarizer(stage.network, stage.vocabulary, replace(stage.decode, write_up_to=60), model=stage.model)
    long, short = run(routed, [note, note[: note.index("Creatinine")]])
    assert len(tokenize(note)) > 60
    assert long["method"] == "extractive"
    assert short["method"] != "extractive"


def test_only_conversations_are_written_where_the_config_says_so(stage: Summarizer, note: str) -> None:
    decode = replace(stage.decode, write_conversations=True)
    routed = Summarizer(stage.network, stage.vocabulary, decode, model=stage.model)
    spoken = "Doctor: What brings you here?\nPatient: I have chest pain. It began on Sunday.\nDoctor: We take an ECG."
    taken, written = routed.select([read_source(note), read_source(spoken)])
    assert taken.draft is None and written.draft is not None
    assert stage.select([read_source(note)])[0].draft is not None


def test_an_extract_grows_with_its_note_within_limits(stage: Summarizer) -> None:
    decode = replace(stage.decode, mode="extractive", extract_share=0.25, extract_least=20, extract_tokens=60)
    assert [decode.extract_budget(tokens) for tokens in (10, 100, 160, 400)] == [20, 25, 40, 60]
    assert replace(decode, extract_share=1.0, extract_least=0).extract_budget(400) == 60
    words = [f"Finding {index} was seen on day {index} in ward {index}." for index in range(60)]
    cut = Summarizer(stage.network, stage.vocabulary, replace(decode, overlap=1.0), model=stage.model)
    rows = run(cut, [" ".join(words[:15]), " ".join(words)])
    assert [len(row["tokens"]) for row in rows] == [33, 55]


def test_a_note_shorter_than_any_extract_is_its_own_summary(stage: Summarizer) -> None:
    decode = replace(stage.decode, mode="extractive", extract_share=0.25, extract_least=16, extract_tokens=40)
    taken = Summarizer(stage.network, stage.vocabulary, decode, model=stage.model)
    short = "No fever was seen. He coughs. Sodium was 131."
    (row,) = run(taken, [short])
    assert row["text"] == short


def test_a_short_note_is_not_filled_up_to_its_whole_length(stage: Summarizer, note: str) -> None:
    source = read_source(note)
    half = Summarizer(stage.network, stage.vocabulary, replace(stage.decode, fill_tokens=200, fill_share=0.5), model=stage.model)
    filled = half.finish(source, draft(source, "Creatinine was 2.1 mg/dL."))
    assert sum(len(one.words) for one in filled.sentences) <= 0.5 * len(source.tokens) + 3


def test_a_report_has_an_impression_of_two_sentences_at_most(stage: Summarizer) -> None:
    text = "FINDINGS:\nA nodule lies in the lobe. The heart is of normal size.\nIMPRESSION:\nNodule of the upper lobe. Biopsy is advised. The rest is as before."
    tables = make_tables([text])
    places = [(0, text.index("IMPRESSION"), "findings"), (text.index("IMPRESSION"), len(text), "impression")]
    rows = {name: [None] * 2 for name in contracts.arrow_schema("sections").names if name != "schema_version"}
    rows |= {
        "section_id": ["a", "b"], "document_id": ["0" * 32] * 2, "name": [name for _, _, name in places], "run_id": ["r"] * 2,
        "start": [start for start, _, _ in places], "end": [end for _, end, _ in places],
        "body_start": [text.index("\n", start) + 1 for start, _, _ in places],
    }  # fmt: skip
    tables["sections"] = contracts.conform("sections", rows)
    (row,) = stage.run(tables, run_id="r").rows["summaries"].to_pylist()
    assert [part["name"] for part in row["sections"]] == ["impression"]
    assert row["n_sentences"] == 2
    assert "normal" not in row["text"]


def test_a_family_history_alone_is_kept_but_not_called_faithful(stage: Summarizer) -> None:
    from medpipe.tag.assertion import Assertion

    text = "Diabetes since childhood in all of them."
    tables = make_tables([text], [(0, 0, 8, "DISEASE", False)])
    family = tables["entities"].column_names.index("family")
    tables["entities"] = tables["entities"].set_column(family, "family", pa.array([True]))
    held = Summarizer(stage.network, stage.vocabulary, stage.decode, model=stage.model, engine=Assertion.load())
    (row,) = held.run(tables, run_id="r").rows["summaries"].to_pylist()
    assert (row["text"], row["faithful"]) == (text, False)
    assert row["checks"][-1] == "family"
