"""Training configs: TOML files, the shipped ones beside this module in ``configs/``.

``include = "FILE"`` (relative to the config) takes from another file the tables that the config lacks.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from medpipe.errors import MedpipeError

CONFIGS = Path(__file__).parent / "configs"


def list_configs() -> list[str]:
    """Returns the names of the shipped configs."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def load_config(name_or_file: str) -> dict[str, Any]:
    """Returns a shipped config by name, or one of a TOML file by path.

    Raises:
        MedpipeError: CONFIG_NOT_FOUND, CONFIG_INVALID.
    """
    shipped = CONFIGS / f"{name_or_file}.toml"
    path = shipped if shipped.is_file() else Path(name_or_file)
    if not path.is_file():
        raise MedpipeError("CONFIG_NOT_FOUND", name=name_or_file)
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
        if included := config.pop("include", None):
            config = tomllib.loads((path.parent / str(included)).read_text(encoding="utf-8")) | config
        return config
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise MedpipeError("CONFIG_INVALID", name=name_or_file, reason=error) from error
