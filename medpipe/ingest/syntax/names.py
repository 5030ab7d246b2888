"""Ids, titles and other short values of a source as text that Arrow can hold."""

from __future__ import annotations

from typing import Any

LONGEST_NAME = 500  # characters of an id or title; what is longer is cut


def clean(value: Any) -> str | None:
    """Returns an id or a title as text that Arrow can hold; ``None`` for what is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)[:LONGEST_NAME]
    return text if encodable(text) else text.encode("utf-8", "replace").decode("utf-8")


def encodable(text: str) -> bool:
    """Says whether a text can be written as UTF-8: JSON may hold lone surrogates, which no encoding can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
