"""Plug point: what a dictionary makes of its pre-activations. One file an architecture, by SAELens's name of it.

A file's `plugin` is a frozen dataclass that follows `Activation`. Its fields are what the architecture has of its own:
an int or a float is a key of that name in a dictionary's configuration, anything else a tensor [d_sae] of that name in
its weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import ClassVar, NamedTuple, TypeVar, get_type_hints

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.active import where

Self = TypeVar("Self", bound="Activation")
NUMBERS = (int, float)


class Firing(NamedTuple):
    """Features that fire, in the order of rows, then features: row, feature and activation of each."""

    row: Int[Tensor, " m"]
    feature: Int[Tensor, " m"]
    value: Float[Tensor, " m"]


class Candidates(NamedTuple):
    """Of each row the features that may fire, ascending, or None: all; those whose value is above 0 do."""

    feature: Int[Tensor, "n c"] | None
    value: Float[Tensor, "n c"]

    def at(self, index: Int[Tensor, " m"]) -> Firing:
        """Those of some flat indices."""
        width = self.value.shape[-1]
        feature = index % width if self.feature is None else self.feature.flatten()[index]
        return Firing(index // width, feature, self.value.flatten()[index])

    def firing(self) -> Firing:
        """Those that fire."""
        return self.at(where(self.value > 0))


@dataclass(frozen=True, eq=False)
class Activation(ABC):
    """From pre-activations, h + b_enc for projections h onto the encoder's directions, to activations.

    Attributes:
        biased: Whether its weights have b_enc; else the pre-activations are h alone.
        rescaled: Whether it may be saved with decoder norms that are still to be folded in
            (`rescale_acts_by_decoder_norm`), as only SAELens's TopK is.
    """

    biased: ClassVar[bool] = True
    rescaled: ClassVar[bool] = False

    @abstractmethod
    def apply(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        """Activations of all features, ≥ 0."""

    @abstractmethod
    def border(self, pre: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_sae"]:
        """How far each feature is, in units of `pre`, from where it begins or ceases to fire: rounding may decide."""

    def slope(self, feature: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """∂a/∂pre of features where they fire; where they don't it is 0. Which ones fire, or where they begin to, has
        no derivative.
        """
        return torch.ones(feature.shape, device=feature.device)

    def candidates(self, pre: Float[Tensor, "n d_sae"]) -> Candidates:
        """The activations that may not be 0; an activation that knows them without making all says so."""
        return Candidates(None, self.apply(pre))

    def unfit(self, d_sae: int) -> str | None:
        """What it needs instead of what it has, of a dictionary with so many features; None if nothing."""
        return None

    def to(self: Self, device: torch.device) -> Self:
        """The same with its tensors on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors(type(self))})


def tensors(kind: type[Activation]) -> list[str]:
    """The names of the tensors that an architecture has of its own."""
    return [name for name, hint in _hints(kind).items() if hint not in NUMBERS]


def numbers(kind: type[Activation]) -> dict[str, type]:
    """The numbers that an architecture has of its own: an int, of at least 1, or a float."""
    return {name: hint for name, hint in _hints(kind).items() if hint in NUMBERS}


@cache
def _hints(kind: type[Activation]) -> dict[str, type]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
