"""doctor: whether the chosen SAEs fit the model. It needs no run and writes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from circuitcli.core.fit import Fit
from circuitcli.core.model import Model
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.engine import Engine, engine, slowness
from circuitcli.saes import SaeEntry
from circuitcli.stages import fit
from circuitcli.stages.fetch_saes import choose, load_sae
from circuitcli.stages.sequences import prepend_bos, read_sample
from circuitcli.stages.stage import Job
from circuitcli.store.records import Record
from circuitcli.store.run import Run

NAME = "doctor"


class NoRun(Run):
    """What a job without a run has in its place: it recorded nothing, and no folder is looked at."""

    def __init__(self) -> None:
        """A path in which nothing can lie."""
        self.root = Path(os.devnull)

    def record(self, stage: str) -> Record | None:
        """None, of any stage."""
        return None


@dataclass(frozen=True)
class Unrecorded(Job):
    """A job on the model and the SAEs that the settings choose, whatever a run recorded."""

    @cached_property
    def choice(self) -> tuple[Checkpoint, list[SaeEntry]]:
        """The model and the SAEs, fetched and checked."""
        return choose(self)

    @property
    def checkpoint(self) -> Checkpoint:
        """The model; none is loaded."""
        return self.choice[0]

    @cached_property
    def model(self) -> Model:
        """The model with its weights."""
        with self.report.track(f"Loading {self.checkpoint.name}", 0, ""):
            from circuitcli.runtime import model

            return model.load(self.checkpoint, self.runtime)


@dataclass(frozen=True)
class Findings:
    """How each SAE fits, and how the model's ablations would be computed (see `runtime.engine`)."""

    engine: Engine
    fits: list[Fit]

    def document(self, job: Job) -> dict[str, Any]:
        """What --json prints."""
        settings = job.settings
        shared = {"model": settings.model, "release": settings.saes.release, "engine": self.engine}
        return {**shared, "saes": fit.document(self.fits)}


def run(job: Unrecorded) -> Findings:
    """How each SAE fits, by all changes and with the next token measured for each of them."""
    entries = job.choice[1]
    sample = read_sample(job, entries, job.report.say)
    bos = prepend_bos(job, entries)
    found = []
    for entry in entries:  # one at a time: together they may not fit into memory
        found += fit.examine(job, job.model, [load_sae(job, entry, job.model)], sample, bos=bos, full=True)
    if engine(job.model) == "whole":
        job.report.say(slowness(job.settings.model, job.model, float(sample.lengths.mean())))
    return Findings(engine(job.model), found)
