"""Files written by a few threads, while what is in the next ones arrives: a disk makes a process wait, not work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

# Files under way at once; no more are held.
THREADS = 3


class Behind:
    """Within it writing is begun, and at its end ended."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="circuit-write")
        self._under_way: deque[Future[None]] = deque()

    def __enter__(self) -> Behind:
        """Itself."""
        return self

    def __call__(self, write: Callable[[], None]) -> None:
        """Begin to write, once the oldest of too many is written.

        Raises:
            Exception: What went wrong with an earlier one.
        """
        while len(self._under_way) >= THREADS or (self._under_way and self._under_way[0].done()):
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(write))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All is written; where something else went wrong, what was begun."""
        self._pool.shutdown(wait=True)
        if error is None:
            for one in self._under_way:
                one.result()
