"""No negation turned round: the check on the adversarial set of ``polarity.py``, with the assertion of the tagger."""

from __future__ import annotations

import numpy as np

from medpipe.records import LABELS
from medpipe.summarize.faithfulness import AssertionEngine, Checker, Claim
from medpipe.summarize.features import Mentions, describe_words, read_source
from medpipe.tag.assertion import Assertion
from medpipe.text.sentences import split_sentences
from medpipe.text.tokens import tokenize
from tests.summarize.polarity import Pair, pairs

SET = list(pairs())
TAGGER = Assertion.load()


def note_of(pair: Pair, engine: AssertionEngine | None) -> Checker:
    tokens = tokenize(pair.note)
    low = pair.note.lower()
    starts = np.array(sorted(low.index(finding) for finding in pair.findings), dtype=np.int32)
    lengths = {low.index(finding): len(finding) for finding in pair.findings}
    ends = np.array([start + lengths[start] for start in starts.tolist()], dtype=np.int32)
    sentences = split_sentences(pair.note, tokens)
    asserted = TAGGER.assert_entities(pair.note, tokens, sentences, starts, ends, ["body"] * len(starts))
    label = np.full(len(starts), LABELS.index("SYMPTOM"))
    mentions = Mentions(starts, ends, label, asserted, np.zeros(len(starts), dtype=bool))
    return Checker(read_source(pair.note, mentions=mentions), engine)


def claim(text: str) -> list[Claim]:
    tokens = tokenize(text)
    claims = []
    for first, end in split_sentences(text, tokens).tolist():
        piece = text[tokens.start[first] : tokens.end[end - 1]]
        own = tokenize(piece)
        claims.append(Claim(piece, own, describe_words(piece, own), np.full(len(own), -1)))
    return claims


def judge(pair: Pair, engine: AssertionEngine | None) -> bool:
    """Says whether the check finds a negation turned round."""
    return any(found.polarity for found in note_of(pair, engine).check(claim(pair.summary)))


def test_the_set_is_large_and_has_both_kinds() -> None:
    assert len(SET) >= 300
    turned = sum(pair.turned for pair in SET)
    assert min(turned, len(SET) - turned) >= 150
    assert len({(pair.note, pair.summary) for pair in SET}) == len(SET)


def errors(engine: AssertionEngine | None) -> tuple[list[Pair], list[Pair]]:
    """Returns the pairs that are turned round and pass, and those that are not and are stopped."""
    judged = [(pair, judge(pair, engine)) for pair in SET]
    return (
        [pair for pair, stopped in judged if pair.turned and not stopped],
        [pair for pair, stopped in judged if stopped and not pair.turned],
    )


def test_a_negation_that_is_turned_round_does_not_pass() -> None:
    passed, stopped = errors(TAGGER)
    # The one form that is judged wrongly is one that the tagger itself takes for a negation.
    assert {pair.note.split(" in ")[0] for pair in [*passed, *stopped]} == {"There was no change"}
    assert (len(passed), len(stopped)) == (3, 3)


def test_the_assertion_of_the_tagger_is_better_than_cue_words() -> None:
    passed, stopped = errors(None)
    assert len(passed) > 20
    assert len(passed) + len(stopped) > 50
