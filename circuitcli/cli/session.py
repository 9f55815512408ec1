"""From a command line to a job on a run, and from its outcome to what is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.errors import InputError, UsageError
from circuitcli.settings import Layers, resolve
from circuitcli.stages.spec import STAGES

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job, Outcome
    from circuitcli.stages.tools import Tools
    from circuitcli.store.run import Run


def read_profile(path: Path | None) -> Layers:
    """The settings of a profile.

    Raises:
        InputError: It is missing, empty or not UTF-8.
        UsageError: It is not TOML.
    """
    if path is None:
        return {}
    from circuitcli.store import written

    text = written.text(path, "The profile")
    if not text.strip():
        raise InputError(f"The profile {path} is empty.", hint="Put settings in it, or leave --profile out.")
    return written.toml(text, f"The profile {path}")


def existing(path: Path) -> Run:
    """The run at a path.

    Raises:
        InputError: There is none.
        UsageError: Something else is there.
    """
    from circuitcli.store.run import Run

    run = Run(path, STAGES.folders)
    if not run.settings_path.is_file():
        raise InputError(f"There is no run at {path}.", hint="Name the folder of a run, or leave --run out.")
    return run


def unwritten(request: Request, terminal: Terminal) -> tuple[Tools, Run | None]:
    """The tools of a command that writes nothing, with the settings of a run too if one is named, and that run.

    Raises:
        InputError: There is no run where one was named.
    """
    from circuitcli.stages.checks import check
    from circuitcli.stages.tools import Tools

    run = existing(request.run) if request.run is not None else None
    settings = resolve(run.settings() if run else {}, read_profile(request.profile), request.flags)
    check(settings)
    return Tools(settings, terminal), run


def work(request: Request, body: Callable[[Job, Terminal], None], *, writes: bool = True, shared: bool = False) -> None:
    """Resolve the settings, lock the run, maybe for several that share it, and do the body; if it writes, keep them."""
    from circuitcli.runtime.quiet import hush

    hush()
    from circuitcli.stages.checks import check
    from circuitcli.stages.opened import opened

    terminal = Terminal(as_json=request.as_json, quiet=request.quiet)
    layers = (read_profile(request.profile), request.flags)
    if request.run is None and request.command != "run-all":
        check(resolve(*layers))  # what is wrong with them is told first
        raise UsageError(
            f"`circuit {request.command}` needs a run.", hint="Name its folder: --run DIR, or CIRCUIT_RUN."
        )
    how = {"force": request.force, "verify": request.verify, "writes": writes, "shared": shared}
    with opened(request.run, layers, terminal, **how) as job:
        body(job, terminal)


def document(job: Job, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What --json prints of a command; its seconds are of the whole command, imports included."""
    from circuitcli.runtime.clock import process_seconds

    tree: dict[str, Any] = {
        "run": str(job.run.root),
        "model": job.settings.model,
        "stages": {outcome.name: outcome.status for outcome in outcomes},
        "files": [str(job.run.root / name) for outcome in outcomes for name in outcome.record.files],
        "seconds": round(process_seconds(), 3),
        "stage_seconds": {outcome.name: outcome.record.seconds for outcome in outcomes if outcome.status == "done"},
    }
    for outcome in outcomes:
        facts = dict(outcome.record.facts)
        with suppress(KeyError):
            tree["peak_memory_bytes"] = max(tree.get("peak_memory_bytes", 0), facts.pop("peak_memory_bytes"))
        tree |= facts
    if "saes" in tree:
        from circuitcli.results.dictionaries import entries_of

        tree["layers"] = sorted({int(name.split(".")[0]) for name in tree["saes"]})
        entries = entries_of(job.run)
        tree["sources"] = {str(entry.at): entry.source for entry in entries}
        elsewhere = [entry for entry in entries if entry.facts.elsewhere]
        if elsewhere:
            tree["writes"] = {str(entry.at): [str(site) for site in entry.written] for entry in elsewhere}
            tree["skip"] = {str(entry.at): entry.facts.skip for entry in elsewhere}
    return tree


def one_stage(request: Request, show: Callable[[Job, Terminal], None]) -> None:
    """Run the one stage of a command and show what came of it."""

    def body(job: Job, terminal: Terminal) -> None:
        outcome = job.stages[request.command].work()(job)
        show(job, terminal)
        terminal.document(document(job, [outcome]))

    work(request, body)
