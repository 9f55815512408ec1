"""docs/extending.md: its examples are files that the tool takes as they stand there."""

import importlib
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file
from support.brute import Brute, rows
from support.commands import Result, contents, environment, tsv
from support.plain import NEAR, PlainSae
from support.tiny import LAYERS, SMALL
from torch import Tensor

from circuitcli import plugins
from circuitcli.stages import run_all
from circuitcli.stages.spec import STAGES, StageSpec
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run
from circuitcli.texts import TextSource

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
EXAMPLES = {
    (folder, name): body
    for folder, name, body in re.findall(
        r"^```python\n# circuitcli/([\w/]+)/(\w+)\.py\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


def module(point: str) -> str:
    return f"circuitcli.{point.replace('/', '.')}"


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's files beside those of the package, each in the folder that it names."""
    for (point, name), body in EXAMPLES.items():
        folder = tmp_path / "beside" / point
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(body, encoding="utf-8")
        package = importlib.import_module(module(point))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    for point, name in EXAMPLES:
        sys.modules.pop(f"{module(point)}.{name}", None)


def test_an_example_for_each_plug_point_but_saes() -> None:
    assert [point for point, _ in EXAMPLES] == [
        "interventions",
        "core/activations",
        "renderers",
        "texts",
        "stages",
        "cli",
    ]


def test_the_intervention_and_the_format(
    circuit: Callable[..., Result], profile: Path, tmp_path: Path, plain_model: Any, plain_saes: Any
) -> None:
    run = tmp_path / "run"
    typed = ("--intervention", "double", "--format", "json", "--format", "arrows")
    result = circuit("run-all", "--profile", profile, "--run", run, *typed)
    assert result.code == 0, result.err
    counted = tomllib.loads((run / "settings.toml").read_text())["texts"]["num_sequences"]
    truth = Brute(run, plain_model, plain_saes, ["resid_post"], counted)
    for row in rows(run, "ablations/contexts-*.parquet")[::7]:
        place = row["layer"], row["site"]
        outcome = truth.ablate(place, row["feature"], row["seq"], row["pos"], 2 * row["activation"])
        assert row["kl"] == pytest.approx(outcome.kl, rel=1e-3, abs=2e-6)
    edges = json.loads((run / "graph" / "circuit.json").read_text())["edges"]
    wanted = {f"{edge['source']} -> {edge['target']} {edge['effect_mean']:+.3f}" for edge in edges}
    lines = (run / "graph" / "circuit.arrows").read_text().splitlines()
    assert lines
    assert set(lines) == wanted
    sizes = [abs(float(line.split()[-1])) for line in lines]
    assert sizes == sorted(sizes, reverse=True)


@dataclass(frozen=True, eq=False)
class PlainProLu(PlainSae):
    """ProLU by hand; `pre` has the bias in it."""

    def encode(self, x: Tensor) -> Tensor:
        h = self.pre(x) - self.weights["b_enc"]
        return torch.where((h > 0) & (h > -self.weights["b_enc"]), h, 0)

    def doubtful(self, x: Tensor) -> Tensor:
        pre = self.pre(x)
        return (pre.abs() < NEAR) | ((pre - self.weights["b_enc"]).abs() < NEAR)


def test_the_activation(
    circuit: Callable[..., Result], profile: Path, tmp_path: Path, plain_model: Any, tiny_saes: Path
) -> None:
    saes = {}
    for layer in range(LAYERS):  # what fired above a threshold fires above its negated bias
        folder = shutil.copytree(tiny_saes / f"{layer}.resid_post", tmp_path / "saes" / f"{layer}.resid_post")
        config, weights = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
        weights["b_enc"] -= weights.pop("threshold")
        save_file(weights, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps({**config, "architecture": "prolu"}))
        saes[layer, "resid_post"] = PlainProLu.read(folder)
    settings = tomllib.loads(profile.read_text())
    settings["saes"]["release"] = str(tmp_path / "saes")
    profile.write_text(tomli_w.dumps(settings))
    run = tmp_path / "run"
    result = circuit("run-all", "--profile", profile, "--run", run)
    assert result.code == 0, result.err
    truth = Brute(run, plain_model, saes, ["resid_post"], settings["texts"]["num_sequences"])
    fired = 0
    for row in rows(run, "acts/features.parquet"):
        place, feature = (row["layer"], row["site"]), row["feature"]
        if not any(truth.doubtful(place, seq)[1:, feature].any() for seq in range(truth.counted)):
            expected = truth.counted_latents(place)[:, feature]
            assert row["n_active"] == int((expected > 0).sum())
            assert row["mean_activation"] == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-6)
            fired += row["n_active"]
    assert fired
    ablated = rows(run, "ablations/contexts-*.parquet")[::7]
    assert ablated
    for row in ablated:
        place = row["layer"], row["site"]
        if not truth.doubtful(place, row["seq"])[row["pos"], row["feature"]]:
            outcome = truth.ablate(place, row["feature"], row["seq"], row["pos"], 0)
            assert row["kl"] == pytest.approx(outcome.kl, rel=1e-3, abs=2e-6)


def test_the_activation_without_its_tensor_is_refused(
    circuit: Callable[..., Result], profile: Path, tmp_path: Path, tiny_saes: Path
) -> None:
    folder = shutil.copytree(tiny_saes / "1.resid_post", tmp_path / "saes" / "1.resid_post")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "architecture": "prolu"}))
    typed = ("--profile", profile, "--run", tmp_path / "run", "--release", tmp_path / "saes")
    result = circuit("fetch-saes", *typed)
    assert result.code == 3, "it has the threshold of a jumprelu SAE as well"
    assert "'threshold', which isn't of a prolu SAE" in result.err
    assert "W_enc, W_dec, b_dec, b_enc" in result.err


