"""Figures of a partition for its page: from the tables and the manifest, by Arrow, column by column.

Drift is the population stability index: the sum over bins of ``(p - q) ln(p / q)``, the symmetric Kullback-Leibler
divergence between this partition's distribution and that of the ones before (Jeffreys 1946). Below 0.1 is called
stable, from 0.25 on shifted, as is the custom (Siddiqi 2006, Credit Risk Scorecards); and what few notes give by
chance is stable, too: without any drift the index is about chi-square over ``1/n + 1/m`` (Yurdakul and Naranjo 2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import CODES, MedpipeError
from medpipe.lake import warehouse
from medpipe.lake.quality import chance_bound, stability_terms
from medpipe.records import ASSERTIONS, LABELS
from medpipe.settings import STAGES
from medpipe.weights import CONFIG_FILE, MODELS, WEIGHTS_FILE, identify

PARTITIONS = 14  # how many, this one included, are compared and drawn
STABLE, SHIFTED = 0.1, 0.25
MIN_NOTES = 30  # of either side, below which a distribution is chance
SCORE_BINS = 10
MIN_CELL = 5  # notes that must hold a name without a code: the tagger may have taken a person's name for a disease


@dataclass(frozen=True, slots=True)
class Profile:
    """What is compared between partitions: how many notes, and distributions as counts of bins."""

    partition: str
    notes: int
    labels: Counter[str]
    negated: Counter[str]
    scores: dict[str, Counter[int]]  # label -> decile -> mentions
    score_sums: dict[str, float]
    distributions: dict[str, Counter[str]]


def find_partition(root: Path, partition: str | None) -> str:
    """Returns ``partition``, or the newest one.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where there is no warehouse, PARTITION_NOT_FOUND.
    """
    if not root.is_dir():
        raise MedpipeError("WAREHOUSE_INVALID", path=root, reason="no such folder")
    known = warehouse.partitions(root)
    if not known or (partition is not None and partition not in known):
        raise MedpipeError("PARTITION_NOT_FOUND", partition=partition or "at all", path=root)
    return partition or known[-1]


def figures(root: Path, partition: str) -> dict[str, Any]:
    """Returns all figures of the page of a partition; see the functions below for each."""
    known = [one for one in warehouse.partitions(root) if one <= partition][-PARTITIONS:]
    profiles = [profile(root, one) for one in known]
    manifest = warehouse.read_manifest(root, partition) or {}
    runs = sorted(
        warehouse.read_table(root, "runs", partition=partition).to_pylist(), key=lambda row: STAGES.index(row["stage"])
    )
    return {
        "partition": partition,
        "funnel": funnel(root, partition, manifest),
        "throughput": [throughput(row) for row in runs],
        "labels": label_history(profiles),
        "drift": drift(profiles),
        "calibration": calibration(profiles[-1]),
        "quarantine": quarantine(root, partition),
        "diseases": top_diseases(root, partition),
        "models": [model_facts(row) for row in runs],
        "fingerprint": manifest.get("facts", {}).get("fingerprint", {}),
        "partitions": known,
    }


# --- one partition --------------------------------------------------------------------------


def profile(root: Path, partition: str) -> Profile:
    """Reads what is compared of a partition: a few narrow columns."""
    documents = warehouse.read_table(
        root, "documents", partition=partition, columns=["n_chars", "format", "note_type", "language", "status"]
    )
    entities = warehouse.read_table(
        root, "entities", partition=partition, columns=["label", "score", "code", *ASSERTIONS]
    )
    tenths = pc.floor(pc.multiply(entities["score"], SCORE_BINS))
    decile = pc.cast(pc.min_element_wise(tenths, SCORE_BINS - 1), pa.int32())
    counted = pa.table({"label": entities["label"], "decile": decile}).group_by(["label", "decile"])
    scores: dict[str, Counter[int]] = {}
    for row in counted.aggregate([([], "count_all")]).to_pylist():
        scores.setdefault(row["label"], Counter())[row["decile"]] = row["count_all"]
    sums = entities.select(["label", "score"]).group_by("label").aggregate([("score", "sum")])
    by_decile: Counter[int] = Counter()
    for one in scores.values():
        by_decile.update(one)
    uncoded = entities["code"].null_count
    asserted = {name: pc.sum(entities[name]).as_py() or 0 for name in ASSERTIONS}
    powers = _counts(pc.cast(pc.floor(pc.log2(pc.max_element_wise(documents["n_chars"], 1))), pa.int32()))
    lengths = Counter({f"{2 ** int(one):,} to {2 ** (int(one) + 1) - 1:,} characters": n for one, n in powers.items()})
    return Profile(
        partition,
        len(documents),
        _counts(entities["label"]),
        _counts(entities.filter(entities["negated"])["label"]),
        scores,
        dict(zip(sums["label"].to_pylist(), sums["score_sum"].to_pylist(), strict=True)),
        {
            "label": _counts(entities["label"]),
            "score": Counter({f"{bin / SCORE_BINS:.1f}": count for bin, count in by_decile.items()}),
            "assertion": Counter(asserted) + Counter({"plain": max(0, len(entities) - sum(asserted.values()))}),
            "has a code": Counter({"yes": len(entities) - uncoded, "no": uncoded}),
            "length of notes": lengths,
            "note type": _counts(documents["note_type"]),
            "format": _counts(documents["format"]),
            "language": _counts(documents["language"]),
            "status": _counts(documents["status"]),
        },
    )


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    return Counter({str(row["values"]): row["counts"] for row in pc.value_counts(column).to_pylist()})


def funnel(root: Path, partition: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the steps from sources to rows with what was left out at each, of the run that was published last.

    ``steps`` are (name, count, note); ``not_notes`` and ``rejected`` are counts by kind.
    """
    counts = Counter(manifest.get("facts", {}).get("funnel", {}))
    rows = {name: told["rows"] for name, told in manifest.get("tables", {}).items()}
    status = _counts(warehouse.read_table(root, "documents", partition=partition, columns=["status"])["status"])
    steps = [
        ("Records read", int(counts["records"]), f"{int(counts['sources']):,} sources"),
        ("No note", int(counts["not_notes"]), "counted, not kept"),
        ("The same note again", int(counts["duplicates"]), "kept once"),
        ("Not readable", int(counts["rejected"]), "in quarantine"),
        ("Notes with text", int(counts["documents"]), ""),
        ("Done before, unchanged", int(counts["unchanged"]), "not computed again"),
        ("Notes in the partition", rows.get("documents", 0), ""),
        ("In a language that no model knows", status["unsupported_language"], "kept, not tagged"),
        ("Failed in a stage", status["failed"], "in quarantine"),
        ("Notes processed", status["processed"], ""),
    ]
    kept = {"Records read", "Notes with text", "Notes in the partition", "Notes processed"}
    kinds = {"not_notes": "not_a_note:", "rejected": "rejected:"}
    return {
        "steps": [
            {"name": name, "count": count, "note": note, "main": name in kept}
            for name, count, note in steps
            if count or name in kept
        ],
        "rows": {name: rows.get(name, 0) for name in ("sections", "entities", "relations", "summaries", "quarantine")},
        **{
            name: Counter({key.removeprefix(prefix): int(n) for key, n in counts.items() if key.startswith(prefix)})
            for name, prefix in kinds.items()
        },
    }  # fmt: skip


