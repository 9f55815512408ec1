"""`circuit effects`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Reduce ablations to mean effects, logit effects and totals."


def show(job: Job, terminal: Terminal) -> None:
    """The largest effects, and what they do to the next token."""
    from circuitcli.cli import tables

    tables.edges(job, terminal)
    tables.tokens(job, terminal)
