"""TopK (Gao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitcli.core.activations import Activation, Candidates


@dataclass(frozen=True, eq=False)
class TopK(Activation):
    """a = pre where it is among the k largest, then relu."""

    rescaled: ClassVar[bool] = True
    k: int

    def apply(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        top, index = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter_(-1, index, top.relu())

    def border(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        """From the largest that isn't kept, or the least that is; and, where that counts for more, from above 0."""
        top = pre.topk(min(self.k + 1, pre.shape[-1]), dim=-1).values
        last, next_one = top[..., self.k - 1, None], top[..., -1:]
        rival = torch.where(pre >= last, next_one, last)
        return (pre - rival).abs().maximum(-pre)

    def candidates(self, pre: Float[Tensor, "n d_sae"]) -> Candidates:
        top, index = pre.topk(self.k, dim=-1)
        index, order = index.sort(dim=-1)
        return Candidates(index, top.gather(-1, order))

    def unfit(self, d_sae: int) -> str | None:
        return None if self.k <= d_sae else "k between 1 and d_sae"


plugin = TopK
