"""Steering: the feature says what it says at its loudest, some times over (Templeton et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.interventions import Contexts

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Steer:
    """c = strength · the feature's maximum activation over the counted positions of the sample."""

    strength: float

    def replacements(self, at: Contexts) -> Float[np.ndarray, " n"]:
        """A multiple of the maximum; in SAE units, as activations are."""
        maximum: np.ndarray = at.statistics["max_activation"]
        return np.asarray(self.strength * maximum, np.float32)


plugin = Steer
