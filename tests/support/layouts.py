"""Files of transcoders and SAEs in the layouts that others write, and what they compute by plain formulas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D, N, LAYERS, K = 5, 8, 3, 3


@dataclass(frozen=True)
class Drawn:
    """A dictionary of one layer in row vectors: a = act(x W_enc + b_enc), y = Σ a W_dec[to] + b_dec + x W_skip.

    Attributes:
        w_dec: By layer written.
        act: `relu`, `topk` or `jumprelu`.
    """

    w_enc: Tensor  # [d, n]
    b_enc: Tensor
    w_dec: Mapping[int, Tensor]  # [n, d]
    b_dec: Tensor
    w_skip: Tensor | None = None  # [d_in, d_out]
    act: str = "relu"
    threshold: Tensor | None = None

    def encode(self, x: Tensor) -> Tensor:
        pre = x @ self.w_enc + self.b_enc
        if self.act == "topk":
            kept = pre >= pre.topk(K, dim=-1).values[..., -1:]
            return pre.clamp(min=0) * kept
        if self.threshold is not None:
            return pre * (pre > self.threshold)
        return pre.clamp(min=0)

    def says(self, a: Tensor, x: Tensor, layer: int, own: int) -> Tensor:
        said = a @ self.w_dec[layer]
        if layer == own:
            said = said + self.b_dec + (x @ self.w_skip if self.w_skip is not None else 0)
        return said


def drawn(act: str = "relu", *, skip: bool = False, to: range | None = None, seed: int = 0) -> Drawn:
    draw = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    w_enc, b_enc, w_dec, b_dec = some(D, N), some(N), {layer: some(N, D) for layer in to or range(1)}, some(D)
    w_skip, threshold = some(D, D) if skip else None, some(N).abs() if act == "jumprelu" else None
    return Drawn(w_enc, b_enc, w_dec, b_dec, w_skip, act, threshold)


def across(act: str = "relu", *, skip: bool = False) -> list[Drawn]:
    """A cross-layer transcoder."""
    return [drawn(act, skip=skip, to=range(layer, LAYERS), seed=layer) for layer in range(LAYERS)]


def per_layer(act: str = "relu", *, skip: bool = False) -> list[Drawn]:
    return [replace(one, w_dec={layer: one.w_dec[layer]}) for layer, one in enumerate(across(act, skip=skip))]


def save(path: Path, tensors: Mapping[str, Tensor | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, path)


def say(path: Path, tree: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))  # JSON is YAML as well


def turned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.T


def circuit_tracer(one: Drawn, layer: int) -> dict[str, Tensor | None]:
    return {"W_enc": one.w_enc.T, "b_enc": one.b_enc, "W_dec": one.w_dec[layer], "b_dec": one.b_dec,
            "W_skip": turned(one.w_skip), "activation_function.threshold": one.threshold}  # fmt: skip


def circuit_tracer_config(kind: str, hook: str = "hook_resid_mid", **more: Any) -> dict[str, Any]:
    return {"model_name": "gpt2", "model_kind": kind, "feature_input_hook": hook,
            "feature_output_hook": "hook_mlp_out", "scan": "gpt2", **more}  # fmt: skip


def save_circuit_tracer(folder: Path, ones: list[Drawn], hook: str = "hook_resid_mid", **more: Any) -> Path:
    for layer, one in enumerate(ones):
        save(folder / f"layer_{layer}.safetensors", circuit_tracer(one, layer))
    say(folder / "config.yaml", circuit_tracer_config("transcoder_set", hook, **more))
    return folder


def save_circuit_tracer_clt(
    folder: Path, ones: list[Drawn], hook: str = "hook_resid_mid", dtype: torch.dtype = torch.float32
) -> Path:
    for i, one in enumerate(ones):
        encoder = {f"W_enc_{i}": one.w_enc.T, f"b_enc_{i}": one.b_enc, f"b_dec_{i}": one.b_dec}
        save(folder / f"W_enc_{i}.safetensors", {**encoder, f"threshold_{i}": one.threshold})
        stacked = torch.stack([one.w_dec[to] for to in sorted(one.w_dec)], dim=1)
        save(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": stacked.to(dtype)})
    say(folder / "config.yaml", circuit_tracer_config("cross_layer_transcoder", hook))
    return folder


def gemma(one: Drawn, layer: int) -> dict[str, Tensor | None]:
    return {"w_enc": one.w_enc, "b_enc": one.b_enc, "w_dec": one.w_dec[layer], "b_dec": one.b_dec,
            "threshold": one.threshold, "affine_skip_connection": one.w_skip}  # fmt: skip


def gemma_config(layer: int, point: str, out: str | None, kind: str) -> dict[str, Any]:
    hook = f"model.layers.{layer}.{point}"
    return {"hf_hook_point_in": hook, "hf_hook_point_out": hook if out is None else f"model.layers.{layer}.{out}",
            "width": N, "model_name": "google/gemma-3-270m", "architecture": "jump_relu", "l0": 7, "type": kind,
            "affine_connection": False}  # fmt: skip


IN, OUT = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"


def save_gemma(folder: Path, ones: list[Drawn], point: str = IN, out: str | None = OUT) -> Path:
    for layer, one in enumerate(ones):
        inside = folder / f"layer_{layer}_width_16k_l0_small"
        save(inside / "params.safetensors", gemma(one, layer))
        say(inside / "config.json", gemma_config(layer, point, out, "transcoder" if out else "sae"))
    return folder


def save_gemma_clt(folder: Path, ones: list[Drawn]) -> Path:
    """A slot for every layer, those before a feature's own empty."""
    for layer, one in enumerate(ones):
        every = torch.stack([one.w_dec.get(to, torch.zeros(N, D)) for to in range(LAYERS)], dim=1)
        save(folder / f"params_layer_{layer}.safetensors", {**gemma(one, layer), "w_dec": every})
    say(folder / "config.json", gemma_config(0, IN, OUT, "clt"))
    return folder


