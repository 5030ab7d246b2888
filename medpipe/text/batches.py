"""Batches of rows of about equal length, within a budget of padded tokens."""

from __future__ import annotations

import numpy as np


def bucket_batches(lengths: np.ndarray, budget: int, max_rows: int = 4096) -> list[np.ndarray]:
    """Returns batches of row indices, rows sorted by length, so that little of a batch is padding.

    Args:
        lengths: shape: (rows,), int; the length of every row.
        budget: how many tokens a batch may hold, padding included; a longer row gets a batch of its own.
        max_rows: how many rows a batch may hold.

    Returns:
        Index arrays that together hold every row once. The order depends on the lengths alone.
    """
    order = np.argsort(-lengths, kind="stable")  # longest first: what does not fit in memory shows at once
    batches: list[np.ndarray] = []
    first = 0
    while first < len(order):
        width = max(1, int(lengths[order[first]]))
        rows = max(1, min(budget // width, max_rows))
        batches.append(order[first : first + rows])
        first += rows
    return batches


def useful_fraction(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Returns which fraction of all batches' cells holds tokens and not padding."""
    cells = sum(int(lengths[batch].max(initial=0)) * len(batch) for batch in batches)
    return float(lengths.sum()) / cells if cells else 1.0
