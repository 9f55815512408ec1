"""`circuit attribute`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli import session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Say why a prompt goes on with a token. Nodes are features, errors of SAEs and tokens, each with its effect."
EXAMPLES = """\
circuit attribute --run my-run
circuit attribute --run my-run --target ' heavens' --against ' earth'
circuit attribute --run my-run --prompts questions.jsonl --method relp"""
MORE: dict[str, tuple[Any, Any]] = {}


def command(request: Request) -> None:
    """The stage; with --json the answer as well."""

    def body(job: Job, terminal: Terminal) -> None:
        from circuitcli.cli import why
        from circuitcli.stages import attribute

        outcome = attribute.run(job)
        show(job, terminal)
        if request.as_json:
            terminal.document({**session.document(job, [outcome]), "answer": why.document(job.results())})

    session.work(request, body)


def show(job: Job, terminal: Terminal) -> None:
    """The question, the strongest nodes and paths, and how good the numbers are."""
    from circuitcli.cli import why

    why.show(job.results(), terminal)
