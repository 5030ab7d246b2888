"""medpipe turns clinical documents into tables people can rely on.

``medpipe.load()`` gives the models as a Python function; see ``medpipe.api``. The import alone loads nothing else.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Note", "Pipeline", "load"]

if TYPE_CHECKING:
    from medpipe.api import Note, Pipeline, load


def __getattr__(name: str) -> Any:
    """Gets a public name from ``medpipe.api`` when it is first asked for (PEP 562): torch takes seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("medpipe.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
