"""The teacher, with invented weights of a few numbers, and the distillation from it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medpipe.errors import MedpipeError
from medpipe.learn import distill as distillation
from medpipe.learn import teacher as teaching
from medpipe.learn.distill import STATES_FILE, STEPS, DistillationConfig, distill, load_states
from medpipe.learn.loop import LoopConfig
from medpipe.learn.pretrain import read_texts
from medpipe.learn.tagger import parse_config, train
from medpipe.learn.teacher import MOST_PIECES, Teacher, find_teacher, mean_by_word, word_pieces
from medpipe.tag.network import NetworkConfig, TaggerNetwork
from medpipe.text.features import WordTable
from medpipe.text.rows import make_rows
from tests.learn.test_tagger import CONFIG, corpora  # noqa: F401

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "she", "took", "fever", "the", "patient", "had", "na", "##use", "##a"]
SIZE, LAYERS = 8, 2
TEXTS = ["notes/train.jsonl", "letters/train.jsonl"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as the package has it: two layers, two heads, eight numbers a state."""
    folder = tmp_path_factory.mktemp("teacher")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = VOCABULARY + letters + [f"##{letter}" for letter in letters if letter != "a"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    shape = {"num_attention_heads": 2, "num_hidden_layers": LAYERS, "hidden_size": SIZE}
    (folder / "config.json").write_text(json.dumps(shape))
    torch.manual_seed(3)
    tensors = {"embeddings.position_ids": torch.arange(512)}
    for name, rows in (("word", len(pieces)), ("position", 512), ("token_type", 2)):
        tensors[f"embeddings.{name}_embeddings.weight"] = torch.randn(rows, SIZE)
    norms = ["embeddings"]
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            tensors |= dense(f"{block}.attention.{part}", SIZE, SIZE)
        tensors |= dense(f"{block}.intermediate.dense", SIZE, 2 * SIZE)
        tensors |= dense(f"{block}.output.dense", 2 * SIZE, SIZE)
        norms += [f"{block}.attention.output", f"{block}.output"]
    for name in norms:
        tensors |= {f"{name}.LayerNorm.weight": torch.ones(SIZE), f"{name}.LayerNorm.bias": torch.zeros(SIZE)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def dense(name, size, out):
    return {f"{name}.weight": torch.randn(out, size) / size**0.5, f"{name}.bias": torch.randn(out)}


@pytest.fixture
def teacher(weights):
    return Teacher(weights)


def test_words_are_cut_from_the_left_into_the_longest_pieces(teacher):
    names = {number: piece for piece, number in teacher.vocabulary.items()}

    def cut(word):
        return [names[number] for number in word_pieces(word, teacher.vocabulary)]

    assert cut("Fever") == ["fever"]
    assert cut("nausea") == ["na", "##use", "##a"]
    assert cut("Náusea") == ["na", "##use", "##a"]
    assert cut("nab") == ["na", "##b"]
    assert cut("7") == ["[UNK]"]
    assert cut("fever7") == ["[UNK]"]
    assert cut("a" * 200) == ["[UNK]"]
    assert cut("\u0301") == ["[UNK]"]


def test_a_sentence_ends_where_the_teacher_cannot_read_on(teacher):
    sentence = teacher.cut(["nausea"] * MOST_PIECES)
    assert len(sentence.pieces) == MOST_PIECES - MOST_PIECES % 3
    assert sentence.word == sorted(sentence.word)
    assert sentence.word[-1] == MOST_PIECES // 3 - 1


def test_a_word_is_the_mean_of_its_pieces():
    states = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    assert mean_by_word(states, torch.tensor([0, 0, 1])).tolist() == [[2.0, 1.0], [5.0, 5.0]]
    assert mean_by_word(states[:0], torch.zeros(0, dtype=torch.long)).shape == (0, 2)


def test_states_do_not_depend_on_the_batch(teacher):
    sentences = [teacher.cut(words.split()) for words in ("She had fever", "nausea", "the patient took the fever")]
    together = teacher.read([*sentences, teacher.cut([])], [1, 2])
    assert [len(states) for states in together] == [3, 1, 5, 0]
    for sentence, states in zip(sentences, together, strict=False):
        assert torch.allclose(teacher.read([sentence], [1, 2])[0], states, atol=1e-5)


def test_layers_are_averaged(teacher):
    sentence = teacher.cut(["fever"])
    one, two, both = (teacher.read([sentence], layers)[0] for layers in ([1], [2], [1, 2]))
    assert torch.allclose((one + two) / 2, both, atol=1e-6)


def test_a_teacher_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(teaching, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(MedpipeError, match="TEACHER_NOT_FOUND"):
        find_teacher()


LITTLE = DistillationConfig(
    texts=TEXTS,
    held_out=["notes/dev.jsonl"],
    layers=[1, 2],
    size=SIZE,
    batch_tokens=128,
    training=LoopConfig(epochs=8, learning_rate=1e-2, average_decay=0.9),
)


def make_network(labels):
    torch.manual_seed(5)
    return TaggerNetwork(
        NetworkConfig(buckets=512, width=8, hidden=12, layers=2, dropout=0.1), labels=labels, styles=2
    )


def test_states_are_standardised_and_kept(teacher, corpora, tmp_path):  # noqa: F811
    table = WordTable(512)
    rows = make_rows(list(read_texts(corpora, TEXTS)), table)
    file = tmp_path / STATES_FILE
    made = load_states(teacher, [rows], table.words, LITTLE, file=file, report=lambda line: None)[0]
    assert made.known.all()
    values = made.values.float() / STEPS
    assert values.mean(0).abs().max() < 0.1
    assert (values.std(0) - 1).abs().max() < 0.15
    again = load_states(None, [rows], table.words, LITTLE, file=file, report=lambda line: None)[0]
    assert torch.equal(again.values, made.values)


def test_encoder_learns_what_the_teacher_knows(teacher, corpora, tmp_path):  # noqa: F811
    network = make_network(2)
    before = network.output.weight.clone()
    result = distill(
        network, LITTLE, corpora=corpora, out=tmp_path, resume=False, report=lambda line: None, teacher=teacher
    )
    assert 0.3 < result["explained"] < 1
    assert torch.equal(network.output.weight, before)  # the labels' part is not touched
    assert not (tmp_path / STATES_FILE).exists()
    # The checkpoint serves a model of other labels.
    other = make_network(5)
    distill(other, LITTLE, corpora=corpora, out=tmp_path, resume=True, report=lambda line: None)
    for name in ("embedding.weight", "input_norm.weight", "forward_lstms.1.weight_hh_l0", "output_norm.bias"):
        assert torch.equal(other.state_dict()[name], network.state_dict()[name])


def test_a_config_with_a_teacher_trains(weights, corpora, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(distillation, "find_teacher", lambda: weights)
    table = {"texts": TEXTS, "held_out": ["notes/dev.jsonl"], "layers": [2], "size": SIZE, "training": {"epochs": 1}}
    config = CONFIG | {"distillation": table}
    assert parse_config(config).distillation.training.epochs == 1
    result = train(config, corpora=corpora, out=tmp_path, device="cpu", resume=False, report=lambda line: None)
    assert np.isfinite(result["distillation"]["explained"])
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "all-MiniLM-L6-v2" in card
    with pytest.raises(MedpipeError, match="CONFIG_INVALID"):
        parse_config(CONFIG | {"distillation": {"texts": TEXTS, "helt_out": []}})
