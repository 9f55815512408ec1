"""Random transcoders of a model, per layer and across layers, in files as they lie about; and the same by hand.

Biases and thresholds let a modest number fire. What is by hand has the float32 numbers that the files have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from support import tiny
from support.families import CONFIGS, PlainFamily, save_checkpoint
from support.plain import Place, PlainSae, PlainTranscoder

D_SAE, K = 40, 6
FIRING = 0.15  # share of positions at which a feature fires, but for TopK
HOOKS = {"mlp_in": "mlp.hook_in", "resid_mid": "hook_resid_mid"}
BEFORE_THE_NORM = {("llama", "saelens"), ("llama", "across"), ("gemma2", "tracer"), ("gemma2", "across")}
BESIDE = ("mlp_in", "mlp_out", "resid_post")  # where there are SAEs beside the transcoders of SAELens's folders
Transcoders = dict[Place, PlainTranscoder]
Clean = list[dict[Place, Tensor]]  # activations of all sites, of some sequences


@dataclass(frozen=True, eq=False)
class Kept:
    """A model and dictionaries on disk, and all of it by hand."""

    model: Path
    folder: Path
    plain: PlainFamily
    dictionaries: dict[Place, PlainSae]

    def run(self, *sites: str, layers: str = ":") -> dict[str, Any]:
        """Settings of a run of these; their files don't say whether a text begins with BOS."""
        return {
            "model": str(self.model),
            "saes": {"release": str(self.folder), "sites": list(sites), "layers": layers},
            "texts": {"prepend_bos": True},
        }


@dataclass(frozen=True)
class Made:
    """A random checkpoint of a family with the demo's tokenizer, and its transcoders in one of the layouts.

    `saelens` and `tracer` are per layer, the first beside SAEs; `normalized` is SAELens's, of what a norm makes before
    its gain and bias; `across` is circuit-tracer's other one.
    """

    family: str
    layout: str

    def save(self, folder: Path) -> Kept:
        told = {name: value for name, value in CONFIGS[self.family].to_diff_dict().items() if name != "layer_types"}
        layers = "n_layer" if self.family == "gpt2" else "num_hidden_layers"
        config = type(CONFIGS[self.family])(**{**told, layers: 3, "vocab_size": tiny.VOCAB})
        model = tiny.with_tokenizer(save_checkpoint(self.family, folder / "model", config=config))
        plain, draw = PlainFamily(model, self.family), torch.Generator().manual_seed(1)
        clean = [plain.run(tokens)[0] for tokens in torch.randint(0, tiny.VOCAB, (12, 16), generator=draw)]
        at = folder / "dictionaries"
        return Kept(model, at, plain, self._write(at, plain, clean, draw))

    @property
    def reads(self) -> str:
        """What the MLP reads, or the stream before its norm, which parallel blocks have not."""
        return "resid_mid" if (self.family, self.layout) in BEFORE_THE_NORM else "mlp_in"

    def _write(self, at: Path, plain: PlainFamily, clean: Clean, draw: torch.Generator) -> dict[Place, PlainSae]:
        kinds = ("standard", "jumprelu")
        if self.layout == "across":
            return save_tracer_across(at, random_transcoders(clean, self.reads, kinds, across=True))
        if self.layout == "tracer":
            return save_tracer(at, random_transcoders(clean, self.reads, ("topk",), skip=True))
        if self.layout == "normalized":
            norms = {layer: plain.norm(layer) for layer in range(3)}
            for sites in clean:
                for layer, (gain, bias) in norms.items():
                    sites[layer, self.reads] = (sites[layer, self.reads] - bias) / gain
            found = save_saelens(at, random_transcoders(clean, self.reads, kinds, skip=True), "ln2.hook_normalized")
            return {place: replace(one, norm=norms[place[0]]) for place, one in found.items()}
        found = save_saelens(at, random_transcoders(clean, self.reads, kinds, skip=True))
        for place in [(layer, name) for layer in range(3) for name in BESIDE if name != self.reads]:
            x, own = torch.cat([sites[place][1:] for sites in clean]), at / f"{place[0]}.{place[1]}"
            tiny.save_sae(own, place, "standard", "none", x, draw)
            found[place] = PlainSae.read(own)
        return found


def random_transcoders(
    clean: Clean,
    reads: str,
    architectures: tuple[str, ...],
    *,
    skip: bool = False,
    across: bool = False,
    seed: int = 0,
) -> Transcoders:
    """One a layer, by what it reads; their architectures in turn.

    Args:
        clean: What they are made for.
        reads: `mlp_in` or `resid_mid`.
        architectures: Of standard, topk and jumprelu.
        skip: Whether each second one, from the first on, has a skip connection.
        across: Whether each writes the outputs of all later MLPs, too.
        seed: Of all draws.
    """
    draw = torch.Generator().manual_seed(seed)
    layers = sorted({layer for layer, name in clean[0] if name == "mlp_out"})
    found = {}
    for layer in layers:
        x = torch.cat([sites[layer, reads][1:] for sites in clean]).double()
        written = [(later, "mlp_out") for later in (layers[layer:] if across else [layer])]
        architecture = architectures[layer % len(architectures)]
        found[layer, reads] = _random(x, architecture, written, draw, skip=skip and layer % 2 == 0)
    return found


