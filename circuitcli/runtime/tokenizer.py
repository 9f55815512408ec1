"""A model's tokenizer, and what a model says of itself before its weights are loaded."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitcli import demo
from circuitcli.core.model import ModelShape
from circuitcli.errors import CircuitError, HubError, InputError


@dataclass(frozen=True)
class ModelCard:
    """A model's name, where it is, its sizes, and what identifies its weights (sha256, or the hub's commit)."""

    name: str
    location: str
    shape: ModelShape
    identity: str


def describe(name: str) -> ModelCard:
    """Read a model's configuration, not its weights.

    Raises:
        InputError: No such model or folder.
        HubError: The hub couldn't be asked.
    """
    from transformers import AutoConfig

    location = locate(name)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise unavailable(name, error) from None
    identity = _folder_digest(Path(location)) if Path(location).is_dir() else str(config._commit_hash)
    return ModelCard(name, location, _shape(name, config.get_text_config()), identity)


def locate(name: str) -> str:
    """The folder of the demo, or the name itself."""
    if name == "demo":
        return str(demo.MODEL)
    looks_like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(os.path.expanduser(name))
    if looks_like_a_path and not (path / "config.json").is_file():
        raise InputError(f"There is no model in the folder {name}.", hint="It needs a config.json and its weights.")
    return str(path) if path.is_dir() else name


def unavailable(name: str, error: Exception) -> CircuitError:
    """A model that can't be had, and why: its folder lacks something, it is unknown, or the hub couldn't be asked."""
    if Path(locate(name)).is_dir():
        reason = str(error).strip().split("\n")[0].rstrip(" .:")
        return InputError(
            f"The model in the folder {name} can't be loaded: {reason}.",
            hint="It needs a config.json, its weights as safetensors, and a tokenizer.json.",
        )
    if _causes(error) & {"ConnectError", "ConnectionError", "ConnectTimeout", "ProxyError", "ReadTimeout"}:
        return HubError(
            f"The hub couldn't be reached for the model {name}.", hint="Check the network, or give a local folder."
        )
    return InputError(
        f"Unknown model {name}, or it isn't on this machine.",
        hint="Use demo, gpt2, another name on the hub, or a local folder with a config.json.",
    )


def _causes(error: BaseException | None) -> set[str]:
    """The types of an error and of all that led to it: transformers wraps the hub's, which wrap the network's."""
    names = set()
    while error is not None:
        names.add(type(error).__name__)
        error = error.__cause__ or error.__context__
    return names


def _shape(name: str, config: Any) -> ModelShape:
    try:
        heads = config.num_attention_heads
        d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return ModelShape(
            n_layers=config.num_hidden_layers,
            d_model=config.hidden_size,
            d_z=heads * d_head,
            d_vocab=config.vocab_size,
            n_ctx=config.max_position_embeddings,
            parallel=bool(getattr(config, "use_parallel_residual", False)),
        )
    except AttributeError as error:
        raise InputError(
            f"The model {name} is of no kind that this tool knows: its configuration has no {error.name}.",
            hint="Choose a model of the GPT-2, GPT-NeoX, Llama or Gemma families.",
        ) from None


def _folder_digest(folder: Path) -> str:
    """sha256 over the configuration, weights and tokenizer of a local model."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", "tokenizer.json") or path.suffix in (".safetensors", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, name: str) -> None:
        """Load the tokenizer of a model.

        Raises:
            InputError: The model has none.
            HubError: The hub couldn't be asked.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise unavailable(name, error) from None

    @property
    def bos(self) -> int | None:
        """The id of BOS, if there is one."""
        found = self._tokenizer.bos_token_id
        return None if found is None else int(found)

    def encode(self, text: str) -> list[int]:
        """Token ids, no special token added."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def text(self, token: int) -> str:
        """What one token stands for."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
