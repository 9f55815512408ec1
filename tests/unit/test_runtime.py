"""The runtime that every command shares: devices, batches that shrink, memory and seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from circuitcli.errors import InputError, ResourceError, UsageError
from circuitcli.runtime import device
from circuitcli.runtime.device import Runtime

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _state() -> Iterator[None]:
    """What `make` sets for the whole process is put back."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    cudnn = torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32, cudnn


def gpus(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def runtime(batch_size: int | None = None) -> Runtime:
    return Runtime(CPU, torch.float32, 1, batch_size)


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 0, True, "mps"),
        ("auto", 1, True, "cuda"),
        ("cpu", 2, True, "cpu"),
        ("cuda", 1, False, "cuda"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps"),
    ],
)
def test_a_device_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, cuda: int, mps: bool, expected: str) -> None:
    gpus(monkeypatch, cuda=cuda, mps=mps)
    assert device.make(name, "float32", None, 0).device == torch.device(expected)


@pytest.mark.parametrize(("name", "cuda"), [("cuda", 0), ("cuda:0", 0), ("mps", 0), ("cuda:2", 2)])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, cuda: int) -> None:
    gpus(monkeypatch, cuda=cuda)
    with pytest.raises(InputError) as error:
        device.make(name, "float32", None, 0)
    assert error.value.exit_code == 3
    assert ("0 to 1" if cuda else "--device cpu") in error.value.hint


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cpu:0", "mps:0", "auto:1"]
)
def test_an_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError) as error:
        device.make(name, "float32", None, 0)
    assert error.value.exit_code == 2
    assert all(known in error.value.hint for known in ("auto", "cpu", "cuda", "cuda:N", "mps"))


def test_float32_means_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    made = device.make("cpu", "bfloat16", 7, 0)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert (made.dtype, made.batch_size, made.threads) == (torch.bfloat16, 7, torch.get_num_threads())


def test_the_seed_decides_what_torch_draws() -> None:
    def draw(seed: int) -> list[float]:
        device.make("cpu", "float32", None, seed)
        return torch.rand(4).tolist()

    assert draw(1) == draw(1) != draw(2)


def test_a_plan_sets_batch_size_and_threads() -> None:
    threads = torch.get_num_threads() + 1
    planned = runtime().with_plan(batch_size=5, threads=threads)
    assert (planned.batch_size, planned.threads, planned.rows_at_once(10**15)) == (5, threads, 5)
    assert torch.get_num_threads() == threads


def test_rows_of_many_positions_are_fewer() -> None:
    assert [runtime().rows_at_once(1, positions) for positions in (1, 5, 512, 9999)] == [512, 103, 1, 1]


@example(free=400, row=1, kind="cuda")
@given(free=st.integers(0, 2**45), row=st.integers(0, 2**40), kind=st.sampled_from(["cpu", "mps", "cuda"]))
def test_rows_at_once_fill_a_quarter_of_what_is_free(free: int, row: int, kind: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "free_memory", lambda _: free)
        rows = Runtime(torch.device(kind), torch.float32, 1, None).rows_at_once(row)
    most = {"cpu": 512, "mps": 512, "cuda": 16384}[kind]
    assert 1 <= rows <= most
    assert rows * row <= free / 4 or rows == 1
    assert (rows + 1) * row > free / 4 or rows == most or row == 0, "one more row would have fitted"


def test_free_memory_is_that_of_the_machine() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < device.free_memory(CPU) <= physical


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the second route is Linux's own")
def test_peak_memory_is_the_largest_resident_size_in_bytes() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert device.peak_memory(CPU) == pytest.approx(kib * 1024, rel=0.05)


def too_large_above(limit: int, error: Exception) -> tuple[Callable[[slice], list[int]], list[int]]:
    """Work that fails on more than `limit` rows, and the sizes that were tried."""
    tried: list[int] = []

    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if tried[-1] > limit:
            raise error
        return list(range(part.start, part.stop))

    return work, tried


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_batches_halve_until_they_fit_and_lose_no_row(error: Exception) -> None:
    said: list[str] = []
    work, tried = too_large_above(3, error)
    done = list(runtime().batches(21, 16, work, say=said.append))
    assert [row for part in done for row in part] == list(range(21))
    assert tried == [16, 8, 4, 2, *[2] * 9, 1]
    assert len(said) == 3
    assert said[0].endswith("batches of 8.")
    assert said[-1].endswith("batches of 2.")


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_single_row_that_does_not_fit_is_an_error_with_a_way_out(error: Exception) -> None:
    work, tried = too_large_above(0, error)
    with pytest.raises(ResourceError, match="batch of one row") as refused:
        list(runtime().batches(5, 4, work, say=lambda _: None))
    assert refused.value.exit_code == 5
    assert "--max-tokens" in refused.value.hint
    assert tried == [4, 2, 1]


def test_another_error_passes_through_untouched() -> None:
    work, tried = too_large_above(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(runtime().batches(5, 4, work, say=lambda _: None))
    assert tried == [4]


@given(total=st.integers(0, 60), size=st.integers(1, 70), limit=st.integers(1, 70))
def test_every_row_is_worked_on_once_and_in_order(total: int, size: int, limit: int) -> None:
    work, tried = too_large_above(limit, MemoryError())
    done = list(runtime().batches(total, size, work, say=lambda _: None))
    assert [row for part in done for row in part] == list(range(total))
    assert max(map(len, done), default=0) <= min(size, limit)
    assert tried[: len(tried) - len(done)] == sorted(tried[: len(tried) - len(done)], reverse=True)


def test_no_work_is_done_ahead_of_what_is_taken() -> None:
    work, tried = too_large_above(10, MemoryError())
    batches = runtime().batches(20, 5, work, say=lambda _: None)
    assert tried == []
    assert next(batches) == [0, 1, 2, 3, 4]
    assert tried == [5]
