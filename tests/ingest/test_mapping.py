"""Which column is what: known exports, plausible names, and what the user says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medpipe.errors import MedpipeError
from medpipe.ingest.tables.mapping import (
    OMOP,
    OTHERS,
    ColumnMapping,
    Columns,
    NotNotes,
    Unclear,
    choose_columns,
    load_mapping,
)

NOTE_54 = (
    "note_id,person_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_title,note_text,"
    "encoding_concept_id,language_concept_id,provider_id,visit_occurrence_id,visit_detail_id,note_source_value,"
    "note_event_id,note_event_field_concept_id"
)
NOTE_50 = (
    "note_id,person_id,note_date,note_time,note_type_concept_id,note_text,provider_id,visit_occurrence_id,note_source_value"
)


def said(names: str, mapping: ColumnMapping | None = None) -> dict[str, list[str]]:
    """What the columns of these names are, by key."""
    listed = names.split(",")
    found = choose_columns(listed, mapping)
    assert isinstance(found, Columns), found
    return {key: [listed[place] for place in places] for key, places in found.places.items()}


def shape(names: str) -> str:
    found = choose_columns(names.split(","))
    return "unclear" if isinstance(found, Unclear) else found.shape


@pytest.mark.parametrize("names", [NOTE_54, NOTE_54.upper(), ",".join(f"n.{name}" for name in NOTE_54.split(","))])
def test_omop_note(names: str) -> None:
    found = {key: [name.lower().removeprefix("n.") for name in listed] for key, listed in said(names).items()}
    assert found == {
        "text": ["note_text"], "id": ["note_id"], "patient": ["person_id"], "encounter": ["visit_occurrence_id"],
        "date": ["note_datetime", "note_date"], "type": ["note_title", "note_source_value"],
    }  # fmt: skip


def test_omop_note_of_an_older_version() -> None:
    assert said(NOTE_50)["date"] == ["note_date"] and said(NOTE_50)["time"] == ["note_time"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ("person_id,gender_concept_id,year_of_birth", "OMOP person"),
        ("PERSON_ID,DEATH_DATE,DEATH_DATETIME", "OMOP death"),
        ("note_nlp_id,note_id,section_concept_id,snippet,lexical_variant", "OMOP note_nlp"),
        ("concept_id,concept_name,domain_id,vocabulary_id,concept_code", "OMOP concept"),
        ("care_site_id,care_site_name,location_id,care_site_source_value", "OMOP care_site"),
        ("observation_id,person_id,observation_concept_id,value_as_string", "OMOP observation"),
        ("patient_num,vital_status_cd,birth_date", "i2b2 patient_dimension"),
        ("encounter_num,patient_num,concept_cd,nval_num", "i2b2 observation_fact"),
        ("note_id,subject_id,field_name,field_value,field_ordinal", "MIMIC-IV note detail"),
        ("ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CATEGORY,DESCRIPTION,ISERROR,TEXT", "MIMIC-III noteevents"),
        ("note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text", "MIMIC-IV note"),
        ("noteid,patientunitstayid,noteoffset,notetype,notepath,notevalue,notetext", "eICU note"),
        ("NOTE_ID,NOTE_CSN_ID,CONTACT_DATE,LINE,NOTE_TEXT", "Epic hno_note_text"),
        ("Text ID,Text,Sentences,Corrected Text", "MEDEC"),
        ("dataset,encounter_id,dialogue,note", "ACI-Bench"),
        ("ID,PID,DATE,TITLE,MIME_TYPE,FILE_NAME", "list of note files"),
        ("id,clinical_note", "table"),
        ("lab,value,unit", "unclear"),
        ("1,2,some text", "unclear"),
        ("", "unclear"),
    ],
)
def test_known_shapes(names: str, kind: str) -> None:
    assert shape(names) == kind


def test_every_known_shape_is_known_by_what_it_needs() -> None:
    for known in (*OMOP, *OTHERS):
        found = choose_columns(sorted(known.needs))
        assert not isinstance(found, Unclear)
        assert isinstance(found, NotNotes) == (known.mapping is None)
        assert found.shape == known.name


def test_one_plausible_column_is_taken() -> None:
    assert said("ID,MRN,Encounter ID,Date of Service,Doc Type,Report Text,Language,LOINC") == {
        "id": ["ID"], "patient": ["MRN"], "encounter": ["Encounter ID"], "date": ["Date of Service"],
        "type": ["Doc Type"], "text": ["Report Text"], "language": ["Language"], "type_code": ["LOINC"],
    }  # fmt: skip
    assert said("id,note_text,text,notes")["text"] == ["note_text"]  # the surest name
    assert said("id,text,note,dialogue")["text"] == ["text"]
    assert said("id,note,dialogue")["text"] == ["note"]
    assert said("note")["text"] == ["note"]


@pytest.mark.parametrize("names", ["id,text,report", "id,text,text", "id,note,notes", "file,sha1,note", "id,dialogue,transcript", "id,comments"])
def test_what_is_not_clear_is_not_guessed(names: str) -> None:
    assert isinstance(choose_columns(names.split(",")), Unclear)


def test_reports_in_parts() -> None:
    names = ["study_id", "IMPRESSION", "Findings", "indication_text", "comparison"]
    found = choose_columns(names)
    assert isinstance(found, Columns)
    assert found.at("text") == (1, 2, 4) and found.titles == ("IMPRESSION", "Findings", "comparison")


def test_a_mapping_is_laid_over_what_the_names_say() -> None:
    mapping = ColumnMapping(patient=("provider_id",))
    assert said(NOTE_54, mapping) == said(NOTE_54) | {"patient": ["provider_id"]}
    mapping = ColumnMapping(text=("note source value",), id=("3",))
    assert said(NOTE_54, mapping)["text"] == ["note_source_value"]
    assert said(NOTE_54, mapping)["id"] == ["note_date"]
    assert said("MRN,BODYX,note_type", ColumnMapping(text=("BodyX",))) == {
        "patient": ["MRN"], "type": ["note_type"], "text": ["BODYX"],
    }  # fmt: skip


def test_a_mapping_belongs_to_tables_that_have_its_text() -> None:
    mapping = ColumnMapping(text=("BODYX",), patient=("MRN",))
    assert said(NOTE_54, mapping) == said(NOTE_54)
    assert choose_columns(["person_id", "gender_concept_id"], mapping) == NotNotes("OMOP person")
    for names, missing in ((["a", "b"], "BODYX"), (["a", "BODYX"], "MRN")):
        found = choose_columns(names, mapping)
        assert isinstance(found, Unclear) and missing in found.reason
    assert isinstance(choose_columns(["BODYX", "bodyx", "BodyX", "MRN"], mapping), Columns)  # one is written so
    assert isinstance(choose_columns(["bodyx", "BodyX", "MRN"], mapping), Unclear)


def test_mapping_file_and_options(tmp_path: Path) -> None:
    file = tmp_path / "notes.toml"
    file.write_text(
        'text = ["FINDINGS", "IMPRESSION"]\nid = 1\ndate = ["SIGNED", "DAY"]\nencoding = "cp1250"\nheader = false\n'
        'delimiter = "\\t"\nquote = ""\nescape = "letters"\njoin = " "\n'
    )
    mapping = load_mapping(file, id="KEY", patient=None)
    assert mapping == ColumnMapping(
        text=("FINDINGS", "IMPRESSION"), id=("KEY",), date=("SIGNED", "DAY"), encoding="cp1250", header=False,
        delimiter="\t", quote="", escape="letters", join=" ",
    )  # fmt: skip
    assert mapping.describe() == {
        "text": ["FINDINGS", "IMPRESSION"], "id": ["KEY"], "date": ["SIGNED", "DAY"], "encoding": "cp1250",
        "header": False, "delimiter": "\t", "quote": "", "escape": "letters", "join": " ",
    }  # fmt: skip
    assert load_mapping() is None and load_mapping(None, text=None) is None
    assert load_mapping(None, text="T") == ColumnMapping(text=("T",))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("= 1", "notes.toml"), ("txet = 'a'", "txet"), ("text = 1.5", "text"), ("text = []", "text"), ("text = true", "text"),
        ("header = 'no'", "header"), ("delimiter = '||'", "delimiter"), ("quote = 'ab'", "quote"), ("encoding = 'klingon'", "klingon"),
        ("encoding = 'base64'", "base64"), ("escape = 'odd'", "escape"), ("join = 1", "join"), ("delimiter = 5", "delimiter"),
    ],
)  # fmt: skip
def test_wrong_mapping_files_are_one_sentence(content: str, word: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.toml"
    file.write_text(content)
    with pytest.raises(MedpipeError) as caught:
        load_mapping(file)
    assert caught.value.code == "SETTING_INVALID" and word in str(caught.value)


def test_mapping_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'text = "caf\xe9"')
    for name in ("gone.toml", "latin.toml"):
        with pytest.raises(MedpipeError) as caught:
            load_mapping(tmp_path / name)
        assert caught.value.code == "SETTING_INVALID"


def test_a_mapping_is_part_of_what_decides_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medpipe.pipeline import planning
    from medpipe.settings import load_settings

    monkeypatch.setattr(planning, "stage_models", lambda settings: {})
    file = tmp_path / "notes.toml"

    def fingerprint(content: str | None, **flags: str) -> Any:
        if content is not None:
            file.write_text(content)
        return planning.make_fingerprint(load_settings(mapping=file if content is not None else None, **flags))

    plain = fingerprint(None)
    assert "mapping" not in plain["settings"]
    prints = [
        plain, fingerprint("text = 'A'"), fingerprint("text = 'B'"), fingerprint("text = 'B'", patient_column="P"),
        fingerprint(None, text_column="C"),
    ]  # fmt: skip
    assert len({json.dumps(one, sort_keys=True) for one in prints}) == len(prints)
    assert all(json.loads(json.dumps(one)) == one for one in prints)  # a plan that is read back is the same
    assert fingerprint("text = 'A'  # the same, said otherwise\n") == prints[1]
    with pytest.raises(MedpipeError) as caught:
        fingerprint("txet = 'A'")
    assert caught.value.code == "SETTING_INVALID" and caught.value.exit_code == 2


def test_options_of_columns_reach_the_mapping() -> None:
    from medpipe.pipeline import planning
    from medpipe.settings import load_settings

    settings = load_settings(
        text_column="T", id_column="I", patient_column="P", encounter_column="E", date_column="D", type_column="Y"
    )
    assert planning.table_mapping(settings) == ColumnMapping(
        text=("T",), id=("I",), patient=("P",), encounter=("E",), date=("D",), type=("Y",)
    )
    assert planning.table_mapping(load_settings()) is None
