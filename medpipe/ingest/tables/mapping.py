"""Which column of a table is what: as the user says, as a known export calls them, or as their names suggest.

A mapping is a TOML file (``--mapping FILE.toml``), or the options ``--text-column``, ``--id-column``,
``--patient-column``, ``--encounter-column``, ``--date-column``, ``--type-column``, which win over the file. Every key
may be left out; without ``text`` the rest is laid over what the columns' names say. ::

    # notes.toml
    text = "NOTE_BODY"           # the note; of several, each filled column is a part under the column's name:
                                 # text = ["INDICATION", "FINDINGS", "IMPRESSION"]
    id = "DOC_ID"                # names the record; a value that stands twice gets the number of its row
    patient = "MRN"
    encounter = "CSN"
    date = ["SIGNED_AT", "DAY"]  # of several, the first that is filled
    time = "TIME_OF_DAY"         # joined to a date that has none
    type = "DOC_TYPE"            # what kind of note, in the source's words
    type_code = "LOINC"          # taken where it is a LOINC code
    language = "LANG"
    status = "STATUS"            # a withdrawn note (superseded, entered in error, …) is counted, not taken
    error = "ISERROR"            # true or 1: the note is marked as an error; counted, not taken
    media = "MIME_TYPE"          # of the text, or of the file
    file = "FILE_NAME"           # instead of text: the note is in a file of the same input
    line = "LINE"                # rows that follow one another and have one id are the lines of one note …
    join = "\\n"                  # … joined by this

    delimiter = "|"              # one character; found if not given
    quote = "'"                  # "" for none
    escape = "double"            # a quote in a quoted field is doubled; or "backslash": \\" and \\\\; or "letters":
                                 # no quotes at all, and \\n, \\t, \\\\, \\N as databases write them
    encoding = "cp1250"          # found if not given
    header = false               # no line of names: columns are numbers from 1, as in text = 7

A column is known by its name in any casing, with any punctuation (``note_text``, ``Note Text``, ``NOTETEXT``), or by
its number. A mapping belongs to the tables that have its text column; another table of the same run that is a known
export is read as such.
"""

from __future__ import annotations

import codecs
import io
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError

Names = tuple[str, ...]
ESCAPES = ("double", "backslash", "letters")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMapping:
    """What a mapping file and the options say; see the module's docstring."""

    text: Names = ()
    id: Names = ()
    patient: Names = ()
    encounter: Names = ()
    date: Names = ()
    time: Names = ()
    type: Names = ()
    type_code: Names = ()
    language: Names = ()
    status: Names = ()
    error: Names = ()
    media: Names = ()
    file: Names = ()
    line: Names = ()
    join: str = "\n"
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    header: bool = True

    def columns(self) -> dict[str, Names]:
        """Returns what is said of columns: ``{"text": ("NOTE_BODY",), …}``."""
        return {key: names for key in COLUMN_KEYS if (names := getattr(self, key))}

    def describe(self) -> dict[str, Any]:
        """Returns all that differs from saying nothing, for a run's fingerprint."""
        default = ColumnMapping()
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value  # as JSON gives it back
            for key, value in said.items()
            if value != getattr(default, key)
        }


COLUMN_KEYS = tuple(field.name for field in fields(ColumnMapping) if field.type == "Names")


