"""Runs that version 0.1 made: they open, are done, go on where they stopped, and grow; see tests/data/README.md."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.commands import Result, contents, tables_of

import circuitcli

Circuit = Callable[..., Result]
ARCHIVE = Path(__file__).parents[1] / "data" / "run-0.1.tar.xz"
STAGES = ("fetch-saes", "cache-acts", "ablate", "effects", "graph")
FEATURE, EFFECT = (
    ["layer", "site", "feature"],
    [f"{end}_{key}" for end in ("up", "down") for key in ("layer", "site", "feature")],
)
# What identifies the rows of each table, and the numbers to compare.
TABLES = {
    "features": (FEATURE, ["max_activation", "mean_activation", "n", "kl_mean", "out_abs_effect"]),
    "effects": (EFFECT, ["effect_mean", "effect_std", "ci_low", "ci_high"]),
    "logits": ([*FEATURE, "token_id"], ["effect_mean", "prob_effect_mean"]),
    "contexts": ([*FEATURE, "seq", "pos"], ["activation"]),
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs, not to be touched."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python 3.11.0 to 3.11.3 don't have
        archive.extractall(folder)
    return folder / "run-0.1"


@pytest.fixture
def before(unpacked: Path, tmp_path: Path) -> Path:
    """The run on text."""
    return Path(shutil.copytree(unpacked / "text", tmp_path / "before"))


@pytest.fixture
def prompt(unpacked: Path, tmp_path: Path) -> Path:
    """The run on a prompt."""
    return Path(shutil.copytree(unpacked / "prompt", tmp_path / "prompt"))


def same_numbers(one: Path, two: Path) -> None:
    """Law 4, between versions: what either lacks is as good as no change."""
    for name, (keys, columns) in TABLES.items():
        here, there = (
            getattr(circuitcli.open_run(run), name)().set_index(keys, verify_integrity=True)[columns]
            for run in (one, two)
        )
        assert len(here) > 100
        both = here.join(there, how="outer", rsuffix=" there")
        assert len(both) < 1.01 * len(here)
        for column in columns:
            ours, theirs = (both[c].fillna(0).to_numpy(np.float64) for c in (column, f"{column} there"))
            assert np.abs(ours).max() > 0
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(ours).max(), err_msg=f"{name} {column}")


def drawn(run: Path) -> set[tuple[str, str]]:
    """The edges of circuit.json."""
    tree = json.loads((run / "graph" / "circuit.json").read_text())
    return {(edge["source"], edge["target"]) for edge in tree["edges"]}


def shards(run: Path, layer: int) -> set[str]:
    """The tables of ablations of a layer."""
    plan = json.loads((run / "ablations" / "plan.json").read_text())
    return {name for name, what in plan["shards"].items() if what["layer"] == layer}


@pytest.mark.parametrize("which", ["text", "prompt"])
def test_it_opens_and_reading_changes_nothing(unpacked: Path, tmp_path: Path, circuit: Circuit, which: str) -> None:
    root = Path(shutil.copytree(unpacked / which, tmp_path / which))
    files = contents(root)
    run = circuitcli.open_run(root)
    edges = run.graph().edges
    assert len(edges) == 12
    assert set(edges) == drawn(root)
    table = run.effects().set_index(EFFECT)["effect_mean"]
    strongest = max(edges, key=lambda edge: abs(edges[edge]["effect_mean"]))
    assert table.abs().max() == pytest.approx(abs(edges[strongest]["effect_mean"]))
    assert len(run.features()) == 3 * 1024
    assert run.contexts()["token"].str.len().gt(0).all()
    assert run.feature(strongest[0]).feature.id == strongest[0]
    assert contents(root) == files
    shown = circuit("effects", "--run", root, "--feature", strongest[0])
    assert "effects: already done." in shown.err
    assert strongest[0] in shown.out
    del files["settings.toml"]
    assert files.items() <= contents(root).items()


def test_nothing_is_to_be_done_and_numbers_are_those_of_today(circuit: Circuit, before: Path, tmp_path: Path) -> None:
    files = contents(before)
    del files["settings.toml"]
    said = circuit("run-all", "--run", before, "--verify")
    assert [stage for stage in STAGES if f"{stage}: already done." not in said.err] == [], said.err
    assert files.items() <= contents(before).items()
    assert circuit("run-all", "--profile", before / "settings.toml", "--run", tmp_path / "anew").code == 0
    same_numbers(tmp_path / "anew", before)
    assert drawn(tmp_path / "anew") == drawn(before)


def test_interrupted_ablations_go_on(circuit: Circuit, before: Path, unpacked: Path) -> None:
    """The middle layer is there in part, the last isn't, nor what follows."""
    for folder in ("effects", "graph"):
        shutil.rmtree(before / folder)
    (before / "ablations" / "stage.json").unlink()
    lost = {name for name in shards(before, 1) if "contexts" in name} | shards(before, 2)
    assert len(lost) == 4
    for name in lost:
        (before / name).unlink()
    kept = {name: digest for name, digest in tables_of(before).items() if name not in shards(before, 1)}
    assert shards(before, 0) < kept.keys()
    said = circuit("run-all", "--run", before)
    assert "cache-acts: already done." in said.err
    assert "ablate: going on from where it stopped." in said.err
    assert kept.items() < tables_of(before).items()
    names = [{path.name for path in (run / "ablations").iterdir()} for run in (before, unpacked / "text")]
    assert names[0] == names[1]
    same_numbers(before, unpacked / "text")


