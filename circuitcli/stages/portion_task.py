"""The unit of work of a validation: one step on a few examples, as a value that any process computes to the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from circuitcli.core.evidence.examples import Example, Half
from circuitcli.stages.assembly import Say, unsaid
from circuitcli.stages.baselines import Kind
from circuitcli.stages.batching import by_positions
from circuitcli.stages.inputs import Inputs, Origin
from circuitcli.stages.judging import Judge
from circuitcli.stages.screening import Batches
from circuitcli.stages.sources import Sources
from circuitcli.store import tables


@dataclass(frozen=True)
class Court:
    """What judges, as a value.

    Attributes:
        origin: The run.
        kind: The baseline.
    """

    origin: Origin
    kind: Kind

    def judge(self, sources: Sources) -> Judge:
        """It, in this process; made once."""
        return sources.kept(self, lambda: Judge(Inputs(self.origin, sources), self.kind))


@dataclass(frozen=True)
class Arithmetic:
    """What decides last bits.

    Attributes:
        longest: Tokens of the longest sequence of all examples.
        batch_size: How many rows of so many are run at once.
        threads: Of torch.
    """

    longest: int
    batch_size: int
    threads: int

    def batches(self, judge: Judge, say: Say) -> Batches:
        """Work over rows of so many positions; a batch has as many as of the longest sequence."""
        runtime = judge.inputs.passes.runtime.with_plan(batch_size=self.batch_size, threads=self.threads)
        return by_positions(runtime, self.batch_size, self.longest, say)


@dataclass(frozen=True, eq=False)
class Bench:
    """What steps on examples work with, in the process that does them.

    Attributes:
        judge: Opens examples, and measures.
        examples: By their numbers; maybe some of all.
        half: Of each.
        batches: Work over rows of so many positions.
    """

    judge: Judge
    examples: Mapping[int, Example]
    half: Mapping[int, Half]
    batches: Batches


@runtime_checkable
class Step(Protocol):
    """What is done with examples; picklable."""

    def of(self, at: Bench, done: Callable[[int], None]) -> list[tables.Columns]:
        """A table of all examples of the bench, in parts; `done` is told how many more of them are done."""
        ...


def _uncounted(done: int) -> None:
    pass


@dataclass(frozen=True, eq=False)
class PortionTask:
    """One step on some examples.

    Attributes:
        court: What judges.
        arithmetic: How it works.
        examples: By their numbers.
        half: Of each.
        step: What is done.
    """

    court: Court
    arithmetic: Arithmetic
    examples: Mapping[int, Example]
    half: Mapping[int, Half]
    step: Step

    def __len__(self) -> int:
        return len(self.examples)

    def compute(
        self, sources: Sources, *, done: Callable[[int], None] = _uncounted, say: Say = unsaid
    ) -> list[tables.Columns]:
        """What comes of the step: a table, in parts.

        Raises:
            InputError: Something isn't there, or isn't finite.
            ResourceError: A single row doesn't fit into memory.
        """
        judge = self.court.judge(sources)
        return self.step.of(Bench(judge, self.examples, self.half, self.arithmetic.batches(judge, say)), done)

    def halves(self) -> tuple[PortionTask, ...]:
        """The same in batches of half the size; none of one row."""
        size = self.arithmetic.batch_size
        return () if size == 1 else (replace(self, arithmetic=replace(self.arithmetic, batch_size=size // 2)),)

    def joined(self, results: Sequence[list[tables.Columns]]) -> list[tables.Columns]:
        """The one result."""
        [found] = results
        return found
