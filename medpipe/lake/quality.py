"""The quality gate: a partition is looked at before it is published, and held back where it is unlike those before.

Two things are asked of the merged, staged files. Whether they keep the contracts (``checks``): where not, that is a
bug, and nobody can accept it. And whether the partition's figures are like those of the last partitions (drift): where
not, a person may say that they are right. The figures stand in each manifest, so earlier partitions are not read.

What is expected of a measure, from its values ``x`` in the ``n`` earlier partitions that were not accepted for it:

- notes: ``min(x) / f`` to ``max(x) f``, since weekends are not workdays;
- mentions and relations of a kind per 1,000 tokens: ``mean(x)`` plus or minus the larger of ``c mean(x)`` and
  ``k sd(x) sqrt(1 + 1/n)``, the prediction interval of one more value;
- shares (notes without an entity, records in quarantine): the same with ``c`` itself; quarantine may always be less;
- scores of a kind: a population stability index against the earlier partitions together of at most ``p``.

A measure that was accepted for a partition is also in order for later ones near what was accepted: a new model that
finds more is accepted once, not every night.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medpipe.errors import MedpipeError
from medpipe.lake import files, warehouse
from medpipe.lake.checks import Blocks, Checker, iter_blocks
from medpipe.settings import Settings
from medpipe.text.tokens import count_tokens

SCORE_BINS = 10  # tenths
EMPTY = "share of notes without an entity"
QUARANTINED = "share in quarantine"


@dataclass(slots=True)
class Figures:
    """What is compared of a partition; ``entities`` and ``relations`` have for each kind its scores by tenths."""

    notes: int = 0
    processed: int = 0  # of the notes: neither in another language nor refused by a stage
    empty: int = 0  # of the processed: those without an entity
    tokens: int = 0  # of the processed
    quarantined: int = 0
    rejected: int = 0  # of the quarantined: records that became no note
    entities: dict[str, list[int]] = field(default_factory=dict)
    relations: dict[str, list[int]] = field(default_factory=dict)

    def take(self, blocks: Blocks) -> None:
        """Adds the rows of some documents (``checks.iter_blocks``)."""
        if documents := blocks.get("documents"):
            done = documents.filter(pc.equal(documents["status"], "processed"))
            self.notes += len(documents)
            self.processed += len(done)
            self.empty += pc.sum(pc.equal(done["n_entities"], 0)).as_py() or 0
            self.tokens += count_tokens(done["text"].to_pylist()) if len(done) else 0
        for table, kind, counted in (("entities", "label", self.entities), ("relations", "type", self.relations)):
            if rows := blocks.get(table):
                _count_scores(rows[kind], rows["score"], counted)

    def take_quarantine(self, path: Path) -> None:
        """Adds the rows of ``quarantine``."""
        for block in files.iter_file(path, 1 << 16, ["document_id"]):
            self.quarantined += len(block)
            self.rejected += block["document_id"].null_count

    def as_json(self) -> dict[str, Any]:
        """Returns the figures as they stand in a manifest."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _count_scores(kinds: pa.ChunkedArray, scores: pa.ChunkedArray, counted: dict[str, list[int]]) -> None:
    encoded = kinds.combine_chunks().dictionary_encode()
    tenths = np.clip((scores.to_numpy() * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    cells = encoded.indices.to_numpy().astype(np.int64) * SCORE_BINS + tenths
    found = np.bincount(cells, minlength=len(encoded.dictionary) * SCORE_BINS).reshape(-1, SCORE_BINS)
    for kind, row in zip(encoded.dictionary.to_pylist(), found.tolist(), strict=True):
        counted[kind] = [a + b for a, b in zip(counted.get(kind, [0] * SCORE_BINS), row, strict=True)]


# --- measures -------------------------------------------------------------------------------


def rate(figures: Figures, table: str, kind: str) -> float:
    """Returns mentions or relations of a kind per 1,000 tokens."""
    return 1000 * sum(getattr(figures, table).get(kind, ())) / max(1, figures.tokens)


def empty_share(figures: Figures) -> float:
    """Returns the share of the processed notes in which nothing was found."""
    return figures.empty / max(1, figures.processed)


def quarantined_share(figures: Figures) -> float:
    """Returns the share of quarantine of all that was read as a note, or should have been one."""
    return figures.quarantined / max(1, figures.notes + figures.rejected)


def stability_terms(current: Mapping[Any, int], before: Mapping[Any, int]) -> dict[Any, float]:
    """Returns each bin's part of the population stability index; half a count is added to every bin (Jeffreys)."""
    bins = sorted({*current, *before})
    n, m = sum(current.values()) + len(bins) / 2, sum(before.values()) + len(bins) / 2
    shares = {bin: ((current.get(bin, 0) + 0.5) / n, (before.get(bin, 0) + 0.5) / m) for bin in bins}
    return {bin: (p - q) * math.log(p / q) for bin, (p, q) in shares.items()}


def stability_index(current: Sequence[int], before: Sequence[int]) -> float:
    """Returns the population stability index of two histograms over the same bins."""
    return math.fsum(stability_terms(dict(enumerate(current)), dict(enumerate(before))).values())


def chance_bound(bins: int, n: int, m: int) -> float:
    """Returns the index that 19 of 20 partitions stay below without drift: ``(1/n + 1/m) chi2(0.95; bins - 1)``.

    The quantile is that of Wilson and Hilferty (1931), within 1 % from three degrees of freedom on.
    """
    freedom = bins - 1
    if freedom < 1:
        return 0.0
    spread = 2 / (9 * freedom)
    return (1 / n + 1 / m) * freedom * (1 - spread + 1.6449 * math.sqrt(spread)) ** 3


# --- judging --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """An earlier partition, and the measures that a person accepted for it though they were not as expected.

    ``plain``: whether its other measures count, which those of the same partition, published before, do not.
    """

    partition: str
    figures: Figures
    accepted: frozenset[str] = frozenset()
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Deviation:
    """A measure that is not as the earlier partitions let expect. ``also`` is what was accepted before."""

    measure: str
    value: float
    low: float
    high: float
    also: tuple[tuple[str, float, float], ...] = ()  # partition, low, high

    @property
    def excused_by(self) -> list[str]:
        """The partitions for which about this was accepted."""
        return [partition for partition, low, high in self.also if low <= self.value <= high]

    def __str__(self) -> str:
        accepted = "".join(f" (or {low:.4g} to {high:.4g}, as accepted for {one})" for one, low, high in self.also)
        return f"{self.measure}: {self.value:.4g}, expected {self.low:.4g} to {self.high:.4g}{accepted}"


def deviations(now: Figures, before: Sequence[Reference], settings: Settings) -> Iterator[Deviation]:
    """Yields the measures outside of what is expected, those included that were accepted before.

    Not judged is a measure with fewer than ``quality_min_partitions`` earlier values; any, where the partition has
    fewer than ``quality_min_notes`` notes; and a kind of which fewer than ``quality_min_mentions`` are there or
    expected (at the highest rate before).
    """
    if now.notes < settings.quality_min_notes:
        return
    factor, change, share = settings.quality_notes_factor, settings.quality_rate_change, settings.quality_share_change

    def judge(
        measure: str, value: float, values: Mapping[str, float], *, relative: float = 0, absolute: float = 0
    ) -> Iterator[Deviation]:
        plain = [values[one.partition] for one in _plain(before, measure)]
        if len(plain) < settings.quality_min_partitions:
            return
        middle = fmean(plain)
        spread = settings.quality_deviations * stdev(plain) * math.sqrt(1 + 1 / len(plain)) if len(plain) > 1 else 0.0
        half = max(relative * middle, absolute, spread)
        low, high = max(0.0, middle - half), middle + half
        if measure == "notes":
            low, high = min(plain) / factor, max(plain) * factor
        if measure == QUARANTINED:
            low = 0.0
        if low <= value <= high:
            return
        also = [
            (one.partition, max(0.0, near - max(relative * near, absolute)), near + max(relative * near, absolute))
            for one in before if measure in one.accepted for near in [values[one.partition]]
        ]  # fmt: skip
        yield Deviation(measure, value, low, high, tuple(also))

    counts = {one.partition: one.figures.notes for one in before}
    yield from judge("notes", now.notes, counts, relative=1 - 1 / factor)
    for measure, share_of, most in (
        (EMPTY, empty_share, share), (QUARANTINED, quarantined_share, settings.quality_quarantine_change),
    ):  # fmt: skip
        shares = {one.partition: share_of(one.figures) for one in before}
        yield from judge(measure, share_of(now), shares, absolute=most)
    for table in ("entities", "relations"):
        for kind in sorted({kind for one in [now, *(one.figures for one in before)] for kind in getattr(one, table)}):
            rates = {one.partition: rate(one.figures, table, kind) for one in before}
            value = rate(now, table, kind)
            expected = max([value, *rates.values()]) * now.tokens / 1000
            if expected >= settings.quality_min_mentions:
                yield from judge(f"{table} {kind} per 1,000 tokens", value, rates, relative=change)
            yield from _judge_scores(now, before, settings, table, kind)


def _plain(before: Sequence[Reference], measure: str) -> list[Reference]:
    return [one for one in before if one.plain and measure not in one.accepted]


def _judge_scores(
    now: Figures, before: Sequence[Reference], settings: Settings, table: str, kind: str
) -> Iterator[Deviation]:
    measure = f"scores of {table} {kind}, stability index"
    current = getattr(now, table).get(kind, [0] * SCORE_BINS)
    histograms = {one.partition: getattr(one.figures, table).get(kind, [0] * SCORE_BINS) for one in before}
    plain = [histograms[one.partition] for one in _plain(before, measure)]
    pooled = [sum(counts) for counts in zip(*plain, strict=True)] if plain else []
    n, m = sum(current), sum(pooled)
    if len(plain) < settings.quality_min_partitions or min(n, m) < settings.quality_min_mentions:
        return
    index = stability_index(current, pooled)
    limit = max(settings.quality_max_psi, chance_bound(SCORE_BINS, n, m))
    if index <= limit:
        return
    accepted = [(one.partition, histograms[one.partition]) for one in before if measure in one.accepted]
    near = [(one, 0.0, index) for one, counts in accepted if sum(counts) and stability_index(current, counts) <= limit]
    yield Deviation(measure, index, 0.0, limit, tuple(near))


def references(root: Path, partition: str, settings: Settings) -> list[Reference]:
    """Returns the partitions before that are compared, oldest first, from their manifests.

    Those of too few notes, and those published by a version that kept no figures, are left out.
    """
    earlier = [one for one in warehouse.partitions(root) if one < partition][-settings.quality_partitions :]
    found = [_reference(root, one) for one in earlier]
    return [one for one in found if one is not None and one.figures.notes >= settings.quality_min_notes]


def _reference(root: Path, partition: str, *, plain: bool = True) -> Reference | None:
    manifest = warehouse.read_manifest(root, partition)
    quality = manifest["facts"].get("quality") if manifest else None
    if not quality or set(quality["figures"]) != set(Figures.__dataclass_fields__):
        return None
    return Reference(partition, Figures(**quality["figures"]), frozenset(quality["accepted"]), plain)


# --- the gate -------------------------------------------------------------------------------


def gate(
    paths: Mapping[str, Path], root: Path, partition: str, settings: Settings, *, report: Path, accept: bool = False
) -> dict[str, Any]:
    """Looks at the staged files of a partition and returns what its manifest keeps of that.

    Args:
        paths: the file of every table, whole and not published yet.
        root: the warehouse.
        partition: ``YYYY-MM-DD``.
        settings: the limits, ``quality_*``.
        report: where the report of a partition that is held back goes. It has names, figures and limits, never text.
        accept: publish though it is not like the partitions before.

    Returns:
        ``figures``; ``accepted``, the measures that were not as expected; ``compared``, the partitions.

    Raises:
        MedpipeError: CONTRACT_BROKEN, whatever ``accept`` says; QUALITY_HELD.
    """
    checker = Checker(paths)
    figures = Figures()
    if not checker.problems():
        for blocks in iter_blocks(paths):
            checker.take(blocks)
            figures.take(blocks)
        checker.end()
        figures.take_quarantine(paths["quarantine"])
    if problems := checker.problems():
        lines = [f"{table}: {problem}" for table, problem in problems]
        files.write_json(report, {"partition": partition, "held": "contract", "lines": lines})
        table, problem = problems[0]
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise MedpipeError("CONTRACT_BROKEN", table=table, reason=f"{problem}{more} ({report})")
    before = references(root, partition, settings) if settings.quality_gate else []
    earlier = [one.partition for one in before]
    if own := _reference(root, partition, plain=False):  # what was accepted when this partition was published last
        before.append(own)
    found = list(deviations(figures, before, settings))
    held = [one for one in found if not one.excused_by]
    if held and not accept:
        facts = {"partition": partition, "held": "drift", "lines": [str(one) for one in held]}
        details = [{"measure": one.measure, "value": one.value, "low": one.low, "high": one.high} for one in held]
        files.write_json(report, facts | {"measures": details, "compared": earlier, "figures": figures.as_json()})
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise MedpipeError("QUALITY_HELD", partition=partition, reason=f"{held[0]}{more}", report=report)
    accepted = [one.measure for one in found if one in held or partition in one.excused_by]
    return {"figures": figures.as_json(), "accepted": accepted, "compared": earlier}
