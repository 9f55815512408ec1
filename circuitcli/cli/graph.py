"""`circuit graph`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli import session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Draw the largest effects as a graph of features. --of attribution draws why a prompt goes on with a token."
EXAMPLES = """\
circuit graph --run my-run --format png --max-edges 40
circuit graph --run my-run --of attribution"""
MORE: dict[str, tuple[Any, Any]] = {
    "load": (
        Annotated[
            Path | None,
            typer.Option("--load", help="An edited circuit.json: take its labels and groups.", metavar="FILE"),
        ],
        None,
    )
}


def command(request: Request) -> None:
    """The stage, with the labels and groups of an edited file if one is named."""

    def body(job: Job, terminal: Terminal) -> None:
        from circuitcli.stages import graph

        outcome = graph.run(job, request.more["load"])
        show(job, terminal)
        terminal.document(session.document(job, [outcome]))

    session.work(request, body)


def show(job: Job, terminal: Terminal) -> None:
    """The paths of the pictures; of a format that has many files, their folder."""
    from circuitcli.results.labels import SAVED

    paths = (Path(*Path(name).parts[:2]) for name in job.run.require("graph").files if name != SAVED)
    for path in dict.fromkeys(paths):
        terminal.line(str(job.run.root / path))
