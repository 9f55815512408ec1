"""From the host to a device: the one place where it is decided whether anybody waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

# Devices that copy from memory that stays in its place, while the host goes on.
_COPY_ALONE = {"cuda"}


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, on a device: on a GPU through pinned memory, and nobody waits. What is there stays there.

    What the device does next with it comes behind the copy, so that it needs no care.
    """
    if device.type not in _COPY_ALONE or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
