"""What a task does with a GPU: one process a device, a batch that fits, and what is told of it afterwards.

torch is imported only where a device may be a GPU.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from medpipe.device import resolve_device
from medpipe.errors import MedpipeError

if TYPE_CHECKING:
    import torch

# Bytes of device memory that a stage needs for a padded token: twice what torch allocates for it on a CPU (13, 10 and
# 16 kB on notes of 300 to 1,500 tokens), since libraries of CUDA take workspaces and memory breaks into pieces.
BYTES_PER_TOKEN = {"tag": 26_000, "relate": 21_000, "summarize": 32_000}
USED_SHARE = 0.8  # of the free memory
FEWEST_TOKENS, MOST_TOKENS = 1024, 1 << 18  # more at once is no faster
CPU_TOKENS = 8192
SAMPLE_SECONDS = 0.5


# --- memory ---------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Returns the bytes that a process may still allocate: what is free, or reserved by torch and not in use."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def find_token_budget(stage: str, device: torch.device, asked: int | None) -> int:
    """Returns the padded tokens of a batch: what was asked for, else what fits in the device's free memory."""
    if asked is not None:
        return asked
    if device.type != "cuda":
        return CPU_TOKENS
    return tokens_within(free_memory(device), stage)


def tokens_within(memory: int, stage: str) -> int:
    """Returns the padded tokens of a batch of a stage for so many bytes of free memory."""
    fitting = int(memory * USED_SHARE) // BYTES_PER_TOKEN[stage]
    return min(max(fitting, FEWEST_TOKENS), MOST_TOKENS)


# --- one process a device -------------------------------------------------------------------


@contextmanager
def claimed_device(name: str, wait_seconds: float) -> Iterator[str]:
    """Gives the name of a device on which no other process of medpipe computes until the block ends.

    ``auto`` and ``cuda`` stand for the first GPU that is free, of those that CUDA_VISIBLE_DEVICES leaves. A GPU is
    claimed by the lock of a file in the machine's temporary folder, named by the GPU's UUID; the system frees the lock
    of a process that is killed. A CPU is not claimed.

    Raises:
        MedpipeError: DEVICE_UNAVAILABLE; DEVICE_BUSY where all are taken for ``wait_seconds``.
    """
    device = resolve_device(name)
    if device.type != "cuda":
        yield str(device)
        return
    import torch

    numbers = range(torch.cuda.device_count()) if device.index is None else [device.index]
    deadline = time.monotonic() + wait_seconds
    while (claim := _claim_first(numbers)) is None:
        if time.monotonic() > deadline:
            raise MedpipeError("DEVICE_BUSY", device=name)
        time.sleep(min(1.0, max(0.01, wait_seconds / 10)))
    number, lock = claim
    try:
        yield f"cuda:{number}"
    finally:
        os.close(lock)


def _claim_first(numbers: range | list[int]) -> tuple[int, int] | None:
    for number in numbers:
        lock = _open_lock(lock_path(number))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number, lock
        except BlockingIOError:
            os.close(lock)
    return None


def lock_path(number: int) -> Path:
    """Returns the file whose lock claims a GPU."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(number), "uuid", number)
    return Path(tempfile.gettempdir()) / f"medpipe-gpu-{uuid}.lock"


def _open_lock(path: Path) -> int:
    """Opens a lock file; one that another user made can only be read, which suffices for its lock."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


# --- what it did ----------------------------------------------------------------------------


