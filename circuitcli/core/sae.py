"""Sparse autoencoders: encode, decode and edit, exactly as they were trained.

An SAE sees an activation x in a frame of its own, (x − shift) / divisor, and what it says is put back by σ:

    none                 shift = 0              divisor = 1             σ = 1
    layer_norm           shift = mean           divisor = std + 1e-5    σ = std      std unbiased over d_in
    constant_norm        shift = 0              divisor = |x|/√d_in     σ = |x|/√d_in
    centre               shift = mean, for an SAE of a stream whose mean over d_model was removed
    offset               x − offset stands for x throughout, and shift has the offset added

    h   = ((x − shift)/divisor − b_dec·[apply_b_dec_to_input]) W_enc
    a   = act(h + b_enc)      relu | topk(k) then relu | jumprelu: h + b_enc where above threshold, then relu
          gated:              [h + b_gate > 0] · relu(h·exp(r_mag) + b_enc)
    x̂   = σ·(a W_dec + b_dec) + shift

Bricken et al. 2023 (ReLU), Gao et al. 2024 (TopK, layer_norm), Rajamanoharan et al. 2024 (gated, and JumpReLU),
Conerly et al. 2024 (constant norm); conventions of SAELens. All arithmetic is float32, whatever the model runs in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.active import Active, where
from circuitcli.core.sites import Site

Activation = Literal["relu", "topk", "jumprelu", "gated"]
Normalisation = Literal["none", "layer_norm", "constant_norm"]
LAYER_NORM_EPS = 1e-5
_TINY = torch.finfo(torch.float32).tiny  # a zero activation has no direction, and stays zero
_DENSE_BYTES = 2**26  # of the encodings that are held at once where only the active ones are wanted
_TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "b_gate", "r_mag", "offset")


class Frame(NamedTuple):
    """How an SAE sees activations: it reads (x − shift)/divisor, and adds σ times what it writes to the shift."""

    shift: Float[Tensor, "*n d_in"]
    divisor: Float[Tensor, "*n 1"]
    sigma: Float[Tensor, "*n 1"]


@dataclass(frozen=True, eq=False)
class Sae:
    """One sparse autoencoder at one site.

    Attributes:
        site: Where it reads.
        activation: `relu`; `topk`, which keeps the k largest pre-activations and then applies relu; `jumprelu`,
            which keeps the pre-activations above `threshold`; `gated`, where one affine map decides whether a feature
            fires and another, of the same directions, how much.
        w_enc, b_enc, w_dec, b_dec: Weights, float32. b_enc of a gated SAE is the bias of its magnitudes.
        threshold: Of jumprelu.
        k: Of topk.
        b_gate, r_mag: Of gated: the bias of the gate, and the log-scale of the magnitudes.
        apply_b_dec_to_input: Whether b_dec is subtracted before encoding.
        normalisation: What is done to an activation before encoding and undone after decoding.
        centre: Whether it was trained on a stream whose mean over d_model was removed, while the model keeps it.
        offset: What the model's activations have and those that it was trained on had not.
    """

    site: Site
    activation: Activation
    w_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    w_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"] | None = None
    k: int | None = None
    b_gate: Float[Tensor, " d_sae"] | None = None
    r_mag: Float[Tensor, " d_sae"] | None = None
    apply_b_dec_to_input: bool = True
    normalisation: Normalisation = "none"
    centre: bool = False
    offset: Float[Tensor, " d_in"] | None = None

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.w_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of its features."""
        return self.w_enc.shape[1]

    def to(self, device: torch.device, *, decoder: bool = True) -> Sae:
        """The same SAE on another device; without its decoder where only some of its rows will be asked for."""
        names = [name for name in _TENSORS if getattr(self, name) is not None and (decoder or name != "w_dec")]
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """What decides whether a feature fires: h + b_enc, of a gated SAE h + b_gate."""
        return torch.matmul(self._normal(x), self.w_enc).add_(self.b_enc if self.b_gate is None else self.b_gate)

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Activations of all features, ≥ 0."""
        if self.activation == "topk":
            assert self.k is not None
            pre = self.pre_activations(x)
            top, index = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter_(-1, index, top.relu())
        return self._activated(self._projections(x))

    def active(self, x: Float[Tensor, "n d_in"]) -> Active:
        """The activations that aren't 0, of each row; all of them are never held at once."""
        size = max(1, _DENSE_BYTES // (4 * self.d_sae))
        parts = [self._active(x[start : start + size], start) for start in range(0, len(x), size)]
        if not parts:
            none = torch.zeros(0, dtype=torch.long, device=x.device)
            parts = [(none, none, torch.zeros(0, device=x.device))]
        place, feature, value = (torch.cat(column) for column in zip(*parts, strict=True))
        return Active(place, feature, value, self.d_sae)

    def _active(self, x: Float[Tensor, "n d_in"], start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row (counted from `start`), feature and activation of some rows, in this order."""
        if self.activation == "topk":
            assert self.k is not None
            top, index = self.pre_activations(x).topk(self.k, dim=-1)
            index, order = index.sort(dim=-1)
            fires = where((top := top.gather(-1, order)) > 0)
            return fires // self.k + start, index.flatten()[fires], top.flatten()[fires]
        # Of relu the pre-activations will do: where they are above 0 they are the activations.
        encoded = self.pre_activations(x) if self.activation == "relu" else self.encode(x)
        fires = where(encoded > 0)
        return fires // self.d_sae + start, fires % self.d_sae, encoded.flatten()[fires]

    def doubtful(self, x: Float[Tensor, "*n d_in"], within: float) -> Bool[Tensor, "*n d_sae"]:
        """Features so near to where they begin to fire, or to the k-th largest, that rounding may decide."""
        pre = self.pre_activations(x)
        if self.activation == "topk":
            assert self.k is not None
            top = pre.topk(min(self.k + 1, self.d_sae), dim=-1).values
            last, next_one = top[..., self.k - 1, None], top[..., -1:]
            rival = torch.where(pre >= last, next_one, last)
            return ((pre - rival).abs() < within) & (pre > -within)
        return (pre - (0.0 if self.threshold is None else self.threshold.clamp(min=0))).abs() < within

    def _activated(self, h: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        """What the features make of their projections h; not of topk."""
        if self.activation == "gated":
            assert self.b_gate is not None and self.r_mag is not None
            return (h * self.r_mag.exp() + self.b_enc).relu() * (h + self.b_gate > 0)
        pre = h + self.b_enc
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold)
        return pre.relu()

    def _projections(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """The projections h onto the encoder's directions."""
        return self._normal(x) @ self.w_enc

    def _normal(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """What the encoder's matrix sees of x."""
        shift, divisor, _ = self.frame(x)
        normal = (x.float() - shift) / divisor
        return normal - self.b_dec if self.apply_b_dec_to_input else normal

    def decode(self, a: Float[Tensor, "*n d_sae"], x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """The reconstruction x̂ of x from activations `a`; x gives the frame that is put back."""
        shift, _, sigma = self.frame(x)
        return (a @ self.w_dec + self.b_dec) * sigma + shift

    def edit(
        self,
        x: Float[Tensor, "*n d_in"],
        feature: Int[Tensor, "*n"],
        activation: Float[Tensor, "*n"],
        replacement: Float[Tensor, "*n"],
    ) -> Float[Tensor, "*n d_in"]:
        """δ = σ·(c − a_j)·W_dec[j]: what replacing one feature's activation adds to x; σ is its frame's.

        The SAE's error and all other latents stay as they are, so no decoding is needed (error-preserving ablation,
        Marks et al. 2024).

        Args:
            x: Clean activations of the site, one a row.
            feature: Index j of the feature replaced in each row.
            activation: Its clean activation a_j.
            replacement: What it becomes, c.
        """
        rows = self.w_dec[feature.to(self.w_dec.device)].to(x.device)
        delta = (replacement - activation).unsqueeze(-1) * rows * self.frame(x).sigma
        return delta - delta.mean(-1, keepdim=True) if self.centre else delta

    def frame(self, x: Float[Tensor, "*n d_in"]) -> Frame:
        """Shift, divisor and σ of each activation; see the module's docstring."""
        wide = x.float() if self.offset is None else x.float() - self.offset
        mean = wide.mean(-1, keepdim=True)
        shift = mean.expand_as(wide) if self.normalisation == "layer_norm" or self.centre else torch.zeros_like(wide)
        one = torch.ones_like(mean)
        if self.normalisation == "layer_norm":
            std = wide.std(-1, keepdim=True)
            divisor, sigma = std + LAYER_NORM_EPS, std
        elif self.normalisation == "constant_norm":
            sigma = divisor = ((wide - shift).norm(dim=-1, keepdim=True) / self.d_in**0.5).clamp(min=_TINY)
        else:
            divisor, sigma = one, one
        return Frame(shift if self.offset is None else shift + self.offset, divisor, sigma)
