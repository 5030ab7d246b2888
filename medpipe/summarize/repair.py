"""From a draft to a summary that can be trusted: checks its sentences, replaces what fails, fills up, gives it a form.

A sentence that fails gives way to the sentence of the note that it was made from, unless that was said already; one
of the note that would read otherwise out of its place (a list of negatives, a family history) is left out. Only where
nothing else is left does such a sentence stand, and the summary then says that it is not faithful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from medpipe.summarize.beam import BeamConfig
from medpipe.summarize.decode import NOTHING, Outcome, Said, claim, cut_sentences, extract_sentence
from medpipe.summarize.faithfulness import AssertionEngine, Checker, Findings
from medpipe.summarize.features import Source
from medpipe.summarize.form import IMPRESSION, Form, impression_sentences, is_report
from medpipe.summarize.select import content_types, extract

CHECKS = ("entities", "numbers", "sides", "negation")
FIELDS = tuple(field.name for field in fields(Findings))
AHEAD = 24  # extracts that are checked together


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How summaries are made; the ``[decode]`` table of a config."""

    mode: str = "mixed"  # "extractive": no generation; "abstractive": no repair either (to measure); "mixed"
    beams: int = 4
    max_length: int = 125
    min_length: int = 20
    length_power: float = 1.0
    block: int = 3
    samples: int = 0  # see ``BeamConfig``
    attended: int = 300  # source tokens that the generator attends to
    extract_tokens: int = 120  # of an extract, at most
    extract_share: float = 1.0  # of the note's tokens that an extract has, within its limits
    extract_least: int = 0  # tokens that an extract may have whatever its share: a shorter note is its own summary
    choice: float = 0.0  # an extract is made from the best sentences that together are so many times as long; 0: any
    long_sentences: float = 0.0  # what a sentence's log probability gains by the log of its length in an extract
    fill_tokens: int = 0  # a summary that is shorter after the check is filled up with extracts to this length
    fill_share: float = 1.0  # but to no more than this part of the note
    write_up_to: int = 0  # tokens of the longest note that the generator writes for, others get extracts; 0: any
    write_conversations: bool = False  # the generator writes for what people said to each other, not for notes
    overlap: float = 0.6  # an extract that repeats more of what was said is left out
    short_sentences: int = 2  # a note of so few sentences is its own summary

    def extract_budget(self, tokens: int) -> int:
        """Returns the tokens of an extract from a note of ``tokens`` tokens."""
        return min(self.extract_tokens, max(self.extract_least, int(self.extract_share * tokens)))

    def beam(self) -> BeamConfig:
        """Returns the knobs of the search."""
        return BeamConfig(**{field.name: getattr(self, field.name) for field in fields(BeamConfig)})


@dataclass(frozen=True, slots=True)
class Selected:
    """A note after the selector and, where there is one, the generator."""

    order: list[int]  # sentences fit for an extract, best first
    scores: np.ndarray  # shape: (sentences,), probability
    draft: Said | None


