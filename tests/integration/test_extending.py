"""docs/extending.md: its examples are files that the tool takes as they stand there."""

import importlib
import itertools
import json
import re
import statistics
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support.brute import Brute, rows
from support.commands import Result
from support.tiny import SMALL

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
        r"^```python\n# circuitcli/(\w+)/(\w+)\.py\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's files beside those of the package, each in the folder that it names."""
    for (point, name), body in EXAMPLES.items():
        folder = tmp_path / "beside" / point
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(body, encoding="utf-8")
        package = importlib.import_module(f"circuitcli.{point}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    for point, name in EXAMPLES:
        sys.modules.pop(f"circuitcli.{point}.{name}", None)


def test_an_example_for_each_plug_point_but_saes() -> None:
    assert [point for point, _ in EXAMPLES] == ["interventions", "renderers", "texts", "stages"]


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
    [spec] = re.findall(
        r"^```python\n(StageSpec\(.*?\))\n^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    stages = STAGES.plus(eval(spec, {"StageSpec": StageSpec}))
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


def name(row: dict[str, Any]) -> str:
    return f"{row['layer']}.{row['site']}.{row['feature']}"
