"""What a warehouse needs besides its nights: ``medpipe maintain``, and the DAG ``medpipe_maintenance``.

- ``work``: work areas that nobody will go on with are removed: those of runs that were published, and those that
  nobody touched for ``work_days`` days. One that a process holds the lock of stays.
- ``compact``: a partition is one file a table, so there are no small files to merge. What may be left over is put
  right: a publish that was killed is finished, files of an earlier major version that the manifest does not name and
  temporary files that nobody wrote to for ``work_days`` days are removed, partitions with tables of an earlier major
  version are rewritten by its migrations.
- ``reprocess``: sources that another model made than the settings name go through the stages again, from the text in
  ``documents``; what the stages agree on (``lake.reuse``) is taken over, so a new summarizer costs summaries only.
- ``quarantine``: documents that a stage refused are tried again from the text in ``documents``, ``max_attempts`` times
  in all and once with every new release; records that ingest refused are read again from their sources in the landing
  folder, where these still exist and what was in the way has changed: the file, a limit, format, mapping, or release.

Each can be killed and called again: what it did is done, the rest is done then, and nothing is done twice. What is done
again is a run like any other: planned, worked off by the four stages, published at once; where the partition was
published by somebody else meanwhile, it is left as it is (``PARTITION_CHANGED``).
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from medpipe import pipeline
from medpipe.errors import MedpipeError
from medpipe.ingest.sources import find_sources
from medpipe.lake import contracts, files, lease, warehouse
from medpipe.lake.commit import commit_of
from medpipe.lake.publish import identify_tables, migrate, recover
from medpipe.pipeline import planning
from medpipe.settings import STAGES, Settings
from medpipe.storage import as_location, as_store

ACTIONS = ("work", "compact", "reprocess", "quarantine")
DAY_SECONDS = 86_400.0
# What a stage refuses although nothing is wrong with the record: it may pass another time.
STAGE_CODES = ("STAGE_FAILED", "OUT_OF_MEMORY")
# What ingest refuses because of a limit: it passes when the limit has grown.
LIMITS = {"TEXT_TOO_LARGE": "max_note_chars", "SOURCE_TOO_LARGE": "max_file_bytes"}
# What else decides how a source is read.
READING = ("format", "mapping")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Again:
    """Sources of a partition that are to be done again."""

    partition: str
    reason: Literal["reprocess", "quarantine"]
    origin: Literal["tables", "sources"]  # where their notes come from
    sources: tuple[str, ...]
    why: tuple[str, ...]  # models that are others now, or codes

    def __str__(self) -> str:
        return f"dt={self.partition}: {len(self.sources)} sources from the {self.origin} ({', '.join(self.why)})"


def maintain(
    settings: Settings, actions: Collection[str] = ACTIONS, *, dry_run: bool = False, report: Report = lambda line: None
) -> dict[str, Any]:
    """Does the actions in their order, one partition after the other in this process.

    Args:
        settings: of the warehouse, the models, and how much is done.
        actions: of ``ACTIONS``.
        dry_run: only tells what would be done.
        report: gets a line for each thing that is done.

    Returns:
        For each action its counts; of ``reprocess`` and ``quarantine`` also ``partitions``, a list with what became of
        each. Paths, dates, codes and counts only.

    Raises:
        MedpipeError: WAREHOUSE_INVALID where there is no warehouse; DISK_FULL, PERMISSION_DENIED. What a single
            partition raises does not end the others: its code stands in ``partitions``.
    """
    root = settings.warehouse.resolve()
    if not root.is_dir():
        raise MedpipeError("WAREHOUSE_INVALID", path=settings.warehouse, reason="no such folder")
    outcome: dict[str, Any] = {}
    for action in (one for one in ACTIONS if one in actions):
        if action == "work":
            outcome[action] = clear_work(root, days=settings.work_days, dry_run=dry_run, report=report)
        elif action == "compact":
            outcome[action] = compact(root, days=settings.work_days, dry_run=dry_run, report=report)
        elif action == "reprocess":
            outcome[action] = do_again(settings, find_stale(settings), dry_run=dry_run, report=report)
        else:
            found, gone = find_retries(settings)
            outcome[action] = do_again(settings, found, dry_run=dry_run, report=report) | {"sources_gone": gone}
    return outcome


# --- work areas -----------------------------------------------------------------------------


def clear_work(root: Path, *, days: float, dry_run: bool = False, report: Report = lambda line: None) -> dict[str, int]:
    """Removes work areas that were published, or that nobody touched for ``days`` days and nobody holds.

    Returns:
        ``removed``, ``bytes`` (freed), ``busy`` (locked), ``kept`` (younger).
    """
    counts = Counter(removed=0, bytes=0, busy=0, kept=0)
    for folder in sorted((root / "_work").glob("dt=????-??-??")):
        partition = folder.name.removeprefix("dt=")
        manifest = warehouse.read_manifest(root, partition)
        published = manifest["facts"].get("work") if manifest else None
        for area in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "publish"):
            if area.name != published and _age(area) < days * DAY_SECONDS:
                counts["kept"] += 1
                continue
            locks = [*area.parent.glob(f"{area.name}.lock"), *area.glob("*.lock")]
            with _free_locks(locks) as free:
                if not free:
                    counts["busy"] += 1
                    continue
                counts.update(removed=1, bytes=sum(path.stat().st_size for path in _walk(area) if path.is_file()))
                report(f"work area {area.name} of dt={partition} {'would be' if dry_run else 'is'} removed")
                if not dry_run:
                    with files.disk_faults(area):
                        files.remove_tree(area, strict=True)
                        area.with_suffix(".lock").unlink(missing_ok=True)
        if not dry_run and as_store(folder) is None and not any(folder.iterdir()):
            folder.rmdir()
    return dict(counts)


def _age(area: Path) -> float:
    """Returns how many seconds ago anything in a folder was last written."""
    return time.time() - max((path.stat().st_mtime for path in _walk(area)), default=area.stat().st_mtime)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields what lies in a folder and still does when it is looked at."""
    return (path for path in folder.rglob("*") if as_store(path) is not None or path.exists())


