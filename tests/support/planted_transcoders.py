"""Right transcoders on the demo's model, and the same ones with one mistake planted in their files."""

import json
import re
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
from support import planted

Weights = dict[str, Tensor]
_FILE = re.compile(r"(?P<what>layer|W_enc|W_dec)_(?P<layer>\d+)\.safetensors")


def plant(folder: Path, change: Callable[[int, Weights], Weights], *, source: Path, hook: str = "mlp.hook_in") -> Path:
    """A copy of a set of circuit-tracer's, the weights of each file changed, which says that it reads a hook."""
    shutil.copytree(source, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("mlp.hook_in", hook))
    for path in folder.glob("*.safetensors"):
        found = _FILE.fullmatch(path.name)
        assert found is not None
        new = change(int(found["layer"]), {name: value.float() for name, value in load_file(path).items()})
        save_file({name: value.contiguous() for name, value in new.items()}, path)
    return folder


def unchanged(layer: int, weights: Weights) -> Weights:
    return weights


def b_dec(sign: int) -> Callable[[int, Weights], Weights]:
    """b_dec taken from what is read, or added to it, of both kinds of sets."""

    def change(layer: int, weights: Weights) -> Weights:
        own = {name.removesuffix(f"_{layer}"): name for name in weights}
        if "b_enc" not in own:
            return weights
        projected = weights[own["W_enc"]] @ weights[own["b_dec"]]
        return {**weights, own["b_enc"]: weights[own["b_enc"]] + sign * projected}

    return change


def in_front_of(scale: Tensor, shift: Tensor) -> Callable[[int, Weights], Weights]:
    """The same function of (x − shift) / scale as it was of x."""

    def change(layer: int, weights: Weights) -> Weights:
        w_enc, w_skip = weights["W_enc"], weights["W_skip"]
        return {
            **weights,
            "W_enc": w_enc * scale,
            "b_enc": weights["b_enc"] + w_enc @ shift,
            "W_skip": w_skip * scale,
            "b_dec": weights["b_dec"] + w_skip @ shift,
        }

    return change


def written(by: int) -> Callable[[int, Weights], Weights]:
    """What a cross-layer transcoder writes in slots so many layers later, and the last first."""

    def change(layer: int, weights: Weights) -> Weights:
        name = f"W_dec_{layer}"
        return {name: weights[name].roll(by, 1)} if name in weights else weights

    return change


def moved(by: int) -> Callable[[int, Weights], Weights]:
    """A cross-layer transcoder all of which reads and writes so many layers later; what isn't there is 0."""
    tensors = {name: t.float() for path in demo.CLT.glob("*.safetensors") for name, t in load_file(path).items()}

    def change(layer: int, weights: Weights) -> Weights:
        new = {name: torch.zeros_like(value) for name, value in weights.items()}
        for name, value in new.items():
            old = tensors.get(f"{name.removesuffix(f'_{layer}')}_{layer - by}")
            if old is not None and name.startswith("W_dec"):
                slots = min(old.shape[1], value.shape[1])
                value[:, :slots] = old[:, :slots]
            elif old is not None:
                new[name] = old
        return new

    return change


def layers_moved(folder: Path, by: int) -> Path:
    """The demo's transcoders, each in a file of another layer; what has none left goes."""
    shutil.copytree(demo.TRANSCODERS, folder)
    for path in folder.glob("layer_*.safetensors"):
        path.unlink()
    for layer in range(4):
        if 0 <= layer + by < 4:
            shutil.copy(demo.TRANSCODERS / f"layer_{layer}.safetensors", folder / f"layer_{layer + by}.safetensors")
    return folder


def norm(layer: int) -> tuple[Tensor, Tensor]:
    """Gain and bias of the norm before an MLP of the demo's model."""
    block = GPT2LMHeadModel.from_pretrained(demo.MODEL, dtype=torch.float32).transformer.h[layer].ln_2
    return block.weight.data, block.bias.data


def ratios(d: int) -> Tensor:
    """By which gains of `model_with_gains` differ from the demo's."""
    return torch.randn(d, generator=torch.Generator().manual_seed(0)).exp()


