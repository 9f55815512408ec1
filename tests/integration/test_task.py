"""A shard is a task that any process computes, from the same contents wherever they lie, to the same bytes."""

import json
import pickle  # noqa: TID251 as whoever sends a task to another process does
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
from support import tiny
from support.commands import Result, environment

from circuitcli.core.branches import Branches, Follow
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime import shapes
from circuitcli.stages import ablate, cache_acts, estimate, fetch_saes
from circuitcli.stages.assembly import Ablations
from circuitcli.stages.joint import JointTask
from circuitcli.stages.portion_task import PortionTask
from circuitcli.stages.prompt_task import PromptTask
from circuitcli.stages.sources import Sources
from circuitcli.stages.spec import STAGES
from circuitcli.stages.task import ShardTask
from circuitcli.stages.written import WrittenTask
from circuitcli.store import ablations
from circuitcli.store.run import Run

Circuit = Callable[..., Result]
TESTS = Path(__file__).parents[1]
PROMPTS = ["the light of the earth", "and the deep was upon", "day and night were", "let there be light"]
CASES: dict[str, dict[str, Any]] = {
    "one position": {},
    "every position, resampled": {"ablate": {"positions": "all", "intervention": "resample"}},
    "onward in prompts": {
        "texts": {"prompt": ["the light of earth was upon", "night and the day"], "file": ""},
        "ablate": {"positions": "onward", "intervention": "mean"},
    },
}


@dataclass
class Elsewhere:
    """What a run computed, and what it read, none of it where it was."""

    tasks: list[ShardTask]
    run: Path
    moved: Path