@contextmanager
def _free_locks(paths: Iterable[Path]) -> Iterator[bool]:
    """Holds the locks of files; gives whether nobody else holds one. Waits for nothing but a lease, on a store."""
    with ExitStack() as stack:
        try:
            for path in paths:
                if (store := as_store(path)) is not None:
                    busy = MedpipeError("WORK_BUSY", partition=path.parent.name.removeprefix("dt="))
                    stack.enter_context(lease.leased(store, busy, wait=1.5 * lease.LEASE_SECONDS))
                    continue
                lock = stack.enter_context(path.open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, MedpipeError) as error:
            if isinstance(error, MedpipeError) and error.code != "WORK_BUSY":
                raise
            yield False
            return
        except FileNotFoundError:  # its run has just ended
            pass
        yield True


# --- what is left over ----------------------------------------------------------------------


def compact(root: Path, *, days: float, dry_run: bool = False, report: Report = lambda line: None) -> dict[str, int]:
    """Finishes killed publishes, removes files that nothing names, and rewrites tables of earlier major versions.

    A table's file is removed only where the manifest of its partition names another file of the same table, whose
    rows replace it.

    Returns:
        ``finished`` (publishes), ``superseded`` (files), ``temporary`` (files), ``bytes`` (freed), ``migrated``
        (partitions), ``busy`` (partitions that somebody else changes).
    """
    counts = Counter(finished=0, superseded=0, temporary=0, bytes=0, migrated=0, busy=0)
    earlier = []
    for partition in _known_partitions(root):
        if commit_of(root, partition).is_pending():
            with _free_locks([root / "_manifests" / f".dt={partition}.lock"]) as free:
                counts["finished" if free else "busy"] += 1
            if not free:
                continue
            report(f"dt={partition}: a publish that was cut off {'would be' if dry_run else 'is'} finished or undone")
            if dry_run:
                continue
            recover(root, partition)
        superseded = _superseded(root, partition)
        for path in superseded:
            counts.update(superseded=1, bytes=path.stat().st_size)
            report(f"{path.relative_to(root)} {'would be' if dry_run else 'is'} removed: the manifest names another")
            if not dry_run:
                with files.disk_faults(path):
                    path.unlink(missing_ok=True)
        if _has_earlier_major(root, partition):
            earlier.append(partition)
    # A store has none: an upload that was cut off is no object.
    here = _walk(root) if as_store(root) is None else ()
    for path in [path for path in here if path.name.startswith(".") and path.name.endswith(".partial")]:
        if path.is_file() and time.time() - path.stat().st_mtime >= days * DAY_SECONDS:
            counts.update(temporary=1, bytes=path.stat().st_size)
            report(f"{path.relative_to(root)} {'would be' if dry_run else 'is'} removed: a temporary file")
            if not dry_run:
                path.unlink(missing_ok=True)
    if not dry_run:
        _remove_empty_folders(root)
    if earlier:
        counts["migrated"] = len(earlier) if dry_run else len(migrate(root))
        report(
            f"{counts['migrated']} partitions {'would be' if dry_run else 'are'} rewritten in today's major versions"
        )
    return dict(counts)


