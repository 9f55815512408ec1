"""How the features that a run starts from were chosen, in words: for pictures, which can't be read without."""

from __future__ import annotations

from collections.abc import Iterable

from circuitcli.core.sites import parse_pin
from circuitcli.settings import Settings


def in_words(settings: Settings, layers: Iterable[int]) -> str:
    """Such as `features of the first layer: 1% of those that fire, at random`.

    Args:
        settings: Of the run.
        layers: Of its SAEs.
    """
    first = min(layers)
    pinned = sorted({parse_pin(pin)[0] for pin in settings.features.pinned})
    how = "the pinned" if first in pinned else _drawn(settings)
    later = [str(layer) for layer in pinned if layer != first]
    also = f"; of layer{'s' if len(later) > 1 else ''} {', '.join(later)}: the pinned" if later else ""
    return f"features of the first layer: {how}{also}"


def _drawn(settings: Settings) -> str:
    return f"{100 * settings.features.thinning:g}% of those that fire, at random"
