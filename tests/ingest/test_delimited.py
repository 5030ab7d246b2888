"""Delimited text: what a writer wrote is read back exactly; what is broken costs its row and no other."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.ingest.tables import delimited
from medpipe.ingest.tables.delimited import Layout, find_encoding, find_layout, mend, open_lines, read_rows
from medpipe.ingest.tables.mapping import ColumnMapping, choose_columns

NAMES = ["note_id", "person_id", "note_text", "note_title"]


def layout_of(raw: bytes, mapping: ColumnMapping | None = None) -> Layout:
    text = open_lines(io.BytesIO(raw), find_encoding(raw)).stream.read()
    found = find_layout(
        text[:65536], whole=len(text) < 65536, choose=lambda names: choose_columns(names, mapping), mapping=mapping
    )
    assert found is not None
    return found


def rows_of(content: str | bytes, mapping: ColumnMapping | None = None) -> list[Any]:
    """The values of good rows and the problems of broken ones."""
    raw = content if isinstance(content, bytes) else content.encode()
    layout = layout_of(raw, mapping)
    lines = open_lines(io.BytesIO(raw), find_encoding(raw))
    for _ in range(layout.above):
        next(lines)
    if mapping is None or mapping.header:
        next(layout.dialect.split(lines))
    lines.keep()

    def begins(values: Sequence[str]) -> bool:
        return " " not in values[0]

    rows = list(read_rows(lines, layout.dialect, len(layout.names), begins))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return [row.problem if row.values is None else list(row.values) for row in rows]


def written(rows: Sequence[Sequence[str]], **options: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows([NAMES, *rows])
    return file.getvalue()


HEAD = ",".join(NAMES) + "\n"
GOOD = [["1", "2", 'She said "no", twice.\r\nThen: a, b; c|d\t\n', "T"], ["2", "3", "plain", ""], ["3", "4", "é — 🤒", "T"]]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "\x01", "^", "~"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_csv_writes_is_read(delimiter: str, quoting: Any, end: str) -> None:
    text = written(GOOD, delimiter=delimiter, quoting=quoting, lineterminator=end)
    assert rows_of(text) == GOOD
    assert rows_of("\ufeff" + text) == GOOD


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_encodings_are_found(encoding: str) -> None:
    assert rows_of(written(GOOD).encode(encoding)) == GOOD


def test_bytes_of_another_encoding_are_kept_apart_and_mended() -> None:
    raw = (HEAD + "1,2,caf\xe9 \x96 ok,T\n").encode("latin-1") + "2,3,naïve,T\n".encode()
    (_, _, first, _), (_, _, second, _) = rows_of(raw)
    assert mend(first) == ("café – ok", True)
    assert mend(second) == ("naïve", False)
    assert mend("both: é \udce9") == ("both: é é", True)
    with pytest.raises(UnicodeDecodeError):
        mend("\udc81")


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_cut_utf_16_costs_its_last_row(cut: int) -> None:
    raw = written([*GOOD, ["4", "5", "end", "T"]], lineterminator="\n").encode("utf-16")[:-cut]
    rows = rows_of(raw)
    assert rows[:3] == GOOD
    assert len(rows) == 4


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=30)
TEXTS = st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=8)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from([",", "\t", ";", "|"]), st.sampled_from(["\n", "\r\n"]))
def test_any_fields_are_read_back(texts: list[tuple[str, str, str]], delimiter: str, end: str) -> None:
    rows = [[str(number), *fields] for number, fields in enumerate(texts, 1)]
    text = written(rows, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end)
    assert rows_of(text) == rows


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab,"\\\t;|\n\r \'#01é'), max_size=200), st.integers(0, 3))
def test_any_text_gives_rows_and_no_crash(text: str, kind: int) -> None:
    layout = find_layout(text, whole=kind > 1, choose=choose_columns)
    if layout is not None:
        lines = open_lines(io.BytesIO(text.encode()), "utf-8")
        width = len(layout.names) if kind % 2 else None
        rows = list(read_rows(lines, layout.dialect, width))
        assert all(row.values is None or width is None or len(row.values) == width for row in rows)
        assert not lines.ahead and not lines.taken


# --- dialects -----------------------------------------------------------------------------------


def test_backslash_escapes_of_spark_and_mysql() -> None:
    text = HEAD + '1,2,"She said \\"no, no\\" and C:\\\\temp\\new",T\n2,3,"a\nb\\\nc",\\N\n'
    assert rows_of(text) == [["1", "2", 'She said "no, no" and C:\\temp\\new', "T"], ["2", "3", "a\nb\nc", "\\N"]]


def test_backslash_escapes_that_only_a_later_row_has() -> None:
    text = HEAD + "1,2,x,T\n" * 5000 + '2,3,"She said \\"no, no\\".",T\n3,4,"a ""b""",T\n'
    rows = rows_of(text)
    assert rows[5000:] == [["2", "3", 'She said "no, no".', "T"], ["3", "4", 'a "b"', "T"]]


