"""`circuit run-all`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli import dry_run, session
from circuitcli.cli.commands import COMMANDS
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.core.words import amount

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.preview import Preview
    from circuitcli.stages.stage import Job, Outcome

HELP = "Do all stages: from SAEs and text to a drawn circuit. Without --model it runs the embedded demo."
EXAMPLES = """\
circuit run-all
circuit run-all --model gpt2 --layers 4:6
circuit run-all --prompt "In the beginning, God created the" --positions all"""
MORE = dry_run.MORE


def command(request: Request) -> None:
    """Do every stage that isn't done, and show each one's tables; or say what that would take."""
    if request.more["dry_run"]:
        dry_run.show(request, _expect)
    else:
        session.work(request, _run)


def _expect(job: Job) -> tuple[Preview | None, Estimate | None]:
    from circuitcli.stages import run_all

    return run_all.dry_run(job)


def _run(job: Job, terminal: Terminal) -> None:
    from circuitcli.stages import run_all

    if job.settings.model == "demo":
        terminal.say(
            "Running the embedded demo. For GPT-2 small: circuit run-all --model gpt2 --layers 4:6 (fetches 0.9 GB)."
        )

    def show(outcome: Outcome) -> None:
        COMMANDS[outcome.name].show(job, terminal)

    outcomes = run_all.run(job, show)
    tree = session.document(job, outcomes)
    terminal.say(
        f"{job.run.root}: {amount(tree['features_ablated'], 'feature')}, {amount(tree['contexts'], 'context')}, "
        f"{amount(tree['edges'], 'edge')} drawn, {tree['seconds']:.1f} s."
    )
    terminal.document(tree)
