"""Progress on a terminal: a bar that counts, or, where nobody knows how much it is, a spinner and the time so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

# Columns of a terminal below which words beside a bar leave no room for the unit of its rate.
_NARROW = 100
# Times a second: a spinner that doesn't turn for a second looks stuck.
_REFRESH = 8


class Bars:
    """What is under way on one console. One that begins within another stands below it."""

    def __init__(self, console: Console, beside: Callable[[], str]) -> None:
        """Nothing is under way yet.

        Args:
            console: Where it is shown.
            beside: Words that are shown with what counts, asked for as it is drawn.
        """
        self._console, self._beside = console, beside
        self._live: Progress | None = None

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Progress over `total` units (0: nobody knows; B: bytes), with rate and time left."""
        with self._progress() as progress:
            task = progress.add_task(what, total=total or None, unit=unit)
            progress.refresh()
            try:
                yield lambda done: progress.advance(task, done)
                progress.refresh()
            finally:
                progress.remove_task(task)

    @contextmanager
    def _progress(self) -> Iterator[Progress]:
        if self._live is not None:
            yield self._live
            return
        name = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
        columns = (SpinnerColumn(), name, _Bar(), _Counted(self._short), _Left(), _Beside(self._beside))
        progress = Progress(*columns, console=self._console, transient=True, refresh_per_second=_REFRESH)
        with progress:
            self._live = progress
            try:
                yield progress
            finally:
                self._live = None

    def _short(self) -> bool:
        """Whether there is little room."""
        return self._console.width < _NARROW and bool(self._beside())


class _Bar(BarColumn):
    """A bar, where there is something to count."""

    def render(self, task: Task) -> RenderableType:  # type: ignore[override]
        return Text("") if task.total is None else super().render(task)


class _Counted(ProgressColumn):
    """How much is done and how fast, bytes in human units; without a total the time that it has taken."""

    max_refresh = 0.5

    def __init__(self, short: Callable[[], bool]) -> None:
        super().__init__(Column(no_wrap=True))
        self._short = short
        self._bytes, self._speed, self._count = DownloadColumn(), TransferSpeedColumn(), MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{task.elapsed or 0:.0f} s")
        unit = str(task.fields["unit"])
        if unit == "B":
            return Text(" ").join([self._bytes.render(task), self._speed.render(task)])
        each = "" if self._short() else f" {unit}"
        rate = f"{task.speed:.3g}{each}/s" if task.speed else unit
        return Text(" ").join([self._count.render(task), Text(rate)])


class _Left(TimeRemainingColumn):
    """The time left, where there is something to count."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, min_width=7))

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class _Beside(ProgressColumn):
    """Words that change, where there is something to count."""

    max_refresh = 0.5

    def __init__(self, words: Callable[[], str]) -> None:
        super().__init__(Column(no_wrap=True))
        self._words = words

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else self._words())