def _known_partitions(root: Path) -> list[str]:
    """Returns the partitions that were published, or begun to be."""
    begun = [path.name.removeprefix("dt=") for path in (root / "_work").glob("dt=*/") if (path / "publish").exists()]
    journals = [path.name[len(".dt=") :][:10] for path in (root / "_manifests").glob(".dt=????-??-??*.publishing")]
    return sorted({*warehouse.partitions(root), *begun, *journals})


def _superseded(root: Path, partition: str) -> list[Path]:
    """Returns a partition's files of tables of which its manifest names another file."""
    manifest = warehouse.read_settled_manifest(root, partition)
    named = {table: root / told["path"] for table, told in manifest["tables"].items()} if manifest else {}
    return [
        path
        for table, current in named.items()
        if current.is_file()
        for path in sorted((root / table).glob(f"v*/dt={partition}/*.parquet"))
        if path != current and path.parent.parent != current.parent.parent
    ]


def _has_earlier_major(root: Path, partition: str) -> bool:
    manifest = warehouse.read_manifest(root, partition)
    told = manifest["tables"] if manifest else {}
    return any(
        contracts.version_numbers(one["schema_version"])[0] < contracts.major(table) for table, one in told.items()
    )


def _remove_empty_folders(root: Path) -> None:
    """Removes what is left of versions without a partition; on a store there is no empty folder."""
    if as_store(root) is not None:
        return
    for table in contracts.TABLES:
        for folder in [*(root / table).glob("v*/dt=*"), *(root / table).glob("v*")]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


# --- what is to be done again ---------------------------------------------------------------


def find_stale(settings: Settings) -> list[Again]:
    """Returns the partitions with sources that other models made than the settings name, the newest first."""
    now = planning.make_fingerprint(settings)
    root = settings.warehouse.resolve()
    found = []
    for partition in warehouse.partitions(root)[::-1]:
        groups = _made_by(root, partition)
        changed = {
            name: tuple(stage for stage in now["models"] if made.get("models", {}).get(stage) != now["models"][stage])
            for name, made in groups.items()
        }
        stale = sorted(name for name, stages in changed.items() if stages)
        if stale:
            why = sorted({stage for name in stale for stage in changed[name]}, key=STAGES.index)
            found.append(Again(partition, "reprocess", "tables", tuple(stale), tuple(f"model of {one}" for one in why)))
    return found


def _made_by(root: Path, partition: str) -> dict[str, Mapping[str, Any]]:
    """Returns the fingerprint with which each source of a partition was made; an empty one where it is not known."""
    manifest = warehouse.read_manifest(root, partition)
    assert manifest is not None
    facts = manifest["facts"]
    names = warehouse.read_table(root, "documents", partition=partition, columns=["source"])["source"]
    groups: dict[str, Mapping[str, Any]] = {name: {} for name in pc.unique(names).to_pylist()}
    for one in (*facts.get("earlier", ()), facts):
        groups |= {name: one.get("fingerprint", {}) for name in one.get("sources", {})}
    return groups


def find_retries(settings: Settings) -> tuple[list[Again], int]:
    """Returns what in quarantine is to be tried again, the newest partitions first, and how many sources are gone.

    A partition may be named twice: with documents that a stage refused, and with sources that ingest reads again.
    """
    now = planning.make_fingerprint(settings)
    root = settings.warehouse.resolve()
    found: list[Again] = []
    gone = 0
    for partition in warehouse.partitions(root)[::-1]:
        columns = ["source", "stage", "code", "attempt"]
        rows = warehouse.read_table(root, "quarantine", partition=partition, columns=columns).to_pylist()
        if not rows:
            continue
        made_by = _made_by(root, partition)
        failed = [
            row
            for row in rows
            if row["stage"] != "ingest" and row["code"] in STAGE_CODES
            and (row["attempt"] < settings.max_attempts or made_by.get(row["source"], {}).get("code") != now["code"])
        ]  # fmt: skip
        if failed:
            names, codes = sorted({row["source"] for row in failed}), sorted({row["code"] for row in failed})
            found.append(Again(partition, "quarantine", "tables", tuple(names), tuple(codes)))
        refused = [row for row in rows if row["stage"] == "ingest"]
        if refused:
            retry, missing = _find_readable(settings, partition, refused, made_by, now)
            gone += missing
            found += [retry] if retry is not None else []
    return found, gone


