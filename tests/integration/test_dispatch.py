"""Tasks on Dask's workers: each once, few at a time, and again elsewhere whatever a worker does."""

import asyncio
import threading
import time
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from support.simulated import Fatal, Numbers, processes, threads, until

from circuitcli.errors import InputError, NotHere, ResourceError
from circuitcli.executors import _dispatch, _fetch


def tasks(count: int, size: int = 3) -> list[Numbers]:
    return [Numbers(tuple(range(i, i + size))) for i in range(count)]


def right(found: list[tuple[int, list[int]]], given: list[Numbers]) -> bool:
    """Each task's result is there once, and is its own."""
    return sorted(found) == [(i, [value * value for value in task.values]) for i, task in enumerate(given)]


def test_each_task_once_and_sources_once_a_worker() -> None:
    with threads(3) as (cluster, book):
        for given in (tasks(40), tasks(7)):
            assert right(list(cluster.results(given)), given)
        assert book.made == dict.fromkeys((w.address for w in cluster.workers), 1)
        assert sum(map(len, book.computed.values())) == 47
        assert cluster.done == 47 * 3
        assert cluster.said == []


def test_one_at_a_time_whatever_threads_dask_has() -> None:
    with threads(2, each=4) as (cluster, book):
        given = tasks(20)
        assert right(list(cluster.results(given, lambda task, where: time.sleep(0.01))), given)
        assert book.most == 1
        assert {worker.facts.threads for worker in cluster.pool.workers.values()} == {4}


@pytest.mark.parametrize("count", [60, 600])
def test_nothing_grows_with_the_number_of_tasks(count: int) -> None:
    """Neither what is asked for ahead, nor what the client and the scheduler hold."""
    with threads(3) as (cluster, _):
        asked, most = 0, {"ahead": 0, "scheduler": 0, "client": 0, "results": 0}

        def given():
            nonlocal asked
            for task in tasks(count):
                asked += 1
                yield task

        for number, (_, result) in enumerate(cluster.results(given())):
            assert len(result) == 3
            now = {
                "ahead": asked - number,
                "scheduler": len(cluster.scheduler.tasks),
                "client": len(cluster.connection.client.futures),
                "results": sum(len(worker.data) for worker in cluster.workers),
            }
            most = {name: max(most[name], now[name]) for name in most}
        assert asked == count
        assert most["ahead"] <= 5 * 3 + 1
        assert max(most["scheduler"], most["client"], most["results"]) <= 4 * 3
        until(lambda: not cluster.scheduler.tasks)


def test_out_of_memory_is_cut_until_it_fits() -> None:
    def act(task: Numbers, where: str) -> None:
        if len(task) > 2 or task.batch > 2:
            raise MemoryError

    with threads(2) as (cluster, book):
        given = [*tasks(3, size=8), Numbers((5,))]
        assert right(list(cluster.results(given, act)), given)
        assert all(len(one) <= 2 and one.batch <= 2 for done in book.computed.values() for one in done)
        assert cluster.done == 3 * 8 + 1
        assert "Its shard is cut in two, in smaller batches." in cluster.said[0]


def test_what_cant_be_cut_goes_elsewhere_then_is_an_error() -> None:
    small: list[str] = []

    def act(task: Numbers, where: str) -> None:
        if where in small:
            raise RuntimeError("CUDA out of memory.")

    with threads(2) as (cluster, book):
        small.append(cluster.workers[0].address)
        given = [Numbers((i,), batch=1) for i in range(6)]
        assert right(list(cluster.results(given, act)), given)
        assert set(book.computed) == {cluster.workers[1].address}
        small.append(cluster.workers[1].address)
        with pytest.raises(ResourceError, match="can't be cut doesn't fit"):
            list(cluster.results(given, act))


def test_a_worker_that_lacks_a_file_says_so_once_and_others_go_on() -> None:
    without: set[str] = set()

    def act(task: Numbers, where: str) -> None:
        if where in without:
            raise NotHere("acts/tokens.safetensors isn't here.", hint="Put it there.")

    with threads(3) as (cluster, book):
        without.add(cluster.workers[0].address)
        given = tasks(30)
        assert right(list(cluster.results(given, act)), given)
        [line] = cluster.said
        assert line.startswith(f"The worker {cluster.workers[0].address} on ")
        assert line.endswith("acts/tokens.safetensors isn't here.")
        assert cluster.workers[0].address not in book.computed
        without.update(worker.address for worker in cluster.workers)
        with pytest.raises(
            InputError, match=r"No worker has what is read\. On .*: acts/tokens\.safetensors isn't here"
        ):
            list(cluster.results(given, act))


def test_what_is_wrong_everywhere_is_raised_with_its_hint_and_a_bug_as_it_is() -> None:
    def act(task: Numbers, where: str) -> None:
        if task.values[0] == 2:
            raise InputError("Logits are no numbers.", hint="Use float32.")
        if task.values[0] == 12:
            raise ZeroDivisionError("a bug")

    with threads(2) as (cluster, _):
        with pytest.raises(InputError, match="Logits are no numbers") as error:
            list(cluster.results(tasks(5), act))
        assert error.value.hint == "Use float32."
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(cluster.results(tasks(15)[12:], act))
        until(lambda: not cluster.scheduler.tasks)  # what was under way was taken back


