"""The public Python API: make a run, or open one; both give its `Results`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from circuitcli.errors import InputError, UsageError
from circuitcli.results.results import Results
from circuitcli.settings import Settings, resolve, to_dict
from circuitcli.settings.keywords import keywords
from circuitcli.stages.opened import opened, stages_of
from circuitcli.stages.report import Report, Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

__all__ = ["Results", "open_run", "run"]


def open_run(path: str | PathLike[str]) -> Results:
    """The results of the run in a folder; nothing of it is changed.

    Raises:
        InputError: There is no run.
        UsageError: Something else is there, or it is no path.
    """
    return recorded(_folder(path)).results()


def recorded(path: Path) -> Job:
    """A run as it is, to be read.

    Raises:
        InputError: There is none.
        UsageError: Something else is there.
    """
    folder = Run(path, STAGES.folders)
    if not folder.settings_path.is_file():
        raise InputError(f"There is no run at {path}.", hint="Name the folder of a run.")
    settings = resolve(folder.settings())
    return Job(settings, Silent(), folder, stages=stages_of(settings, folder))


def run(
    settings: Settings | Mapping[str, Any] | None = None,
    /,
    *,
    run: str | PathLike[str] | None = None,
    force: bool = False,
    report: Report | None = None,
    **named: Any,
) -> Results:
    """Do what `circuit run-all` does, and give the results: every stage that isn't done, in order.

    Args:
        settings: All settings, or some of them as a profile has them, nested or with dots in their names.
        run: The run's folder. A run that is there goes on with its own settings under those that are given. None:
            `runs/<model>-<digits>`, the same for the same settings.
        force: Do every stage again.
        report: What is told of the work as it goes on; None: nothing.
        **named: Settings by their names: a key of a profile (`model="demo"`), a table (`texts={"max_tokens": 50}`), or
            a key of a table without it where no other table has the same (`prompt=["…"]`, `layers="4:6"`).

    Raises:
        CircuitError: One of its kinds, as the command's exit code would say; a note on it says what to do.
    """
    from circuitcli.stages import run_all

    given = to_dict(settings) if isinstance(settings, Settings) else {} if settings is None else settings
    if report is not None and not isinstance(report, Report):
        raise UsageError(f"{report!r:.40} is no report.", hint="Give an object with `say` and `track`, or None.")
    layers = [keywords(given), keywords(named)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, some when they are imported; the caller's own stay
        with opened(None if run is None else _folder(run), layers, report or Silent(), force=force) as job:
            run_all.run(job, lambda outcome: None)
    return job.results()


def _folder(path: str | PathLike[str]) -> Path:
    if not isinstance(path, (str, PathLike)):
        raise UsageError(f"{path!r:.40} is no path of a run.", hint="Name the folder of a run.")
    return Path(path)
