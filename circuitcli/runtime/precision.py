"""The precisions in which a device can run a model, and TF32, which no setting allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_TF32_SINCE = 8  # compute capability of the first GPUs that have it


@dataclass(frozen=True)
class Precision:
    """How a model's numbers are held and multiplied; SAEs, log-probabilities and KL are in float32.

    Attributes:
        name: What it is called.
        dtype: Of the model's weights and activations.
        tf32: Whether products of float32, SAEs' too, round their factors to 10 bits behind the leading one.
    """

    name: str
    dtype: torch.dtype
    tf32: bool = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Products are made so while it lasts."""
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


FLOAT32 = Precision("float32", torch.float32)
TF32 = Precision("TF32", torch.float32, tf32=True)
BFLOAT16 = Precision("bfloat16", torch.bfloat16)


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Those of a device, float32 first."""
    has = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= _TF32_SINCE
    return (FLOAT32, TF32, BFLOAT16) if has else (FLOAT32, BFLOAT16)
