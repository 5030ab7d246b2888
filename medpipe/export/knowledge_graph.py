"""What a warehouse's relations say together: a table of pairs of concepts, and a picture of it.

A concept is a code where the mentions have one, else the mentions' words in lower case. Of each pair of concepts the
table says in how many documents and of how many patients the relation was told, how sure the model was on the mean,
in how many documents it was only denied or concerned the family, when it was first and last seen, and the ids of some
relations to look up; it holds no text of a note besides the names of concepts.

Where a document stands in several partitions, the last one counts. Memory grows with the number of relations (about
100 bytes each) and of documents, never with that of notes' text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.lake import files, warehouse

EXAMPLES = 5  # ids a row
SCHEMA = pa.schema(
    [
        pa.field("type", pa.string(), nullable=False),
        pa.field("head", pa.string(), nullable=False),
        pa.field("head_code", pa.string()),
        pa.field("tail", pa.string(), nullable=False),
        pa.field("tail_code", pa.string()),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("patients", pa.int64(), nullable=False),
        pa.field("mean_score", pa.float64()),
        pa.field("negated_documents", pa.int64(), nullable=False),
        pa.field("first_seen", pa.date32(), nullable=False),
        pa.field("last_seen", pa.date32(), nullable=False),
        pa.field("example_ids", pa.list_(pa.string()), nullable=False),
    ]
)
KEYS = ["type", "head_key", "tail_key"]


def export_knowledge_graph(
    root: Path,
    out: Path,
    *,
    partition: str | None = None,
    min_score: float = 0.0,
    min_documents: int = 1,
    top: int = 15,
) -> dict[str, int]:
    """Writes ``knowledge-graph.parquet``, ``.svg`` and ``.html`` to a folder; each takes the place of an older one.

    Args:
        root: the warehouse.
        out: the folder.
        partition: ``YYYY-MM-DD``; all if not given.
        min_score: relations below it do not count.
        min_documents: pairs seen in fewer documents are left out, so that no name stands for one person alone.
        top: how many diseases are drawn.

    Returns:
        How many ``pairs`` were written, and how many ``relations`` of how many ``documents`` they rest on.

    Raises:
        MedpipeError: WAREHOUSE_INVALID, DISK_FULL, PERMISSION_DENIED.
    """
    known = warehouse.partitions(root)
    if not known or (partition is not None and partition not in known):
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason=f"no partition {partition or 'at all'}")
    told = read_relations(root, [partition] if partition is not None else known, min_score)
    table = aggregate(told, min_documents)
    drawing = draw(table, top)
    files.write_table(out / "knowledge-graph.parquet", table)
    for name, text in (("svg", drawing), ("html", make_page(table, drawing, top))):
        with files.written_aside(out / f"knowledge-graph.{name}") as aside:
            aside.write_text(text, encoding="utf-8")
    documents = pc.count_distinct(told["document_id"]).as_py()
    return {"pairs": len(table), "relations": len(told), "documents": documents}


# --- relations of a warehouse -> pairs of concepts --------------------------------------------


def read_relations(root: Path, partitions: Sequence[str], min_score: float) -> pa.Table:
    """Returns one row a relation: type, keys, names and codes of its ends, document, patient, score, negated, day."""
    parts = []
    seen: pa.Array = pa.array([], pa.string())  # documents of later partitions
    for partition in reversed(partitions):
        documents = warehouse.read_table(root, "documents", partition=partition, columns=["document_id", "authored_at"])
        documents = documents.filter(pc.invert(pc.is_in(documents["document_id"], seen)))
        ids = documents["document_id"].combine_chunks()
        seen = pa.concat_arrays([seen, ids])
        relations = warehouse.read_table(
            root,
            "relations",
            partition=partition,
            columns=["relation_id", "document_id", "patient_id", "type", "head_entity_id", "tail_entity_id", "score",
                     "negated"],
            filters=pc.field("score") >= min_score,
        )  # fmt: skip
        relations = relations.filter(pc.is_in(relations["document_id"], ids))
        ends = pa.concat_arrays([relations[f"{end}_entity_id"].combine_chunks() for end in ("head", "tail")])
        entities = warehouse.read_table(
            root,
            "entities",
            partition=partition,
            columns=["entity_id", "text", "code_system", "code"],
            filters=pc.field("entity_id").isin(pc.unique(ends)),
        )
        day = pc.fill_null(documents["authored_at"].cast(pa.date32()), pa.scalar(partition).cast(pa.date32()))
        place = pc.index_in(relations["document_id"], ids)
        columns = {name: relations[name] for name in ("type", "relation_id", "document_id", "patient_id", "score")}
        columns |= {"negated": relations["negated"], "day": day.take(place)}
        for end in ("head", "tail"):
            columns |= name_end(end, entities, relations[f"{end}_entity_id"])
        parts.append(pa.table(columns))
    return pa.concat_tables(parts).combine_chunks()


def name_end(end: str, entities: pa.Table, ids: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """Returns the columns ``…_key``, ``…_name`` and ``…_code`` of one end of relations."""
    found = entities.take(pc.index_in(ids, entities["entity_id"].combine_chunks()))
    name = pc.utf8_lower(pc.replace_substring_regex(pc.utf8_trim_whitespace(found["text"]), r"\s+", " "))
    code = pc.binary_join_element_wise(found["code_system"], found["code"], "|")
    return {f"{end}_key": pc.coalesce(code, name), f"{end}_name": name, f"{end}_code": code}


def aggregate(told: pa.Table, min_documents: int) -> pa.Table:
    """Returns the pairs of concepts, those of the most documents first; see the module's docstring.

    Args:
        told: of ``read_relations``.
        min_documents: asserted or denied, together.
    """
    told = told.sort_by([(name, "ascending") for name in (*KEYS, "relation_id")])
    # A document counts once a pair: as told where any of its mentions is, else as denied.
    each = told.group_by([*KEYS, "document_id"], use_threads=False).aggregate(
        [("negated", "min"), ("patient_id", "min"), ("score", "max"), ("day", "min")]
    )
    denied = each["negated_min"]
    for name in ("document_id", "patient_id_min", "score_max"):
        column = pc.if_else(denied, pa.scalar(None, each[name].type), each[name])
        each = each.set_column(each.column_names.index(name), name, column)
    # Groups come in the order in which they are met: the same in both.
    counted = each.group_by(KEYS, use_threads=False).aggregate(
        [
            ("document_id", "count"),
            ("patient_id_min", "count_distinct"),
            ("score_max", "mean"),
            ("negated_min", "count"),
        ]
    )
    pairs = told.group_by(KEYS, use_threads=False).aggregate(
        [("head_name", "list"), ("tail_name", "list"), ("head_code", "min"), ("tail_code", "min"), ("day", "min"),
         ("day", "max"), ("relation_id", "list")]
    )  # fmt: skip
    kept = pc.greater_equal(counted["negated_min_count"], min_documents)
    counted, pairs = counted.filter(kept), pairs.filter(kept)
    table = pa.table(
        {
            "type": pairs["type"],
            "head": [most_frequent(names) for names in pairs["head_name_list"].to_pylist()],
            "head_code": pairs["head_code_min"],
            "tail": [most_frequent(names) for names in pairs["tail_name_list"].to_pylist()],
            "tail_code": pairs["tail_code_min"],
            "documents": counted["document_id_count"],
            "patients": counted["patient_id_min_count_distinct"],
            "mean_score": pc.round(counted["score_max_mean"], 4),
            "negated_documents": pc.subtract(counted["negated_min_count"], counted["document_id_count"]),
            "first_seen": pairs["day_min"],
            "last_seen": pairs["day_max"],
            "example_ids": [ids[:EXAMPLES] for ids in pairs["relation_id_list"].to_pylist()],
        }
    ).cast(SCHEMA)
    order = [("documents", "descending"), ("type", "ascending"), ("head", "ascending"), ("tail", "ascending")]
    return table.sort_by([*order, ("head_code", "ascending"), ("tail_code", "ascending")])


def most_frequent(names: Sequence[str]) -> str:
    """Returns the name that a concept has most often; of equally frequent ones the first in the alphabet."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return min(counts, key=lambda name: (-counts[name], name))


