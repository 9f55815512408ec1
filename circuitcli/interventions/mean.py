"""Mean ablation: the feature says no more than it does on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.interventions import Contexts

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Mean:
    """c = the feature's mean activation over the counted positions of the sample, zeros in."""

    def replacements(self, at: Contexts) -> Float[np.ndarray, " n"]:
        """The mean activation."""
        return at.statistics["mean_activation"]


plugin = Mean
