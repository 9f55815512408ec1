"""`circuit graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Draw the largest effects as a graph of features."


def show(job: Job, terminal: Terminal) -> None:
    """The paths of the pictures."""
    for name in job.run.require("graph").files:
        terminal.line(str(job.run.root / name))
