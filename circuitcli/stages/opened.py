"""From layers of settings to a job on a run that this process writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from circuitcli.executors import make
from circuitcli.results.drawn import drawn_of
from circuitcli.settings import Layers, Settings, kept, resolve
from circuitcli.stages.checks import check
from circuitcli.stages.report import Report
from circuitcli.stages.spec import STAGES, Stages
from circuitcli.stages.stage import Job
from circuitcli.stages.tools import Tools
from circuitcli.store import records
from circuitcli.store.run import Run

T = TypeVar("T", bound=Tools)


@contextmanager
def opened(
    path: Path | None,
    layers: Sequence[Layers],
    report: Report,
    *,
    force: bool = False,
    verify: bool = False,
    writes: bool = True,
    shared: bool = False,
) -> Iterator[Job]:
    """Resolve the settings over the run's own, lock the run, and, once the body ends, keep the settings.

    Args:
        path: The run's folder; None names it by its model and what decides its numbers.
        layers: Later ones over earlier ones, all over the run's own settings.
        report: What is told of the work.
        force: See `Job`.
        verify: See `Job`.
        writes: Whether the settings are kept: a done stage keeps none, though they may say how to draw.
        shared: Whether others that share the run may write it too.

    Raises:
        UsageError: A setting is wrong, or something else than a run is at the path.
    """
    settings = resolve(*layers)
    check(settings)
    run = Run(Path("runs") / default_name(settings) if path is None else path, STAGES.folders)
    with run.locked(report.say, shared=shared):
        settings = resolve(run.settings(), *layers)
        check(settings)
        job = Job(settings, report, run, force, verify, stages_of(settings, run))
        with spread(job) if writes else nullcontext(job) as spreading:
            yield spreading
        if writes:
            run.save_settings(kept(settings))


@contextmanager
def spread(tools: T) -> Iterator[T]:
    """The same tools with the executor that their settings name, which is closed in the end."""
    executor = make(tools.settings.executor, tools.report.say)
    try:
        yield replace(tools, executor=executor)
    finally:
        executor.close()


def stages_of(settings: Settings, run: Run) -> Stages:
    """The graph of stages in a run, whose drawing builds on what is to be drawn."""
    return STAGES.drawing(drawn_of(settings, run))


def default_name(settings: Settings) -> str:
    """The folder of a run without a name: its model, and eight digits of what decides its numbers."""
    tree = kept(settings)
    tree["runtime"] = {"dtype": settings.runtime.dtype}
    del tree["graph"]["formats"]  # a graph gets one more: it is the same run
    model = settings.model.rstrip("/").rpartition("/")[2]
    return f"{model}-{records.fingerprint(tree)[:8]}"
