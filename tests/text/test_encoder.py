"""The encoder: padding changes nothing, and a tagger's weights find their place in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.text.encoder import EncoderConfig, SentenceEncoder, take_encoder
from medpipe.text.features import WordTable


def encoder(**changes: int) -> SentenceEncoder:
    torch.manual_seed(1)
    return SentenceEncoder(EncoderConfig(**({"buckets": 31, "width": 4, "hidden": 6, "layers": 2} | changes))).eval()


def tagger() -> TaggerNetwork:
    torch.manual_seed(2)
    network = TaggerNetwork(NetworkConfig(buckets=31, width=4, hidden=6, layers=2), labels=2, styles=2).eval()
    torch.nn.init.normal_(network.style.weight)
    return network


def test_a_row_does_not_depend_on_its_padding() -> None:
    network = encoder()
    rows = torch.randn(3, 5, 8)
    lengths = torch.tensor([5, 2, 1])
    together = network(rows, lengths)
    for number, length in enumerate(lengths.tolist()):
        alone = network(rows[number : number + 1, :length], lengths[number : number + 1])
        assert torch.allclose(together[number, :length], alone[0], atol=1e-6)


def test_it_goes_on_where_a_tagger_stopped() -> None:
    source, network = tagger(), encoder()
    take_encoder(network, source.state_dict())
    table = WordTable(31)
    table.look_up(["gout", "and", "pain"])
    features = torch.from_numpy(np.array(table.features))
    lengths = torch.tensor([3])
    theirs = source.encode(source.embed(features)[None], lengths, torch.zeros(1, dtype=torch.int64))
    assert torch.allclose(network(network.embed(features)[None], lengths), theirs, atol=1e-6)


def test_a_smaller_table_holds_the_rows_that_a_hash_leads_to() -> None:
    source, network = tagger(), encoder(buckets=11, layers=1)  # 30 = 3 * 10
    take_encoder(network, source.state_dict())
    wide, narrow = source.embedding.weight, network.embedding.weight
    assert torch.equal(narrow[0], wide[0])
    for hashed in range(10):
        rows = [1 + one for one in range(30) if one % 10 == hashed]
        assert torch.allclose(narrow[1 + hashed], wide[rows].sum(0) / 3**0.5, atol=1e-6)


@pytest.mark.parametrize("changes", [{"hidden": 5}, {"width": 3}, {"buckets": 30}, {"layers": 3}])
def test_weights_that_do_not_fit_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises((KeyError, ValueError)):
        take_encoder(encoder(**changes), tagger().state_dict())
