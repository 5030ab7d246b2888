"""BRAT folders: what is written comes back, and what cannot be right is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.export.brat import LINE_BREAKS, export_brat, read_brat, write_document
from medpipe.lake import contracts, files, warehouse
from medpipe.learn.corpora import make_document

# Line ends of all kinds, characters beyond 16 bits, a combining mark, tabs: what offsets and line formats trip over.
CHARACTERS = st.sampled_from(
    ["a", "Z", " ", "\t", "\n", "\r\n", "\r", "\x85", "\u2028", "é", "e\u0301", "🩺", "👩🏽‍⚕️", "\ufeff", ";", "µ"]
)
TEXTS = st.lists(CHARACTERS, min_size=1, max_size=40).map("".join)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document in the corpus format: nested, crossing, touching and discontinuous entities, and relations."""
    text = draw(TEXTS)
    cuts = st.lists(st.integers(0, len(text)), min_size=2, max_size=6).map(sorted)
    entities: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 5)) if len(text) > 1 else 0):
        ends = draw(cuts)
        spans = [[start, end] for start, end in zip(ends[0::2], ends[1::2], strict=False) if start < end]
        if any(text[start:end].strip(LINE_BREAKS) for start, end in spans):
            entity = {
                "id": f"T{len(entities) + 7}",
                "type": draw(st.sampled_from(["DRUG", "c-Requires", "Non-query_able"])),
                "spans": spans,
            }
            if attributes := draw(st.lists(st.sampled_from(["negated", "family", "Certainty:Low"]), unique=True)):
                entity["attributes"] = attributes
            entities.append(entity)
    ids = [entity["id"] for entity in entities]
    pairs = draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), max_size=3)) if ids else []
    relations = [{"type": "has_symptom", "head": head, "tail": tail} for head, tail in pairs]
    return {"doc_id": "note-1", "text": text, "entities": entities, "relations": relations}


