"""Options of commands whose stage several processes may do parts of, in a folder that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import work
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    from circuitcli.stages.sharing import Part, Shared
    from circuitcli.stages.stage import Job, Outcome

MORE: dict[str, tuple[Any, Any]] = {
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


def refuse_together(request: Request, stage: str) -> None:
    """Refuse options that don't go together.

    Raises:
        UsageError: With what to leave out.
    """
    given = [name for name in ("dry_run", "shard", "merge") if request.more.get(name) not in (None, False)]
    given += ["force"] if request.force and given[:1] in (["shard"], ["merge"]) else []
    if len(given) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in given[:2])
        raise UsageError(
            f"{first} and {second} don't go together.",
            hint=f"Parts go on from what is there: to do all of it again, begin with `circuit {stage} --force`."
            if "force" in given
            else f"Leave one of them out: {second} is a command of its own.",
        )


def asked(request: Request) -> bool:
    """Whether a part is asked for, or the end of all parts."""
    return request.more["shard"] is not None or bool(request.more["merge"])


def do(
    request: Request,
    share: Callable[[Job, Part], Shared | None],
    merge: Callable[[Job], Outcome],
    show: Callable[[Job, Terminal, Outcome], None],
) -> None:
    """A part of a stage, or its end, which is shown."""
    if request.more["shard"] is None:
        work(request, lambda job, terminal: show(job, terminal, merge(job)))
        return
    from circuitcli.stages.sharing import part

    own = part(request.more["shard"])
    work(request, lambda job, terminal: _told(job, terminal, own, share(job, own)), shared=True)


def _told(job: Job, terminal: Terminal, part: Part, found: Shared | None) -> None:
    told = {"done": found is None, "shard": f"{part.number}/{part.count}"}
    if found is not None:
        counts = asdict(found)
        columns = tuple(_COLUMNS[name] for name in counts)
        terminal.table(
            f"Part {part.number} of {part.count}", columns, [tuple(f"{count:,}" for count in counts.values())]
        )
        told |= counts
    terminal.document({"run": str(job.run.root), **told})


_COLUMNS = {"made": "pieces made here", "pieces": "of all", "features": "features", "contexts": "contexts"}
