"""Plug point: what replaces an activation. One file an intervention."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Intervention(Protocol):
    """Says what a feature's activation becomes."""

    def replacement(self, mean_activation: float) -> float:
        """C in δ = σ·(c − a_j)·W_dec[j]; the mean is over all counted positions, zeros in."""
        ...
