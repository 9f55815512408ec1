"""`circuit attribute`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import one_stage

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Say why a prompt goes on with a token. Nodes are features, errors of SAEs and tokens, each with its effect."
EXAMPLES = """\
circuit attribute --run my-run
circuit attribute --run my-run --target ' heavens' --against ' earth'
circuit attribute --run my-run --prompts questions.jsonl --method relp"""
MORE: dict[str, tuple[Any, Any]] = {}


def command(request: Request) -> None:
    """The stage."""
    one_stage(request, show)


def show(job: Job, terminal: Terminal) -> None:
    """The question, the strongest nodes and paths, and how good the numbers are."""
    from circuitcli.cli import why

    why.show(job.results(), terminal)
