"""SAEs in `.pt` files, which are pickles: read as tensors and plain values, and never run.

Two kinds are on the hub: the state dict alone (hook-z-kk), and the first format of res-jb, {"cfg": …, "state_dict": …},
where cfg is a dict or an object of a training library that this package neither has nor imports. torch's restricted
unpickler reads both; for the object it is given an empty class of that name, which holds what was written and does
nothing. A pickle that wants anything else is refused by the name of what it wants.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 what torch.load raises; nothing is unpickled with it
from typing import Any, NoReturn

import torch
from torch import Tensor

from circuitcli.errors import InputError

_CONFIGURATIONS = tuple(
    type("LanguageModelSAERunnerConfig", (), {"__module__": module})
    for module in ("sae_training.config", "sae_lens.training.config")
)
_WANTED = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module)")
# What the restricted unpickler raises on bytes that are no pickle of its kind.
_BROKEN = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def read(path: Path) -> tuple[Mapping[str, Any] | None, dict[str, Tensor]]:
    """The configuration in a `.pt` file, None where it has only weights, and the weights.

    Raises:
        InputError: It can't be read, wants code, or holds something else.
    """
    found = _load(path)
    if not isinstance(found, dict):
        _no_sae(path)
    config, weights = None, found
    if "state_dict" in found:
        config, weights = found.get("cfg"), found["state_dict"]
        config = vars(config) if isinstance(config, _CONFIGURATIONS) else config
        if not isinstance(config, dict):
            _no_sae(path)
    if not isinstance(weights, dict):
        _no_sae(path)
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()):
        _no_sae(path)
    return config, {name: tensor.detach() for name, tensor in weights.items()}


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(_CONFIGURATIONS)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except UnpicklingError as error:
        wanted = _WANTED.search(str(error))
        raise InputError(
            f"{path} can't be read without running code: it wants {wanted[1]}."
            if wanted
            else f"{path} isn't a pickle of tensors and plain values.",
            hint="Nothing in it was run, and no such file ever is. Ask for the SAE as safetensors.",
        ) from None
    except _BROKEN as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"{path} can't be read: {reason}.", hint="Get the SAE again.") from None


def _can_be_mapped(path: Path) -> bool:
    """Whether it is a zip archive, as torch.save has written since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _no_sae(path: Path) -> NoReturn:
    raise InputError(f"{path} holds no SAE.", hint="It should hold a state dict, or {cfg, state_dict}.")
