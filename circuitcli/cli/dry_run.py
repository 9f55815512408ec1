"""`--dry-run`: what a command would take, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import work
from circuitcli.core.words import amount, duration, quantity

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.preview import Preview
    from circuitcli.stages.stage import Job

MORE: dict[str, tuple[Any, Any]] = {
    "dry_run": (
        Annotated[bool, typer.Option("--dry-run", help="Say what it would take (passes, time, memory), and stop.")],
        False,
    )
}


def show(request: Request, expect: Callable[[Job], tuple[Preview | None, Estimate | None]]) -> None:
    """The table of what is expected; nothing is written, not even settings.

    Raises:
        ResourceError: It is more than there is.
    """
    work(request, lambda job, terminal: told(job, terminal, *expect(job)), writes=False)


def told(job: Job, terminal: Terminal, whole: Preview | None, ablate: Estimate | None) -> None:
    """What caching activations and ablating are expected to take; None of what is done.

    Raises:
        ResourceError: It is more than there is.
    """
    if ablate is None:
        terminal.say("Nothing is to be done.")
    rows = [] if whole is None else _cache_rows(whole)
    terminal.table("What it would take", ("what", "value", "free"), rows + ([] if ablate is None else _rows(ablate)))
    if ablate is not None:
        ablate.check(allow_over_memory=job.settings.runtime.allow_over_memory)
    terminal.document(
        {
            "run": str(job.run.root),
            "dry_run": True,
            "cache_acts": None
            if whole is None
            else {"sequences": whole.sequences, "tokens": whole.tokens, "seconds": round(whole.cache_seconds, 1)},
            "ablate": None if ablate is None else asdict(ablate),
        }
    )


def told_of_questions(job: Job, terminal: Terminal, counts: dict[str, int]) -> None:
    """What an attribution is about; what it takes follows from what fires, which its stage says before it measures."""
    budget = job.settings.attribute.budget
    terminal.say(
        "attribute: what it takes depends on what fires, and is said before anything is measured"
        + (f"; it measures for at most --budget {budget:g} s." if job.settings.attribute.method == "auto" else ".")
    )
    terminal.table("What is asked", ("what", "value"), [(what, f"{count:,}") for what, count in counts.items()])
    terminal.document({"run": str(job.run.root), "dry_run": True, "attribute": {**counts, "budget_seconds": budget}})


def _cache_rows(expected: Preview) -> list[tuple[str, str, str]]:
    return [
        ("sequences", f"{expected.sequences:,}", ""),
        ("tokens", f"{expected.tokens:,}", ""),
        ("time of cache-acts", duration(expected.cache_seconds), ""),
    ]


def _rows(e: Estimate) -> list[tuple[str, str, str]]:
    most = "" if e.exact else "at most "
    return [
        ("features", f"{most}{e.features:,}", ""),
        ("ablations", f"{most}{e.ablations:,}", ""),
        ("rows", f"{most}{e.rows:,}", ""),
        ("disk", f"{most}{quantity(e.disk_bytes)}", quantity(e.free_disk_bytes)),
        ("time of ablate", f"{most}{duration(e.seconds)}", ""),
        ("memory", quantity(e.memory_bytes), quantity(e.free_memory_bytes)),
        *([("memory of the host", quantity(e.host_bytes), quantity(e.free_host_bytes))] if e.host_bytes else []),
        ("shards", f"{most}{e.shards:,}", ""),
        *((f"time on {amount(n, 'worker')}", f"{most}{duration(s)}", "") for n, s in e.worker_seconds.items()),
        ("sent to workers", f"{most}{quantity(e.sent_bytes)}", ""),
        ("sent back by them", f"{most}{quantity(e.disk_bytes)}", ""),
    ]
