"""Work on one thing after another by a few threads, in order: for what numpy does without holding up other threads.

Its products take one thread each meanwhile: they would wait for each other's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")
# Things under way or waiting for their turn, for each thread.
_AHEAD = 2


def ordered(work: Callable[[T], R], things: Iterable[T], count: int) -> Generator[R, None, None]:
    """What comes of each thing, in their order, by so many threads; only a few are held at once. Close it.

    Raises:
        Exception: What went wrong with one; nothing behind it is begun any more.
    """
    pool, under_way = ThreadPoolExecutor(count, thread_name_prefix="circuit-work"), deque[Future[R]]()
    with threadpool_limits(1, "blas"):
        try:
            for thing in things:
                under_way.append(pool.submit(work, thing))
                if len(under_way) >= _AHEAD * count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
