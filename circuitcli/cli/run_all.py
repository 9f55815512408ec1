"""`circuit run-all`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli import dry_run, session
from circuitcli.cli.commands import COMMANDS
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.core.words import amount
from circuitcli.errors import UsageError
from circuitcli.settings import table

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job, Outcome

_ATTRIBUTION = "attribution"

HELP = "Do all stages: from SAEs and text to a drawn circuit. Without --model it runs the embedded demo."
EXAMPLES = """\
circuit run-all
circuit run-all --model gpt2 --layers 4:6
circuit run-all --prompt "In the beginning, God created the" --attribute"""
MORE: dict[str, tuple[Any, Any]] = {
    "attribute": (
        Annotated[
            bool,
            typer.Option(
                "--attribute", help="Explain what prompts go on with, and draw that: the same as --of attribution."
            ),
        ],
        False,
    ),
    **dry_run.MORE,
}


def command(request: Request) -> None:
    """Do every stage that isn't done, and show each one's tables; or say what that would take."""
    request = _with_attribution(request)

    def body(job: Job, terminal: Terminal) -> None:
        _refuse_idle(request, job)
        (_expect if request.more["dry_run"] else _run)(job, terminal)

    session.work(request, body, writes=not request.more["dry_run"])


def _with_attribution(request: Request) -> Request:
    """`--attribute` as the setting that it stands for."""
    graph = request.flags.get("graph", {})
    if not request.more["attribute"]:
        return request
    if graph.get("of", _ATTRIBUTION) != _ATTRIBUTION:
        raise UsageError(f"--attribute draws attributions, and --of says {graph['of']}.", hint="Leave one of them out.")
    return replace(request, flags={**request.flags, "graph": {**graph, "of": _ATTRIBUTION}})


def _refuse_idle(request: Request, job: Job) -> None:
    """Whoever types how to attribute wants that."""
    asked = {f"attribute.{name}" for name in request.flags.get("attribute", ())}
    typed = [row.flag.name for row in table() if row.key in asked]
    if typed and "attribute" not in job.stages.ancestors("graph"):
        raise UsageError(f"{typed[0]} is for attributions, which nobody asked for.", hint="Give --attribute as well.")


def _expect(job: Job, terminal: Terminal) -> None:
    from circuitcli.stages import run_all

    if "attribute" in job.stages.ancestors("graph"):
        dry_run.told_of_questions(job, terminal, run_all.dry_run_of_questions(job))
    else:
        dry_run.told(job, terminal, *run_all.dry_run(job))


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
    if "features_ablated" in tree:
        counts = f"{amount(tree['features_ablated'], 'feature')}, {amount(tree['contexts'], 'context')}"
    else:
        counts = amount(tree["nodes"], "node")
    terminal.say(f"{job.run.root}: {counts}, {amount(tree['edges'], 'edge')} drawn, {tree['seconds']:.1f} s.")
    terminal.document(tree)
