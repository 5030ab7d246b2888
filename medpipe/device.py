"""Where the tensors live: CUDA when there, CPU otherwise; and what to do when memory runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

from medpipe.errors import MedpipeError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def resolve_device(name: str = "auto") -> torch.device:
    """Returns the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        MedpipeError: DEVICE_UNAVAILABLE where CUDA is asked for and not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise MedpipeError("DEVICE_UNAVAILABLE", device=name)
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise MedpipeError("DEVICE_UNAVAILABLE", device=name) from error


def run_halving(
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], list[Result]],
    on_failure: Callable[[Item], Result],
    halved: list[int],
) -> list[Result]:
    """Runs ``compute`` on ``items``; where memory runs out, halves the batch and tries again.

    A single item that does not fit alone gets ``on_failure(item)``. Results keep the order of ``items``. ``halved``
    gets the size of each batch of several that did not fit, so that whoever made it makes smaller ones from then on.
    """
    import torch

    try:
        return compute(items)
    except (torch.OutOfMemoryError, MemoryError):
        # Leave the except block before trying again: the traceback holds the failed batch's tensors.
        log.warning("out of memory on a batch of %d items, trying halves", len(items))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) == 1:
        return [on_failure(items[0])]
    halved.append(len(items))
    middle = len(items) // 2
    return [
        result for half in (items[:middle], items[middle:]) for result in run_halving(half, compute, on_failure, halved)
    ]


def map_batches(compute: Callable[[Item], Result], batches: Sequence[Item], device: torch.device) -> list[Result]:
    """Returns ``compute`` of every batch, in their order; on a CPU every thread of torch's takes batches of its own.

    An operation within ``compute`` then has one thread. Results do not depend on how many threads there are.
    """
    import torch

    threads = min(torch.get_num_threads(), len(batches)) if device.type == "cpu" else 1
    if threads <= 1:
        return [compute(batch) for batch in batches]
    ready = Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes the number of the process at its first call, and keeps its own then
        torch.set_num_threads(1)
        ready.wait()

    mine = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=alone) as pool:
        try:
            waiting = [pool.submit(compute, batch) for batch in batches]
            ready.wait()
        finally:
            torch.set_num_threads(mine)
        return [one.result() for one in waiting]


def peak_memory_mb() -> float:
    """Returns the peak resident memory of this process in MiB (Linux and macOS)."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def release_memory() -> None:
    """Gives memory that was freed back to the system, so that what chunks leave unused does not add up.

    The C library keeps freed blocks for later; batches of ever other sizes rarely fit them. Costs milliseconds.
    """
    import ctypes
    import gc

    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc has it, musl and macOS have not
        trim(0)


def cpu_count() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
