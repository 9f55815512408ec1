"""A graph's formats: one that is asked for is added, what is there stays as long as it fits the numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import Result, contents

from circuitcli import plugins
from circuitcli.errors import ResourceError
from circuitcli.settings import Settings
from circuitcli.stages.opened import default_name

Circuit = Callable[..., Result]
ABOUT = {"plan.json", "stage.json"}


def drawn(run: Path) -> dict[str, str]:
    """The pictures of a run by name, with their hashes."""
    return {name: digest for name, digest in contents(run / "graph").items() if name not in ABOUT}


def recorded(run: Path) -> set[str]:
    return {name.removeprefix("graph/") for name in json.loads((run / "graph" / "stage.json").read_text())["files"]}


def test_a_format_is_added_and_the_others_stay(circuit: Circuit, run: Path) -> None:
    before = drawn(run)
    assert set(before) == {"circuit.json", "circuit.dot"}
    result = circuit("graph", "--run", run, "--format", "graphml")
    assert result.code == 0
    assert "graphml added" in result.err
    after = drawn(run)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"circuit.graphml"}
    assert recorded(run) == set(after)
    assert result.out.splitlines() == [
        str(run / "graph" / name) for name in ("circuit.graphml", "circuit.json", "circuit.dot")
    ]
    for flags in ([], ["--format", "dot"], ["--format", "json", "--format", "graphml"]):
        assert "already done" in circuit("graph", "--run", run, *flags).err
    assert drawn(run) == after


def test_what_is_added_shows_the_same_circuit(circuit: Circuit, run: Path) -> None:
    """Also what people wrote on it, and when it was drawn."""
    path = run / "graph" / "circuit.json"
    tree = json.loads(path.read_text())
    tree["nodes"][0]["label"] = "the first"
    (run.parent / "edited.json").write_text(json.dumps(tree))
    assert circuit("graph", "--run", run, "--load", run.parent / "edited.json").code == 0
    assert circuit("graph", "--run", run, "--format", "html").code == 0
    page = (run / "graph" / "circuit.html").read_text(encoding="utf-8")
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data)["document"] == json.loads(path.read_text())
    assert json.loads(data)["document"]["nodes"][0]["label"] == "the first"


def test_the_document_always_belongs_to_the_graph(circuit: Circuit, run: Path) -> None:
    for name in drawn(run):
        (run / "graph" / name).unlink()
    result = circuit("graph", "--run", run, "--format", "graphml")
    assert result.code == 0
    assert set(drawn(run)) == recorded(run) == {"circuit.json", "circuit.graphml"}


def test_other_numbers_draw_anew_whatever_was_there(circuit: Circuit, run: Path) -> None:
    assert circuit("graph", "--run", run, "--format", "csv").code == 0
    before = drawn(run)
    result = circuit("graph", "--run", run, "--format", "graphml", "--max-edges", "3")
    assert result.code == 0
    assert "Drawn anew as well, to fit the numbers: circuit.dot, nodes.csv, edges.csv" in result.err
    after = drawn(run)
    assert set(after) == recorded(run) == {*before, "circuit.graphml"}
    assert not {name for name in before if after[name] == before[name]}
    assert (run / "graph" / "edges.csv").read_text().count("\n") == 4
    assert (run / "graph" / "circuit.dot").read_text().count("penwidth") == 3


def test_a_picture_that_was_taken_away_stays_away(circuit: Circuit, run: Path) -> None:
    (run / "graph" / "circuit.dot").unlink()
    assert circuit("graph", "--run", run, "--format", "json", "--max-edges", "3").code == 0
    assert set(drawn(run)) == recorded(run) == {"circuit.json"}


def test_what_cannot_be_drawn_anew_is_removed_by_name(
    circuit: Circuit, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        def files(self, circuit: object) -> dict[str, bytes]:
            raise ResourceError("It took too long.", hint="Draw less.")

    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind, name: Fails() if name == "dot" else load(kind, name))
    result = circuit("graph", "--run", run, "--format", "json", "--max-edges", "3")
    assert result.code == 0
    assert "circuit.dot removed, which can't be drawn anew: It took too long." in result.err
    assert set(drawn(run)) == recorded(run) == {"circuit.json"}
    circuit("graph", "--run", run, "--format", "dot").refused(5, "took too long")


@pytest.mark.parametrize("name", ["circuit.dot", "circuit.json"])
def test_a_damaged_picture_is_never_kept(name: str, circuit: Circuit, run: Path) -> None:
    before = (run / "graph" / "circuit.dot").read_text()
    (run / "graph" / name).write_text("{}")
    assert circuit("graph", "--run", run, "--format", "graphml").code == 0
    assert (run / "graph" / "circuit.dot").read_text() == before
    assert len(json.loads((run / "graph" / "circuit.json").read_text())["edges"]) == before.count("penwidth")


def test_an_interrupted_drawing_is_finished_in_all_formats(circuit: Circuit, run: Path) -> None:
    """The plan knows them, whatever of them had been written."""
    before = drawn(run)
    for name in ("stage.json", "circuit.dot"):
        (run / "graph" / name).unlink()
    assert circuit("graph", "--run", run, "--format", "json").code == 0
    assert set(drawn(run)) == recorded(run) == set(before)


def test_a_picture_of_no_known_format_is_removed_by_name(circuit: Circuit, run: Path) -> None:
    path = run / "graph" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"shards": plan["shards"] | {"graph/circuit.gif": None}}))
    (run / "graph" / "circuit.gif").write_text("")
    result = circuit("graph", "--run", run, "--max-edges", "3")
    assert "Removed, because nothing says how to draw it anew: circuit.gif." in result.err
    assert set(drawn(run)) == {"circuit.json", "circuit.dot"}


def test_another_format_is_no_other_run() -> None:
    one, two = (Settings(graph=replace(Settings().graph, formats=names)) for names in (("svg",), ("html", "csv")))
    assert default_name(one) == default_name(two)
    assert default_name(replace(one, seed=1)) != default_name(one)