def model_with_gains(folder: Path) -> Path:
    """The demo's model with other gains before its MLPs, whose weights make up for it: mlp_in alone is another."""
    model = GPT2LMHeadModel.from_pretrained(demo.MODEL, dtype=torch.float32)
    for block in model.transformer.h:
        ratio = ratios(model.config.n_embd)
        block.ln_2.weight.data *= ratio
        block.ln_2.bias.data *= ratio
        block.mlp.c_fc.weight.data /= ratio.unsqueeze(1)
    return planted.save(model, folder)


def model_with_means(folder: Path) -> Path:
    """The demo's model, whose MLPs write a mean over d_model that its norms don't notice."""
    model = GPT2LMHeadModel.from_pretrained(demo.MODEL, dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    for block in model.transformer.h:
        weight = block.mlp.c_proj.weight.data
        weight += torch.randn(len(weight), 1, generator=draw)
    return planted.save(model, folder)


def save_saelens(folder: Path, layer: int, weights: Weights, hook: str, **options: bool) -> Path:
    """A SAELens folder of a transcoder with a skip connection, of circuit-tracer's tensors."""
    target = folder / f"{layer}"
    target.mkdir(parents=True)
    tensors = {**weights, "W_enc": weights["W_enc"].T}
    save_file({name: value.float().contiguous() for name, value in tensors.items()}, target / "sae_weights.safetensors")
    d_sae, d_in = weights["W_enc"].shape
    tree: dict[str, Any] = {
        "architecture": "skip_transcoder",
        "d_in": d_in,
        "d_out": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "hook_name": f"blocks.{layer}.{hook}",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out",
            "prepend_bos": True,
            "model_from_pretrained_kwargs": options,
        },
    }
    (target / "cfg.json").write_text(json.dumps(tree))
    return folder


def shipped(layer: int) -> Weights:
    """The tensors of the demo's transcoder of a layer."""
    return {name: value.float() for name, value in load_file(demo.TRANSCODERS / f"layer_{layer}.safetensors").items()}


def train(x: Tensor, y: Tensor, *, d_sae: int, k: int = 16, skip: bool = False, steps: int = 250) -> Weights:
    """A TopK transcoder from activations like x [n, d] to ones like y, in circuit-tracer's tensors."""
    draw = torch.Generator().manual_seed(0)
    rows = [functional.normalize(torch.randn(d_sae, part.shape[1], generator=draw), dim=1) for part in (x, y)]
    weights = {"W_enc": rows[0] / x.std(), "W_dec": rows[1] * y.std(), "b_enc": torch.zeros(d_sae), "b_dec": y.mean(0)}
    if skip:
        weights["W_skip"] = torch.zeros(y.shape[1], x.shape[1])
    parameters = {name: value.clone().requires_grad_() for name, value in weights.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=2e-3)
    for _ in range(steps):
        some = torch.randint(len(x), (256,), generator=draw)
        pre = x[some] @ parameters["W_enc"].T + parameters["b_enc"]
        top, index = pre.topk(k, dim=-1)
        a = torch.zeros_like(pre).scatter(-1, index, top.relu())
        said = a @ parameters["W_dec"] + parameters["b_dec"]
        said = said + x[some] @ parameters["W_skip"].T if skip else said
        loss = (said - y[some]).pow(2).mean() / y.var()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach().contiguous() for name, value in parameters.items()}


def save_topk(folder: Path, layer: int, weights: Weights, hook: str, *, k: int = 16) -> Path:
    """A set of circuit-tracer's of one layer."""
    folder.mkdir(parents=True)
    said = {"model_kind": "transcoder_set", "feature_input_hook": hook, "feature_output_hook": "hook_mlp_out"}
    lines = [*(f'{key}: "{value}"' for key, value in said.items()), "activation: topk", f"k: {k}"]
    (folder / "config.yaml").write_text("\n".join([*lines, ""]))
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / f"layer_{layer}.safetensors")
    return folder
