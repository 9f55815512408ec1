"""ReLU (Bricken et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitcli.core.activations import Activation, Candidates


@dataclass(frozen=True, eq=False)
class Relu(Activation):
    """a = max(pre, 0)."""

    def apply(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        return pre.relu()

    def border(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        return pre.abs()

    def candidates(self, pre: Float[Tensor, "n d_sae"]) -> Candidates:
        return Candidates(None, pre)  # where they are above 0 they are the activations


plugin = Relu
