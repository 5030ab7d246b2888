from __future__ import annotations

import itertools
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from medpipe.summarize.beam import BeamConfig, beam_search, blocked_words, sample

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


def search(language: Bigrams, config: BeamConfig, draw=beam_search):  # type: ignore[no-untyped-def]
    notes = len(language.table)
    return draw(
        language.step,
        language.follow,
        torch.full((notes, config.samples if draw is sample else config.beams), START),
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
        assert found.scores[note, 0].item() == pytest.approx(score, abs=1e-5)
        assert tuple(found.words[note, 0, : len(said)].tolist()) == said
        assert (found.words[note, 0, len(said) :] == PADDING).all()
        assert (found.scores[note].diff() <= 0).all()


@pytest.mark.parametrize("draw", [beam_search, sample])
def test_every_hypothesis_has_its_own_trace(draw) -> None:  # type: ignore[no-untyped-def]
    found = search(Bigrams(4, 6, seed=9), BeamConfig(beams=3, max_length=7, min_length=2, block=0, samples=3), draw)
    assert found.words.shape[:2] == (4, 3)
    for words, traces in zip(found.words.flatten(0, 1).tolist(), found.traces.flatten(0, 1).tolist(), strict=True):
        before = START
        for word, (said, last) in zip(words, traces, strict=True):
            if word == PADDING:
                break
            assert (said, last) == (word, before)
            before = word


@pytest.mark.parametrize("draw", [beam_search, sample])
def test_a_note_is_decoded_the_same_alone(draw) -> None:  # type: ignore[no-untyped-def]
    language = Bigrams(5, 6, seed=2)
    config = BeamConfig(beams=2, max_length=6, min_length=1, samples=20)
    together = search(language, config, draw)
    alone = Bigrams(1, 6, seed=2)
    for note in range(5):
        alone.table = language.table[note : note + 1]
        single = search(alone, config, draw)
        width = single.words.shape[2]
        assert together.words[note, :, :width].tolist() == single.words[0].tolist()
        assert together.scores[note].tolist() == pytest.approx(single.scores[0].tolist())


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_searches(length: int) -> None:
    found = search(Bigrams(2, 5, seed=4), BeamConfig(beams=2, max_length=length, min_length=0))
    assert found.words.shape == (2, 2, length)


def test_samples_are_as_frequent_as_they_are_probable() -> None:
    language = Bigrams(2, 5, seed=6)
    config = BeamConfig(max_length=2, min_length=0, block=0, samples=8000)
    found = search(language, config, sample)
    table = language.table.exp().double()
    table[..., PADDING] = 0.0  # never said
    table /= table.sum(dim=-1, keepdim=True)
    for note in range(2):
        said = Counter(tuple(words) for words in found.words[note].tolist())
        for first in (1, 2, 3, 4):
            for second in (0,) if first == END else (1, 2, 3, 4):
                chance = float(table[note, START, START, first])
                chance *= 1.0 if first == END else float(table[note, START, first, second])
                assert said.pop((first, second), 0) / config.samples == pytest.approx(chance, abs=0.02)
        assert not said


def test_samples_keep_the_rules_of_the_search() -> None:
    found = search(Bigrams(3, 6, seed=8), BeamConfig(max_length=12, min_length=4, block=2, samples=50), sample)
    for words in found.words.flatten(0, 1).tolist():
        said = words[: words.index(END)] if END in words else words
        assert len(said) >= 4
        assert len(set(pairwise(said))) == len(said) - 1
        assert PADDING not in said


def test_where_no_word_is_probable_a_sample_says_the_most_probable() -> None:
    language = Bigrams(1, 5, seed=1)
    language.table[:] = torch.tensor([-40.0, -40.0, 0.0, -30.0, -40.0])  # only the end, which is not allowed yet
    found = search(language, BeamConfig(max_length=2, min_length=1, samples=4), sample)
    assert found.words[0].tolist() == [[3, END]] * 4


def test_blocked_words_are_those_that_repeat_a_trigram() -> None:
    words = torch.tensor([[3, 4, 5, 6, 3, 4], [3, 4, 5, 4, 3, 3]])
    candidates, blocked = blocked_words(words, 3)
    assert [c for c, b in zip(candidates[0].tolist(), blocked[0].tolist(), strict=True) if b] == [5]
    assert not blocked[1].any()
    assert blocked_words(words[:, :2], 3)[0].shape == (2, 0)
