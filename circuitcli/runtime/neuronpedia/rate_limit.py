"""A limit of requests that start in a second, and a pause for all when the service asks for one."""

from __future__ import annotations

import threading
import time


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


class RateLimit:
    """Shared by all threads that ask."""

    def __init__(self, per_second: float) -> None:
        self._step = 1 / per_second
        self._next = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def turn(self) -> None:
        """Wait until the next request may start.

        Raises:
            Abandoned: Nobody waits for answers any more.
        """
        while True:
            with self._lock:
                wait = self._next - time.monotonic()
                if wait <= 0:
                    self._next = time.monotonic() + self._step
            if wait <= 0 and not self._stop.is_set():
                return
            self.sleep(max(wait, 0.0))

    def hold(self, seconds: float) -> None:
        """No request starts before so many seconds have passed."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds.

        Raises:
            Abandoned: Nobody waits for answers any more.
        """
        if self._stop.wait(seconds):
            raise Abandoned

    def stop(self) -> None:
        """Wake all who wait, and let none start."""
        self._stop.set()
