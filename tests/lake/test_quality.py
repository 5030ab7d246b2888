"""The quality gate: what it measures, what it expects, what it holds back, and what a person may accept."""



from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from typer.testing import CliRunner

from medpipe import cli, pipeline
from medpipe.errors import MedpipeError
from medpipe.lake import quality, warehouse
from medpipe.lake.publish import publish_partition
from medpipe.lake.quality import Figures, Reference, deviations, stability_index
from medpipe.settings import Settings
from medpipe.text.tokens import TOKEN
from tests.lake.invented import PARTITION, publish_input, rows_of
from tests.test_pipeline import FakeStage, fakes, settings_of  # noqa: F401 (fixture)

LIMITS = Settings()
CASES = st.lists(st.integers(0, 500), min_size=10, max_size=10)


def gate_of(root: Path, tmp_path: Path, **options: Any) -> Any:
    options = {"report": tmp_path / "report.json", "settings": LIMITS} | options
    return lambda staged: quality.gate(staged, root, PARTITION, **options)


# --- figures --------------------------------------------------------------------------------


def test_figures_of_a_partition_by_hand(tmp_path: Path) -> None:
    rows = rows_of("a.txt", 7)
    for row in rows["entities"][:3]:
        row["score"] = 1.0
    rows["documents"][0]["status"] = "unsupported_language"  # not among the processed
    new = publish_input(tmp_path / "lake", tmp_path / "work", rows, gate=gate_of(tmp_path / "lake", tmp_path))
    kept = publish_partition(new)["facts"]["quality"]
    assert kept["accepted"] == kept["compared"] == []
    assert kept["figures"] == {
        "notes": 7, "processed": 6, "empty": 0, "quarantined": 1, "rejected": 1,
        "tokens": sum(len(TOKEN.findall(row["text"])) for row in rows["documents"][1:]),
        "entities": {"SYMPTOM": [0, 0, 0, 0, 0, 0, 0, 11, 0, 3]}, "relations": {"has_symptom": [0, 0, 0, 0, 0, 7, 0, 0, 0, 0]},
    }  # fmt: skip
    assert warehouse.read_manifest(tmp_path / "lake", PARTITION)["facts"]["quality"] == kept


def test_measures_by_hand() -> None:
    figures = Figures(80, 50, 5, 4000, 30, 20, {"DRUG": [0] * 9 + [12]}, {})
    assert quality.rate(figures, "entities", "DRUG") == 3.0
    assert quality.rate(figures, "entities", "AGE") == 0.0
    assert quality.empty_share(figures) == 0.1
    assert quality.quarantined_share(figures) == 0.3


@given(CASES, CASES)
@profile(deadline=None)
def test_stability_index_equals_the_formula(now: list[int], before: list[int]) -> None:
    p, q = (np.array(one) + 0.5 for one in (now, before))
    p, q = p / p.sum(), q / q.sum()
    assert stability_index(now, before) == pytest.approx(float(((p - q) * np.log(p / q)).sum()), abs=1e-9)


# --- what is expected -----------------------------------------------------------------------


def night(
    notes: int = 1000, *, drugs: int = 2000, empty: int = 100, quarantined: int = 10, sure: float = 0.9
) -> Figures:
    """A night of 100 tokens a note, whose scores are 0.95 or, a share of ``1 - sure``, 0.55."""
    low = round(drugs * (1 - sure))
    scores = [0, 0, 0, 0, 0, low, 0, 0, 0, drugs - low]
    return Figures(notes, notes, empty, 100 * notes, quarantined, quarantined, {"DRUG": scores}, {})


def nights(*figures: Figures, accepted: dict[int, set[str]] | None = None) -> list[Reference]:
    names = [f"2026-01-{number + 1:02d}" for number in range(len(figures))]
    return [
        Reference(name, one, frozenset((accepted or {}).get(number, ()))) for number, (name, one) in enumerate(zip(names, figures, strict=True))
    ]  # fmt: skip


USUAL = nights(*[night()] * 5)
DRUGS = "entities DRUG per 1,000 tokens"
SCORES = "scores of entities DRUG, stability index"


