"""The prompts of an attribution, opened one by one, and what work on them shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.runtime.device import Runtime
from circuitcli.stages import extent, questions
from circuitcli.stages.baselines import Baselines
from circuitcli.stages.batching import by_positions
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.questions import Asked
from circuitcli.stages.stage import Work
from circuitcli.stages.study import Study, open_study, sites_of

_OPEN = 2**30  # bytes of opened prompts that are kept


@dataclass(eq=False)
class Prompts:
    """What was asked, and each prompt's study.

    Attributes:
        todo: The stage's work, whose plan has the batch size.
        given: The questions; empty: those of the settings.
    """

    todo: Work
    given: Sequence[Asked] = ()
    _open: dict[int, Study] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.asked)

    @cached_property
    def inputs(self) -> Inputs:
        """The run's model, dictionaries and text."""
        return Inputs(self.todo.job)

    @cached_property
    def asked(self) -> list[Asked]:
        """The questions.

        Raises:
            UsageError, InputError: One isn't as it should be.
        """
        return list(self.given) or questions.asked(self.todo.job)

    @cached_property
    def baselines(self) -> Baselines:
        """What replaces nodes."""
        kind = questions.baseline(self.todo.job, self.asked)
        return Baselines(kind, self.inputs, sites_of(self.inputs))

    @cached_property
    def _targets(self) -> int:
        """Most next tokens that are explained together; of questions that were given one."""
        return 1 if self.given else questions.targets(self.todo.job)

    @cached_property
    def _longest(self) -> int:
        return max(len(one.ids) for one in self.asked)

    @cached_property
    def runtime(self) -> Runtime:
        """At the batch size and threads of the plan, so that what is resumed repeats the arithmetic."""
        passes = self.inputs.passes
        return self.todo.planned_batch(passes.runtime.rows_at_once(passes.row_bytes(None), self._longest))

    def batches(self, count: int, positions: int, work: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        """Work over rows, of which each has so many positions again; a batch of the plan has the longest prompt's."""
        made = by_positions(self.runtime, self.runtime.batch_size or 1, self._longest, self.todo.job.report.say)
        return made(count, positions, work)

    def study(self, number: int) -> Study:
        """A prompt, opened; kept while there is room."""
        if number not in self._open:
            how = self.todo.job.settings.attribute
            opened = open_study(
                self.inputs, self.baselines, self.asked[number], number,
                frozen=how.freeze, replaced=how.replace, targets=self._targets,
            )  # fmt: skip
            if opened.nbytes + sum(one.nbytes for one in self._open.values()) > self.runtime.room(_OPEN):
                self._open.clear()
            self._open[number] = opened
        return self._open[number]

    def dictionary(self, reads: Site) -> Dictionary:
        """The one that reads a site."""
        return self.inputs.passes.saes([reads])[reads]

    @cached_property
    def seconds_each(self) -> float:
        """Seconds of an operation, from a few nodes that are measured here and now."""
        return extent.rate(self.study(0), self.batches)
