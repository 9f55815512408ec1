"""Tasks to workers and answers back: few under way at a time, each again elsewhere where a worker fails it.

Dask carries tasks and answers, and starts and watches processes. Which worker a task goes to is said here, as that
depends on what Dask doesn't know: who has what a task reads, who computes with the same libraries.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic

from circuitcli.core.words import amount
from circuitcli.errors import HubError, InputError, ResourceError
from circuitcli.executors import Done, Places, R, Say, Task
from circuitcli.executors._cluster import Connection
from circuitcli.executors._fetch import PATIENCE, Arrival, Fetcher
from circuitcli.executors._worker import Facts, greet, versions, work

# Seconds: between looks at the workers; without a sign of life until its task goes elsewhere too; without any worker,
# of processes here, until that is an error.
LOOK, SILENT, NOBODY = 1.0, 60.0, 120.0
# Seconds after which a job of a batch system is given back, where there is nothing to do for it.
IDLE = 300.0
# How many workers may die over a task until it is cut.
DEATHS = 3


@dataclass(eq=False)
class Worker:
    """One of the scheduler's.

    Attributes:
        address: As Dask knows it.
        name: As its cluster knows it.
        facts: What it said of itself; None: nothing yet.
        refused: Why it isn't used, if it isn't.
        lacks: Tokens of places whose tasks it can't compute.
        attempts: Under way there, the first being computed.
        seen: What Dask last noted of when it was heard of, and when that was news here.
        busy: When there last was something under way.
    """

    address: str
    name: str = ""
    facts: Facts | None = None
    refused: str = ""
    lacks: set[str] = field(default_factory=set)
    attempts: list[Attempt[Any]] = field(default_factory=list)
    seen: tuple[float, float] = (0.0, 0.0)
    busy: float = field(default_factory=time.monotonic)

    @property
    def silent(self) -> bool:
        """Whether it was heard of too long ago."""
        return time.monotonic() - self.seen[1] > SILENT

    @property
    def host(self) -> str:
        """Its machine, as people know it."""
        return self.facts.host if self.facts else self.address


@dataclass(eq=False)
class Piece(Generic[R]):
    """A task, or a part of one that was cut.

    Attributes:
        task: What to compute.
        number: Of the whole task.
        whole: What it is a part of.
        place: Which part.
        parts: Results of its own parts, where it was cut.
        left: How many of these aren't there.
        avoided: Workers that can't do it.
        deaths: Workers that died over it.
        unread: How often fetching its answer raised what no lost connection raises.
        done: Whether its result is there, or its parts are on their way.
    """

    task: Task[R]
    number: int
    whole: Piece[R] | None = None
    place: int = 0
    parts: list[R | None] = field(default_factory=list)
    left: int = 0
    avoided: set[str] = field(default_factory=set)
    deaths: int = 0
    unread: int = 0
    done: bool = False


@dataclass(eq=False)
class Attempt(Generic[R]):
    """A piece on its way to a worker and back; `elsewhere` once it is tried there too."""

    piece: Piece[R]
    worker: Worker
    future: Any
    elsewhere: bool = False


class Pool:
    """The workers of a connection, and which of them may be used."""

    def __init__(self, connection: Connection, say: Say, *, mixed: bool) -> None:
        self.connection, self._say, self._mixed = connection, say, mixed
        self.workers: dict[str, Worker] = {}
        self._greetings: dict[str, Any] = {}  # futures, by address
        self._looked = -1e9
        self._alone: float | None = None  # since when nobody is there
        self._waited = False
        self._told: set[str] = set()

    def look(self, device: str | None) -> list[Worker]:
        """Note who has come and who has gone; those that are gone.

        Raises:
            HubError: The scheduler is gone.
        """
        if self.connection.client.status == "running" and time.monotonic() - self._looked < LOOK:
            return []
        there = self._there()
        now = self._looked = time.monotonic()
        for address, info in there.items():
            if address not in self.workers:
                self.workers[address] = Worker(address, str(info.get("name", "")))
                self._greetings[address] = self.connection.client.submit(
                    greet, workers=[address], pure=False, key=f"circuit-greet-{address}-{now}"
                )
            worker, seen = self.workers[address], float(info.get("last_seen", 0.0))
            if seen != worker.seen[0] or not worker.seen[1]:
                worker.seen = (seen, now)
        gone = [self.workers.pop(address) for address in list(self.workers) if address not in there]
        for worker in gone:
            self._forget(worker.address)
        for address in [a for a, future in self._greetings.items() if future.done()]:
            self._greeted(self.workers[address], self._greetings[address], device)
            self._forget(address)
        return gone

    def _there(self) -> dict[str, Any]:
        client = self.connection.client
        try:
            if client.status == "running":
                found = client.scheduler_info(n_workers=-1)["workers"]
                if client.status == "running":
                    return dict(found)
        except (OSError, TimeoutError, KeyError, ValueError, RuntimeError):
            pass  # told below
        raise HubError(
            f"The connection to the scheduler of {self.connection.name} was lost.",
            hint="What was computed is kept: the same command goes on once there is a scheduler again.",
        )

    def _forget(self, address: str) -> None:
        future = self._greetings.pop(address, None)
        if future is not None:
            future.release()

    def _greeted(self, worker: Worker, future: Any, device: str | None) -> None:
        error = future.exception() if future.status == "error" else None
        if future.status != "finished":
            said = f": {' '.join(str(error).split())[:200]}" if error else ""
            worker.refused = f"it can't start circuitcli{said}"
        else:
            worker.facts = future.result(timeout=PATIENCE)
            worker.refused = _other(worker.facts)
            if worker.refused and self._mixed:
                self._once(f"The worker {worker.address} on {worker.host} is used all the same: {worker.refused}.")
                worker.refused = ""
        if worker.refused:
            more = "" if worker.facts is None else " --mixed uses it all the same."
            self._once(f"The worker {worker.address} on {worker.host} isn't used: {worker.refused}.{more}")

    @property
    def greeting(self) -> bool:
        """Whether somebody who came hasn't said who it is."""
        return bool(self._greetings)

    def _once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._say(line)

    def usable(self, token: str, device: str | None) -> list[Worker]:
        """Those that may be given a task."""
        return [
            worker
            for worker in self.workers.values()
            if worker.facts is not None
            and not worker.refused
            and token not in worker.lacks
            and not worker.silent
            and (device is None or device in worker.facts.devices)
        ]

    def wait(self, token: str, device: str | None) -> list[Worker]:
        """Those that may be given a task, once there are any.

        Raises:
            InputError: Nobody who is there may.
            HubError: The scheduler is gone; or processes that were started here don't come.
        """
        while not (found := self.usable(token, device)):
            self.look(device)
            self.require(token, device)
            time.sleep(0.05)
        return found

    def require(self, token: str, device: str | None) -> None:
        """Refuse to wait where that is in vain; say what is waited for."""
        if self._greetings or any(worker.silent for worker in self.workers.values()):
            return
        if self.workers:
            self._alone = None
            if self.usable(token, device):
                return
            reasons = dict.fromkeys(self._reason(worker, token, device) for worker in self.workers.values())
            raise InputError(
                f"No worker of {self.connection.name} can be used: {'; '.join(list(reasons)[:3])}.",
                hint="Give workers the same libraries and files (docs/clusters.md), or compute here: --executor local.",
            )
        self.ask_for(1)
        self._alone = self._alone or time.monotonic()
        alone = time.monotonic() - self._alone
        if self.connection.here and alone > NOBODY:
            raise HubError(
                f"No worker of {self.connection.name} started in {NOBODY:.0f} s.",
                hint="Try fewer of them, or compute here: --executor local.",
            )
        if alone > 5 and not self._waited:
            self._waited = True
            self._say(f"Waiting for a worker of {self.connection.name}.")

    def ask_for(self, count: int) -> None:
        """Have jobs of a batch system for so many workers, where that is up to us."""
        if self.connection.jobs is not None:
            self.connection.jobs.want(count, [worker.name for worker in self.workers.values()])

    def give_back(self) -> None:
        """End the jobs of a batch system whose workers have had nothing to do for a while."""
        if self.connection.jobs is not None:
            since = time.monotonic() - IDLE
            self.connection.jobs.give_back(
                [worker.name for worker in self.workers.values() if not worker.attempts and worker.busy < since]
            )

    def _reason(self, worker: Worker, token: str, device: str | None) -> str:
        if worker.refused:
            return f"on {worker.host} {worker.refused}"
        if token in worker.lacks:
            return f"{worker.host} lacks files"
        return f"{worker.host} has no {device}"


