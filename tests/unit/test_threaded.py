"""Work by threads, in order."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from circuitcli.stages.threaded import ordered


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_comes_is_in_order_and_only_a_few_things_are_held(count: int) -> None:
    asked, most = 0, 0

    def things():
        nonlocal asked
        for number in range(40):
            asked += 1
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    found = []
    for value in ordered(work, things(), count):
        found.append(value)
        most = max(most, asked - len(found))
    assert found == [number * number for number in range(40)]
    assert most <= 2 * count


def test_as_many_are_worked_on_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(3, timeout=20)
    assert len(list(ordered(lambda _: together.wait(), range(6), 3))) == 6


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_ends_it(count: int) -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        return 1 // (3 - number)

    made = ordered(work, range(1000), count)
    with pytest.raises(ZeroDivisionError):
        list(made)
    assert len(begun) < 20


def test_numpys_threads_are_back_once_it_is_closed() -> None:
    """Though what it gave was not asked for to the end."""

    def now() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    with threadpool_limits(2, "blas"):
        before = now()
        assert set(before) == {2}
        with closing(ordered(abs, range(100), 2)) as made:
            assert next(made) == 0
            assert set(now()) == {1}
        assert now() == before
