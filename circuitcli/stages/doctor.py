"""doctor: whether the chosen dictionaries fit the model. It needs no run and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuitcli.core.fit import Fit
from circuitcli.runtime.engine import Engine, engine, slowness
from circuitcli.settings import Settings
from circuitcli.stages import fit
from circuitcli.stages.contents import Chosen
from circuitcli.stages.fit_task import FitTask
from circuitcli.stages.inputs import SubjectSources
from circuitcli.stages.sequences import read_sample
from circuitcli.stages.subject import Subject

NAME = "doctor"


@dataclass(frozen=True)
class Findings:
    """How each dictionary fits, and how the model's ablations would be computed (see `runtime.engine`)."""

    engine: Engine
    fits: list[Fit]

    def document(self, settings: Settings) -> dict[str, Any]:
        """What --json prints."""
        shared = {"model": settings.model, "release": settings.saes.release, "engine": self.engine}
        return {**shared, "saes": fit.document(self.fits)}


def run(subject: Subject) -> Findings:
    """How each dictionary fits, by all changes and with the next token measured for each of them."""
    tools = subject.tools
    sample = read_sample(subject, tools.report.say)
    chosen = Chosen(
        tools.settings.model, subject.checkpoint.identity(), tools.settings.runtime.dtype, tuple(subject.entries)
    )
    passage = fit.passage(subject, sample, full=True)
    threads = tools.executor.threads() or tools.runtime.threads
    tasks = [  # all of them may not fit into memory
        FitTask(chosen, tuple(entry.at for entry in judged), passage, threads)
        for judged in fit.together(subject.entries)
    ]
    with tools.tracking("Examining dictionaries", len(subject.entries), "dictionaries") as done:
        places = SubjectSources(tools, lambda: subject).places
        found = dict(tools.executor.results(tasks, places, done=done, say=tools.report.say))
    if engine(subject.model) == "whole":
        tools.report.say(slowness(tools.settings.model, subject.model, float(sample.lengths.mean())))
    return Findings(engine(subject.model), [one for number in range(len(tasks)) for one in found[number]])
