"""Right SAEs on the demo's model, and the same SAEs with one mistake planted in their files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from circuitcli import demo

Weights = dict[str, Tensor]


def plant(
    folder: Path,
    hook: str,
    *,
    config: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    weights: Callable[[Weights], Weights] | None = None,
    source: Path = demo.SAES,
) -> Path:
    """A copy of the SAE of a hook, with keys of its configuration replaced and its weights changed."""
    target = folder / f"{hook}.{len(list(folder.glob('*')))}"
    shutil.copytree(source / hook, target)
    tree = json.loads((target / "cfg.json").read_text())
    tree |= config or {}
    tree["metadata"] |= metadata or {}
    (target / "cfg.json").write_text(json.dumps(tree))
    if weights is not None:
        path = target / "sae_weights.safetensors"
        save_file(weights(load_file(path)), path)
    return folder


def negated(weights: Weights) -> Weights:
    return {**weights, "b_dec": -weights["b_dec"]}


def at(hook: str) -> dict[str, Any]:
    return {"hook_name": hook}


def model_with_mean(folder: Path, constant: float) -> Path:
    """The demo's model with a constant in every dimension of its stream, which none of its LayerNorms notices."""
    model = GPT2LMHeadModel.from_pretrained(demo.MODEL, dtype=torch.float32)
    model.transformer.wte.weight.data += constant
    return save(model, folder)


def model_with_biases(folder: Path, layer: int, size: float) -> Path:
    """The demo's model with value biases that its output biases take out again: z alone is another."""
    model = GPT2LMHeadModel.from_pretrained(demo.MODEL, dtype=torch.float32)
    attention = model.transformer.h[layer].attn
    width = model.config.n_embd
    added = size * torch.randn(width, generator=torch.Generator().manual_seed(0))
    attention.c_attn.bias.data[2 * width :] += added
    attention.c_proj.bias.data -= added @ attention.c_proj.weight.data
    return save(model, folder)


def save(model: GPT2LMHeadModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo.MODEL / name, folder / name)
    return folder


def train(x: Tensor, *, d_sae: int = 384, k: int = 16, steps: int = 250, seed: int = 0) -> Weights:
    """A TopK SAE for activations like x [n, d_in]."""
    generator = torch.Generator().manual_seed(seed)
    w_dec = functional.normalize(torch.randn(d_sae, x.shape[1], generator=generator), dim=1)
    names = {"W_enc": w_dec.T.clone(), "W_dec": w_dec, "b_enc": torch.zeros(d_sae), "b_dec": x.mean(0)}
    weights = {name: value.requires_grad_() for name, value in names.items()}
    optimiser = torch.optim.Adam(weights.values(), lr=3e-3)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (512,), generator=generator)]
        pre = (batch - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
        top, index = pre.topk(k, dim=-1)
        a = torch.zeros_like(pre).scatter(-1, index, top.relu())
        loss = (a @ weights["W_dec"] + weights["b_dec"] - batch).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach().contiguous() for name, value in weights.items()}


def save_z(folder: Path, layer: int, weights: Weights, **options: bool) -> Path:
    """A SAELens folder of a TopK SAE of z."""
    target = folder / f"{layer}.z"
    target.mkdir(parents=True)
    save_file(weights, target / "sae_weights.safetensors")
    d_in, d_sae = weights["W_enc"].shape
    tree = {
        "architecture": "topk",
        "k": 16,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "hook_name": f"blocks.{layer}.attn.hook_z",
            "prepend_bos": True,
            "model_from_pretrained_kwargs": options,
        },
    }
    (target / "cfg.json").write_text(json.dumps(tree))
    return folder
