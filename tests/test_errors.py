"""Error codes are stable, and their messages can be made from their fields."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from medpipe.errors import CODES, EXIT_CONTRACT, EXIT_ENVIRONMENT, EXIT_INPUT, EXIT_USAGE, MedpipeError, reject_message

PACKAGE = Path(__file__).parent.parent / "medpipe"


@pytest.mark.parametrize("code", CODES)
def test_every_code_makes_a_sentence_and_a_remedy(code: str) -> None:
    kind = CODES[code]
    names = {name for text in (kind.sentence, kind.remedy) for _, name, _, _ in string.Formatter().parse(text) if name}
    error = MedpipeError(code, **dict.fromkeys(names, "x"))
    assert str(error).startswith(f"{code}: ")
    assert error.sentence.endswith(".") and error.remedy.endswith(".")
    assert error.exit_code in {EXIT_USAGE, EXIT_INPUT, EXIT_CONTRACT, EXIT_ENVIRONMENT}
    assert reject_message(code, **dict.fromkeys(names, "x")) == f"{error.sentence} {error.remedy}"


def test_every_code_that_the_package_names_exists_and_every_code_is_used() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name != "errors.py")
    named = set(re.findall(r'MedpipeError\(\s*"([A-Z0-9_]+)"', source))
    assert named <= set(CODES)
    unused = {code for code in CODES if f'"{code}"' not in source}
    assert not unused
