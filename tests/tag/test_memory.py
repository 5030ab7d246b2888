"""What is remembered of a word: against brute force, and whatever the batches."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.tag.memory import find_documents, find_slots, remember
from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.tag.stage import find_spans
from medpipe.text.features import WordTable
from medpipe.text.rows import make_rows

BUCKETS = 257
TEXTS = [
    "Diabetes mellitus (DM) was known. DM was treated. The patient has DM and fever.",
    "",
    "Fever.",
    "No fever today. A cough (DM). Fever and fever again.",
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    made = TaggerNetwork(NetworkConfig(buckets=BUCKETS, width=6, hidden=7, memory=True), labels=2, styles=2).eval()
    torch.nn.init.normal_(made.recall.weight, std=0.5)
    with torch.no_grad():
        made.output.weight *= 6
    return made


def read(network, texts):
    table = WordTable(BUCKETS)
    rows = make_rows(texts, table)
    with torch.inference_mode():
        return rows, network.embed(torch.from_numpy(table.features.copy()))


def recall(network, rows, vectors, budget=8192):
    return remember(
        network,
        vectors,
        words=rows.words,
        document=find_documents(rows),
        start=rows.start,
        length=rows.length,
        token_budget=budget,
    )


@given(st.lists(st.lists(st.integers(0, 4), max_size=9), max_size=5))
def test_slots_are_those_of_words_that_stand_again(documents):
    words = np.array([word for one in documents for word in one], dtype=np.int32)
    document = np.array([number for number, one in enumerate(documents) for _ in one], dtype=np.int64)
    slots, counts = find_slots(words, document)
    places = defaultdict(list)
    for place, key in enumerate(zip(document.tolist(), words.tolist(), strict=True)):
        places[key].append(place)
    again = [found for found in places.values() if len(found) > 1]
    assert sorted(slots.nonzero()[0].tolist()) == sorted(place for found in again for place in found)
    assert len({int(slots[found[0]]) for found in again}) == len(again) == len(counts) - 1
    for found in again:
        assert set(counts[slots[found]]) == {len(found)}


def test_memory_is_the_mean_of_the_first_layer(network):
    rows, vectors = read(network, TEXTS)
    memory, failed = recall(network, rows, vectors)
    assert not failed
    document = find_documents(rows)
    states = torch.zeros(len(rows.words), 14)
    for first, length in zip(rows.start.tolist(), rows.length.tolist(), strict=True):
        numbers = torch.from_numpy(rows.words[first : first + length]).long()
        with torch.inference_mode():
            found = network.read(vectors[numbers][None], torch.tensor([length]), torch.zeros(1, dtype=torch.long))
        states[first : first + length] = found[0]
    at = memory.at(torch.arange(len(rows.words)))
    for token, (word, text) in enumerate(zip(rows.words.tolist(), document.tolist(), strict=True)):
        same = torch.from_numpy((rows.words == word) & (document == text))
        count = int(same.sum())
        expected = states[same].mean(0) * (1 - 1 / count)
        assert torch.allclose(at[token], expected, atol=1e-6)
        assert count > 1 or not at[token].any()


def test_entities_do_not_depend_on_batches_and_other_documents(network):
    rows, vectors = read(network, TEXTS)
    together, _, _ = find_spans(network, vectors, rows, token_budget=8192, labels=2)
    assert len(together)
    small, _, _ = find_spans(network, vectors, rows, token_budget=1, labels=2)
    for name in ("text", "start", "end", "label"):
        assert np.array_equal(getattr(together, name), getattr(small, name))
    assert np.allclose(together.score, small.score, atol=1e-5)
    for number, text in enumerate(TEXTS):
        alone, _, _ = find_spans(network, *reversed(read(network, [text])), token_budget=8192, labels=2)
        own = together.of_text(number)
        assert np.array_equal(together.start[own], alone.start)
        assert np.array_equal(together.label[own], alone.label)
        assert np.allclose(together.score[own], alone.score, atol=1e-5)


def test_a_word_is_seen_otherwise_where_the_document_says_more(network):
    """The same sentence, after one that has its word: what the word was there reaches it."""
    rows, vectors = read(network, ["DM was treated.", "Severe mellitus (DM) here. DM was treated."])
    memory, _ = recall(network, rows, vectors)
    alone, after = rows.start[0], rows.start[2]
    at = memory.at(torch.tensor([alone, after]))
    assert not at[0].any()
    assert at[1].any()


def test_out_of_memory_costs_one_document(network, monkeypatch):
    rows, vectors = read(network, TEXTS)
    whole, _, _ = find_spans(network, vectors, rows, token_budget=8192, labels=2)
    real = TaggerNetwork.read
    longest = int(rows.length.max())
    broken = int(rows.text[rows.length.argmax()])

    def fail(self, vectors, lengths, style):
        if int(lengths.max()) == longest:
            raise torch.OutOfMemoryError
        return real(self, vectors, lengths, style)

    monkeypatch.setattr(TaggerNetwork, "read", fail)
    spans, failed, _ = find_spans(network, vectors, rows, token_budget=8192, labels=2)
    assert failed == [broken]
    kept = whole.text != broken
    assert np.array_equal(spans.start, whole.start[kept])


def test_nothing_is_remembered_at_first():
    torch.manual_seed(0)
    config = NetworkConfig(buckets=BUCKETS, width=6, hidden=7, memory=True)
    network = TaggerNetwork(config, labels=1, styles=1).eval()
    vectors, lengths, style = torch.randn(2, 3, 12), torch.tensor([3, 2]), torch.zeros(2, dtype=torch.long)
    with_memory = network(vectors, lengths, style, torch.randn(2, 3, 14))
    assert torch.equal(with_memory, network(vectors, lengths, style))
