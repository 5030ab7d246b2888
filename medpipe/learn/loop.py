"""The training loop that all three models share: schedule, averaged weights, checkpoints, progress.

A trainer gives a network, a function that makes the batches of an epoch and a function that gives a batch's
loss; the loop does AdamW with linear warm-up and cosine decay (Loshchilov and Hutter 2017, 2019), clips the
gradient, keeps an exponential moving average of the weights (Polyak averaging), scores it on dev and keeps
the best. Killed at any point and started again with ``resume``, it goes on from its last checkpoint with the
same batches as an undisturbed run: every epoch's random numbers come from ``seed`` and the epoch alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medpipe.errors import MedpipeError

Batch = TypeVar("Batch")

STATE_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """The knobs of the loop; the ``[training]`` table of a config."""

    epochs: int = 20
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_fraction: float = 0.05
    clip_norm: float = 5.0
    average_decay: float = 0.999  # of the moving average of the weights
    checkpoint_minutes: float = 2.0
    patience: int = 1000  # looks at dev without a better score before it stops
    evaluate_every: int = 1  # epochs
    seed: int = 13
    compute: str = "float32"  # or bfloat16: what the LSTMs compute in; the weights stay float32
    rates: dict[str, float] = field(default_factory=dict)  # factor on the learning rate, by a name's beginning


@dataclass(slots=True)
class Progress:
    """Where the training stands; saved with each checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1
    looks_since_best: int = 0
    seconds: float = 0.0


