"""doctor: whether the chosen dictionaries fit the model. It needs no run and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuitcli.core.fit import Fit
from circuitcli.runtime.engine import Engine, engine, slowness
from circuitcli.settings import Settings
from circuitcli.stages import fit
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
    settings, report = subject.tools.settings, subject.tools.report
    sample = read_sample(subject, report.say)
    found = []
    for judged in fit.together(subject.entries):  # all of them may not fit into memory
        found += fit.examine(subject, fit.read(subject, judged), sample, full=True)
    if engine(subject.model) == "whole":
        report.say(slowness(settings.model, subject.model, float(sample.lengths.mean())))
    return Findings(engine(subject.model), found)
