"""Examples in portions of a few, whose numbers are kept in a file each: what is interrupted goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitcli.store import tables
from circuitcli.store.records import fingerprint

if TYPE_CHECKING:
    from circuitcli.stages.stage import Work

Done = Callable[[int], None]
_PORTION = 8  # examples


@dataclass(frozen=True)
class Portions:
    """What a stage measures of examples.

    Attributes:
        todo: The stage's work; its plan holds by now whatever decides how numbers are computed.
    """

    todo: Work

    def kept(
        self,
        table: str,
        words: str,
        numbers: Sequence[int],
        what: dict[str, Any],
        work: Callable[[Sequence[int], Done], list[tables.Columns]],
    ) -> Iterator[tables.Columns]:
        """Measure what isn't there yet; then what work says of examples, a table for each portion, read one by one.

        Args:
            table: Which of the folder validation.
            words: Of the bar.
            numbers: The examples'.
            what: What decides the numbers, beside the stage's inputs and the examples.
            work: Measures some examples, and tells how many are done.
        """
        job, shards = self.todo.job, self._shards(table, numbers, what)
        self.todo.expect(shards)
        missing = [name for name in shards if not self.todo.found(name)]
        with job.report.track(words, sum(len(shards[name]["examples"]) for name in missing), "examples") as done:
            for name in missing:
                tables.write(job.run.path(name), f"validation/{table}", work(shards[name]["examples"], done))
        for name in shards:
            self.todo.files[name] = job.run.entry(job.run.path(name), tables.rows(job.run.path(name)))
        return (tables.read(job.run.path(name)) for name in shards)

    def _shards(self, table: str, numbers: Sequence[int], what: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The file of each portion, and what is in it."""
        found = {}
        for i in range(0, len(numbers), _PORTION):
            told = {"table": table, "examples": list(numbers[i : i + _PORTION]), **what}
            digest = fingerprint({"stage": self.todo.plan.fingerprint, **told})[:16]
            found[f"validation/{table}-{digest}.parquet"] = told
        return found
