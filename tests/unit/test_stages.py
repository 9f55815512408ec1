"""The graph of stages: what is taken back with a stage, what may not be a graph, and what each stage has."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.cli.commands import COMMANDS
from circuitcli.settings import Settings, table
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES, Stages, StageSpec
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import files
from circuitcli.store.run import Run


def one(name: str, *parents: str, **more: object) -> StageSpec:
    """A stage that writes one file."""

    def run(job: Job) -> Outcome:
        return stage(job, name, {}, work)

    def work(todo: Work) -> None:
        path = f"folder-{name}/file"
        todo.expect({path: None})
        files.write(todo.job.run.path(path), name.encode())
        todo.files[path] = todo.job.run.entry(todo.job.run.path(path))

    return StageSpec(**{"name": name, "folder": f"folder-{name}", "run": run, "parents": parents} | more)


@st.composite
def graphs(draw: st.DrawFn) -> Stages:
    """Up to six stages, each built on any of those before it."""
    names = "abcdef"[: draw(st.integers(2, 6))]
    parents = [draw(st.sets(st.sampled_from(names[:i]))) if i else set() for i in range(len(names))]
    return Stages(tuple(one(name, *sorted(of)) for name, of in zip(names, parents, strict=True)))


def reaches(stages: Stages, above: str, below: str) -> bool:
    """Whether a way leads down from one stage to another."""
    return above == below or any(reaches(stages, above, parent) for parent in stages[below].parents)


@given(stages=graphs(), data=st.data())
@hypothesis.settings(max_examples=20, deadline=None)
def test_a_stage_that_is_done_again_takes_back_what_builds_on_it_and_nothing_beside_it(
    stages: Stages, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    run = Run(tmp_path_factory.mktemp("graph") / "run", stages.folders)
    job = Job(Settings(), Silent(), run, stages=stages)
    for spec in stages.values():
        assert spec.work()(job).status == "done"
    again = data.draw(st.sampled_from(list(stages)))
    below = {name for name in stages if reaches(stages, again, name)}
    kept = {name: run.path(f"folder-{name}/stage.json").read_bytes() for name in stages if name not in below}
    stages[again].work()(Job(Settings(), Silent(), run, force=True, stages=stages))
    assert {name for name in stages if run.record(name)} == {*kept, again}
    assert {name: run.path(f"folder-{name}/stage.json").read_bytes() for name in kept} == kept
    found = {spec.name: spec.work()(job).status for spec in stages.values()}
    assert found == {name: "done" if name in below - {again} else "skipped" for name in stages}


def test_records_are_taken_back_from_below_before_those_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stages = Stages((one("a"), one("b", "a"), one("c", "a"), one("d", "b", "c")))
    run = Run(tmp_path / "run", stages.folders)
    for spec in stages.values():
        spec.work()(Job(Settings(), Silent(), run, stages=stages))
    gone: list[Path] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **more: (gone.append(path), unlink(path, **more))[1])
    run.reopen("a", stages.descendants("a"))
    records = [path.parent.name for path in gone if path.name == "stage.json"]
    assert records == ["folder-d", "folder-c", "folder-b", "folder-a"]


@pytest.mark.parametrize(
    "specs",
    [
        (one("b", "a"), one("a")),
        (one("a", "a"),),
        (one("a"), one("a", folder="other")),
        (one("a"), one("b", folder="folder-a")),
    ],
    ids=["order", "itself", "name", "folder"],
)
def test_what_is_no_graph_of_stages(specs: tuple[StageSpec, ...]):
    with pytest.raises(ValueError, match=r"stage|builds on"):
        Stages(specs)


@given(stages=graphs(), data=st.data())
@hypothesis.settings(max_examples=50, deadline=None)
def test_what_a_stage_builds_on_is_what_builds_down_to_it(stages: Stages, data: st.DataObject):
    name = data.draw(st.sampled_from(list(stages)))
    assert list(stages.ancestors(name)) == [one for one in stages if one != name and reaches(stages, one, name)]
    assert set(stages.descendants(name)) == {one for one in stages if name in stages.ancestors(one)}


BEFORE = ("fetch-saes", "cache-acts")


@pytest.mark.parametrize(
    ("drawn", "names"), [("effects", ("ablate", "effects")), ("attribution", ("attribute",))], ids=str
)
def test_what_is_drawn_decides_what_run_all_does(drawn: str, names: tuple[str, ...]):
    stages = STAGES.drawing(drawn)
    assert [spec.name for spec in stages.in_run_all] == [*BEFORE, *names, "graph"]
    assert stages["graph"].parents == names[-1:]
    follow = ("graph", "stability")  # what is repeated is what is drawn
    assert stages["stability"].parents == names[-1:]
    assert {name: spec for name, spec in stages.items() if name not in follow} == {
        name: spec for name, spec in STAGES.items() if name not in follow
    }
    others = set(STAGES) - {*BEFORE, *names, "graph"}
    for name in others:
        assert "graph" not in stages.descendants(name)


def test_run_all_does_what_else_can_be_done():
    """A stage of somebody else's, if all that it builds on is done."""
    more = (one("beside", "cache-acts"), one("both", "beside", "effects"), one("asked", "cache-acts", in_run_all=False))
    for drawn, found in {"effects": {"beside", "both"}, "attribution": {"beside"}}.items():
        stages = STAGES.drawing(drawn)
        done = {spec.name for spec in stages.plus(*more).in_run_all} - {spec.name for spec in stages.in_run_all}
        assert done == found


def test_every_stage_has_its_work_its_command_and_settings_that_exist():
    assert list(COMMANDS) == list(STAGES)
    keys = [row.key for row in table()]
    for spec in STAGES.values():
        assert spec.work().__module__ == f"circuitcli.stages.{spec.name.replace('-', '_')}"
        for prefix in (*spec.flags, *spec.decides, *spec.chooses):
            assert any(key.startswith(prefix) for key in keys), prefix