# --- pairs -> picture -------------------------------------------------------------------------

ROW = 22  # pixels of a name
LEFT, RIGHT, WIDTH = 300, 620, 920  # where the curves begin and end; of the picture
TAILS = 6  # symptoms drawn a disease
COLOURS = {
    "has_symptom": "#b3541e", "increases_risk_of": "#7b2d8b", "treats_or_induces": "#1b7f4d", "located_in": "#1f6f9f",
    "has_value": "#6b5b95", "has_dosage": "#4f7942", "has_severity": "#a67c00",
}  # fmt: skip


def choose_pairs(table: pa.Table, top: int) -> list[dict[str, Any]]:
    """Returns the rows that are drawn: of the ``top`` heads with the most documents, each with its first tails."""
    rows = [row for row in table.to_pylist() if row["documents"]]
    weight: dict[tuple[str, str], int] = {}
    for row in rows:
        weight[row["head"], row["head_code"]] = weight.get((row["head"], row["head_code"]), 0) + row["documents"]
    heads = sorted(weight, key=lambda head: (-weight[head], head[0], head[1] or ""))[:top]
    drawn = []
    for head in heads:
        drawn += [row for row in rows if (row["head"], row["head_code"]) == head][:TAILS]
    return drawn


def draw(table: pa.Table, top: int) -> str:
    """Returns an SVG: heads on the left, tails on the right; a curve is as wide as it has documents (by the root)."""
    pairs = choose_pairs(table, top)
    heads = list(dict.fromkeys((row["head"], row["head_code"]) for row in pairs))
    # Tails stand at the mean height of their heads, so that few curves cross.
    heights: dict[tuple[str, str], list[int]] = {}
    for row in pairs:
        heights.setdefault((row["tail"], row["tail_code"]), []).append(heads.index((row["head"], row["head_code"])))
    tails = sorted(heights, key=lambda tail: (sum(heights[tail]) / len(heights[tail]), tail[0], tail[1] or ""))
    height = ROW * (max(len(heads), len(tails), 1) + 2)
    one = {head: height * (place + 1) / (len(heads) + 1) for place, head in enumerate(heads)}
    two = {tail: height * (place + 1) / (len(tails) + 1) for place, tail in enumerate(tails)}
    most = max((row["documents"] for row in pairs), default=1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="13">',
        "<title>Relations between concepts, by how many documents tell them</title>",
    ]
    middle = (LEFT + RIGHT) / 2
    for row in reversed(pairs):  # the widest ones last, on top
        start, end = one[row["head"], row["head_code"]], two[row["tail"], row["tail_code"]]
        wide = 1 + 9 * math.sqrt(row["documents"] / most)
        told = (
            f"{row['head']} {row['type']} {row['tail']}: {row['documents']} documents, {row['patients']} patients, "
            f"mean score {row['mean_score']:.2f}, denied in {row['negated_documents']}"
        )
        lines.append(
            f'<path d="M{LEFT},{start:.1f} C{middle:.0f},{start:.1f} {middle:.0f},{end:.1f} {RIGHT},{end:.1f}" '
            f'fill="none" stroke="{COLOURS.get(row["type"], "#666666")}" stroke-width="{wide:.1f}" '
            f'stroke-opacity="0.55"><title>{escape(told)}</title></path>'
        )
    for places, x, anchor in ((one, LEFT - 8, "end"), (two, RIGHT + 8, "start")):
        for (name, code), y in places.items():
            shown = name if len(name) <= 42 else name[:41] + "…"
            hint = escape(f"{name} {code or ''}".strip())
            lines.append(
                f'<text x="{x}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(shown)}<title>{hint}</title></text>'
            )
    return "\n".join([*lines, "</svg>"]) + "\n"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Knowledge graph</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
