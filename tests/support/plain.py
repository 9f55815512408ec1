"""The second route: GPT-2 by plain `transformers` with torch hooks, SAEs by hand; nothing here is circuitcli's.

Everything is float64, so that what differs from the tool is the tool's rounding. An SAE is read from its SAELens
folder, and its formulas are those of docs/architecture.md §2, written out again:

    pre(x)  none: x     layer_norm: (x − mean) / (std + 1e-5)
    a       act((pre(x) − b_dec) W_enc + b_enc)
    δ       σ·(c − a_j)·W_dec[j],  σ = std for layer_norm, else 1

Transcoders differ in what `PlainTranscoder` says.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2LMHeadModel

NAMES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
# A site's number in the key of a random draw: its place among the first six, and what came later behind them.
NUMBERS = {name: i for i, name in enumerate((*(name for name in NAMES if name != "mlp_in"), "mlp_in"))}
# A latent this close to its threshold, or to the k-th value, may fire here and not there.
NEAR = 1e-4

Place = tuple[int, str]  # layer and name of a site


class PlainModel:
    """A GPT-2 checkpoint, whose sites are read and edited by torch hooks on the modules of `transformers`."""

    def __init__(self, folder: Path) -> None:
        self.lm = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()

    @torch.no_grad()
    def run(self, tokens: Tensor, *edits: tuple[Place, Tensor] | None) -> tuple[dict[Place, Tensor], Tensor]:
        """Activations [t, d] of every site behind all edits, and log-probabilities [t, v], of one sequence."""
        seen: dict[Place, Tensor] = {}
        with ExitStack() as stack:
            for edit in edits:
                stack.enter_context(self._edited(edit))
            stack.enter_context(self._reading(seen))
            logits = self.lm(tokens.unsqueeze(0), use_cache=False).logits[0]
        return seen, logits.log_softmax(-1)

    @torch.enable_grad()
    def gradient(self, tokens: Tensor, place: Place, width: int, read: list[int]) -> Tensor:
        """∂/∂x at a site, [t, width], of Σ over the positions read of the likeliest next token's log-probability."""
        zero = torch.zeros(len(tokens), width, dtype=torch.float64, requires_grad=True)
        with self._edited((place, zero)):
            logits = self.lm(tokens.unsqueeze(0), use_cache=False).logits[0]
        said = logits.log_softmax(-1)[read].max(-1).values.sum()
        return torch.autograd.grad(said, zero)[0]

    @contextmanager
    def _reading(self, seen: dict[Place, Tensor]) -> Iterator[None]:
        def into(place: Place):
            def note(value: Tensor) -> None:
                seen[place] = value[0].clone()

            return note

        handles = []
        for layer, block in enumerate(self.lm.transformer.h):
            before = {"resid_pre": block, "z": block.attn.c_proj, "resid_mid": block.ln_2, "mlp_in": block.mlp}
            after = {"attn_out": block.attn.c_proj, "mlp_out": block.mlp, "resid_post": block}
            for name, module in before.items():
                note = into((layer, name))
                handles.append(module.register_forward_pre_hook(lambda m, args, note=note: note(args[0])))
            for name, module in after.items():
                note = into((layer, name))
                handles.append(module.register_forward_hook(lambda m, args, out, note=note: note(_tensor(out))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _edited(self, edit: tuple[Place, Tensor] | None) -> Iterator[None]:
        """Add δ at a site; at resid_mid to attn_out, from where the skip path and the MLP both see it."""
        if edit is None:
            yield
            return
        (layer, name), delta = edit
        block = self.lm.transformer.h[layer]
        before = {"resid_pre": block, "z": block.attn.c_proj, "mlp_in": block.mlp}
        after = {"attn_out": block.attn.c_proj, "resid_mid": block.attn.c_proj, "mlp_out": block.mlp}
        if name in before:
            handle = before[name].register_forward_pre_hook(lambda m, args: (args[0] + delta, *args[1:]))
        else:
            module = after.get(name, block)
            handle = module.register_forward_hook(lambda m, args, out: _replaced(out, _tensor(out) + delta))
        try:
            yield
        finally:
            handle.remove()


def _tensor(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def _replaced(out: Tensor | tuple[Tensor, ...], value: Tensor) -> Tensor | tuple[Tensor, ...]:
    return (value, *out[1:]) if isinstance(out, tuple) else value


@dataclass(frozen=True, eq=False)
class PlainSae:
    """An SAE as its SAELens folder has it."""

    config: dict
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> "PlainSae":
        weights = load_file(folder / "sae_weights.safetensors")
        return cls(json.loads((folder / "cfg.json").read_text()), {k: v.double() for k, v in weights.items()})

    def pre(self, x: Tensor) -> Tensor:
        """What the activation function sees, of activations [..., d_in]."""
        if self.config["normalize_activations"] == "layer_norm":
            x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, unbiased=True) + 1e-5)
        if self.config["apply_b_dec_to_input"]:
            x = x - self.weights["b_dec"]
        return x @ self.weights["W_enc"] + self.weights["b_enc"]

    def encode(self, x: Tensor) -> Tensor:
        """The activations of all latents."""
        pre = self.pre(x)
        fires = pre > 0
        if self.config["architecture"] == "topk":
            fires &= pre >= pre.sort(-1, descending=True).values[..., self.config["k"] - 1, None]
        if self.config["architecture"] == "jumprelu":
            fires &= pre > self.weights["threshold"]
        return torch.where(fires, pre, 0)

    def doubtful(self, x: Tensor) -> Tensor:
        """Which latents are so near to their threshold, or to the k-th value, that rounding may decide."""
        pre = self.pre(x)
        if self.config["architecture"] == "topk":
            ordered, k = pre.sort(-1, descending=True).values, self.config["k"]
            rival = torch.where(pre >= ordered[..., k - 1, None], ordered[..., k, None], ordered[..., k - 1, None])
            return (pre - rival).abs() < NEAR
        if self.config["architecture"] == "jumprelu":
            return (pre - self.weights["threshold"]).abs() < NEAR
        return torch.zeros_like(pre, dtype=torch.bool)

    def edit(self, x: Tensor, feature: int, replacement: float) -> Tensor:
        """δ for activations [..., d_in]."""
        change = (replacement - self.encode(x)[..., feature, None]) * self.weights["W_dec"][feature]
        scaled = self.config["normalize_activations"] == "layer_norm"
        return change * x.std(-1, keepdim=True, unbiased=True) if scaled else change

    def edits(self, place: Place, x: Tensor, feature: int, replacement: float) -> dict[Place, Tensor]:
        """δ at every place that it writes: its own."""
        return {place: self.edit(x, feature, replacement)}


@dataclass(frozen=True, eq=False)
class PlainTranscoder(PlainSae):
    """A transcoder, of one layer or of several: it reads one place, and adds where `decoders` says.

    pre(x) = x W_enc + b_enc, b_dec isn't subtracted;  δ = (c − a_j)·W_dec[j] at each place that is written.
    """

    decoders: dict[Place, Tensor]
    norm: tuple[Tensor, Tensor] | None = None  # gain and bias of a norm, if what it reads is without them

    @classmethod
    def of(cls, architecture: str, weights: dict[str, Tensor], decoders: dict[Place, Tensor], k: int = 0) -> Self:
        """One of a standard, topk or jumprelu architecture."""
        config = {"architecture": architecture, "k": k, "normalize_activations": "none", "apply_b_dec_to_input": False}
        return cls(config, *({key: w.double() for key, w in some.items()} for some in (weights, decoders)))

    def pre(self, x: Tensor) -> Tensor:
        return super().pre(self._seen(x))

    def edits(self, place: Place, x: Tensor, feature: int, replacement: float) -> dict[Place, Tensor]:
        change = replacement - self.encode(x)[..., feature, None]
        return {written: change * w_dec[feature] for written, w_dec in self.decoders.items()}

    def constant(self, x: Tensor) -> Tensor:
        """What it says at its first place beside its features: b_dec + x W_skipᵀ."""
        skip = self.weights.get("W_skip")
        return self.weights["b_dec"] + (0 if skip is None else self._seen(x) @ skip.T)

    def _seen(self, x: Tensor) -> Tensor:
        return x if self.norm is None else (x - self.norm[1]) / self.norm[0]
