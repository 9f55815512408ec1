"""`circuit effects`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli import session, steered
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = (
    "Reduce ablations to mean effects, logit effects and totals. --feature and --by-position show single features; "
    "--steer scales some in a prompt."
)
EXAMPLES = """\
circuit effects --run my-run
circuit effects --run my-run --feature 2:749
circuit effects --run my-run --steer 2:749=3 --prompt "God said" --generate 20"""
MORE: dict[str, tuple[Any, Any]] = {
    "features": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--feature",
                help="Show the card of this feature instead of the tables: `4:112` or `4.resid_post.112` (repeat).",
                metavar="FEATURE",
                show_default=False,
            ),
        ],
        None,
    ),
    "by_position": (
        Annotated[
            bool,
            typer.Option(
                "--by-position",
                help="Show what fires at each position of a run's prompts, and what that promotes and suppresses, "
                "instead of the tables; with --feature these features alone.",
            ),
        ],
        False,
    ),
    **steered.MORE,
}


def command(request: Request) -> None:
    """The stage, unless it is done, and its tables, cards or positions; or steering, which is no stage."""
    if steered.wanted(request):
        steered.command(request)
    elif request.more["features"] or request.more["by_position"]:
        session.work(request, partial(_look, request))
    else:
        session.one_stage(request, show)


def show(job: Job, terminal: Terminal) -> None:
    """The largest effects, and what they do to the next token."""
    from circuitcli.cli import tables

    results = job.results()
    tables.edges(results, terminal)
    tables.tokens(results, terminal)


def _look(request: Request, job: Job, terminal: Terminal) -> None:
    """Cards, or positions; what was typed is checked before the stage may work."""
    from circuitcli.cli import cards as drawn
    from circuitcli.results import cards, positions
    from circuitcli.stages import effects

    before = job.results()
    features = before.named(request.more["features"] or ())
    if request.more["by_position"]:
        positions.require_prompts(before)
    document = session.document(job, [effects.run(job)])
    if request.more["by_position"]:
        prompts = positions.by_position(job.results(), features)
        drawn.positions(prompts, terminal)
        terminal.document({**document, "prompts": [asdict(prompt) for prompt in prompts]})
    else:
        found = cards.cards(job.results(), features)
        for card in found:
            drawn.card(card, terminal)
        terminal.document({**document, "cards": [card.to_dict() for card in found]})
