"""Interventions from the command line: options, what graphs say of them, resuming, and one from outside the package."""

import importlib
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.brute import Brute, rows
from support.commands import Result, tables_of

from circuitcli import interventions
from circuitcli.stages import inputs
from circuitcli.store.ablations import write

Circuit = Callable[..., Result]


def replaced(run: Path, truth: Brute, row: dict[str, Any], c: float) -> None:
    """A context's KL is that of plain transformers with the feature at c."""
    place = row["layer"], row["site"]
    outcome = truth.ablate(place, row["feature"], row["seq"], row["pos"], c)
    assert row["kl"] == pytest.approx(outcome.kl, rel=1e-3, abs=2e-6)


OUTSIDE = '''
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class LouderByLot:
    """All that a context says of itself is used."""
    strength: float
    offset: float = 0.25

    def replacements(self, at):
        lots = np.array([at.generator(row).random() for row in range(len(at))])
        where = at.seq + at.pos / 100
        return self.offset + self.strength * at.activation + lots + where + at.statistics["density"]

plugin = LouderByLot
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file that isn't in the package: an intervention of that name."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "louder_by_lot.py").write_text(OUTSIDE)
    monkeypatch.setattr(interventions, "__path__", [*interventions.__path__, str(folder)])
    importlib.invalidate_caches()
    yield "louder-by-lot"
    sys.modules.pop("circuitcli.interventions.louder_by_lot", None)


def test_a_new_intervention_is_one_file(
    circuit: Circuit, profile: Path, outside: str, tmp_path: Path, plain_model: Any, plain_saes: Any
) -> None:
    run = tmp_path / "run"
    result = circuit("run-all", "--profile", profile, "--run", run, "--intervention", outside, "--strength", "1.5")
    assert result.code == 0, result.err
    counted = tomllib.loads((run / "settings.toml").read_text())["texts"]["num_sequences"]
    truth = Brute(run, plain_model, plain_saes, ["resid_post"], counted)
    density = {(r["layer"], r["feature"]): r["density"] for r in rows(run, "acts/features.parquet")}
    contexts = rows(run, "ablations/contexts-*.parquet")
    assert len(contexts) > 20
    for row in contexts[::5]:
        lot = np.random.default_rng([0, row["layer"], 5, row["feature"], 4, row["seq"], row["pos"] + 1]).random()
        where = row["seq"] + row["pos"] / 100
        c = 0.25 + 1.5 * row["activation"] + lot + where + density[row["layer"], row["feature"]]
        replaced(run, truth, row, c)
    metadata = json.loads((run / "graph" / "circuit.json").read_text())["metadata"]
    assert (metadata["intervention"], metadata["strength"]) == (outside, 1.5)


def test_resampling_goes_on_byte_for_byte_where_it_stopped(
    circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuitcli.stages.spreading.SHARD_FEATURES", 2)
    args = ["run-all", "--profile", profile, "--intervention", "resample", "--run"]
    assert circuit(*args, tmp_path / "whole").code == 0
    written: list[Any] = []

    def stop_at_the_third(*parts: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(parts)
        return write(*parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitcli.store.ablations.write", stop_at_the_third)
        assert circuit(*args, tmp_path / "run").code == 130
    assert len(list((tmp_path / "run").glob("ablations/contexts-*"))) == 2
    assert circuit(*args, tmp_path / "run").code == 0
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "whole")


def test_only_who_asks_has_donors_drawn(
    circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(inputs, "donors", never)
    args = ["run-all", "--profile", profile, "--run"]
    for name in ("zero", "mean", "steer"):
        assert circuit(*args, tmp_path / name, "--intervention", name).code == 0
    with pytest.raises(AssertionError):
        circuit(*args, tmp_path / "resample", "--intervention", "resample")


def test_a_strength_is_for_steering(circuit: Circuit, run: Path, profile: Path, tmp_path: Path) -> None:
    circuit("ablate", "--run", run, "--strength", "3").refused(2, "strength of 3", "--intervention steer", "not zero")
    circuit("ablate", "--run", run, "--strength", "1e9").refused(2, "--strength", "10000")
    new = tmp_path / "new"
    steer = ["run-all", "--profile", profile, "--run", new, "--intervention", "steer"]
    assert circuit(*steer).code == 0
    assert "strength" not in (new / "settings.toml").read_text()
    circuit(*steer, "--strength", "-1.5").refused(3, "ablate.strength", "-1.5", "--force")
    assert circuit(*steer, "--strength", "-1.5", "--force").code == 0
    assert "strength = -1.5" in (new / "settings.toml").read_text()
    assert circuit("graph", "--run", new, "--format", "dot", "--format", "json").code == 0
    assert "steer (maximum × -1.5) ablation" in (new / "graph" / "circuit.dot").read_text()


def test_runs_made_before_there_was_a_strength_are_done(circuit: Circuit, run: Path) -> None:
    """What decided their ablations has no such key, and so has what decides them now."""
    before = tables_of(run)
    assert "ablate.strength" not in json.loads((run / "ablations" / "stage.json").read_text())["inputs"]
    assert "ablate: already done." in circuit("ablate", "--run", run, "--strength", "2").err
    assert tables_of(run) == before


def test_graphs_steered_by_other_strengths_are_other_quantities(circuit: Circuit, run: Path, tmp_path: Path) -> None:
    tree = json.loads((run / "graph" / "circuit.json").read_text())
    assert "strength" not in tree["metadata"]
    paths = []
    for strength in (1.5, 2.0):
        tree["metadata"] |= {"intervention": "steer", "strength": strength}
        paths.append(tmp_path / f"{strength}.json")
        paths[-1].write_text(json.dumps(tree))
    assert "strength 1.5 → 2.0" in circuit("diff", *paths).err
    circuit("graph", "--run", run, "--extend", paths[0]).refused(3, "different ways", "intervention steer and zero")
    steered = ["ablate", "--run", run, "--intervention", "steer", "--force"]
    assert circuit(*steered).code == 0
    assert circuit("effects", "--run", run).code == 0
    circuit("graph", "--run", run, "--extend", paths[0]).refused(3, "different ways", "strength 1.5 and 2.0")
    assert circuit("graph", "--run", run, "--extend", paths[1]).code == 0


def test_a_text_without_donors_is_refused_before_anything_is_written(
    circuit: Circuit, profile: Path, tmp_path: Path
) -> None:
    """Of a whole sequence a donor is in another one; the run then goes on with another intervention, unforced."""
    args = ["run-all", "--profile", profile, "--run", tmp_path / "run", "--positions", "all"]
    args += ["--num-sequences", "1", "--max-tokens", "6"]
    result = circuit(*args, "--intervention", "resample")
    result.refused(3, "sequence 0: no other activation", "more text")
    circuit("ablate", "--run", tmp_path / "run", "--dry-run").refused(3, "sequence 0: no other activation")
    assert not (tmp_path / "run" / "ablations").exists()
    assert circuit(*args, "--intervention", "zero").code == 0
