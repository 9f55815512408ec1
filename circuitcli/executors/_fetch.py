"""Answers fetched from workers ahead of whoever reads them: a few at once, as each is mostly waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from circuitcli.executors._worker import Answer

# How many are fetched at once, and how many may wait to be read; seconds to fetch one.
AT_ONCE, AHEAD, PATIENCE = 3, 2, 60.0


@dataclass(frozen=True, eq=False)
class Arrival:
    """What came of a future: an answer, what was raised, or neither, as its worker is gone with it.

    Attributes:
        future: Of Dask.
        answer: Of its task.
        raised: By its task, or by fetching it.
        computed: Whether by its task, which would raise it again.
    """

    future: Any
    answer: Answer | None = None
    raised: Exception | None = None
    computed: bool = False


class Fetcher:
    """Fetches the answers of futures that are done."""

    def __init__(self, wanted: Callable[[Any], bool]) -> None:
        """Starts its threads, which end with the process if nobody closes it: a dead worker holds none up.

        Args:
            wanted: Whether somebody still waits for a future.
        """
        self._wanted, self._closed = wanted, False
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._fetched: queue.Queue[Arrival] = queue.Queue(AHEAD)
        self._here: set[str] = set()
        for _ in range(AT_ONCE):
            threading.Thread(target=self._work, name="circuit-fetch", daemon=True).start()

    def give(self, future: Any) -> None:
        """One that is done, however it ended."""
        self._done.put(future)

    def take(self, seconds: float) -> Arrival | None:
        """One that has arrived; None if none does in so many seconds."""
        try:
            arrival = self._fetched.get(timeout=seconds)
        except queue.Empty:
            return None
        self._here.discard(arrival.future.key)
        return arrival

    def has(self, future: Any) -> bool:
        """Whether the answer of a future is here, to be read: its worker may end."""
        return future.key in self._here

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed = True
        for _ in range(AT_ONCE):
            self._done.put(None)

    def _work(self) -> None:
        while (future := self._done.get()) is not None and not self._closed:
            if self._wanted(future):
                self._publish(_fetched(future))

    def _publish(self, arrival: Arrival) -> None:
        if arrival.answer is not None:
            self._here.add(arrival.future.key)
        while not self._closed:
            try:
                return self._fetched.put(arrival, timeout=1)
            except queue.Full:
                continue


def _fetched(future: Any) -> Arrival:
    try:
        if future.status == "finished":
            return Arrival(future, future.result(timeout=PATIENCE))
        if future.status == "error" and type(future.exception()).__name__ != "KilledWorker":
            future.result(timeout=PATIENCE)  # raises it
    except (TimeoutError, OSError):
        pass  # its worker is gone, with the answer
    except Exception as error:  # noqa: BLE001 -- raised where results are read, unless it goes away
        return Arrival(future, raised=error, computed=future.status == "error")
    return Arrival(future)
