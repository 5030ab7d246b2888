"""Terminologies: which terms have which codes. Files that a site supplies, and ICD-10-CM where a package has it.

A file is CSV, TSV or Parquet with the columns ``code``, ``system``, ``term`` and, where wanted, ``label`` (the kind of
mention that the term is for: DISEASE, SYMPTOM, DRUG; empty for all three) and ``preferred`` (a flag: the main term of
its code). More columns do no harm. A row that stands twice counts twice.

ICD-10-CM is read from the tabular list that the package ``simple-icd-10-cm`` carries (code set in the public domain,
package under MIT); the package itself is not imported. Its chapters XX and XXI (external causes, encounters) name no
diseases and are left out, and so are the codes for "other" diseases, which say what a disease is not.
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file
from medpipe.tag.abbreviations import match_long_form
from medpipe.tag.terms import LONGEST, make_key, normal_words

CODED = ("DISEASE", "SYMPTOM", "DRUG")  # labels whose mentions may have a code
ICD_LABELS = ("DISEASE", "SYMPTOM")
ICD_SYSTEM = "ICD-10-CM"
ICD_PACKAGE = "simple-icd-10-cm"
INDEX_FILE = Path(__file__).parent / "icd10cm.toml"

MOST_ROWS = 3_000_000  # of one file; all of SNOMED CT has about 1.5 million English terms
MOST_BYTES = 2 << 30
LONGEST_FIELD = 100_000  # characters of one field of a CSV file
PREFERRED = 4.0  # weight of a code's main term, of any other 1
FLAGS = {"": False, "0": False, "false": False, "no": False, "n": False, "f": False, "none": False}
FLAGS |= {"1": True, "true": True, "yes": True, "y": True, "t": True}


@dataclass(slots=True)
class Terms:
    """Rows of terminologies, column by column."""

    code: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    term: list[str] = field(default_factory=list)
    words: list[tuple[str, ...]] = field(default_factory=list)  # normal words of the term
    labels: list[tuple[str, ...]] = field(default_factory=list)  # of mentions that the term is for
    weight: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.term)

    def add(
        self, code: str, system: str, term: str, labels: tuple[str, ...] = CODED, weight: float = 1.0,
        words: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        """Adds a row."""
        self.code.append(code)
        self.system.append(system)
        self.term.append(term)
        self.words.append(normal_words(term) if words is None else words)
        self.labels.append(labels)
        self.weight.append(weight)

    def extend(self, other: Terms) -> None:
        """Adds the rows of another."""
        for mine, theirs in zip(self._columns(), other._columns(), strict=True):
            mine += theirs

    def _columns(self) -> tuple[list, ...]:
        return self.code, self.system, self.term, self.words, self.labels, self.weight


def as_paths(terminology: Sequence[Path] | Path | None) -> tuple[Path, ...]:
    """Returns the files that the setting ``terminology`` names."""
    if terminology is None:
        return ()
    return (terminology,) if isinstance(terminology, Path) else tuple(terminology)


def identify(paths: Sequence[Path]) -> list[str]:
    """Returns what decides the codes: hashes of the files, and the release of ICD-10-CM.

    Raises:
        MedpipeError: INPUT_NOT_FOUND, INPUT_UNREADABLE.
    """
    found = []
    for path in paths:
        try:
            found.append(hash_file(str(path)))
        except FileNotFoundError as error:
            raise MedpipeError("INPUT_NOT_FOUND", path=path) from error
        except OSError as error:
            raise MedpipeError("INPUT_UNREADABLE", path=path, reason=error.strerror) from error
    release = find_icd10cm()
    return [*found, f"{ICD_SYSTEM} {release.name}"] if release else found


# --- files of a site ------------------------------------------------------------------------


def read_terminology(path: Path, terms: Terms) -> None:
    """Adds the rows of a file to ``terms``.

    Raises:
        MedpipeError: INPUT_NOT_FOUND, INPUT_UNREADABLE; TERMINOLOGY_INVALID with the row, where it is no terminology.
    """
    if not path.is_file():
        raise MedpipeError("INPUT_NOT_FOUND", path=path)
    read = _read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv

    def refuse(reason: str) -> MedpipeError:
        return MedpipeError("TERMINOLOGY_INVALID", path=path, reason=reason)

    if path.stat().st_size > MOST_BYTES:
        raise refuse(f"it has more than {MOST_BYTES >> 20:,} MiB")
    before = len(terms)
    number = 1
    try:
        for number, row in enumerate(read(path, refuse), 1):
            if number > MOST_ROWS:
                raise refuse(f"it has more than {MOST_ROWS:,} rows")
            _add_row(terms, row, number, refuse)
    except OSError as error:
        raise MedpipeError("INPUT_UNREADABLE", path=path, reason=error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise refuse("it is not UTF-8") from error
    except csv.Error as error:
        raise refuse(f"row {number + 1} is no CSV ({error})") from error
    if len(terms) == before:
        raise refuse("it has no rows")


Row = tuple[str, str, str, str, str]  # code, system, term, label, preferred
Refuse = Callable[[str], MedpipeError]


def _add_row(terms: Terms, row: Row, number: int, refuse: Refuse) -> None:
    code, system, term, label, preferred = (" ".join(value.split()) for value in row)
    for name, value in (("code", code), ("system", system), ("term", term)):
        if not value:
            raise refuse(f"row {number} has no {name}")
    label = label.upper()
    if label and label not in CODED:
        raise refuse(f"the label of row {number} is none of {', '.join(CODED)}")
    flag = FLAGS.get(preferred.lower())
    if flag is None:
        raise refuse(f"the flag preferred of row {number} is neither true nor false")
    terms.add(code, system, term, (label,) if label else CODED, PREFERRED if flag else 1.0)


def _columns(names: Sequence[str], refuse: Refuse) -> tuple[int, int, int, int, int]:
    """Returns the places of the five columns; -1 for an optional one that is not there."""
    low = [name.strip().lower() for name in names]
    missing = [name for name in ("code", "system", "term") if name not in low]
    if missing:
        raise refuse(f"it has no column {', '.join(missing)}")
    code, system, term, label, preferred = (
        low.index(name) if name in low else -1 for name in ("code", "system", "term", "label", "preferred")
    )
    return code, system, term, label, preferred


def _read_csv(path: Path, refuse: Refuse) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))  # what is too long is refused with its row
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline(LONGEST_FIELD)
        file.seek(0)
        separator = max("\t,;|", key=head.count)
        # RF2 files of SNOMED CT and others with tabs have quotes as plain characters.
        plain = separator == "\t"
        rows = csv.reader(
            file, delimiter=separator, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, strict=not plain
        )
        columns = _columns(next(rows, []), refuse)
        least = max(columns) + 1
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            if len(row) < least:
                raise refuse(f"row {number} has {len(row)} fields, fewer than the head")
            if max(map(len, row)) > LONGEST_FIELD:
                raise refuse(f"row {number} has a field of more than {LONGEST_FIELD:,} characters")
            code, system, term, label, preferred = (row[at] if at >= 0 else "" for at in columns)
            yield code, system, term, label, preferred


def _read_parquet(path: Path, refuse: Refuse) -> Iterator[Row]:
    import pyarrow as pa

    from medpipe.lake.files import DamagedFileError, read_table

    try:
        table = read_table(path)
        columns = _columns(table.column_names, refuse)
        values = [
            table.column(at).cast(pa.string()).fill_null("").to_pylist() if at >= 0 else [""] * len(table)
            for at in columns
        ]
    except (pa.ArrowException, DamagedFileError) as error:
        raise refuse("it cannot be read as Parquet") from error
    yield from zip(*values, strict=True)


# --- ICD-10-CM ------------------------------------------------------------------------------

EXTERNAL = re.compile(r"[V-Z]")  # chapters that name no diseases, by their first letter
NO_NAME = re.compile(r"other\b(?! and unspecified| or unspecified)|(?:any )?conditions?\b", re.IGNORECASE)
ELSEWHERE = re.compile(
    r",?\s*(?:\bNEC\b|\bNOS\b|not elsewhere classified|not otherwise specified|classified elsewhere)", re.IGNORECASE
)
UNSPECIFIED = re.compile(
    r",\s*(?:(?:of\s+)?unspecified(?:\s+(?!with|due|in\b)\w+)*|[a-z]+ not specified)(?=,|$)"
    r"|^other (?:and|or) unspecified\s+",
    re.IGNORECASE,
)
BRACKET = re.compile(r"\s*\[([^\]]*)\]")
COORDINATED = re.compile(r"([^\W\d_]+) and ([^\W\d_]+)")
PERSON = re.compile(r"\s*\w?|[A-Z][a-z'\u2019-]+(?:[- ][A-Z][a-z'\u2019]+)*")
ROUND = re.compile(r"\s*\([^)]*\)")


def find_icd10cm() -> Path | None:
    """Returns the tabular list of ICD-10-CM, if the package that carries it is installed."""
    spec = find_spec(ICD_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    lists = sorted(Path(spec.submodule_search_locations[0]).glob("data/icd10c*tabular*.xml"))
    return lists[-1] if lists else None


def read_icd10cm(path: Path, terms: Terms) -> None:
    """Adds the diseases and symptoms of a tabular list (XML as the CDC publishes it) to ``terms``.

    A term that a code shares with one below it is the lower one's: ``J18`` and ``J18.9`` are both called "Pneumonia,
    unspecified organism", and a code that is not cut short is what the guidelines ask for. Where the Alphabetic Index
    has a name that the list lacks or gives to several codes (``icd10cm.toml``), the index decides.

    Raises:
        MedpipeError: TERMINOLOGY_INVALID where it cannot be read.
    """
    rows: dict[tuple[str, str], tuple[str, tuple[str, ...], float]] = {}  # (key, code) -> term, its words, weight
    by_key: dict[str, list[str]] = {}
    codes = set()
    for code, names in _read_tabular(path):
        codes.add(code)
        for number, text in enumerate(names):
            for variant in icd_variants(text):
                words = normal_words(variant)
                key = make_key(words)
                if key and (key, code) not in rows:
                    rows[key, code] = variant, words, 1.0 if number else PREFERRED
                    by_key.setdefault(key, []).append(code)
    for term, code in tomllib.loads(INDEX_FILE.read_text(encoding="utf-8")).items():
        words = normal_words(term)
        key = make_key(words)
        if code in codes:
            for one in by_key.get(key, ()):
                del rows[key, one]
            rows[key, code] = term, words, PREFERRED
            by_key[key] = [code]
    for (key, code), (term, words, weight) in rows.items():
        if not any(one != code and one.startswith(code) for one in by_key[key]):
            terms.add(code, ICD_SYSTEM, term, ICD_LABELS, weight, words)


def _read_tabular(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields each code with its description and its inclusion terms, a code after those below it."""
    from xml.etree import ElementTree

    try:
        # A file of an installed package, not of an input.
        for _, entry in ElementTree.iterparse(path):  # noqa: S314
            if entry.tag == "diag":
                code = (entry.findtext("name") or "").strip()
                notes = [
                    note.text or "" for kind in ("inclusionTerm", "includes") for note in entry.iterfind(f"{kind}/note")
                ]
                if code and not EXTERNAL.match(code):
                    yield code, [entry.findtext("desc") or "", *notes]
                entry.clear()  # what is read need not stay in memory
    except (OSError, ElementTree.ParseError) as error:
        raise MedpipeError("TERMINOLOGY_INVALID", path=path, reason=type(error).__name__) from error