def _other(facts: Facts) -> str:
    """What of a worker isn't as it is here."""
    other = [f"{name} {facts.versions.get(name)} (here {own})" for name, own in versions().items()
             if facts.versions.get(name) != own]  # fmt: skip
    return f"it has {', '.join(other)}" if other else ""


class Dispatch(Generic[R]):
    """The tasks of one call, on their way."""

    def __init__(
        self, pool: Pool, tasks: Iterable[Task[R]], places: Places, token: str, *, done: Done, say: Say
    ) -> None:
        self._pool, self._places, self._token, self._done, self._say = pool, places, token, done, say
        self._tasks = (Piece(task, number) for number, task in enumerate(tasks))
        self._more = True
        self._backlog: deque[Piece[R]] = deque()
        self._under_way: dict[str, Attempt[R]] = {}
        self._fetcher = Fetcher(lambda future: future.key in self._under_way)
        self._sent = 0
        self.finished = self.again = 0
        self._lacks: tuple[str, str, str] | None = None  # what was lacking last: host, message, hint
        self._told: set[tuple[str, str]] = set()

    def results(self) -> Iterator[tuple[int, R]]:
        """As `Executor.results`."""
        try:
            self._pool.wait(self._token, self._places.device)
            while True:
                self._look()
                self._fill()
                if not (self._backlog or self._under_way or self._more):
                    return
                arrival = self._fetcher.take(LOOK)
                if arrival is not None:
                    yield from self._taken(arrival)
        finally:
            self._fetcher.close()
            self._cancel(list(self._under_way.values()))

    # Giving out.

    def _fill(self) -> None:
        """Give every worker a task, and another to wait there while there are enough."""
        workers = self._pool.usable(self._token, self._places.device)
        self._give(workers, 1, one_by_one=True)
        self._pull(2 * len(workers) + 1)
        for depth in (1, 2):
            self._give(workers, depth)
        if not self._backlog:
            self._pool.give_back()
            return
        self._pool.ask_for(len(self._backlog) + len(self._under_way))
        if not self._under_way:
            self._require()

    def _give(self, workers: list[Worker], depth: int, *, one_by_one: bool = False) -> None:
        """Give tasks to those that have fewer than so many; a second one only while there are enough.

        One by one each is sent before the next is made, so that nobody waits for the others'.
        """
        for worker in workers:
            if len(worker.attempts) >= depth or (depth == 2 and len(self._backlog) <= len(workers)):
                continue
            if one_by_one:
                self._pull(1)
            piece = self._next(worker, workers)
            if piece is not None:
                self._send(piece, worker)

    def _require(self) -> None:
        """Nothing is under way: refuse to wait where that is in vain."""
        if self._lacks and not self._pool.greeting and not self._pool.usable(self._token, self._places.device):
            host, message, hint = self._lacks
            raise InputError(f"No worker has what is read. On {host}: {message}", hint=hint)
        self._pool.require(self._token, self._places.device)

    def _pull(self, count: int) -> None:
        jobs = self._pool.connection.jobs
        while self._more and len(self._backlog) < max(count, jobs.workers if jobs else 0):
            piece = next(self._tasks, None)
            if piece is None:
                self._more = False
                return
            self._backlog.append(piece)

    def _next(self, worker: Worker, workers: list[Worker]) -> Piece[R] | None:
        """The first that this worker may have. What every worker failed goes to any of them once more."""
        for piece in self._backlog:
            if worker.address not in piece.avoided or piece.avoided.issuperset(one.address for one in workers):
                self._backlog.remove(piece)
                return piece
        return None

    def _send(self, piece: Piece[R], worker: Worker) -> None:
        self._sent += 1
        future = self._pool.connection.client.submit(
            work,
            piece.task,
            self._token,
            self._places.afar,
            key=f"circuit-{id(self)}-{piece.number}-{self._sent}",
            workers=[worker.address],
            pure=False,
        )
        attempt, worker.busy = Attempt(piece, worker, future), time.monotonic()
        worker.attempts.append(attempt)
        self._under_way[future.key] = attempt
        future.add_done_callback(self._fetcher.give)

    # Taking back.

    def _taken(self, arrival: Arrival) -> Iterator[tuple[int, R]]:
        attempt, answer = self._under_way.get(arrival.future.key), arrival.answer
        if attempt is None:  # given up
            return
        self._drop(attempt)
        arrival.future.release()
        if arrival.raised is not None:
            attempt.piece.unread += 1
            if arrival.computed or attempt.piece.unread >= DEATHS:
                raise arrival.raised  # a bug
        if answer is None and not attempt.elsewhere:
            self._once_more(attempt.piece)
        if answer is None or attempt.piece.done:
            return
        host = attempt.worker.host
        for line in answer.said:
            self._say(f"{host}: {line}")
        if answer.wrong is not None:
            kind, message, hint = answer.wrong
            raise kind(message, hint=hint)
        if answer.lacks is not None:
            self._lacking(attempt, *answer.lacks)
        elif answer.memory:
            self._cut(attempt.piece, attempt.worker, answer.memory)
        else:
            self._done(len(attempt.piece.task))
            yield from self._complete(attempt.piece, answer.result)

    def _complete(self, piece: Piece[R], result: R) -> Iterator[tuple[int, R]]:
        """Note a result; of the last part the whole."""
        piece.done = True
        self._cancel([one for one in self._under_way.values() if one.piece is piece])
        whole = piece.whole
        if whole is None:
            self.finished += 1
            yield piece.number, result
            return
        whole.parts[piece.place] = result
        whole.left -= 1
        if not whole.left:
            yield from self._complete(whole, whole.task.joined([part for part in whole.parts if part is not None]))

    # What goes wrong.

    def _look(self) -> None:
        """Give what the dead held to others, and what the silent hold to others too."""
        for worker in self._pool.look(self._places.device):
            lost = [attempt for attempt in worker.attempts if not self._fetcher.has(attempt.future)]
            for place, attempt in enumerate(lost):
                self._drop(attempt)
                attempt.future.cancel()
                if place == 0:
                    attempt.piece.deaths += 1
                if attempt.elsewhere or attempt.piece.done:
                    continue
                if attempt.piece.deaths >= DEATHS:
                    self._cut(attempt.piece, worker, f"{amount(DEATHS, 'worker')} died over it.")
                else:
                    self._once_more(attempt.piece)
        for worker in self._pool.workers.values():
            for attempt in worker.attempts if worker.silent else ():
                if not attempt.elsewhere:
                    attempt.elsewhere = True
                    attempt.piece.avoided.add(worker.address)
                    self._say(f"The worker {worker.address} on {worker.host} is silent: its shard goes elsewhere too.")
                    self._once_more(attempt.piece)

    def _once_more(self, piece: Piece[R]) -> None:
        if not piece.done and piece not in self._backlog:
            self.again += 1
            self._backlog.appendleft(piece)

    def _lacking(self, attempt: Attempt[R], message: str, hint: str) -> None:
        """A worker hasn't what a task reads: it gets no more of them."""
        worker = attempt.worker
        worker.lacks.add(self._token)
        self._lacks = (worker.host, message, hint)
        if (worker.host, message) not in self._told:
            self._told.add((worker.host, message))
            self._say(f"The worker {worker.address} on {worker.host} gets no more of these shards. {message}")
        self._once_more(attempt.piece)

    def _cut(self, piece: Piece[R], worker: Worker, why: str) -> None:
        """In halves, which take less memory; what can't be cut goes elsewhere, as long as there is anybody else."""
        halves, host = piece.task.halves(), worker.host
        piece.avoided.add(worker.address)
        others = [w for w in self._pool.usable(self._token, self._places.device) if w.address not in piece.avoided]
        if halves:
            cut = "cut in two" if len(halves) > 1 else "done again"
            self._say(f"{host}: {why} Its shard is {cut}, in smaller batches.")
            piece.done, piece.left, piece.parts = True, len(halves), [None] * len(halves)
            self._backlog.extendleft(
                Piece(half, piece.number, piece, place) for place, half in reversed(list(enumerate(halves)))
            )
            self.again += len(halves)
        elif others and len(piece.avoided) < DEATHS:
            self._once_more(piece)
        else:
            raise ResourceError(
                f"{why} A part of a shard that can't be cut doesn't fit on {host}.",
                hint="Give workers more memory, or fewer of them on a machine; or lower --max-tokens or --seq-cap.",
            )

    def _drop(self, attempt: Attempt[R]) -> None:
        self._under_way.pop(attempt.future.key, None)
        if attempt in attempt.worker.attempts:
            attempt.worker.attempts.remove(attempt)
            attempt.worker.busy = time.monotonic()

    def _cancel(self, attempts: list[Attempt[R]]) -> None:
        for attempt in attempts:
            self._drop(attempt)
        if attempts and self._pool.connection.client.status == "running":
            self._pool.connection.client.cancel([attempt.future for attempt in attempts], force=True)
