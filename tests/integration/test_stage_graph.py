"""A stage that the package doesn't have, with two parents; and runs that an earlier version made."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.commands import Result, contents
from support.tiny import SMALL

from circuitcli.errors import InputError
from circuitcli.settings import resolve
from circuitcli.stages import run_all
from circuitcli.stages.spec import STAGES, StageSpec
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import acts, files, records, tables
from circuitcli.store.run import Run

Circuit = Callable[..., Result]

# What a stage of somebody else's is: its work, and a spec.


def density(job: Job) -> Outcome:
    """A child of cache-acts, which stands beside ablate: how many features fire more often than `graph.min_effect`."""

    def work(todo: Work) -> None:
        table = tables.read(job.run.verified("cache-acts", acts.FEATURES))
        write(todo, "density/count.json", int((table["density"] > job.settings.graph.min_effect).sum()))

    return stage(job, "density", {}, work)


def report(job: Job) -> Outcome:
    """A child of two: the count beside the number of effects."""

    def work(todo: Work) -> None:
        count = json.loads(job.run.verified("density", "density/count.json").read_bytes())
        rows = len(tables.read(job.run.verified("effects", "effects/effects.parquet"))["n"])
        write(todo, "report/report.json", [count, rows])

    return stage(job, "report", {}, work)


def write(todo: Work, name: str, value: Any) -> None:
    todo.expect({name: None})
    files.write(todo.job.run.path(name), json.dumps(value).encode())
    todo.files[name] = todo.job.run.entry(todo.job.run.path(name))


MORE = STAGES.plus(
    StageSpec(
        name="density",
        folder="density",
        run=density,
        parents=("cache-acts",),
        decides=("graph.min_effect",),
        remade=True,
    ),
    StageSpec(name="report", folder="report", run=report, parents=("density", "effects"), remade=True),
)

DONE = [spec.name for spec in MORE.in_run_all]


@pytest.fixture(scope="module")
def begun(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job on a run with all stages done, these two among them."""
    job = start(tmp_path_factory.mktemp("more") / "run", SMALL)
    job = replace(job, run=Run(job.run.root, MORE.folders), stages=MORE)
    outcomes = run_all.run(job, lambda outcome: None)
    assert [outcome.name for outcome in outcomes] == DONE
    return job


@pytest.fixture
def job(begun: Job, tmp_path: Path) -> Job:
    """The same on a copy of the run."""
    root = Path(shutil.copytree(begun.run.root, tmp_path / "run"))
    return replace(begun, run=Run(root, MORE.folders))


def changed(job: Job, **changes: Any) -> Job:
    """With other settings."""
    return replace(job, settings=resolve(job.run.settings(), changes))


def statuses(job: Job) -> dict[str, str]:
    """What run-all does."""
    return {outcome.name: outcome.status for outcome in run_all.run(job, lambda outcome: None)}


def did(*names: str) -> dict[str, str]:
    """That these were done, and the others were done already."""
    return {name: "done" if name in names else "skipped" for name in DONE}


def said(job: Job) -> list[int]:
    return json.loads((job.run.root / "report/report.json").read_bytes())


def test_a_stage_with_two_parents_runs_and_is_recorded(job: Job):
    firing = pq.read_table(job.run.root / "acts/features.parquet")["density"].to_pylist()
    rows = pq.read_table(job.run.root / "effects/effects.parquet").num_rows
    assert said(job) == [sum(value > 0 for value in firing), rows]
    inputs = job.run.require("report").inputs
    assert inputs == {name: job.run.require(name).result for name in ("density", "effects")}
    assert statuses(job) == did()


def test_each_parent_makes_it_stale_and_siblings_stay(job: Job):
    before = contents(job.run.root)
    first = said(job)
    assert statuses(changed(job, graph={"min_effect": 0.05})) == did("density", "graph", "report")
    kept = [name for name in before if name.startswith(("acts", "ablations", "effects"))]
    assert {name: contents(job.run.root)[name] for name in kept} == {name: before[name] for name in kept}
    assert said(job)[0] < first[0]
    job = changed(job)
    assert statuses(changed(job, features={"branching": 2})) == did("ablate", "effects", "graph", "report")
    assert said(job)[1] > first[1]


def test_only_what_builds_on_a_stage_is_reopened(job: Job):
    assert density(replace(job, force=True)).status == "done"
    assert {name for name in DONE if job.run.record(name) is None} == {"report"}
    assert run_all.run(job, lambda outcome: None)[-1].status == "done"
    STAGES["ablate"].work()(replace(job, force=True))
    assert {name for name in DONE if job.run.record(name) is None} == {"effects", "graph", "report"}
    with pytest.raises(InputError, match="no finished effects stage"):
        report(job)
    assert statuses(job) == did("effects", "graph", "report")


