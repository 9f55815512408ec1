"""`circuit ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli import dry_run, parts
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import document, one_stage

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.stage import Job, Outcome

HELP = "Ablate features, layer by layer, and keep what changed."
EXAMPLES = """\
circuit ablate --run my-run --pin 1:502 --dry-run
circuit ablate --run my-run --shard 3/8"""
MORE: dict[str, tuple[Any, Any]] = dry_run.MORE | parts.MORE


def command(request: Request) -> None:
    """The stage, a part of it, its end, or what it would take."""
    parts.refuse_together(request, "ablate")
    if request.more["dry_run"]:
        dry_run.show(request, _expect)
    elif parts.asked(request):
        from circuitcli.stages import shared_ablation

        parts.do(request, shared_ablation.share, shared_ablation.merge, _ended)
    else:
        one_stage(request, show)


def _expect(job: Job) -> tuple[None, Estimate | None]:
    from circuitcli.stages import ablate

    return None, ablate.preview(job)


def _ended(job: Job, terminal: Terminal, outcome: Outcome) -> None:
    show(job, terminal)
    terminal.document(document(job, [outcome]))


def show(job: Job, terminal: Terminal) -> None:
    """How many features, at how many contexts."""
    facts = job.run.require("ablate").facts
    terminal.table("Ablated", ("features", "contexts"), [(str(facts["features_ablated"]), str(facts["contexts"]))])
