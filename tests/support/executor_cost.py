"""Times shards of two seconds and more in this process and on one worker of Dask, by turns: a JSON list of pairs.

In a process without the tests' checks of types, which would slow one of the two.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from circuitcli.executors import make
from circuitcli.settings import resolve
from circuitcli.stages import ablate, cache_acts, fetch_saes
from circuitcli.stages.inputs import JobInputs
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job, unstarted
from circuitcli.stages.written import WrittenTask
from circuitcli.store.run import Run


def shards(folder: Path, count: int) -> tuple[JobInputs, list[Any]]:
    """Shards of the demo's first layer, and one in which what is read is opened."""
    settings = resolve({"texts": {"num_sequences": 2000}, "features": {"seq_cap": 5000}, "runtime": {"device": "cpu"}})
    job = Job(settings, Silent(), Run(folder, STAGES.folders))
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    inputs, todo = JobInputs(job), unstarted(job, "ablate", {})
    assert todo is not None
    site = next(iter(inputs.widths))
    often = inputs.statistics[site]["n_active"].argsort()[::-1][: 32 * (count + 1)].tolist()
    work = ablate.Ablating(job, todo)
    features = [sorted(often[i : i + 32]) for i in range(0, len(often), 32)]
    return inputs, [
        WrittenTask(inputs.task(site, work.contexts(site, some), batch_size=256, threads=1), work.follow(site.layer))
        for some in features
    ]


def seconds(executor: Any, inputs: JobInputs, given: list[Any]) -> float:
    """Of all shards but the first."""

    def one_by_one() -> Iterable[float]:
        results = executor.results(given, inputs.places, done=lambda count: None, say=lambda line: None)
        yield from (time.perf_counter() for _ in results)

    first, *_, last = one_by_one()
    return last - first


def main(count: int, rounds: int) -> None:
    torch.set_num_threads(1)
    here, afar = (make(resolve({"executor": {"cluster": cluster}}).executor, print) for cluster in ("", "local:1"))
    with tempfile.TemporaryDirectory() as folder:
        inputs, given = shards(Path(folder) / "run", count)
        try:
            print(json.dumps([[seconds(one, inputs, given) for one in (here, afar)] for _ in range(rounds)]))
        finally:
            afar.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
