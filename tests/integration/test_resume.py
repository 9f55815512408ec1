"""Law 5: interrupted anywhere and resumed equals never interrupted, byte for byte in the tables."""

import fcntl
import json
import os
import random
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from support.commands import Result, command, contents, environment, tables_of
from support.transcoders import Made

from circuitcli.settings import resolve
from circuitcli.stages import run_all
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

Circuit = Callable[..., Result]


class Killed(BaseException):
    """Ends a run between two of its changes to the disk, as a kill would."""


@pytest.fixture(scope="module")
def long(tiny_model: Path, tiny_saes: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile whose stages write several shards for each site."""
    tree: dict[str, Any] = {
        "model": str(tiny_model),
        "runtime": {"device": "cpu", "batch_size": 16},
        "saes": {"release": str(tiny_saes), "layers": "0:2", "sites": ["resid_post"]},
        "texts": {"file": str(tiny_text), "num_sequences": 70, "max_tokens": 6},
        "features": {"thinning": 1.0, "branching": 1, "seq_cap": 3},  # more features than one shard has
        "graph": {"formats": ["json"]},
    }
    path = tmp_path_factory.mktemp("long") / "profile.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


@pytest.fixture(scope="module")
def whole(long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never interrupted."""
    root = tmp_path_factory.mktemp("whole") / "run"
    settings = resolve(tomllib.loads(long.read_text()))
    run_all.run(Job(settings, Silent(), Run(root, STAGES.folders)), lambda outcome: None)
    return root


def kill_at(moment: int | str, patch: pytest.MonkeyPatch) -> list[str]:
    """End the run before its change to the disk number `moment`, or after that of a file whose path has it.

    The unfinished file stays. Returns the changes.
    """
    changes: list[str] = []

    def now() -> bool:
        return len(changes) == moment if isinstance(moment, int) else any(moment in change for change in changes)

    def counted(name: str) -> None:
        original = getattr(os, name)

        def change(path: Any, *args: Any, **more: Any) -> None:
            if name == "replace" or not str(path).endswith(".part"):
                if now():
                    if name == "replace":
                        os.link(path, f"{path}.part")
                    raise Killed
                changes.append(f"{name} {path}")
            original(path, *args, **more)

        patch.setattr(os, name, change)

    counted("replace")
    counted("unlink")
    return changes


def run_killed(circuit: Circuit, moment: int | str, *args: str | Path) -> list[str]:
    """Run a command up to that change, or to its end."""
    with pytest.MonkeyPatch.context() as patch:
        changes = kill_at(moment, patch)
        try:
            assert circuit(*args).code == 0
        except Killed:
            return changes
    return changes


def test_killed_between_any_two_changes(circuit: Circuit, long: Path, whole: Path, tmp_path: Path):
    args = ["run-all", "--profile", long, "--run"]
    everything = run_killed(circuit, -1, *args, tmp_path / "counted")
    assert tables_of(tmp_path / "counted") == tables_of(whole)
    assert len(everything) > 30
    # The first and the last, and some of those between: the others differ in which shard it is.
    draw = random.Random(5)
    for moment in [0, 1, len(everything) - 1, *draw.sample(range(2, len(everything) - 1), 5)]:
        root = tmp_path / str(moment)
        assert len(run_killed(circuit, moment, *args, root)) == moment
        assert circuit(*args, root).code == 0
        assert tables_of(root) == tables_of(whole), everything[moment]
        assert not list(root.rglob("*.part"))


def test_killed_where_features_write_several_layers(circuit: Circuit, tiny_text: Path, tmp_path: Path):
    tree: dict[str, Any] = Made("gpt2", "across").save(tmp_path / "made").run("mlp_in")
    tree |= {"runtime": {"device": "cpu", "batch_size": 16}, "graph": {"formats": ["json"]}, "allow_misfit": True}
    tree["texts"] |= {"file": str(tiny_text), "num_sequences": 20, "max_tokens": 8}
    tree["features"] = {"thinning": 1.0, "branching": 1, "seq_cap": 3}  # more features than one shard has
    profile = tmp_path / "profile.toml"
    profile.write_text(tomli_w.dumps(tree))
    args = ["run-all", "--profile", profile, "--run"]
    everything = run_killed(circuit, -1, *args, tmp_path / "whole")
    ablations = [i for i, change in enumerate(everything) if "ablations/.effects" in change]
    assert len(ablations) > 2
    for moment in (ablations[1] + 1, ablations[-1]):
        root = tmp_path / str(moment)
        assert len(run_killed(circuit, moment, *args, root)) == moment
        assert circuit(*args, root).code == 0
        assert tables_of(root) == tables_of(tmp_path / "whole"), everything[moment]


@given(moments=st.lists(st.integers(0, 70), min_size=1, max_size=3), batch=st.sampled_from([5, 16]))
@hypothesis.settings(max_examples=5, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_killed_at_any_moments_and_at_any_batch_size(
    moments: list[int], batch: int, circuit: Circuit, long: Path, tmp_path_factory: pytest.TempPathFactory
):
    """Each next attempt goes on at the batch size of the first, whatever it is told."""
    folder = tmp_path_factory.mktemp("moments")
    args = ["run-all", "--profile", long, "--batch-size", str(batch), "--run"]
    assert circuit(*args, folder / "whole").code == 0
    for moment in moments:
        run_killed(circuit, moment, *args, folder / "run")
    assert circuit(*args, folder / "run").code == 0
    assert tables_of(folder / "run") == tables_of(folder / "whole")


def test_killed_twice_and_while_redoing(circuit: Circuit, long: Path, whole: Path, tmp_path: Path):
    args = ["run-all", "--profile", long, "--run", tmp_path / "run"]
    for moment in (15, 9):
        run_killed(circuit, moment, *args)
    assert circuit(*args).code == 0
    assert tables_of(tmp_path / "run") == tables_of(whole)
    for moment in (2, 12, 30):
        run_killed(circuit, moment, *args, "--force")
    assert "cache-acts: what still fits is kept, as fetch-saes was made again." in circuit(*args).err
    assert tables_of(tmp_path / "run") == tables_of(whole)


@pytest.mark.parametrize(
    ("number", "code", "there"),
    [
        (signal.SIGKILL, -9, "ablations/effects-*.parquet"),
        (signal.SIGINT, 130, "ablations/*.parquet"),
        (signal.SIGTERM, 143, "acts/*/*.safetensors"),
    ],
    ids=["kill", "interrupt", "terminate"],
)
def test_signals(number: int, code: int, there: str, circuit: Circuit, long: Path, whole: Path, tmp_path: Path):
    """A process that is killed once the first of some files is there; the next one goes on and ends the same."""
    args = ["run-all", "--profile", str(long), "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        command(*args), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not list((tmp_path / "run").glob(there)) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    word = {130: "Interrupted.", 143: "Terminated."}.get(code)
    said = [word, "Hint: The same command goes on from what is done."] if word else []
    assert err.splitlines()[len(err.splitlines()) - len(said) :] == said
    assert not (tmp_path / "run" / "graph" / "stage.json").exists()
    result = circuit(*args)
    assert result.code == 0
    assert "going on from where it stopped" in result.err
    assert tables_of(tmp_path / "run") == tables_of(whole)


def test_batch_size_of_the_plan_is_kept(circuit: Circuit, long: Path, whole: Path, tmp_path: Path):
    args = ["run-all", "--profile", long, "--run", tmp_path / "run"]
    run_killed(circuit, "ablations/.contexts-", *args)
    assert len(list(tmp_path.glob("run/ablations/contexts-*"))) == 1
    assert circuit(*args, "--batch-size", "3").code == 0
    assert tables_of(tmp_path / "run") == tables_of(whole)
    for stage in ("acts", "ablations"):
        assert json.loads((tmp_path / "run" / stage / "plan.json").read_text())["batch_size"] == 16


def test_unfinished_files_are_no_shards(circuit: Circuit, run: Path):
    before = tables_of(run)
    shard = sorted(run.glob("acts/1.resid_post/*"))[0]
    shard.rename(shard.with_name(f".{shard.name}.abc.part"))
    (shard.parent / f".{shard.name}.xyz.part").write_bytes(b"half of")
    (run / "acts" / "stage.json").unlink()
    result = circuit("run-all", "--run", run)
    assert result.code == 0
    assert "cache-acts: going on" in result.err
    assert tables_of(run) == before
    assert not list(run.rglob("*.part"))


def test_a_first_command_killed_at_once_can_be_repeated(circuit: Circuit, profile: Path, tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".settings.toml.abc.part").write_text("half of")
    assert circuit("fetch-saes", "--run", tmp_path / "new", "--profile", profile).code == 0


def test_done_stages_say_so_and_do_nothing(circuit: Circuit, run: Path):
    before, times = contents(run), mtimes(run)
    result = circuit("run-all", "--run", run, "--json", "--seed", "0", "--batch-size", "2")
    assert result.code == 0
    for stage in ("fetch-saes", "cache-acts", "ablate", "effects", "graph"):
        assert f"{stage}: already done." in result.err
        assert result.document["stages"][stage] == "skipped"
        assert circuit(stage, "--run", run).err == f"{stage}: already done.\n"
    after, later = contents(run), mtimes(run)
    assert (
        tomllib.loads((run / "settings.toml").read_text())["runtime"]["batch_size"] == 2
    )  # how, not what, is remembered
    for tree in (before, times, after, later):
        tree.pop("settings.toml")
    assert (after, later) == (before, times)


@pytest.mark.parametrize(
    ("flag", "value", "redone"),
    [("--max-edges", "3", ["graph"]), ("--view", "1", ["graph"]), ("--logit-tokens", "3", ["effects", "graph"])],
)
def test_cheap_stages_are_redone_alone(flag: str, value: str, redone: list[str], circuit: Circuit, run: Path):
    before, times = contents(run), mtimes(run)
    result = circuit("run-all", "--run", run, flag, value, "--json")
    assert [name for name, status in result.document["stages"].items() if status == "done"] == redone
    for stage in redone:
        assert f"{stage}: made again, because of " in result.err
    kept = [name for name in before if not name.startswith((*redone, "settings.toml"))]
    assert {name: contents(run)[name] for name in kept} == {name: before[name] for name in kept}
    assert all(mtimes(run)[name] == times[name] for name in kept if name in times)
    assert contents(run)["graph/circuit.json"] != before["graph/circuit.json"]
    assert circuit("run-all", "--run", run).err.count("already done") == 5


def test_force_redoes_with_other_settings(circuit: Circuit, run: Path, profile: Path, tmp_path: Path):
    changed = ["--max-tokens", "9", "--seq-cap", "2"]
    assert circuit("run-all", "--run", run, *changed).code == 3
    assert circuit("run-all", "--run", run, *changed, "--force").code == 0
    assert circuit("run-all", "--run", tmp_path / "fresh", "--profile", profile, *changed).code == 0
    assert tables_of(run) == tables_of(tmp_path / "fresh")


def test_one_more_pin_computes_that_feature_only(circuit: Circuit, run: Path):
    before, times = contents(run), mtimes(run)
    firing = pq.read_table(run / "acts" / "features.parquet").to_pylist()
    done = {row["feature"] for file in run.glob("ablations/contexts-*") for row in pq.read_table(file).to_pylist()
            if row["layer"] == 2}  # fmt: skip
    new = next(row["feature"] for row in firing if row["layer"] == 2 and row["n_active"] and row["feature"] not in done)
    pins = [flag for feature in (*sorted(done), new) for flag in ("--pin", f"2:{feature}")]
    assert circuit("run-all", "--run", run, *pins).code == 0
    kept = [name for name in before if name.startswith(("acts", "ablations/effects", "ablations/contexts"))]
    assert {name: contents(run)[name] for name in kept} == {name: before[name] for name in kept}
    assert all(mtimes(run)[name] == times[name] for name in kept if name in times)
    added = {path for path in run.glob("ablations/contexts-*") if path.relative_to(run).as_posix() not in before}
    assert [{row["feature"] for row in pq.read_table(path).to_pylist()} for path in added] == [{new}]
    totals = pq.read_table(run / "effects" / "features.parquet").to_pylist()
    assert {row["feature"] for row in totals if row["layer"] == 2} == {*done, new}


def test_back_to_features_that_were_ablated_before(circuit: Circuit, run: Path):
    """Nothing is computed, and nothing is missing: the record of the pins between doesn't know those shards."""
    first = json.loads((run / "ablations" / "stage.json").read_text())["facts"]["features"]
    rows = pq.read_table(run / "acts" / "features.parquet").to_pylist()
    firing = [f"0.resid_post.{row['feature']}" for row in rows if row["layer"] == 0 and row["n_active"]]
    new = next(name for name in firing if name not in first)
    assert circuit("run-all", "--run", run, "--pin", new).code == 0
    before = tables_of(run)
    again = circuit("run-all", "--run", run, *[flag for name in first for flag in ("--pin", name)])
    assert again.code == 0, again.err
    assert {name: tables_of(run)[name] for name in before if name.startswith("ablations/")} == {
        name: digest for name, digest in before.items() if name.startswith("ablations/")
    }
    assert json.loads((run / "ablations" / "stage.json").read_text())["facts"]["features"] == first


def test_larger_branching_keeps_the_rest(circuit: Circuit, run: Path):
    before, times = tables_of(run), mtimes(run)
    assert circuit("run-all", "--run", run, "--branching", "3").code == 0
    kept = [name for name in before if not name.startswith("effects/")]
    assert all(tables_of(run)[name] == before[name] and mtimes(run)[name] == times[name] for name in kept)
    assert len(tables_of(run)) > len(before)


def test_no_record_stands_while_its_stage_or_one_before_works(circuit: Circuit, run: Path):
    args = ["run-all", "--run", run, "--branching", "3"]
    run_killed(circuit, "ablations/.contexts-", *args)
    assert {path.parent.name for path in run.glob("*/stage.json")} == {"saes", "acts"}
    circuit("effects", "--run", run).refused(3, "no finished ablate stage")
    assert circuit(*args).code == 0


def test_second_process_waits_and_says_so(run: Path):
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            command("run-all", "--run", run, "--max-edges", "2"),
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Another process is writing")
        assert str(run) in line
        settings = (run / "settings.toml").read_text()
        assert "max_edges = 2\n" not in settings
        # What the other process changes meanwhile is what this one goes by.
        (run / "settings.toml").write_text(settings.replace('"json"', '"dot", "json"'))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "circuit.dot" in out


def mtimes(run: Path) -> dict[str, int]:
    return {path.relative_to(run).as_posix(): path.stat().st_mtime_ns
            for path in run.rglob("*") if path.is_file() and path.name != ".lock"}  # fmt: skip
