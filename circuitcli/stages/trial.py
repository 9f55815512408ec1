"""Prompts whose nodes are all measured, and estimated in each way: what estimates are judged by.

Each is opened as the attribute stage opens it, on a run of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from circuitcli.core.attributed import Method
from circuitcli.core.words import amount, duration
from circuitcli.settings import kept
from circuitcli.stages import cache_acts, extent, fetch_saes
from circuitcli.stages.baselines import Baselines
from circuitcli.stages.batching import by_positions
from circuitcli.stages.inputs import JobInputs
from circuitcli.stages.questions import Asked
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.stages.study import Batches, Rule, Study, open_study, sites_of
from circuitcli.stages.tools import Tools
from circuitcli.store.run import Run

RULES: tuple[Rule, ...] = ("atp", "relp")
STEPS = (5, 10)  # of integrated gradients
SHARES = (0.05, 0.1, 0.25)  # for `auto`, of the operations that measuring all takes
DEMO_SITES = ("attn_out", "mlp_out", "resid_post")  # a kind each; the demo's own is resid_post alone
Effects = dict[str, np.ndarray]  # of the features and errors of prompts, by method
T = TypeVar("T")


@contextmanager
def aside(tools: Tools) -> Iterator[Job]:
    """A job on a run in a folder that goes again, with the text's activations: some baselines are made of them."""
    settings = tools.settings
    if settings.saes.release == "demo" and settings.saes.sites == "auto":
        settings = replace(settings, saes=replace(settings.saes, sites=DEMO_SITES))
    with tempfile.TemporaryDirectory(prefix="circuit-bench-") as folder:
        run = Run(Path(folder) / "run", STAGES.folders)
        run.save_settings(kept(settings))
        job = Job(settings, tools.report, run)
        fetch_saes.run(job)
        cache_acts.run(job)
        yield job


@dataclass(eq=False)
class Trial:
    """The prompts, and what is done with each.

    Attributes:
        job: On a run whose activations are cached.
        asked: The prompts.
        seconds: What each method took, of all prompts.
        measured: How many nodes `auto` measured, at each share.
    """

    job: Job
    asked: Sequence[Asked]
    seconds: dict[str, float] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = JobInputs(self.job)
        wanted = self.job.settings.attribute.baseline
        assert wanted != "patch"
        self.baselines = Baselines("zero" if wanted == "auto" else wanted, self.inputs, sites_of(self.inputs))

    def all(self) -> list[Effects]:
        """The effects of each prompt's nodes, by every method and as measured, and their sites."""
        found: list[Effects] = []
        with self.job.report.track("Measuring", len(self.asked), "prompts") as done:
            for number in range(len(self.asked)):
                study = self._timed("open", partial(self._open, number))
                effects = self._estimates(study)
                if not found:
                    self._announce(study)
                effects["exact"] = self._timed("exact", partial(self._measured, study))
                effects |= {_name("auto", share): self._auto(study, effects, share) for share in SHARES}
                parts = study.sources[1:]
                sites = np.repeat([str(part.site) for part in parts], [len(part) for part in parts])
                found.append(effects | {"site": sites})
                done(1)
        return found

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        found = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started
        return found

    def _open(self, number: int) -> Study:
        frozen = self.job.settings.attribute.freeze
        return open_study(self.inputs, self.baselines, self.asked[number], number, frozen=frozen)

    def _estimates(self, study: Study) -> Effects:
        """Of features and errors by each kind of gradient; tokens, which come first, are left out."""
        first, found = study.starts[1], Effects()
        for rule in RULES:
            found[rule] = self._timed(rule, partial(study.estimates, rule))[first:]
        for steps in STEPS:
            name = f"ig {steps}"
            found[name] = self._timed(name, partial(study.integrated, steps, self._rows))[first:]
        return {name: found[name] for name in ("atp", *(f"ig {steps}" for steps in STEPS), "relp")}

    def _measured(self, study: Study) -> np.ndarray:
        nodes = np.arange(study.starts[1], study.nodes)
        blocks = [nodes[(nodes >= block.start) & (nodes < block.stop)] for block in study.blocks]
        return np.concatenate([study.measured(some, self._batches) for some in blocks if len(some)])

    def _auto(self, study: Study, effects: Effects, share: float) -> np.ndarray:
        """What the attribute stage would say with a budget of this share of what measuring all nodes takes."""
        estimates: dict[Method, np.ndarray] = {rule: effects[rule] for rule in RULES}
        work = extent.operations(study)[study.starts[1] :]
        chosen = extent.within(extent.largest(estimates), work, share * float(work.sum()), self.job.settings.seed)
        drawn = np.zeros(len(work))
        drawn[chosen.index] = chosen.weight
        name = _name("auto", share)
        self.measured[name] = self.measured.get(name, 0) + len(chosen.index)
        return np.where(drawn > 0, effects["exact"], estimates[extent.better(estimates, effects["exact"], drawn)])

    @cached_property
    def _rows(self) -> int:
        """Prompts that are run at once."""
        passes = self.inputs.passes
        return passes.runtime.rows_at_once(passes.row_bytes(None), len(self.asked[0].ids))

    @cached_property
    def _batches(self) -> Batches:
        return by_positions(self.job.runtime, self._rows, len(self.asked[0].ids), self.job.report.say)

    def _announce(self, study: Study) -> None:
        """Say what all of it takes, from the first prompt: what estimates took, and a few of its nodes measured."""
        nodes, count = study.nodes - int(study.starts[1]), len(self.asked)
        each = extent.rate(study, self._batches) * float(extent.operations(study).sum()) + sum(self.seconds.values())
        self.job.report.say(
            f"bench: {amount(count, 'prompt')} of {amount(len(study.prompt), 'token')}, about "
            f"{amount(nodes * count, 'node')}; estimating and measuring all takes about {duration(each * count)}."
        )


def _name(method: str, share: float) -> str:
    return f"{method} {share:.0%}"