@pytest.mark.parametrize(
    ("now", "measures"),
    [
        (night(), []),
        (night(drugs=1300), []),  # 13 of 20 per 1,000 tokens: within 40 %
        (night(drugs=1000), [DRUGS]),
        (night(drugs=0), [DRUGS]),
        (night(499, drugs=998, empty=49, quarantined=4), ["notes"]),
        (night(2001, drugs=4002, empty=200, quarantined=20), ["notes"]),
        (night(501, drugs=1002, empty=50, quarantined=4), []),
        (night(empty=310), [quality.EMPTY]),  # 31 %, expected 10 % and at most 20 % more
        (night(quarantined=130), [quality.QUARANTINED]),
        (night(quarantined=0), []),
        (night(sure=0.5), [SCORES]),
        (night(drugs=1000, empty=500, sure=0.2), [quality.EMPTY, DRUGS, SCORES]),
    ],
    ids=["same", "fewer", "half", "none", "few", "many", "enough", "empty", "rejected", "clean", "unsure", "broken"],
)
def test_what_is_not_as_expected(now: Figures, measures: list[str]) -> None:
    assert [one.measure for one in deviations(now, USUAL, LIMITS)] == measures


def test_ranges_by_hand() -> None:
    before = nights(*(night(drugs=count) for count in (1000, 1400, 2000, 2600, 3000)))  # 10, 14, 20, 26 and 30
    (found,) = deviations(night(drugs=6000), before, LIMITS)
    half = 4 * math.sqrt((100 + 36 + 0 + 36 + 100) / 4) * math.sqrt(1 + 1 / 5)
    assert (found.value, found.low) == (60.0, 0.0) and found.high == pytest.approx(20 + half)
    (found,) = deviations(night(drugs=1000), USUAL, LIMITS)
    assert (found.value, found.low, found.high) == (10.0, pytest.approx(12.0), pytest.approx(28.0))
    assert str(found) == f"{DRUGS}: 10, expected 12 to 28"
    (found,) = deviations(night(3000, drugs=6000, empty=300, quarantined=30), nights(night(400, drugs=800, empty=40, quarantined=4), *[night()] * 4), LIMITS)  # fmt: skip
    assert (found.low, found.high) == (200, 2000)


def test_what_is_too_small_is_not_judged() -> None:
    broken = night(199, drugs=0, empty=199)
    assert not list(deviations(broken, USUAL, LIMITS)), "fewer notes than 200"
    assert not list(deviations(night(drugs=0), USUAL[:4], LIMITS)), "fewer partitions than 5"
    rare = nights(*[night(drugs=190)] * 5)
    assert not list(deviations(night(drugs=0), rare, LIMITS)), "fewer mentions than 200"
    assert [one.measure for one in deviations(night(drugs=0), nights(*[night(drugs=210)] * 5), LIMITS)] == [DRUGS]


def test_what_was_accepted_is_in_order_for_later_partitions() -> None:
    changed = night(drugs=500, sure=0.2)
    before = nights(*[night()] * 5, changed, accepted={5: {DRUGS, SCORES}})
    found = list(deviations(changed, before, LIMITS))
    assert [one.measure for one in found] == [DRUGS, SCORES]
    assert all(one.excused_by == ["2026-01-06"] for one in found)
    assert not list(deviations(night(), before, LIMITS)), "what was usual is still"
    (other,) = deviations(night(drugs=100), before, LIMITS)
    assert other.excused_by == [] and str(other).endswith("(or 3 to 7, as accepted for 2026-01-06)")
    (other,) = (one for one in deviations(night(empty=900), before, LIMITS))
    assert other.also == (), "of other measures nothing was accepted"


# --- the gate -------------------------------------------------------------------------------


def test_a_broken_contract_is_never_accepted(tmp_path: Path) -> None:
    root, rows = tmp_path / "lake", rows_of("a.txt", 3)
    publish_partition(publish_input(root, tmp_path / "wa", rows))
    rows["entities"][0]["start"] += 1
    rows["entities"][1]["score"] = 1.5
    new = publish_input(root, tmp_path / "wb", rows, gate=gate_of(root, tmp_path, accept=True))
    with pytest.raises(MedpipeError, match="CONTRACT_BROKEN: entities breaks its contract: score is above 1") as caught:
        publish_partition(new)
    assert caught.value.exit_code == 4
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["lines"] == ["entities: score is above 1", "entities: 1 texts are not what stands at their offsets"]
    assert warehouse.check(root) == [] and not (root / "_work" / f"dt={PARTITION}" / "publish").exists()


NOTES = 12


def publish_night(settings: Settings, landing: Path, day: int, *, extra: int = 0, **options: Any) -> dict[str, Any]:
    folder = landing / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NOTES + extra):
        (folder / f"{number}.txt").write_text(f"On day {day} note {number} tells of a cough.")
    return pipeline.run(settings, f"2026-01-{day:02d}", [str(folder)], **options)


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return settings_of(tmp_path, quality_min_notes=5, quality_min_mentions=5, quality_min_partitions=3)