def round_trip(document: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_document(Path(folder), document["doc_id"], document["text"], document["entities"], document["relations"])
        (back,) = read_brat(Path(folder))
        return back


@settings(max_examples=300, deadline=None)
@given(documents())
def test_what_is_written_comes_back(document: dict[str, Any]) -> None:
    assert round_trip(document) == document


@settings(max_examples=100, deadline=None)
@given(documents())
def test_every_line_is_one_that_brat_reads(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_document(Path(folder), "note", document["text"], document["entities"], document["relations"])
        raw = (Path(folder) / "note.ann").read_bytes().decode()
    for line in raw.splitlines():  # as brat's server does, at every kind of line end
        if line.startswith("T"):
            _, head, words = line.split("\t", 2)
            spans = [tuple(map(int, part.split(" "))) for part in head.partition(" ")[2].split(";")]
            assert words == " ".join(document["text"][start:end] for start, end in spans)
        else:
            assert line[0] in "AR#"


def entity(identifier: str, *spans: tuple[int, int], kind: str = "SYMPTOM") -> dict[str, Any]:
    return {"id": identifier, "type": kind, "spans": [list(span) for span in spans]}


def test_a_mention_over_a_line_end_is_cut_there(tmp_path: Path) -> None:
    text = "Has chest\r\n pain."
    write_document(tmp_path, "n", text, [entity("T1", (4, 16))], [])
    assert (tmp_path / "n.ann").read_text() == "T1\tSYMPTOM 4 9;11 16\tchest  pain\n"
    assert (tmp_path / "n.txt").read_bytes() == text.encode()
    assert next(read_brat(tmp_path))["entities"] == [entity("T1", (4, 16))]


def test_fragments_at_a_line_end_stay_fragments_until_somebody_moves_them(tmp_path: Path) -> None:
    write_document(tmp_path, "n", "one\ntwo\nsix", [entity("T1", (0, 3), (4, 7))], [])
    path = tmp_path / "n.ann"
    assert "#1\tAnnotatorNotes T1\tspans 0 3;4 7\n" in path.read_text()
    assert next(read_brat(tmp_path))["entities"] == [entity("T1", (0, 3), (4, 7))]
    path.write_text(path.read_text().replace("SYMPTOM 0 3;4 7\tone two", "SYMPTOM 4 7;8 11\ttwo six"))
    assert next(read_brat(tmp_path))["entities"] == [entity("T1", (4, 11))]


def test_an_entity_of_line_ends_alone_is_left_out_with_its_relations(tmp_path: Path) -> None:
    relations = [{"type": "r", "head": "T1", "tail": "T2"}]
    assert write_document(tmp_path, "n", "a\n\nb", [entity("T1", (1, 3)), entity("T2", (0, 1))], relations) == (1, 0)


def test_ids_that_are_no_ids_of_brat_are_numbered(tmp_path: Path) -> None:
    entities = [entity("abc", (0, 1)), entity("def", (1, 2))]
    write_document(tmp_path, "n", "xy", entities, [{"type": "r", "head": "def", "tail": "abc"}])
    assert (tmp_path / "n.ann").read_text().splitlines()[-1] == "R1\tr Arg1:T2 Arg2:T1"


@pytest.mark.parametrize("doc_id", ["../../etc/passwd", ".hidden", "a/b", "", "x" * 300, "Müller 12.3.", "a\0b"])
def test_names_of_files_are_safe(doc_id: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_document(tmp_path / "inner", doc_id, "text", [], [])
    names = sorted(path.name for path in (tmp_path / "inner").iterdir())
    assert [Path(name).suffix for name in names] == [".ann", ".txt"]
    assert not names[0].startswith(".") and len(names[0]) < 140 and names[0].isascii()
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_what_other_people_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "n.txt").write_bytes(b"No fever. Took aspirin")
    (tmp_path / "sub" / "n.ann").write_bytes(
        b"T1\tSYMPTOM 3 8\tfever\r\n"
        b"T2\tDRUG 15 22\r\n"  # without its words
        b"E1\tTaking:T2 Who:T1\r\n"
        b"A1\tNegation T1\r\n"
        b"M1\tSpeculation E1\r\n"
        b"N1\tReference T2 RxNorm:1191\taspirin\r\n"
        b"*\tEquiv T1 T2\r\n"
        b"R1\tcauses Arg2:T1 Arg1:E1\r\n"
        b"#1\tAnnotatorNotes T1\tis this right?\r\n"
        b"\r\n"
    )  # fmt: skip
    (tmp_path / "unseen.txt").write_text("nobody has annotated this")
    (found,) = read_brat(tmp_path)
    assert found["doc_id"] == "sub/n"
    assert found["entities"] == [
        entity("T1", (3, 8)) | {"attributes": ["Negation"]},
        entity("T2", (15, 22), kind="DRUG") | {"attributes": ["Speculation"]},
    ]
    assert found["relations"] == [{"type": "causes", "head": "T2", "tail": "T1"}]
    assert make_document(found, tmp_path, 1).entities[0].text == "fever"


@pytest.mark.parametrize(
    ("text", "annotation", "line"),
    [
        ("🩺 fever", "T1\tS 3 8\tfever", 1),  # offsets in UTF-16
        ("x\nfever", "T1\tS 3 8\tfever", 1),  # the text had CR LF when it was annotated
        ("fever", "T1\tS 0 9\tfever", 1),
        ("fever", "T1\tS 2 2\t", 1),
        ("fever", "T1\tS 0 5\tfever\nT1\tS 0 5\tfever", 2),
        ("fever", "T1\tS 0 5\tfever\nR1\tr Arg1:T1 Arg2:T2", 2),
        ("fever", "T1 S 0 5 fever", 1),
        ("fever", "T1\tS 0,5\tfever", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_without_a_word_of_the_note(
    text: str, annotation: str, line: int, tmp_path: Path
) -> None:
    (tmp_path / "n.txt").write_text(text)
    (tmp_path / "n.ann").write_text(annotation)
    with pytest.raises(MedpipeError, match="CORPUS_INVALID") as refused:
        list(read_brat(tmp_path))
    assert f"Line {line} of" in str(refused.value)
    assert "fever" not in str(refused.value)


def test_annotations_without_a_text_and_folders_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(MedpipeError, match="CORPUS_NOT_FOUND"):
        list(read_brat(tmp_path))
    (tmp_path / "n.ann").touch()
    with pytest.raises(MedpipeError, match="no text beside"):
        list(read_brat(tmp_path))
    (tmp_path / "n.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(MedpipeError, match="no UTF-8"):
        list(read_brat(tmp_path))


# --- from a warehouse -----------------------------------------------------------------------

PARTITION = "2026-01-31"
TEXT = "Denies chest\r\npain; took 🩺 aspirin for pain and swelling of the legs."


def found(
    document: str, start: int, end: int, label: str, *, fragments: list[tuple[int, int]] | None = None, **flags: bool
) -> dict[str, Any]:
    row = dict.fromkeys(contracts.arrow_schema("entities").names)
    del row["schema_version"]
    parts = [{"start": one, "end": other} for one, other in fragments] if fragments else None
    return row | {
        "entity_id": f"{document}-{start}-{end}-{label}", "document_id": document, "start": start, "end": end,
        "text": TEXT[start:end], "label": label, "score": 0.5, "depth": 0, "fragments": parts, "model": "m", "run_id": "r",
    } | dict.fromkeys(("negated", "uncertain", "hypothetical", "historical", "family"), False) | flags  # fmt: skip


def write_rows(root: Path, table: str, rows: list[dict[str, Any]], partition: str = PARTITION) -> None:
    names = [name for name in contracts.arrow_schema(table).names if name != "schema_version"]
    made = contracts.conform(table, {name: [row[name] for row in rows] for name in names})
    files.write_table(warehouse.table_path(root, table, partition), made)


def document_row(identifier: str, status: str = "processed", text: str = TEXT) -> dict[str, Any]:
    row = dict.fromkeys(contracts.arrow_schema("documents").names, 0) | {
        "document_id": identifier, "source": "s", "record": identifier, "format": "text", "text": text, "text_hash": "h",
        "status": status, "run_id": "r", "authored_at": None,
    }  # fmt: skip
    return {name: None if value == 0 and not name.startswith("n_") else value for name, value in row.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four documents: with entities, without, one that was not tagged, and with entities again."""
    root = tmp_path / "warehouse"
    write_rows(
        root,
        "documents",
        [document_row(one, "failed" if one == "d3" else "processed") for one in ("d1", "d2", "d3", "d4")],
    )
    entities = [
        found("d1", 7, 18, "SYMPTOM", negated=True),
        found("d1", 7, 12, "ANATOMY"),
        found("d1", 27, 34, "DRUG"),
        found("d1", 39, 68, "SYMPTOM", fragments=[(39, 43), (57, 68)]),
        found("d4", 39, 43, "SYMPTOM", family=True, uncertain=True),
    ]
    write_rows(root, "entities", entities)
    write_rows(root, "relations", [{
        "relation_id": "r1", "document_id": "d1", "patient_id": None, "type": "has_symptom", "head_entity_id": entities[2]["entity_id"],
        "tail_entity_id": entities[0]["entity_id"], "score": 0.5, "negated": False,
        "head_negated": False, "tail_negated": False, "family": False, "uncertain": False, "evidence_start": 0, "evidence_end": 9,
        "sentence_distance": 0, "model": "m", "run_id": "r",
    }])  # fmt: skip
    write_rows(root, "summaries", [])
    files.write_json(warehouse.manifest_path(root, PARTITION), {})
    return root


def test_a_warehouse_becomes_a_folder(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "brat"
    assert export_brat(root, out) == {"documents": 3, "entities": 5, "relations": 1, "left_out": 1}
    assert sorted(path.name for path in out.iterdir()) == [
        "annotation.conf",
        *(f"d{n}.{kind}" for n in (1, 2, 4) for kind in ("ann", "txt")),
    ]
    assert (out / "d1.txt").read_bytes() == TEXT.encode()
    assert (out / "d1.ann").read_text().splitlines() == [
        "T1\tSYMPTOM 7 12;14 18\tchest pain",
        "T2\tANATOMY 7 12\tchest",
        "T3\tDRUG 27 34\taspirin",
        "T4\tSYMPTOM 39 43;57 68\tpain of the legs",
        "A1\tnegated T1",
        "R1\thas_symptom Arg1:T3 Arg2:T1",
    ]
    assert (out / "d2.ann").read_text() == ""
    back = {document["doc_id"]: document for document in read_brat(out)}
    assert back["d1"]["entities"][0]["spans"] == [[7, 18]]
    assert back["d4"]["entities"][0]["attributes"] == ["uncertain", "family"]


def test_the_configuration_names_what_was_written(root: Path, tmp_path: Path) -> None:
    export_brat(root, tmp_path / "brat")
    written = (tmp_path / "brat" / "annotation.conf").read_text()
    assert [line for line in written.splitlines() if line.startswith("[")] == [
        "[entities]",
        "[relations]",
        "[events]",
        "[attributes]",
    ]
    assert "\nDISEASE\n" in written and "\nhas_symptom\tArg1:<ENTITY>, Arg2:<ENTITY>\n" in written
    assert "\nnegated\tArg:<ENTITY>\n" in written


def test_corrections_are_never_overwritten(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "brat"
    export_brat(root, out)
    (out / "d1.ann").write_text("")
    with pytest.raises(MedpipeError, match="OUTPUT_EXISTS"):
        export_brat(root, out)
    assert (out / "d1.ann").read_text() == ""


def test_a_killed_export_leaves_nothing_at_its_place_and_can_be_done_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "brat"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("medpipe.export.brat.write_configuration", killed)
        export_brat(root, out)
    assert not out.exists()
    assert export_brat(root, out)["documents"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brat", "warehouse"]


def test_of_a_document_in_two_partitions_the_last_one_counts(root: Path, tmp_path: Path) -> None:
    later = "2026-02-01"
    write_rows(root, "documents", [document_row("d1")], later)
    write_rows(root, "entities", [found("d1", 39, 43, "SYMPTOM")], later)
    write_rows(root, "summaries", [], later)
    write_rows(root, "relations", [], later)
    files.write_json(warehouse.manifest_path(root, later), {})
    export_brat(root, tmp_path / "all")
    assert (tmp_path / "all" / "d1.ann").read_text() == "T1\tSYMPTOM 39 43\tpain\n"
    assert export_brat(root, tmp_path / "one", partition=later)["documents"] == 1
    with pytest.raises(MedpipeError, match="WAREHOUSE_INVALID"):
        export_brat(root, tmp_path / "none", partition="2020-01-01")


def test_rows_are_found_across_the_borders_of_what_is_read_at_a_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_brat(root, tmp_path / "one")
    monkeypatch.setattr("medpipe.export.notes.DOCUMENT_ROWS", 1)
    monkeypatch.setattr("medpipe.export.notes.ENTITY_ROWS", 1)
    export_brat(root, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
