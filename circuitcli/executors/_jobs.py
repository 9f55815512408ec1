"""Jobs of a batch system as Dask's workers: as many as there are tasks for, again where one ends, back when idle.

dask-jobqueue writes their scripts, submits and cancels them. It doesn't see that a job ended before its worker came,
nor what submitting says; that is asked here.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from circuitcli.errors import HubError, InputError, UsageError
from circuitcli.executors._names import BATCH, missing

# Jobs at once, where nobody says.
_JOBS = 8
# Seconds between questions about jobs that haven't come; how many are asked about each time; how often in a row one is
# said to be gone until that is believed, as a batch system may be out for a moment; how many may end so in a row.
_ASK, _ASKED, _SURE, _EARLY = 10.0, 8, 2, 3
# What tells of a job, and what that says where it is gone: from the batch systems' manuals.
_KNOWN = {
    "slurm": (("squeue", "--noheader", "--format=%T", "--jobs"), r"\s*|.*Invalid job id.*"),
    "pbs": (("qstat",), r".*(Unknown Job|has finished|\s[CFX]\s+\S+\s*$).*"),
    "lsf": (("bjobs", "-noheader", "-o", "stat"), r".*(\bDONE\b|\bEXIT\b|is not found).*"),
    "sge": (("qstat", "-j"), r".*do not exist.*"),
}
# Parameters of scaling, and not of a cluster.
_SCALING = ("minimum_jobs", "maximum_jobs")


def make(kind: str, options: Mapping[str, Any]) -> Jobs:
    """A cluster of a batch system, without any jobs but those that there are at least.

    Raises:
        InputError: A package isn't installed.
        UsageError: An option isn't one of the cluster's.
    """
    try:
        import dask_jobqueue
    except ModuleNotFoundError as error:
        raise missing(f"--cluster {kind}", error) from None
    scaling = {name: _count(name, options[name]) for name in _SCALING if name in options}
    own = {name: value for name, value in options.items() if name not in _SCALING}
    cluster = made(getattr(dask_jobqueue, BATCH[kind]), own, kind)
    least = scaling.get("minimum_jobs", 0)
    return Jobs(cluster, kind, least, scaling.get("maximum_jobs", max(_JOBS, least)))


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} can't be {value!r:.40}.", hint="Give a whole number of jobs, from 1.")
    return value


def made(kind: Any, options: Mapping[str, Any], name: str) -> Any:
    """A cluster of a class, with what its options do wrong in our words."""
    try:
        return kind(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise UsageError(
            f"--cluster {name} doesn't start: {said}",
            hint="Give what it misses by --cluster-option KEY=VALUE, or in Dask's configuration (docs/clusters.md).",
        ) from None


@dataclass
class Jobs:
    """Those of one cluster of dask-jobqueue.

    Attributes:
        cluster: Dask's.
        kind: The batch system.
        least: Jobs that stay when they are idle.
        most: Jobs that there may be.
    """

    cluster: Any
    kind: str
    least: int
    most: int
    _asked: float = field(default_factory=time.monotonic)
    _gone: dict[str, int] = field(default_factory=dict)  # how often in a row, by job
    _came: set[str] = field(default_factory=set)  # those that had a worker
    _early: int = 0  # how many ended before that, in a row

    @property
    def each(self) -> int:
        """Workers of a job."""
        return int(self.cluster._dummy_job.worker_processes)

    @property
    def workers(self) -> int:
        """That there may be."""
        return self.most * self.each

    def want(self, workers: int, there: Collection[str]) -> None:
        """Have jobs for so many workers, at most as many as there may be; those that are there stay.

        Args:
            workers: How many there are tasks for.
            there: Names of those that have come.

        Raises:
            InputError: The batch system isn't here.
            HubError: It takes no job, or jobs end before they compute.
        """
        self._watch(there)
        jobs = max(self.least, min(-(-workers // self.each), self.most))
        if len(self.cluster.workers) < jobs:
            self._submit(jobs)

    def give_back(self, idle: Collection[str]) -> None:
        """End jobs all of whose workers are idle, but for the least that stay.

        Args:
            idle: Names of workers.
        """
        spare = [job for job in self.cluster.workers if set(self._names(job)) <= set(idle)]
        keep = max(0, self.least - (len(self.cluster.workers) - len(spare)))
        for job in spare[keep:]:
            self._came.discard(job)
            self.cluster.worker_spec.pop(job, None)
        if spare[keep:]:
            self.cluster.sync(self._settle)

    def _names(self, job: str) -> list[str]:
        """Of a job's workers."""
        suffixes = self.cluster.worker_spec.get(job, {}).get("group", [""])
        return [f"{job}{suffix}" for suffix in suffixes]

    async def _settle(self) -> None:
        await self.cluster._correct_state()

    def _submit(self, jobs: int) -> None:
        spec = self.cluster.worker_spec
        while len(spec) < jobs:
            spec.update(self.cluster.new_worker_spec())
        try:
            self.cluster.sync(self._settle)
        except FileNotFoundError as error:
            raise InputError(
                f"`{error.filename}` isn't here, by which {self.kind} takes jobs.",
                hint="Run this where jobs are submitted, or compute here: --cluster local:N.",
            ) from None
        except (RuntimeError, ValueError, OSError) as error:
            for job in [name for name, one in self.cluster.workers.items() if one.job_id is None]:
                self._lose(job)
            if not self.cluster.workers:
                raise HubError(
                    f"{self.kind} takes no job: {_last(str(error))}",
                    hint="Give what it asks for by --cluster-option KEY=VALUE (docs/clusters.md).",
                ) from None
            self.most = max(1, len(self.cluster.workers))  # as many as it admits

    def _lose(self, job: str) -> None:
        self.cluster.worker_spec.pop(job, None)
        self.cluster.workers.pop(job, None)
        self._gone.pop(job, None)
        self._came.discard(job)

    def _watch(self, there: Collection[str]) -> None:
        """Notice jobs that ended, of those whose workers aren't there."""
        names, jobs = set(there), list(self.cluster.workers)
        here = {job for job in jobs if names.intersection(self._names(job))}
        if here - self._came:
            self._early = 0
        self._came |= here
        if time.monotonic() - self._asked < _ASK:
            return
        self._asked = time.monotonic()
        for job in [job for job in jobs if job not in here][:_ASKED]:
            self._gone[job] = self._gone.get(job, 0) + 1 if self._ended(self.cluster.workers[job].job_id) else 0
            if self._gone[job] >= _SURE:
                self._early += job not in self._came
                self._lose(job)
        if self._early >= _EARLY:
            raise HubError(
                f"{self._early} jobs of {self.kind} ended before they computed.",
                hint="Read what they wrote, beside this command or in --cluster-option log_directory=FOLDER.",
            )

    def _ended(self, job_id: str | None) -> bool:
        """Whether the batch system says that a job is gone; where it can't be asked, it isn't."""
        command, gone = _KNOWN[self.kind]
        if job_id is None:
            return False  # it is being submitted
        try:
            done = subprocess.run(
                [*command, job_id], capture_output=True, text=True, check=False, timeout=10, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        said = done.stdout if done.returncode == 0 else done.stderr
        return re.fullmatch(gone, said, re.DOTALL) is not None and (done.returncode == 0 or said.strip() != "")


def _last(said: str) -> str:
    """What a command wrote to stderr, in one line."""
    return " ".join(said.partition("stderr:")[2].split() or said.split())[:300]
