"""What changed at a site in a batch: on a CPU at once, elsewhere without waiting for how much it is.

How many features fire, and how many changed, is known to the device alone, and a list of so many can't be made before
the host has asked. So lists are made with room for more than there should be: twice what fires clean at these
readings, and some. The rest of a list is nothing, at a place behind all others. Once a batch is on its way the host
asks for all numbers of all sites together, its one synchronisation, and cuts the lists; where more fired than there was
room for, that site is read again with as much room as it takes, and the host asks once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.active import Active, Changes, changes, differences
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.core.transfer import sent

# Room for what fires at some readings: so many times what fires there clean, and so many more at each.
_TIMES, _MORE = 2, 64


def compared(
    dictionary: Dictionary,
    x: Float[Tensor, "n d_in"],
    acts: Active,
    place: Int[Tensor, " n"],
    special: Bool[Tensor, " n"],
) -> Changes | Awaited:
    """The features that changed at each of n readings of a site.

    Args:
        dictionary: The site's.
        x: What it reads there now.
        acts: What fires clean.
        place: Where each reading's clean activations are; on the host.
        special: Where no feature is read now; on the host.
    """
    if x.device.type != "cpu":
        return Awaited(dictionary, x, acts, place, special)
    after = dictionary.active(x)
    return changes(acts.at(place), after.outside(special) if special.any() else after)


def settled(found: Mapping[Site, Changes | Awaited]) -> dict[Site, Changes]:
    """All changes, once the device has said how many there are."""
    waiting = {site: one for site, one in found.items() if isinstance(one, Awaited)}
    cut: dict[Site, Changes] = {}
    while waiting:
        numbers = iter(torch.cat([one.numbers for one in waiting.values()]).cpu().tolist())
        told = {site: list(islice(numbers, len(one.numbers))) for site, one in waiting.items()}
        cut |= {site: one.cut(told[site][-1]) for site, one in waiting.items() if one.fits(told[site])}
        waiting = {site: one.again(told[site]) for site, one in waiting.items() if site not in cut}
    return {site: cut[site] if isinstance(one, Awaited) else one for site, one in found.items()}


class Awaited:
    """Changes at a site, of which only the device knows how many there are.

    Attributes:
        numbers: How many features fire at the readings of each part that is encoded at once, and how many changed.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "n d_in"],
        acts: Active,
        place: Int[Tensor, " n"],
        special: Bool[Tensor, " n"],
    ) -> None:
        self._dictionary, self._x = dictionary, x
        self._clean = acts.at(place)
        self._ordinary = sent(~special, x.device) if bool(special.any()) else None
        clean = acts.counts(place).split(dictionary.rows_at_once)
        self._look([_TIMES * int(part.sum()) + _MORE * len(part) for part in clean])

    def fits(self, numbers: Sequence[int]) -> bool:
        """Whether there was room for all, now that `numbers` are known."""
        return all(number <= room for number, room in zip(numbers, self._rooms, strict=False))

    def again(self, numbers: Sequence[int]) -> Awaited:
        """With as much room as these numbers say."""
        self._look(numbers[:-1])
        return self

    def cut(self, number: int) -> Changes:
        """The changes, of which there are so many."""
        return self._changes[self._order[:number]]

    def _look(self, rooms: Sequence[int]) -> None:
        self._rooms = rooms
        active, fire = self._active(rooms)
        self._changes, changed = differences(self._clean, active)
        key = self._changes.row * active.d_sae + self._changes.feature
        self._order = torch.where(changed, key, len(self._x) * active.d_sae).argsort()
        self.numbers = torch.stack([*fire, changed.sum()])

    def _active(self, rooms: Sequence[int]) -> tuple[Active, list[Tensor]]:
        """What fires, in order, then nothing; and how much fires in each part."""
        parts, numbers = zip(*self._parts(rooms), strict=True)
        place, feature, value = (torch.cat(column) for column in zip(*parts, strict=True))
        order = (place * self._dictionary.d_sae + feature).argsort()
        return Active(place[order], feature[order], value[order], self._dictionary.d_sae), list(numbers)

    def _parts(self, rooms: Sequence[int]) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
        for room, (start, may) in zip(rooms, self._dictionary.candidates(self._x), strict=True):
            fires = may.value > 0
            if self._ordinary is not None:
                fires &= self._ordinary[start : start + len(fires)].unsqueeze(1)
            index, number = _first(fires, room)
            there = index < fires.numel()
            row, feature, value = may.at(index.clamp(max=fires.numel() - 1))
            yield (torch.where(there, row + start, len(self._x)), feature * there, torch.where(there, value, 0)), number


def _first(mask: Bool[Tensor, "n c"], size: int) -> tuple[Int[Tensor, " m"], Int[Tensor, ""]]:
    """The flat indices of so many that are true, the first ones, then one beyond all; and how many are true."""
    rank = mask.flatten().cumsum(0, dtype=torch.int32)
    wanted = torch.arange(1, min(size, len(rank)) + 1, dtype=torch.int32, device=rank.device)
    return torch.searchsorted(rank, wanted), rank[-1].long()
