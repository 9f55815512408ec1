"""The runtime that every command shares: device, dtype, threads, seeds, memory and batch size.

Nothing else in the package asks torch about devices.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from circuitcli.errors import InputError, ResourceError
from circuitcli.runtime.device_name import check_device_name

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The share of free memory that one batch may fill, and the largest batch that still gains speed, in positions.
_MEMORY_SHARE = 0.25
_MAX_BATCH = {"cpu": 512, "mps": 512, "cuda": 16384}


@dataclass(frozen=True)
class Runtime:
    """Where and how arithmetic runs.

    Attributes:
        device: The device of the model and of all SAE arithmetic.
        dtype: The model's; SAEs, log-softmax and KL are float32.
        threads: CPU threads of torch.
        batch_size: Rows computed at once; None picks it from free memory.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int
    batch_size: int | None

    def with_plan(self, *, batch_size: int, threads: int) -> Runtime:
        """The same runtime with the batch size and threads of a plan, so that resumed work repeats its arithmetic."""
        torch.set_num_threads(threads)
        return replace(self, batch_size=batch_size, threads=threads)

    def rows_at_once(self, row_bytes: int, positions: int = 1) -> int:
        """The batch size: as set, or what a quarter of the free memory holds at `row_bytes` a row of some positions."""
        if self.batch_size is not None:
            return self.batch_size
        fitting = self.room() // max(row_bytes, 1)
        return max(1, min(fitting, -(-_MAX_BATCH[self.device.type] // positions)))

    def room(self, on_cpu: int | None = None) -> int:
        """Bytes that one thing may take: a quarter of the free memory, on a CPU at most `on_cpu`."""
        room = int(free_memory(self.device) * _MEMORY_SHARE)
        return room if on_cpu is None or self.device.type != "cpu" else min(room, on_cpu)

    def batches(self, total: int, size: int, work: Callable[[slice], T], *, say: Callable[[str], None]) -> Iterator[T]:
        """`work` over consecutive slices of at most `size` rows; out of memory, the size is halved and said.

        Raises:
            ResourceError: A single row doesn't fit.
        """
        start = 0
        while start < total:
            part = slice(start, min(start + size, total))
            try:
                result = work(part)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise ResourceError(
                        f"Out of memory on {self.device} with a batch of one row.",
                        hint="Lower --max-tokens, choose fewer sites or layers, or another --device.",
                    ) from None
                size = max(1, size // 2)
                release_memory(self.device)
                say(f"Out of memory on {self.device}: going on with batches of {size}.")
                continue
            yield result
            start = part.stop


def make(device: str, dtype: str, batch_size: int | None, seed: int) -> Runtime:
    """Resolve a device's name, seed torch, and set the policy: no TF32, so that float32 means float32.

    Raises:
        UsageError: Not a device's name.
        InputError: The device isn't there.
    """
    resolved = _device(device)
    torch.manual_seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return Runtime(resolved, DTYPES[dtype], torch.get_num_threads(), batch_size)


def _device(name: str) -> torch.device:
    check_device_name(name)
    kind, _, index = name.partition(":")
    if name == "auto":
        fallback = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else fallback)
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no CUDA device here.", hint="Use --device auto or --device cpu.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise InputError(
            f"There is no {name} here.", hint=f"CUDA devices count from 0 to {torch.cuda.device_count() - 1}."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("There is no MPS device here.", hint="Use --device auto or --device cpu.")
    return torch.device(name)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch means that memory ran out."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return _free_host_memory()


def total_memory(device: torch.device) -> int:
    """Bytes that a GPU has, whoever holds them now: what must not depend on the moment goes by it."""
    return int(torch.cuda.mem_get_info(device)[1])


def _free_host_memory() -> int:
    """What the machine has left, or, where that is less, what the container may still take (cgroup v2)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            available = next(line for line in lines if line.startswith("MemAvailable"))
        free = int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):  # no such limit, or `max`
        return free


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds now: on a GPU there, else resident."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        with open("/proc/self/statm", encoding="ascii") as sizes:
            return int(sizes.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: on a GPU there, else its resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_memory(device: torch.device) -> None:
    """Give cached blocks back to a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if device.type == "mps":
        torch.mps.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """What a device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