def throughput(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stage's speed: notes and tokens a second of work, useful share of a batch, memory, device."""
    counts = {one["name"]: one["value"] for one in run["counts"] or ()}
    seconds = run["seconds"] or None
    tokens, padded = counts.get("tokens"), counts.get("padded_tokens")
    return {
        "stage": run["stage"], "device": run["device"], "seconds": run["seconds"], "rows_in": run["rows_in"],
        "rows_out": run["rows_out"], "rejects": run["rejects"], "peak_memory_mb": run["peak_memory_mb"],
        "gpu_fragmentation": run["gpu_fragmentation"],
        "notes_per_s": run["rows_in"] / seconds if seconds else None,
        "tokens_per_s": tokens / seconds if seconds and tokens else None,
        "useful": tokens / padded if tokens and padded else None,
        "counts": {name: value for name, value in counts.items() if name.endswith(("_cut", "_repaired"))},
    }  # fmt: skip


def quarantine(root: Path, partition: str) -> list[dict[str, Any]]:
    """Returns stage, code, count and what to do, the most frequent first; no message, no place of a record."""
    table = warehouse.read_table(root, "quarantine", partition=partition, columns=["stage", "code"])
    rows = table.group_by(["stage", "code"]).aggregate([([], "count_all")]).to_pylist()
    rows.sort(key=lambda row: (-row["count_all"], row["stage"], row["code"]))
    return [
        {
            "stage": row["stage"], "code": row["code"], "count": row["count_all"],
            "remedy": CODES[row["code"]].remedy if row["code"] in CODES else "",
        }
        for row in rows
    ]  # fmt: skip


def top_diseases(root: Path, partition: str, most: int = 10, symptoms: int = 6) -> list[dict[str, Any]]:
    """Returns the diseases of most notes with their symptoms; what is negated or of the family is left out.

    A disease is its code where it has one, else its words in lower case; those only if MIN_CELL notes have them.
    """
    wanted = pc.field("label").isin(["DISEASE", "SYMPTOM"]) & ~pc.field("negated") & ~pc.field("family")
    names = ["entity_id", "document_id", "label", "text", "code_system", "code"]
    entities = warehouse.read_table(root, "entities", partition=partition, columns=names, filters=wanted)
    text = pc.utf8_trim_whitespace(pc.utf8_lower(entities["text"]))
    coded = pc.binary_join_element_wise(entities["code_system"], entities["code"], " ")
    entities = pa.table({
        "entity_id": entities["entity_id"], "document_id": entities["document_id"], "label": entities["label"],
        "text": text, "code": coded, "concept": pc.coalesce(coded, text),
    })  # fmt: skip
    spread = entities.group_by(["concept", "code"]).aggregate([("document_id", "count_distinct")])
    told = pc.or_(pc.is_valid(spread["code"]), pc.greater_equal(spread["document_id_count_distinct"], MIN_CELL))
    entities = entities.filter(pc.is_in(entities["concept"], spread.filter(told)["concept"].combine_chunks()))
    diseases = entities.filter(pc.equal(entities["label"], "DISEASE"))
    notes = diseases.group_by("concept").aggregate([("document_id", "count_distinct")]).to_pylist()
    notes.sort(key=lambda row: (-row["document_id_count_distinct"], row["concept"]))
    chosen = pa.array([row["concept"] for row in notes[:most]], pa.string())
    diseases = diseases.filter(pc.is_in(diseases["concept"], chosen))
    relations = warehouse.read_table(
        root, "relations", partition=partition, columns=["head_entity_id", "tail_entity_id", "type"],
        filters=(pc.field("type") == "has_symptom") & ~pc.field("negated"),
    )  # fmt: skip
    heads = diseases.select(["entity_id", "document_id", "concept"])
    heads = heads.rename_columns(["head_entity_id", "document_id", "disease"])
    tails = entities.select(["entity_id", "concept", "text"])
    tails = tails.rename_columns(["tail_entity_id", "symptom", "symptom_text"])
    joined = relations.join(heads, "head_entity_id", join_type="inner").join(tails, "tail_entity_id", join_type="inner")
    figures_of_pairs = [("document_id", "count_distinct"), ("symptom_text", "min")]
    pairs = joined.group_by(["disease", "symptom"]).aggregate(figures_of_pairs)
    below: dict[str, list[tuple[str, int]]] = {}
    for row in sorted(pairs.to_pylist(), key=lambda row: (-row["document_id_count_distinct"], row["symptom"])):
        below.setdefault(row["disease"], []).append((row["symptom_text_min"], row["document_id_count_distinct"]))
    said = {}
    counted = diseases.group_by(["concept", "text", "code"]).aggregate([([], "count_all")]).to_pylist()
    for row in sorted(counted, key=lambda row: (row["count_all"], row["text"])):
        said[row["concept"]] = (row["text"], row["code"])  # the most frequent wording comes last
    return [
        {
            "name": said[row["concept"]][0], "code": said[row["concept"]][1],
            "notes": row["document_id_count_distinct"], "symptoms": below.get(row["concept"], [])[:symptoms],
        }
        for row in notes[:most]
    ]  # fmt: skip


# --- over partitions ------------------------------------------------------------------------


def label_history(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Returns for each label its mentions, those a note, in each partition, and the share that is negated now."""
    labels = sorted({label for one in profiles for label in one.labels}, key=_label_order)
    last = profiles[-1]
    return [
        {
            "label": label, "count": last.labels[label],
            "negated": last.negated[label] / last.labels[label] if last.labels[label] else None,
            "rates": [one.labels[label] / one.notes if one.notes else 0.0 for one in profiles],
        }
        for label in labels
    ]  # fmt: skip


def _label_order(label: str) -> tuple[int, str]:
    return (LABELS.index(label) if label in LABELS else len(LABELS), label)


def drift(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Returns the index of each distribution against the partitions before, pooled; nothing where there are too few.

    ``most`` names the bin that moved most, with its share before and now.
    """
    now, before = profiles[-1], profiles[:-1]
    if now.notes < MIN_NOTES or sum(one.notes for one in before) < MIN_NOTES:
        return []
    found = []
    for name, current in now.distributions.items():
        pooled: Counter[str] = Counter()
        for one in before:
            pooled.update(one.distributions[name])
        if not current or not pooled:
            continue
        terms = stability_terms(current, pooled)
        index = sum(terms.values())
        chance = chance_bound(len(terms), sum(current.values()), sum(pooled.values()))
        most = max(terms, key=lambda bin: (terms[bin], bin))
        state = "stable" if index < max(STABLE, chance) else "watch" if index < SHIFTED else "shifted"
        shares = (pooled[most] / sum(pooled.values()), current[most] / sum(current.values()))
        found.append({
            "name": name, "index": index, "chance": chance, "state": state,
            "most": most, "before": shares[0], "now": shares[1],
        })  # fmt: skip
    return sorted(found, key=lambda one: -one["index"])


# --- scores and models ----------------------------------------------------------------------


def calibration(current: Profile) -> list[dict[str, Any]]:
    """Returns for each label its mentions by decile of the score, and how many of them the scores expect to be right.

    Whether they are right only annotated notes can tell; the model's card says how well scores held there.
    """
    return [
        {
            "label": label, "count": current.labels[label],
            "expected": current.score_sums[label] / current.labels[label],
            "deciles": [current.scores[label][decile] for decile in range(SCORE_BINS)],
        }
        for label in sorted(current.labels, key=_label_order)
    ]  # fmt: skip


def model_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what made a stage's rows, and what its card says of calibration where that very model is installed."""
    facts = {
        "stage": run["stage"], "name": run["model_name"], "hash": (run["weights_hash"] or "")[:12], "version": None,
        "code_version": run["code_version"], "device": run["device"], "finished_at": run["finished_at"],
        "calibration": None,
    }  # fmt: skip
    folder = MODELS / str(run["model_name"])
    if run["model_name"] and (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        installed = identify(folder)
        if installed.weights_hash == run["weights_hash"]:
            facts |= {"version": installed.version, "calibration": calibration_of_card(folder / "MODEL_CARD.md")}
    return facts


def calibration_of_card(card: Path) -> str | None:
    """Returns the paragraph of a model card that is about calibration."""
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8")
    for opening in ("## Calibration\n\n", "**Calibration.** "):
        if opening in text:
            return " ".join(text.split(opening, 1)[1].split("\n\n", 1)[0].split())
    return None
