"""`circuit effects`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import one_stage

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Reduce ablations to mean effects, logit effects and totals."


def command(request: Request) -> None:
    """Do the stage and show the largest effects."""
    one_stage(request, show)


def show(job: Job, terminal: Terminal) -> None:
    """The largest effects, and what they do to the next token."""
    from circuitcli.cli import tables

    tables.edges(job, terminal)
    tables.tokens(job, terminal)