def _find_readable(
    settings: Settings,
    partition: str,
    refused: Sequence[Mapping[str, Any]],
    made_by: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Any],
) -> tuple[Again | None, int]:
    """Returns the sources whose records ingest may take now, and how many sources are gone."""
    try:
        there = {one.name: one.path for one in find_sources([settings.landing.replace("{date}", partition)])}
    except MedpipeError:  # no folder, or nothing in it
        there = {}
    manifest = warehouse.read_manifest(settings.warehouse.resolve(), partition)
    facts = manifest["facts"] if manifest else {}
    digests = {name: key for one in (*facts.get("earlier", ()), facts) for name, key in one.get("sources", {}).items()}
    arrived = set(there) - set(digests)
    chosen: dict[str, set[str]] = {}
    for row in refused:
        name, code = str(row["source"]), str(row["code"])
        if name not in there:
            continue
        if (
            _is_lifted(code, made_by.get(name, {}), now)
            or (code == "ATTACHMENT_UNRESOLVED" and arrived)
            or files.digest_of(there[name]) != digests.get(name)
        ):
            chosen.setdefault(name, set()).add(code)
    missing = len({row["source"] for row in refused} - set(there))
    if not chosen:
        return None, missing
    if any("ATTACHMENT_UNRESOLVED" in codes for codes in chosen.values()):
        chosen |= {name: set() for name in arrived}  # one of them may be the attachment
    codes = sorted({code for some in chosen.values() for code in some})
    return Again(partition, "quarantine", "sources", tuple(sorted(chosen)), tuple(codes)), missing


