"""The one door to attention: where a model's attention meets its queries, keys and values, of every family.

Models of transformers hand queries, keys and values, rotated and not yet repeated for grouped heads, to a function that
their configuration names (its AttentionInterface). Ours keeps keys and values of a clean pass, or puts kept ones before
those of a few places, and leaves the arithmetic to the function that the model's own file has for it; unless the
pattern is a constant, by which values are then summed (see `constants`). Nothing here depends on how a version of
transformers calls its cache, nor on how TransformerLens computes attention: that is not used, the model's own is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface
from transformers.pytorch_utils import Conv1D

from circuitcli.runtime import constants
from circuitcli.runtime.agreement import TOLERANCE
from circuitcli.runtime.columns import columns

NAME = "circuit"  # of the function, in configurations
_VALUES = "values_alone"  # of an attention module: its values, where they alone have gradients
_EAGER = "eager_attention_forward"  # what each of transformers' files calls its own arithmetic


@dataclass(eq=False)
class Kept:
    """Keys and values of the attention modules of a clean pass, from a block on: [b, heads, t, d_head] each."""

    first: int
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer >= self.first:
            self.layers[layer] = (key, value)
        return key, value

    @property
    def nbytes(self) -> int:
        """The memory that they hold."""
        return sum(part.nbytes for pair in self.layers.values() for part in pair)


@dataclass(frozen=True, eq=False)
class Behind:
    """Before the keys and values of a few places go their sequences' clean ones."""

    kept: Kept
    seq: Int[Tensor, " g"]

    def attend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.kept.layers[layer]
        return torch.cat([keys[self.seq], key], 2), torch.cat([values[self.seq], value], 2)


_using: ContextVar[Kept | Behind | None] = ContextVar("keys and values in use", default=None)


@contextmanager
def using(keys: Kept | Behind | None) -> Iterator[None]:
    """While it lasts, attention keeps its keys and values there, or takes more from there."""
    before = _using.set(keys)
    try:
        yield
    finally:
        _using.reset(before)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls: the model's own arithmetic, on the keys and values in use."""
    keys, layer = _using.get(), getattr(module, "layer_idx", None)
    if keys is not None and isinstance(layer, int):
        key, value = keys.attend(layer, key, value)
    held, notes = constants.in_use().patterns, constants.noting().patterns
    if held is not None and isinstance(layer, int):
        return _by_pattern(held[layer], module.__dict__.pop(_VALUES, value))
    found: tuple[Tensor, Tensor | None] = _own(module)(module, query, key, value, attention_mask, **more)
    if notes is not None and isinstance(layer, int):
        notes[layer] = _pattern(layer, found, value)
    return found


def _by_pattern(pattern: Float[Tensor, "h t t"], value: Tensor) -> tuple[Tensor, Tensor]:
    """What attention gives where its weights are those of a clean pass: linear in values."""
    places = constants.places()
    at = pattern if places is None else columns(pattern[:, places.pos].transpose(0, 1), places, 0.0)
    values = value.repeat_interleave(pattern.shape[0] // value.shape[1], 1)  # heads that share one
    return (at @ values).transpose(1, 2).contiguous(), at


def _pattern(layer: int, found: tuple[Tensor, Tensor | None], value: Tensor) -> Float[Tensor, "h t t"]:
    """The weights by which attention made what it gave of the values of one row.

    Raises:
        InputError: They don't make it.
    """
    out, pattern = found
    square = pattern is not None and pattern.ndim == 4 and pattern.shape[2:] == (value.shape[2], value.shape[2])
    if pattern is None or not square:
        raise constants.refused(f"The attention of block {layer} tells no pattern.")
    made, _ = _by_pattern(pattern[0], value)
    if not (made - out).abs().max() <= TOLERANCE[out.dtype] * out.abs().max():
        raise constants.refused(f"The attention of block {layer} does more than its pattern says.")
    return pattern[0]


def _own(module: torch.nn.Module) -> Callable[..., Any]:
    """The arithmetic beside the module's `forward`: it knows the family's soft caps and sinks."""
    own: Callable[..., Any] = inspect.unwrap(type(module).forward).__globals__[_EAGER]
    return own


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)


def through_the_door(model: Any) -> None:
    """Make a model of transformers call our function from now on."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) is not None:
            config._attn_implementation = NAME


def _values_alone(own: Any) -> Callable[[Any, tuple[Tensor], Tensor], Tensor | None]:
    """Of GPT-2's one matrix for queries, keys and values: where patterns are held gradients go through values alone.

    The way back through the others would be products with zeros, two thirds of the whole. So what the matrix gives has
    no gradient then, and `_attend` is handed values that have one.
    """

    def hook(joint: Any, args: tuple[Tensor], out: Tensor) -> Tensor | None:
        held = constants.in_use().patterns is not None
        if not held or not out.requires_grad or isinstance(_using.get(), Behind):  # behind others it isn't all values
            return None
        first = 2 * joint.nx
        values = args[0] @ joint.weight[:, first:] + joint.bias[first:]
        own.__dict__[_VALUES] = values.view(*values.shape[:-1], own.num_heads, own.head_dim).transpose(1, 2)
        return out.detach()

    return hook


def native(attention: Any) -> None:
    """Let a bridged attention run the model's own module, with its hooks at the input, at z and at the output.

    TransformerLens computes attention again in its own way: with names of arguments that it knows, and without what a
    configuration may ask of a family.
    """
    own, projection = attention.original_component, attention.o
    for name, child in own.named_children():
        if child is projection.original_component:
            setattr(own, name, projection)  # so that z is seen on its way in

    def forward(*args: Any, **kwargs: Any) -> Any:
        if "hidden_states" in kwargs:
            kwargs["hidden_states"] = attention.hook_in(kwargs["hidden_states"])
        else:
            args = (attention.hook_in(args[0]), *args[1:])
        out = own(*args, **kwargs)
        return (attention.hook_out(out[0]), *out[1:]) if isinstance(out, tuple) else attention.hook_out(out)

    joint = getattr(getattr(own, "c_attn", None), "original_component", None)
    if isinstance(joint, Conv1D) and joint.nf == 3 * joint.nx:
        joint.register_forward_hook(_values_alone(own))
    object.__setattr__(attention, "forward", forward)  # the bridge passes other assignments on to what it wraps
