"""What the executor costs: one worker of Dask beside this process, on shards that take two seconds."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from circuitcli.executors import make
from circuitcli.settings import resolve
from circuitcli.stages import ablate, cache_acts, fetch_saes
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job, unstarted
from circuitcli.store.run import Run

# Seconds of a shard, how many there are, and what Dask may cost.
LEAST, SHARDS, COST = 2.0, 4, 1.15


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[tuple[Inputs, list[Any]]]:
    """Shards of the demo's first layer."""
    settings = resolve({"texts": {"num_sequences": 200}, "features": {"seq_cap": 600}, "runtime": {"device": "cpu"}})
    job = Job(settings, Silent(), Run(tmp_path / "run", STAGES.folders))
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    inputs = Inputs(job)
    site = next(iter(inputs.widths))
    often = inputs.statistics[site]["n_active"].argsort()[::-1][: 32 * (SHARDS + 1)].tolist()
    todo = unstarted(job, "ablate", {})
    assert todo is not None
    work = ablate.Ablating(job, todo)
    given = [
        inputs.task(site, work.contexts(site, sorted(often[i : i + 32])), batch_size=256, threads=1)
        for i in range(0, len(often), 32)
    ]
    yield inputs, given
    torch.set_num_threads(before)


def seconds(executor: Any, inputs: Inputs, given: list[Any]) -> float:
    """Of all but the first, in which what is read is opened; the quickest of two times."""

    def one_by_one() -> Iterable[float]:
        results = executor.results(given, inputs.places, done=lambda count: None, say=lambda line: None)
        yield from (time.perf_counter() for _ in results)

    spans = []
    for _ in range(2):
        first, *_, last = one_by_one()
        spans.append(last - first)
    return min(spans)


@pytest.mark.timed
@pytest.mark.slow
def test_one_worker_is_nearly_as_fast_as_this_process(
    tasks: tuple[Inputs, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    inputs, given = tasks
    here = make(resolve({}).executor, print)
    afar = make(resolve({"executor": {"cluster": "local:1"}}).executor, print)
    try:
        one, other = seconds(here, inputs, given), seconds(afar, inputs, given)
    finally:
        afar.close()
    print(f"here {one:.2f} s, on one worker {other:.2f} s: {other / one:.3f} times; {one / SHARDS:.2f} s a shard")
    assert one / SHARDS >= LEAST
    assert other <= COST * one
