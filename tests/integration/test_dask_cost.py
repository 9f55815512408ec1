"""What the executor costs: one worker of Dask beside this process, on shards that take two seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import environment

# Seconds of a shard, how many there are, how often they are timed, and what Dask may cost.
LEAST, SHARDS, ROUNDS, COST = 2.0, 2, 3, 1.15
TESTS = Path(__file__).parents[1]


@pytest.mark.timed
@pytest.mark.slow
def test_one_worker_is_nearly_as_fast_as_this_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.executor_cost", str(SHARDS), str(ROUNDS)],
        env=environment(PYTHONPATH=f"{TESTS.parent}:{TESTS}", OMP_NUM_THREADS="1"),
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here, there = map(min, zip(*json.loads(done.stdout), strict=True))
    print(f"here {here:.2f} s, on one worker {there:.2f} s: {there / here:.3f} times; {here / SHARDS:.2f} s a shard")
    assert here / SHARDS >= LEAST
    assert there <= COST * here
