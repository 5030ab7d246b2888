"""Rows of a note that moved: as a fresh run would order and name them."""

from __future__ import annotations

from medpipe.lake.reuse import _renamed, agreeing_stages

FINGERPRINT = {
    "code": "1",
    "models": {"tag": "t@1", "relate": "r@1", "summarize": "s@1"},
    "schemas": dict.fromkeys(("documents", "sections", "entities", "relations", "summaries"), "1.2.0"),
    "settings": {"codes": "c", "min_relation_score": None, "languages": ["en"]},
}


def test_ids_are_replaced_and_relations_stand_in_the_order_of_theirs() -> None:
    ids = {"e1": "z", "e2": "a", "r1": "y", "r2": "b", "s": "t"}
    row = {"summary_id": "s", "document_id": "d", "run_id": "u", "patient_id": "e1", "text": "e1"}
    lists = {"entity_ids": ["e1", "e2"], "relation_ids": ["r1", "r2"]}
    assert _renamed(row | lists, ids) == row | {"summary_id": "t", "entity_ids": ["z", "a"], "relation_ids": ["b", "y"]}
    assert _renamed({"parent_entity_id": None, "section_id": "e2"}, ids) == {
        "parent_entity_id": None,
        "section_id": "a",
    }


def test_what_agrees_is_decided_by_code_model_major_version_and_setting() -> None:
    def changed(part: str, **facts: object) -> tuple[str, ...]:
        return agreeing_stages(FINGERPRINT, FINGERPRINT | {part: FINGERPRINT[part] | facts})  # type: ignore[operator]

    assert agreeing_stages(FINGERPRINT, FINGERPRINT) == ("tag", "relate", "summarize")
    assert changed("schemas", entities="1.3.0") == ("tag", "relate", "summarize")
    assert changed("schemas", entities="2.0.0") == () == changed("settings", codes="d") == changed("models", tag="t@2")
    assert changed("schemas", relations="2.0.0") == ("tag",) == changed("settings", min_relation_score=0.5)
    assert changed("models", summarize="s@2") == ("tag", "relate")
    assert changed("settings", languages=["en", "fr"]) == ("tag", "relate", "summarize")
    assert agreeing_stages(FINGERPRINT, FINGERPRINT | {"code": "2"}) == () == agreeing_stages({}, FINGERPRINT)
