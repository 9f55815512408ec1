"""Non-zero activations of one SAE at numbered places: few, so they are kept as a list, and compared as lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.transfer import sent

# An effect counts as a change, and is kept, where |ablated − clean| > CHANGE·max(1, |clean|).
CHANGE = 1e-5


@dataclass(frozen=True, eq=False)
class Active:
    """Feature `feature[i]` of `d_sae` is `value[i]` at place `place[i]`; sorted by place, then feature, each once.

    `host` is the same on the host, of what came from there.
    """

    place: Int[Tensor, " m"]
    feature: Int[Tensor, " m"]
    value: Float[Tensor, " m"]
    d_sae: int
    host: Active | None = field(default=None, repr=False)

    def to(self, device: torch.device) -> Active:
        """The same on a device, which knows what it is on the host."""
        if device == self.place.device:
            return self
        place, feature, value = (sent(column, device) for column in (self.place, self.feature, self.value))
        return Active(place, feature, value, self.d_sae, self)

    @cached_property
    def here(self) -> Active:
        """The same on the host; of what came from elsewhere the device is waited for, the first time."""
        if self.host is not None or self.place.device.type == "cpu":
            return self.host or self
        return Active(self.place.cpu(), self.feature.cpu(), self.value.cpu(), self.d_sae)

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

    def counts(self, places: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """How many features are active at each of some places, on the host as they are."""
        return self._spans(places)[1]

    def _spans(self, places: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Where what is active at each of some places begins, and how much it is; on the host."""
        place = self.here.place
        first = torch.searchsorted(place, places)
        return first, torch.searchsorted(place, places, right=True) - first

    def at(self, places: Int[Tensor, " n"]) -> Active:
        """What is active at these places, in the order and under the numbers 0 … n − 1 that they have here.

        The places are on the host: so it knows how much that is.
        """
        device, (first, counts) = self.place.device, self._spans(places)
        total, before = int(counts.sum()), counts.cumsum(0) - counts
        each = torch.arange(len(places), device=device)
        place = each.repeat_interleave(sent(counts, device), output_size=total)
        source = torch.arange(total, device=device) + sent(first - before, device)[place]
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

    def __getitem__(self, part: Int[Tensor, " n"]) -> Changes:
        return Changes(self.row[part], self.feature[part], self.clean[part], self.ablated[part])


def changes(clean: Active, ablated: Active) -> Changes:
    """The features whose activation differs by more than CHANGE·max(1, |clean|), in order of row and feature.

    Where neither is active nothing can have changed, so only the two lists are looked at.
    """
    found, changed = differences(clean, ablated)
    kept = where(changed)
    return found[kept[(found.row[kept] * clean.d_sae + found.feature[kept]).argsort()]]


def differences(clean: Active, ablated: Active) -> tuple[Changes, Bool[Tensor, " m"]]:
    """What is active ablated, then what is active clean; and which of it changed, each feature of a row once."""
    gone = ablated.lookup(clean.place, clean.feature) == 0
    was = torch.cat([clean.lookup(ablated.place, ablated.feature), clean.value])
    now = torch.cat([ablated.value, torch.zeros_like(clean.value)])
    found = Changes(torch.cat([ablated.place, clean.place]), torch.cat([ablated.feature, clean.feature]), was, now)
    once = torch.cat([torch.ones_like(ablated.place, dtype=torch.bool), gone])
    return found, ((now - was).abs() > CHANGE * was.clamp(min=1)) & once


def where(mask: Bool[Tensor, "*n"]) -> Int[Tensor, " m"]:
    """The flat indices at which a mask is true; on a CPU by numpy, which is several times faster at it than torch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)
