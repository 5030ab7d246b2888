"""OMOP CDM 5.4: the tables NOTE and NOTE_NLP, as CSV or Parquet, with the fields, types and lengths that it publishes.

After https://ohdsi.github.io/CommonDataModel/cdm54.html#note and #note_nlp. Ids are integers there and hashes here, so
they are numbered anew in every export; ``medpipe_*`` files beside the two tables lead back.

- PERSON: ``person_id`` is looked up in a table with ``person_id`` and ``person_source_value`` (a PERSON table has
  both); notes of patients that it does not hold are left out and counted. Without such a table patients are numbered.
  A note without a patient has no place in OMOP: it is left out and counted.
- Concepts need the vocabularies, which are not ours to give: with a folder from Athena (``CONCEPT.csv``,
  ``CONCEPT_RELATIONSHIP.csv``) note classes and sections (LOINC) and mentions are mapped; else they are 0, "no
  matching concept".
- ``note_date`` must not be null: where the source tells none it is the day of the partition, and counted.
  ``note_datetime`` is null where the source writes no time.
- ``term_exists`` is N for what is negated, hypothetical or of the family, as the field's description asks.
- ``offset`` is the first code point, as text; all else of a mention stands in ``term_modifiers``: label, extent,
  fragments, assertions, score, code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from medpipe.errors import MedpipeError
from medpipe.export.catalog import literal, open_catalog
from medpipe.export.folder import check_partitions, whole_folder
from medpipe.lake import files

if TYPE_CHECKING:
    import duckdb

FORMATS = ("csv", "parquet")
BATCH_ROWS = 1 << 14

EHR = 32817  # type concept: the record comes from an EHR
UTF8 = 32678
ENGLISH = 4180186
NO_CONCEPT = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a CDM table. ``length`` is that of a varchar; ``None``: varchar(MAX)."""

    name: str
    type: str  # integer, date, datetime, varchar
    required: bool = False
    length: int | None = None

    @property
    def arrow(self) -> pa.Field:
        """The field as Arrow has it."""
        kinds = {"integer": pa.int32(), "date": pa.date32(), "datetime": pa.timestamp("us"), "varchar": pa.string()}
        return pa.field(self.name, kinds[self.type], nullable=not self.required)


FIELDS = {
    "note": (
        Field("note_id", "integer", True),
        Field("person_id", "integer", True),
        Field("note_date", "date", True),
        Field("note_datetime", "datetime"),
        Field("note_type_concept_id", "integer", True),
        Field("note_class_concept_id", "integer", True),
        Field("note_title", "varchar", False, 250),
        Field("note_text", "varchar", True),
        Field("encoding_concept_id", "integer", True),
        Field("language_concept_id", "integer", True),
        Field("provider_id", "integer"),
        Field("visit_occurrence_id", "integer"),
        Field("visit_detail_id", "integer"),
        Field("note_source_value", "varchar", False, 50),
        Field("note_event_id", "integer"),
        Field("note_event_field_concept_id", "integer"),
    ),
    "note_nlp": (
        Field("note_nlp_id", "integer", True),
        Field("note_id", "integer", True),
        Field("section_concept_id", "integer"),
        Field("snippet", "varchar", False, 250),
        Field("offset", "varchar", False, 50),
        Field("lexical_variant", "varchar", True, 250),
        Field("note_nlp_concept_id", "integer"),
        Field("note_nlp_source_concept_id", "integer"),
        Field("nlp_system", "varchar", False, 250),
        Field("nlp_date", "date", True),
        Field("nlp_datetime", "datetime"),
        Field("term_exists", "varchar", False, 1),
        Field("term_temporal", "varchar", False, 50),
        Field("term_modifiers", "varchar", False, 2000),
    ),
    # Not of OMOP: what leads back.
    "medpipe_note": (
        Field("note_id", "integer", True),
        Field("document_id", "varchar", True),
        Field("dt", "date", True),
    ),
    "medpipe_note_nlp": (Field("note_nlp_id", "integer", True), Field("entity_id", "varchar", True)),
    "medpipe_person": (Field("person_id", "integer", True), Field("person_source_value", "varchar", True)),
}

