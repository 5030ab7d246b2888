from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from medpipe.summarize.features import Vocabulary, collate, make_rows, read_source
from medpipe.summarize.network import BiLSTM, Memory, NetworkConfig, SummaryNetwork, extended_probabilities, operations


def random_memory(network: SummaryNetwork, vocabulary: Vocabulary, notes: int, slots: int) -> tuple[Memory, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(notes, slots, dtype=torch.bool)
    mask[-1, slots // 2 :] = False
    ids = torch.randint(3, vocabulary.size + 4, (notes, slots), generator=generator).masked_fill(~mask, 0)
    values = torch.randn(notes, slots, network.config.memory_size, generator=generator)
    own = torch.randint(0, 1000, (notes, 4, 2), generator=generator)
    return Memory(values, mask, torch.zeros(notes, slots), ids), own


def test_bilstm_equals_a_packed_one() -> None:
    torch.manual_seed(1)
    lengths = np.array([3, 1, 7, 4])
    items = torch.randn(int(lengths.sum()), 5)
    ours = BiLSTM(5, 6)
    states = ours(items, make_rows(lengths, 12, torch.device("cpu")))
    packed = torch.nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, value in ours.ahead.named_parameters():
            getattr(packed, name).copy_(value)
        for name, value in ours.back.named_parameters():
            getattr(packed, f"{name}_reverse").copy_(value)
    rows = torch.nn.utils.rnn.pad_sequence(items.split(lengths.tolist()), batch_first=True)
    out, _ = pad_packed_sequence(
        packed(pack_padded_sequence(rows, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False))[0],
        batch_first=True,
    )
    expected = torch.cat([out[row, :length] for row, length in enumerate(lengths.tolist())])
    torch.testing.assert_close(states, expected)


def test_extended_probabilities_sum_to_one(network: SummaryNetwork, vocabulary: Vocabulary) -> None:
    memory, own = random_memory(network, vocabulary, notes=3, slots=9)
    steps = 5
    inputs = torch.full((3, steps), Vocabulary.START)
    last = torch.tensor([-1, 0, 3, 3, 2]).expand(3, steps)
    with torch.no_grad():
        attention, coverage = network(inputs, own, last, last >= 0, memory)
    mixed = extended_probabilities(attention, memory.ids, vocabulary.size + own.shape[1])
    torch.testing.assert_close(mixed.sum(dim=-1), torch.ones(3, steps))
    assert (mixed >= 0).all()
    assert (attention.copy[-1, :, 5:] == 0).all(), "padding is never copied"
    assert (coverage[:, 0] == 0).all()
    torch.testing.assert_close(coverage[:, 3], attention.raw[:, :3].sum(dim=1))


def test_a_word_in_two_places_gets_the_mass_of_both(network: SummaryNetwork, vocabulary: Vocabulary) -> None:
    memory, own = random_memory(network, vocabulary, notes=1, slots=4)
    ids = torch.tensor([[vocabulary.size, 5, vocabulary.size, 6]])
    memory = Memory(memory.values, torch.ones(1, 4, dtype=torch.bool), memory.prior, ids)
    with torch.no_grad():
        attention, _ = network(
            torch.full((1, 1), Vocabulary.START), own, torch.full((1, 1), -1), torch.zeros(1, 1, dtype=torch.bool), memory
        )
    mixed = extended_probabilities(attention, ids, vocabulary.size + 4)[0, 0]
    copy = (1 - attention.gate[0, 0, 0]) * attention.copy[0, 0]
    torch.testing.assert_close(mixed[vocabulary.size], copy[0] + copy[2])
    torch.testing.assert_close(mixed[5], copy[1] + attention.gate[0, 0, 0] * attention.words[0, 0, 5])


def test_a_note_is_encoded_the_same_in_any_company(network: SummaryNetwork, note: str) -> None:
    device = torch.device("cpu")
    sources = [read_source(note), read_source("Fever for two days."), read_source(note * 3)]
    with torch.no_grad():
        alone = network.encode(collate(sources[:1], device))
        together = network.encode(collate(sources[::-1], device, budget=100))
    count = len(sources[0].tokens)
    torch.testing.assert_close(alone.memory, together.memory[-count:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        alone.sentence_logits, together.sentence_logits[-len(sources[0].sentences) :], atol=1e-5, rtol=1e-5
    )


def test_what_is_remembered_of_some_tokens_is_what_is_remembered_of_all(network: SummaryNetwork, note: str) -> None:
    batch = collate([read_source(note), read_source("Fever for days. " + note)], torch.device("cpu"))
    with torch.inference_mode():
        whole = network.encode(batch)
        where = torch.tensor([[0, 7, 3], [40, 2, 11]])
        memory, logits = network.remember_tokens(network.read(batch), where)
    assert torch.allclose(memory, whole.memory[where], atol=1e-6)
    assert torch.allclose(logits, whole.token_logits[where], atol=1e-6)


def test_operations_are_those_that_are_counted_and_the_selected_path_needs_fewer(network: SummaryNetwork, note: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    batch = collate([read_source(note)], torch.device("cpu"))
    tokens = int(batch.token_counts[0])
    with torch.inference_mode():
        reading = network.read(batch)
        with FlopCounterMode(display=False) as counter:
            network.remember_tokens(reading)
    said = operations(network.config, tokens=tokens, attended=tokens, steps=1, beams=1)
    assert said["remember"] == pytest.approx(counter.get_total_flops(), rel=0.01)
    full, routed = (operations(NetworkConfig(), tokens=4096, attended=n, steps=125, beams=4) for n in (4096, 300))
    assert sum(routed.values()) < 0.58 * sum(full.values())
    assert full["write"] == routed["write"]
