"""One self-contained HTML file: style and script inside, named by their hashes in a policy that allows nothing else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import medpipe
from medpipe.errors import MedpipeError
from medpipe.lake.files import written_aside
from medpipe.report.palette import palette_css

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """Returns the environment of the templates: everything is escaped, a name that is missing is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # ASCII: no `<`, no U+2028, no bidi character
    return made


def make_page(template: str, context: Mapping[str, Any], *, styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Returns a page: a template with its context, styles and scripts.

    The policy (Content Security Policy 3) allows the one style and the one script by hash and no request at all, so
    that a page does nothing but what is written here, even if a note's text got out of its place.
    """
    style = palette_css() + "".join(map(_read, styles))
    script = "".join(map(_read, scripts))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = {"policy": policy, "style": Markup(style), "script": Markup(script), "version": medpipe.__version__}
    return environment().get_template(template).render(**context, page=page)


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + b64encode(sha256(content.encode()).digest()).decode()


def check_page_path(path: Path) -> None:
    """Raises SETTING_INVALID where no file can be at ``path``: to be told before hours of work, not after."""
    if path.is_dir():
        raise MedpipeError("SETTING_INVALID", name=path, reason="the page is a file, and this is a folder")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise MedpipeError("SETTING_INVALID", name=path, reason=f"{above} is a file, not a folder")


def write_page(path: Path, html: str) -> None:
    """Writes a page atomically; folders above it are made.

    Raises:
        MedpipeError: SETTING_INVALID, DISK_FULL, PERMISSION_DENIED.
    """
    check_page_path(path)
    with written_aside(path) as aside:
        aside.write_bytes(html.encode())
