"""A device that isn't there: tensors that say they are elsewhere, and refuse to be mixed with the CPU's.

They hold a tensor of the CPU and do everything with it, under the name of torch's `meta` device. What a GPU would
refuse is refused: operations on tensors of both places, `.numpy()` without `.cpu()`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # CPU indices are allowed


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

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Within it tensors may be made elsewhere, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, tensors = func._schema.name, [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [isinstance(tensor, Elsewhere) for tensor in tensors]
    wanted = kwargs.get("device")
    elsewhere = any(there) if wanted is None else torch.device(wanted) == DEVICE
    if name not in ("aten::_to_copy", "aten::copy_", *_INDEXING):
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


def moved(value: Any) -> dict[str, Any]:
    """The tensors among an object's attributes, elsewhere: to replace them by."""
    return {name: Elsewhere(part) for name, part in vars(value).items() if isinstance(part, torch.Tensor)}
