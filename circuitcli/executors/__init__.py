"""Plug point: where tasks are computed. One file an executor.

A task is a value: what it gives follows from it and from what it reads by content, so it may be computed anywhere, once
or again. Results come back to whoever asked for them, who alone writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from circuitcli.executors._task import Done, Places, R, Say, Task

__all__ = ["Done", "Executor", "Places", "R", "Say", "Task"]


@runtime_checkable
class Executor(Protocol):
    """Computes tasks."""

    @property
    def threads(self) -> int | None:
        """Threads of torch in each of its workers, which a new plan takes; None: those of this process."""
        ...

    def results(self, tasks: Iterable[Task[R]], places: Places, *, done: Done, say: Say) -> Iterator[tuple[int, R]]:
        """The number of each task and what came of it, in any order. Only few tasks and results are held at once.

        Args:
            tasks: Asked for one by one, as there is room for them.
            places: Where they find what they read.
            done: Told how many more units of progress are done.
            say: Told what people should know.

        Raises:
            CircuitError: As a task does, where no other place computes it either.
        """
        ...

    def close(self) -> None:
        """Give back all that it holds."""
        ...
