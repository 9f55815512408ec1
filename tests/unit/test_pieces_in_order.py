"""In which order pieces are given out, and that each is written of its own results."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from circuitcli.executors import Places
from circuitcli.settings import resolve
from circuitcli.stages.pieces import Piece, compute
from circuitcli.stages.report import Silent
from circuitcli.stages.tools import Tools


@dataclass
class Backwards:
    """An executor that gives the results of three tasks at a time, the last first."""

    elsewhere: bool
    given: list[Any] = field(default_factory=list)

    def threads(self) -> None:
        return None

    def results(self, tasks: Any, places: Any, *, done: Any, say: Any) -> Iterator[tuple[int, Any]]:
        held = []
        for number, task in enumerate(tasks):
            self.given.append(task)
            held.append((number, task * 10))
            if len(held) == 3:
                yield from reversed(held)
                held = []
        yield from reversed(held)

    def words(self) -> str:
        return ""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("elsewhere", [False, True])
def test_of_like_pieces_the_longest_come_first_where_several_processes_compute(elsewhere: bool) -> None:
    executor, written = Backwards(elsewhere), dict[str, list[int]]()

    def piece(name: str, units: int, like: str | None, *tasks: int) -> Piece:
        return Piece(name, units, lambda: False, lambda: tasks, lambda found: written.update({name: [*found]}), like)

    pieces = [
        piece("a", 3, "one", 1), piece("b", 5, "two", 2), piece("c", 9, "one", 3, 4), piece("d", 7, None, 5),
        piece("e", 1, "two", 6), piece("f", 8, None, 7, 8), piece("g", 6, "two", 9),
    ]  # fmt: skip
    tools = Tools(resolve({}), Silent(), executor=executor)
    compute(tools, pieces, Places(None, dict), lambda done: None)
    assert executor.given == ([3, 4, 1, 9, 2, 6, 5, 7, 8] if elsewhere else [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert written == {"a": [10], "b": [20], "c": [30, 40], "d": [50], "e": [60], "f": [70, 80], "g": [90]}