def test_a_backslash_before_a_closing_quote_is_a_backslash() -> None:
    assert rows_of(HEAD + '1,2,"C:\\",T\n2,3,"D:\\",T\n') == [["1", "2", "C:\\", "T"], ["2", "3", "D:\\", "T"]]


def test_escaped_letters_of_databases() -> None:
    text = "\t".join(NAMES) + "\n1\t2\tone\\ntwo\\ta\\\\nb\t\\N\n2\t3\tplain\tT\n3\t4\ttab\\\there\tT\n4\t5\tend\\\nmore\tT\n"
    assert rows_of(text) == [
        ["1", "2", "one\ntwo\ta\\nb", "\\N"], ["2", "3", "plain", "T"], ["3", "4", "tab\there", "T"], ["4", "5", "end\nmore", "T"],
    ]  # fmt: skip


def test_paths_are_no_escaped_letters() -> None:
    text = "\t".join(NAMES) + "\n" + "1\t2\tsee C:\\temp\\new\tT\n" * 5
    assert rows_of(text) == [["1", "2", "see C:\\temp\\new", "T"]] * 5


def test_tabs_without_quoting() -> None:
    text = "\t".join(NAMES) + '\n1\t2\t"Fluid" in 5" of lung\tT\n2\t3\t"open\tT\n3\t4\tend"\tT\n'
    assert [row[2] for row in rows_of(text)] == ['"Fluid" in 5" of lung', '"open', 'end"']


def test_single_quotes() -> None:
    assert rows_of("'note_id','person_id','note_text'\n'1','2','it''s, \"so\"'\n") == [["1", "2", 'it\'s, "so"']]


def test_space_after_delimiters() -> None:
    assert rows_of('note_id, person_id, note_text\n1, 2, "a, b"\n') == [["1", "2", "a, b"]]


def test_what_stands_above_the_names() -> None:
    rows = [["1", "2", "x", "T"]]
    for above in (
        "\n\n", "sep=,\n", "Notes of 2020\n\n", "Notes of 2020,,,\n,,,\n", "# made by a tool\n# at night\n", "\ufeff\n",
        "Report, of notes\n",
    ):  # fmt: skip
        assert rows_of(above + HEAD + "1,2,x,T\n") == rows, above
    assert rows_of("#" + HEAD + "1,2,x,T\n") == rows
    assert rows_of('sep=;\nnote_id;person_id;note_text\n1;2;"a, b"\n') == [["1", "2", "a, b"]]
    assert rows_of("note_id|person_id|note_text\n-------|---|-----\n1|2|x\n") == [["1", "2", "x"]]


def test_a_row_of_data_is_no_line_of_names() -> None:
    layout = layout_of(b"column,meaning\nnote_text,the note\nnote_id,its number\n")
    assert layout.names == ("column", "meaning")


def test_one_column() -> None:
    assert rows_of('note_text\n"a, b"\nc\n') == [["a, b"], ["c"]]
    assert rows_of("note_text\na, b; c\nd\te\n") == [["a, b; c"], ["d\te"]]


def test_no_line_of_names() -> None:
    mapping = ColumnMapping(text=("3",), header=False)
    assert rows_of('1,2,"a, b"\n2,3,c\n', mapping) == [["1", "2", "a, b"], ["2", "3", "c"]]


