"""`circuit validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli import session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Judge a circuit on examples. How much of what the model does it does alone, beside others of its size."
EXAMPLES = """\
circuit validate --run my-run --prompts questions.jsonl
circuit validate --run my-run --circuit none --nodes 30 --baseline mean
circuit validate --run my-run --pin 2:17 --pin 3:4 --prompts text.txt"""
MORE: dict[str, tuple[Any, Any]] = {}


def command(request: Request) -> None:
    """The stage; the run's graph is drawn again if it is what was judged."""

    def body(job: Job, terminal: Terminal) -> None:
        from circuitcli.cli import evidence, evidence_joint
        from circuitcli.stages import validate

        outcomes = [validate.run(job)]
        show(job, terminal)
        evidence.plot(job, terminal)
        if request.as_json:
            results = job.results()
            told = {**evidence.document(results), "joint": evidence_joint.document_joint(results)}
            terminal.document({**session.document(job, outcomes), **told})

    session.work(request, body)


def show(job: Job, terminal: Terminal) -> None:
    """How much the circuit does, beside others, and what each of its features adds."""
    from circuitcli.cli import evidence, evidence_joint

    results = job.results()
    evidence.show(results, terminal)
    evidence_joint.show_joint(results, terminal)
