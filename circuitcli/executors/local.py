"""In this process: one task after the other, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from circuitcli.executors import Done, Places, R, Say, Task


@dataclass(frozen=True)
class Local:
    """Computes here; progress is told batch by batch."""

    elsewhere: ClassVar[bool] = False

    def threads(self) -> None:
        """Those of this process."""
        return None

    def results(self, tasks: Iterable[Task[R]], places: Places, *, done: Done, say: Say) -> Iterator[tuple[int, R]]:
        """One by one."""
        for number, task in enumerate(tasks):
            yield number, task.compute(places.here, done=done, say=say)

    def words(self) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Nothing is held."""


plugin = Local
