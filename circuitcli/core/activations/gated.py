"""Gated (Rajamanoharan et al. 2024): one affine map decides whether a feature fires, another how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.activations import Activation


@dataclass(frozen=True, eq=False)
class Gated(Activation):
    """a = [h + b_gate > 0] · relu(h·exp(r_mag) + b_mag), both of the same directions."""

    biased: ClassVar[bool] = False
    b_gate: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]

    def apply(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        return (pre * self.r_mag.exp() + self.b_mag).relu() * (pre + self.b_gate > 0)

    def border(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        return (pre + self.b_gate).abs()

    def slope(self, feature: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.r_mag[feature].exp()


plugin = Gated
