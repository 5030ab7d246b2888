"""A folder of model versions: what was promoted, what is in use, what was tried.

    REGISTRY/tagger/current -> 0.3.0+4f1a22c0      a link, replaced in one step
                    0.3.0+4f1a22c0/                model.safetensors, config.json, MODEL_CARD.md, promotion.json
                    0.3.0+90be71d3.candidate/      was not better: stays with its figures
                    history.json                   every round: corrections, figures, promoted or why not

``MEDPIPE_TAGGER=REGISTRY/tagger/current`` uses what is current; a run that has begun keeps its version. To go back,
let ``current`` lead to the version before (``use``).

A round learns from a site's corrections (``learn.continual``): from the current version, or the model of the settings
while there is none. Its name is made of its inputs, so a round that was killed is found again and goes on from its
checkpoint; the same corrections are not learned twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file, make_id
from medpipe.lake import files
from medpipe.learn.config import load_config
from medpipe.weights import CONFIG_FILE, WEIGHTS_FILE, find_model, hash_model, read_config

CURRENT = "current"
HISTORY = "history.json"
SHIPPED = "tagger"
PROMOTION = "promotion.json"  # that ``learn.continual`` writes beside a candidate


@dataclass(frozen=True, slots=True)
class Round:
    """One attempt at a better model."""

    folder: str  # of the model in the registry
    version: str
    base: str  # name or folder of the model that is continued
    inputs: str  # hash of corrections, label map, held-out data and config


def current(folder: Path) -> Path | None:
    """Returns the version in use of a model's folder in a registry; none where nothing was promoted yet."""
    link = folder / CURRENT
    return link.resolve() if (link / WEIGHTS_FILE).is_file() else None


def versions(folder: Path) -> list[str]:
    """Returns the promoted versions, by name."""
    paths = [path.parent for path in folder.glob(f"*/{CONFIG_FILE}")]
    return sorted(
        path.name for path in paths if not path.is_symlink() and path.suffix not in (".candidate", ".previous")
    )


def use(folder: Path, version: str) -> None:
    """Lets ``current`` lead to a version, in one step: a reader sees the old one or the new one.

    Raises:
        MedpipeError: MODEL_NOT_FOUND where there is no such version; PERMISSION_DENIED, DISK_FULL.
    """
    find_model(folder / version)
    aside = folder / f".{CURRENT}.{os.getpid()}"
    with files.disk_faults(folder):
        aside.unlink(missing_ok=True)
        aside.symlink_to(version, target_is_directory=True)
        aside.replace(folder / CURRENT)
        files.sync(folder)


def history(folder: Path) -> list[dict[str, Any]]:
    """Returns the rounds so far, the oldest first."""
    path = folder / HISTORY
    return list(files.read_json(path)) if path.is_file() else []


def plan_round(
    registry: Path,
    corrections: Path,
    *,
    model: str,
    labels: Path | None = None,
    hold: Sequence[Path] = (),
    config: str | None = None,
) -> Round | None:
    """Plans a round; none where the last one had the same corrections, label map, held-out data and config.

    Args:
        registry: the folder of all models; made where it is missing.
        corrections: as ``continue_training`` takes them.
        model: what is continued while the registry has no version: name or folder; of ``current``, the shipped one.
        labels: label map of the corrections.
        hold: held-out data of the old labels.
        config: name or file of a config with a table ``continual``.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CONFIG_NOT_FOUND, MODEL_NOT_FOUND, MODEL_INVALID.
    """
    if not corrections.exists():
        raise MedpipeError("CORPUS_NOT_FOUND", path=corrections)
    folder = registry.absolute() / "tagger"
    knobs = json.dumps(load_config(config), sort_keys=True, default=str) if config else ""
    inputs = make_id("round", knobs, *(_hash_path(one) for one in (corrections, labels, *hold) if one is not None))
    rounds = history(folder)
    if rounds and rounds[-1]["inputs"] == inputs:
        return None
    first = SHIPPED if Path(model).absolute() == folder / CURRENT else model  # where `current` is yet to be made
    base = str(current(folder) or first)
    found = find_model(base)
    version = f"{read_config(found)['version']}+{make_id('version', inputs, hash_model(found))[:8]}"
    return Round(str(folder), version, base, inputs)


def _hash_path(path: Path) -> str:
    """Returns a hash of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return hash_file(str(path))
    inside = sorted(one for one in path.rglob("*") if one.is_file())
    return make_id("folder", *(f"{one.relative_to(path).as_posix()} {hash_file(str(one))}" for one in inside))


def train_round(
    planned: Round, corrections: Path, *, report: Callable[[str], None] = print, **options: Any
) -> dict[str, Any]:
    """Learns from the corrections and judges the candidate; ``options`` are those of ``continue_training``.

    Killed and called again, it goes on from its checkpoint, or finds that it was done.

    Returns:
        ``version``, ``promoted``, ``reason`` (why not), ``before`` and ``after`` (micro F1 by held-out set). It is not
        in use yet: ``finish_round``.

    Raises:
        MedpipeError: what ``continue_training`` raises but PROMOTION_REFUSED.
    """
    from medpipe.learn.continual import continue_training

    out = Path(planned.folder) / planned.version
    if not (out / PROMOTION).is_file():
        try:
            continue_training(corrections, out=out, model=planned.base, resume=True, report=report, **options)
        except MedpipeError as error:
            if error.code != "PROMOTION_REFUSED":
                raise
            out = out.with_name(f"{out.name}.candidate")
    figures = files.read_json(out / PROMOTION)
    return {"version": planned.version} | {name: figures[name] for name in ("promoted", "reason", "before", "after")}


def finish_round(planned: Round, figures: Mapping[str, Any]) -> None:
    """Puts a promoted version in use and notes the round; called again, it changes nothing."""
    folder = Path(planned.folder)
    if figures["promoted"]:
        use(folder, planned.version)
    rounds = history(folder)
    if not any(one["version"] == planned.version and one["inputs"] == planned.inputs for one in rounds):
        noted = {"inputs": planned.inputs, "base": planned.base, "finished_at": datetime.now(UTC).isoformat()}
        files.write_json(folder / HISTORY, [*rounds, noted | dict(figures)])
