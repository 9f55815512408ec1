"""A device that isn't there: tensors that say they are elsewhere, and refuse to be mixed with the CPU's.

They hold a tensor of the CPU and do everything with it, under the name of torch's `meta` device. What a GPU would
refuse is refused: operations on tensors of both places, `.numpy()` without `.cpu()`. What would make the host wait for
a GPU is noted: a number or a list that is asked for, a shape that depends on numbers, a copy that isn't from pinned
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from circuitcli.core import next_token, transfer
from circuitcli.core.dictionary import Dictionary
from circuitcli.runtime.model import BridgeModel

DEVICE = torch.device("meta")
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # CPU indices are allowed
_COPYING = ("aten::_to_copy", "aten::copy_")
# Their shape, or what they give, is known to the device alone. (`item`, `bool`, `int` and `float` are the first.)
_ASKING = (
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::bincount", "aten::equal",
    "aten::allclose", "aten::_unique", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
)  # fmt: skip
_noted: list[list[str]] = []  # where waiting is noted


class Elsewhere(torch.Tensor):
    """A tensor of the CPU that pretends."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, dtype=here.dtype, device=DEVICE, strides=here.stride()
        )
        made.here = here
        return made

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor that is elsewhere to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Within it tensors may be made elsewhere, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


@contextmanager
def waits() -> Iterator[list[str]]:
    """What makes the host wait for the device while it lasts, operation by operation."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


@contextmanager
def pretending() -> Iterator[None]:
    """Tensors may be made elsewhere, and copied there from pinned memory, as to a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(next_token._CHUNK_BYTES, DEVICE.type, 2**20)
        patch.setattr(transfer, "_COPY_ALONE", {DEVICE.type})
        patch.setattr(torch.Tensor, "pin_memory", _pinned)
        with Pretending():
            yield


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    made = tensor.clone()
    made.is_pinned_here = True  # type: ignore[attr-defined]
    return made


def _waited(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], there: list[bool], elsewhere: bool) -> bool:
    """Whether a GPU would be waited for."""
    if name == "aten::_to_copy":
        alone = kwargs.get("non_blocking", False) and hasattr(args[0], "is_pinned_here")
        return there[0] != elsewhere and not (elsewhere and alone)
    if name == "aten::copy_":
        return there[0] != there[1]
    if name in _INDEXING:
        chosen = [one for one in args[1] if one is not None]
        return any(there) and any(one.dtype == torch.bool or not isinstance(one, Elsewhere) for one in chosen)
    if name == "aten::repeat_interleave":
        return any(there) and kwargs.get("output_size") is None
    return any(there) and name in _ASKING


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, tensors = func._schema.name, [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [isinstance(tensor, Elsewhere) for tensor in tensors]
    wanted = kwargs.get("device")
    elsewhere = any(there) if wanted is None else torch.device(wanted) == DEVICE
    if _noted and _waited(name, args, kwargs, there, elsewhere):
        _noted[-1].append(name)
    if name not in (*_COPYING, *_INDEXING):
        numbers = [tensor.ndim == 0 for tensor in tensors]  # of one number the place doesn't matter
        if any(there) and not all(a or b for a, b in zip(there, numbers, strict=True)):
            raise RuntimeError(f"{name}: tensors of two devices")
    if name in _INDEXING and any(there) and not there[0]:
        raise RuntimeError(f"{name}: an index elsewhere, of a tensor here")
    moved = {**kwargs, **({} if wanted is None else {"device": torch.device("cpu")})}
    out = func(*tree_map(_here, args), **tree_map(_here, moved))
    if func._schema.is_mutable:
        takes = zip(args, func._schema.arguments, strict=False)
        written = [arg for arg, taken in takes if taken.alias_info and taken.alias_info.is_write]
        return written[0] if written else kwargs.get("out", out)
    return tree_map(_wrapped, out) if elsewhere else out


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Elsewhere) else value


def _wrapped(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, torch.Tensor) else value


def dictionary(one: Dictionary, *, decoder: bool = False) -> Dictionary:
    """A dictionary elsewhere, but for its decoders, which stay where their files are mapped unless they shall come."""
    parts = {
        name: replace(part, **moved(part)) for name, part in (("activation", one.activation), ("frame", one.frame))
    }
    further = tuple(d._replace(w_dec=Elsewhere(d.w_dec)) if decoder else d for d in one.further)
    tensors = {name: part for name, part in moved(one).items() if decoder or name != "w_dec"}
    return replace(one, **parts, **tensors, further=further)


@contextmanager
def bridged(model: BridgeModel) -> Iterator[BridgeModel]:
    """A model whose weights are elsewhere while it lasts."""
    modules = list(model._bridge.modules())
    holders = [held for module in modules for held in (module._parameters, module._buffers)]
    before = [dict(held) for held in holders]
    runtime, bias = model.runtime, model._head._bias
    for held in holders:
        held.update({name: Elsewhere(part.data) for name, part in held.items() if part is not None})
    model.runtime, model._head._bias = replace(runtime, device=DEVICE), bias if bias is None else Elsewhere(bias.data)
    try:
        yield model
    finally:
        model.runtime, model._head._bias = runtime, bias
        for held, was in zip(holders, before, strict=True):
            held.update(was)


def moved(value: Any) -> dict[str, Any]:
    """The tensors among an object's attributes, elsewhere: to replace them by."""
    return {name: Elsewhere(part) for name, part in vars(value).items() if isinstance(part, torch.Tensor)}
