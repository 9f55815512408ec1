"""A shard's tables as files have them, made where they are computed: they travel small, and have only to be stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuitcli.stages.assembly import Say
from circuitcli.stages.task import ShardTask, Sources
from circuitcli.store import ablations
from circuitcli.store.tables import Encoded


@dataclass(frozen=True, eq=False)
class WrittenTask:
    """The ablations of one shard, and its files.

    Attributes:
        task: The ablations.
    """

    task: ShardTask

    def __len__(self) -> int:
        return len(self.task)

    def compute(self, sources: Sources, *, done: Callable[[int], None], say: Say) -> dict[str, Encoded]:
        """The files of the shard, by kind.

        Raises:
            InputError, ResourceError: As the task does.
        """
        return ablations.encoded(self.task.compute(sources, done=done, say=say))

    def halves(self) -> tuple[WrittenTask, ...]:
        """Those of its task."""
        return tuple(map(WrittenTask, self.task.halves()))

    def joined(self, results: Sequence[dict[str, Encoded]]) -> dict[str, Encoded]:
        """The files of what its halves' files hold, one after the other."""
        return ablations.encoded(self.task.joined([ablations.decoded(files) for files in results]))
