"""What a model's config.json says, read so that it states sizes and chooses no code.

A configuration of transformers may name the attention to run, down to a repository of compiled kernels, modules of
Python to import, fusions, a quantiser that swaps the layers, or other files of weights. This tool makes such choices
itself: what only chooses how the same numbers are computed is left out, what would make others of them is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from circuitcli.core.shape import ModelShape
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import json_object, shown
from circuitcli.runtime.unfit import model_errors, unfit

CONFIG = "config.json"
_LARGEST = 2**31
# Families all of whose blocks are parallel; others say so in their configurations.
_PARALLEL = ("codegen", "cohere", "cohere2", "gptj", "phi")
# They choose code, or what a pass returns beside its numbers. Families that need their own code aren't known without.
_LEFT_OUT = frozenset(
    """
    auto_map attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset
    experts_implementation _experts_implementation _experts_implementation_internal fusion_config kernel_config
    use_kernels distributed_config device_map base_model_tp_plan base_model_pp_plan base_model_ep_plan
    gradient_checkpointing output_attentions output_hidden_states return_dict use_return_dict torchscript
    name_or_path _name_or_path _commit_hash
    """.split()  # noqa: SIM905
)
_REFUSED = {
    "quantization_config": "its weights are quantised",
    "compression_config": "its weights are compressed",
    "transformers_weights": "it names its weights itself",
}


def read(name: str, folder: Path) -> Any:
    """The configuration of a model, as transformers has it.

    Raises:
        InputError: It can't be read, or asks for what isn't supported.
    """
    from transformers import AutoConfig

    said = json_object(folder / CONFIG)
    for key, value in _every(said):
        if key in _REFUSED and value is not None:
            raise unfit(name, f"{_REFUSED[key]} ({key} in its config.json), and such aren't supported")
    with model_errors(name), _cleaned(said, folder) as where:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, local_files_only=True)
        config.name_or_path = str(folder)
    return config


def shape_of(name: str, folder: Path) -> ModelShape:
    """The sizes that a configuration states.

    Raises:
        InputError: It can't be read, or is of a model of a kind that can't be studied.
    """
    config = read(name, folder)
    with model_errors(name):
        config = config.get_text_config()
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
    head = getattr(config, "head_dim", None)
    for what, size in (*sizes.items(), *([] if head is None else [("head_dim", head)])):
        if type(size) is not int or not 1 <= size < _LARGEST:
            raise unfit(name, f"its config.json says {what} = {shown(size)}")
    heads = sizes.pop("n_heads")
    return ModelShape(
        **sizes,
        d_z=heads * (head or config.hidden_size // heads),
        parallel=config.model_type in _PARALLEL or bool(getattr(config, "use_parallel_residual", False)),
        norms_subtract_mean=not hasattr(config, "rms_norm_eps"),
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


@contextmanager
def _cleaned(said: dict[str, Any], folder: Path) -> Iterator[Path]:
    """A folder with the configuration and nothing that chooses code in it: mostly the model's own."""
    clean, same = _without(said), True
    with open(folder / CONFIG, "rb") as file:
        same = clean == said and file.read(1) != b"\xef"  # no byte order mark, which transformers doesn't read
    if same:
        yield folder
        return
    with tempfile.TemporaryDirectory() as aside:
        (Path(aside) / CONFIG).write_text(json.dumps(clean), encoding="utf-8")
        yield Path(aside)


def _without(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without(value) for key, value in tree.items() if key not in _LEFT_OUT}
    return [_without(value) for value in tree] if isinstance(tree, list) else tree


def _every(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at every depth."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield str(key), value
        yield from _every(value)
