"""How a clean pass called a model's blocks, so that they can be called again: whole, or at a few places.

A block's arguments are the model's own, of its clean pass. At places, the clean keys and values of their sequences take
the part of a cache, masks and positions are those of the places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache

from circuitcli.core.model import Places

_Call = tuple[tuple[Any, ...], dict[str, Any]]
_CACHE = object()  # stands in a recorded call where the cache of keys and values was


class Kept:
    """In place of a cache on a clean pass: keeps the keys and values of the blocks from `first` on, all positions."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer >= self._first:
            self.layers[layer] = (k, v)
        return k, v

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for pair in self.layers.values() for part in pair)


class _Prefix:
    """In place of a cache where a block runs at a few places: their sequences' clean keys and values go before."""

    def __init__(self, kept: Kept, seq: Int[Tensor, " g"]) -> None:
        self._kept, self._seq = kept, seq

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = self._kept.layers[layer]
        return torch.cat([keys[self._seq], k], 2), torch.cat([values[self._seq], v], 2)


@dataclass(frozen=True, eq=False)
class Calls:
    """How a clean pass called its blocks, and what they kept."""

    blocks: dict[int, _Call]
    kept: Kept
    width: int  # positions of a sequence

    def at(self, layer: int, places: Places | None) -> _Call:
        """The arguments of a block behind the stream: for whole sequences, or for a few places of each."""
        args, kwargs = self.blocks[layer]
        if places is None:
            return tuple(_without(a) for a in args), {key: _without(value) for key, value in kwargs.items()}
        prefix = _Prefix(self.kept, places.seq)

        def fitted(value: Any) -> Any:
            if value is _CACHE:
                return prefix
            if isinstance(value, tuple):
                return tuple(fitted(part) for part in value)
            if isinstance(value, Tensor) and value.ndim == 4:
                return _mask(value, places)
            if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == self.width:
                return value[0][places.pos]
            return value

        return tuple(fitted(a) for a in args), {key: fitted(value) for key, value in kwargs.items()}


def _without(value: Any) -> Any:
    return None if value is _CACHE else value


def _mask(clean: Tensor, places: Places) -> Tensor:
    """What each place sees: what it saw in its sequence, but what is computed again as it is now. [g, 1, c, t + c]"""
    pos = places.pos
    groups, count = pos.shape
    barred = clean.dtype == torch.bool
    none = False if barred else torch.finfo(clean.dtype).min
    saw = clean[0, 0][pos]  # [g, c, t]
    each = torch.arange(count, device=pos.device)
    if not places.chained:
        before = saw.scatter(2, pos.unsqueeze(2), none)
        own = torch.full((count, count), none, dtype=clean.dtype, device=clean.device)
        own.fill_diagonal_(True if barred else 0.0)
        return torch.cat([before, own.expand(groups, -1, -1)], 2).unsqueeze(1)
    again = torch.arange(saw.shape[2], device=pos.device) >= pos[:, :1, None]
    own = saw.gather(2, pos.unsqueeze(1).expand(-1, count, -1)).masked_fill(each > each.unsqueeze(1), none)
    return torch.cat([saw.masked_fill(again, none), own], 2).unsqueeze(1)


def recorder(calls: Calls, layer: int) -> Callable[..., Any]:
    """Notes with what arguments the model calls a block, but for the stream, and keeps its keys and values."""

    def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kept = {key: _one_row(value) for key, value in kwargs.items() if key not in ("use_cache", "hidden_states")}
        calls.blocks[layer] = (tuple(_one_row(arg) for arg in args[1:]), kept)
        swapped = {key: calls.kept if isinstance(value, Cache) else value for key, value in kwargs.items()}
        return tuple(calls.kept if isinstance(arg, Cache) else arg for arg in args), swapped

    return record


def _one_row(value: Any) -> Any:
    """An argument that serves any number of rows: sequences are causal and padded right, so all rows share masks."""
    if isinstance(value, Cache):
        return _CACHE
    if isinstance(value, Tensor) and value.ndim:
        return value[:1]
    if isinstance(value, tuple):
        return tuple(_one_row(part) for part in value)
    return value
