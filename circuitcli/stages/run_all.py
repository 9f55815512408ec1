"""run-all: the stages one after another."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from circuitcli.settings import Settings, to_dict
from circuitcli.stages import cache_acts
from circuitcli.stages.stage import Job, Outcome
from circuitcli.store import records
from circuitcli.store.run import STAGES


def run(job: Job, show: Callable[[Outcome], None]) -> list[Outcome]:
    """Do every stage that isn't done; `show` is called after each. Text is tried first, before anything is written."""
    cache_acts.text_identity(job)
    outcomes = []
    for name in STAGES:
        module = import_module(f"circuitcli.stages.{name.replace('-', '_')}")
        outcomes.append(module.run(job))
        show(outcomes[-1])
    return outcomes


def default_name(settings: Settings) -> str:
    """The folder of a run without a name: its model, and eight digits of what decides its numbers."""
    tree = to_dict(settings)
    tree["runtime"] = {"dtype": settings.runtime.dtype}
    model = settings.model.rstrip("/").rpartition("/")[2]
    return f"{model}-{records.fingerprint(tree)[:8]}"