def _is_lifted(code: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Says whether what made ingest refuse a record may be gone: its limit, how sources are read, the code."""
    old, new = before.get("settings", {}), now["settings"]
    if code in LIMITS:
        return int(new[LIMITS[code]]) > int(old.get(LIMITS[code], 0))
    return before.get("code") != now["code"] or any(old.get(name) != new.get(name) for name in READING)


def find_again(settings: Settings, actions: Collection[str] = ACTIONS) -> list[Again]:
    """Returns what ``reprocess`` and ``quarantine`` would do, each partition once, as many as a maintenance may do.

    For doing partitions side by side: what changes a partition twice is left for the next time.
    """
    found = find_stale(settings) if "reprocess" in actions else []
    found += find_retries(settings)[0] if "quarantine" in actions else []
    first: dict[str, Again] = {}
    for again in found:
        first.setdefault(again.partition, again)
    return list(first.values())[: settings.maintenance_partitions]


# --- doing it -------------------------------------------------------------------------------


def plan_again(settings: Settings, again: Again, *, shards: int | None = None) -> dict[str, Any]:
    """Plans what is to be done again; returns what ``pipeline.plan`` does. Called again, it finds the plan again."""
    shards = shards or settings.shards
    if again.origin == "sources":
        landing = settings.landing.replace("{date}", again.partition)
        return pipeline.plan(settings, again.partition, [landing], shards=shards, only=again.sources)
    return plan_from_tables(settings, again.partition, again.sources, shards=shards)


def plan_from_tables(settings: Settings, partition: str, sources: Sequence[str], *, shards: int) -> dict[str, Any]:
    """Plans sources of a partition whose notes are read from the tables, not from their files.

    Of sources that were made as they would be made now, only documents that a stage refused are done again.
    """
    root = settings.warehouse.resolve()
    recover(root, partition)
    fingerprint = planning.make_fingerprint(settings)
    manifest = warehouse.read_manifest(root, partition)
    if manifest is None:
        raise MedpipeError("PARTITION_NOT_FOUND", partition=partition, path=settings.warehouse)
    facts = manifest["facts"]
    made = {
        name: (one.get("fingerprint", {}), key)
        for one in (*facts.get("earlier", ()), facts)
        for name, key in one.get("sources", {}).items()
    }
    sizes = _sizes(root, partition)
    described: list[dict[str, Any]] = [
        {
            "name": name,
            "path": "",
            "bytes": sizes.get(name, 0),
            # Where ingest would read it otherwise today, the next run of the source's file is to do so.
            "digest": made[name][1] if name in made and _reads_alike(made[name][0], fingerprint) else "",
        }
        for name in sorted(sources)
    ]
    base = identify_tables(manifest)
    keys = [f"again {name}" for name in sorted(sources)]
    work = planning.work_area(root, partition, fingerprint, base, *keys)
    total = sum(source["bytes"] for source in described)
    count = max(1, min(shards, len(described), -(-total // settings.shard_bytes)))
    night = {
        "partition": partition,
        "warehouse": str(root),
        "fingerprint": fingerprint,
        "reuse": [name for name in sorted(sources) if name in made and made[name][0] == fingerprint],
        "sources": described,
        "shards": [[one["name"] for one in shard] for shard in planning.cut_shards(described, count)],
        "base": base,
        "attempted": [stage for stage in STAGES if stage != "ingest"],
    }
    if not (work / "plan.json").exists():
        files.write_json(work / "plan.json", night)
    return {
        "partition": partition,
        "work": str(work),
        "sources": len(described),
        "unchanged": 0,
        "shards": planning.describe_shards(night),
    }


def _sizes(root: Path, partition: str) -> dict[str, int]:
    """Returns how many characters the notes of each source have."""
    rows = warehouse.read_table(root, "documents", partition=partition, columns=["source", "n_chars"])
    sums = rows.group_by("source").aggregate([("n_chars", "sum")])
    return dict(zip(sums["source"].to_pylist(), sums["n_chars_sum"].to_pylist(), strict=True))


def _reads_alike(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Says whether ingest gives the same documents, sections and rejects of a source with both fingerprints."""
    knobs = ("format", "max_note_chars", "max_file_bytes", "languages", "mapping")
    old, new = before.get("settings", {}), now["settings"]
    tables = ("documents", "sections")
    majors = [[one.get("schemas", {}).get(name, "").partition(".")[0] for name in tables] for one in (before, now)]
    return (
        before.get("code") == now["code"]
        and majors[0] == majors[1]
        and all(old.get(name) == new.get(name) for name in knobs)
    )


def do_again(
    settings: Settings, found: Sequence[Again], *, dry_run: bool = False, report: Report = lambda line: None
) -> dict[str, Any]:
    """Does partitions again, one after the other, as many as a maintenance may.

    Returns:
        ``found``, ``done``, ``failed``, ``left`` (for the next time), and ``partitions``: of each ``partition``,
        ``sources``, ``why``, and ``rows`` or the ``error``'s code.
    """
    chosen = found[: settings.maintenance_partitions]
    partitions: list[dict[str, Any]] = []
    for again in chosen:
        told: dict[str, Any] = {
            "partition": again.partition, "sources": len(again.sources), "from": again.origin, "why": list(again.why),
        }  # fmt: skip
        partitions.append(told)
        report(f"{again}{' would be done again' if dry_run else ''}")
        if dry_run:
            continue
        try:
            told["rows"] = run_again(settings, again).get("rows")
        except MedpipeError as error:
            told["error"] = error.code
            report(str(error))
    failed = sum("error" in one and one["error"] != "PARTITION_CHANGED" for one in partitions)
    done = sum("rows" in one for one in partitions)
    left = len(found) - done - failed
    return {"found": len(found), "done": done, "failed": failed, "left": left, "partitions": partitions}


def run_again(settings: Settings, again: Again) -> dict[str, Any]:
    """Plans, works off and publishes what is to be done again, in this process; returns what ``publish`` does.

    Raises:
        MedpipeError: what the stages and ``pipeline.publish`` raise; WORK_BUSY where another process does it.
    """
    night = plan_again(settings, again, shards=1)
    if not night["shards"]:
        return {}
    work = as_location(night["work"])
    lock = work.with_suffix(".lock")
    with files.locked(lock, MedpipeError("WORK_BUSY", partition=again.partition)):
        try:
            for stage in STAGES:
                for shard in night["shards"]:
                    pipeline.run_stage(stage, night["work"], shard["index"], settings)
            done = pipeline.publish(night["work"], settings)
        except MedpipeError as error:
            if error.code == "SOURCE_CHANGED":  # nobody will ever go on with this plan
                files.remove_tree(work)
                lock.unlink(missing_ok=True)
            raise
        lock.unlink(missing_ok=True)
    return done
