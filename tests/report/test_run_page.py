"""The figures of a run against plain Python over the same rows, and the page that shows them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import lxml.html
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import MedpipeError
from medpipe.lake import warehouse
from medpipe.report import charts
from medpipe.report.run_figures import MIN_CELL, chance_bound, figures, find_partition, stability_terms
from medpipe.report.run_page import number, run_page
from tests.report.invented_lake import fortnight, partition_rows, publish

LAST = "2026-01-30"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fortnight(tmp_path_factory.mktemp("lake") / "lake")


@pytest.fixture(scope="module")
def found(lake: Path) -> dict[str, Any]:
    return figures(lake, LAST)


def test_funnel(found: dict[str, Any]) -> None:
    steps = [(step["name"], step["count"], step["main"]) for step in found["funnel"]["steps"]]
    assert steps == [
        ("Records read", 65, True), ("No note", 2, False), ("Not readable", 3, False), ("Notes with text", 60, True),
        ("Notes in the partition", 60, True), ("Notes processed", 60, True),
    ]  # fmt: skip
    assert found["funnel"]["not_notes"] == {"Patient": 2} and found["funnel"]["rejected"] == {
        "OCR_NEEDED": 2,
        "TEXT_EMPTY": 1,
    }


def test_throughput(found: dict[str, Any]) -> None:
    assert [one["stage"] for one in found["throughput"]] == ["ingest", "tag", "relate", "summarize"]
    tag = found["throughput"][1]
    assert (tag["notes_per_s"], tag["tokens_per_s"], tag["useful"]) == (60 / 8, 2400 / 8, 0.8)
    assert found["throughput"][2]["counts"] == {"candidates_cut": 12.0}


def test_labels_and_scores_are_those_of_plain_counting(found: dict[str, Any], lake: Path) -> None:
    for partition, at in (("2026-01-25", 0), (LAST, -1)):
        rows = warehouse.read_table(lake, "entities", partition=partition).to_pylist()
        counts = Counter(row["label"] for row in rows)
        assert {one["label"]: one["rates"][at] for one in found["labels"]} == {
            label: n / 60 for label, n in counts.items()
        }
    for one in found["calibration"]:
        scores = [row["score"] for row in rows if row["label"] == one["label"]]
        assert one["count"] == len(scores) and one["expected"] == pytest.approx(math.fsum(scores) / len(scores))
        assert one["deciles"] == [sum(min(9, int(score * 10)) == bin for score in scores) for bin in range(10)]
    symptoms = [row["negated"] for row in rows if row["label"] == "SYMPTOM"]
    assert next(one for one in found["labels"] if one["label"] == "SYMPTOM")["negated"] == sum(symptoms) / len(symptoms)


def test_diseases_and_their_symptoms_are_those_of_plain_joining(found: dict[str, Any], lake: Path) -> None:
    entities = {row["entity_id"]: row for row in warehouse.read_table(lake, "entities", partition=LAST).to_pylist()}
    notes, pairs = defaultdict(set), defaultdict(lambda: defaultdict(set))
    for row in entities.values():
        if row["label"] == "DISEASE":
            notes[row["text"]].add(row["document_id"])
    for row in warehouse.read_table(lake, "relations", partition=LAST).to_pylist():
        head, tail = entities[row["head_entity_id"]], entities[row["tail_entity_id"]]
        if not row["negated"] and not tail["negated"]:
            pairs[head["text"]][tail["text"]].add(row["document_id"])
    expected = {
        name: (len(ids), {symptom: len(of) for symptom, of in pairs[name].items()}) for name, ids in notes.items()
    }
    assert {one["name"]: (one["notes"], dict(one["symptoms"])) for one in found["diseases"]} == expected
    assert [one["notes"] for one in found["diseases"]] == sorted(
        (one["notes"] for one in found["diseases"]), reverse=True
    )


def test_a_name_without_a_code_needs_several_notes(tmp_path: Path) -> None:
    rows = partition_rows("2026-01-31", 40)
    diseases = [row for row in rows["entities"] if row["label"] == "DISEASE"]
    for row, name in zip(diseases, ["Mrs Nobody"] * (MIN_CELL - 1) + ["strange fever"] * MIN_CELL, strict=False):
        row |= {"text": name, "code": None, "code_system": None, "code_score": None}
    publish(tmp_path / "lake", "2026-01-31", rows)
    names = {one["name"]: one["notes"] for one in figures(tmp_path / "lake", "2026-01-31")["diseases"]}
    assert names["strange fever"] == MIN_CELL and "mrs nobody" not in names


def test_drift_is_found_where_there_is_some_and_only_there(found: dict[str, Any], lake: Path) -> None:
    states = {one["name"]: one["state"] for one in found["drift"]}
    assert states["score"] == "shifted" and states["label"] in {"watch", "shifted"} and states["format"] == "stable"
    assert {one["state"] for one in figures(lake, "2026-01-29")["drift"]} == {"stable"}
    score = next(one for one in found["drift"] if one["name"] == "score")
    assert score["index"] > 0.25 and score["before"] != score["now"]
    assert figures(lake, "2026-01-25")["drift"] == []  # nothing before it


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), min_size=1),
)
def test_index_is_symmetric_never_negative_and_zero_for_the_same(one: dict[str, int], other: dict[str, int]) -> None:
    there, back = stability_terms(one, other), stability_terms(other, one)
    assert all(term >= 0 for term in there.values()) and sum(there.values()) == pytest.approx(sum(back.values()))
    assert sum(stability_terms(one, one).values()) == 0


def test_index_by_hand() -> None:
    terms = stability_terms(
        {"a": 89, "b": 9}, {"a": 49, "b": 49}
    )  # shares 0.904 and 0.096, 0.5 and 0.5, half a count each
    p, q = 89.5 / 99, 49.5 / 99
    assert terms["a"] == pytest.approx((p - q) * math.log(p / q))


def test_chance_is_the_quantile_of_chi_square() -> None:
    for bins, quantile in ((4, 7.815), (11, 18.307), (31, 43.773)):
        assert chance_bound(bins, 100, 300) == pytest.approx(quantile * (1 / 100 + 1 / 300), rel=0.01)
    assert chance_bound(1, 5, 5) == 0


def test_quarantine_is_counted_by_cause_with_what_to_do(found: dict[str, Any]) -> None:
    assert [(one["code"], one["count"]) for one in found["quarantine"]] == [("OCR_NEEDED", 2), ("TEXT_EMPTY", 1)]
    assert found["quarantine"][0]["remedy"] == "Run OCR first."


def test_partition_that_is_not_there(lake: Path, tmp_path: Path) -> None:
    assert find_partition(lake, None) == LAST
    for root, day, code in (
        (lake, "2020-01-01", "PARTITION_NOT_FOUND"),
        (tmp_path, None, "PARTITION_NOT_FOUND"),
        (tmp_path / "no", None, "WAREHOUSE_INVALID"),
    ):
        with pytest.raises(MedpipeError, match=code):
            find_partition(root, day)


def test_an_empty_partition_has_a_page(tmp_path: Path) -> None:
    publish(tmp_path / "lake", "2026-01-31", partition_rows("2026-01-31", 0))
    page = lxml.html.document_fromstring(run_page(figures(tmp_path / "lake", "2026-01-31")))
    assert "Notes processed" in page.text_content()


def test_the_page_says_it_all_and_holds_no_note(found: dict[str, Any], lake: Path) -> None:
    html = run_page(found)
    page = lxml.html.document_fromstring(html)
    titles = [title.text_content().split(",")[0] for title in page.xpath("//h2")]
    assert titles == [
        "From records to notes", "Mentions by label", "Quarantine by cause", "Throughput", "Drift", "Scores and calibration",
        "Diseases in most notes", "Models and versions",
    ]  # fmt: skip
    assert len(page.xpath('//svg[@class="spark"]')) == len(found["labels"]) and len(
        page.xpath('//svg[@class="histogram"]')
    ) == len(found["calibration"])
    assert not page.xpath("//*[@style] | //*[@src] | //link") and "unsafe" not in html
    assert "Patient 1 has" not in html and "notes.ndjson" not in html
    for row in page.xpath("//tbody/tr[th]"):
        assert row.xpath("./th/@scope") == ["row"]


def test_numbers_as_a_person_reads_them() -> None:
    assert [number(value) for value in (None, 0, 3.0, 0.256, 12.34, 1234.5, 10**6)] == [
        "",
        "0",
        "3",
        "0.26",
        "12.3",
        "1,234",
        "1,000,000",
    ]


def test_charts_stay_in_their_frames() -> None:
    assert 'class="fill" width="1.0"' in charts.bar(1, 10**6) and 'class="fill" width="0.0"' in charts.bar(0, 5)
    assert 'class="fill" width="100.0"' in charts.bar(9, 5)
    line = lxml.html.fragment_fromstring(charts.line([0.0, 5.0, 2.5], ["a", "b", "<c>"]))
    points = [tuple(map(float, point.split(","))) for point in line.xpath(".//polyline/@points")[0].split()]
    assert [y for _, y in points] == [32, 6, 19] and 0 < points[0][0] < points[1][0] < points[2][0] < charts.LINE_WIDTH
    assert line.xpath(".//circle/title/text()")[2] == "<c>: 2.50"
    assert charts.histogram([0] * 10).count("<rect") == 10
