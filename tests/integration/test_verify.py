"""What is done is looked at before it is called done: sizes always, hashes of the last stage, and all with --verify."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Result, contents, tables_of

from circuitcli.store import circuits

Circuit = Callable[..., Result]


def first(run: Path, pattern: str) -> Path:
    return sorted(run.glob(pattern))[0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


# Files, and the stage that owns them, which needs the model.
COSTLY = {
    "acts/features.parquet": "cache-acts",
    "acts/tokens.safetensors": "cache-acts",
    "ablations/effects-*": "ablate",
}


@pytest.mark.parametrize("pattern", COSTLY)
@pytest.mark.parametrize("damage", [cut, empty])
def test_sizes_of_dear_files_are_looked_at(damage: Callable[[Path], None], pattern: str, circuit: Circuit, run: Path):
    """Nothing is thrown away unasked."""
    path = first(run, pattern)
    damage(path)
    before = contents(run)
    circuit("run-all", "--run", run).refused(3, str(path), "bytes", f"circuit {COSTLY[pattern]} --run {run} --force")
    assert contents(run) == before


@pytest.mark.parametrize("pattern", COSTLY)
def test_dear_files_that_are_missing_are_named_and_made_again(pattern: str, circuit: Circuit, run: Path):
    before, path = tables_of(run), first(run, pattern)
    path.unlink()
    done = circuit("run-all", "--run", run)
    assert done.code == 0, done.err
    assert f"{COSTLY[pattern]}: going on with what is missing: {path.relative_to(run)}." in done.err
    assert tables_of(run) == before


@pytest.mark.parametrize("pattern", COSTLY)
def test_hashes_are_looked_at_when_asked(pattern: str, circuit: Circuit, run: Path):
    assert circuit("run-all", "--run", run, "--verify").err.count("already done") == 5
    path = first(run, pattern)
    flip(path)
    before = contents(run)
    for command in ("run-all", COSTLY[pattern]):
        circuit(command, "--run", run, "--verify").refused(
            3, str(path), "sha256", f"circuit {COSTLY[pattern]} --run {run} --force"
        )
    assert contents(run) == before


@pytest.mark.parametrize("damage", [cut, empty, flip, Path.unlink])
@pytest.mark.parametrize("name", ["graph/circuit.json", "graph/circuit.dot"])
def test_the_last_stage_is_made_again(name: str, damage: Callable[[Path], None], circuit: Circuit, run: Path):
    before = contents(run)
    damage(run / name)
    done = circuit("run-all", "--run", run)
    assert done.code == 0, done.err
    assert "graph: made again" in done.err
    assert name in done.err
    assert "graph: already done" not in done.err
    after = contents(run)
    assert {key for key in after if after[key] != before.get(key)} <= {name, "graph/circuit.json", "graph/stage.json"}
    circuits.read(run / "graph" / "circuit.json")
    assert (run / name).stat().st_size > 0
    assert "graph: already done" in circuit("run-all", "--run", run).err


@pytest.mark.parametrize(("damage", "flags"), [(cut, []), (empty, []), (flip, ["--verify"])])
def test_effects_are_reduced_again(damage: Callable[[Path], None], flags: list[str], circuit: Circuit, run: Path):
    before = tables_of(run)
    damage(run / "effects" / "effects.parquet")
    done = circuit("run-all", "--run", run, *flags)
    assert done.code == 0, done.err
    assert "effects: made again" in done.err
    assert "effects/effects.parquet" in done.err
    assert tables_of(run) == before


def test_what_somebody_edited_in_place_is_kept(circuit: Circuit, run: Path):
    path = run / "graph" / "circuit.json"
    tree = json.loads(path.read_text())
    tree["nodes"][0]["label"] = "mine"
    path.write_text(json.dumps(tree))
    done = circuit("run-all", "--run", run)
    assert done.code == 0, done.err
    assert "circuit.edited.json" in done.err
    edited = circuits.read(run / "graph" / "circuit.edited.json")
    assert edited.nodes[0].label == "mine"
    assert circuit("graph", "--run", run, "--load", run / "graph" / "circuit.edited.json").code == 0
    assert circuits.read(path).nodes[0].label == "mine"


def test_records_without_sizes_are_still_records(circuit: Circuit, run: Path):
    """Those of earlier versions."""
    for path in run.glob("*/stage.json"):
        record = json.loads(path.read_text())
        for entry in record["files"].values():
            del entry["bytes"]
        path.write_text(json.dumps(record))
    assert circuit("run-all", "--run", run).err.count("already done") == 5


def test_sizes_that_are_larger_than_the_text(circuit: Circuit, profile: Path, tmp_path: Path):
    """A bound that nothing reaches is no more than what there is, in what is told beforehand as in what is done."""
    most = str(2**31 - 1)
    bounds = ["num-sequences", "context-sequences", "seq-cap", "branching", "max-features", "horizon", "max-edges"]
    flags = [word for name in bounds for word in (f"--{name}", most)]
    enough = [word for name in bounds for word in (f"--{name}", "1000")]
    args = ["run-all", "--profile", profile, "--batch-size", most, "--positions", "onward", "--run"]
    found = circuit(*args, tmp_path / "a", "--dry-run", "--json", *flags)
    assert found.code == 0, found.err
    found = found.document
    plain = circuit(*args, tmp_path / "b", "--dry-run", "--json", *enough).document
    for key in ("sequences", "tokens"):
        assert found["cache_acts"][key] == plain["cache_acts"][key]
    for key in ("ablations", "features", "rows", "memory_bytes"):
        assert found["ablate"][key] == pytest.approx(plain["ablate"][key], rel=0.1)
    done = circuit(*args, tmp_path / "a", "--json", *flags)
    assert done.code == 0, done.err
    assert done.document["contexts"] <= found["ablate"]["ablations"]
    assert circuit("run-all", "--context-sequences", str(2**62)).code == 2
