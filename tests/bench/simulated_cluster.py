"""How many workers a sweep of twelve layers keeps busy, on a simulated cluster: tasks sleep as long as shards take.

Workers are threads of a few processes, over TCP as real ones. What travels and what is stored are as large as of real
shards: 3,200 ablations there, files back, which the process that plans writes, syncs and hashes. Layers follow each
other: each waits for the last shard of the one before.

    PYTHONPATH=.:tests python tests/bench/simulated_cluster.py --workers 16,64,128,256 --seconds 5.2
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from circuitcli.executors import Done, Places, Say
from circuitcli.executors._cluster import Connection
from circuitcli.executors._dispatch import Dispatch, Pool
from circuitcli.store import files

LAYERS, HOSTS = 12, 4
# Times of shards of a layer around their mean; ablations of a shard; bytes of its files.
SPREAD, ABLATIONS, SIZES = 0.15, 3200, (9_000_000, 130_000, 60_000)


@cache
def made() -> tuple[bytes, ...]:
    return tuple(os.urandom(size) for size in SIZES)


@dataclass(frozen=True, eq=False)
class Sleep:
    """A shard that takes so long."""

    seconds: float
    contexts: Any  # what travels there: 28 bytes for each ablation

    def __len__(self) -> int:
        return ABLATIONS

    def compute(self, sources: None, *, done: Done, say: Say) -> tuple[bytes, ...]:
        time.sleep(self.seconds)
        return made()

    def halves(self) -> Sequence[Sleep]:
        return ()

    def joined(self, results: Sequence[Any]) -> Any:
        return results[0]


def shards(count: int, seconds: float, seed: int) -> Iterator[Sleep]:
    lots = random.Random(seed)
    for _ in range(count):
        yield Sleep(seconds * lots.uniform(1 - SPREAD, 1 + SPREAD), np.zeros((ABLATIONS, 7), np.float32))


async def host(address: str, count: int) -> None:
    """Workers as threads of this process, until it is ended."""
    from distributed import Worker

    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(
                Worker(address, nthreads=1, memory_limit=0, dashboard=False, host="127.0.0.1")
            )
        await asyncio.Event().wait()


@contextmanager
def cluster(workers: int) -> Iterator[Pool]:
    """A scheduler of this process, and workers of a few others."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0") as one:
        counts = [len(range(number, workers, HOSTS)) for number in range(HOSTS)]
        command = [sys.executable, __file__, "--host", one.scheduler_address, "--workers"]
        quiet = os.environ | {"DASK_LOGGING__DISTRIBUTED": "critical"}
        hosts = [subprocess.Popen([*command, str(count)], env=quiet) for count in counts if count]
        try:
            with Client(one, set_as_default=False, direct_to_workers=True) as client:
                client.wait_for_workers(workers, timeout=300)
                yield Pool(Connection(client, one, name="simulated"), print, mixed=False)
        finally:
            for process in hosts:
                process.kill()


def computed(pool: Pool, given: Sequence[Sleep], folder: Path) -> None:
    dispatch = Dispatch(pool, given, Places(None, partial(dict)), "none", done=_uncounted, say=print)
    for number, tables in dispatch.results():
        for place, data in enumerate(tables):
            path = folder / f"{place}-{number}"
            files.write(path, data)
            files.digest(path)
            path.unlink()


def _uncounted(done: int) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="16,64,128,256")
    parser.add_argument("--shards", type=int, default=768, help="of a layer: 768 are 24,576 features")
    parser.add_argument("--seconds", type=float, default=5.2, help="that a shard takes")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--host", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.host:
        asyncio.run(host(asked.host, int(asked.workers)))
        return
    print("| Workers | Shards of a layer for each | Busy | Shards a second |\n|---|---|---|---|")
    for workers in map(int, asked.workers.split(",")):
        with cluster(workers) as pool, tempfile.TemporaryDirectory() as folder:
            computed(pool, list(shards(4 * workers, 0.01, 0)), Path(folder))  # everybody is there
            layers = [list(shards(asked.shards, asked.seconds, layer)) for layer in range(asked.layers)]
            started = time.monotonic()
            for layer in layers:
                computed(pool, layer, Path(folder))
            took = time.monotonic() - started
        busy = sum(one.seconds for layer in layers for one in layer) / workers / took
        count = asked.shards * asked.layers / took
        print(f"| {workers} | {asked.shards / workers:.3g} | {busy:.1%} | {count:.1f} |", flush=True)


if __name__ == "__main__":
    main()
