"""`circuit attribute`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli import parts, session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job, Outcome

HELP = "Say why a prompt goes on with a token. Nodes are features, errors of SAEs and tokens, each with its effect."
EXAMPLES = """\
circuit attribute --run my-run
circuit attribute --run my-run --target ' heavens' --against ' earth'
circuit attribute --run my-run --prompts questions.jsonl --method relp
circuit attribute --run my-run --prompts questions.jsonl --shard 3/8"""
MORE: dict[str, tuple[Any, Any]] = dict(parts.MORE)


def command(request: Request) -> None:
    """The stage, a part of it, or its end; with --json the answer as well."""
    from circuitcli.stages import attribute

    parts.refuse_together(request, attribute.NAME)
    if parts.asked(request):
        parts.do(request, attribute.share, attribute.merge, _ended)
    else:
        session.work(request, lambda job, terminal: _ended(job, terminal, attribute.run(job)))


def _ended(job: Job, terminal: Terminal, outcome: Outcome) -> None:
    from circuitcli.cli import why

    show(job, terminal)
    if terminal.as_json:
        terminal.document({**session.document(job, [outcome]), "answer": why.document(job.results())})


def show(job: Job, terminal: Terminal) -> None:
    """The question, the strongest nodes and paths, and how good the numbers are."""
    from circuitcli.cli import why

    why.show(job.results(), terminal)
