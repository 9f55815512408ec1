"""Dask's own processes: a scheduler and workers, as their commands start them, and a batch system of shell scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.commands import environment

QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical", "OMP_NUM_THREADS": "1"}


class Processes:
    """What was started, each the leader of a group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *args: str | Path, **more: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"log-{len(self.started)}").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, args)],
            env=environment(**QUIET, **more),
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )
        log.close()
        self.started.append(process)
        return process

    def scheduler(self) -> tuple[subprocess.Popen[bytes], str]:
        """A scheduler, and its address."""
        file = self.folder / f"scheduler-{len(self.started)}.json"
        process = self.start(
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            file,
        )
        end = time.monotonic() + 60
        while not file.is_file() or "address" not in file.read_text():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        return process, file.read_text().split('"address": "')[1].split('"')[0]

    def worker(self, address: str, *flags: str, **more: str) -> subprocess.Popen[bytes]:
        """A worker of one thread, without a nanny: killed, it stays so."""
        return self.start(
            "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--death-timeout", "60", "--local-directory", self.folder / "scratch", *flags, **more,
        )  # fmt: skip

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("log-*")))

    def close(self) -> None:
        for process in self.started:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """It and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@contextmanager
def started(folder: Path) -> Iterator[Processes]:
    """Processes that end with the test."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = Processes(folder)
    try:
        yield processes
    finally:
        processes.close()


_SBATCH = """#!/bin/sh
# A batch system whose jobs are processes here.
for script; do :; done
cp "$script" "$JOBS/script"  # which its caller removes at once
setsid sh "$JOBS/script" >>"$JOBS/log" 2>&1 &
echo $! >>"$JOBS/started"
echo "Submitted batch job $!"
"""
_SCANCEL = """#!/bin/sh
for job; do kill -9 -- "-$job"; echo "$job" >>"$JOBS/cancelled"; done
"""


# What each batch system is typed as, what it says of a job that it took, and of one that is gone.
BATCH = {
    "slurm": ("sbatch", "scancel", "squeue", "Submitted batch job 7", "squeue: error: Invalid job id specified"),
    "pbs": ("qsub", "qdel", "qstat", "7.server", "qstat: Unknown Job Id 7.server"),
    "lsf": ("bsub", "bkill", "bjobs", "Job <7> is submitted to queue <normal>.", "Job <7> is not found"),
    "sge": ("qsub", "qdel", "qstat", "Your job 7 (dask-worker) has been submitted", "Following jobs do not exist:"),
}


def fake_batch(kind: str, folder: Path, *, refuses: str = "") -> Path:
    """A batch system whose jobs end before they begin, or that takes none; how often each is typed is in `typed`."""
    folder.mkdir(parents=True, exist_ok=True)
    submit, cancel, tell, taken, gone = BATCH[kind]
    says = f'echo "{refuses}" >&2; exit 1' if refuses else f'echo "{taken}"'
    for name, body in ((submit, says), (cancel, ""), (tell, f'echo "{gone}" >&2; exit 1')):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"{folder}/typed"\n{body}\n')
        (folder / name).chmod(0o755)
    return folder


def fake_slurm(folder: Path) -> Path:
    """`sbatch` and `scancel` in a folder for PATH; what they did is in the folder that JOBS names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in (("sbatch", _SBATCH), ("scancel", _SCANCEL), ("squeue", "#!/bin/sh\n")):
        (folder / name).write_text(body)
        (folder / name).chmod(0o755)
    return folder
