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
CARD_FILE = "MODEL_CARD.md"
BESIDE = ("knowledge.parquet",)  # of models that have it: what is known of pairs of concepts
SCALE = "::scale"  # behind the name of a matrix in eight bits: the scales of its rows
INT8_LEAST = 4096  # numbers of a matrix that is worth it; smaller ones (transitions, styles) stay as they are


def find_model(name_or_folder: str | Path) -> Path:
    """Returns the folder of a shipped model's name or of a folder given by path.

    Raises:
        MedpipeError: MODEL_NOT_FOUND where neither is there.
    """
    for folder in (MODELS / str(name_or_folder), Path(name_or_folder)):
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            return folder.resolve() if folder.is_symlink() else folder  # a registry's `current` may move on
    raise MedpipeError("MODEL_NOT_FOUND", path=name_or_folder)


@lru_cache(maxsize=16)
def identify(folder: Path) -> ModelId:
    """Returns the model's name and version (of its config) and the hash of its weights and config."""
    config = read_config(folder)
    return ModelId(config["name"], config["version"], hash_model(folder))


def hash_model(folder: Path) -> str:
    """Returns one hash of the weights, the config and what else decides what the model answers."""
    from medpipe.ids import make_id

    parts = [folder / WEIGHTS_FILE, folder / CONFIG_FILE]
    parts += [path for name in BESIDE if (path := folder / name).is_file()]
    return make_id("model", *(hash_file(str(path)) for path in parts))


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
    """Returns the model's tensors; those in half precision or eight bits come back as float32."""
    import torch
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS_FILE, device=str(device))
    except Exception as error:  # safetensors raises its own type, which is not exported
        raise MedpipeError("MODEL_INVALID", path=folder, reason=type(error).__name__) from error
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(SCALE)}
    return {
        name: dequantize(tensor, scales[name + SCALE])
        if name + SCALE in scales
        else tensor.float()
        if tensor.dtype == torch.float16
        else tensor
        for name, tensor in tensors.items()
    }


def quantize(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a matrix in eight bits: symmetric, every row with a scale of its own.

    Returns:
        shape: (rows, columns), int8, from -127 to 127; and shape: (rows,), float32: what each row is multiplied with.
    """
    import torch

    scale = matrix.float().abs().amax(1) / 127
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (matrix.float() / divisor[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def dequantize(matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Returns what ``quantize`` was given, up to half a step of each row; float32."""
    return matrix.float() * scale[:, None]


def save_model(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], *, half: bool = True, int8: bool = False
) -> None:
    """Writes the model's folder; with ``half`` its floating-point tensors as float16 (half the size).

    With ``int8``, matrices of ``INT8_LEAST`` numbers and more in eight bits (a quarter). Weights that are stored
    otherwise are another model: another hash, and other ids.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    narrow: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if int8 and tensor.is_floating_point() and tensor.dim() == 2 and tensor.numel() >= INT8_LEAST:
            narrow[name], narrow[name + SCALE] = quantize(tensor.detach().cpu())
        else:
            lean = tensor.to(torch.float16) if half and tensor.is_floating_point() else tensor
            narrow[name] = lean.detach().cpu().contiguous()
    save_file(narrow, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export_int8(name_or_folder: str | Path, out: Path) -> dict[str, int]:
    """Writes a model with its matrices in eight bits: a quarter of its size in float32.

    It is another model, with another hash: entities that it finds have other ids.

    Returns:
        ``bytes`` of the new weights and ``bytes_before``.

    Raises:
        MedpipeError: MODEL_NOT_FOUND, MODEL_INVALID; OUTPUT_EXISTS where there is something at ``out``.
    """
    folder = find_model(name_or_folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedpipeError("OUTPUT_EXISTS", path=out)
    save_model(out, load_weights(folder), read_config(folder), int8=True)
    if (folder / CARD_FILE).is_file():
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
        (out / CARD_FILE).write_text(
            f"{card}\nThe matrices are stored in eight bits, a scale a row.\n", encoding="utf-8"
        )
    return {name: (where / WEIGHTS_FILE).stat().st_size for name, where in (("bytes", out), ("bytes_before", folder))}
