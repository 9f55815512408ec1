"""`circuit ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Ablate features, layer by layer, and keep what changed."


def show(job: Job, terminal: Terminal) -> None:
    """How many features, at how many contexts."""
    facts = job.run.require("ablate").facts
    terminal.table("Ablated", ("features", "contexts"), [(str(facts["features_ablated"]), str(facts["contexts"]))])
