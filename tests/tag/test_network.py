"""The network: padding does not matter, and a label without annotation gives no loss."""

from itertools import pairwise, product

import pytest
import torch

from medpipe.tag.crf import FORBIDDEN, TAGS, allowed_transitions
from medpipe.tag.network import NetworkConfig, TaggerNetwork, likelihood_loss
from medpipe.text.encoder import reverse

SMALL = NetworkConfig(buckets=97, width=4, hidden=6, layers=2, levels=2, dropout=0.3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TaggerNetwork(SMALL, labels=3, styles=2).eval()


def test_padding_does_not_change_the_scores(network):
    lengths = torch.tensor([7, 3, 1])
    vectors = torch.randn(3, 7, 8)
    style = torch.zeros(3, dtype=torch.long)
    together = network(vectors, lengths, style)
    assert together.shape == (3, 7, 3, 2, 5)
    for row, length in enumerate(lengths.tolist()):
        alone = network(vectors[row : row + 1, :length], lengths[row : row + 1], style[:1])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-6)


def test_both_directions_see_the_whole_sentence(network):
    vectors = torch.randn(1, 6, 8)
    lengths, style = torch.tensor([6]), torch.zeros(1, dtype=torch.long)
    before = network(vectors, lengths, style)
    for changed in (0, 5):
        other = vectors.clone()
        other[0, changed] += 1
        moved = (network(other, lengths, style) - before).abs().amax(dim=(0, 2, 3, 4))
        assert (moved > 1e-7).all()


def test_reverse():
    values = torch.arange(8.0).view(2, 4, 1)
    order = torch.tensor([[3, 2, 1, 0], [1, 0, 2, 3]])
    assert reverse(values, order).squeeze(2).tolist() == [[3, 2, 1, 0], [5, 4, 6, 7]]


def test_style_starts_as_nothing_and_is_learned(network):
    assert not network.style.weight.any()
    network.train()
    scores = network(torch.randn(2, 3, 8), torch.tensor([3, 2]), torch.tensor([0, 1]))
    scores.sum().backward()
    assert network.style.weight.grad.abs().sum(1).gt(0).all()


def test_loss_equals_brute_force(network):
    torch.manual_seed(1)
    lengths = torch.tensor([3, 2, 1])
    emissions = torch.randn(3, 3, 3, 2, len(TAGS))
    annotated = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    tags = torch.zeros(3, 3, 3, 2, dtype=torch.int8)
    tags[0, :, 0, 0] = torch.tensor([1, 2, 3])
    tags[1, 1, 1, 1] = 4
    crf = network.crf
    expected = 0.0
    for row, label in annotated.nonzero().tolist():
        for level in range(2):
            chain, gold = emissions[row, :, label, level], tags[row, : lengths[row], label, level].tolist()

            def score(path, chain=chain):
                total = crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
                total = total + sum(chain[step, tag] for step, tag in enumerate(path))
                return float((total + sum(crf.transitions[a, b] for a, b in pairwise(path))).detach())

            every = torch.tensor([score(path) for path in product(range(len(TAGS)), repeat=int(lengths[row]))])
            expected += float(every.logsumexp(0)) - score(gold)
    loss = likelihood_loss(network, emissions, lengths, tags, annotated)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_a_label_without_annotation_gives_no_gradient(network):
    emissions = torch.randn(2, 4, 3, 2, len(TAGS), requires_grad=True)
    annotated = torch.tensor([[True, False, False], [True, True, False]])
    tags = torch.zeros(2, 4, 3, 2, dtype=torch.int8)
    likelihood_loss(network, emissions, torch.tensor([4, 2]), tags, annotated).backward()
    touched = emissions.grad.abs().sum(dim=(3, 4))  # shape: (batch, time, labels)
    assert touched[..., 2].sum() == 0
    assert touched[0, :, 1].sum() == 0
    assert touched[0, :, 0].gt(0).all()
    assert touched[1, 2:].sum() == 0  # padding


def test_forbidden_transitions_stay_forbidden(network):
    allowed, *_ = allowed_transitions()
    assert (network.crf.transitions[~allowed] == FORBIDDEN).all()
    tags = torch.zeros(1, 3, 3, 2, dtype=torch.int8)
    emissions = torch.randn(1, 3, 3, 2, len(TAGS))
    likelihood_loss(network, emissions, torch.tensor([3]), tags, torch.ones(1, 3, dtype=torch.bool)).backward()
    assert not network.crf.transitions.grad[~allowed].any()


def test_variational_dropout_keeps_one_mask_for_a_row(network):
    network.train()
    kept = network.drop(torch.ones(5, 9, 20)).ne(0)
    assert (kept == kept[:, :1]).all()
    assert not kept.all()
