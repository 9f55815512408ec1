"""`circuit cache-acts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import one_stage

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Run the model over text and keep every feature activation."


def command(request: Request) -> None:
    """Do the stage and show the top features."""
    one_stage(request, show)


def show(job: Job, terminal: Terminal) -> None:
    """The top features."""
    from circuitcli.cli import tables

    tables.features(job, terminal)
