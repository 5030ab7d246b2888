"""The training loop: killed anywhere and resumed, it ends where an undisturbed run ends."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medpipe.errors import MedpipeError
from medpipe.learn.loop import STATE_FILE, LoopConfig, Trainer, lower_precision, parameter_groups


class KilledError(Exception):
    """What stands for SIGKILL: nothing of the loop runs after it."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, values):
        self.seen += 1
        return self.layers(values)


INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS.sum(1, keepdim=True)


def make_trainer(folder, *, kill_at=None, network=None, report=lambda line: None, checkpoint_minutes=0.0, **knobs):
    """A small regression; ``kill_at`` is the batch, counted over the process's life, that never comes back."""
    torch.manual_seed(0)
    calls = [0]

    def make_batches(epoch, rng):
        return list(rng.permutation(40).reshape(8, 5))

    def compute_loss(net, batch):
        if kill_at is not None and calls[0] == kill_at:
            raise KilledError
        calls[0] += 1
        return nn.functional.mse_loss(net(INPUTS[batch]), TARGETS[batch])

    def evaluate(net):
        assert not net.training
        score = -float(nn.functional.mse_loss(net(INPUTS), TARGETS))
        return score, {"error": -score}

    config = LoopConfig(epochs=4, learning_rate=1e-2, checkpoint_minutes=checkpoint_minutes, **knobs)
    return Trainer(
        network or Net(), config=config, folder=folder, make_batches=make_batches, compute_loss=compute_loss,
        evaluate=evaluate, report=report,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("whole"))
    return trainer.train(), trainer


@pytest.mark.parametrize("kill_at", [0, 1, 7, 8, 9, 20, 31])
def test_killed_and_resumed_equals_undisturbed(tmp_path, undisturbed, kill_at):
    expected, whole = undisturbed
    with pytest.raises(KilledError):
        make_trainer(tmp_path, kill_at=kill_at).train()
    trainer = make_trainer(tmp_path)
    best = trainer.train(resume=True)
    assert trainer.progress.step == whole.progress.step == 32
    assert trainer.progress.best_epoch == whole.progress.best_epoch
    assert trainer.progress.best_score == whole.progress.best_score
    for name, value in expected.items():
        assert torch.equal(best[name], value), name
    for name, value in whole.network.state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], value), name


def test_killed_between_checkpoints_goes_back_to_the_last(tmp_path, undisturbed):
    expected, _ = undisturbed
    with pytest.raises(KilledError):  # checkpoints at the ends of epochs alone
        make_trainer(tmp_path, kill_at=13, checkpoint_minutes=60).train()
    with pytest.raises(KilledError):  # killed again, before the next checkpoint
        make_trainer(tmp_path, kill_at=2, checkpoint_minutes=60).train(resume=True)
    best = make_trainer(tmp_path).train(resume=True)
    assert all(torch.equal(best[name], value) for name, value in expected.items())


def test_kill_while_the_checkpoint_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    trainer.train()
    before = (tmp_path / STATE_FILE).read_bytes()

    def half(tensors, path, metadata=None):
        path.write_bytes(b"half a file")
        raise KilledError

    monkeypatch.setattr("medpipe.learn.loop.save_file", half)
    with pytest.raises(KilledError):
        trainer.save_checkpoint()
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_without_resume_it_starts_afresh(tmp_path, undisturbed):
    expected, _ = undisturbed
    make_trainer(tmp_path, checkpoint_minutes=60).train()
    best = make_trainer(tmp_path).train(resume=False)
    assert all(torch.equal(best[name], value) for name, value in expected.items())


def test_resume_of_a_finished_run_trains_no_more(tmp_path):
    best = make_trainer(tmp_path).train()
    again = make_trainer(tmp_path, kill_at=0).train(resume=True)
    assert all(torch.equal(again[name], value) for name, value in best.items())


def test_learns_and_reports(tmp_path):
    lines = []
    trainer = make_trainer(tmp_path, report=lines.append)
    trainer.train()
    assert len(lines) == 4
    assert "epoch 4/4" in lines[-1]
    errors = [float(line.split("error ")[1].split()[0]) for line in lines]
    assert errors[-1] < errors[0]
    assert trainer.progress.best_score == pytest.approx(-min(errors), abs=1e-4)


def test_patience_stops(tmp_path):
    lines = []
    trainer = make_trainer(tmp_path, report=lines.append, patience=1)
    trainer.evaluate = lambda net: (0.0, {})
    trainer.train()
    assert trainer.progress.best_epoch == 1
    assert len(lines) == 2


def test_schedule_warms_up_and_decays(tmp_path):
    trainer = make_trainer(tmp_path, warmup_fraction=0.1)
    factors = [trainer.schedule(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert np.all(np.diff(factors[:10]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)
    assert factors[-1] == pytest.approx(0.01, abs=0.01)


def test_average_is_what_is_scored_and_kept(tmp_path):
    trainer = make_trainer(tmp_path)
    scored = []
    score = trainer.evaluate
    trainer.evaluate = lambda net: (
        scored.append({name: value.clone() for name, value in net.state_dict().items()}),
        score(net),
    )[1]
    best = trainer.train()
    kept = scored[trainer.progress.best_epoch - 1]
    assert all(torch.equal(best[name], kept[name]) for name in best)
    assert not all(torch.equal(trainer.network.state_dict()[name], best[name]) for name in best)


def test_rates_slow_down_the_parameters_they_name():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    groups = parameter_groups(net, {names[0]: 0.1, "layers.": 0.5, "nothing": 3.0})
    assert [group["factor"] for group in groups] == [0.1, 0.5]
    assert [len(group["params"]) for group in groups] == [1, len(names) - 1]
    assert [group["factor"] for group in parameter_groups(net, {})] == [1.0]


def test_a_rate_of_zero_leaves_parameters_as_they_were(tmp_path):
    trainer = make_trainer(tmp_path, rates={"layers.0.": 0.0})
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.train()
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("layers.0.")


def test_lower_precision_is_for_products_only_and_only_where_asked():
    weights = torch.randn(4, 4)
    for compute, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with lower_precision(torch.device("cpu"), compute):
            assert (weights @ weights).dtype == kind
    assert weights.dtype == torch.float32


def test_checkpoint_holds_no_pickle(tmp_path):
    make_trainer(tmp_path).train()
    from safetensors import safe_open

    with safe_open(tmp_path / STATE_FILE, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    assert progress["epoch"] == 4
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("damage", ["another network", "cut off", "another file"])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, damage):
    make_trainer(tmp_path).train()
    path = tmp_path / STATE_FILE
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another file":
        save_file({"weight": torch.zeros(2)}, path)
    before = path.read_bytes()
    with pytest.raises(MedpipeError, match="CHECKPOINT_INVALID"):
        make_trainer(tmp_path, network=nn.Linear(3, 1) if damage == "another network" else None).train(resume=True)
    assert path.read_bytes() == before
