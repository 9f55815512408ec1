"""The frame in which a dictionary sees an activation: (x − shift) / divisor; what it says is put back by σ and shift.

    none                 shift = 0              divisor = 1             σ = 1
    layer_norm           shift = mean           divisor = std + 1e-5    σ = std      std unbiased over d_in
    constant_norm        shift = 0              divisor = |x|/√d_in     σ = |x|/√d_in
    centre               shift = mean, for a dictionary of a stream whose mean over d_model was removed
    offset               x − offset stands for x throughout, and shift has the offset added

Gao et al. 2024 (layer_norm), Conerly et al. 2024 (constant norm); conventions of SAELens. All of it is float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuitcli.core.sites import Site

Normalisation = Literal["none", "layer_norm", "constant_norm"]
LAYER_NORM_EPS = 1e-5
_TINY = torch.finfo(torch.float32).tiny  # a zero activation has no direction, and stays zero


class Scale(NamedTuple):
    """Shift, divisor and σ of each activation."""

    shift: Float[Tensor, "*n d_in"]
    divisor: Float[Tensor, "*n 1"]
    sigma: Float[Tensor, "*n 1"]


@dataclass(frozen=True, eq=False)
class Frame:
    """How activations are scaled and centred before encoding, and put back after decoding.

    Attributes:
        normalisation: What is done to an activation before encoding and undone after decoding.
        centre: Whether it is of a stream whose mean over d_model was removed, while the model keeps it.
        offset: What the model's activations have and those of training had not.
    """

    normalisation: Normalisation = "none"
    centre: bool = False
    offset: Float[Tensor, " d_in"] | None = None

    def to(self, device: torch.device) -> Frame:
        """The same on another device."""
        return self if self.offset is None else replace(self, offset=self.offset.to(device))

    @property
    def unscaled(self) -> Frame:
        """The same without its normalisation: how a skip connection sees what is read, in SAELens."""
        return replace(self, normalisation="none")

    def seen(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """(x − shift) / divisor."""
        shift, divisor, _ = self.scale(x)
        return (x.float() - shift) / divisor

    def put_back(self, y: Float[Tensor, "*n d_in"], x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """σ·y + shift, as of x."""
        shift, _, sigma = self.scale(x)
        return y * sigma + shift

    def step(self, y: Float[Tensor, "*n d_out"], x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """σ·y, as of x, without its mean where the stream is seen without: what a change by y changes x by.

        Without a normalisation σ is 1, and x may be of another site.
        """
        delta = y * self.scale(x).sigma
        return delta - delta.mean(-1, keepdim=True) if self.centre else delta

    def scale(self, x: Float[Tensor, "*n d_in"]) -> Scale:
        """Shift, divisor and σ of each activation; see the module's docstring."""
        wide = x.float() if self.offset is None else x.float() - self.offset
        mean = wide.mean(-1, keepdim=True)
        shift = mean.expand_as(wide) if self.normalisation == "layer_norm" or self.centre else torch.zeros_like(wide)
        one = torch.ones_like(mean)
        if self.normalisation == "layer_norm":
            std = wide.std(-1, keepdim=True) if wide.numel() else mean  # torch warns of none
            divisor, sigma = std + LAYER_NORM_EPS, std
        elif self.normalisation == "constant_norm":
            sigma = divisor = ((wide - shift).norm(dim=-1, keepdim=True) / wide.shape[-1] ** 0.5).clamp(min=_TINY)
        else:
            divisor, sigma = one, one
        return Scale(shift if self.offset is None else shift + self.offset, divisor, sigma)


PLAIN = Frame()


def centrable(site: Site, *, norms_subtract_mean: bool) -> bool:
    """Whether centred weights (`center_writing_weights`) leave other activations at a site.

    They take the mean over d_model from what is written to the stream, of models whose norms subtract it anyway: so not
    from z, which isn't of the stream, and not from mlp_in, which is behind such a norm.

    Args:
        site: Where a dictionary reads.
        norms_subtract_mean: Whether the model's norms subtract the mean: LayerNorm does, RMS norm doesn't.
    """
    return norms_subtract_mean and site.name not in ("z", "mlp_in")