def test_the_source_of_text(circuit: Callable[..., Result], profile: Path, tmp_path: Path) -> None:
    assert isinstance(plugins.load("texts", "numbers"), TextSource)
    settings = tomllib.loads(profile.read_text())
    del settings["texts"]["file"]
    settings["texts"]["source"] = "numbers"
    profile.write_text(tomli_w.dumps(settings))
    run = tmp_path / "run"
    for command in ("fetch-saes", "cache-acts"):
        result = circuit(command, "--profile", profile, "--run", run)
        assert result.code == 0, result.err
    read = [list(group) for _, group in itertools.groupby(rows(run, "acts/texts.parquet"), key=lambda row: row["seq"])]
    assert read
    for sequence in read:
        numbers = "".join(row["text"] for row in sequence[1:]).split()[1:-1]
        assert numbers
        assert [int(one) for one in numbers] == list(range(int(numbers[0]), int(numbers[-1]) + 1))


def test_the_stage(start: Callable[..., Job], tmp_path: Path) -> None:
    stages = STAGES.plus(eval(spec_text(), {"StageSpec": StageSpec}))
    job = start(tmp_path / "run", SMALL)
    job = replace(job, run=Run(job.run.root, stages.folders), stages=stages)
    assert run_all.run(job, lambda outcome: None)[-1].status == "done"
    firing = {name(row): row["density"] for row in rows(job.run.root, "acts/features.parquet")}
    matter = {name(row): row["kl_mean"] for row in rows(job.run.root, "effects/features.parquet")}
    half = statistics.median(firing[one] for one in matter)
    wanted = {one: kl for one, kl in matter.items() if firing[one] < half}
    found = json.loads((job.run.root / "rare" / "rare.json").read_text())
    assert 0 < len(wanted) < len(matter)
    assert dict(found) == wanted
    assert [kl for _, kl in found] == sorted(wanted.values(), reverse=True)
    assert run_all.run(job, lambda outcome: None)[-1].status == "skipped"


# What a process does that has the page's files, a spec and a command beside the package's, before its command line.
BESIDE = """
import importlib, json, sys
folders, spec = json.loads(sys.argv.pop(1))
for point, folder in folders.items():
    importlib.import_module(f"circuitcli.{point}").__path__.append(folder)
import circuitcli.stages.spec as specs
specs.STAGES = specs.STAGES.plus(eval(spec, vars(specs)))
from circuitcli.cli import commands, rare
commands.COMMANDS = {**commands.COMMANDS, "rare": rare}
from circuitcli.cli.app import main
main()
"""


def test_the_stage_s_command(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(run)
    given = json.dumps([{point: str(tmp_path / "beside" / point) for point in ("stages", "cli")}, spec_text()])

    def circuit(*args: str) -> subprocess.CompletedProcess[str]:
        typed = [sys.executable, "-c", BESIDE, given, *args]
        return subprocess.run(typed, env=environment(), capture_output=True, text=True, check=False)

    listed = circuit("--help")
    assert "rare" in listed.stdout
    assert "Name the features that fire seldom" in listed.stdout
    done = circuit("rare", "--run", str(run))
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "rare" / "rare.json").read_text())
    assert tsv(done.stdout)[1:] == [[feature, f"{kl:.4f}"] for feature, kl in found[:10]] != []
    assert {name: digest for name, digest in contents(run).items() if not name.startswith("rare")} == before
    assert "rare: already done." in circuit("run-all", "--run", str(run)).stderr
    wrong = circuit("rare")
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (2, "Error: `circuit rare` needs a run.")


def spec_text() -> str:
    [spec] = re.findall(
        r"^```python\n(StageSpec\(.*?\))\n^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return str(spec)


def name(row: dict[str, Any]) -> str:
    return f"{row['layer']}.{row['site']}.{row['feature']}"
