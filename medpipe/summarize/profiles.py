"""The profile ``fast`` of the summarizer: the best sentences of every note as they stand, nothing is written.

The weights are the same; only their selector is used. Extracts are checked, cut into parts and accounted for like
every summary. ``standard`` and ``accurate`` are the summarizer as its config says.
"""

from __future__ import annotations

from pathlib import Path

from medpipe.ids import make_id
from medpipe.records import ModelId
from medpipe.weights import find_model, identify


def identify_summarizer(model: str | Path, profile: str) -> ModelId:
    """Returns what decides the summaries of a run; that of ``fast`` has a hash of its own, since the texts differ.

    Raises:
        MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID.
    """
    found = identify(find_model(model))
    if profile != "fast":
        return found
    return ModelId(f"{found.name}+fast", found.version, make_id("profile", "fast", found.weights_hash))
