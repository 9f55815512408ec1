"""Mean ablation: the feature says no more than it does on average."""

from __future__ import annotations


class Mean:
    """c = the feature's mean activation over the sample."""

    def replacement(self, mean_activation: float) -> float:
        """The mean activation."""
        return mean_activation


plugin = Mean()