NOTES = f"""
    SELECT n.note_id, n.person_id, coalesce(d.authored_at AT TIME ZONE 'UTC', d.dt)::DATE AS note_date,
        CASE WHEN d.authored_at_precision IS DISTINCT FROM 'day' THEN d.authored_at AT TIME ZONE 'UTC' END
            AS note_datetime, {EHR} AS note_type_concept_id,
        coalesce(class.concept_id, {NO_CONCEPT}) AS note_class_concept_id, left(d.note_type, 250) AS note_title,
        d.text AS note_text, {UTF8} AS encoding_concept_id,
        CASE WHEN d.language = 'en' OR d.language LIKE 'en-%' THEN {ENGLISH} ELSE {NO_CONCEPT} END
            AS language_concept_id,
        NULL AS provider_id, NULL AS visit_occurrence_id, NULL AS visit_detail_id,
        left(coalesce(d.note_type_code, d.note_type), 50) AS note_source_value, NULL AS note_event_id,
        NULL AS note_event_field_concept_id
    FROM documents d JOIN numbers n USING (document_id, dt)
    LEFT JOIN concepts class ON class.system = 'loinc' AND class.code = d.note_type_code
    WHERE d.dt = ? ORDER BY n.note_id"""

MENTIONS = f"""
    SELECT n.note_id, coalesce(part.concept_id, {NO_CONCEPT}) AS section_concept_id,
        substring(d.text, greatest(e."start" - 99, 1), 250) AS snippet, e."start"::VARCHAR AS "offset",
        left(e.text, 250) AS lexical_variant, coalesce(c.concept_id, {NO_CONCEPT}) AS note_nlp_concept_id,
        coalesce(c.source_concept_id, {NO_CONCEPT}) AS note_nlp_source_concept_id,
        left('medpipe ' || coalesce(r.code_version || ' ', '') || e.model, 250) AS nlp_system,
        coalesce(r.finished_at AT TIME ZONE 'UTC', e.dt)::DATE AS nlp_date,
        r.finished_at AT TIME ZONE 'UTC' AS nlp_datetime,
        CASE WHEN e.negated OR e.hypothetical OR e.family THEN 'N' ELSE 'Y' END AS term_exists,
        CASE WHEN e.historical THEN 'Past' ELSE 'Present' END AS term_temporal,
        'Label=' || e.label || ';Span=' || e."start" || '-' || e."end"
            || coalesce(';Fragments=' || nullif(left(array_to_string(
                list_transform(e.fragments, lambda part: part."start" || '-' || part."end"), ','), 1000), ''), '')
            || ';Negation=' || e.negated || ';Subject=' || CASE WHEN e.family THEN 'family' ELSE 'patient' END
            || ';Conditional=' || e.hypothetical || ';Uncertain=' || e.uncertain || ';History=' || e.historical
            || ';Score=' || round(e.score, 4)
            || coalesce(';Code=' || left(e.code_system || ' ' || e.code, 500), '') AS term_modifiers,
        e.entity_id
    FROM entities e JOIN numbers n USING (document_id, dt) JOIN documents d USING (document_id, dt)
    LEFT JOIN sections s ON s.section_id = e.section_id AND s.dt = e.dt
    LEFT JOIN runs r ON r.run_id = e.run_id AND r.dt = e.dt
    LEFT JOIN concepts part ON part.system = 'loinc' AND part.code = s.code
    LEFT JOIN concepts c ON c.system = regexp_replace(lower(e.code_system), '[^a-z0-9]', '', 'g') AND c.code = e.code
    WHERE e.dt = ? ORDER BY n.note_id, e."start", e."end", e.entity_id"""


def export_omop(
    root: Path,
    out: Path,
    *,
    partition: str | None = None,
    format: str = "csv",
    persons: Path | None = None,
    vocabulary: Path | None = None,
) -> dict[str, int]:
    """Writes the notes of a warehouse and what was found in them as tables of OMOP.

    A note that stands in several partitions is written once, as the last of them has it. Held in memory at a time: some
    rows, the numbers of the notes, and what DuckDB keeps while it sorts a partition (it spills to disk).

    Args:
        root: the warehouse.
        out: the folder; it must not exist yet or be empty.
        partition: ``YYYY-MM-DD``; all if not given.
        format: ``csv`` or ``parquet``.
        persons: CSV or Parquet with ``person_id`` and ``person_source_value``.
        vocabulary: folder with ``CONCEPT.csv`` and ``CONCEPT_RELATIONSHIP.csv`` as Athena gives them.

    Returns:
        Rows of ``note`` and ``note_nlp``; how many notes are ``without_patient``, or of a patient ``without_person``,
        and so left out; how many are ``dated_by_partition``.

    Raises:
        MedpipeError: WAREHOUSE_INVALID, OUTPUT_EXISTS, TABLE_INVALID, SETTING_INVALID, DISK_FULL, PERMISSION_DENIED.
    """
    if format not in FORMATS:
        raise MedpipeError("SETTING_INVALID", name="--format", reason=f"{format!r} is none of {', '.join(FORMATS)}")
    partitions = check_partitions(root, partition)
    catalog = open_catalog(root)
    counts = number_notes(catalog, partition, persons)
    load_concepts(catalog, vocabulary)
    with whole_folder(out) as folder:
        counts["note"] = write_rows(folder, "note", format, query(catalog, NOTES, partitions))
        mentions = number_mentions(query(catalog, MENTIONS, partitions))
        counts["note_nlp"] = write_pairs(folder, format, mentions)
        for name, sql in (
            ("medpipe_note", "SELECT note_id, document_id, dt FROM numbers ORDER BY note_id"),
            ("medpipe_person", "SELECT DISTINCT person_id, patient_id AS person_source_value FROM numbers ORDER BY 1"),
        ):
            write_rows(folder, name, format, iter(catalog.sql(sql).to_arrow_reader(BATCH_ROWS)))
    catalog.close()
    return counts


