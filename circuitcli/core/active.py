"""Non-zero activations of one SAE at numbered places: few, so they are kept as a list, and compared as lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# An effect counts as a change, and is kept, where |ablated − clean| > CHANGE·max(1, |clean|).
CHANGE = 1e-5


@dataclass(frozen=True, eq=False)
class Active:
    """Feature `feature[i]` of `d_sae` is `value[i]` at place `place[i]`; sorted by place, then feature, each once."""

    place: Int[Tensor, " m"]
    feature: Int[Tensor, " m"]
    value: Float[Tensor, " m"]
    d_sae: int

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.place.nbytes + self.feature.nbytes + self.value.nbytes

    @cached_property
    def _keys(self) -> Int[Tensor, " m"]:
        return self.place * self.d_sae + self.feature

    def lookup(self, place: Int[Tensor, "*n"], feature: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The activation of one feature at each of some places; 0 where it is inactive."""
        if not len(self.value):
            return torch.zeros(place.shape, dtype=self.value.dtype, device=place.device)
        keys = place * self.d_sae + feature
        found = torch.searchsorted(self._keys, keys).clamp(max=len(self.value) - 1)
        return self.value[found] * (self._keys[found] == keys)

    def at(self, places: Int[Tensor, " n"]) -> Active:
        """What is active at these places, in the order and under the numbers 0 … n − 1 that they have here."""
        first = torch.searchsorted(self.place, places)
        counts = torch.searchsorted(self.place, places, right=True) - first
        place = torch.arange(len(places), device=places.device).repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        source = torch.arange(len(place), device=places.device) + (first - before)[place]
        return Active(place, self.feature[source], self.value[source], self.d_sae)

    def outside(self, places: Bool[Tensor, " n"]) -> Active:
        """What is active, but for some places."""
        kept = ~places[self.place]
        return Active(self.place[kept], self.feature[kept], self.value[kept], self.d_sae)


@dataclass(frozen=True, eq=False)
class Changes:
    """Features that changed: `row` of those that were compared, feature index, clean and ablated activation."""

    row: Int[Tensor, " m"]
    feature: Int[Tensor, " m"]
    clean: Float[Tensor, " m"]
    ablated: Float[Tensor, " m"]


def changes(clean: Active, ablated: Active) -> Changes:
    """The features whose activation differs by more than CHANGE·max(1, |clean|), in order of row and feature.

    Where neither is active nothing can have changed, so only the two lists are looked at.
    """
    before = clean.lookup(ablated.place, ablated.feature)
    gone = ablated.lookup(clean.place, clean.feature) == 0
    row = torch.cat([ablated.place, clean.place[gone]])
    feature = torch.cat([ablated.feature, clean.feature[gone]])
    was = torch.cat([before, clean.value[gone]])
    now = torch.cat([ablated.value, torch.zeros_like(clean.value[gone])])
    kept = where((now - was).abs() > CHANGE * was.clamp(min=1))
    kept = kept[(row[kept] * clean.d_sae + feature[kept]).argsort()]
    return Changes(row[kept], feature[kept], was[kept], now[kept])


def where(mask: Bool[Tensor, "*n"]) -> Int[Tensor, " m"]:
    """The flat indices at which a mask is true; on a CPU by numpy, which is several times faster at it than torch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)