def test_what_the_mapping_says_is_not_guessed() -> None:
    assert layout_of(b"a;b|c,d\n1;2|3,4\n", ColumnMapping(delimiter="|")).names == ("a;b", "c,d")
    plain = ColumnMapping(delimiter=",", quote="")
    assert rows_of('note_id,note_text\n1,"a"\n', plain) == [["1", '"a"']]
    letters = ColumnMapping(escape="letters")
    assert rows_of("note_id,note_text\n1,a\\nb\n", letters) == [["1", "a\nb"]]


# --- broken rows ----------------------------------------------------------------------------------


def test_ragged_rows_cost_themselves() -> None:
    text = HEAD + "1,2,cut\n2,3,a, b,T\n3,4,ok,T,,\n\n   \n4,5,ok,T\n"
    assert rows_of(text) == [
        "row 1, line 2: 3 instead of 4 fields", "row 2, line 3: 5 instead of 4 fields", ["3", "4", "ok", "T"], ["4", "5", "ok", "T"],
    ]  # fmt: skip


def test_names_that_end_with_delimiters() -> None:
    assert rows_of("note_id,person_id,note_text,,\n1,2,x,,\n2,3,y\n3,4,z,,9\n") == [
        ["1", "2", "x"], ["2", "3", "y"], "row 3, line 4: 5 instead of 3 fields",
    ]  # fmt: skip


def test_open_quote_at_the_end_swallows_nothing() -> None:
    text = HEAD + '1,2,a,T\n2,3,"never closed\nand, more\n3,4,b,T\n4,5,"c\nd",T\n'
    assert rows_of(text) == [["1", "2", "a", "T"], "row 2, line 3: a quote in a quoted field", ["3", "4", "b", "T"], ["4", "5", "c\nd", "T"]]
    assert rows_of(HEAD + '1,2,a,T\n2,3,"never closed\nmore') == [["1", "2", "a", "T"], "row 2, line 3: an open quote"]


def test_unescaped_quotes() -> None:
    one_line = HEAD + '1,2,"She said "no" and left",T\n2,3,ok,T\n'
    assert rows_of(one_line) == [["1", "2", 'She said "no" and left', "T"], ["2", "3", "ok", "T"]]
    many_lines = HEAD + '1,2,"ok",T\n2,3,"She said "no"\nand, left,\nwith "them"\n",T\n3,4,"a\nb",T\n'
    assert rows_of(many_lines) == [["1", "2", "ok", "T"], "row 2, line 3: a quote in a quoted field", ["3", "4", "a\nb", "T"]]


def test_the_end_of_a_broken_row_is_no_row() -> None:
    text = 'note_id,note_text\n1,"ok"\n2,"She said "no"\nwho left, then came\n",T\n3,"fine"\n'
    assert rows_of(text) == [["1", "ok"], "row 2, line 3: a quote in a quoted field", ["3", "fine"]]


def test_rows_that_are_only_counted() -> None:
    text = '1,2\n"open\n3,4,5\n"a\nb",x\n\n6\n'
    lines = open_lines(io.BytesIO(text.encode()), "utf-8")
    assert len(list(read_rows(lines, delimited.Dialect(), None))) == 5


def test_a_row_may_be_long_but_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "word " * 200_000
    assert rows_of(HEAD + f'1,2,"{long}",T\n2,3,x,T\n') == [["1", "2", long, "T"], ["2", "3", "x", "T"]]
    monkeypatch.setattr(delimited, "MAX_ROW_CHARS", 100_000)
    for endless in (f'1,2,"{long}",T\n', f"1,2,{long},T\n", '1,2,"' + "line\n" * 50_000 + '",T\n'):
        first, *others, last = rows_of(HEAD + endless + "2,3,x,T\n")
        assert first == f"row 1, line 2: {delimited.TOO_LONG}" and not others
        assert last == ["2", "3", "x", "T"]


@pytest.mark.parametrize("line", ['1,2,"b\n', '"a\n', '"",""\n', '"\\"\n', '"\\"a\\"\n', '1,2,"a "b" c\nd,"e\n', "1\n", '","\n'])
def test_time_grows_with_the_file_alone(line: str) -> None:
    def seconds(times: int) -> float:
        start = time.perf_counter()
        rows_of(HEAD + '1,2,"open\n' + line * times)
        return time.perf_counter() - start

    assert seconds(20_000) < 5.0
