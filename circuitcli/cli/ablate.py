"""`circuit ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli import dry_run
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import one_stage

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.stage import Job

HELP = "Ablate features, layer by layer, and keep what changed."
EXAMPLES = "circuit ablate --run my-run --pin 1:502 --dry-run"
MORE = dry_run.MORE


def command(request: Request) -> None:
    """The stage, or what it would take."""
    if request.more["dry_run"]:
        dry_run.show(request, _expect)
    else:
        one_stage(request, show)


def _expect(job: Job) -> tuple[None, Estimate | None]:
    from circuitcli.stages import ablate

    return None, ablate.preview(job)


def show(job: Job, terminal: Terminal) -> None:
    """How many features, at how many contexts."""
    facts = job.run.require("ablate").facts
    terminal.table("Ablated", ("features", "contexts"), [(str(facts["features_ablated"]), str(facts["contexts"]))])
