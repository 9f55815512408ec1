"""What a run's graph is drawn of."""

from __future__ import annotations

from typing import Literal

from circuitcli.settings import Settings
from circuitcli.store.run import Run


def drawn_of(settings: Settings, run: Run) -> Literal["effects", "attribution"]:
    """As the settings say (`graph.of`); `auto` is its attribution where a run has finished that and no effects."""
    if settings.graph.of != "auto":
        return settings.graph.of
    alone = run.record("attribute") is not None and run.record("effects") is None
    return "attribution" if alone else "effects"
