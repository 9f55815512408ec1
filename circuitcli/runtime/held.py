"""A norm whose scale is a constant:

y = g ⊙ (x − mean) / s + b        s of a clean pass: linear in x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuitcli.core.model import Places


@dataclass(frozen=True, eq=False)
class Held:
    """A norm whose scale is that of a clean pass.

    Attributes:
        gain, bias: As wide as the norm, for each head where it has heads: [1, 1, d], [1, 1, h, d] or [1, h, 1, d].
        centred: Whether it subtracts the mean.
        inverse: 1 / s of each position, [1, t, 1], or of each head at each, [1, t, h, 1] or [1, h, t, 1].
        axis: Which axis is positions.
    """

    gain: Tensor
    bias: Tensor
    centred: bool
    inverse: Tensor
    axis: int = 1

    def __call__(self, x: Tensor, places: Places | None) -> Tensor:
        """The norm of x, at all positions of any number of rows or at places."""
        inverse = self.inverse
        if places is not None:
            inverse = inverse[0].movedim(self.axis - 1, 0)[places.pos].movedim(1, self.axis)
        return (centre(wide(x), self.centred) * inverse * self.gain + self.bias).to(x.dtype)

    def along(self, axis: int) -> Held:
        """The same where this axis is positions: gain and bias are those of all of them."""
        gain, bias = (part.narrow(axis, 0, 1).clone() for part in (self.gain, self.bias))
        return replace(self, gain=gain, bias=bias, axis=axis)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def centre(x: Tensor, centred: bool) -> Tensor:
    """Without its mean, if so."""
    return x - x.mean(-1, keepdim=True) if centred else x
