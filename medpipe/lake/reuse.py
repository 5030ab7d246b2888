"""Notes that were finished before, in this partition or another: their rows are taken over, not made again.

The published partitions are the cache; there is no second store. A note is finished as far as the stages agree: a
stage does where code, model, the major versions of the tables and the settings that it reads are those of now, and
all stages before it do. So a new summarizer costs summaries, a new tagger costs everything.

A note is known by its text (``text_hash``) and whatever else a stage may read of it, sections included; not by where
it lies: a file that was renamed, or a folder that is read every night, is not computed again. Ids are made of a
note's place, so rows of a note that moved get the ids that a fresh run would give them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medpipe.ids import entity_id, relation_id, summary_id
from medpipe.lake import contracts, warehouse
from medpipe.lake.warehouse import ORDER
from medpipe.records import ModelId

log = logging.getLogger(__name__)

# What each stage writes, and the setting that decides its rows beside the model.
STAGES = (("tag", "entities", "codes"), ("relate", "relations", "min_relation_score"), ("summarize", "summaries", ""))
# All that a stage may read of a note but whose it is and where it lies; with the same, it gives the same rows.
NOTE = (
    "text_hash", "format", "note_type", "note_type_code", "note_status", "authored_at", "authored_at_text",
    "media_type", "language", "encounter_id",
)  # fmt: skip
# Columns that hold an id, or a list of ids, of a row that is made of the note's place.
IDS = ("section_id", "entity_id", "parent_entity_id", "relation_id", "head_entity_id", "tail_entity_id", "summary_id")
ID_LISTS = ("entity_ids", "relation_ids")
SECTION = ("section_id", "parent_section_id", "name", "title", "code", "start", "end", "body_start")


@dataclass(frozen=True, slots=True)
class Reused:
    """Documents with their sections and, for the first stages, the rows that were taken over."""

    stages: tuple[str, ...]
    rows: Mapping[str, pa.Table]  # of documents, sections and what the stages write; each in its table's order


@dataclass(frozen=True, slots=True)
class _Place:
    """A partition that holds finished notes."""

    partition: str
    manifest: Mapping[str, Any]
    stages: tuple[str, ...]


def agreeing_stages(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the stages, from the first, whose rows two fingerprints (``pipeline.make_fingerprint``) make alike."""
    agreed: list[str] = []
    for stage, table, knob in STAGES:
        if any(
            _facts(old, stage, table, knob)[name] != value for name, value in _facts(new, stage, table, knob).items()
        ):
            break
        agreed.append(stage)
    return tuple(agreed)


def _facts(fingerprint: Mapping[str, Any], stage: str, table: str, knob: str) -> dict[str, Any]:
    versions = fingerprint.get("schemas", {})
    return {
        "code": fingerprint.get("code"),
        "model": fingerprint.get("models", {}).get(stage),
        "schemas": [str(versions.get(name)).partition(".")[0] for name in ("documents", "sections", table)],
        "setting": fingerprint.get("settings", {}).get(knob),
    }


