"""What passes take from a clean pass of their prompt instead of computing it, and where a clean pass notes it.

Attention, norms and activation functions each have a door through which a pass goes (`attention`, `norms`, `mlps`), and
all of them look here. Nothing is in use by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.model import Places
from circuitcli.errors import InputError
from circuitcli.runtime.held import Held


@dataclass(frozen=True, eq=False)
class Constants:
    """Of one prompt; None: computed as ever.

    Attributes:
        patterns: Attention's weights of each block, [h, t, t].
        norms: Each norm as its scales on the clean pass make it.
        rule: Whether gradients pass MLPs by RelP's rule: what has done so.
    """

    patterns: dict[int, Tensor] | None = None
    norms: dict[torch.nn.Module, Held] | None = None
    rule: set[torch.nn.Module] | None = None


_NOTHING = Constants()
_in_use: ContextVar[Constants] = ContextVar("constants in use", default=_NOTHING)
_noting: ContextVar[Constants] = ContextVar("where a clean pass notes them", default=_NOTHING)
_places: ContextVar[Places | None] = ContextVar("where the pass is", default=None)


def in_use() -> Constants:
    """What the pass takes."""
    return _in_use.get()


def noting() -> Constants:
    """What the pass notes."""
    return _noting.get()


def places() -> Places | None:
    """Where the pass computes; None: at all positions."""
    return _places.get()


@contextmanager
def using(constants: Constants) -> Iterator[None]:
    """While it lasts, passes take these, and what they lack from those in use before."""
    named = {name: value for name, value in vars(constants).items() if value is not None}
    with _set(_in_use, replace(_in_use.get(), **named)):
        yield


@contextmanager
def noted_in(constants: Constants) -> Iterator[None]:
    """While it lasts, passes compute everything, and note what is asked for."""
    with _set(_in_use, _NOTHING), _set(_noting, constants), _set(_places, None):
        yield


@contextmanager
def at(where: Places | None) -> Iterator[None]:
    """While it lasts, passes are at these places."""
    with _set(_places, where):
        yield


def refused(what: str) -> InputError:
    """Of a model with a part of which nothing can be held constant."""
    return InputError(what, hint="Use --method exact, atp or ig, without --freeze: nothing is then held constant.")


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
