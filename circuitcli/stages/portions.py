"""Examples in portions of a few, whose numbers are kept in a file each: what is interrupted goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitcli.stages.pieces import Piece
from circuitcli.stages.portion_task import PortionTask, Step
from circuitcli.store import tables
from circuitcli.store.records import fingerprint

if TYPE_CHECKING:
    from circuitcli.executors import Places
    from circuitcli.stages.stage import Work

_PORTION = 8  # examples


@dataclass(frozen=True)
class Portions:
    """What a stage measures of examples.

    Attributes:
        todo: The stage's work; its plan holds by now whatever decides how numbers are computed.
        places: Where tasks find what they read.
        task: Makes one, of examples and what is done with them.
    """

    todo: Work
    places: Places
    task: Callable[[Sequence[int], Step], PortionTask]

    def kept(
        self, table: str, words: str, numbers: Sequence[int], what: dict[str, Any], step: Step
    ) -> Iterator[tables.Columns]:
        """Measure what isn't there yet; then what a step says of examples, a table for each portion, read one by one.

        Args:
            table: Which of the folder validation.
            words: Of the bar.
            numbers: The examples'.
            what: What decides the numbers, beside the stage's inputs and the examples.
            step: Measures some examples.
        """
        job, shards = self.todo.job, self._shards(table, numbers, what)
        with self.todo.planning():
            self.todo.expect(shards)
        missing = [name for name in shards if not self.todo.found(name)]
        pieces = [self._piece(name, table, shards[name]["examples"], step) for name in missing]
        self.todo.make(words, "examples", pieces, self.places, of=shards.keys())
        for name in shards:
            self.todo.files[name] = job.run.entry(job.run.path(name), tables.rows(job.run.path(name)))
        return (tables.read(job.run.path(name)) for name in shards)

    def _piece(self, name: str, table: str, numbers: Sequence[int], step: Step) -> Piece:
        path = self.todo.job.run.path(name)

        def write(results: Sequence[list[tables.Columns]]) -> None:
            [found] = results
            tables.write(path, f"validation/{table}", found)

        return Piece(path.stem, len(numbers), path.is_file, lambda: [self.task(numbers, step)], write)

    def _shards(self, table: str, numbers: Sequence[int], what: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The file of each portion, and what is in it."""
        found = {}
        for i in range(0, len(numbers), _PORTION):
            told = {"table": table, "examples": list(numbers[i : i + _PORTION]), **what}
            digest = fingerprint({"stage": self.todo.plan.fingerprint, **told})[:16]
            found[f"validation/{table}-{digest}.parquet"] = told
        return found
