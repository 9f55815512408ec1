"""A cluster whose workers are threads of this process, and tasks that do to them what a test says."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distributed import Client, LocalCluster, get_worker

from circuitcli.executors import Done, Places, Say
from circuitcli.executors._cluster import Connection, connect
from circuitcli.executors._dispatch import Dispatch, Pool
from circuitcli.executors._worker import _held


@dataclass
class Book:
    """What tasks do, and what they did."""

    act: Callable[[Numbers, str], None] = lambda task, where: None
    made: Counter[str] = field(default_factory=Counter)  # how often sources were made
    computed: defaultdict[str, list[Numbers]] = field(default_factory=lambda: defaultdict(list))
    here: Counter[str] = field(default_factory=Counter)  # at once, by worker
    most: int = 0


BOOKS: dict[str, Book] = {}


@dataclass(frozen=True)
class At:
    """What tasks find on a worker."""

    book: Book
    where: str


def at(name: str) -> At:
    where = get_worker().address
    BOOKS[name].made[where] += 1
    return At(BOOKS[name], where)


@dataclass(frozen=True)
class Numbers:
    """Squares some numbers."""

    values: tuple[int, ...]
    batch: int = 8

    def __len__(self) -> int:
        return len(self.values)

    def compute(self, sources: At, *, done: Done, say: Say) -> list[int]:
        book, where = sources.book, sources.where
        book.here[where] += 1
        book.most = max(book.most, book.here[where])
        try:
            book.act(self, where)
        finally:
            book.here[where] -= 1
        book.computed[where].append(self)
        return [value * value for value in self.values]

    def halves(self) -> Sequence[Numbers]:
        count = len(self.values)
        if count == 1:
            return () if self.batch == 1 else (replace(self, batch=self.batch // 2),)
        cut = (self.values[: count // 2], self.values[count // 2 :])
        return tuple(Numbers(part, max(1, self.batch // 2)) for part in cut)

    def joined(self, results: Sequence[list[int]]) -> list[int]:
        return [value for part in results for value in part]


@dataclass(frozen=True)
class Fatal(Numbers):
    """Ends its process where it has more than one number."""

    def compute(self, sources: Any, *, done: Done, say: Say) -> list[int]:
        if len(self.values) > 1:
            os._exit(1)
        return [value * value for value in self.values]

    def halves(self) -> Sequence[Fatal]:
        return [Fatal((value,)) for value in self.values] if len(self.values) > 1 else ()


class Cluster:
    """The pool of a connection, and what was said."""

    def __init__(self, connection: Connection, name: str, *, mixed: bool = False) -> None:
        self.connection, self.name = connection, name
        self.said: list[str] = []
        self.pool = Pool(connection, self.said.append, mixed=mixed)
        self.done = 0
        self.dispatch: Dispatch[Any] | None = None

    @property
    def scheduler(self) -> Any:
        return self.connection.cluster.scheduler

    @property
    def workers(self) -> list[Any]:
        return list(self.connection.cluster.workers.values())

    def results(self, tasks: Any, act: Callable[[Numbers, str], None] | None = None) -> Iterator[tuple[int, Any]]:
        if act is not None:
            BOOKS[self.name].act = act
        places = Places(None, partial(at, self.name))
        self.dispatch = Dispatch(self.pool, tasks, places, self.name, done=self._count, say=self.said.append)
        return self.dispatch.results()

    def _count(self, done: int) -> None:
        self.done += done


_names = iter(range(10**9))


@contextmanager
def threads(count: int, *, each: int = 1, mixed: bool = False) -> Iterator[tuple[Cluster, Book]]:
    """Workers as threads, each with so many of Dask's."""
    name = f"book-{next(_names)}"
    BOOKS[name] = Book()
    _held.clear()  # workers of earlier tests had the same addresses
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=each, processes=False, dashboard_address=":0", memory_limit=0
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Cluster(Connection(client, cluster, name="simulated"), name, mixed=mixed), BOOKS[name]


@contextmanager
def processes(count: int) -> Iterator[Cluster]:
    """Workers as the executor starts them."""
    connection = connect("", f"local:{count}", {})
    try:
        yield Cluster(connection, "")
    finally:
        connection.close()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
