"""How a clean pass called a model's blocks, so that they can be called again: whole, or at a few places.

A block's arguments are the model's own, of its clean pass; at places, masks and positions are those of the places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.model import Places
from circuitcli.runtime.attention import Kept
from circuitcli.runtime.columns import columns

_Call = tuple[tuple[Any, ...], dict[str, Any]]


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
            return args, dict(kwargs)

        def fitted(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(fitted(part) for part in value)
            if isinstance(value, Tensor) and value.ndim == 4:
                return _mask(value, places)
            if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == self.width:
                return value[0][places.pos]
            return value

        return tuple(fitted(a) for a in args), {key: fitted(value) for key, value in kwargs.items()}


def _mask(clean: Tensor, places: Places) -> Tensor:
    """What each place sees: what it saw in its sequence, but what is computed again as it is now. [g, 1, c, t + c]"""
    none = False if clean.dtype == torch.bool else torch.finfo(clean.dtype).min
    return columns(clean[0, 0][places.pos], places, none).unsqueeze(1)


def recorder(calls: Calls, layer: int) -> Callable[..., None]:
    """Notes with what arguments the model calls a block, but for the stream."""

    def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept = {key: _one_row(value) for key, value in kwargs.items() if key not in ("use_cache", "hidden_states")}
        calls.blocks[layer] = (tuple(_one_row(arg) for arg in args[1:]), kept)

    return record


def _one_row(value: Any) -> Any:
    """An argument that serves any number of rows: sequences are causal and padded right, so all rows share masks."""
    if isinstance(value, Tensor) and value.ndim:
        return value[:1]
    if isinstance(value, tuple):
        return tuple(_one_row(part) for part in value)
    return value