def test_interrupted_caching_goes_on(circuit: Circuit, before: Path, unpacked: Path) -> None:
    for folder in ("ablations", "effects", "graph", "acts/1.resid_post"):
        shutil.rmtree(before / folder)
    (before / "acts" / "stage.json").unlink()
    kept = {name: digest for name, digest in tables_of(before).items() if name.endswith(".safetensors")}
    assert len(kept) == 3
    said = circuit("run-all", "--run", before)
    assert "fetch-saes: already done." in said.err
    assert "cache-acts: going on from where it stopped." in said.err
    assert kept.items() < tables_of(before).items()
    same_numbers(before, unpacked / "text")


def test_it_grows(circuit: Circuit, before: Path, tmp_path: Path) -> None:
    """More features are ablated, and none again; then the graph is added to an earlier one, and that one to it."""
    earlier = Path(shutil.copytree(before, tmp_path / "earlier"))
    old = circuitcli.open_run(earlier)
    said = circuit("run-all", "--run", before, "--branching", "3", "--pin", "1:500")
    assert "cache-acts: already done." in said.err
    new = circuitcli.open_run(before)
    assert {str(feature) for feature in new.ablated} > {str(feature) for feature in old.ablated}
    assert "1.resid_post.500" in {str(feature) for feature in new.planned}
    ablations = {name: digest for name, digest in tables_of(earlier).items() if name.startswith("ablations/")}
    assert ablations.items() < tables_of(before).items()
    both = old.effects().merge(new.effects(), on=EFFECT)
    assert len(both) == len(old.effects()) < len(new.effects())
    assert (both["effect_mean_x"] == both["effect_mean_y"]).all()
    assert circuit("graph", "--run", before, "--extend", earlier / "graph" / "circuit.json").code == 0
    assert drawn(before) > drawn(earlier)
    assert circuit("graph", "--run", earlier, "--extend", before / "graph" / "circuit.json").code == 0
    assert drawn(earlier) == drawn(before)


def test_formats_are_added_and_the_others_stay(circuit: Circuit, before: Path, prompt: Path) -> None:
    """Plans of then don't say of which format a picture is."""
    pictures = {name: digest for name, digest in contents(before / "graph").items() if name.startswith("circuit.")}
    assert len(pictures) == 3
    said = circuit("graph", "--run", before, "--format", "graphml")
    assert "graph: graphml added, because it wasn't there." in said.err
    assert pictures.items() < contents(before / "graph").items()
    said = circuit("graph", "--run", prompt, "--format", "dot", "--max-edges", "5")
    assert "graph: made again, because of graph.max_edges (12 → 5)." in said.err
    assert "Drawn anew as well, to fit the numbers: nodes.csv, edges.csv." in said.err
    assert len((prompt / "graph" / "edges.csv").read_text().splitlines()) == 1 + 5


def test_prompts_were_read_otherwise_and_are_read_again_if_that_is_asked_for(circuit: Circuit, prompt: Path) -> None:
    """Long ones were cut, and no likeliest next tokens were kept."""
    files = contents(prompt)
    circuit("run-all", "--run", prompt).refused(3, "next tokens", "--force")
    circuit("ablate", "--run", prompt, "--pin", "1:500").refused(
        3, "next.parquet is missing", "circuit cache-acts --run", "--force"
    )
    assert contents(prompt) == files
    assert circuit("run-all", "--run", prompt, "--force").code == 0
    assert circuitcli.open_run(prompt).graph().graph["answers"]
