"""What fills a GPU: how much more than a CPU it works on at once, within its memory, and the same each time."""

from __future__ import annotations

import pytest
import torch

from circuitcli.core.shape import ModelShape
from circuitcli.core.transfer import filling
from circuitcli.stages import batching

CPU, GPU = torch.device("cpu"), torch.device("cuda")


GPT2 = ModelShape(n_layers=12, d_model=768, d_z=768, d_vocab=50_257, n_ctx=1024)


def at_once(monkeypatch: pytest.MonkeyPatch, device: torch.device, memory: int) -> tuple[int, int]:
    monkeypatch.setattr(batching, "total_memory", lambda _: memory)
    return batching.clean_at_once(GPT2, device, 32, 4096)


def test_a_cpu_is_given_what_it_was() -> None:
    assert filling(CPU, 32) == 32
    assert filling(torch.device("mps"), 32) == 32
    assert filling(GPU, 32) == 256


def test_sequences_are_run_together_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of twelve layers of 768 take 73,728 bytes a position: 4,096 positions 0.28 GiB."""
    assert at_once(monkeypatch, CPU, 0) == (32, 4096)
    for gib, times in ((80, 8), (9.1, 8), (8.9, 4), (4.4, 2), (2.2, 1), (0.5, 1)):
        assert at_once(monkeypatch, GPU, int(gib * 2**30)) == (32 * times, 4096 * times), gib
