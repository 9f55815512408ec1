"""`circuit cache-acts`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import one_stage

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Run the model over text and keep every feature activation."
EXAMPLES = "circuit cache-acts --run my-run --text my-texts.jsonl --num-sequences 500"
MORE: dict[str, tuple[Any, Any]] = {}


def command(request: Request) -> None:
    """The stage."""
    one_stage(request, show)


def show(job: Job, terminal: Terminal) -> None:
    """The top features, and what the model itself says behind prompts."""
    from circuitcli.cli import tables

    results = job.results()
    tables.features(results, terminal)
    tables.answers(results, terminal)
