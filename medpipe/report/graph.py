"""Relations as a small graph in SVG: what they lead from on the left, what they lead to on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from medpipe.report.characters import one_line
from medpipe.report.palette import label_class

MAX_EDGES = 40  # the surest; the list below the graph has all
ROW = 30
NODE_WIDTH, NODE_HEIGHT = 150, 24
WIDTH = 400
LETTERS = 20  # of a node's name that fit


def draw_graph(
    entities: Sequence[Mapping[str, Any]], relations: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int]]
) -> dict[str, Any] | None:
    """Returns nodes and curves with their coordinates, mentions of one name as one node; ``None`` without relations.

    The right side is ordered by the mean place of what leads there (the barycentre heuristic of Sugiyama et al. 1981),
    so that few curves cross.
    """
    edges: dict[tuple[tuple[str, str], tuple[str, str]], dict[str, Any]] = {}
    for index, (relation, (head, tail)) in enumerate(zip(relations, pairs, strict=True)):
        key = (_node(entities[head]), _node(entities[tail]))
        new = {"index": index, "score": relation["score"], "negated": True, "type": relation["type"].replace("_", " ")}
        edge = edges.setdefault(key, new)
        edge["negated"] = edge["negated"] and relation["negated"]
    kept = dict(list(edges.items())[:MAX_EDGES])  # relations come with the surest first
    if not kept:
        return None
    left = {node: place for place, node in enumerate(dict.fromkeys(head for head, _ in kept))}
    pull = {tail: mean(left[head] for head, other in kept if other == tail) for _, tail in kept}
    right = {node: place for place, node in enumerate(sorted(pull, key=lambda node: (pull[node], node)))}
    rows = max(len(left), len(right))
    middles = {
        (side, node): (place + 0.5) * ROW * rows / len(places)
        for side, places in (("left", left), ("right", right))
        for node, place in places.items()
    }
    names = {_node(entities[index]): one_line(entities[index]["text"]) for pair in pairs for index in pair}
    curves = []
    for (source, target), edge in kept.items():
        x1, x2 = NODE_WIDTH, WIDTH - NODE_WIDTH
        y1, y2 = middles["left", source], middles["right", target]
        bend = (x2 - x1) / 2
        curves.append({
            "path": f"M{x1} {y1:.1f}C{x1 + bend:.0f} {y1:.1f} {x2 - bend:.0f} {y2:.1f} {x2} {y2:.1f}",
            "width": f"{1 + 3 * edge['score']:.1f}", "negated": edge["negated"], "index": edge["index"],
            "title": f"{names[source]} {edge['type']} {names[target]}, {min(edge['score'], 0.99):.2f}",
        })  # fmt: skip
    nodes = [
        {
            "x": 0 if side == "left" else WIDTH - NODE_WIDTH, "y": f"{middles[side, node] - NODE_HEIGHT / 2:.1f}",
            "middle": f"{middles[side, node] + 4:.1f}", "colour": label_class(node[0]), "title": names[node],
            "name": _short(names[node]),
        }
        for side, places in (("left", left), ("right", right))
        for node in places
    ]  # fmt: skip
    return {
        "width": WIDTH, "height": rows * ROW, "curves": curves, "nodes": nodes, "cut": len(edges) - len(kept),
        "node_width": NODE_WIDTH, "node_height": NODE_HEIGHT,
    }  # fmt: skip


def _node(entity: Mapping[str, Any]) -> tuple[str, str]:
    return entity["label"], one_line(entity["text"]).casefold()


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1].rstrip() + "…"
