"""The door to norms, of every family: the model's own is what runs, and its scale may be a constant of a clean pass.

A norm is asked what it is, and not its class, since families write the same in many ways (1 + w, no bias, no weights,
one gain for each head): b = norm(0); it subtracts the mean where norm(1) is norm(0); g follows from a vector of ±1, up
to a factor that goes into 1 / s, the one by which the clean x gives the clean y.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.model import NormWeights
from circuitcli.errors import InputError
from circuitcli.runtime import constants
from circuitcli.runtime.agreement import TOLERANCE
from circuitcli.runtime.constants import refused
from circuitcli.runtime.held import Held, centre, wide

# So far from 0 that what a norm adds to the variance, lest it divide by 0, is lost in rounding.
_FAR = 64.0


def native(bridge: Any) -> None:
    """Let bridged norms run the model's own modules, between their hooks at the way in and out.

    TransformerLens computes them again by its own formula, in seven steps where torch's layer norm takes one.
    """
    for module in bridge.modules():
        if _own(module) is not module and is_norm(module):
            object.__setattr__(module, "forward", _plain(module))  # a bridge passes other assignments on


def through_the_door(bridge: Any) -> None:
    """Make all norms of a bridged model go through here from now on."""
    modules = dict(bridge.named_modules())
    wrapped = {_own(module) for module in modules.values() if _own(module) is not module}
    for name, module in modules.items():
        if is_norm(module) and module not in wrapped:
            _door(module, name.replace("._original_component", ""))


def is_norm(module: torch.nn.Module) -> bool:
    """Whether it is a norm, bridged or not, and none that is made of others."""
    own = _own(module)
    return _called_norm(own) and not any(_called_norm(part) for part in own.modules() if part is not own)


def placed(
    norms: dict[torch.nn.Module, Held], width: int, other: Callable[[], dict[torch.nn.Module, Held]]
) -> dict[torch.nn.Module, Held]:
    """The same, each with the axis that is positions.

    Args:
        norms: Of a pass of `width` positions.
        width: Of the pass.
        other: The norms of a pass of another length, which tells positions from as many heads.
    """
    heads = [held for held in norms.values() if held.inverse.ndim == 4]
    several = other() if any(held.inverse.shape[1] == held.inverse.shape[2] for held in heads) else None

    def axis(norm: torch.nn.Module, held: Held) -> int:
        size = held.inverse.shape[1]
        first = size == width if several is None else size != several[norm].inverse.shape[1]
        return 1 if held.inverse.ndim == 3 or first else 2

    return {norm: held.along(axis(norm, held)) for norm, held in norms.items()}


def weights(norm: Callable[[Tensor], Tensor], like: Tensor, name: str) -> NormWeights:
    """Gain and bias of a norm: what it makes of x beside (x − mean) / std, or x / rms.

    Args:
        norm: The norm.
        like: Zeros of the shape that it takes, [1, 1, d].
        name: What an error calls it.

    Raises:
        InputError: It is of no kind that this describes.
    """
    gain, bias, centred = _affine(norm, torch.full_like(like, _FAR))
    tried = torch.linspace(-_FAR, _FAR, like.shape[-1], device=like.device).square().to(like.dtype).view_as(like)
    sign = torch.full_like(like, _FAR)
    sign[..., ::2] *= -1
    gain = gain * _rms(centre(wide(sign), centred))
    seen = centre(wide(tried), centred)
    made = seen / _rms(seen) * gain + bias
    given = wide(norm(tried))
    if not (made - given).abs().max() <= TOLERANCE[like.dtype] * given.abs().max():
        raise InputError(
            f"The {name} is no norm whose gain is known.",
            hint="Dictionaries that read its output without it can't be used: choose others with --release.",
        )
    return NormWeights(gain.flatten().float(), bias.flatten().float())


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True).sqrt()


def _plain(norm: Any) -> Callable[[Tensor], Tensor]:
    """What a norm does by itself; a bridged one by the model's own module, between its hooks."""
    own = _own(norm)

    def bridged(hidden_states: Tensor, *more: Any, **named: Any) -> Tensor:  # a gate, say
        out: Tensor = norm.hook_out(own(norm.hook_in(hidden_states), *more, **named))
        return out

    def bare(hidden_states: Tensor) -> Tensor:
        out: Tensor = type(norm).forward(norm, hidden_states)
        return out

    return bare if own is norm else bridged


def _door(norm: Any, name: str) -> None:
    """Sites are read and edited on the way in and out, so a held norm keeps the hooks there."""
    before, after = (getattr(norm, hook, lambda x: x) for hook in ("hook_in", "hook_out"))
    plain = _plain(norm)

    def forward(hidden_states: Tensor) -> Tensor:
        held, notes = constants.in_use().norms, constants.noting().norms
        if held is not None:
            out: Tensor = after(held[norm](before(hidden_states), constants.places()))
            return out
        out = plain(hidden_states)
        if notes is not None:
            notes[norm] = _held(plain, hidden_states, out, f"norm {name} ({type(_own(norm)).__name__})")
        return out

    object.__setattr__(norm, "forward", forward)


def _held(plain: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, name: str) -> Held:
    """The norm that gave y for x, [1, t, d], [1, t, h, d] or [1, h, t, d].

    Raises:
        InputError: It is of no kind that this describes.
    """
    if x.ndim not in (3, 4) or x.shape != y.shape:
        raise refused(f"The {name} is no norm of each position.")
    gain, bias, centred = _affine(plain, torch.ones_like(x))
    within = TOLERANCE[x.dtype]
    made, given = centre(wide(x), centred) * gain, wide(y) - bias
    tiny = torch.finfo(made.dtype).tiny
    inverse = (given * made).sum(-1, keepdim=True) / (made * made).sum(-1, keepdim=True).clamp_min(tiny)
    if not (made * inverse - given).abs().max() <= within * wide(y).abs().max():
        raise refused(f"The {name} is no norm whose scale is known.")
    return Held(gain, bias, centred, inverse)


def _affine(plain: Callable[[Tensor], Tensor], one: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Gain, up to a factor, and bias of a norm, and whether it subtracts the mean; see the module's docstring.

    Args:
        plain: The norm.
        one: The same number everywhere, of the shape that the norm takes.
    """
    sign = one.clone()
    sign[..., ::2] *= -1
    bias = wide(plain(torch.zeros_like(one)))
    even, uneven = wide(plain(one)) - bias, wide(plain(sign)) - bias
    centred = bool(even.abs().max() <= TOLERANCE[one.dtype] * uneven.abs().max())
    return uneven / centre(wide(sign), centred), bias, centred


def _called_norm(module: torch.nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _own(module: torch.nn.Module) -> torch.nn.Module:
    """What a bridged module wraps; any other is itself."""
    own: torch.nn.Module | None = getattr(module, "original_component", None)
    return module if own is None else own
