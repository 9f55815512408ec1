"""Sparse autoencoders: encode, decode and edit, exactly as they were trained.

    pre(x)  none: x     layer_norm: (x − mean) / (std + 1e-5), std unbiased over d_in
    a       = act((pre(x) − b_dec·[apply_b_dec_to_input]) W_enc + b_enc)
    x̂       none: a W_dec + b_dec     layer_norm: std·(a W_dec + b_dec) + mean

Bricken et al. 2023 (ReLU), Gao et al. 2024 (TopK, layer_norm), Rajamanoharan et al. 2024 (JumpReLU); conventions of
SAELens. All arithmetic is float32, whatever the model runs in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.sites import Site

Activation = Literal["relu", "topk", "jumprelu"]
Normalisation = Literal["none", "layer_norm"]
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class Sae:
    """One sparse autoencoder at one site.

    Attributes:
        site: Where it reads.
        activation: `relu`; `topk`, which keeps the k largest pre-activations and then applies relu; `jumprelu`,
            which keeps the pre-activations above `threshold`.
        w_enc, b_enc, w_dec, b_dec: Weights, float32.
        threshold: Of jumprelu.
        k: Of topk.
        apply_b_dec_to_input: Whether b_dec is subtracted before encoding.
        normalisation: What is done to an activation before encoding and undone after decoding.
        centre: Whether it was trained on a stream whose mean over d_model was removed, while the model keeps it.
    """

    site: Site
    activation: Activation
    w_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    w_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"] | None = None
    k: int | None = None
    apply_b_dec_to_input: bool = True
    normalisation: Normalisation = "none"
    centre: bool = False

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.w_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of its features."""
        return self.w_enc.shape[1]

    def to(self, device: torch.device) -> Sae:
        """The same SAE on another device."""
        return replace(
            self,
            w_enc=self.w_enc.to(device),
            b_enc=self.b_enc.to(device),
            w_dec=self.w_dec.to(device),
            b_dec=self.b_dec.to(device),
            threshold=None if self.threshold is None else self.threshold.to(device),
        )

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """(pre(x) − b_dec) W_enc + b_enc: what the activation function sees."""
        mean, std = self.statistics(x)
        normal = x.float() - mean
        if self.normalisation == "layer_norm":
            normal = normal / (std + LAYER_NORM_EPS)
        if self.apply_b_dec_to_input:
            normal = normal - self.b_dec
        return normal @ self.w_enc + self.b_enc

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Activations of all features, ≥ 0."""
        pre = self.pre_activations(x)
        if self.activation == "topk":
            assert self.k is not None
            top, index = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter_(-1, index, top.relu())
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold)
        return pre.relu()

    def decode(self, a: Float[Tensor, "*n d_sae"], x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """The reconstruction x̂ of x from activations `a`; x gives the mean and std that are put back."""
        mean, std = self.statistics(x)
        out = a @ self.w_dec + self.b_dec
        return (out * std if self.normalisation == "layer_norm" else out) + mean

    def edit(
        self,
        x: Float[Tensor, "*n d_in"],
        feature: Int[Tensor, "*n"],
        activation: Float[Tensor, "*n"],
        replacement: Float[Tensor, "*n"],
    ) -> Float[Tensor, "*n d_in"]:
        """δ = σ·(c − a_j)·W_dec[j]: what replacing one feature's activation adds to x; σ is std for layer_norm, else 1.

        The SAE's error and all other latents stay as they are, so no decoding is needed (error-preserving ablation,
        Marks et al. 2024).

        Args:
            x: Clean activations of the site, one a row.
            feature: Index j of the feature replaced in each row.
            activation: Its clean activation a_j.
            replacement: What it becomes, c.
        """
        delta = (replacement - activation).unsqueeze(-1) * self.w_dec[feature]
        if self.normalisation == "layer_norm":
            delta = delta * self.statistics(x)[1]
        return delta - delta.mean(-1, keepdim=True) if self.centre else delta

    def statistics(self, x: Float[Tensor, "*n d_in"]) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n 1"]]:
        """The mean that encoding subtracts (0 if none), and the unbiased standard deviation, both over d_in."""
        wide = x.float()
        mean = wide.mean(-1, keepdim=True)
        std = wide.std(-1, keepdim=True)
        return (mean if self.normalisation == "layer_norm" or self.centre else torch.zeros_like(mean)), std
