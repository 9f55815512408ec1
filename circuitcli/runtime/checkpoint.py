"""Where a model's files are: the demo's folder, a local one, or a repository on the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitcli import demo
from circuitcli.core.model import ModelShape
from circuitcli.errors import InputError
from circuitcli.runtime.hub import Hub, Malformed, RemoteFile
from circuitcli.runtime.names import check, repository

_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
# What transformers raises at files that are damaged, or hold what they shouldn't.
BROKEN = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, Malformed)
# Families all of whose blocks are parallel; others say so in their configurations.
_PARALLEL = ("codegen", "cohere", "cohere2", "gptj", "phi")
_CONFIG, _INDEX = "config.json", ".index.json"
# Each in order of preference: one file, or the index of several.
_WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_SMALL = (
    _CONFIG,
    *_TOKENIZERS,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model before its weights are loaded.

    Attributes:
        name: As people typed it.
        folder: Where its files are, or will be once `files` are fetched.
        shape: Its sizes.
        commit: The hub's, None of a local folder.
        files: On the hub.
    """

    name: str
    folder: Path
    shape: ModelShape
    commit: str | None
    files: tuple[RemoteFile, ...]

    def identity(self) -> str:
        """What identifies the weights: the hub's commit, or the sha256 of a local folder's files."""
        return self.commit or _folder_digest(self.folder)


def find(name: str, revision: str = "main", hub: Hub | None = None) -> Checkpoint:
    """A model's configuration and where the rest of it is; weights aren't fetched.

    Raises:
        UsageError: It is no name.
        InputError: There is no such folder, or the model is of no kind that can be studied.
        HubError: The hub couldn't be asked, or has no such model.
    """
    check(name, "model", holds=[_CONFIG], hint="Models are named like gpt2 or owner/name, or by their folder.")
    local = _local(name)
    if local is not None:
        if revision != "main" and not _SHA256.fullmatch(revision):  # a run asks by what it recorded
            raise InputError(f"The folder {name} has no revisions.", hint="Leave --model-revision out.")
        return Checkpoint(name, local, shape_of(name, local), None, ())
    repo, hub = repository(name), hub or Hub()
    if _COMMIT.fullmatch(revision):
        [config] = hub.files(repo, [_CONFIG], revision)
        if config.cached is not None and _complete(config.cached.parent):  # a commit doesn't change: no need to ask
            return Checkpoint(name, config.cached.parent, shape_of(name, config.cached.parent), revision, ())
    files = _wanted(name, hub.listing(repo, revision), hub)
    [config] = [file for file in files if file.path == _CONFIG]
    folder = hub.fetch([config])[0].parent
    return Checkpoint(name, folder, shape_of(name, folder), config.commit, tuple(files))


def _local(name: str) -> Path | None:
    """The folder of the demo, or the folder that the name is."""
    if name == "demo":
        return demo.MODEL
    path = Path(os.path.expanduser(name))
    if (path / _CONFIG).is_file():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"There is no model in the folder {name}.", hint="It needs a config.json and its weights.")
    return None


def _wanted(name: str, listing: list[RemoteFile], hub: Hub) -> list[RemoteFile]:
    """Of a repository's files those that make the model: no other framework's weights, no other precision's."""
    there = {file.path: file for file in listing}
    if _CONFIG not in there:
        raise InputError(f"{name} has no config.json on the hub.", hint="Is it a model for transformers?")
    weights = next((path for path in _WEIGHTS if path in there), None)
    if weights is None:
        raise InputError(
            f"{name} has no weights that transformers reads.", hint="They should be model.safetensors, or shards of it."
        )
    names = [path for path in (*_SMALL, weights) if path in there]
    if weights.endswith(_INDEX):
        [index] = hub.fetch([there[weights]])
        names += [path for path in _shards(name, index) if path in there]
    return [there[path] for path in names]


def _shards(name: str, index: Path) -> list[str]:
    """The files that an index of weights names."""
    try:
        return sorted({str(file) for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except BROKEN:
        raise unfit(name, f"its {index.name} is no index of weights") from None


def _complete(folder: Path) -> bool:
    """Whether a folder of the hub's cache has all of a model."""
    weights = next((folder / path for path in _WEIGHTS if (folder / path).is_file()), None)
    shards = _shards(folder.name, weights) if weights is not None and weights.name.endswith(_INDEX) else []
    return (
        weights is not None
        and all((folder / shard).is_file() for shard in shards)
        and any((folder / path).is_file() for path in _TOKENIZERS)
    )


def shape_of(name: str, folder: Path) -> ModelShape:
    """The sizes that a configuration states."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config = config.get_text_config()
    except BROKEN as error:
        raise unfit(name, error) from None
    try:
        sizes = {
            "n_layers": config.num_hidden_layers,
            "d_model": config.hidden_size,
            "n_heads": config.num_attention_heads,
            "d_vocab": config.vocab_size,
            "n_ctx": _context(config),
        }
    except AttributeError as error:
        raise InputError(
            f"The model {name} is of no kind that this tool knows: its configuration has no {error.name}.",
            hint="Choose a model of the GPT-2, GPT-NeoX, Llama or Gemma families.",
        ) from None
    for what, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise unfit(name, f"its config.json says {what} = {size!r}")
    heads = sizes.pop("n_heads")
    return ModelShape(
        **sizes,
        d_z=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
        parallel=config.model_type in _PARALLEL or bool(getattr(config, "use_parallel_residual", False)),
        ignores_mean=not hasattr(config, "rms_norm_eps"),
    )


def _context(config: Any) -> int:
    """Tokens that it reads, up to where its rotary scaling, if it switches at a length, would switch.

    Beyond that a token's numbers would depend on how long the other sequences of its batch are.
    """
    most: int = config.max_position_embeddings
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type") != "longrope":
        return most
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", 0)
    return min(most, original or most)


def unfit(name: str, error: Exception | str) -> InputError:
    """A model whose files are there and can't be loaded, and why."""
    reason = str(error).strip().split("\n")[0].rstrip(" .:")
    return InputError(
        f"The model {name} can't be loaded: {reason}.",
        hint="It needs a config.json, its weights as safetensors, and a tokenizer.json.",
    )


def _folder_digest(folder: Path) -> str:
    """sha256 over the configuration, weights and tokenizer of a local model."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in _SMALL or path.name in _WEIGHTS or path.suffix in (".safetensors", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
