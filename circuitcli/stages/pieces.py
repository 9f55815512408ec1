"""Pieces of a stage's work, each of which leaves files: computed by the executor, and written as they come.

One process does all of a stage's pieces; several that share a run do each some of them, see `sharing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from circuitcli.executors import Done, Places, Task
from circuitcli.store.behind import Behind

if TYPE_CHECKING:
    from circuitcli.stages.tools import Tools


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of work, and its files.

    Attributes:
        name: Of it alone, in a stage.
        units: Of progress.
        there: Whether its files are there by now.
        tasks: What is computed, made when its turn comes.
        write: Writes the files, of what comes of the tasks, in their order; perhaps while others are written.
        like: What it works with; pieces that have the same follow each other, so that it is opened once. None: its own.
    """

    name: str
    units: int
    there: Callable[[], bool]
    tasks: Callable[[], Sequence[Task[Any]]]
    write: Callable[[Sequence[Any]], None]
    like: Hashable | None = None


@runtime_checkable
class Pieces(Protocol):
    """Who does pieces, and plans them."""

    def planning(self) -> AbstractContextManager[None]:
        """Within it nobody else changes the plan of the stage."""
        ...

    def begins(self) -> bool:
        """Whether the run may be changed by now."""
        ...

    def check(self, new: int) -> None:
        """Refuse to plan so many files that no plan has.

        Raises:
            InputError: They should be planned by now.
        """
        ...

    def make(
        self, tools: Tools, what: str, unit: str, pieces: Sequence[Piece], places: Places, *, of: Collection[str]
    ) -> None:
        """Have all pieces done, and their files there.

        Args:
            tools: With the executor.
            what: In words.
            unit: Of progress.
            pieces: Those whose files weren't there when they were looked for.
            places: Where tasks find what they read.
            of: The names of all, with those whose files were there.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """One process does all."""

    @contextmanager
    def planning(self) -> Iterator[None]:
        """There is nobody else."""
        yield

    def begins(self) -> bool:
        """It may."""
        return True

    def check(self, new: int) -> None:
        """Anything may be planned."""

    def make(
        self, tools: Tools, what: str, unit: str, pieces: Sequence[Piece], places: Places, *, of: Collection[str]
    ) -> None:
        """All of them."""
        if pieces:
            with tools.tracking(what, sum(piece.units for piece in pieces), unit) as done:
                compute(tools, pieces, places, done)


def compute(tools: Tools, pieces: Sequence[Piece], places: Places, done: Done) -> None:
    """Compute pieces by the executor, and write each as its last task is done."""
    own: list[tuple[int, int]] = []  # of each task, the piece, and its place there
    results: list[dict[int, Any]] = [{} for _ in pieces]
    counts: dict[int, int] = {}

    order = _longest_first(pieces) if tools.executor.elsewhere else range(len(pieces))

    def tasks() -> Iterator[Task[Any]]:
        for number in order:
            made = pieces[number].tasks()
            counts[number] = len(made)
            for place, task in enumerate(made):
                own.append((number, place))
                yield task

    with Behind() if tools.behind else nullcontext(_at_once) as write:
        for index, result in tools.executor.results(tasks(), places, done=done, say=tools.report.say):
            number, place = own[index]
            results[number][place] = result
            if len(results[number]) == counts[number]:
                found, results[number] = results[number], {}
                write(partial(pieces[number].write, [found[place] for place in range(len(found))]))


def _longest_first(pieces: Sequence[Piece]) -> list[int]:
    """The numbers of pieces, of like ones the longest first: then the last ones end soon after each other."""
    first: dict[Hashable, int] = {}
    for number, piece in enumerate(pieces):
        first.setdefault(number if piece.like is None else (piece.like,), number)

    def key(number: int) -> tuple[int, int]:
        piece = pieces[number]
        return (number, 0) if piece.like is None else (first[(piece.like,)], -piece.units)

    return sorted(range(len(pieces)), key=key)


def _at_once(write: Callable[[], None]) -> None:
    write()
