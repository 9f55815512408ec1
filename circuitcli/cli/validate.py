"""`circuit validate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from circuitcli.cli import dry_run, parts, session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.core.words import duration, quantity
from circuitcli.errors import quoted

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job, Outcome

HELP = "Judge a circuit on examples. How much of what the model does it does alone, beside others of its size."
EXAMPLES = """\
circuit validate --run my-run --prompts questions.jsonl
circuit validate --run my-run --circuit none --nodes 30 --baseline mean
circuit validate --run my-run --pin 2:17 --pin 3:4 --prompts text.txt
circuit validate --run my-run --audit 2:17 --prompts questions.jsonl
circuit validate --run my-run --prompts questions.jsonl --shard 3/8"""
MORE: dict[str, tuple[Any, Any]] = dry_run.MORE | parts.MORE


def command(request: Request) -> None:
    """The stage and what came of it, a part of it, or its end; or what it would take."""
    from circuitcli.stages import validate

    parts.refuse_together(request, validate.NAME)
    if request.more["dry_run"]:
        session.work(request, _expect, writes=False)
    elif parts.asked(request):
        parts.do(request, validate.share, validate.merge, _ended)
    else:
        session.work(request, lambda job, terminal: _ended(job, terminal, validate.run(job)))


def _ended(job: Job, terminal: Terminal, outcome: Outcome) -> None:
    from circuitcli.cli import evidence, evidence_audit, evidence_joint

    show(job, terminal)
    evidence.plot(job, terminal)
    _say_how_to_draw(job, terminal)
    if terminal.as_json:
        results = job.results()
        told = {"joint": evidence_joint.document_joint(results), "audit": evidence_audit.document_audit(results)}
        terminal.document({**session.document(job, [outcome]), **evidence.document(results), **told})


def show(job: Job, terminal: Terminal) -> None:
    """How much the circuit does, beside others, what each of its features adds, and what was audited."""
    from circuitcli.cli import evidence, evidence_audit, evidence_joint

    results = job.results()
    evidence.show(results, terminal)
    evidence_joint.show_joint(results, terminal)
    evidence_audit.show_audit(results, terminal)


def _say_how_to_draw(job: Job, terminal: Terminal) -> None:
    """Where the run's own graph is what was judged, and its pictures don't say so yet."""
    from circuitcli.results import carried

    asked = job.settings.validate
    if asked.circuit == "auto" and not asked.pinned and carried.undrawn(job.results()):
        terminal.say(
            f"`circuit graph --run {quoted(job.run.root)}` puts these numbers into circuit.json and its pictures."
        )


def _expect(job: Job, terminal: Terminal) -> None:
    from circuitcli.stages import validate

    found = validate.dry_run(job)
    if found is None:
        terminal.say("Nothing is to be done.")
        terminal.document({"run": str(job.run.root), "dry_run": True, "validate": None})
        return
    rows = [(part.what, f"{part.count:,}", duration(part.seconds)) for part in found.parts]
    terminal.table("What it would take, by a few passes", ("work", "count", "time"), rows)
    terminal.say(
        f"validate: about {duration(found.seconds)} in all, and {quantity(found.memory_bytes)} of memory "
        f"({quantity(found.free_memory_bytes)} free)."
    )
    told = {**asdict(found), "seconds": found.seconds}
    terminal.document({"run": str(job.run.root), "dry_run": True, "validate": told})