th, td {{ text-align: left; padding: 3px 8px; border-bottom: 1px solid #ddd; }}
td.n {{ text-align: right; }}
.key span {{ margin-right: 1.2em; white-space: nowrap; }}
</style></head><body>
<h1>Knowledge graph</h1>
<p>{pairs} pairs of concepts. A curve is as wide as the number of documents that tell the relation; hover for figures.
Drawn are the {heads} concepts with the most documents; all pairs are in knowledge-graph.parquet.</p>
<p class="key">{key}</p>
{svg}
<table><thead><tr><th>head</th><th>relation</th><th>tail</th><th>documents</th><th>patients</th><th>mean score</th>
<th>denied in</th><th>first seen</th><th>last seen</th></tr></thead><tbody>
{rows}
</tbody></table>
</body></html>
"""


def make_page(table: pa.Table, drawing: str, top: int) -> str:
    """Returns the page: the picture, and the drawn pairs as a table. Everything is escaped; nothing is fetched."""
    pairs = choose_pairs(table, top)
    kinds = list(dict.fromkeys(row["type"] for row in pairs))
    key = "".join(
        f'<span><span style="color:{COLOURS.get(kind, "#666666")};margin:0">&#9644;</span> {escape(kind)}</span>'
        for kind in kinds
    )
    heads = len({(row["head"], row["head_code"]) for row in pairs})
    rows = "\n".join(page_row(row) for row in pairs)
    return PAGE.format(pairs=len(table), heads=heads, key=key, svg=drawing, rows=rows)


def page_row(row: Mapping[str, Any]) -> str:
    """Returns a row of the page's table."""
    words = [row["head"], row["type"], row["tail"]]
    figures = [row["documents"], row["patients"], f"{row['mean_score']:.2f}", row["negated_documents"]]
    figures += [row["first_seen"].isoformat(), row["last_seen"].isoformat()]
    cells = [f"<td>{escape(str(one))}</td>" for one in words]
    return "<tr>" + "".join([*cells, *(f'<td class="n">{one}</td>' for one in figures)]) + "</tr>"