class Meter:
    """Measures what a GPU does while a stage runs; of a CPU it measures nothing.

    Busy is the share of the time in which at least one kernel ran, as NVML samples it (the package ``nvidia-ml-py``,
    extra ``gpu``). One process computes on a device, so that it is this one's.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.busy: list[float] = []
        self.stopped = Event()
        self.sampler = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Meter:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            if self._read() is not None:
                self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        if self.sampler.is_alive():
            self.sampler.join()

    def _sample(self) -> None:
        while not self.stopped.wait(SAMPLE_SECONDS):
            if (busy := self._read()) is not None:
                self.busy.append(busy)

    def _read(self) -> float | None:
        import torch

        try:
            return float(torch.cuda.utilization(self.device)) / 100
        except Exception:  # no nvidia-ml-py, no driver, a part of a GPU (MIG): NVML's errors have no common base else
            return None

    def lap(self) -> dict[str, float | None]:
        """Returns ``gpu_busy`` and ``gpu_fragmentation`` since the last call; ``None`` where they are not known."""
        if not self.device.startswith("cuda"):
            return {"gpu_busy": None, "gpu_fragmentation": None}
        taken, self.busy = self.busy, []
        now = None if taken else self._read()  # a lap shorter than a sample
        busy = sum(taken) / len(taken) if taken else now
        return {"gpu_busy": busy, "gpu_fragmentation": fragmentation(self.device)}


def fragmentation(device: str) -> float | None:
    """Returns the share of the GPU memory that torch reserved at most and never had allocated."""
    import torch

    reserved = torch.cuda.max_memory_reserved(device)
    return 1 - torch.cuda.max_memory_allocated(device) / reserved if reserved else None


# --- medpipe doctor --gpu -------------------------------------------------------------------


def examine_gpus(name: str) -> dict[str, Any]:
    """Returns what ``medpipe doctor --gpu`` tells: torch and its CUDA, and of each GPU what it is and how fast.

    ``problems`` are sentences: no GPU, a torch without CUDA, a driver that is too old, a kernel that does not run.
    """
    import torch

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver_cuda": driver_cuda(),
        "gpus": [],
        "problems": [],
    }
    if not torch.version.cuda:
        found["problems"].append(
            f"This torch ({torch.__version__}) is built without CUDA; install the CUDA build to use a GPU."
        )
    elif not torch.cuda.is_available():
        told = found["driver_cuda"]
        why = (
            f"the driver knows CUDA {told} and torch wants {torch.version.cuda}: update the driver"
            if told and _numbers(told) < _numbers(torch.version.cuda)
            else "check `nvidia-smi` and CUDA_VISIBLE_DEVICES"
        )
        found["problems"].append(f"No GPU can be used: {why}.")
    if found["problems"]:
        return found
    wanted = resolve_device("cuda" if name in ("auto", "cpu") else name)
    for number in range(torch.cuda.device_count()) if wanted.index is None else [wanted.index]:
        found["gpus"].append(_examine_gpu(torch.device("cuda", number), found["problems"]))
    return found


def driver_cuda() -> str | None:
    """Returns the CUDA version that the driver knows, ``12.8``; none without a driver."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _examine_gpu(device: torch.device, problems: list[str]) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    facts: dict[str, Any] = {
        "device": str(device),
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "bfloat16": properties.major >= 8,
        "memory_mb": total >> 20,
        "free_mb": free >> 20,
        "token_budget": {stage: tokens_within(free, stage) for stage in BYTES_PER_TOKEN},
    }
    try:
        facts |= {"matmul_tflops": time_matmul(device), "lstm_tokens_per_s": time_lstm(device)}
    except RuntimeError as error:  # torch.AcceleratorError and torch.OutOfMemoryError are kinds of it
        problems.append(f"{device} ({properties.name}) does not compute: {type(error).__name__}.")
    return facts


def time_matmul(device: torch.device, size: int = 4096, rounds: int = 10) -> float:
    """Returns the speed of a square matrix product in float32, in 10^12 operations a second."""
    import torch

    one = torch.ones(size, size, device=device)
    seconds = _time(lambda: one @ one, device, rounds)
    return round(2 * size**3 / seconds / 1e12, 3)


def time_lstm(device: torch.device, rows: int = 256, steps: int = 64, rounds: int = 5) -> float:
    """Returns the tokens a second of an LSTM of the tagger's size (128 inputs, 192 units), in one direction."""
    import torch

    network = torch.nn.LSTM(128, 192, batch_first=True).to(device).eval()
    batch = torch.zeros(rows, steps, 128, device=device)
    with torch.inference_mode():
        seconds = _time(lambda: network(batch), device, rounds)
    return round(rows * steps / seconds)


def _time(work: Any, device: torch.device, rounds: int) -> float:
    """Returns the seconds of one round; the first, which compiles and allocates, is not counted."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - started) / rounds
