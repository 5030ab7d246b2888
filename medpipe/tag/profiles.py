"""Profiles of the tagger: what is given for speed, and what speed is given for.

``standard`` is the model in float32. ``fast`` is the same model in bfloat16, where the processor multiplies in it
(AVX-512 BF16, AMX; on CUDA, compute capability 8 and later); elsewhere bfloat16 is no faster, and ``fast`` computes
what ``standard`` does. ``accurate`` is a larger model: the folder beside the model's, with ``-accurate`` behind its
name.

Spans of ``fast`` may differ from those of ``standard`` where two readings are about as probable. So rows and runs of
``fast`` name it: ``tagger+fast``, whatever processor they are made on, since a run may be spread over several (the
count ``bfloat16_tokens`` of a run says how much was computed so). An entity's id hangs on the weights, the place and
the label alone, and is the same in both where both find the entity.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medpipe.errors import MedpipeError
from medpipe.records import ModelId
from medpipe.weights import find_model, identify

if TYPE_CHECKING:
    import torch


def find_tagger(model: str | Path, profile: str) -> Path:
    """Returns the folder of the model that a profile uses in the place of ``model``.

    Raises:
        MedpipeError: MODEL_NOT_FOUND; PROFILE_UNAVAILABLE where there is a model, but no accurate one beside it.
    """
    folder = find_model(model)
    if profile != "accurate":
        return folder
    try:
        return find_model(folder.with_name(f"{folder.name}-accurate"))
    except MedpipeError as error:
        raise MedpipeError("PROFILE_UNAVAILABLE", profile=profile, model=model) from error


def identify_tagger(model: str | Path, profile: str) -> ModelId:
    """Returns what decides the entities of a run: the weights, and in the name the profile where it decides too.

    Raises:
        MedpipeError: as ``find_tagger``; MODEL_INVALID.
    """
    found = identify(find_tagger(model, profile))
    return replace(found, name=f"{found.name}+{profile}") if profile == "fast" else found


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether a device multiplies in bfloat16 faster than in float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.9 and later
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
