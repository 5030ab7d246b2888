"""Models in eight bits: a quarter of the size, each number off by half a step at most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medpipe.errors import MedpipeError
from medpipe.weights import (
    INT8_LEAST,
    WEIGHTS_FILE,
    dequantize,
    export_int8,
    find_model,
    hash_model,
    load_weights,
    quantize,
    save_model,
)  # fmt: skip


def test_every_number_comes_back_within_half_a_step_of_its_row() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(40, 30) * torch.logspace(-6, 4, 40)[:, None]
    matrix[7] = 0
    small, scale = quantize(matrix)
    assert (small.dtype, scale.shape) == (torch.int8, (40,))
    assert small.abs().amax(1).tolist() == [0 if row == 7 else 127 for row in range(40)]
    assert ((dequantize(small, scale) - matrix).abs() <= scale[:, None] * 0.5001).all()
    assert (quantize(-matrix)[0] == -small).all()  # symmetric


def test_a_model_in_eight_bits(tmp_path: Path) -> None:
    torch.manual_seed(2)
    side = int(INT8_LEAST**0.5)
    tensors = {
        "large": torch.randn(8 * side, side), "few": torch.randn(side - 1, side), "bias": torch.randn(900),
        "count": torch.arange(5),
    }  # fmt: skip
    save_model(tmp_path / "a", tensors, {"name": "x", "version": "1"})
    report = export_int8(tmp_path / "a", tmp_path / "b")
    loaded, before = load_weights(tmp_path / "b"), load_weights(tmp_path / "a")
    assert loaded.keys() == tensors.keys()
    for name in ("few", "bias", "count"):  # what is small is as it was
        assert loaded[name].equal(before[name])
    assert loaded["large"].dtype == torch.float32
    assert torch.allclose(loaded["large"], tensors["large"], atol=0.02)
    assert hash_model(tmp_path / "a") != hash_model(tmp_path / "b")
    assert report["bytes"] < 0.6 * report["bytes_before"]
    with pytest.raises(MedpipeError, match="OUTPUT_EXISTS"):
        export_int8(tmp_path / "a", tmp_path / "b")


def test_the_shipped_tagger_is_a_quarter_of_its_size(tmp_path: Path) -> None:
    export_int8("tagger", tmp_path / "small")
    tensors = load_weights(find_model("tagger"))
    full = sum(4 * tensor.numel() for tensor in tensors.values())
    assert (tmp_path / "small" / WEIGHTS_FILE).stat().st_size < 0.27 * full
    assert (tmp_path / "small" / "MODEL_CARD.md").read_text().endswith("eight bits, a scale a row.\n")
