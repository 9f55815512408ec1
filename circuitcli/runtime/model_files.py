"""The files that make a model: its configuration, the tokenizer's, and its weights, in one file or in those that an
index names. No other file decides what the model is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from circuitcli.errors import InputError
from circuitcli.runtime.configuration import CONFIG
from circuitcli.runtime.foreign import json_object, ordinary, shown
from circuitcli.runtime.remote import RemoteFile, stays_inside
from circuitcli.runtime.unfit import unfit

if TYPE_CHECKING:
    from circuitcli.runtime.hub import Hub

_INDEX = ".index.json"
# Each in order of preference, as transformers has it: one file, or the index of several.
_WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_SMALL = (
    CONFIG,
    *_TOKENIZERS,
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
# Weights that are added to the others where a further library is installed: the same model would be two.
_ADAPTER = "adapter_config.json"


def wanted(name: str, listing: Iterable[RemoteFile], hub: Hub) -> list[RemoteFile]:
    """Of a repository's files those that make the model: no other framework's weights, no other precision's.

    Raises:
        InputError: They make none.
        HubError: The index of its weights couldn't be had.
    """
    there = {file.path: file for file in listing}
    if CONFIG not in there:
        raise InputError(f"{name} has no config.json on the hub.", hint="Is it a model for transformers?")
    if _ADAPTER in there:
        raise _adapter(name)
    first = next((path for path in _WEIGHTS if path in there), None)
    if first is None:
        raise InputError(
            f"{name} has no weights that transformers reads.", hint="They should be model.safetensors, or shards of it."
        )
    paths = [path for path in (*_SMALL, first) if path in there]
    if first.endswith(_INDEX):
        shards = _shards(name, hub.fetch([there[first]])[0])
        _lacking(name, first, (path for path in shards if path not in there))
        paths += shards
    return [there[path] for path in paths]


def complete(name: str, folder: Path) -> bool:
    """Whether a folder of the hub's cache has all of a model."""
    first = next((path for path in _WEIGHTS if (folder / path).is_file()), None)
    shards = _shards(name, folder / first) if first is not None and first.endswith(_INDEX) else []
    return (
        first is not None
        and all((folder / path).is_file() for path in shards)
        and any((folder / path).is_file() for path in _TOKENIZERS)
    )


def weights(name: str, folder: Path) -> list[Path]:
    """The files that a model's weights are in, each of them there; none of a folder without any.

    Raises:
        InputError: One is missing, is no ordinary file, or lies outside of the folder.
    """
    first = next((path for path in _WEIGHTS if (folder / path).exists()), None)
    if first is None:
        return []
    if not first.endswith(_INDEX):
        return [ordinary(folder / first)]
    shards = _shards(name, folder / first)
    _lacking(name, first, (path for path in shards if not (folder / path).exists()))
    return [ordinary(folder / path) for path in shards]


def digest(name: str, folder: Path) -> str:
    """sha256 over the names and contents of all that makes the model of a folder.

    Raises:
        InputError: One of its files can't be read.
    """
    beside = (folder / path for path in (*_SMALL, *_WEIGHTS))
    paths = {ordinary(path) for path in beside if path.exists()} | set(weights(name, folder))
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(folder).as_posix()):
        whole.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def check(name: str, folder: Path) -> None:
    """Refuse a folder whose files aren't what their names say, before any is read.

    Raises:
        InputError: One is a pipe, a folder or a pointer of Git LFS, lies outside, or is of no model.
    """
    for path in (*_SMALL, *_WEIGHTS):
        if (folder / path).exists():
            ordinary(folder / path)
    if (folder / _ADAPTER).exists():
        raise _adapter(name)
    weights(name, folder)


def _shards(name: str, index: Path) -> list[str]:
    """The files that an index of weights names."""
    found = json_object(index)
    named = found.get("weight_map")
    if not isinstance(named, dict) or not named or not isinstance(found.get("metadata"), dict):
        raise unfit(name, f"its {index.name} is no index of weights: it needs weight_map and metadata")
    suffix = PurePosixPath(index.name.removesuffix(_INDEX)).suffix
    for shard in named.values():
        if not isinstance(shard, str) or not stays_inside(shard):
            raise unfit(name, f"its {index.name} names {shown(shard)}, which is no file of its folder")
        if not shard.endswith(suffix):
            raise unfit(name, f"its {index.name} names {shown(shard)}, which is no {suffix} file")
    return sorted(set(named.values()))


def _lacking(name: str, index: str, missing: Iterable[str]) -> None:
    for path in missing:
        raise unfit(name, f"its {index} names {path}, which isn't there")


def _adapter(name: str) -> InputError:
    return unfit(name, f"it has an adapter ({_ADAPTER}) beside its weights, which has to be merged into them")