@pytest.mark.parametrize("mixed", [False, True])
def test_other_versions_are_refused_by_name(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _dispatch.versions()
    monkeypatch.setattr(_dispatch, "versions", lambda: {**own, "torch": "1.0"})
    with threads(2, mixed=mixed) as (cluster, _):
        if mixed:
            given = tasks(5)
            assert right(list(cluster.results(given)), given)
        else:
            with pytest.raises(InputError, match=r"it has torch .* \(here 1\.0\)"):
                list(cluster.results(tasks(5)))
        lines = [line for line in cluster.said if f"torch {own['torch']} (here 1.0)" in line]
        assert len(lines) == len(cluster.said) == 2
        assert all(("is used all the same" if mixed else "--mixed uses it") in line for line in lines)


def test_a_worker_without_the_device_is_refused() -> None:
    with threads(1) as (cluster, _):
        with pytest.raises(InputError, match="has no npu"):
            cluster.pool.wait("", "npu")
        assert cluster.pool.wait("", "cpu")


def test_a_silent_workers_task_goes_elsewhere_and_the_first_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "SILENT", 2.0)
    monkeypatch.setattr(_dispatch, "LOOK", 0.2)
    woken, held = threading.Event(), list[str]()

    def act(task: Numbers, where: str) -> None:
        if not held:
            held.append(where)
            worker = next(worker for worker in cluster.workers if worker.address == where)
            worker.loop.add_callback(worker.periodic_callbacks["heartbeat"].stop)
            woken.wait(30)
        time.sleep(0.01)

    with threads(2) as (cluster, book):
        given = tasks(12)
        found = list(cluster.results(given, act))
        woken.set()
        assert right(found, given)
        assert cluster.done == 12 * 3
        assert [line for line in cluster.said if "is silent: its shard goes elsewhere too" in line]
        assert cluster.dispatch is not None
        assert cluster.dispatch.again >= 1
        until(lambda: len(book.computed[held[0]]) >= 1)  # it came back too late: nothing counts twice
        assert cluster.done == 12 * 3


def test_a_worker_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "LOOK", 0.1)
    with threads(3) as (cluster, _):
        given = tasks(60)
        found = []
        for one in cluster.results(given, lambda task, where: time.sleep(0.02)):
            found.append(one)
            if len(found) == 10:
                leaving = cluster.workers[0]
                asyncio.run_coroutine_threadsafe(leaving.close(), leaving.loop.asyncio_loop).result(20)
        assert right(found, given)
        assert cluster.done == 60 * 3


def test_a_task_that_ends_its_workers_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "DEATHS", 1)
    with processes(2) as cluster:
        given = [Fatal((3, 4)), Fatal((5,)), Fatal((6,))]
        found = dict(cluster.results(given))
        assert found == {0: [9, 16], 1: [25], 2: [36]}
        [line] = [line for line in cluster.said if "cut in two" in line]
        assert "1 worker died over it." in line


def test_few_answers_are_held_however_slowly_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are fetched, those that were, and the one that is read; and nobody fetches once nobody reads."""
    fetched, read = Counter[str](), 0
    real = _fetch._fetched

    def counted(future: Any) -> Any:
        fetched["all"] += 1
        return real(future)

    monkeypatch.setattr(_fetch, "_fetched", counted)
    with threads(6) as (cluster, _):
        results = cluster.results(Numbers((value,)) for value in range(60))
        for _ in islice(results, 12):
            read += 1
            time.sleep(0.1)
            assert fetched["all"] - read <= _fetch.AT_ONCE + _fetch.AHEAD
        assert fetched["all"] - read > 1
        results.close()  # type: ignore[attr-defined]  # a generator
        until(lambda: not [one for one in threading.enumerate() if one.name == "circuit-fetch"])


@pytest.mark.parametrize("times", [1, 2, 10**6])
def test_an_answer_that_cannot_be_fetched_is_computed_again_but_not_for_ever(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a connection is lost in the midst of it: what Dask then raises has many names."""
    real, failed = _fetch._fetched, Counter[str]()

    def unlucky(future: Any) -> Any:
        number = future.key.split("-")[-2]
        if number == "3" and failed[number] < times:
            failed[number] += 1
            return _fetch.Arrival(future, raised=RuntimeError("cancelled"))
        return real(future)

    monkeypatch.setattr(_fetch, "_fetched", unlucky)
    given = tasks(9)
    with threads(2) as (cluster, _):
        if times > 3:
            with pytest.raises(RuntimeError, match="cancelled"):
                list(cluster.results(given))
            assert failed["3"] == 3
        else:
            assert right(list(cluster.results(given)), given)
            assert failed["3"] == times


def test_what_was_fetched_counts_though_its_worker_ends_before_it_is_read() -> None:
    with threads(2) as (cluster, book):
        results = cluster.results(tasks(2))
        first = next(results)
        assert cluster.dispatch is not None
        fetcher = cluster.dispatch._fetcher
        until(lambda: len(fetcher._here) == 1)
        for worker in cluster.workers:
            asyncio.run_coroutine_threadsafe(worker.close(), worker.loop.asyncio_loop).result(20)
        until(lambda: not cluster.scheduler.workers)
        cluster.pool._looked = -1e9  # so that it is seen before the answer is read
        assert right([first, *results], tasks(2))
        assert sum(map(len, book.computed.values())) == 2
        assert cluster.dispatch.again == 0