class FinishedNotes:
    """Finds notes that were finished before.

    Args:
        root: the warehouse.
        fingerprint: all that decides rows now.
        models: identity of each stage's model.
        run_ids: of each stage's run now; rows that are taken over name it, as if it had made them.
        partitions: how many partitions are looked through, the newest first.
    """

    def __init__(
        self,
        root: Path,
        fingerprint: Mapping[str, Any],
        models: Mapping[str, ModelId],
        run_ids: Mapping[str, str],
        *,
        partitions: int,
    ) -> None:
        self.root = root
        self.models = models
        self.run_ids = run_ids
        places = []
        for partition in warehouse.partitions(root)[::-1][:partitions]:
            manifest = warehouse.read_settled_manifest(root, partition)
            if manifest and (stages := agreeing_stages(manifest["facts"].get("fingerprint", {}), fingerprint)):
                places.append(_Place(partition, manifest, stages))
        # Where more stages agree first; among equals the newest.
        self.places = sorted(places, key=lambda place: -len(place.stages))

    def take(self, documents: pa.Table, sections: pa.Table) -> Iterator[Reused]:
        """Yields those of ``documents`` that were finished, with their rows; each document at most once.

        Memory: the rows of the documents given; the partitions are streamed. A partition that changes while it is
        read, or cannot be read, gives nothing: its notes are computed.
        """
        waiting = documents.filter(pc.equal(documents["status"], "processed"))
        for place in self.places:
            if not len(waiting):
                return
            try:
                reused = self._take_from(place, waiting, sections)
            except (OSError, pa.ArrowException) as error:
                log.warning("dt=%s cannot be read (%s): its notes are computed", place.partition, type(error).__name__)
                continue
            if reused is None or warehouse.read_settled_manifest(self.root, place.partition) != place.manifest:
                continue
            taken = reused.rows["documents"]["document_id"].combine_chunks()
            waiting = waiting.filter(pc.invert(pc.is_in(waiting["document_id"], taken)))
            yield reused

    def _take_from(self, place: _Place, documents: pa.Table, sections: pa.Table) -> Reused | None:
        old = self._read(place, "documents", ["document_id", *NOTE], self._is_finished(place, documents))
        pairs = _pair(documents, old)
        if not pairs:
            return None
        old_sections = _group(self._rows(place, "sections", pairs.values()).select(["document_id", *SECTION]))
        new_sections = _group(_of(sections, pairs).select(["document_id", *SECTION]))
        pairs = {
            new: earlier
            for new, earlier in pairs.items()
            if _outline(new_sections.get(new, [])) == _outline(old_sections.get(earlier, []))
        }
        if not pairs:
            return None
        rows = {"documents": _of(documents, pairs), "sections": _of(sections, pairs)}
        found = {table: self._rows(place, table, pairs.values()) for stage, table, _ in STAGES if stage in place.stages}
        stayed = [new for new, earlier in pairs.items() if new == earlier]
        for stage, table, _ in STAGES[: len(place.stages)]:
            rows[table] = self._as_of_this_run(_of(found[table], stayed), stage)
        if len(stayed) < len(pairs):
            moved = self._move(pairs, rows["documents"], found, old_sections, new_sections)
            for table, made in moved.items():
                order = [(name, "ascending") for name in ORDER[table]]
                rows[table] = pa.concat_tables([rows[table], made]).sort_by(order)
        return Reused(place.stages, rows)

    def _is_finished(self, place: _Place, documents: pa.Table) -> pc.Expression:
        sources = pa.array(sorted(place.manifest["facts"].get("sources", {})), pa.string())
        return (
            pc.field("text_hash").isin(documents["text_hash"].combine_chunks())
            & (pc.field("status") == "processed")
            & pc.field("source").isin(sources)  # the sources that were made with the manifest's fingerprint
        )

    def _read(self, place: _Place, table: str, columns: Sequence[str] | None, wanted: pc.Expression) -> pa.Table:
        return warehouse.read_table(self.root, table, partition=place.partition, columns=columns, filters=wanted)

    def _rows(self, place: _Place, table: str, document_ids: Any) -> pa.Table:
        ids = pa.array(sorted(set(document_ids)), pa.string())
        return self._read(place, table, None, pc.field("document_id").isin(ids))

    def _as_of_this_run(self, rows: pa.Table, stage: str) -> pa.Table:
        place = rows.schema.get_field_index("run_id")
        run_id = pa.repeat(pa.scalar(self.run_ids[stage], pa.string()), len(rows))
        return rows.set_column(place, rows.schema.field(place), run_id)

    def _move(
        self,
        pairs: Mapping[str, str],
        documents: pa.Table,
        found: Mapping[str, pa.Table],
        old_sections: Mapping[str, list[dict[str, Any]]],
        new_sections: Mapping[str, list[dict[str, Any]]],
    ) -> dict[str, pa.Table]:
        """Returns the rows of documents that lie elsewhere now, with the ids that they have there."""
        patients = dict(zip(documents["document_id"].to_pylist(), documents["patient_id"].to_pylist(), strict=True))
        moved = {new: old for new, old in pairs.items() if new != old}
        grouped = {table: _group(_of(rows, moved.values())) for table, rows in found.items()}
        made: dict[str, list[dict[str, Any]]] = {table: [] for table in found}
        for new, old in moved.items():
            places = zip(old_sections.get(old, []), new_sections.get(new, []), strict=True)
            ids = {before["section_id"]: now["section_id"] for before, now in places}
            entities = grouped["entities"].get(old, [])
            for row in entities:
                parts = [limit for part in row["fragments"] or () for limit in (part["start"], part["end"])]
                weights = self.models["tag"].weights_hash
                ids[row["entity_id"]] = entity_id(new, weights, row["start"], row["end"], row["label"], parts)
            relations = grouped.get("relations", {}).get(old, [])
            for row in relations:
                ends = ids[row["head_entity_id"]], ids[row["tail_entity_id"]]
                weights = self.models["relate"].weights_hash
                ids[row["relation_id"]] = relation_id(new, weights, row["type"], *ends)
            summaries = grouped.get("summaries", {}).get(old, [])
            for row in summaries:
                ids[row["summary_id"]] = summary_id(new, self.models["summarize"].weights_hash)
            facts = {"document_id": new, "patient_id": patients[new]}
            for (stage, table, _), rows in zip(STAGES, (entities, relations, summaries), strict=True):
                if table in made:
                    changed = facts | {"run_id": self.run_ids[stage]}
                    made[table] += [_renamed(row, ids) | changed for row in rows]
        return {table: _as_table(table, rows) for table, rows in made.items()}


def _renamed(row: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row whose ids, and lists of ids, are replaced by those that ``ids`` gives them."""
    named = dict(row)
    for name in IDS:
        if named.get(name) is not None:
            named[name] = ids[named[name]]
    for name in ID_LISTS:
        if name in named:
            named[name] = [ids[one] for one in named[name]]
            if name == "relation_ids":  # entities flow in the order of their places, relations in that of their ids
                named[name].sort()
    return named


def _as_table(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = [name for name in contracts.arrow_schema(table).names if name != "schema_version"]
    return contracts.conform(table, {name: [row[name] for row in rows] for name in names})


def _pair(new: pa.Table, old: pa.Table) -> dict[str, str]:
    """Returns for new documents the old one that says the same: itself where it is there, else the first by id."""
    by_facts: dict[tuple, list[str]] = {}
    columns = [old[name].to_pylist() for name in NOTE]
    for key, *facts in zip(old["document_id"].to_pylist(), *columns, strict=True):
        by_facts.setdefault(tuple(facts), []).append(key)
    pairs = {}
    columns = [new[name].to_pylist() for name in NOTE]
    for key, *facts in zip(new["document_id"].to_pylist(), *columns, strict=True):
        if same := by_facts.get(tuple(facts)):
            pairs[key] = key if key in same else min(same)
    return pairs


def _of(table: pa.Table, document_ids: Any) -> pa.Table:
    return table.filter(pc.is_in(table["document_id"], pa.array(sorted(set(document_ids)), pa.string())))


def _group(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["document_id"], []).append(row)
    return groups


def _outline(sections: Sequence[Mapping[str, Any]]) -> list[tuple]:
    """Returns what sections say without their ids: two documents with the same outline are cut alike."""
    number = {row["section_id"]: place for place, row in enumerate(sections)}
    return [(number.get(row["parent_section_id"]), *(row[name] for name in SECTION[2:])) for row in sections]
