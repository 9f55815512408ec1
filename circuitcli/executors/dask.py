"""Dask's workers, on this machine or others: processes here, a batch system's jobs, or a scheduler's that is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from circuitcli.core.words import amount
from circuitcli.executors import Done, Places, R, Say, Task
from circuitcli.executors._names import parse_options

if TYPE_CHECKING:
    from circuitcli.executors._dispatch import Pool


@dataclass
class Dask:
    """Connects, or starts a cluster, when it is first needed.

    Attributes:
        scheduler: The address of one that is there.
        cluster: What to start, if that isn't.
        options: Of the cluster.
        mixed: Whether workers with other libraries are used too.
        say: Told what people should know.
    """

    scheduler: str
    cluster: str
    options: tuple[str, ...]
    mixed: bool
    say: Say
    elsewhere: ClassVar[bool] = True
    _dispatch: Any = field(default=None, init=False)  # of the tasks that are under way

    @cached_property
    def _pool(self) -> Pool:
        from circuitcli.executors._cluster import connect, dashboard
        from circuitcli.executors._dispatch import Pool

        connection = connect(self.scheduler, self.cluster, parse_options(self.options))
        pool = Pool(connection, self.say, mixed=self.mixed)
        link = dashboard(connection.client)
        if link:
            self.say(f"Dask's dashboard: {link}")
        return pool

    def threads(self) -> int:
        """The fewest of any worker that is there, once one is."""
        return min(worker.facts.threads for worker in self._pool.wait("", None) if worker.facts)

    def results(self, tasks: Iterable[Task[R]], places: Places, *, done: Done, say: Say) -> Iterator[tuple[int, R]]:
        """As they come."""
        from dask.base import tokenize

        from circuitcli.executors._dispatch import Dispatch

        dispatch = Dispatch(self._pool, tasks, places, tokenize(places.afar), done=done, say=say)
        self._dispatch = dispatch
        try:
            yield from dispatch.results()
        finally:
            self._dispatch = None

    def words(self) -> str:
        """How far it is, on how many workers, and how often something was done again."""
        if self._dispatch is None:
            return ""
        counts = [f"{amount(self._dispatch.finished, 'shard')} done", amount(len(self._pool.workers), "worker")]
        return ", ".join([*counts, *([f"{self._dispatch.again:,} again"] if self._dispatch.again else [])])

    def close(self) -> None:
        """Leave, and end a cluster that was started."""
        pool = vars(self).pop("_pool", None)
        if pool is not None:
            pool.connection.close()


plugin = Dask