def test_a_stage_that_was_taken_back_is_not_called_interrupted(circuit: Circuit, run: Path):
    assert circuit("ablate", "--run", run, "--force").code == 0
    told = circuit("run-all", "--run", run).err
    assert "effects: made again, as ablate was." in told
    assert "graph: made again, as ablate was." in told
    assert "going on from" not in told
    assert circuit("ablate", "--run", run, "--force").code == 0
    (run / "effects" / "plan.json").write_text("{")  # told by its own stage, not by what it builds on
    assert circuit("cache-acts", "--run", run, "--force").code == 0
    told = circuit("ablate", "--run", run).err
    assert "ablate: what still fits is kept, as cache-acts was made again." in told
    circuit("effects", "--run", run).refused(3, "plan.json is corrupt")


def test_a_stage_of_two_parents_is_stale_where_one_has_other_settings(job: Job):
    with pytest.raises(InputError, match=r"density stage .* other settings: graph.min_effect"):
        report(changed(job, graph={"min_effect": 0.5}))


def earlier(run: Path, *keys: str) -> None:
    """Make of a run one of a version that didn't know these settings yet: its records don't name them."""
    results: dict[str, str] = {}
    for spec in STAGES.in_run_all:
        trees = {name: json.loads((run / spec.folder / name).read_text()) for name in ("plan.json", "stage.json")}
        for name, tree in trees.items():
            inputs = {key: value for key, value in tree["inputs"].items() if key not in keys}
            tree["inputs"] = inputs | {parent: results[parent] for parent in spec.parents}
            tree["fingerprint"] = records.fingerprint(tree["inputs"])
            if name == "stage.json":
                tree["choice"] = {key: value for key, value in tree["choice"].items() if key not in keys}
                results[spec.name] = records.fingerprint({"fingerprint": tree["fingerprint"], **tree["choice"]})
            (run / spec.folder / name).write_text(json.dumps(tree))


# Of each kind that a setting may be: a list, a word, a number; of what decides and of what chooses.
LATER = (
    "ablate.horizon",
    "contexts.num_sequences",
    "model_revision",
    "features.pinned",
    "features.start",
    "graph.extend",
)


@pytest.mark.parametrize("keys", [*((key,) for key in LATER), LATER])
def test_settings_that_came_later_count_as_their_defaults(keys: tuple[str, ...], circuit: Circuit, run: Path):
    earlier(run, *keys)
    before = contents(run)
    result = circuit("run-all", "--run", run)
    assert result.code == 0, result.err
    assert result.err.count("already done.") == len(STAGES.in_run_all)
    for spec in STAGES.in_run_all:
        assert circuit(spec.name, "--run", run).err == f"{spec.name}: already done.\n"
    assert contents(run) == before


def test_a_run_of_an_earlier_version_is_extended_and_finished(circuit: Circuit, run: Path, tmp_path: Path):
    """What is computed then is what a run of today would have."""
    today = Path(shutil.copytree(run, tmp_path / "today"))
    earlier(run, *LATER)
    (run / "ablations" / "stage.json").unlink()
    for root in (run, today):
        result = circuit("run-all", "--run", root, "--branching", "2")
        assert result.code == 0, result.err
    for name in ("effects/effects.parquet", "effects/features.parquet"):
        assert contents(run)[name] == contents(today)[name]


def test_a_setting_that_came_later_and_is_not_its_default_is_a_change(circuit: Circuit, run: Path):
    earlier(run, *LATER)
    circuit("run-all", "--run", run, "--positions", "onward", "--horizon", "2").refused(
        3, "--force", "ablate.horizon (0 → 2)"
    )
    circuit("effects", "--run", run, "--profile", profile(run, "[features]\nstart = 'strongest'\n")).refused(
        3, "ablate stage", 'features.start ("auto" → "strongest")'
    )


def test_going_back_to_the_default_of_a_setting_that_is_left_out_there_is_a_change(circuit: Circuit, run: Path):
    assert circuit("ablate", "--run", run, "--intervention", "steer", "--strength", "5", "--force").code == 0
    default = profile(run, "[ablate]\nstrength = 2.0\n")
    circuit("effects", "--run", run, "--profile", default).refused(3, "ablate.strength (5.0 → 2.0)", "--force")
    circuit("ablate", "--run", run, "--profile", default).refused(3, "ablate.strength (5.0 → 2.0)", "--force")


def profile(run: Path, text: str) -> Path:
    path = run.parent / "profile.toml"
    path.write_text(text)
    return path
