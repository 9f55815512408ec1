"""The prompts of an attribution, and the tasks that work on them is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.stages import extent, questions
from circuitcli.stages.inputs import JobInputs
from circuitcli.stages.prompt_task import PromptTask, R, Step
from circuitcli.stages.questions import Asked
from circuitcli.stages.stage import Work
from circuitcli.stages.studies import Setup, Studies, studies_of
from circuitcli.stages.study import Batches, Study

if TYPE_CHECKING:
    from circuitcli.executors import Done


@dataclass(eq=False)
class Prompts:
    """What was asked, and each prompt's study.

    Attributes:
        todo: The stage's work, whose plan has the batch size.
        given: The questions; empty: those of the settings.
        signatures: Of each prompt's nodes, once they are numbered.
    """

    todo: Work
    given: Sequence[Asked] = ()
    signatures: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.asked)

    @cached_property
    def inputs(self) -> JobInputs:
        """The run's model, dictionaries and text."""
        return JobInputs(self.todo.job)

    @cached_property
    def asked(self) -> list[Asked]:
        """The questions.

        Raises:
            UsageError, InputError: One isn't as it should be.
        """
        return list(self.given) or questions.asked(self.todo.job)

    @cached_property
    def setup(self) -> Setup:
        """How each is opened, at the batch size and threads of the plan; one without a batch size takes this one when
        something is written.
        """
        job, passes, plan = self.todo.job, self.inputs.passes, self.todo.plan
        longest = max(len(one.ids) for one in self.asked)
        return Setup(
            origin=self.inputs.origin,
            baseline=questions.baseline(job, self.asked),
            frozen=job.settings.attribute.freeze,
            replaced=job.settings.attribute.replace,
            targets=1 if self.given else questions.targets(job),  # of questions that were given one
            longest=longest,
            batch_size=plan.batch_size or passes.runtime.rows_at_once(passes.row_bytes(None), longest),
            threads=plan.threads,
        )

    @property
    def _studies(self) -> Studies:
        return studies_of(self.inputs.sources, self.setup)

    @property
    def batches(self) -> Batches:
        """Work over rows in this process, of which each has so many positions again."""
        return self._studies.batches(self.todo.job.report.say)

    def study(self, number: int) -> Study:
        """A prompt, opened in this process; kept while there is room."""
        return self._studies.study(number, self.asked[number])

    def dictionary(self, reads: Site) -> Dictionary:
        """The one that reads a site."""
        return self._studies.dictionary(reads)

    @cached_property
    def seconds_each(self) -> float:
        """Seconds of an operation, from a few nodes that are measured here and now."""
        return extent.rate(self.study(0), self.batches)

    def task(self, number: int, step: Step[R]) -> PromptTask[R]:
        """A step on a prompt."""
        nodes = self.signatures[number] if self.signatures else ""
        return PromptTask(self.setup, number, self.asked[number], step, nodes)

    def each(self, steps: Sequence[Step[R]], done: Done) -> list[R]:
        """What comes of one step for each prompt, in their order, wherever they are computed."""
        tasks, say = (self.task(number, step) for number, step in enumerate(steps)), self.todo.job.report.say
        found = dict(self.todo.job.executor.results(tasks, self.inputs.places, done=done, say=say))
        return [found[number] for number in range(len(steps))]
