"""`circuit validate`: what it measures is what passes of the model say; it goes on from where it stopped."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.commands import Result
from test_resume import run_killed

from circuitcli import api
from circuitcli.stages import cache_acts, fetch_saes
from circuitcli.stages.stage import Job
from circuitcli.store import tables, validations

Circuit = Callable[..., Result]
PROMPTS = [
    "the light of the earth was void", "and the deep was upon the waters", "day and night were called",
    "let there be light in the heaven", "and God said unto the earth", "the evening and the morning",
    "the face of the deep waters", "and the spirit of God moved",
]  # fmt: skip


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model whose activations are cached."""
    job = start(tmp_path_factory.mktemp("validate") / "run", {"saes": {"sites": ["resid_post"]}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job.run.root


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    return path


@pytest.fixture
def prompted(cached: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(cached, tmp_path / "prompted"))


TYPED = ("--draws", "2", "--nodes", "4", "--size", "6", "--candidates", "30")


@pytest.fixture
def judged(circuit: Circuit, prompted: Path, asked: Path) -> Path:
    found = circuit("validate", "--run", prompted, "--circuit", "none", "--prompts", asked, *TYPED)
    assert found.code == 0, found.err
    return prompted


def measured(run: Path) -> dict[str, np.ndarray]:
    return tables.read(run / validations.MEASURED)


def test_laws(judged: Path):
    table = measured(judged)
    whole = {
        e: m for e, m, part in zip(table["example"], table["m"], table["part"], strict=True) if part == "everything"
    }
    assert set(table["half"]) == {"discovery", "evaluation"}
    assert len(whole) == len(PROMPTS)
    evaluation = table["half"] == "evaluation"

    def of(**wanted: object) -> np.ndarray:
        mask = evaluation.copy()
        for name, value in wanted.items():
            mask &= table[name] == value
        return mask

    largest = int(table["n"][of(curve="exact", part="circuit")].max())
    nothing = of(curve="", part="nothing", errors="kept")
    for curve in ("exact", "atp", "activation", "random"):
        sizes = set(table["n"][of(curve=curve, part="circuit", errors="kept")].tolist())
        assert {4, 6, largest} <= sizes
    # A circuit and what is left of it: C without node 0 isn't C, and of one node alone is not nothing everywhere.
    at_four = table["m"][of(curve="exact", part="circuit", errors="kept", n=4)]
    lacking = [table["m"][of(curve="exact", part="without", n=4, node=node)] for node in range(4)]
    assert all(len(one) == len(at_four) for one in lacking)
    assert any(not np.allclose(one, at_four, atol=1e-6) for one in lacking)
    # Where a circuit is at no site, errors kept at its sites are errors removed.
    gone = {e: table["m"][of(curve="", part="nothing", errors=e)] for e in ("sites", "removed")}
    np.testing.assert_allclose(gone["sites"], gone["removed"], atol=1e-6)
    assert nothing.any()


def test_measured_effects_are_those_of_circuits_without_a_feature(judged: Path):
    """m(M∖{v}) − m(M), measured by resuming behind v, beside a whole pass that keeps all others."""
    import torch

    from circuitcli.core.evidence.lineup import Row, keep, listed
    from circuitcli.stages.examples import examples
    from circuitcli.stages.inputs import JobInputs
    from circuitcli.stages.judging import Judge
    from circuitcli.stages.opened import opened
    from circuitcli.stages.report import Silent

    parts = [tables.read(path) for path in sorted((judged / "validation").glob("measured-*.parquet"))]
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    largest = np.argsort(-np.abs(table["exact"]))[:20]
    with opened(judged, [], Silent()) as job:
        judge, asked = Judge(JobInputs(job), "zero"), examples(job)
        widths = judge.widths("features")
        for i in largest.tolist():
            number = int(table["example"][i])
            of_example = judge.open(asked[number], number)
            site = next(s for s in widths if s.layer == table["layer"][i] and s.name == table["site"][i])
            ranks = listed([(site, int(table["feature"][i]), 0.0)], widths).ranks()
            kept = {where: keep([Row("kept", "complement", 1)], rank) for where, rank in ranks.items()}
            assert sum(int((~one).sum()) for one in kept.values()) == 1
            m = judge.m(of_example, "features", kept, {where: torch.tensor([True]) for where in kept})
            assert float(m[0]) - judge.clean(of_example) == pytest.approx(float(table["exact"][i]), abs=2e-5)


def test_what_is_found_is_found_on_the_discovery_half_alone(circuit: Circuit, judged: Path, tmp_path: Path):
    told = validations.examples(api.open_run(judged).run)
    discovery = {i for i, one in enumerate(told) if one.half == "discovery"}
    for path in (judged / "validation").glob("measured-*.parquet"):
        assert set(tables.read(path)["example"].tolist()) <= discovery


@pytest.mark.parametrize("at", ["screened", "measured", "validation-"])
def test_stopped_and_resumed(circuit: Circuit, judged: Path, asked: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    before = {name: (judged / name).read_bytes() for name in validations.FILES}
    write = tables.write

    def stopped(path: Path, table: str, parts: list[tables.Columns]) -> int:
        if path.name.startswith(at):
            raise KeyboardInterrupt
        return write(path, table, parts)

    line = ("validate", "--run", judged, "--circuit", "none", "--prompts", asked, *TYPED)
    monkeypatch.setattr(tables, "write", stopped)
    assert circuit(*line, "--force").code == 130
    monkeypatch.setattr(tables, "write", write)
    assert circuit(*line).code == 0
    assert {name: (judged / name).read_bytes() for name in validations.FILES} == before
    assert "already done" in circuit(*line).err


def test_killed_at_any_moment(circuit: Circuit, cached: Path, asked: Path, tmp_path: Path):
    """Between any two changes to the disk, with a feature that is audited: what goes on ends with the same bytes."""
    names = (*validations.FILES, validations.JOINT, validations.AUDIT, validations.RANKS)

    def line(run: Path) -> list[str | Path]:
        return ["validate", "--run", run, "--circuit", "none", "--prompts", asked, *TYPED, "--audit", "0:3"]

    def copied(name: str) -> Path:
        return Path(shutil.copytree(cached, tmp_path / name))

    whole = copied("whole")
    everything = run_killed(circuit, -1, *line(whole))
    assert len(everything) > 10
    for moment in [0, *random.Random(7).sample(range(1, len(everything) - 1), 4), len(everything) - 1]:
        run = copied(str(moment))
        assert len(run_killed(circuit, moment, *line(run))) == moment
        assert circuit(*line(run)).code == 0
        for name in names:
            assert (run / name).read_bytes() == (whole / name).read_bytes(), (everything[moment], name)


def test_pinned(circuit: Circuit, prompted: Path, asked: Path):
    found = circuit(
        "validate", "--run", prompted, "--pin", "0:3", "--pin", "1:5", "--prompts", asked, "--draws", "1", "--json"
    )
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert said["validation"]["n"] == 2
    assert {row["feature"] for row in said["nodes"]} == {"0.resid_post.3", "1.resid_post.5"}
    assert said["joint"]


@pytest.mark.parametrize("baseline", ["mean", "resample"])
def test_baselines(circuit: Circuit, prompted: Path, asked: Path, baseline: str):
    line = ("validate", "--run", prompted, "--circuit", "none", "--prompts", asked, *TYPED, "--baseline", baseline)
    assert circuit(*line).code == 0
    table = measured(prompted)
    whole = table["part"] == "everything"
    assert np.isfinite(table["m"]).all()
    assert len(set(table["m"][~whole].round(4).tolist())) > 20


# What is typed, the exit code, and words of the two lines.
BAD: dict[str, tuple[list[str], int, list[str]]] = {
    "two circuits": (["--pin", "0:3", "--circuit", "some.json"], 2, ["--pin and --circuit", "one of the two"]),
    "a pin of no SAE": (["--pin", "9:3"], 2, ["at no SAE of this run"]),
    "no circuit.json": (["--circuit", "missing.json"], 3, ["missing.json"]),
    "one example": (["--circuit", "none", "--prompts", "one.jsonl"], 3, ["1 example", "--prompts FILE"]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_will_not_do(circuit: Circuit, prompted: Path, asked: Path, tmp_path: Path, monkeypatch, what: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": PROMPTS[0]}))
    typed, code, words = BAD[what]
    prompts = [] if "--prompts" in typed else ["--prompts", asked]
    found = circuit("validate", "--run", prompted, *prompts, *typed)
    assert found.code == code, found.err
    assert all(word in found.err for word in words), found.err
    assert not (prompted / "validation/stage.json").exists()


def test_a_circuit_of_another_model(circuit: Circuit, prompted: Path, finished: Path, asked: Path, tmp_path: Path):
    tree = json.loads((finished / "graph/circuit.json").read_text())
    tree["metadata"]["model_identity"] = "0" * 64
    other = tmp_path / "other.json"
    other.write_text(json.dumps(tree))
    found = circuit("validate", "--run", prompted, "--circuit", other, "--prompts", asked)
    assert found.code == 3
    assert "at other weights than this run's" in found.err


def test_a_graph_that_was_judged_is_drawn_again_to_say_so(
    circuit: Circuit, finished: Path, asked: Path, tmp_path: Path
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    line = ("validate", "--run", run, "--prompts", asked, "--draws", "1", "--candidates", "10")
    said = f"`circuit graph --run {run}` puts these numbers into circuit.json and its pictures."
    found = circuit(*line)
    assert (found.code, said in found.err) == (0, True), found.err
    assert circuit("graph", "--run", run).code == 0
    assert json.loads((run / "graph/circuit.json").read_text())["validation"]["curve"] == "circuit"
    assert said not in circuit(*line).err
