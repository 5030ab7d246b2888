"""A small relation model with random weights, and invented documents with mentions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medpipe.relate.network import NetworkConfig, RelationNetwork
from medpipe.relate.stage import Relater
from medpipe.weights import save_model

CONFIG = {
    "name": "relations",
    "version": "0",
    "labels": ["DISEASE", "SYMPTOM", "DRUG"],
    "types": [
        {"name": "has_symptom", "head": "DISEASE", "tail": "SYMPTOM", "threshold": 0.0},
        {"name": "treats_or_induces", "head": "DRUG", "tail": ["DISEASE", "SYMPTOM"], "threshold": 0.0},
        {"name": "increases_risk_of", "head": "DISEASE", "tail": "DISEASE", "threshold": 1.1, "sentence_window": 0},
    ],
    "candidates": {"sentence_window": 3, "heads_per_tail": 4},
    "temperatures": [1.0, 1.0, 1.0],
    "network": {"buckets": 256, "width": 8, "hidden": 8, "node": 16, "heads": 2, "layers": 2, "concepts": True},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("relations")
    torch.manual_seed(3)
    network = RelationNetwork(NetworkConfig(**CONFIG["network"]), labels=3, types=3)
    torch.nn.init.normal_(network.section)
    save_model(out, network.state_dict(), CONFIG)
    return out


@pytest.fixture
def relater(folder: Path) -> Relater:
    return Relater.load(folder, device="cpu")
