"""Ablations shared by processes, as the tasks of an array job: the same bytes as by one, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support.commands import Result, command, contents, environment, spawn, tables_of

from circuitcli.core.sites import Site
from circuitcli.errors import UsageError
from circuitcli.stages.sharing import Part, part
from circuitcli.store.ablations import Shard
from circuitcli.store.holder import Holder

Circuit = Callable[..., Result]


@pytest.fixture(scope="module")
def cached(tiny_model: Path, tiny_saes: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its activations, whose layers have several shards each."""
    tree: dict[str, Any] = {
        "model": str(tiny_model),
        "allow_misfit": True,
        "runtime": {"device": "cpu", "batch_size": 16},
        "saes": {"release": str(tiny_saes), "layers": "0:2", "sites": ["resid_post", "mlp_out"]},
        "texts": {"file": str(tiny_text), "num_sequences": 70, "max_tokens": 6},
        "features": {"thinning": 1.0, "branching": 1, "seq_cap": 3, "max_features": 100},
    }
    folder = tmp_path_factory.mktemp("shared")
    (folder / "profile.toml").write_text(tomli_w.dumps(tree))
    for stage in ("fetch-saes", "cache-acts"):
        assert spawn(stage, "--run", folder / "run", "--profile", folder / "profile.toml", "--quiet").code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def whole(cached: Path) -> Path:
    """The same by one process."""
    return ablated(shutil.copytree(cached, cached.with_name("whole")))


def ablated(run: Path, *args: str) -> Path:
    done = spawn("ablate", "--run", run, *args)
    assert done.code == 0, done.err
    return run


@pytest.fixture
def run(cached: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cached, tmp_path / "run")


def started(run: Path, number: int, count: int) -> subprocess.Popen[str]:
    args = command("ablate", "--run", run, "--shard", f"{number}/{count}", "--json")
    return subprocess.Popen(
        args, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip


def equal(run: Path, whole: Path) -> None:
    """The tables, and the record as far as the results that others build on."""
    assert tables_of(run) == tables_of(whole)
    said, wanted = (json.loads((one / "ablations/stage.json").read_bytes()) for one in (run, whole))
    for record in (said, wanted):
        for name in ("seconds", "finished"):
            del record[name]
        del record["facts"]["peak_memory_bytes"]
    assert said == wanted
    assert list(said["files"]) == list(wanted["files"])
    assert contents(run).keys() == contents(whole).keys(), "nothing is left over"


def test_four_at_once_make_the_same_bytes(run: Path, whole: Path) -> None:
    several = [started(run, number, 4) for number in (1, 2, 3, 4)]
    found = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in several]
    assert [process.returncode for process in several] == [0] * 4
    shards = len(list((whole / "ablations").glob("contexts-*")))
    assert shards >= 6
    assert {one["pieces"] for one in found} == {shards}
    assert sum(one["made"] for one in found) == shards, "each once"
    assert not (run / "ablations/stage.json").exists()
    ablated(run, "--merge")
    equal(run, whole)
    assert spawn("ablate", "--run", run, "--shard", "1/4", "--json").document["done"]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_killed_at_any_time_they_go_on(seed: int, run: Path, whole: Path) -> None:
    """Three at once, of which two are killed at random; one more, and the others, do what these left."""
    draw = random.Random(seed)
    several = [started(run, number, 3) for number in (1, 2, 3)]
    for process in draw.sample(several, 2):
        time.sleep(draw.uniform(0.5, 6))
        process.send_signal(signal.SIGKILL)
    several.append(started(run, draw.choice([1, 2, 3]), 3))
    ended = [process.communicate(timeout=300) for process in several]
    assert len(ended) == 4
    assert several[-1].returncode == 0
    ablated(run, "--merge")
    equal(run, whole)


def test_one_process_goes_on_from_what_parts_have_made(run: Path, whole: Path) -> None:
    process = started(run, 1, 2)
    folder = run / "ablations"
    until(lambda: list(folder.glob("contexts-*")))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (0, 143)
    left = [path.name for path in (folder / "claims").iterdir() if not path.name.startswith(".")]
    assert not left, "a claim is given up"
    ablated(run)
    equal(run, whole)


