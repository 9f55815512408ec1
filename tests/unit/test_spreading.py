"""Shards on several workers: when they are done by brute force, and what travels."""

import itertools

import pytest

from circuitcli.core.sites import Site
from circuitcli.stages.spreading import seconds_on, shards_of

A, B, C = Site(0, "resid_post"), Site(1, "mlp_out"), Site(1, "resid_post")


def best(workers: int, times: list[float]) -> float:
    """The earliest that any way to give them out is done."""
    ways = itertools.product(range(workers), repeat=len(times))
    return min(
        max(sum(t for t, who in zip(times, way, strict=True) if who == w) for w in range(workers)) for way in ways
    )


def test_shards_hold_so_many_features() -> None:
    assert shards_of({A: 1, B: 32, C: 33}, 32) == {A: 1, B: 1, C: 2}
    assert shards_of({A: 0, B: 65}, 32) == {B: 3}
    assert shards_of({A: 256, B: 257}, 256) == {A: 1, B: 2}


def test_one_worker_takes_it_all_and_layers_wait_for_each_other() -> None:
    ablating, shards = {A: 6.0, B: 4.0, C: 9.0}, {A: 3, B: 2, C: 3}
    assert seconds_on(1, 5.0, ablating, shards) == pytest.approx(5 + 19)
    assert seconds_on(64, 5.0, ablating, shards) == pytest.approx(5 + 2 + 3)  # the longest shard of each layer
    assert seconds_on(64, 0.0, {B: 4.0, C: 9.0}, {B: 2, C: 3}) == pytest.approx(3)


@pytest.mark.parametrize("workers", [2, 3])
def test_near_the_best_that_can_be(workers: int) -> None:
    """Whoever is free takes the longest: at most a third above the best (Graham 1969)."""
    ablating, shards = {B: 4.0, C: 9.0}, {B: 4, C: 4}
    times = [1.0] * 4 + [2.25] * 4
    found = seconds_on(workers, 0.0, ablating, shards)
    assert best(workers, times) <= found <= 4 / 3 * best(workers, times)
