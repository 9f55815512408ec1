"""Dictionaries in `.pt` files, which are pickles: read as tensors and plain values, and never run.

Two kinds are on the hub: the state dict alone (hook-z-kk), and the first format of res-jb, {"cfg": …, "state_dict": …},
where cfg is a dict or an object of a training library that this package neither has nor imports. torch's restricted
unpickler reads both; for the object it is given an empty class of that name, which holds what was written and does
nothing. A pickle that wants anything else is refused by the name of what it wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from circuitcli.errors import InputError
from circuitcli.runtime import pickles

_CONFIGURATIONS = tuple(
    type("LanguageModelSAERunnerConfig", (), {"__module__": module})
    for module in ("sae_training.config", "sae_lens.training.config")
)


def read(path: Path) -> tuple[Mapping[str, Any] | None, dict[str, Tensor]]:
    """The configuration in a `.pt` file, None where it has only weights, and the weights.

    Raises:
        InputError: It can't be read, wants code, or holds something else.
    """
    found = pickles.load(path, plain=_CONFIGURATIONS, hint="Ask for the SAE as safetensors.")
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


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that holds nothing else.

    Raises:
        InputError: It can't be read, wants code, or holds something else.
    """
    config, weights = read(path)
    if config is not None:
        _no_sae(path)
    return weights


def _no_sae(path: Path) -> NoReturn:
    raise InputError(f"{path} holds no SAE.", hint="It should hold a state dict, or {cfg, state_dict}.")
