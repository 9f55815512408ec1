"""Attributions and validations by processes that share a run: the same bytes as by one."""

from __future__ import annotations

import json
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

Circuit = Callable[..., Result]
PROMPTS = [
    "the light of the earth was void", "and the deep was upon the waters", "day and night were called",
    "let there be light in the heaven", "and God said unto the earth", "the evening and the morning",
    "the face of the deep waters", "and the spirit of God moved", "the waters were called the sea",
]  # fmt: skip
STAGES: dict[str, tuple[str, list[str]]] = {
    "attribute": ("attribution", ["--method", "exact", "--edges", "exact", "--nodes", "6"]),
    "validate": (
        "validation",
        ["--circuit", "none", "--draws", "1", "--nodes", "3", "--candidates", "9", "--audit", "1.resid_post.3"],
    ),
}


@pytest.fixture(scope="module")
def cached(tiny_model: Path, tiny_saes: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its activations, and questions beside it."""
    tree: dict[str, Any] = {
        "model": str(tiny_model),
        "allow_misfit": True,
        "runtime": {"device": "cpu", "batch_size": 16},
        "saes": {"release": str(tiny_saes), "layers": "0:2", "sites": ["resid_post", "mlp_out"]},
        "texts": {"file": str(tiny_text), "num_sequences": 40, "max_tokens": 6},
    }
    folder = tmp_path_factory.mktemp("shared")
    (folder / "profile.toml").write_text(tomli_w.dumps(tree))
    (folder / "asked.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    for stage in ("fetch-saes", "cache-acts"):
        assert spawn(stage, "--run", folder / "run", "--profile", folder / "profile.toml", "--quiet").code == 0
    return folder / "run"


def line(stage: str, cached: Path, run: Path, *args: str) -> list[Any]:
    return [stage, "--run", run, "--prompts", cached.with_name("asked.jsonl"), *STAGES[stage][1], *args]


def started(args: list[Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*args, "--json"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.fixture
def wholes(cached: Path, circuit: Circuit) -> Callable[[str], Path]:
    """A run with a stage that one process has done."""

    def whole(stage: str) -> Path:
        run = cached.with_name(f"whole-{stage}")
        if not run.exists():
            shutil.copytree(cached, run)
            done = circuit(*line(stage, cached, run))
            assert done.code == 0, done.err
        return run

    return whole


def equal(stage: str, run: Path, whole: Path) -> None:
    """All tables, and the record but for how long what took."""
    assert tables_of(run) == tables_of(whole)
    said, wanted = (json.loads((one / STAGES[stage][0] / "stage.json").read_bytes()) for one in (run, whole))
    for record in (said, wanted):
        for name in ("seconds", "finished"):
            del record[name]
        for name in ("peak_memory_bytes", "seconds_by_part"):
            record["facts"].pop(name, None)
    assert said == wanted
    assert list(said["files"]) == list(wanted["files"])
    assert contents(run).keys() == contents(whole).keys(), "nothing is left over"


@pytest.mark.parametrize("stage", STAGES)
def test_four_at_once_make_the_same_bytes(
    stage: str, cached: Path, wholes: Callable[[str], Path], tmp_path: Path, circuit: Circuit
) -> None:
    whole, run = wholes(stage), shutil.copytree(cached, tmp_path / "run")
    several = [started(line(stage, cached, run, "--shard", f"{number}/4")) for number in (1, 2, 3, 4)]
    found = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in several]
    assert [process.returncode for process in several] == [0] * 4
    [count] = {one["pieces"] for one in found}
    assert sum(one["made"] for one in found) == count > 1, "each once"
    assert not (run / STAGES[stage][0] / "stage.json").exists()
    assert circuit(stage, "--run", run, "--merge").code == 0
    equal(stage, run, whole)
    assert circuit(stage, "--run", run, "--shard", "1/4", "--json").document["done"]


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_a_random_time_they_go_on(
    stage: str, cached: Path, wholes: Callable[[str], Path], tmp_path: Path, circuit: Circuit
) -> None:
    """Two at once, of which one is killed; the other does what it leaves, and the stage without --merge ends it."""
    whole, run = wholes(stage), shutil.copytree(cached, tmp_path / "run")
    first, second = (started(line(stage, cached, run, "--shard", f"{number}/2")) for number in (1, 2))
    time.sleep(random.Random(stage).uniform(3, 8))
    first.send_signal(signal.SIGKILL)
    for process in (first, second):
        process.communicate(timeout=300)
    assert second.returncode == 0
    assert circuit(*line(stage, cached, run)).code == 0
    equal(stage, run, whole)


@pytest.mark.parametrize("stage", STAGES)
def test_merging_too_early_changes_nothing(stage: str, cached: Path, tmp_path: Path, circuit: Circuit) -> None:
    run = shutil.copytree(cached, tmp_path / "run")
    before = contents(run)
    circuit(*line(stage, cached, run, "--merge")).refused(
        3, f"No part has begun {stage}", f"circuit {stage} --run", "--shard 1/1"
    )
    assert contents(run) == before
    folder = run / STAGES[stage][0]
    process = started(line(stage, cached, run, "--shard", "1/2"))
    for _ in range(1200):
        if list(folder.glob("measured-*.parquet")):
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    for claim in (folder / "claims").iterdir():
        claim.unlink()
    for half in folder.glob(".*"):  # what was being written
        half.unlink()
    before = contents(run)
    circuit(*line(stage, cached, run, "--merge")).refused(3, "of work", "--shard 1/1")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("stage", "other"), [("attribute", ("--edges", "estimate")), ("validate", ("--audit", "1.resid_post.4"))]
)
def test_a_refused_merge_of_what_is_done_changes_nothing(
    stage: str, other: tuple[str, str], cached: Path, wholes: Callable[[str], Path], tmp_path: Path, circuit: Circuit
) -> None:
    """With settings that leave the plan and need more pieces."""
    run = shutil.copytree(wholes(stage), tmp_path / "run")
    before = contents(run)
    circuit(*line(stage, cached, run, *other, "--merge")).refused(3, "No part has begun", "--shard 1/1")
    assert contents(run) == before


@pytest.mark.parametrize("stage", STAGES)
def test_what_doesnt_go_together(stage: str, cached: Path, circuit: Circuit) -> None:
    circuit(*line(stage, cached, cached, "--shard", "1/2", "--force")).refused(2, f"circuit {stage} --force")
    circuit(*line(stage, cached, cached, "--shard", "5/4")).refused(2, "There is no part 5 of 4")
    circuit(*line(stage, cached, cached, "--shard", "1/2", "--merge")).refused(2, "--shard and --merge")
