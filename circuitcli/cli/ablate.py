"""`circuit ablate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli import dry_run
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import document, one_stage, work
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.sharing import Part
    from circuitcli.stages.stage import Job

HELP = "Ablate features, layer by layer, and keep what changed."
EXAMPLES = """\
circuit ablate --run my-run --pin 1:502 --dry-run
circuit ablate --run my-run --shard 3/8"""
MORE: dict[str, tuple[Any, Any]] = dry_run.MORE | {
    "shard": (
        Annotated[
            str | None,
            typer.Option(
                "--shard",
                help="Do a part, beside processes that do the others in the same folder, and what they leave; auto is "
                "the task of a SLURM array job.",
                metavar="I/N|auto",
            ),
        ],
        None,
    ),
    "merge": (
        Annotated[bool, typer.Option("--merge", help="End a stage of which --shard has done all parts.")],
        False,
    ),
}


def command(request: Request) -> None:
    """The stage, a part of it, its end, or what it would take."""
    _refuse_together(request)
    if request.more["dry_run"]:
        dry_run.show(request, _expect)
    elif request.more["shard"] is not None:
        from circuitcli.stages import sharing

        part = sharing.part(request.more["shard"])
        work(request, lambda job, terminal: _share(job, terminal, part), shared=True)
    elif request.more["merge"]:
        work(request, _merge)
    else:
        one_stage(request, show)


def _refuse_together(request: Request) -> None:
    given = [name for name in ("dry_run", "shard", "merge") if request.more[name] not in (None, False)]
    given += ["force"] if request.force and given[:1] in (["shard"], ["merge"]) else []
    if len(given) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in given[:2])
        raise UsageError(
            f"{first} and {second} don't go together.",
            hint="Parts go on from what is there: to do all of it again, begin with `circuit ablate --force`."
            if "force" in given
            else f"Leave one of them out: {second} is a command of its own.",
        )


def _expect(job: Job) -> tuple[None, Estimate | None]:
    from circuitcli.stages import ablate

    return None, ablate.preview(job)


def _share(job: Job, terminal: Terminal, part: Part) -> None:
    from circuitcli.stages import sharing

    found = sharing.share(job, part)
    if found is not None:
        columns = ("shards made here", "of all", "features", "contexts")
        cells = (found.made, found.shards, found.features, found.contexts)
        terminal.table(f"Part {part.number} of {part.count}", columns, [tuple(f"{cell:,}" for cell in cells)])
    told = {"done": found is None, "shard": f"{part.number}/{part.count}"}
    terminal.document({"run": str(job.run.root), **told, **({} if found is None else asdict(found))})


def _merge(job: Job, terminal: Terminal) -> None:
    from circuitcli.stages import sharing

    outcome = sharing.merge(job)
    show(job, terminal)
    terminal.document(document(job, [outcome]))


def show(job: Job, terminal: Terminal) -> None:
    """How many features, at how many contexts."""
    facts = job.run.require("ablate").facts
    terminal.table("Ablated", ("features", "contexts"), [(str(facts["features_ablated"]), str(facts["contexts"]))])