class Repair:
    """The way of one note from the selector's and the generator's answer to its summary.

    Args:
        source: the note.
        selected: what the selector and the generator say.
        decode: how summaries are made.
        engine: see ``Checker``.
    """

    def __init__(
        self, source: Source, selected: Selected, decode: DecodeConfig, engine: AssertionEngine | None = None
    ) -> None:
        self.source = source
        self.selected = selected
        self.decode = decode
        self.checker = Checker(source, engine)
        self.checks = CHECKS if engine is None else (*CHECKS, "family")
        self.used: set[int] = set()
        self.sound: dict[int, bool] = {}  # sentence of the note -> it reads alone as it does in its place

    def finish(self) -> Outcome:
        """Returns the summary."""
        draft = self.selected.draft
        written = cut_sentences(self.source, draft) if draft is not None else []
        if not written:
            return self._extract()
        findings = self.checker.check([claim(self.source, one) for one in written])
        total = add_up(findings)
        if self.decode.mode == "abstractive":
            clean = all(one.clean for one in findings)
            return self._formed(Outcome(written, "abstractive", clean, findings=total, checks=self.checks))
        kept: list[Said | None] = [one if found.clean else None for one, found in zip(written, findings, strict=True)]
        replaced = dropped = 0
        for place, (one, found) in enumerate(zip(written, findings, strict=True)):
            if not found.clean:
                kept[place] = self._replace(one, [other for other in kept if other is not None])
                replaced += kept[place] is not None
                dropped += kept[place] is None
        sentences = [one for one in kept if one is not None]
        sentences += self._fill(sentences)
        if not sentences:
            return self._extract(total, dropped)
        extracts = sum(one.extract >= 0 for one in sentences)
        method = "extractive" if extracts == len(sentences) else "mixed" if extracts else "abstractive"
        return self._formed(
            Outcome(sentences, method, True, findings=total, replaced=replaced, dropped=dropped, checks=self.checks)
        )

    def _formed(self, outcome: Outcome) -> Outcome:
        """Returns the summary with its sentences part by part."""
        if is_report(self.source):
            return replace(outcome, parts=[IMPRESSION] * len(outcome.sentences))
        sentences, parts = Form(self.source).arrange(outcome.sentences)
        return replace(outcome, sentences=sentences, parts=parts)

    def _replace(self, failed: Said, kept: Sequence[Said]) -> Said | None:
        """Returns the sentence of the note that a failed one was made from; ``None`` where it was said already."""
        origins = failed.sources[failed.sources >= 0]
        if len(origins) == 0:
            return None
        shares = np.bincount(self.source.sentence_of[origins], minlength=len(self.source.sentences))
        return self._take(int(np.where(self.source.eligible, shares, -1).argmax()), kept)

    def _fill(self, said: Sequence[Said]) -> list[Said]:
        """Returns extracts that bring a short summary up to ``fill_tokens``, in the order of the note."""
        most = min(self.decode.fill_tokens, int(self.decode.fill_share * len(self.source.tokens)))
        room = most - sum(len(one.words) for one in said)
        added: list[Said] = []
        for sentence in self.selected.order:
            if room < 5:
                break
            if self.source.lengths[sentence] > room:
                continue
            taken = self._take(sentence, [*said, *added])
            if taken is not None:
                added.append(taken)
                room -= len(taken.words)
        return sorted(added, key=lambda one: one.extract)

    def _take(self, sentence: int, said: Sequence[Said]) -> Said | None:
        """Returns a sentence of the note as an extract, if it is new and reads there as it does here."""
        if sentence in self.used or not self.source.eligible[sentence]:
            return None
        words = content_types(self.source, sentence)
        spoken: set[int] = set()
        for one in said:
            spoken |= set(self.source.types[one.sources[one.sources >= 0]].tolist())
        if len(words & spoken) > self.decode.overlap * max(1, len(words)) or not self._reads_alone(sentence):
            return None
        self.used.add(sentence)
        return self._sentence(sentence)

    def _sentence(self, sentence: int) -> Said:
        return extract_sentence(self.source, sentence, float(self.selected.scores[sentence]))

    def _reads_alone(self, sentence: int) -> bool:
        """Says whether a sentence of the note says the same of its mentions out of its place."""
        if sentence not in self.sound:
            likely = [one for one in self.selected.order if one not in self.sound][:AHEAD]
            asked = list(dict.fromkeys([sentence, *likely]))
            found = self.checker.check([claim(self.source, self._sentence(one)) for one in asked], taken=True)
            self.sound |= {one: findings.clean for one, findings in zip(asked, found, strict=True)}
        return self.sound[sentence]

    def _extract(self, findings: Findings = NOTHING, dropped: int = 0) -> Outcome:
        """Returns a summary of the note's best sentences as they stand."""
        sound = [sentence for sentence in self.selected.order if self._reads_alone(sentence)]
        order = sound or self.selected.order
        if is_report(self.source):
            chosen = impression_sentences(self.source, order)
        else:
            order = Form(self.source).covering(order)
            chosen = extract(order, self.source.lengths, self.decode.extract_budget(len(self.source.tokens)))
        return self._formed(
            Outcome(
                [self._sentence(sentence) for sentence in chosen],
                "extractive",
                bool(sound),
                findings=findings,
                dropped=dropped,
                checks=self.checks,
            )
        )


def add_up(findings: Sequence[Findings]) -> Findings:
    """Returns the sums over sentences."""
    return Findings(*(sum(getattr(one, name) for one in findings) for name in FIELDS))