def number_notes(catalog: duckdb.DuckDBPyConnection, partition: str | None, persons: Path | None) -> dict[str, int]:
    """Makes the table ``numbers``: which documents are written, with the numbers of note and person."""
    where = f"WHERE dt = {literal(partition)}::DATE" if partition is not None else ""
    catalog.execute(
        "CREATE TEMP TABLE wanted AS SELECT document_id, max(dt) AS dt, arg_max(patient_id, dt) AS patient_id,"
        f" arg_max(authored_at IS NULL, dt) AS undated FROM documents {where} GROUP BY document_id"
    )
    if persons is None:
        numbered = (
            "SELECT patient_id, row_number() OVER (ORDER BY patient_id)::INTEGER AS person_id"
            " FROM (SELECT DISTINCT patient_id FROM wanted WHERE patient_id IS NOT NULL)"
        )
    else:
        read = read_table(catalog, persons, ("person_id", "person_source_value"))
        numbered = (
            "SELECT person_source_value::VARCHAR AS patient_id, any_value(person_id::INTEGER) AS person_id"
            f" FROM {read} GROUP BY ALL"
        )
    with table_errors(persons):
        catalog.execute(f"CREATE TEMP TABLE persons AS {numbered}")
    catalog.execute(
        "CREATE TEMP TABLE numbers AS"
        " SELECT row_number() OVER (ORDER BY dt, document_id)::INTEGER AS note_id, person_id, document_id, dt,"
        " patient_id, undated FROM wanted JOIN persons USING (patient_id)"
    )
    found = catalog.execute(
        "SELECT (SELECT count(*) FROM wanted WHERE patient_id IS NULL), (SELECT count(*) FROM wanted ANTI JOIN numbers"
        " USING (document_id) WHERE patient_id IS NOT NULL), (SELECT count(*) FROM numbers WHERE undated)"
    ).fetchone()
    assert found is not None
    return dict(zip(("without_patient", "without_person", "dated_by_partition"), found, strict=True))


def load_concepts(catalog: duckdb.DuckDBPyConnection, vocabulary: Path | None) -> None:
    """Makes the table ``concepts``: of each code its own concept and the standard one that it maps to."""
    catalog.execute(
        "CREATE TEMP TABLE concepts (system VARCHAR, code VARCHAR, source_concept_id INTEGER, concept_id INTEGER)"
    )
    if vocabulary is None:
        return
    concepts, relationships = vocabulary / "CONCEPT.csv", vocabulary / "CONCEPT_RELATIONSHIP.csv"
    columns = ("concept_id", "vocabulary_id", "concept_code", "standard_concept")
    concept = read_table(catalog, concepts, columns, athena=True)
    relationship = read_table(catalog, relationships, ("concept_id_1", "concept_id_2", "relationship_id"), athena=True)
    with table_errors(vocabulary):
        catalog.execute(f"""
            INSERT INTO concepts
            WITH used AS (
                SELECT 'loinc' AS system, note_type_code AS code FROM documents UNION
                SELECT 'loinc', code FROM sections UNION
                SELECT regexp_replace(lower(code_system), '[^a-z0-9]', '', 'g'), code FROM entities
            ), own AS (
                SELECT system, code, concept_id::INTEGER AS concept_id, standard_concept = 'S' AS standard
                FROM {concept} c JOIN used ON used.code = c.concept_code
                    AND used.system = regexp_replace(lower(c.vocabulary_id), '[^a-z0-9]', '', 'g')
            ), mapped AS (
                SELECT concept_id_1::INTEGER AS concept_id, min(concept_id_2::INTEGER) AS target
                FROM {relationship} WHERE relationship_id = 'Maps to' GROUP BY ALL
            )
            SELECT system, code, min(concept_id), min(CASE WHEN standard THEN concept_id ELSE target END)
            FROM own LEFT JOIN mapped USING (concept_id) GROUP BY system, code""")


