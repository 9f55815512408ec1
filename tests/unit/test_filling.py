"""What fills a GPU: how much more than a CPU it works on at once, within its memory, and the same each time.

There is none here: what asks for a device is given a stand-in.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from circuitcli.core.model import Model
from circuitcli.core.shape import ModelShape
from circuitcli.core.transfer import filling
from circuitcli.executors.local import Local
from circuitcli.runtime.device import Runtime
from circuitcli.settings import resolve
from circuitcli.stages import batching, estimate
from circuitcli.stages.passes import Passes
from circuitcli.stages.report import Silent
from circuitcli.stages.spreading import shard_features
from circuitcli.stages.tools import Tools

CPU, GPU = torch.device("cpu"), torch.device("cuda")


GPT2 = ModelShape(n_layers=12, d_model=768, d_z=768, d_vocab=50_257, n_ctx=1024)


def at_once(monkeypatch: pytest.MonkeyPatch, device: torch.device, memory: int) -> tuple[int, int]:
    monkeypatch.setattr(batching, "total_memory", lambda _: memory)
    return batching.clean_at_once(GPT2, device, 128, 32, 4096)


def test_a_cpu_is_given_what_it_was() -> None:
    assert filling(CPU, 32) == 32
    assert filling(torch.device("mps"), 32) == 32
    assert filling(GPU, 32) == 256


def test_sequences_are_run_together_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of twelve layers of 768 take 73,728 bytes a position, three copies of scores 18,432: 4,096
    positions 0.3516 GiB, of which a block may have as many as an eighth of the memory holds."""
    assert at_once(monkeypatch, CPU, 0) == (32, 4096)
    for gib, times in ((80, 8), (22.6, 8), (22.4, 4), (11.3, 4), (11.2, 2), (5.6, 1), (0.5, 1)):
        assert at_once(monkeypatch, GPU, int(gib * 2**30)) == (32 * times, 4096 * times), gib


class _Elsewhere(Local):
    elsewhere = True


@pytest.mark.parametrize(
    ("device", "executor", "alone", "expected"),
    [(GPU, Local(), True, 256), (CPU, Local(), True, 32), (GPU, _Elsewhere(), True, 32), (GPU, Local(), False, 32)],
)
def test_shards_are_large_where_one_gpu_does_all_of_them(
    device: torch.device, executor: Local, alone: bool, expected: int
) -> None:
    """Several processes, each of which may have a GPU, get more and smaller ones."""
    tools = Tools(resolve({}), Silent(), executor=executor)
    tools.__dict__["runtime"] = Runtime(device, torch.float32, 1, None)
    assert shard_features(tools, alone=alone) == expected
    assert tools.behind == (device == GPU or executor.elsewhere)


@pytest.mark.parametrize(
    ("device", "horizon", "planned", "expected"),
    [
        (CPU, 0, 10**6, 64),
        (GPU, 0, 10**6, 4096),
        (GPU, 0, 500, 500),
        (GPU, 0, 3, 64),
        (GPU, None, 10**6, 64),  # 100 positions again for each
        (GPU, 15, 10**6, 256),
    ],
)
def test_the_trial_is_as_large_as_fills_the_device(
    device: torch.device, horizon: int | None, planned: int, expected: int
) -> None:
    class Trying(Passes):
        runtime = Runtime(device, torch.float32, 1, None)
        model = type("Resumed", (Model,), {"resumes_at_places": True})  # type: ignore[assignment]
        sample = SimpleNamespace(lengths=np.asarray([100, 7]))  # type: ignore[assignment]

    Trying.__abstractmethods__ = frozenset()
    assert estimate._most(Trying([]), horizon, planned) == expected
