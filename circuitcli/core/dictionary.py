"""Dictionaries: encode, decode and edit, exactly as they were trained.

    h   = (frame(x) − b_dec·[apply_b_dec_to_input]) W_enc      see `core.frame`
    a   = act(h + b_enc)                                       see `core.activations`
    x̂   = σ·(a W_dec + b_dec) + shift

Conventions of SAELens. All arithmetic is float32, whatever the model runs in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.activations import Activation
from circuitcli.core.active import Active
from circuitcli.core.frame import PLAIN, Frame
from circuitcli.core.sites import Site

_DENSE_BYTES = 2**26  # of the encodings that are held at once where only the active ones are wanted
_TENSORS = ("w_enc", "b_enc", "b_dec")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """One dictionary: an SAE writes where it reads, a transcoder elsewhere.

    Attributes:
        reads: The site whose activations it encodes.
        writes: The site that it reconstructs, and where a feature of it is edited.
        activation: What it makes of its pre-activations, with the tensors of its own that this takes.
        w_enc, b_enc, w_dec, b_dec: Weights, float32. b_enc is 0 where the activation has biases of its own.
        apply_b_dec_to_input: Whether b_dec is subtracted before encoding.
        frame: How it sees activations.
    """

    reads: Site
    writes: Site
    activation: Activation
    w_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    w_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    apply_b_dec_to_input: bool = True
    frame: Frame = PLAIN

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.w_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of its features."""
        return self.w_enc.shape[1]

    def to(self, device: torch.device, *, decoder: bool = True) -> Dictionary:
        """The same on another device; without its decoder where only some of its rows will be asked for."""
        names = (*_TENSORS, *(["w_dec"] if decoder else []))
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, activation=self.activation.to(device), frame=self.frame.to(device), **moved)

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """The pre-activations h + b_enc, to which the activation is applied."""
        seen = self.frame.seen(x)
        seen = seen - self.b_dec if self.apply_b_dec_to_input else seen
        return torch.matmul(seen, self.w_enc).add_(self.b_enc)

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Activations of all features, ≥ 0."""
        return self.activation.apply(self.pre_activations(x))

    def active(self, x: Float[Tensor, "n d_in"]) -> Active:
        """The activations that aren't 0, of each row; all of them are never held at once."""
        size = max(1, _DENSE_BYTES // (4 * self.d_sae))
        none = torch.zeros(0, dtype=torch.long, device=x.device)
        parts = [(none, none, torch.zeros(0, device=x.device))]
        for start in range(0, len(x), size):
            row, feature, value = self.activation.firing(self.pre_activations(x[start : start + size]))
            parts.append((row + start, feature, value))
        place, feature, value = (torch.cat(column) for column in zip(*parts, strict=True))
        return Active(place, feature, value, self.d_sae)

    def doubtful(self, x: Float[Tensor, "*n d_in"], within: float) -> Bool[Tensor, "*n d_sae"]:
        """Features so near to where they begin to fire that rounding may decide."""
        return self.activation.border(self.pre_activations(x)) < within

    def decode(self, a: Float[Tensor, "*n d_sae"], x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """The reconstruction x̂ of x from activations `a`; x gives the frame that is put back."""
        return self.frame.put_back(a @ self.w_dec + self.b_dec, x)

    def edit(
        self,
        x: Float[Tensor, "*n d_in"],
        feature: Int[Tensor, "*n"],
        activation: Float[Tensor, "*n"],
        replacement: Float[Tensor, "*n"],
    ) -> Float[Tensor, "*n d_in"]:
        """δ = σ·(c − a_j)·W_dec[j]: what replacing one feature's activation adds where it writes; σ is its frame's.

        The error and all other latents stay as they are, so no decoding is needed (error-preserving ablation, Marks
        et al. 2024).

        Args:
            x: Clean activations of the site, one a row.
            feature: Index j of the feature replaced in each row.
            activation: Its clean activation a_j.
            replacement: What it becomes, c.
        """
        rows = self.w_dec[feature.to(self.w_dec.device)].to(x.device)
        return self.frame.step((replacement - activation).unsqueeze(-1) * rows, x)
