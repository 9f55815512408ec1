"""JumpReLU (Rajamanoharan et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitcli.core.activations import Activation


@dataclass(frozen=True, eq=False)
class JumpRelu(Activation):
    """a = pre where it is above the threshold, then relu."""

    threshold: Float[Tensor, " d_sae"]

    def apply(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        return pre.relu() * (pre > self.threshold)

    def border(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        return (pre - self.threshold.clamp(min=0)).abs()


plugin = JumpRelu
