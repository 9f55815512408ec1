"""Prompts of an attribution, opened one by one in whatever process works on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.runtime.device import Runtime
from circuitcli.stages.assembly import Say
from circuitcli.stages.baselines import Baselines
from circuitcli.stages.batching import by_positions
from circuitcli.stages.inputs import Inputs, Origin
from circuitcli.stages.questions import Asked, Baseline
from circuitcli.stages.sources import Sources
from circuitcli.stages.study import Batches, Study, open_study, sites_of

_OPEN = 2**30  # bytes of opened prompts that are kept


@dataclass(frozen=True)
class Setup:
    """How prompts are opened, and work on them is done, as a value.

    Attributes:
        origin: The run.
        baseline: What nodes are replaced by.
        frozen, replaced: See `study.open_study`.
        targets: Most next tokens that are explained together.
        longest: Tokens of the longest prompt.
        batch_size: How many rows of so many are run at once.
        threads: Of torch, which decide the last bits as the batch size does.
    """

    origin: Origin
    baseline: Baseline
    frozen: bool
    replaced: bool
    targets: int
    longest: int
    batch_size: int
    threads: int


@dataclass(eq=False)
class Studies:
    """What work on prompts shares, and each prompt's study; kept while there is room."""

    setup: Setup
    inputs: Inputs
    _open: dict[tuple[int, Asked], Study] = field(default_factory=dict)

    @cached_property
    def baselines(self) -> Baselines:
        """What replaces nodes."""
        return Baselines(self.setup.baseline, self.inputs, sites_of(self.inputs))

    @property
    def runtime(self) -> Runtime:
        """At the batch size and threads of the setup, so that what is resumed repeats the arithmetic."""
        setup = self.setup
        return self.inputs.passes.runtime.with_plan(batch_size=setup.batch_size, threads=setup.threads)

    def batches(self, say: Say) -> Batches:
        """Work over rows, of which each has so many positions again; a batch has as many as of the longest prompt."""
        return by_positions(self.runtime, self.setup.batch_size, self.setup.longest, say)

    def study(self, number: int, asked: Asked) -> Study:
        """A prompt, opened; `number` is its own."""
        key, runtime = (number, asked), self.runtime  # at the plan's threads
        if key not in self._open:
            how = self.setup
            opened = open_study(
                self.inputs, self.baselines, asked, number,
                frozen=how.frozen, replaced=how.replaced, targets=how.targets,
            )  # fmt: skip
            if opened.nbytes + sum(one.nbytes for one in self._open.values()) > runtime.room(_OPEN):
                self._open.clear()
            self._open[key] = opened
        return self._open[key]

    def dictionary(self, reads: Site) -> Dictionary:
        """The one that reads a site."""
        return self.inputs.passes.saes([reads])[reads]


def studies_of(sources: Sources, setup: Setup) -> Studies:
    """Those of a setup in this process, made once."""
    return sources.kept(setup, lambda: Studies(setup, Inputs(setup.origin, sources)))