def read_table(
    catalog: duckdb.DuckDBPyConnection, path: Path, columns: tuple[str, ...], *, athena: bool = False
) -> str:
    """Returns the SQL that reads a table of others; Athena's is tab-separated and does not quote.

    Raises:
        MedpipeError: TABLE_INVALID where the file or a column is missing; INPUT_NOT_FOUND.
    """
    if not path.is_file():
        raise MedpipeError("INPUT_NOT_FOUND", path=path)
    if path.suffix == ".parquet":
        sql = f"read_parquet({literal(str(path))})"
    else:
        dialect = ", delim = '\t', quote = '', escape = ''" if athena else ""
        sql = f"read_csv({literal(str(path))}, header = true, all_varchar = true{dialect})"
    with table_errors(path):
        known = {name.lower() for name in catalog.sql(f"SELECT * FROM {sql} LIMIT 0").columns}
    missing = [name for name in columns if name not in known]
    if missing:
        raise MedpipeError("TABLE_INVALID", where=f"{path.name} has no column {missing[0]}")
    return sql


@contextmanager
def table_errors(path: Path | None) -> Iterator[None]:
    """Turns what DuckDB says of a file that somebody gave into TABLE_INVALID; its message may quote rows."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if path is None:
            raise
        raise MedpipeError("TABLE_INVALID", where=f"{path.name} ({type(error).__name__})") from None


# --- rows -----------------------------------------------------------------------------------


def query(catalog: duckdb.DuckDBPyConnection, sql: str, partitions: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a query, partition by partition."""
    for partition in partitions:
        yield from catalog.sql(sql, params=[partition]).to_arrow_reader(BATCH_ROWS)


def number_mentions(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yields the rows with ``note_nlp_id`` in front, from 1."""
    done = 0
    for batch in batches:
        numbers = pa.array(range(done + 1, done + 1 + len(batch)), pa.int32())
        yield pa.Table.from_batches([batch]).add_column(0, "note_nlp_id", numbers)
        done += len(batch)


def write_pairs(folder: Path, format: str, tables: Iterator[pa.Table]) -> int:
    """Writes ``note_nlp`` and ``medpipe_note_nlp``, which have the same rows, and returns how many."""
    rows = 0
    with (
        TableWriter(folder, "note_nlp", format) as mentions,
        TableWriter(folder, "medpipe_note_nlp", format) as origins,
    ):
        for table in tables:
            mentions.write(table)
            origins.write(table)
            rows += len(table)
    return rows


def write_rows(folder: Path, name: str, format: str, batches: Iterator[pa.RecordBatch]) -> int:
    """Writes a table and returns how many rows it has."""
    rows = 0
    with TableWriter(folder, name, format) as writer:
        for batch in batches:
            writer.write(pa.Table.from_batches([batch]))
            rows += len(batch)
    return rows


class TableWriter:
    """Writes a CDM table, batch by batch; with a header also where there are no rows."""

    def __init__(self, folder: Path, name: str, format: str) -> None:
        self.fields = FIELDS[name]
        self.schema = pa.schema([field.arrow for field in self.fields])
        path = folder / f"{name}.{format}"
        self.file = files.open_writer(path, self.schema) if format == "parquet" else pa.csv.CSVWriter(path, self.schema)

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, table: pa.Table) -> None:
        """Writes the fields of the CDM table that ``table`` has, and perhaps more.

        Raises:
            MedpipeError: CONTRACT_BROKEN where a required field is null or a text is too long: a bug, not the data.
        """
        columns = []
        for field in self.fields:
            column = table[field.name].cast(field.arrow.type)
            longest = pc.max(pc.utf8_length(column)).as_py() if field.length and len(column) else None
            if (field.required and column.null_count) or (longest or 0) > (field.length or 0) > 0:
                raise MedpipeError("CONTRACT_BROKEN", table="OMOP", reason=f"{field.name} does not fit its field")
            columns.append(column)
        self.file.write_table(pa.Table.from_arrays(columns, schema=self.schema))
