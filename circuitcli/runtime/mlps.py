"""The door to MLPs, of every family that has one activation function: the backward pass of RelP.

    a = act(z)            ∂a/∂z := act(z) / z, and where z is 0 what that tends to from above: act′(0)
    a ⊙ u, of a gate      each factor gets half of what it would

Values stay what they are. Layer-wise relevance propagation as a gradient: Jafari et al. 2025, arXiv 2508.21258.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from circuitcli.runtime import constants
from circuitcli.runtime.norms import is_norm

_PASSING = ("Dropout", "Identity", "HookPoint")
# act(0) / act(1) above which act(z) / z has no limit at 0, and how many times as far from 0 the quotient is its limit.
_SMALL, _FAR = 1e-4, 1e3


def through_the_door(mlp: Any, layer: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Make a bridged MLP's activation function, and the projection that reads it, go through here from now on.

    Returns:
        The two: a pass that has the rule has gone through both.

    Raises:
        InputError: It is no MLP of one activation function, gated or not.
    """
    act, out, gated = _parts(mlp, layer)
    object.__setattr__(act, "forward", lambda z: _activated(act, z))
    object.__setattr__(out, "forward", lambda x: type(out).forward(out, _multiplied(out, x, gated)))
    return act, out


def _activated(act: Any, z: Tensor) -> Tensor:
    """act(z), with act(z) / z for its slope where the rule is in use."""
    if not _in_use(act, z):
        value: Tensor = type(act).forward(act, z)
        return value
    with torch.no_grad():
        value = type(act).forward(act, z)
        floor = max(torch.finfo(z.dtype).tiny ** 0.5, _FAR * _offset(act))
        away = torch.where(z.abs() < floor, floor, z)
        slope = type(act).forward(act, away) / away
    return _instead(value, slope * z)


def _multiplied(out: torch.nn.Module, x: Tensor, gated: bool) -> Tensor:
    """What a gate multiplied: half of the gradient goes on, so that each of the two factors has half of its own."""
    return _instead(x, x / 2) if _in_use(out, x) and gated else x


def _in_use(module: torch.nn.Module, x: Tensor) -> bool:
    """Whether the rule is in use and matters; a clean pass notes that it came by."""
    notes = constants.noting().rule
    if notes is not None:
        notes.add(module)
    return constants.in_use().rule is not None and x.requires_grad and torch.is_grad_enabled()


def _instead(value: Tensor, passing: Tensor) -> Tensor:
    """The value, to the bit, with another's gradient."""
    return value.detach() + (passing - passing.detach())


def _offset(act: Any) -> float:
    """|act(0) / act(1)|: 0, but for functions that their authors nudged."""
    like = next(act.parameters(), torch.zeros(()))
    with torch.no_grad():
        zero, one = type(act).forward(act, torch.tensor([[[0.0, 1.0]]], dtype=like.dtype, device=like.device)).flatten()
    return abs(float(zero) / float(one)) if one else float("inf")


def _parts(mlp: Any, layer: int) -> tuple[Any, Any, bool]:
    """Its activation function, the projection behind that, and whether something multiplies in between.

    It is known by what it is made of: beside the function projections that read, as wide together as the one that
    writes, or of a gate twice as wide, in one matrix or two.

    Raises:
        InputError: It is made of something else.
    """
    own = getattr(mlp, "original_component", None)
    parts = [] if own is None else [part for part in own.modules() if _computes(part)]
    linear = [part for part in parts if isinstance(part, torch.nn.Linear | Conv1D)]
    acts = [part for part in parts if part not in linear and not is_norm(part)]
    out = getattr(getattr(mlp, "out", None), "original_component", None)
    if len(acts) == 1 and out in linear and _offset(acts[0]) < _SMALL:
        share = sum(_widths(part)[1] for part in linear if part is not out) / _widths(out)[0]
        if share in (1, 2):
            return acts[0], out, share == 2
    raise constants.refused(f"RelP has no rule for the MLP of block {layer} ({type(own).__name__}).")


def _computes(part: torch.nn.Module) -> bool:
    """Whether it does something itself: it has no parts, or parameters beside them."""
    alone = not any(True for _ in part.children()) and type(part).__name__ not in _PASSING
    return alone or any(True for _ in part.parameters(recurse=False))


def _widths(linear: Any) -> tuple[int, int]:
    """What it takes and gives."""
    first, second = linear.weight.shape
    return (first, second) if isinstance(linear, Conv1D) else (second, first)
