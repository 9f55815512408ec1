"""Models by shape alone: random weights, nothing fetched. For timing, not for meaning."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcli.core.shape import ModelShape
from circuitcli.errors import UsageError, nearest
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.configuration import shape_of
from circuitcli.runtime.device import Runtime

if TYPE_CHECKING:
    from circuitcli.runtime.model import BridgeModel

# The class of each configuration, and its sizes, as the model's own config.json has them.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {}),
    "gpt2-medium": ("GPT2Config", {"n_layer": 24, "n_embd": 1024, "n_head": 16}),
    "pythia-160m": (
        "GPTNeoXConfig",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        | {"vocab_size": 50304, "rotary_pct": 0.25},
    ),
    "llama-3.2-1b": (
        "LlamaConfig",
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072}
        | {"tie_word_embeddings": True},
    ),
    "gemma-2-2b": (
        "Gemma2Config",
        {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}
        | {"num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000},
    ),
}


def config_of(name: str) -> Any:
    """The configuration of a shape.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in SHAPES:
        raise UsageError(f"Unknown shape `{name}`.", hint=nearest(name, SHAPES, what="shapes"))
    import transformers

    kind, sizes = SHAPES[name]
    return getattr(transformers, kind)(**sizes)


def shape_of_config(name: str, config: Any) -> ModelShape:
    """The sizes of a model of a configuration."""
    with _saved(config) as folder:
        return shape_of(name, folder)


def random_model(name: str, config: Any, runtime: Runtime, seed: int) -> BridgeModel:
    """A model of a configuration with random weights; of one seed the same, rounded, in each precision."""
    import torch

    from circuitcli.runtime import model, weights

    torch.manual_seed(seed)
    with _saved(config) as folder:
        checkpoint = Checkpoint(name, folder, shape_of(name, folder), None, ())
        return model.bridged(weights.random(config, runtime, attention=weights.ATTENTION), checkpoint, runtime)


@contextmanager
def _saved(config: Any) -> Iterator[Path]:
    """A folder with the configuration alone: what a checkpoint has without its weights."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        yield Path(folder)
