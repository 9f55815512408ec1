"""Plug point: where tasks are computed. One file an executor.

A task is a value: what it gives follows from it and from what it reads by content, so it may be computed anywhere, once
or again. Results come back to whoever asked for them, who alone writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, Protocol, cast, runtime_checkable

from circuitcli import plugins
from circuitcli.executors import _names
from circuitcli.executors._task import Done, Places, R, Say, Task

__all__ = ["Done", "Executor", "Places", "R", "Say", "Task", "check", "make"]


@runtime_checkable
class Executor(Protocol):
    """Computes tasks."""

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute them, so that this one has time to write beside that."""
        ...

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

    def words(self) -> str:
        """How far it is, beside what `done` was told, for whoever watches; nothing where there is no more to say."""
        ...

    def close(self) -> None:
        """Give back all that it holds."""
        ...


def check(settings: Any) -> None:
    """Refuse settings of [executor] that don't go together.

    Raises:
        UsageError: With what to leave out.
    """
    _names.check(name=settings.name, scheduler=settings.scheduler, cluster=settings.cluster, options=settings.options)


def make(settings: Any, say: Say) -> Executor:
    """The executor that settings of [executor] name; its fields that are none of them are its own, but for `say`.

    Args:
        settings: Its options by their names.
        say: Told what people should know.
    """
    name = settings.name
    if name == "auto":
        name = "dask" if settings.scheduler or settings.cluster else "local"
    kind = plugins.load("executors", name)
    given = {"say": say}
    taken = {field.name for field in fields(kind) if field.init}
    options = {
        name: given.get(name, getattr(settings, name, None))
        for name in taken
        if hasattr(settings, name) or name in given
    }
    return cast(Executor, kind(**options))
