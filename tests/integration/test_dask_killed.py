"""Kill −9 of workers, of the scheduler and of the process that plans, at random: nothing is lost, nothing counts twice.

CIRCUIT_KILLS is how many runs there are, each by a seed of its own; in the first each of the three is killed.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import contents, environment, tables_of
from support.dasked import Processes, kill, started

FLAGS = ("--thinning", "0.3", "--branching", "2", "--max-features", "40")
TESTS = Path(__file__).parents[1]
RUNS = int(os.environ.get("CIRCUIT_KILLS", "1"))


def ablate(run: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.small_shards", "ablate", "--run", run, *FLAGS, *more],
        env=environment(PYTHONPATH=f"{TESTS.parent}:{TESTS}", OMP_NUM_THREADS="1"),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cached(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose activations are there, and nothing behind them."""
    root = Path(shutil.copytree(finished, tmp_path_factory.mktemp("cached") / "run"))
    for folder in ("ablations", "effects", "graph"):
        shutil.rmtree(root / folder)
    return root


@pytest.fixture(scope="module")
def made(cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its ablations, by one process that nobody disturbed."""
    root = Path(shutil.copytree(cached, tmp_path_factory.mktemp("made") / "run"))
    process = ablate(root)
    assert process.wait(300) == 0
    return root


class Cluster:
    """A scheduler and two workers that can be killed, and come again."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.begin()

    def begin(self) -> None:
        self.scheduler, self.address = self.processes.scheduler()
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> subprocess.Popen[bytes]:
        return self.processes.worker(self.address, "--preload", "support.slowly", PYTHONPATH=f"{TESTS.parent}:{TESTS}")

    def kill_worker(self, which: int) -> None:
        kill(self.workers[which])
        self.workers[which] = self.worker()

    def kill_scheduler(self) -> None:
        for process in (self.scheduler, *self.workers):
            kill(process)
        self.begin()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_whoever_is_killed_the_tables_are_the_same(seed: int, cached: Path, made: Path, tmp_path: Path) -> None:
    lots = random.Random(seed)
    run = Path(shutil.copytree(cached, tmp_path / "run"))
    wanted = len(list(made.glob("ablations/contexts-*")))
    victims = lots.sample(["worker", "worker", "worker", "scheduler", "planner"], 3)
    if seed == 0:
        victims = lots.sample(["worker", "scheduler", "planner"], 3)
    with started(tmp_path / "dask") as processes:
        cluster = Cluster(processes)
        planner = ablate(run, "--scheduler", cluster.address)
        for victim in victims:
            more = lots.randint(1, 3)
            there = len(list(run.glob("ablations/contexts-*")))
            end = time.monotonic() + 120
            while planner.poll() is None and len(list(run.glob("ablations/contexts-*"))) < min(wanted, there + more):
                assert time.monotonic() < end, processes.logs()
                time.sleep(0.02)
            time.sleep(lots.random() * 0.3)
            if victim == "worker":
                cluster.kill_worker(lots.randrange(2))
                continue
            if victim == "planner":
                kill(planner)
            else:
                cluster.kill_scheduler()
                _, said = planner.communicate(timeout=120)
                assert planner.returncode in (0, 4), said
                if planner.returncode == 4:
                    *_, error, hint = said.splitlines()
                    assert error.startswith("Error: The connection to the scheduler of tcp://127.0.0.1:")
                    assert (
                        hint
                        == "Hint: What was computed is kept: the same command goes on once there is a scheduler again."
                    )
                assert "Traceback" not in said
            planner = ablate(run, "--scheduler", cluster.address)
        _, said = planner.communicate(timeout=240)
        assert planner.returncode == 0, said
    assert tables_of(run) == tables_of(made)
    left = {name for name in contents(run) if name.startswith("ablations/")}
    assert left == {name for name in contents(made) if name.startswith("ablations/")}