def load_mapping(path: Path | None = None, **columns: str | None) -> ColumnMapping | None:
    """Returns what a mapping file and the options say of columns; ``None`` where they say nothing.

    Raises:
        MedpipeError: SETTING_INVALID where the file cannot be read, or a key or value of it is wrong.
    """
    said: dict[str, Any] = {}
    if path is not None:
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise _wrong(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # no TOML, or no UTF-8
            raise _wrong(f"{path}: {error}") from error
    said = {key: _checked(key, value) for key, value in said.items()}
    said |= {key: (name,) for key, name in columns.items() if name}
    return ColumnMapping(**said) if said else None


def _checked(key: str, value: Any) -> Any:
    """Returns the value of a key of a mapping file as the mapping holds it."""
    if key in COLUMN_KEYS:
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
            raise _wrong(f"{key} is a column's name or number, or a list of them")
        return tuple(str(one) for one in values)
    if key == "header":
        if not isinstance(value, bool):
            raise _wrong("header is true or false")
    elif key not in {field.name for field in fields(ColumnMapping)}:
        raise _wrong(f"there is no key {key}; the keys are {', '.join(field.name for field in fields(ColumnMapping))}")
    elif not isinstance(value, str):
        raise _wrong(f"{key} is a text")
    elif key == "delimiter" and (len(value) != 1 or value in '\r\n"'):
        raise _wrong("delimiter is one character")
    elif key == "quote" and (len(value) > 1 or value in ("\r", "\n")):
        raise _wrong("quote is one character, or none")
    elif key == "escape" and value not in ESCAPES:
        raise _wrong(f"escape is one of {', '.join(ESCAPES)}")
    elif key == "encoding":
        try:
            io.TextIOWrapper(io.BytesIO(), value)
            value = codecs.lookup(value).name
        except (LookupError, ValueError) as error:
            raise _wrong(f"there is no encoding {value}") from error
    return value


def _wrong(reason: str) -> MedpipeError:
    return MedpipeError("SETTING_INVALID", name="mapping", reason=reason)


# --- known exports ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """An export that is known by the names of its columns (lower case, letters and digits only)."""

    name: str  # for people: "OMOP note"
    needs: frozenset[str]  # all of them are there
    mapping: ColumnMapping | None = None  # None: its rows are not notes
    record: str = "note"  # what its records are called: "note/17"
    sparse: bool = False  # a row without text is no note, rather than an empty one


def shape(name: str, needs: str, *, record: str = "note", sparse: bool = False, **columns: str) -> Shape:
    """Makes a shape of names in one string each; ``text="a b"`` are alternatives in this order."""
    mapping = ColumnMapping(**{key: tuple(names.split()) for key, names in columns.items()}) if columns else None  # type: ignore[arg-type]
    return Shape(name, frozenset(needs.split()), mapping, record, sparse)


def other_shapes(model: str, tables: str) -> tuple[Shape, ...]:
    """Makes the shapes of tables without notes, a line each: ``name: columns``."""
    lines = (line.partition(": ") for line in tables.strip().splitlines())
    return tuple(shape(f"{model} {name}", needs) for name, _, needs in lines)


# OMOP CDM 5.0 to 5.4 (https://ohdsi.github.io/CommonDataModel/), and what version 6 and extensions add.
OMOP_NOTE = shape(
    "OMOP note", "noteid personid notetext", record="NOTE",
    text="notetext", id="noteid", patient="personid", encounter="visitoccurrenceid", date="notedatetime notedate",
    time="notetime", type="notetitle notesourcevalue notetype noteclass",
)  # fmt: skip
# The other tables, by columns that no other table has together.
OMOP_TABLES = """
note_nlp: notenlpid
person: personid genderconceptid
visit_occurrence: visitoccurrenceid visitconceptid
visit_detail: visitdetailid visitdetailconceptid
condition_occurrence: conditionoccurrenceid conditionconceptid
drug_exposure: drugexposureid drugconceptid
procedure_occurrence: procedureoccurrenceid procedureconceptid
device_exposure: deviceexposureid deviceconceptid
measurement: measurementid measurementconceptid
observation: observationid observationconceptid
observation_period: observationperiodid
specimen: specimenid specimenconceptid
death: personid deathdate
episode: episodeid episodeconceptid
episode_event: episodeid eventid
fact_relationship: factid1 factid2
location: locationid locationsourcevalue
location_history: locationid relationshiptypeconceptid
care_site: caresiteid caresitename
provider: providerid specialtyconceptid
payer_plan_period: payerplanperiodid payerplanperiodstartdate
cost: costid costtypeconceptid
visit_cost: visitcostid
drug_cost: drugcostid
procedure_cost: procedurecostid
device_cost: devicecostid
drug_era: drugeraid
dose_era: doseeraid
condition_era: conditioneraid
metadata: metadataconceptid metadatatypeconceptid
cdm_source: cdmsourcename
concept: conceptid conceptname vocabularyid
vocabulary: vocabularyid vocabularyname
domain: domainid domainname
concept_class: conceptclassid conceptclassname
concept_relationship: conceptid1 conceptid2
relationship: relationshipid relationshipname
concept_synonym: conceptid conceptsynonymname
concept_ancestor: ancestorconceptid descendantconceptid
source_to_concept_map: sourcecode targetconceptid
drug_strength: drugconceptid ingredientconceptid
cohort_definition: cohortdefinitionid cohortdefinitionname
cohort: cohortdefinitionid subjectid
cohort_attribute: cohortdefinitionid attributedefinitionid
attribute_definition: attributedefinitionid attributename
survey_conduct: surveyconductid
"""
OMOP_OTHERS = other_shapes("OMOP", OMOP_TABLES)
OMOP = (OMOP_NOTE, *OMOP_OTHERS)

I2B2_TABLES = """
observation_fact: patientnum conceptcd
patient_dimension: patientnum vitalstatuscd
visit_dimension: encounternum patientnum inoutcd
provider_dimension: providerid providerpath
concept_dimension: conceptcd conceptpath
modifier_dimension: modifiercd modifierpath
code_lookup: tablecd columncd codecd
patient_mapping: patientide patientnum
encounter_mapping: encounteride encounternum
"""
OTHERS = (
    # MIMIC-III NOTEEVENTS; MIMIC-IV-Note discharge and radiology, and their tables of details.
    shape(
        "MIMIC-III noteevents", "rowid subjectid category text", record="NOTEEVENTS",
        text="text", id="rowid", patient="subjectid", encounter="hadmid", date="charttime chartdate storetime",
        type="category description", error="iserror",
    ),
    shape(
        "MIMIC-IV note", "noteid subjectid text",
        text="text", id="noteid", patient="subjectid", encounter="hadmid", date="charttime storetime", type="notetype",
    ),
    shape("MIMIC-IV note detail", "noteid subjectid fieldname fieldvalue"),
    # eICU-CRD note: one row an item of a note; offsets are minutes since admission, so there is no date.
    shape(
        "eICU note", "noteid patientunitstayid notetext",
        text="notetext", id="noteid", encounter="patientunitstayid", type="notetype notepath",
    ),
    # i2b2 star schema: a fact may have a note in its blob; most facts are codes and values.
    shape(
        "i2b2 observation_fact", "patientnum conceptcd observationblob", record="fact", sparse=True,
        text="observationblob", id="instancenum", patient="patientnum", encounter="encounternum",
        date="startdate", type="tvalchar conceptcd", type_code="conceptcd",
    ),
    *other_shapes("i2b2", I2B2_TABLES),
    # Epic Clarity HNO_NOTE_TEXT: a note is many rows, in the order of LINE.
    shape(
        "Epic hno_note_text", "noteid line notetext",
        text="notetext", id="notecsnid noteid", patient="patid patmrnid", encounter="patenccsnid",
        date="contactdate createinstantdttm", type="notetype", status="notestatus", line="line",
    ),
    # Corpora in CSV: the text as it was written, not what annotators made of it.
    shape("MEDEC", "textid text sentences", text="text", id="textid"),
    shape("ACI-Bench", "encounterid dialogue note", text="note", id="encounterid", encounter="encounterid"),
    shape("MTSamples", "transcription samplename", text="transcription", type="medicalspecialty samplename"),
    # A list of files with notes.
    shape(
        "list of note files", "filename mimetype", file="filename", media="mimetype",
        id="id", patient="pid patientid", encounter="encounterid", date="date", type="title",
    ),
)  # fmt: skip

# --- tables that nobody knows -------------------------------------------------------------------

# What a column with notes is called: a name of an earlier line wins, two of one line leave it open.
TEXT_NAMES = tuple(
    frozenset(line.split())
    for line in (
        "notetext documenttext doctext reporttext clinicaltext clinicalnote clinicalnotes clinicalnotetext notecontent "
        "notecontents documentcontent documentbody notebody reportbody reportcontent textcontent fulltext rawtext "
        "freetext narrativetext bodyanalysed transcription dischargesummary radiologyreport sectiontext resulttext",
        "text report body content contents narrative",
        "note notes",
        "dialogue conversation transcript",
    )
)
SURE_TEXT_NAMES = TEXT_NAMES[0] | TEXT_NAMES[1]
REMARKS = TEXT_NAMES[2]  # may as well be remarks on something else, which few rows have
# Reports that are kept in parts: with all of the first names, the parts are those of both lists, in the table's order.
PARTS: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({"findings", "impression"}), frozenset({"indication", "technique", "comparison"})),
    (frozenset({"subjective", "objective", "assessment", "plan"}), frozenset()),
)
GUESSED = {
    "id": "noteid documentid docid reportid textid recordid noteguid documentguid notesid noteidentifier "
    "documentidentifier accessionnumber rowid uid guid uuid id key",
    "patient": "patientid personid subjectid mrn patientmrn patmrnid patid patientnum ptid pid medicalrecordnumber "
    "patientidentifier empi nhsnumber patientsid patienticn clientidcode personnum patientkey patient subject",
    "encounter": "encounterid visitoccurrenceid hadmid visitid patenccsnid csn encountercsn encounternum admissionid "
    "patientunitstayid stayid visitnum visitnumber encounternumber accountnumber encounter visit",
    "date": "notedatetime notedate charttime chartdate authoredat authoredon authordatetime authordate "
    "documentdatetime documentdate docdate reportdatetime reportdate servicedate dateofservice servicedatetime "
    "dateofnote signedat entrydatetime referencedate createdat creationdate createddate createdate effectivedate "
    "datetime timestamp date visitdate encounterdate contactdate",
    "time": "notetime timeofnote reporttime documenttime",
    "type": "notetype notetitle documenttype doctype reporttype notecategory notename documentname documenttitle "
    "documentdescription noteclass category medicalspecialty title type",
    "type_code": "loinc loinccode notetypecode typecode notetypeloinc",
    "language": "language lang languagecode",
    "status": "notestatus documentstatus docstatus reportstatus",
    "media": "mimetype contenttype mediatype",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Columns:
    """Which cells of a row are what: places by the keys of a mapping."""

    shape: str
    record: str
    places: Mapping[str, tuple[int, ...]]
    titles: tuple[str, ...] = ()  # of the columns of text, where there are several
    sparse: bool = False
    join: str = "\n"

    def at(self, key: str) -> tuple[int, ...]:
        """Returns the places of a key; none where the table has no such column."""
        return self.places.get(key, ())


@dataclass(frozen=True, slots=True)
class NotNotes:
    """A known table whose rows are not notes."""

    shape: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """A table of which nobody knows where its notes are."""

    reason: str


def plain(name: str) -> str:
    """Returns a column's name without casing and punctuation."""
    return re.sub(r"[\W_]+", "", name).lower()


def plain_names(names: Sequence[str]) -> list[str]:
    """Returns the names without casing and punctuation; ``note.note_id`` of a query is ``noteid``."""
    if len(names) > 1 and all("." in name for name in names):
        names = [name.rpartition(".")[2] for name in names]
    return [plain(name) for name in names]


def choose_columns(names: Sequence[str], mapping: ColumnMapping | None = None) -> Columns | NotNotes | Unclear:
    """Says what the columns of a table are."""
    known = recognise(names)
    if mapping is None or not mapping.columns():
        return known
    if mapping.text or mapping.file:
        if not any(_places(names, name) for name in (*mapping.text, *mapping.file)):
            named = (*mapping.text, *mapping.file)[0]
            return Unclear(f"there is no column {named}") if isinstance(known, Unclear) else known
    elif not isinstance(known, Columns):
        return known
    places: dict[str, tuple[int, ...]] = {}
    for key, wanted in mapping.columns().items():
        found = [_places(names, name) for name in wanted]
        missing = next((name for name, one in zip(wanted, found, strict=True) if not one), None)
        if missing is not None:
            return Unclear(f"there is no column {missing}")
        if key in ("text", "file") and any(len(one) > 1 for one in found):
            return Unclear("two columns have the same name")
        places[key] = tuple(one[0] for one in found)
    if isinstance(known, Columns):
        base = known
    else:
        base = _guessed(names, plain_names(names), places.get("text", ()), sparse=False)
    old = dict(base.places)
    if mapping.text or mapping.file:  # another text than the known one is another kind of record
        for key in ("text", "file", "line"):
            old.pop(key, None)
    places = old | places
    titles = _titles(names, places.get("text", ()))
    return replace(base, places=places, titles=titles, sparse=base.sparse and not mapping.text, join=mapping.join)


def recognise(names: Sequence[str]) -> Columns | NotNotes | Unclear:
    """Says what the columns of a table are, from their names alone."""
    bare = plain_names(names)
    there = set(bare)
    for known in (OMOP_NOTE, *OTHERS):
        if known.needs <= there and known.mapping is not None:
            return _of_shape(known, bare)
    if not there & SURE_TEXT_NAMES:
        for known in (*OMOP_OTHERS, *OTHERS):
            if known.needs <= there and known.mapping is None:
                return NotNotes(known.name)
    return _guess(names, bare)


def _of_shape(known: Shape, bare: Sequence[str]) -> Columns:
    assert known.mapping is not None
    places = {
        key: found
        for key, wanted in known.mapping.columns().items()
        if (found := tuple(bare.index(name) for name in wanted if name in bare))
    }
    return Columns(known.name, known.record, places, sparse=known.sparse)


def _guess(names: Sequence[str], bare: Sequence[str]) -> Columns | Unclear:
    """Takes the one column whose name says that it holds the notes, or the parts of a report."""
    there = set(bare)
    if not there & SURE_TEXT_NAMES:
        for needed, others in PARTS:
            if needed <= there:
                text = tuple(place for place, name in enumerate(bare) if name in needed | others)
                if len({bare[place] for place in text}) == len(text):
                    return _guessed(names, bare, text, sparse=False)
    named = next((line for line in TEXT_NAMES if line & there), frozenset())
    text = tuple(place for place, name in enumerate(bare) if name in named)
    if not text:
        return Unclear("no name of a column says so")
    if len(text) > 1:
        return Unclear("the names of several columns say so")
    guessed = _guessed(names, bare, text, sparse=named == REMARKS)
    if named == REMARKS and len(guessed.places) == 1 < len(names):  # of no patient, date or kind: of anything
        return Unclear("the name of one may mean remarks on something else")
    return guessed


def _guessed(names: Sequence[str], bare: Sequence[str], text: tuple[int, ...], *, sparse: bool) -> Columns:
    places = {"text": text} if text else {}
    for key, wanted in GUESSED.items():
        found = next((bare.index(name) for name in wanted.split() if name in bare), None)
        if found is not None and found not in text:
            places[key] = (found,)
    return Columns("table", "note", places, _titles(names, text), sparse)


def _titles(names: Sequence[str], text: tuple[int, ...]) -> tuple[str, ...]:
    if len(text) < 2:
        return ()
    return tuple(re.sub(r"[\s_]+", " ", names[place]).strip() or f"Column {place + 1}" for place in text)


def _places(names: Sequence[str], wanted: str) -> tuple[int, ...]:
    """Returns where a column is: by its name as written, by its bare name, or by its number."""
    exact = tuple(place for place, name in enumerate(names) if name == wanted)
    bare = plain(wanted)
    alike = tuple(place for place, name in enumerate(plain_names(names)) if name == bare and bare)
    if exact or alike:
        return exact or alike
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted[:9]) <= len(names):
        return (int(wanted) - 1,)
    return ()
