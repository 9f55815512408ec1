"""Matrices of dictionaries: in memory, or left in their file, where only what is asked for is read.

A cross-layer transcoder of twelve layers with 131,072 features each has 78 decoders, 16 GB in bfloat16, and encoders of
5 GB: none of them has to be in memory whole.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Stored(Protocol):
    """A matrix that stays in its file: no page of it stays in memory behind what was asked for."""

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and columns."""
        ...

    def whole(self) -> Float[Tensor, "n m"]:
        """All of it, float32 on the CPU, in order."""
        ...

    def vectors(self, feature: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Those of some features, float32 on the CPU: rows of a decoder, columns of an encoder."""
        ...


Matrix: TypeAlias = Float[Tensor, "_ _"] | Stored


def whole(matrix: Matrix) -> Float[Tensor, "n m"]:
    """All of a matrix, float32, where it is."""
    return matrix.float() if isinstance(matrix, Tensor) else matrix.whole()


def rows(matrix: Matrix, feature: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
    """Rows of a decoder, float32, where `feature` is: no other row is read."""
    if isinstance(matrix, Tensor):
        return matrix[feature.to(matrix.device)].to(feature.device, torch.float32)
    found = matrix.vectors(feature.reshape(-1).cpu())
    return found.reshape(*feature.shape, found.shape[1]).to(feature.device)


def columns(matrix: Matrix, feature: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Columns of an encoder, a row each, where `feature` is."""
    if isinstance(matrix, Tensor):
        return matrix[:, feature.to(matrix.device)].T.to(feature.device)
    return matrix.vectors(feature.cpu()).to(feature.device)


def moved(matrix: Matrix, device: torch.device) -> Matrix:
    """On a device; what stays in a file is there for the CPU too."""
    if isinstance(matrix, Tensor):
        return matrix.to(device)
    return matrix if device.type == "cpu" else matrix.whole().to(device)
