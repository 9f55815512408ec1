"""The unit of work of an attribution: one step on one prompt, as a value that any process computes to the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

from circuitcli.errors import InputError
from circuitcli.stages.assembly import Say, unsaid
from circuitcli.stages.questions import Asked
from circuitcli.stages.sources import Sources
from circuitcli.stages.studies import Setup, Studies, studies_of
from circuitcli.stages.study import Batches, Study

R = TypeVar("R")
_R = TypeVar("_R", covariant=True)


@dataclass(frozen=True, eq=False)
class Bench:
    """What steps on prompts work with, in the process that does them.

    Attributes:
        studies: What all prompts share.
        batches: Work over rows.
        done: Told how many more units of a step are done.
    """

    studies: Studies
    batches: Batches
    done: Callable[[int], None]


@runtime_checkable
class Step(Protocol[_R]):
    """What is done with a prompt; picklable. Its length counts units of progress."""

    def __len__(self) -> int: ...

    def of(self, study: Study, number: int, at: Bench) -> _R:
        """Its result, of the prompt of that number."""
        ...


def _uncounted(done: int) -> None:
    pass


@dataclass(frozen=True, eq=False)
class PromptTask(Generic[R]):
    """One step on one prompt.

    Attributes:
        setup: How prompts are opened.
        number: The prompt's.
        asked: What is asked of it.
        step: What is done.
        nodes: The signature of the nodes by whose numbers it is said; empty where it isn't.
    """

    setup: Setup
    number: int
    asked: Asked
    step: Step[R]
    nodes: str = ""

    def __len__(self) -> int:
        return len(self.step)

    def compute(self, sources: Sources, *, done: Callable[[int], None] = _uncounted, say: Say = unsaid) -> R:
        """What comes of the step.

        Raises:
            InputError: Something isn't there, or isn't finite.
            ResourceError: A single row doesn't fit into memory.
        """
        studies = studies_of(sources, self.setup)
        at = Bench(studies, studies.batches(say), done)
        study = studies.study(self.number, self.asked)
        if self.nodes:
            require(study.signature, self.nodes, self.number)
        return self.step.of(study, self.number, at)

    def halves(self) -> tuple[PromptTask[R], ...]:
        """The same in batches of half the size; none of one row."""
        size = self.setup.batch_size
        return () if size == 1 else (replace(self, setup=replace(self.setup, batch_size=size // 2)),)

    def joined(self, results: Sequence[R]) -> R:
        """The one result."""
        [found] = results
        return found


def require(found: str, planned: str, number: int) -> None:
    """Refuse nodes that aren't those by whose numbers work was planned.

    Raises:
        InputError: They are others.
    """
    if found != planned:
        raise InputError(
            f"Other features fire in prompt {number} here than where its nodes were numbered: rounding decides.",
            hint="Let machines of one kind do it, without --mixed, or do it again with --force.",
        )