@pytest.mark.parametrize("lost", [0, 3])
def test_what_is_made_later_stands_in_its_place(lost: int, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    recorded = run / "ablations/stage.json"
    names = [name for name in json.loads(recorded.read_bytes())["files"] if "/contexts-" in name]
    (run / names[lost]).unlink()
    recorded.unlink()
    ablated(run)
    equal(run, whole)


def until(true: Callable[[], Any]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it never came true")


def test_merging_too_early_is_refused(run: Path, circuit: Circuit) -> None:
    before = contents(run)
    circuit("ablate", "--run", run, "--merge").refused(3, "No part has begun", "--shard 1/1")
    assert contents(run) == before
    holder = Holder.me()
    claim = run / "ablations/claims" / "0123456789abcdef"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({**vars(holder), "host": "node-7"}))
    circuit("ablate", "--run", run, "--merge").refused(3, f"process {holder.pid} on node-7", "Merge when all parts")
    assert not (run / "ablations/stage.json").exists()


def test_merging_what_no_part_has_begun_leaves_the_run_as_it_was(whole: Path, tmp_path: Path, circuit: Circuit) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = contents(run)
    args = ["ablate", "--run", run, "--merge", "--max-features", "200", "--branching", "3"]
    circuit(*args).refused(3, "No part has begun")
    assert contents(run) == before


def test_a_damaged_start_is_told(run: Path, circuit: Circuit) -> None:
    process = started(run, 1, 2)
    until(lambda: list((run / "ablations").glob("contexts-*")))
    process.kill()
    process.communicate()
    [path] = (run / "ablations/claims").glob(".start-*.json")
    path.write_text("{}")
    circuit("ablate", "--run", run, "--shard", "1/2").refused(3, path.name, "chooses the start anew")


@pytest.mark.parametrize("text", ["5/4", "0/4", "1/0", "-1/4", "a/b", "1", "", "1/", "/4", "1/4/2", "1.5/4", "٣/٤"])
def test_no_part_of_a_whole(text: str, run: Path, circuit: Circuit) -> None:
    before = contents(run)
    circuit("ablate", "--run", run, f"--shard={text}").refused(2, "--shard 3/8")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--shard", "1/2", "--force"], ["--shard and --force", "circuit ablate --force"]),
        (["--merge", "--force"], ["--merge and --force"]),
        (["--shard", "1/2", "--merge"], ["--shard and --merge"]),
        (["--shard", "1/2", "--dry-run"], ["--dry-run and --shard"]),
    ],
)
def test_what_doesnt_go_together(args: list[str], words: list[str], run: Path, circuit: Circuit) -> None:
    circuit("ablate", "--run", run, *args).refused(2, *words)


def test_other_settings_than_those_it_was_begun_with(run: Path, circuit: Circuit) -> None:
    process = started(run, 1, 2)
    until(lambda: list((run / "ablations").glob("contexts-*")))
    process.kill()
    process.communicate()
    args = ["ablate", "--run", run, "--shard", "1/2", "--intervention", "mean"]
    circuit(*args).refused(3, "made from other inputs", "ablate.intervention")


def test_without_activations(tmp_path: Path, circuit: Circuit) -> None:
    circuit("ablate", "--run", tmp_path / "new", "--shard", "1/2").refused(3, "no finished cache-acts stage")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_folder_that_cant_be_written(run: Path, circuit: Circuit) -> None:
    run.chmod(0o555)
    circuit("ablate", "--run", run, "--shard", "1/2").refused(3, "can't be written")
    run.chmod(0o755)


ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "5"}


@pytest.mark.parametrize(
    ("more", "found"), [({}, Part(5, 5)), ({"SLURM_ARRAY_TASK_STEP": "2"}, Part(3, 5))]
)  # fmt: skip
def test_the_task_of_an_array_job(more: dict[str, str], found: Part) -> None:
    assert part("auto", ARRAY | more) == found


@pytest.mark.parametrize(
    "environment",
    [{}, {"SLURM_ARRAY_TASK_ID": "1"}, ARRAY | {"SLURM_ARRAY_TASK_ID": "2"}, ARRAY | {"SLURM_ARRAY_TASK_COUNT": "x"},
     ARRAY | {"SLURM_ARRAY_TASK_STEP": "0"}, ARRAY | {"SLURM_ARRAY_TASK_ID": "8"}],
)  # fmt: skip
def test_no_task_of_an_array_job(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="names none here"):
        part("auto", environment)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_each_shard_is_of_one_part_and_every_part_takes_all(count: int) -> None:
    shards = [Shard(Site(0, "mlp_out"), (i,), str(i)) for i in range(5)]
    orders = [list(Part(number, count).first(shards)) for number in range(1, count + 1)]
    assert all(sorted(map(int, (one.digest for one in order))) == list(range(5)) for order in orders)
    own = [order[: len(shards[i::count])] for i, order in enumerate(orders)]
    assert sorted(one.digest for part in own for one in part) == [one.digest for one in shards]
