"""How many workers a sweep of twelve layers keeps busy, on a simulated cluster: tasks sleep as long as shards take.

Workers are threads of this process, so that Dask's scheduler, every worker and the process that plans share its one
interpreter: a real cluster has more room. Layers follow each other, or, as if all features were pinned, don't.

    PYTHONPATH=.:tests python tests/bench/simulated_cluster.py --workers 1,4,16,64,128,256 --rounds 12 --seconds 4
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from support.simulated import Cluster, threads

from circuitcli.executors import Done, Say

LAYERS = 12
# Times of shards of a layer around their mean, and rows of effects that come back from each.
SPREAD, ROWS = 0.15, 20_000


@dataclass(frozen=True, eq=False)
class Sleep:
    """A shard that takes so long and gives tables of a shard's size."""

    seconds: float
    contexts: Any  # what travels there: 28 bytes for each ablation

    def __len__(self) -> int:
        return 1

    def compute(self, sources: Any, *, done: Done, say: Say) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        return {
            name: np.zeros(ROWS, np.float32) for name in ("seq", "pos", "up", "down", "down_pos", "clean", "ablated")
        }

    def halves(self) -> Sequence[Sleep]:
        return ()

    def joined(self, results: Sequence[Any]) -> Any:
        return results[0]


def shards(count: int, seconds: float, seed: int) -> Iterator[Sleep]:
    lots = random.Random(seed)
    for _ in range(count):
        yield Sleep(seconds * lots.uniform(1 - SPREAD, 1 + SPREAD), np.zeros((3200, 7), np.float32))


def sweep(cluster: Cluster, workers: int, rounds: int, seconds: float, layers: int) -> float:
    """The share of its time for which a worker computes."""
    busy, started = 0.0, time.monotonic()
    for layer in range(layers):
        given = list(shards(workers * rounds, seconds, layer))
        busy += sum(one.seconds for one in given)
        for _, result in cluster.results(given):
            assert len(result["clean"]) == ROWS
    return busy / workers / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,4,16,64,128,256")
    parser.add_argument("--rounds", type=int, default=12, help="shards of a layer for each worker")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a shard takes")
    parser.add_argument("--layers", type=int, default=LAYERS)
    asked = parser.parse_args()
    print("| Workers | Layers follow each other | All pinned |\n|---|---|---|")
    for workers in map(int, asked.workers.split(",")):
        with threads(workers) as (cluster, _):
            list(cluster.results(shards(workers, 0.01, 0)))  # everybody is there
            apart = sweep(cluster, workers, asked.rounds, asked.seconds, asked.layers)
            one = sweep(cluster, workers, asked.rounds * asked.layers, asked.seconds, 1) if workers <= 64 else None
        print(f"| {workers} | {apart:.1%} | {'–' if one is None else f'{one:.1%}'} |", flush=True)


if __name__ == "__main__":
    main()
