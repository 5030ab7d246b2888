from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from medpipe.summarize.beam import BeamConfig, beam_search, blocked_words

PADDING, START, END = 0, 1, 2


class Bigrams:
    """A toy language: the probability of a word depends on the note and the two words before it."""

    def __init__(self, notes: int, words: int, seed: int) -> None:
        table = torch.randn(notes, words, words, words, generator=torch.Generator().manual_seed(seed))
        self.table = torch.log_softmax(1.5 * table, dim=-1)

    def step(self, state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        notes = torch.arange(len(self.table)).unsqueeze(-1)
        return self.table[notes, state, last], torch.stack([state, last], dim=-1)

    def follow(self, state: Tensor, parents: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        last = state[:, :, 1].gather(1, parents)
        return last, torch.stack([said, last], dim=-1).float()


def search(language: Bigrams, config: BeamConfig):  # type: ignore[no-untyped-def]
    notes = len(language.table)
    return beam_search(
        language.step,
        language.follow,
        torch.full((notes, config.beams), START),
        notes=notes,
        start=START,
        end=END,
        padding=PADDING,
        config=config,
        device=torch.device("cpu"),
    )


def exhaustive(language: Bigrams, note: int, words: int, config: BeamConfig) -> tuple[float, tuple[int, ...]]:
    """Scores every sequence that the rules allow."""
    best = (-1e30, ())
    inner = [word for word in range(words) if word not in (PADDING, END)]
    for length in range(1, config.max_length + 1):
        for body in itertools.product(inner, repeat=length - 1):
            endings = [(END,)] if length < config.max_length else [(END,), *((word,) for word in inner)]
            for ending in endings:
                said = (*body, *ending)
                if END in said and said.index(END) < config.min_length:
                    continue
                grams = [said[i : i + config.block] for i in range(len(said) - config.block + 1)] if config.block else []
                if len(set(grams)) < len(grams):
                    continue
                path, total = (START, START, *said), 0.0
                for before, last, word in zip(path, path[1:], path[2:], strict=False):
                    total += float(language.table[note, before, last, word])
                best = max(best, (total / len(said) ** config.length_power, said))
    return best


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("block", "min_length"), [(0, 0), (2, 2), (3, 1)])
def test_a_wide_beam_is_exhaustive(power: float, block: int, min_length: int) -> None:
    words, notes = 5, 3
    language = Bigrams(notes, words, seed=block)
    config = BeamConfig(beams=400, max_length=4, min_length=min_length, length_power=power, block=block)
    found = search(language, config)
    for note in range(notes):
        score, said = exhaustive(language, note, words, config)
        assert found.scores[note].item() == pytest.approx(score, abs=1e-5)
        assert tuple(found.words[note, : len(said)].tolist()) == said
        assert (found.words[note, len(said) :] == PADDING).all()


def test_traces_are_those_of_the_winner() -> None:
    found = search(Bigrams(4, 6, seed=9), BeamConfig(beams=3, max_length=7, min_length=2, block=0))
    for words, traces in zip(found.words.tolist(), found.traces.tolist(), strict=True):
        before = START
        for word, (said, last) in zip(words, traces, strict=True):
            if word == PADDING:
                break
            assert (said, last) == (word, before)
            before = word


def test_a_note_is_decoded_the_same_alone() -> None:
    language = Bigrams(5, 6, seed=2)
    config = BeamConfig(beams=2, max_length=6, min_length=1)
    together = search(language, config)
    alone = Bigrams(1, 6, seed=2)
    for note in range(5):
        alone.table = language.table[note : note + 1]
        single = search(alone, config)
        width = single.words.shape[1]
        assert together.words[note, :width].tolist() == single.words[0].tolist()


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_searches(length: int) -> None:
    found = search(Bigrams(2, 5, seed=4), BeamConfig(beams=2, max_length=length, min_length=0))
    assert found.words.shape == (2, length)


def test_blocked_words_are_those_that_repeat_a_trigram() -> None:
    words = torch.tensor([[3, 4, 5, 6, 3, 4], [3, 4, 5, 4, 3, 3]])
    candidates, blocked = blocked_words(words, 3)
    assert [c for c, b in zip(candidates[0].tolist(), blocked[0].tolist(), strict=True) if b] == [5]
    assert not blocked[1].any()
    assert blocked_words(words[:, :2], 3)[0].shape == (2, 0)
