"""A program as the files of a model and of its dictionaries, which are loaded as any others are.

The model is a GPT-2 whose LayerNorms have a huge ε and a weight that undoes it: (x − mean)/√(var + 1e10) · 1e5 is
x − mean to 2e-7. Its tokenizer has whole words. Dictionaries are in SAELens's layout: one feature a direction, by the
identity, and nothing below .01, where there is only what rounding, and attention that is never quite 0, leave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from circuitcli.core.sites import Site
from circuitcli.known.answer import Known
from circuitcli.known.program import BOS, Program

_EPSILON, _LEAST = 1e10, 0.01


class Written(NamedTuple):
    """The folders of a model and of its dictionaries."""

    model: Path
    saes: Path


def write(known: Known, folder: Path) -> Written:
    """Write the model and its dictionaries, each into a folder of its own."""
    model, saes = folder / "model", folder / "saes"
    model.mkdir(parents=True)
    _json(model / "config.json", _config(known.program))
    _tensors(model / "model.safetensors", _weights(known.program))
    _tokenizer(model, known.program)
    for name in known.sites:
        layer, _, site = name.partition(".")
        _dictionary(saes / name, Site(int(layer), site), known.program)
    return Written(model, saes)


def _config(program: Program) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": len(program.vocabulary),
        "n_positions": program.positions,
        "n_embd": program.d_model,
        "n_layer": len(program.blocks),
        "n_head": 1,
        "n_inner": program.units,
        "activation_function": "relu",
        "layer_norm_epsilon": _EPSILON,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": "float32",
    }


def _weights(program: Program) -> dict[str, Float[np.ndarray, ...]]:
    d, embeddings = program.d_model, program.embeddings()
    norm = {"weight": np.full(d, np.sqrt(_EPSILON)), "bias": np.zeros(d)}
    found = {"wte.weight": embeddings["token"], "wpe.weight": embeddings["position"], **_named("ln_f", norm)}
    for layer, block in enumerate(program.blocks):
        head, mlp = program.attention(block.attention), program.mlp(block.units)
        key = head["key"] * np.sqrt(d)  # GPT-2 divides scores by it
        in_bias = np.concatenate([head["bias"], np.zeros(2 * d)])
        parts: dict[str, dict[str, Any]] = {
            "ln_1": norm,
            "ln_2": norm,
            "attn.c_attn": {"weight": np.concatenate([head["query"], key, head["value"]], 1), "bias": in_bias},
            "attn.c_proj": {"weight": head["out"], "bias": np.zeros(d)},
            "mlp.c_fc": {"weight": mlp["read"], "bias": mlp["bias"]},
            "mlp.c_proj": {"weight": mlp["write"], "bias": np.zeros(d)},
        }
        for name, tensors in parts.items():
            found |= _named(f"h.{layer}.{name}", tensors)
    return {f"transformer.{name}": value for name, value in found.items()} | {"lm_head.weight": program.unembedding()}


def _named(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _tokenizer(folder: Path, program: Program) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(program.vocabulary)}, unk_token=BOS))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([BOS])
    made.save(str(folder / "tokenizer.json"))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), BOS)
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})


def _dictionary(folder: Path, site: Site, program: Program) -> None:
    count, d = len(program.features), program.d_model
    folder.mkdir(parents=True)
    tensors = {
        "W_enc": np.eye(d)[:, :count],
        "b_enc": np.zeros(count),
        "threshold": np.full(count, _LEAST),
        "W_dec": program.written,
        "b_dec": np.zeros(d),
    }
    _tensors(folder / "sae_weights.safetensors", tensors)
    config = {
        "architecture": "jumprelu",
        "d_in": d,
        "d_sae": count,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "hook_name": site.hook,
            "prepend_bos": True,
            "model_from_pretrained_kwargs": {"center_writing_weights": False},
        },
    }
    _json(folder / "cfg.json", config)


def _tensors(path: Path, tensors: Mapping[str, Float[np.ndarray, ...]]) -> None:
    from safetensors.numpy import save_file

    save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, path, {"format": "pt"}
    )


def _json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
