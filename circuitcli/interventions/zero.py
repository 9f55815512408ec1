"""Zero ablation: the feature is taken away."""

from __future__ import annotations


class Zero:
    """c = 0."""

    def replacement(self, mean_activation: float) -> float:
        """0, whatever the mean."""
        return 0.0


plugin = Zero()