def icd_variants(text: str) -> list[str]:
    """Returns what a description or inclusion term of ICD-10-CM calls its code, each in plain words.

    Words in round brackets may be there or not (ICD-10-CM Official Guidelines, I.A.7), those in square brackets say the
    same in another way, but a single name in them is that of a person, and letters that the words do not have stand for
    something else; "A and B" means either (I.A.14), where both are words by themselves; "unspecified" and its like add
    nothing. "Other …" and "conditions in …" name nothing.
    """
    text = " ".join(text.split())
    if not text or len(text) > LONGEST or NO_NAME.match(text):
        return []
    text = UNSPECIFIED.sub("", ELSEWHERE.sub("", text))
    bare = BRACKET.sub("", text)
    found = [
        ROUND.sub("", bare),
        *_coordinated(bare),
        *(inside for inside in BRACKET.findall(text) if _is_name(inside, bare)),
    ]
    if "(" in bare:
        found.append(bare)
    return [variant.strip(" ,;:") for variant in dict.fromkeys(found) if variant.strip(" ,;:")]


def _is_name(inside: str, before: str) -> bool:
    """Returns whether what square brackets hold is a name: no person, and no letters that the words do not have."""
    if inside.isupper() and len(inside.split()) == 1:
        return match_long_form(inside, before) is not None
    return PERSON.fullmatch(inside) is None


def _coordinated(text: str) -> tuple[str, ...]:
    """Returns the two words of "syncope and collapse", nothing of any other text."""
    match = COORDINATED.fullmatch(text)
    return match.groups() if match else ()