@pytest.fixture(scope="module", params=list(CASES))
def elsewhere(
    request: Any, start: Any, tiny_model: Path, tiny_saes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Elsewhere:
    """A run of a model and SAEs of its own, all of which then move; the files of activations get other names."""
    root, moved = tmp_path_factory.mktemp("origin"), tmp_path_factory.mktemp("moved")
    model, saes = (shutil.copytree(path, root / path.name) for path in (tiny_model, tiny_saes))
    job = start(root / "run", {**CASES[request.param], "model": str(model), "saes": {"release": str(saes)}})
    found: list[ShardTask] = []
    compute = ShardTask.compute

    def noted(one: ShardTask, *args: Any, **more: Any) -> Any:
        found.append(one)
        return compute(one, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardTask, "compute", noted)
        for stage in (fetch_saes, cache_acts, ablate):
            stage.run(job)
    shutil.copytree(model, moved / "deep" / "one")
    shutil.copytree(saes, moved / "deep" / "other")
    (moved / "acts").mkdir()
    for i, path in enumerate(path for path in sorted((root / "run" / "acts").rglob("*")) if path.is_file()):
        shutil.copy(path, moved / "acts" / str(i))
    run = Path(shutil.move(root / "run", tmp_path_factory.mktemp("kept")))
    shutil.rmtree(root)
    return Elsewhere(found, run, moved)


def shards_of(run: Path) -> list[ablations.Shard]:
    plan = Run(run, STAGES.folders).plan("ablate")
    assert plan is not None
    return ablations.shards(plan.shards)


def test_a_fresh_process_without_the_run_writes_the_same_bytes(elsewhere: Elsewhere, tmp_path: Path) -> None:
    by_content = {(one.ablations.site, one.features): one for one in elsewhere.tasks}
    shards = shards_of(elsewhere.run)
    assert len(shards) == len(by_content) == len(elsewhere.tasks) > 1
    tasks, out, away = (tmp_path / name for name in ("tasks", "out", "cwd"))
    for folder in (tasks, away):
        folder.mkdir()
    for shard in shards:
        (tasks / shard.digest).write_bytes(pickle.dumps(by_content[shard.site, shard.features]))
    done = subprocess.run(
        [sys.executable, "-m", "support.worker", tasks, out, elsewhere.moved],
        cwd=away,
        env=environment(PYTHONPATH=f"{TESTS.parent}:{TESTS}"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = {path.name: path.read_bytes() for path in elsewhere.run.glob("ablations/*.parquet")}
    made = {f"{path.stem}-{path.parent.name}.parquet": path.read_bytes() for path in out.rglob("*.parquet")}
    assert made.keys() == stored.keys()
    assert [name for name in made if made[name] != stored[name]] == []


def test_a_task_holds_plain_values_of_its_shard_alone(elsewhere: Elsewhere) -> None:
    """Nothing of the coordinator travels along: no model, tensor or file; a few bytes for each ablation."""

    for one in elsewhere.tasks:
        assert _values(one) <= {str, int, float, bool, type(None), np.ndarray}
        assert len(pickle.dumps(one)) < 20_000 + 64 * len(one.ablations)


def test_what_isnt_here_is_named(elsewhere: Elsewhere, tmp_path: Path) -> None:
    one = elsewhere.tasks[0]
    with pytest.raises(InputError, match=r"The model .*/model isn't here"):
        one.compute(Sources([tmp_path], "cpu"))
    shutil.copytree(elsewhere.moved / "deep" / "one", tmp_path / "model")
    with pytest.raises(InputError, match=r"acts/tokens.safetensors isn't here"):
        one.compute(Sources([tmp_path], "cpu"))
    shutil.copytree(elsewhere.moved / "acts", tmp_path / "acts")
    with pytest.raises(InputError, match=rf"The SAE at {one.ablations.site}, .* isn't here"):
        one.compute(Sources([tmp_path], "cpu"))
    shutil.copytree(elsewhere.moved / "deep" / "other", tmp_path / "saes")
    one.compute(Sources([tmp_path], "cpu"))
    # Another file under a name that fits is not what was recorded.
    [path] = (tmp_path / "saes").glob(f"{one.ablations.site}/sae_weights.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"The SAE at {one.ablations.site}, .* isn't here"):
        one.compute(Sources([tmp_path], "cpu"))


def test_halves_give_together_what_the_whole_gives(elsewhere: Elsewhere) -> None:
    """In other batches, so within law 4; each half of the features, and of one feature half the batch."""
    whole = max(elsewhere.tasks, key=lambda one: len(one.features))
    sources = Sources([elsewhere.moved], "cpu")
    halves = whole.halves()
    assert [one.ablations.batch_size for one in halves] == [whole.ablations.batch_size // 2] * 2
    assert sum((one.features for one in halves), ()) == whole.features
    assert len(halves[0]) + len(halves[1]) == len(whole)
    wanted, found = whole.compute(sources), whole.joined([one.compute(sources) for one in halves])
    for kind, parts in wanted.items():
        one, other = (ordered(kind, some) for some in (parts, found[kind]))
        for name, column in one.items():
            np.testing.assert_allclose(other[name], column, rtol=0, atol=1e-5, err_msg=f"{kind}: {name}")
    sites = {Site(part["down_layer"], part["down_site"]) for part in found["effects"]}
    written = WrittenTask(whole, Follow.to({site: np.ones(tiny.D_SAE, np.bool_) for site in sites}, branching=3))
    made = written.joined([one.compute(sources, done=[].append, say=print) for one in written.halves()])
    files, led = made.files, Branches.of(whole.features, found["contexts"], found["effects"], written.follow)
    assert len(led.target) > 0
    for name, column in vars(led).items():
        np.testing.assert_array_equal(getattr(made.branches, name), column, err_msg=name)
    for kind, [columns] in ablations.decoded(files).items():
        [same] = ablations.decoded(ablations.encoded(found))[kind]
        assert columns.keys() == same.keys()
        for name, column in same.items():
            np.testing.assert_array_equal(columns[name], column, err_msg=f"{kind}: {name}")
        assert files[kind].rows == len(columns["seq" if "seq" in columns else "token_id"])
    single = halves[0]
    while len(single.features) > 1:
        single = single.halves()[0]
    [same] = replace(single, ablations=replace(single.ablations, batch_size=5)).halves()
    assert (same.features, same.ablations.batch_size, len(same)) == (single.features, 2, len(single))
    [least] = replace(single, ablations=replace(single.ablations, batch_size=2)).halves()
    assert least.halves() == ()


def ordered(kind: str, parts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The columns of a table that are numbers, its rows by what they are of."""
    count = [len(next(c for c in part.values() if isinstance(c, np.ndarray))) for part in parts]
    whole = {
        name: np.concatenate([np.broadcast_to(part[name], n) for part, n in zip(parts, count, strict=True)])
        for name in parts[0]
    }
    keys = [name for name in whole if np.asarray(whole[name]).dtype.kind in "iuU"]
    order = np.lexsort([whole[name] for name in keys])
    return {name: column[order] for name, column in whole.items() if column.dtype.kind in "iuf"}


@pytest.mark.parametrize("who", ["ablate", "estimate", "bench"])
def test_all_ablations_are_made_in_one_place(
    circuit: Circuit, run: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    class Reached(Exception):
        pass

    def reached(*_: Any, **__: Any) -> Any:
        raise Reached

    monkeypatch.setattr(Ablations, "made", reached)
    if who == "ablate":
        monkeypatch.setattr(estimate, "estimate", lambda *_: None)
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 99, "n_positions": 32}
    monkeypatch.setitem(shapes.SHAPES, "small", ("GPT2Config", sizes))
    commands = {
        "ablate": ("ablate", "--run", run, "--force"),
        "estimate": ("ablate", "--run", run, "--force", "--dry-run"),
        "bench": ("bench", "--shape", "small", "--d-sae", "64", "--tokens", "8", "--budget", "1"),
    }
    with pytest.raises(Reached):
        circuit(*commands[who])


def test_tasks_of_prompts_hold_plain_values_too(
    start: Any, circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an attribution and a validation: tokens, numbers of nodes, circuits; few bytes each."""
    job = start(tmp_path / "run", {"saes": {"sites": ["resid_post"]}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    found: dict[type, list[Any]] = {kind: [] for kind in (PromptTask, PortionTask, JointTask)}
    for kind, noted in found.items():

        def compute(one: Any, *args: Any, before: Any = kind.compute, noted: list[Any] = noted, **more: Any) -> Any:
            noted.append(one)
            return before(one, *args, **more)

        monkeypatch.setattr(kind, "compute", compute)
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    typed = ["--run", tmp_path / "run", "--prompts", asked]
    assert circuit("attribute", *typed, "--method", "exact").code == 0
    assert circuit("validate", *typed, "--circuit", "none", "--draws", "2", "--nodes", "4").code == 0
    for kind, tasks in found.items():
        assert tasks, kind
        for one in tasks:
            assert _values(one) <= {str, int, float, bool, bytes, type(None), np.ndarray, PosixPath}
            assert len(pickle.dumps(one)) < 40_000


def _values(part: Any) -> set[type]:
    """The types of all that a value is made of."""
    if is_dataclass(part):
        return set().union(*(_values(getattr(part, field.name)) for field in fields(part)))
    if isinstance(part, dict):
        return set().union(*map(_values, part), *map(_values, part.values()), set())
    return set().union(*map(_values, part), set()) if isinstance(part, list | tuple) else {type(part)}
