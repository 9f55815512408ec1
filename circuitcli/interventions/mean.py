"""Mean ablation: the feature says no more than it does on average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuitcli.interventions import Contexts


@dataclass(frozen=True)
class Mean:
    """c = the feature's mean activation over the counted positions of the sample, zeros in."""

    def replacements(self, at: Contexts) -> Float[np.ndarray, " n"]:
        """The mean activation."""
        return at.statistics["mean_activation"]


plugin = Mean