def sparsify(one: Drawn, w_dec: Tensor) -> dict[str, Tensor | None]:
    return {"encoder.weight": one.w_enc.T, "encoder.bias": one.b_enc, "W_dec": w_dec, "b_dec": one.b_dec,
            "W_skip": turned(one.w_skip)}  # fmt: skip


def save_sparsify(folder: Path, ones: list[Drawn], module: str = "h.{}.mlp", **more: Any) -> Path:
    """Transcoders, per layer or across layers by what they write."""
    clt = any(len(one.w_dec) > 1 for one in ones)
    for layer, one in enumerate(ones):
        sources = [source.w_dec[layer] for source in ones if layer in source.w_dec]
        counts = {"n_sources": len(sources), "n_targets": LAYERS - layer} if clt else {}
        said = {"k": K, "num_latents": N, "activation": "topk", "expansion_factor": 32, "normalize_decoder": True,
                "multi_topk": False, "skip_connection": one.w_skip is not None, "transcode": True,
                "d_in": D}  # fmt: skip
        inside = folder / module.format(layer)
        save(inside / "sae.safetensors", sparsify(one, torch.cat(sources)))
        say(inside / "cfg.json", {**said, **counts, **more})
    return folder


def save_sparsecoder(folder: Path, ones: list[Drawn]) -> Path:
    for layer, one in enumerate(ones):
        tensors = {"W_enc": one.w_enc.T, "b_enc": one.b_enc, "W_dec": one.w_dec[layer].T, "b_dec": one.b_dec}
        save(folder / f"layer_{layer}.safetensors", {**tensors, "W_skip": turned(one.w_skip)})
    return folder


def save_sparsecoder_clt(folder: Path, ones: list[Drawn]) -> Path:
    for layer, one in enumerate(ones):
        save(folder / f"encoder_layer_{layer}.safetensors", {"W_enc": one.w_enc.T, "b_enc": one.b_enc})
        decoders = {f"W_dec_from_{s}": ones[s].w_dec[layer].T for s in range(layer + 1)}
        skip = {"W_skip": turned(one.w_skip)}
        save(folder / f"decoder_layer_{layer}.safetensors", {**decoders, **skip, "b_dec": one.b_dec})
    return folder


def save_dictionary_learning(
    folder: Path, state: Mapping[str, Tensor], dict_class: str, said: Mapping[str, Any] = {}, **more: Any
) -> Path:
    folder.mkdir(parents=True)
    torch.save(dict(state), folder / "ae.pt")
    trainer = {"dict_class": dict_class, "activation_dim": D, "dict_size": N, "k": K, "layer": 1, "lr": 1e-4,
            "lm_name": "EleutherAI/pythia-70m", "submodule_name": "resid_post_layer_1", **said}  # fmt: skip
    say(folder / "config.json", {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128, "d_submodule": D}, **more})
    return folder
