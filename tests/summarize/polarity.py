"""An adversarial set: invented sentences of notes and of summaries that affirm or negate the same finding.

Every way to affirm or negate in a note meets every way to affirm or negate in a summary; lists, contrasts and words
that look like negations come on top. The same pairs in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

FINDINGS = (
    "fever", "chest pain", "cough", "pleural effusion", "pneumonia", "night sweats", "rash", "ankle edema", "seizures",
    "hemoptysis", "pulmonary embolism", "diarrhea", "blurred vision",
)  # fmt: skip
AFFIRMED = (
    "She had {f} on admission.", "Examination showed {f}.", "There was {f} in the evening.", "He presents with {f}.",
    "The patient reports {f} since Monday.", "A scan revealed {f}.", "Positive for {f}.", "She still has {f}.",
    "He developed {f} after the visit.",
)  # fmt: skip
NEGATED = (
    "She denies {f}.", "There was no {f}.", "{f} was not seen.", "Negative for {f}.", "No evidence of {f}.",
    "{f} was ruled out.", "He is free of {f}.", "She did not have {f}.", "He came without {f}.", "{f} is absent.",
    "He has never had {f}.", "A scan failed to show {f}.", "No signs of {f} were found.",
)  # fmt: skip
# note, summary, findings turned round: {f} and {g} are two findings
TRICKY = (
    ("No {f} but {g}.", "There was {f}.", True), ("No {f} but {g}.", "No {f} and no {g}.", True),
    ("No {f} but {g}.", "No {f} but {g}.", False), ("She denies {f}, {g} or weight loss.", "She had {g}.", True),
    ("She denies {f}, {g} or weight loss.", "She denies {g}.", False),
    ("He has {f} without {g}.", "He has {f} and {g}.", True), ("He has {f} without {g}.", "He has no {f}.", True),
    ("He has {f} without {g}.", "He has {f}, no {g}.", False),
    ("There was no change in {f}.", "There was no {f}.", True),
    ("There was no change in {f}.", "There was {f}.", False),
    ("Not only {f} but also {g} was found.", "There was no {f}.", True),
    ("Not only {f} but also {g} was found.", "There was {f} and {g}.", False),
    ("{f} is present; {g} is not.", "{f} is not present.", True),
    ("No {f}. There is {g}.", "There is {f}. No {g}.", True), ("No {f}. There is {g}.", "There is {g}. No {f}.", False),
    ("Neither {f} nor {g} was reported.", "{f} was reported.", True),
    ("Neither {f} nor {g} was reported.", "No {f} was reported.", False),
    ("He no longer has {f}.", "He has {f}.", True), ("He no longer has {f}.", "He does not have {f}.", False),
    ("{f}: none. {g}: yes.", "There is {f}.", True), ("The test was negative for {f}.", "{f} was found.", True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence of a note, one of a summary, the findings, and whether the summary turns one of them round."""

    note: str
    summary: str
    findings: tuple[str, ...]
    turned: bool


def pairs() -> Iterator[Pair]:
    """Yields the whole set."""
    for number, ((note, negated_there), (summary, negated_here)) in enumerate(product(_forms(), _forms())):
        finding = FINDINGS[number % len(FINDINGS)]
        yield Pair(_say(note, f=finding), _say(summary, f=finding), (finding,), negated_there != negated_here)
    for place, (note, summary, turned) in enumerate(TRICKY):
        for shift in range(3):
            first, second = FINDINGS[(place + shift) % len(FINDINGS)], FINDINGS[(place + 4 + shift) % len(FINDINGS)]
            found = (first, second) if "{g}" in note else (first,)
            yield Pair(_say(note, f=first, g=second), _say(summary, f=first, g=second), found, turned)


def _forms() -> list[tuple[str, bool]]:
    return [(form, False) for form in AFFIRMED] + [(form, True) for form in NEGATED]


def _say(form: str, **findings: str) -> str:
    said = form.format(**findings)
    return said[0].upper() + said[1:]
