"""What variants of dictionaries make of activations, part of a sample by part.

Of an SAE and a transcoder all is multiplied out. Of a cross-layer transcoder, whose decoders are many, only the rows of
features that fire are read, and what fires is kept: it is asked for at every site that a dictionary writes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.active import Active
from circuitcli.core.dictionary import Decoder, Dictionary
from circuitcli.core.left_out import linear
from circuitcli.core.reading import Variant
from circuitcli.core.sites import Site

# How many positions one block of features has.
BLOCK = 256
# Where more than one feature in so many fires the whole decoder is multiplied with, which then takes less time.
_FEW = 16
# What fires is kept up to so many bytes; what was kept first goes first, and is encoded again where it's asked for.
_KEPT_BYTES = 2**29


class Encoded(NamedTuple):
    """What a variant made of a part: ŷ − y, features above 0 at each counted position, and which fired at all."""

    delta: Float[Tensor, "n d"]
    active: Float[Tensor, " n"]
    fired: Bool[Tensor, " d_sae"]


class Encodings:
    """Encodes and decodes the parts of a sample, each once for each variant."""

    def __init__(self, x: Callable[[Site, int], Float[Tensor, "_ _"]], sequences: Sequence[Int[Tensor, " _"]]) -> None:
        """`x` gives the activations of a site at the counted positions of a part; `sequences`, the sequence of each."""
        self._x = x
        self._sequences = sequences
        self._found: dict[tuple[Variant, int], Encoded] = {}
        self._fires: dict[Hashable, Active] = {}
        self._kept = 0  # bytes
        self._skips: dict[Variant, Sequence[Float[Tensor, "_ _"]]] = {}

    def of(self, variant: Variant, i: int) -> Encoded:
        """What a variant made of a part."""
        if (variant, i) not in self._found:
            self._found[variant, i] = self._fitted(variant, i) if variant.lacking else self._encoded(variant, i)
        return self._found[variant, i]

    def _encoded(self, variant: Variant, i: int) -> Encoded:
        sae = variant.sae
        x, y = self._x(sae.reads, i), self._x(sae.writes, i)
        delta, active = torch.empty_like(y), torch.empty(len(x), device=x.device)
        fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=x.device)
        if variant.across:
            for rows, fires in self._blocks(variant, variant.stated, sae, i):
                said = _said(sae.decoder(sae.writes), fires, rows) + sae.constant(x[rows])
                delta[rows] = sae.lands.put_back(said, y[rows]) - y[rows]
                active[rows] = fires.place.bincount(minlength=rows.stop - rows.start).float()
                fired[fires.feature] = True
            for stated, one in variant.beside():
                for rows, fires in self._blocks(variant, stated, one, i):
                    delta[rows] += _said(one.decoder(sae.writes), fires, rows)
            return Encoded(delta, active, fired)
        for rows in blocks(len(x)):
            a = sae.encode(x[rows])
            delta[rows] = sae.decode(a, x[rows], y[rows]) - y[rows]
            fires_here = a > 0
            active[rows] = fires_here.sum(-1).float()
            fired |= fires_here.any(0)
        return Encoded(delta, active, fired)

    def _blocks(self, variant: Variant, stated: Dictionary, read: Dictionary, i: int) -> Iterator[tuple[slice, Active]]:
        """What fires of one dictionary, a block of positions a time."""
        x = self._x(read.reads, i)
        for rows in blocks(len(x)):
            key = (variant.reading, stated, i, rows.start)
            fires = self._fires.get(key)
            if fires is None:
                fires = read.active(x[rows])
                if _sparse(fires, rows):
                    self._keep(key, fires)
            yield rows, fires

    def _keep(self, key: Hashable, fires: Active) -> None:
        self._fires[key] = fires
        self._kept += fires.nbytes
        while self._kept > _KEPT_BYTES:
            self._kept -= self._fires.pop(next(iter(self._fires))).nbytes

    def _fitted(self, variant: Variant, i: int) -> Encoded:
        """What the variant that lacks a skip connection made of it, and one that is fitted to that."""
        assert variant.lacking is not None
        if variant not in self._skips:
            lacking = variant.lacking
            parts = range(len(self._sequences))
            x = [self._x(lacking.reads, j) for j in parts]
            error = torch.cat([-self.of(lacking, j).delta for j in parts])
            skip = lacking.sae.lands.step(linear(torch.cat(x), error, torch.cat(list(self._sequences))), error)
            self._skips[variant] = skip.split([len(part) for part in x])
        found = self.of(variant.lacking, i)
        return found._replace(delta=found.delta + self._skips[variant][i])


def blocks(count: int) -> Iterator[slice]:
    """So many positions, a block at a time."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def _sparse(fires: Active, rows: slice) -> bool:
    most: int = (rows.stop - rows.start) * fires.d_sae // _FEW
    return len(fires.value) <= most


def _said(decoder: Decoder, fires: Active, rows: slice) -> Float[Tensor, "n d"]:
    """Σ a_j W_dec[j] at each position of a block."""
    count = rows.stop - rows.start
    if _sparse(fires, rows):
        return decoder.summed(fires.place, fires.feature, fires.value, count)
    a = torch.zeros(count, fires.d_sae, device=fires.value.device)
    a[fires.place, fires.feature] = fires.value
    return a @ decoder.whole().to(a.device)
