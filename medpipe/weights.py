"""A model on disk is a folder: ``model.safetensors``, ``config.json``, ``MODEL_CARD.md``. No pickle, ever."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.errors import MedpipeError
from medpipe.ids import hash_file
from medpipe.records import ModelId

if TYPE_CHECKING:
    import torch

MODELS = Path(__file__).parent / "models"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def find_model(name_or_folder: str | Path) -> Path:
    """Returns the folder of a shipped model's name or of a folder given by path.

    Raises:
        MedpipeError: MODEL_NOT_FOUND where neither is there.
    """
    for folder in (MODELS / str(name_or_folder), Path(name_or_folder)):
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            return folder
    raise MedpipeError("MODEL_NOT_FOUND", path=name_or_folder)


@lru_cache(maxsize=16)
def identify(folder: Path) -> ModelId:
    """Returns the model's name and version (of its config) and the hash of its weights and config."""
    config = read_config(folder)
    return ModelId(config["name"], config["version"], hash_model(folder))


def hash_model(folder: Path) -> str:
    """Returns one hash of the weights and the config: both decide what the model answers."""
    from medpipe.ids import make_id

    return make_id("model", hash_file(str(folder / WEIGHTS_FILE)), hash_file(str(folder / CONFIG_FILE)))


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the model's config.

    Raises:
        MedpipeError: MODEL_INVALID where it is no JSON object with ``name`` and ``version``.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not {"name", "version"} <= set(config):
            raise ValueError("no name or version in its config")
    except (OSError, ValueError) as error:
        raise MedpipeError("MODEL_INVALID", path=folder, reason=error) from error
    return dict(config)


def load_weights(folder: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Returns the model's tensors; half-precision ones come back as float32."""
    import torch
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS_FILE, device=str(device))
    except Exception as error:  # safetensors raises its own type, which is not exported
        raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}


def save_model(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], *, half: bool = True) -> None:
    """Writes the model's folder; with ``half`` its floating-point tensors as float16 (half the size)."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    narrow = {
        name: (tensor.to(torch.float16) if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    save_file(narrow, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
