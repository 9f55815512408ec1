"""From the host to a device: whether anybody waits for it, and how much at once fills one."""

from __future__ import annotations

import torch
from torch import Tensor

# Devices that copy from memory that stays in its place, while the host goes on.
_COPY_ALONE = {"cuda"}
# What fills a GPU is so many times what a CPU works on at once.
_FILLING = {"cuda": 8}


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, on a device: on a GPU through pinned memory, and nobody waits. What is there stays there.

    What the device does next with it comes behind the copy, so that it needs no care.
    """
    if device.type not in _COPY_ALONE or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def filling(device: torch.device, on_cpu: int) -> int:
    """How much is worked on at once: so much on a CPU, and on a GPU what keeps it from waiting for the next piece."""
    return on_cpu * _FILLING.get(device.type, 1)
