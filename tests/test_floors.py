"""The floors of the house: nothing imports upwards, and the stages do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "medpipe"
FLOORS = [
    {
        "errors",
        "ids",
        "records",
        "settings",
        "storage",
        "partition",
        "alerts",
        "device",
        "gpu",
        "weights",
        "__init__",
    },
    {"text", "lake"},
    {"ingest", "tag", "relate", "summarize"},
    {"pipeline", "maintain"},
    {"learn", "evaluate", "export", "report", "api"},
    {"cli", "connections", "orchestrate"},
]
STAGES = FLOORS[2]
# What a stage must not know, besides the other stages.
FORBIDDEN_IN_STAGES = {"pyarrow.parquet", "pyarrow.dataset", "airflow", "typer", "rich", "torchmetrics"}

# Only the lake knows Parquet files of ours; those of others are one of the formats that are read.
ALLOWED = {"ingest/tables/parquet.py": {"pyarrow.parquet"}}


def imports_of(path: Path) -> set[str]:
    """All modules that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    raise AssertionError(f"the room {name} is on no floor")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_nothing_imports_upwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    known = {part for rooms in FLOORS for part in rooms}
    for module in imports_of(path):
        if path == PACKAGE / "__init__.py" and module.startswith("medpipe.api"):
            continue  # the door: public names are got from there when they are first asked for
        if module.startswith("medpipe.") and room(module) in known:
            assert floor(room(module)) <= floor(own), f"{path} imports {module}"
            if own in STAGES and room(module) in STAGES:
                assert room(module) == own, f"the stage {own} knows {module}"
        if own in STAGES:
            forbidden = FORBIDDEN_IN_STAGES - ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set())
            assert not any(module == name or module.startswith(name + ".") for name in forbidden), module


def test_only_relate_knows_torch_geometric() -> None:
    for path in FILES:
        if any(module.startswith("torch_geometric") for module in imports_of(path)):
            assert path.relative_to(PACKAGE).parts[0] in {"relate", "learn"}, path


def test_nothing_unpickles() -> None:
    for path in FILES:
        assert not {"pickle", "torch.load", "joblib", "dill"} & imports_of(path), path
        assert "torch.load(" not in path.read_text(encoding="utf-8"), path


def test_stages_have_the_same_inside() -> None:
    for stage in ("tag", "relate", "summarize"):
        for name in ("network.py", "features.py", "decode.py", "stage.py"):
            assert (PACKAGE / stage / name).is_file(), f"{stage}/{name}"