def lower_precision(device: torch.device, compute: str) -> torch.autocast:
    """Returns the context in which matrix products are computed in ``compute``; float32 changes nothing.

    bfloat16 pays where the processor has it (AVX512-BF16, AMX, a GPU), and is slow where it does not.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bfloat16")


def parameter_groups(network: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns the optimiser's groups: parameters whose name begins with a key of ``rates`` get its factor, others 1."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        factor = next((rate for start, rate in rates.items() if name.startswith(start)), 1.0)
        groups.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


class Trainer(Generic[Batch]):
    """Trains a network; see the module's docstring.

    Args:
        network: the module to train, on its device already.
        make_batches: ``(epoch, generator) -> batches``; must depend on its arguments alone.
        compute_loss: ``(network, batch) -> scalar loss``.
        evaluate: ``(network) -> (score, figures)``; higher is better; called with the averaged weights.
        report: called with a line of figures after every epoch (never with text of a corpus).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        config: LoopConfig,
        folder: Path,
        make_batches: Callable[[int, np.random.Generator], Sequence[Batch]],
        compute_loss: Callable[[nn.Module, Batch], Tensor],
        evaluate: Callable[[nn.Module], tuple[float, dict[str, Any]]],
        report: Callable[[str], None] = print,
    ) -> None:
        self.network = network
        self.config = config
        self.folder = folder
        self.make_batches = make_batches
        self.compute_loss = compute_loss
        self.evaluate = evaluate
        self.report = report
        self.progress = Progress()
        self.random_state: Tensor | None = None
        self.optimizer = torch.optim.AdamW(
            parameter_groups(network, config.rates),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.best = {name: value.clone() for name, value in self.average.items()}

    def train(self, *, resume: bool = False) -> dict[str, Tensor]:
        """Trains to the end of the schedule and returns the averaged weights that were best on dev."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume and (self.folder / STATE_FILE).is_file():
            self.load_checkpoint()
            self.report(f"resumed at epoch {self.progress.epoch + 1}, batch {self.progress.batch}")
        saved_at = time.monotonic()
        while self.progress.epoch < self.config.epochs and self.progress.looks_since_best < self.config.patience:
            epoch = self.progress.epoch
            torch.manual_seed(self.config.seed * 100_003 + epoch)
            if self.random_state is not None:  # resumed inside this epoch
                torch.set_rng_state(self.random_state)
                self.random_state = None
            batches = self.make_batches(epoch, np.random.default_rng([self.config.seed, epoch]))
            losses: list[Tensor] = []
            started = time.monotonic()
            self.network.train()
            for batch in batches[self.progress.batch :]:
                losses.append(self.step(batch, total_steps=len(batches) * self.config.epochs))
                self.progress.batch += 1
                if time.monotonic() - saved_at > self.config.checkpoint_minutes * 60:
                    self.progress.seconds += time.monotonic() - started
                    started = saved_at = time.monotonic()
                    self.save_checkpoint()
            self.progress.seconds += time.monotonic() - started
            self.progress.epoch, self.progress.batch = epoch + 1, 0
            self.finish_epoch(losses)
            saved_at = time.monotonic()
        return self.best

    def step(self, batch: Batch, *, total_steps: int) -> Tensor:
        """Does one update and returns its loss, detached (not read: that would stop the device)."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.config.learning_rate * self.schedule(self.progress.step, total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.compute_loss(self.network, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.progress.step += 1
        self.update_average()
        return loss.detach()

    def schedule(self, step: int, total_steps: int) -> float:
        """Returns the factor on the learning rate: linear warm-up, then half a cosine down to 1 %."""
        warmup = max(1, int(total_steps * self.config.warmup_fraction))
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the averaged weights towards the present ones; early on faster, so that the start is forgotten."""
        decay = min(self.config.average_decay, (1 + self.progress.step) / (10 + self.progress.step))
        averages, values = [], []
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                averages.append(self.average[name])
                values.append(value)
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def finish_epoch(self, losses: list[Tensor]) -> None:
        """Scores the averaged weights on dev, keeps them if they are the best so far, and saves."""
        loss = float(torch.stack(losses).mean()) if losses else math.nan
        line = f"epoch {self.progress.epoch}/{self.config.epochs} loss {loss:.4f}"
        if self.progress.epoch % self.config.evaluate_every == 0 or self.progress.epoch == self.config.epochs:
            present = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.network.load_state_dict(self.average)
            self.network.eval()
            with torch.no_grad():
                score, figures = self.evaluate(self.network)
            self.network.load_state_dict(present)
            self.progress.looks_since_best += 1
            if score > self.progress.best_score:
                self.progress.best_score, self.progress.best_epoch = score, self.progress.epoch
                self.progress.looks_since_best = 0
                self.best = {name: value.clone() for name, value in self.average.items()}
            shown = " ".join(
                f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in figures.items()
            )
            line += f" dev {score:.4f} (best {self.progress.best_score:.4f} at {self.progress.best_epoch}) {shown}"
        self.report(f"{line} {self.progress.seconds / 60:.1f} min")
        self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Writes weights, averages, best weights and optimiser state aside, then renames: a kill leaves the old one."""
        tensors: dict[str, Tensor] = {}
        for kind, state in (("network", self.network.state_dict()), ("average", self.average), ("best", self.best)):
            tensors |= {f"{kind}/{name}": value for name, value in state.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        tensors["random"] = torch.get_rng_state()
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        # One file holds the tensors and the progress, so that the two cannot disagree after a kill.
        metadata = {"progress": json.dumps(asdict(self.progress))}
        partial = self.folder / (STATE_FILE + ".partial")
        save_file(tensors, partial, metadata=metadata)
        partial.replace(self.folder / STATE_FILE)

    def load_checkpoint(self) -> None:
        """Goes back to the last checkpoint, the random numbers of dropout included.

        Raises:
            MedpipeError: CHECKPOINT_INVALID where it is damaged or that of another network.
        """
        path = self.folder / STATE_FILE
        device = next(self.network.parameters()).device
        try:
            with safe_open(path, framework="pt") as file:
                progress = Progress(**json.loads(file.metadata()["progress"]))
            tensors = load_file(path, device=str(device))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MedpipeError("CHECKPOINT_INVALID", path=path, reason="it is damaged, or none of medpipe's") from error
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "best": {}}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind in groups:
                groups[kind][rest] = value
            elif kind == "optimizer":
                index, _, key = rest.partition("/")
                slots.setdefault(int(index), {})[key] = value.cpu() if key == "step" else value
        asked = {name: value.shape for name, value in self.network.state_dict().items()}
        if asked != {name: value.shape for name, value in groups["network"].items()}:
            raise MedpipeError("CHECKPOINT_INVALID", path=path, reason="it is of a network of another shape")
        self.progress = progress
        self.network.load_state_dict(groups["network"])
        self.average, self.best = groups["average"], groups["best"]
        state = self.optimizer.state_dict()
        state["state"] = slots
        self.optimizer.load_state_dict(state)
        self.random_state = tensors["random"].cpu() if self.progress.batch else None
