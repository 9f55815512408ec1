"""Resample ablation: the feature says what it says somewhere else (Chan et al. 2022, "Causal Scrubbing")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.interventions import Contexts

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Resample:
    """c = the feature's activation at a counted position of the sample drawn at random outside the context.

    All counted positions have the same chance, those where the feature is inactive too: so c has the distribution that
    the feature has in the text, and c is 0 for most of a feature that fires seldom. In expectation it is `mean`, but no
    c is a value that the feature never takes. The draw is keyed by (seed, feature, context): see `core.donors`.
    """

    def replacements(self, at: Contexts) -> Float[np.ndarray, " n"]:
        """The donors' values."""
        return at.donor


plugin = Resample
