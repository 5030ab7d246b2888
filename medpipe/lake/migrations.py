"""Major versions: how rows of the one before become rows of the next.

A minor version needs nothing here: its new columns are null in old rows. For each table and major version that a later
one follows, ``MIGRATIONS`` has what makes the next of it: a function over Arrow, and the same as SQL, for the views of
the catalogue; a test holds the two to equal rows. A migration knows the columns of both its versions by name and passes
on all others, so that it stays right when later minor versions add some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import CODES


@dataclass(frozen=True, slots=True)
class Migration:
    """From one major version of a table to the next."""

    rows: Callable[[pa.Table], pa.Table]
    columns: dict[str, str]  # column -> SQL over a row of the old version, for the columns that change


# --- quarantine 1 -> 2: `message` says what happened and no more, `remedy` what to do ---------


def _quarantine_1(rows: pa.Table) -> pa.Table:
    """Cuts the remedy off the message; where the message ends otherwise (another wording then), it stays whole."""
    codes = pa.array(sorted(CODES), pa.string())
    remedies = pa.array([CODES[code].remedy for code in sorted(CODES)], pa.string())
    remedy = pc.fill_null(remedies.take(pc.index_in(rows["code"].combine_chunks(), codes)), "")
    message = rows["message"].combine_chunks()
    ending = pc.binary_join_element_wise(" ", remedy, "")
    length = pc.subtract(pc.utf8_length(message), pc.utf8_length(ending))
    pairs = zip(message.to_pylist(), ending.to_pylist(), length.to_pylist(), strict=True)
    cut = [text[:end] if len(tail) > 1 and text.endswith(tail) else text for text, tail, end in pairs]
    index = rows.schema.get_field_index("message")
    return rows.set_column(index, "message", pa.array(cut, pa.string())).append_column("remedy", remedy)


def _remedy_sql() -> str:
    """Returns the remedy of ``code`` as SQL."""
    quoted = {code: kind.remedy.replace("'", "''") for code, kind in CODES.items()}
    cases = " ".join(f"WHEN '{code}' THEN '{remedy}'" for code, remedy in sorted(quoted.items()))
    return f"CASE code {cases} ELSE '' END"


def _message_sql() -> str:
    remedy = _remedy_sql()
    return (
        f"CASE WHEN {remedy} <> '' AND ends_with(message, ' ' || {remedy})"
        f" THEN left(message, length(message) - length({remedy}) - 1) ELSE message END"
    )


MIGRATIONS: dict[tuple[str, int], Migration] = {
    ("quarantine", 1): Migration(_quarantine_1, {"message": _message_sql(), "remedy": _remedy_sql()}),
}
