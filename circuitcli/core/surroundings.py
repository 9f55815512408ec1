"""What decides which changes to how a dictionary is read make sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import NormWeights
from circuitcli.core.shape import ModelShape


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What decides which changes make sense.

    Attributes:
        shape: Of the model.
        norms_subtract_mean: Whether the model's norms subtract the mean over d_model, as measured on it.
        z_offset: What value biases add to z in the dictionary's layer.
        bos: Whether the text starts with BOS; None where the model has no BOS.
        l0: Mean number of active features, as the dictionary is stated.
        norm: The weights of the norm before the MLP of a layer; None where there is none that has them.
        normalized: Whether a transcoder reads a norm's output without these weights, which its own have taken in.
    """

    shape: ModelShape
    norms_subtract_mean: bool
    z_offset: Float[Tensor, " d_z"]
    bos: bool | None
    l0: float
    norm: Callable[[int], NormWeights | None]
    normalized: bool = False


# A dictionary that is read with one thing changed, or None where that is nothing new.
Make = Callable[[Dictionary, Surroundings], Dictionary | None]
