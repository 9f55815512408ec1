"""Zero ablation: the feature is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.interventions import Contexts

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Zero:
    """c = 0."""

    def replacements(self, at: Contexts) -> Float[np.ndarray, " n"]:
        """0, whatever the context."""
        return np.zeros(len(at), np.float32)


plugin = Zero
