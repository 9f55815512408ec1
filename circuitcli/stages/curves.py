"""The plot of a run's validation, beside its tables, where matplotlib is: an extra, without which all else is there."""

from __future__ import annotations

from pathlib import Path

from circuitcli.errors import InputError
from circuitcli.renderers import _curves
from circuitcli.stages.stage import Job
from circuitcli.store import files, validations

NAMES = ("curves.svg", "curves.png")


def draw(job: Job) -> list[Path]:
    """The plot's files, drawn if they aren't there, or are older than what they show.

    None without matplotlib, which is said with what to install.

    Raises:
        InputError: The validate stage isn't done.
    """
    folder = job.run.folder(validations.STAGE)
    paths = [folder / name for name in NAMES]
    found = job.results().validation
    if not all(path.is_file() and _newer(path, folder / "stage.json") for path in paths):
        try:
            drawn = _curves.draw(found.record, found.points)
        except InputError as error:
            job.report.say(f"{error.message} {error.hint}")
            return []
        for path in paths:
            files.write(path, drawn[path.name])
    return paths


def _newer(path: Path, than: Path) -> bool:
    return path.stat().st_mtime_ns >= than.stat().st_mtime_ns
