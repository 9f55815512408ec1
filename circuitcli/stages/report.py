"""How a stage reports while it works: the command line shows it, tests and Python need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable


@runtime_checkable
class Report(Protocol):
    """Progress with counts, and single lines."""

    def say(self, line: str) -> None:
        """One line about what is going on."""
        ...

    def track(self, what: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """Progress over `total` units (0: nobody knows); the function it gives is told how many more are done."""
        ...


@runtime_checkable
class Beside(Protocol):
    """A report that shows words beside progress, too."""

    def beside(self, words: Callable[[], str]) -> AbstractContextManager[None]:
        """Within it, whatever is tracked shows these words as well, asked for anew as time goes on."""
        ...


class Silent:
    """Says nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Nothing."""
        yield lambda done: None


class Within:
    """A report of one piece of work within a larger one: its bars, and none of what it says, which the larger says."""

    def __init__(self, report: Report) -> None:
        """The report of the larger one."""
        self.track = report.track
        self.beside = report.beside if isinstance(report, Beside) else lambda words: nullcontext()

    def say(self, line: str) -> None:
        """Nothing."""
