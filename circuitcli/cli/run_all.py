"""`circuit run-all`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from circuitcli.cli import session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job, Outcome

HELP = "Do all stages: from SAEs and text to a drawn circuit. Without --model it runs the embedded demo."


def command(request: Request) -> None:
    """Do every stage that isn't done, and show each one's tables."""
    session.work(request, _run)


def _run(job: Job, terminal: Terminal) -> None:
    from circuitcli.stages import run_all

    if job.settings.model == "demo":
        terminal.say(
            "Running the embedded demo. For GPT-2 small: circuit run-all --model gpt2 --layers 4:6 (fetches 0.9 GB)."
        )

    def show(outcome: Outcome) -> None:
        import_module(f"circuitcli.cli.{outcome.name.replace('-', '_')}").show(job, terminal)

    outcomes = run_all.run(job, show)
    tree = session.document(job, outcomes)
    terminal.say(
        f"{job.run.root}: {tree['features_ablated']} features, {tree['contexts']} contexts, "
        f"{tree['edges']} edges drawn, {tree['seconds']:.1f} s."
    )
    terminal.document(tree)
