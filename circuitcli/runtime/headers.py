"""What a model's files of weights hold, by their headers, and whether its configuration can be of them.

A configuration is believed only as far as weights bear it out, before anything is built of it: a billion layers, or a
vocabulary of 10¹² tokens, would be filled in with random numbers until the memory ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from circuitcli.core.words import amount
from circuitcli.runtime import pickles
from circuitcli.runtime.unfit import model_errors, unfit

_FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")
# What counts modules, and what counts something that no weight has: positions, tokens, the base of rotary angles.
_MODULES = re.compile(r"layer|expert|block|stage")
_NO_WEIGHT = re.compile(r"position|window|length|ctx|context|theta|token|seed|freq|base|chunk|rope|_id$")
# A configuration may make so many times as many parameters as its weights have: tensors may be missing, and are named.
_AT_MOST = 2


class Entry(NamedTuple):
    """One tensor."""

    dtype: str
    shape: tuple[int, ...]


def read(name: str, paths: Sequence[Path]) -> dict[str, Entry]:
    """The tensors in a model's files of weights, which aren't read themselves.

    Raises:
        InputError: A file is damaged, or a pickle that wants code.
    """
    found: dict[str, Entry] = {}
    for path in paths:
        with model_errors(name):
            found.update(_safetensors(path) if path.suffix == ".safetensors" else _pickled(name, path))
    return found


def layer_of(tensor: str) -> int:
    """The block that a tensor belongs to by its name, −1 if none."""
    found = re.search(r"(?:^|\.)(?:h|layers)\.(\d{1,9})\.", tensor)
    return int(found[1]) if found else -1


def check(name: str, config: Any, tensors: dict[str, Entry], *, attention: str) -> None:
    """Refuse weights of numbers that stand for others, and sizes that the weights can't have.

    Raises:
        InputError: There are such.
    """
    for tensor, entry in tensors.items():
        # Masks, which old files keep beside the weights, are no weights.
        if entry.dtype not in _FLOATS and len(entry.shape) > 1 and not tensor.endswith("bias"):
            raise unfit(name, f"{tensor} in its weights is of {entry.dtype}, and no plain floating-point number")
    total = sum(prod(entry.shape) for entry in tensors.values())
    longest = max((size for entry in tensors.values() for size in entry.shape), default=0)
    for key, size in _sizes(config.to_dict()):
        bound = max(len(tensors), longest) if _MODULES.search(key) else total
        if size > bound:
            raise unfit(name, f"its config.json says {key} = {size}, and its weights hold {total:,} numbers in all")
    layers = 1 + max(map(layer_of, tensors), default=-1)
    stated = config.get_text_config().num_hidden_layers
    if layers and stated > layers:
        raise unfit(name, f"its config.json says {amount(stated, 'layer')}, its weights have {layers}")
    with model_errors(name), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    made = sum(parameter.numel() for parameter in model.parameters())
    if made > _AT_MOST * total:
        raise unfit(name, f"its config.json makes {made:,} parameters, and its weights hold {total:,}")


def _safetensors(path: Path) -> dict[str, Entry]:
    with safe_open(path, framework="pt") as file:
        slices = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118 it isn't a mapping
        return {tensor: Entry(part.get_dtype(), tuple(part.get_shape())) for tensor, part in slices.items()}


def _pickled(name: str, path: Path) -> dict[str, Entry]:
    held = pickles.load(path, device="meta", hint="Ask for the model's weights as safetensors.")
    if not isinstance(held, dict) or not all(isinstance(t, str) and isinstance(x, Tensor) for t, x in held.items()):
        raise unfit(name, f"{path.name} holds something else than tensors by their names")
    return {t: Entry(str(x.dtype).removeprefix("torch."), tuple(x.shape)) for t, x in held.items()}


def _sizes(tree: Any) -> Iterator[tuple[str, int]]:
    """Every whole number of a configuration that sizes its weights, with its key, at every depth."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if type(value) is int and not _NO_WEIGHT.search(str(key)):
            yield str(key), value
        yield from _sizes(value)