def _random(
    x: Tensor, architecture: str, written: list[Place], draw: torch.Generator, *, skip: bool
) -> PlainTranscoder:
    """One for activations like x."""
    d = x.shape[1]
    w_enc = torch.randn(d, D_SAE, generator=draw).double() / d**0.5
    pre = x @ w_enc
    bar, spread = pre.quantile(1 - FIRING, dim=0), pre.std()
    small = 0.05 * spread * torch.rand(D_SAE, generator=draw).double()
    weights = {"W_enc": w_enc, "b_enc": small - (bar if architecture == "standard" else 0)}
    if architecture == "jumprelu":
        weights["threshold"] = (bar + small).clamp(min=1e-3)
    weights["b_dec"] = 0.1 * torch.randn(d, generator=draw).double()
    if skip:
        weights["W_skip"] = 0.3 * torch.randn(d, d, generator=draw).double() / d**0.5
    size = 2 / max(1.0, float(spread)) / d**0.5
    decoders = {place: size * torch.randn(D_SAE, d, generator=draw).double() for place in written}
    weights, decoders = ({key: w.float() for key, w in some.items()} for some in (weights, decoders))
    return PlainTranscoder.of(architecture, weights, decoders, K)


def save_saelens(folder: Path, transcoders: Transcoders, hook: str = "") -> Transcoders:
    """SAELens's folders, one each; TopK it doesn't have. `hook` is what the norm makes before its weights."""
    for (layer, reads), one in transcoders.items():
        kind = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}[one.config["architecture"]]
        skip = "W_skip" in one.weights
        kind = kind.replace("transcoder", "skip_transcoder") if skip else kind
        ((written, w_dec),) = one.decoders.items()
        metadata = {
            "hook_name": f"blocks.{layer}.{hook or HOOKS[reads]}",
            "hook_name_out": f"blocks.{written[0]}.hook_mlp_out",
            "prepend_bos": True,
            "model_from_pretrained_kwargs": {"fold_ln": bool(hook), "center_writing_weights": False},
        }
        d_in, d_sae = one.weights["W_enc"].shape
        config = {
            "architecture": kind,
            "d_in": d_in,
            "d_out": w_dec.shape[1],
            "d_sae": d_sae,
            "dtype": "float32",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "metadata": metadata,
        }
        at = folder / f"{layer}.{reads}"
        at.mkdir(parents=True)
        (at / "cfg.json").write_text(json.dumps(config))
        _save({**one.weights, "W_dec": w_dec}, at / "sae_weights.safetensors")
    return transcoders


def save_tracer(folder: Path, transcoders: Transcoders) -> Transcoders:
    """circuit-tracer's folder, per layer: one architecture, without thresholds TopK's if it says k."""
    reads, first = next((reads, one) for (_, reads), one in transcoders.items())
    kind = first.config["architecture"]
    said = {"activation": "topk", "k": first.config["k"]} if kind == "topk" else {"activation": "relu"}
    _config(folder, "transcoder_set", reads, said)
    for (layer, _), one in transcoders.items():
        ((_, w_dec),) = one.decoders.items()
        weights = {**one.weights, "W_enc": one.weights["W_enc"].T, "W_dec": w_dec}
        if "threshold" in weights:
            weights["activation_function.threshold"] = weights.pop("threshold")
        _save(weights, folder / f"layer_{layer}.safetensors")
    return transcoders


def save_tracer_across(folder: Path, transcoders: Transcoders) -> Transcoders:
    """circuit-tracer's folder, across layers."""
    _config(folder, "cross_layer_transcoder", next(reads for _, reads in transcoders), {})
    for (layer, _), one in transcoders.items():
        named = {name: one.weights[name] for name in ("b_enc", "b_dec", "threshold") if name in one.weights}
        encoder = {f"{name}_{layer}": value for name, value in named.items()}
        encoder[f"W_enc_{layer}"] = one.weights["W_enc"].T
        _save(encoder, folder / f"W_enc_{layer}.safetensors")
        rows = [w_dec for _, w_dec in sorted(one.decoders.items())]
        _save({f"W_dec_{layer}": torch.stack(rows, 1)}, folder / f"W_dec_{layer}.safetensors")
    return transcoders


def _config(folder: Path, kind: str, reads: str, more: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    config = {
        "model_name": "random",
        "model_kind": kind,
        "feature_input_hook": HOOKS[reads],
        "feature_output_hook": "hook_mlp_out",
        **more,
    }
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))


def _save(weights: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.float().contiguous() for name, value in weights.items()}, path)
