"""A shard's tables as files have them, and where they lead: made where they are computed, so that they travel small and
have only to be stored, and the next layer's features follow from little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from circuitcli.core.branches import Branches, Follow
from circuitcli.stages.assembly import Say
from circuitcli.stages.task import ShardTask, Sources
from circuitcli.store import ablations
from circuitcli.store.tables import Columns, Encoded


@dataclass(frozen=True, eq=False)
class Written:
    """What came of a shard.

    Attributes:
        files: By the kind of their tables.
        branches: Where the ablations lead.
    """

    files: dict[str, Encoded]
    branches: Branches

    @property
    def written(self) -> Written:
        """Itself."""
        return self


class Found:
    """What came of a shard, whose files are made by whoever asks for them."""

    def __init__(self, task: WrittenTask, parts: dict[str, list[Columns]]) -> None:
        """The tables of a task."""
        self._task, self._parts = task, parts

    @property
    def written(self) -> Written:
        """It, with its files, made now."""
        features = self._task.task.features
        branches = Branches.of(features, self._parts["contexts"], self._parts["effects"], self._task.follow)
        return Written(ablations.encoded(self._parts), branches)


@dataclass(frozen=True, eq=False)
class WrittenTask:
    """The ablations of one shard, and its files.

    Attributes:
        task: The ablations.
        follow: Which effects may be followed.
        behind: Whether its files are made by whoever writes them, while a GPU is at the next shard.
    """

    task: ShardTask
    follow: Follow
    behind: bool = False

    def __len__(self) -> int:
        return len(self.task)

    def compute(self, sources: Sources, *, done: Callable[[int], None], say: Say) -> Written | Found:
        """The files of the shard.

        Raises:
            InputError, ResourceError: As the task does.
        """
        found = Found(self, self.task.compute(sources, done=done, say=say))
        return found if self.behind else found.written

    def halves(self) -> tuple[WrittenTask, ...]:
        """Those of its task."""
        return tuple(replace(self, task=half) for half in self.task.halves())

    def joined(self, results: Sequence[Written]) -> Written:
        """The files of what its halves' files hold, one after the other."""
        whole = self.task.joined([ablations.decoded(part.files) for part in results])
        return Written(ablations.encoded(whole), Branches.concat([part.branches for part in results]))