def break_model(patch: pytest.MonkeyPatch) -> None:
    """Half of the entities are not found any more."""
    real = FakeStage.tag
    patch.setattr(
        FakeStage, "tag", lambda self, row, _: real(self, row, _) if int(row["source"].split(".")[0]) % 2 else []
    )


def accepted(settings: Settings, day: int) -> list[str]:
    manifest = warehouse.read_manifest(settings.warehouse, f"2026-01-{day:02d}")
    assert manifest is not None
    return list(manifest["facts"]["quality"]["accepted"])


MEASURES = [quality.EMPTY, "entities SYMPTOM per 1,000 tokens", "relations has_symptom per 1,000 tokens"]


def test_a_night_of_a_broken_model_is_held_accepted_and_followed(
    tmp_path: Path, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (1, 2, 3, 4):
        publish_night(small, tmp_path / "landing", day)
    before = {path: path.read_bytes() for path in small.warehouse.glob("*/v*/dt=*/*")}
    with monkeypatch.context() as patch:
        break_model(patch)
        with pytest.raises(MedpipeError, match="QUALITY_HELD: The partition 2026-01-05 was held back") as caught:
            publish_night(small, tmp_path / "landing", 5)
    assert caught.value.exit_code == 4
    assert {path: path.read_bytes() for path in small.warehouse.glob("*/v*/dt=*/*")} == before
    work = Path(pipeline.find_work(small, "2026-01-05"))
    report = json.loads((work / "quality.json").read_text())
    assert str(work / "quality.json") in str(caught.value)
    assert [one["measure"] for one in report["measures"]] == MEASURES
    assert report["lines"][0] == "share of notes without an entity: 0.5, expected 0 to 0.2"
    assert report["compared"] == [f"2026-01-0{day}" for day in (1, 2, 3, 4)]
    assert "cough" not in (work / "quality.json").read_text()

    with pytest.raises(MedpipeError, match="QUALITY_HELD"):  # again, without any stage: held again
        publish_night(small, tmp_path / "landing", 5)
    arguments = ["publish", "--warehouse", str(small.warehouse), "--date", "2026-01-05"]
    for name in ("min_notes", "min_mentions", "min_partitions"):
        monkeypatch.setenv(f"MEDPIPE_QUALITY_{name.upper()}", str(getattr(small, f"quality_{name}")))
    held = CliRunner().invoke(cli.app, arguments)
    assert isinstance(held.exception, MedpipeError) and held.exception.code == "QUALITY_HELD"
    assert CliRunner().invoke(cli.app, [*arguments, "--accept"]).exit_code == 0
    assert accepted(small, 5) == MEASURES and not work.exists()
    assert warehouse.check(small.warehouse) == []

    publish_night(small, tmp_path / "landing", 6)  # the model works again
    with monkeypatch.context() as patch:
        break_model(patch)
        publish_night(small, tmp_path / "landing", 7)  # as it was accepted on day 5
        publish_night(small, tmp_path / "landing", 5, extra=1)  # a late note of the accepted day
    assert accepted(small, 6) == accepted(small, 7) == [] and accepted(small, 5) == MEASURES


def test_first_nights_and_a_gate_that_is_off(tmp_path: Path, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_night(small, tmp_path / "landing", 1)
    publish_night(small, tmp_path / "landing", 2)
    break_model(monkeypatch)
    publish_night(small, tmp_path / "landing", 3)  # two partitions are too few to compare with
    off = small.model_copy(update={"quality_gate": False, "quality_min_partitions": 2})
    publish_night(off, tmp_path / "landing", 4)
    with pytest.raises(MedpipeError, match="QUALITY_HELD"):
        publish_night(small.model_copy(update={"quality_min_partitions": 2}), tmp_path / "landing", 3, extra=1)


def test_partitions_without_figures_are_not_compared(tmp_path: Path, small: Settings) -> None:
    for day in (1, 2, 3):
        publish_night(small, tmp_path / "landing", day)
    path = warehouse.manifest_path(small.warehouse, "2026-01-02")
    manifest = json.loads(path.read_text())
    del manifest["facts"]["quality"]
    path.write_text(json.dumps(manifest))
    publish_night(small, tmp_path / "landing", 4)
    found = warehouse.read_manifest(small.warehouse, "2026-01-04")
    assert found["facts"]["quality"]["compared"] == ["2026-01-01", "2026-01-03"]
