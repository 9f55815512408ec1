"""Jobs of batch systems as workers: asked for again when they end, given back when idle, and what goes wrong before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dasked import BATCH, fake_batch
from support.simulated import Cluster

from circuitcli.errors import HubError, InputError
from circuitcli.executors import _jobs
from circuitcli.executors._cluster import connect

OPTIONS = {"cores": 1, "memory": "2GB", "interface": "lo", "maximum_jobs": 2}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_jobs, "_ASK", 0.05)
    monkeypatch.chdir(tmp_path)


def refused(kind: str, options: dict[str, Any]) -> Exception:
    """The error that ends waiting for the first worker."""
    connection = connect("", kind, options)
    try:
        with pytest.raises((HubError, InputError)) as error:
            Cluster(connection, "").pool.wait("", None)
    finally:
        connection.close()
    assert error.value.hint
    return error.value


@pytest.mark.parametrize("kind", BATCH)
def test_jobs_that_end_before_they_compute(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where their Python isn't there: three are told, not waited for; none is left in the queue."""
    folder = fake_batch(kind, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    error = refused(kind, OPTIONS)
    assert str(error) == f"3 jobs of {kind} ended before they computed."
    assert "log_directory" in error.hint
    typed = [line.split()[0] for line in (folder / "typed").read_text().splitlines()]
    submit, _, tell, *_ = BATCH[kind]
    assert typed.count(submit) == 3
    assert typed.count(tell) >= 3 * _jobs._SURE


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_a_batch_system_that_takes_no_job(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fake_batch(kind, tmp_path / "bin", refuses="error: invalid partition specified: lnog")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    error = refused(kind, {**OPTIONS, "queue": "lnog"})
    assert str(error) == f"{kind} takes no job: error: invalid partition specified: lnog"
    assert error.exit_code == 4


def test_no_batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused("slurm", OPTIONS)
    assert str(error) == "`sbatch` isn't here, by which slurm takes jobs."
    assert error.exit_code == 3


class Spec:
    """As much of a cluster of dask-jobqueue as jobs are asked for by."""

    def __init__(self, each: int = 1, admits: int = 99) -> None:
        self.workers: dict[str, Any] = {}
        self.worker_spec: dict[str, Any] = {}
        self.each, self.admits, self.submitted = each, admits, 0

    @property
    def _dummy_job(self) -> Any:
        return type("Job", (), {"worker_processes": self.each})

    def new_worker_spec(self) -> dict[str, Any]:
        name = next(f"job-{n}" for n in range(99) if f"job-{n}" not in self.worker_spec)
        return {name: {"group": [f"-{n}" for n in range(self.each)]} if self.each > 1 else {}}

    async def _correct_state(self) -> None:
        for name in set(self.workers) - set(self.worker_spec):
            del self.workers[name]
        for name in [name for name in self.worker_spec if name not in self.workers]:
            taken = len(self.workers) < self.admits
            self.submitted += taken
            self.workers[name] = type("Job", (), {"job_id": str(self.submitted) if taken else None})
        if any(job.job_id is None for job in self.workers.values()):
            raise RuntimeError("Exit code: 1\nstderr:\nQOSMaxSubmitJobPerUserLimit\n")

    def sync(self, function: Any) -> None:
        with pytest.raises(StopIteration):
            function().send(None)


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """Which jobs the batch system has forgotten, by id."""
    gone: dict[str, bool] = {}
    monkeypatch.setattr(_jobs.Jobs, "_ended", lambda self, job_id: gone.get(job_id, False))
    monkeypatch.setattr(_jobs, "_ASK", 0.0)
    return gone


def test_as_many_as_there_are_tasks_for_in_bounds(states: dict[str, bool]) -> None:
    jobs = _jobs.Jobs(cluster := Spec(each=4), "slurm", least=1, most=3)
    assert jobs.workers == 12
    for workers, count in ((1, 1), (4, 1), (5, 2), (3, 2), (100, 3)):
        jobs.want(workers, [])
        assert len(cluster.workers) == count == cluster.submitted


def test_one_that_ends_is_asked_for_again(states: dict[str, bool]) -> None:
    """By the batch system's word, twice in a row; not while any of its workers is there."""
    jobs = _jobs.Jobs(cluster := Spec(each=2), "slurm", least=0, most=2)
    jobs.want(4, [])
    states["1"] = True
    for _ in range(5):
        jobs.want(4, ["job-0-1", "job-1-0", "job-1-1"])
    assert cluster.submitted == 2
    for _ in range(_jobs._SURE):
        jobs.want(4, ["job-1-0"])
    assert cluster.submitted == 3
    assert [job.job_id for job in cluster.workers.values()] == ["2", "3"]


def test_a_job_that_waits_long_is_left_alone(states: dict[str, bool]) -> None:
    jobs = _jobs.Jobs(cluster := Spec(), "slurm", least=0, most=2)
    for _ in range(50):
        jobs.want(9, [])
    assert cluster.submitted == 2


def test_deaths_before_computing_count_in_a_row(states: dict[str, bool]) -> None:
    jobs = _jobs.Jobs(cluster := Spec(), "slurm", least=0, most=1)
    jobs.want(1, [])
    for number in range(1, 6):
        if number % 2:
            jobs.want(1, ["job-0"])  # it came, so that earlier ones are forgiven
        states[str(number)] = True
        for _ in range(_jobs._SURE):
            jobs.want(1, [])
    assert cluster.submitted == 6
    states.update({"6": True, "7": True, "8": True})
    with pytest.raises(HubError, match="3 jobs of slurm ended before they computed"):
        often(jobs)


def often(jobs: _jobs.Jobs) -> None:
    for _ in range(3 * _jobs._SURE):
        jobs.want(1, [])


def test_as_many_as_the_batch_system_admits(states: dict[str, bool]) -> None:
    jobs = _jobs.Jobs(cluster := Spec(admits=2), "slurm", least=0, most=8)
    for _ in range(3):
        jobs.want(8, [])
    assert cluster.submitted == len(cluster.workers) == jobs.most == 2


def test_idle_jobs_are_given_back_but_for_the_least(states: dict[str, bool]) -> None:
    jobs = _jobs.Jobs(cluster := Spec(each=2), "slurm", least=1, most=4)
    jobs.want(8, [])
    jobs.give_back(["job-0-0", "job-1-0", "job-1-1"])  # one of job-0 computes
    assert sorted(cluster.workers) == ["job-0", "job-2", "job-3"]
    jobs.give_back([f"job-{job}-{n}" for job in range(4) for n in range(2)])
    assert len(cluster.workers) == 1
    jobs.want(8, [])
    assert len(cluster.workers) == 4
