"""`circuit graph --labels`: from Neuronpedia, from a file, and when either isn't as it should be."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import answered
from support.circuits import METADATA
from support.commands import Result, contents
from support.neuronpedia import LoopbackNeuronpedia, Reply, answer

from circuitcli.core.circuit import Circuit
from circuitcli.results.circuit import build
from circuitcli.results.reader import Reader
from circuitcli.runtime.neuronpedia import client
from circuitcli.settings import resolve
from circuitcli.stages import graph, labels, run_all
from circuitcli.stages.label_file import read_labels
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

Command = Callable[..., Result]
KEY = "np-secret-0123456789"


@pytest.fixture(scope="module")
def known(start: Any, tiny_saes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose SAEs are on Neuronpedia, but for layer 2's; not to be touched."""
    folder = tmp_path_factory.mktemp("known")
    shutil.copytree(tiny_saes, folder / "saes")
    for path in folder.glob("saes/*/cfg.json"):
        tree = json.loads(path.read_text())
        layer, _ = path.parent.name.split(".")
        if layer != "2":
            tree["metadata"]["neuronpedia_id"] = f"tiny/{layer}-res"
        path.write_text(json.dumps(tree))
    settings = {"saes": {"release": str(folder / "saes"), "sites": ["resid_post"]}, "graph": {"formats": ["json"]}}
    job = start(folder / "run", settings)
    run_all.run(job, lambda outcome: None)
    return job.run.root


@pytest.fixture
def run(known: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(known, tmp_path / "run"))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackNeuronpedia]:
    """A service that knows every feature of layers 0 and 1 but those with an index that 7 divides."""
    monkeypatch.setattr(client, "WAITS_S", (0.01,))
    monkeypatch.setattr(client, "PER_SECOND", 1000.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    with LoopbackNeuronpedia() as found:
        found.key = KEY
        for layer in range(2):
            for index in range(40):
                if index % 7:
                    found.add("tiny", f"{layer}-res", index, answer(index, f"words of {layer}:{index}"))
        monkeypatch.setenv("NEURONPEDIA_ENDPOINT", found.endpoint)
        yield found


def nodes(run: Path) -> dict[str, dict[str, Any]]:
    return {node["id"]: node for node in json.loads((run / "graph/circuit.json").read_text())["nodes"]}


def expected(name: str) -> str | None:
    layer, _, index = name.split(".")
    return f"words of {layer}:{index}" if layer != "2" and int(index) % 7 else None


def test_labels_of_neuronpedia(circuit: Command, run: Path, service: LoopbackNeuronpedia):
    done = circuit("graph", "--run", run, "--labels", "neuronpedia", "--json")
    assert done.code == 0
    found = nodes(run)
    labels = {name: node["label"] for name, node in found.items()}
    assert labels == {name: expected(name) for name in found}
    assert len({label for label in labels.values() if label}) >= 3
    assert done.document["labels"] == sum(label is not None for label in labels.values())
    asked = {request.path for request in service.requests}
    assert asked == {f"/api/feature/tiny/{n.split('.')[0]}-res/{n.split('.')[2]}" for n in found if n[0] != "2"}
    assert not [p for p in run.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert KEY not in done.out + done.err


def test_a_feature_at_several_positions_is_asked_for_once(run: Path, service: LoopbackNeuronpedia):
    """In the graph of an attribution; errors, tokens and the target are asked for nowhere, and count in no words."""
    asked, said = Run(run, STAGES.folders), _Said()
    settings = resolve(
        asked.settings(), {"graph": {"of": "attribution", "labels": "neuronpedia"}, "attribute": {"nodes": 200}}
    )
    job = answered.answer(Job(settings, said, asked), answered.Made(candidates=300))
    graph.run(job)
    found = nodes(run)
    features = {name: name.partition("@")[0] for name, node in found.items() if node["kind"] == "feature"}
    assert len(set(features.values())) < len(features) < len(found)
    assert {name: node["label"] for name, node in found.items()} == {
        name: expected(features[name]) if name in features else None for name in found
    }
    paths = [request.path for request in service.requests]
    there = {name.split(".")[0] + "-res/" + name.split(".")[2] for name in features.values() if name[0] != "2"}
    assert sorted(paths) == sorted(f"/api/feature/tiny/{name}" for name in there)
    service.always("", Reply(503))
    graph.run(replace(job, force=True))
    distinct = set(features.values())  # what was heard before is remembered
    without = f"without {sum(expected(name) is None for name in distinct)} of {len(distinct)} labels"
    assert f"Neuronpedia fails (it answered 503): the graph is drawn {without}." in said.lines


class _Said(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_graph_that_is_done_stays_whatever_the_service_says_by_now(
    circuit: Command, run: Path, service: LoopbackNeuronpedia
):
    circuit("graph", "--run", run, "--labels", "neuronpedia")
    before, asked = contents(run), len(service.requests)
    for path, tree in service.features.items():
        service.features[path] = {**tree, "explanations": [{"description": "other words"}]}
    again = circuit("graph", "--run", run, "--labels", "neuronpedia")
    assert again.err == "graph: already done.\n"
    assert contents(run) == before
    redrawn = circuit("graph", "--run", run, "--max-edges", "1000")  # the same words for what has been asked
    assert "made again, because of graph.max_edges" in redrawn.err
    new = [request.path for request in service.requests[asked:]]
    assert not {request.path for request in service.requests[:asked]} & set(new)
    circuit("graph", "--run", run, "--force")  # asks anew
    assert {node["label"] for node in nodes(run).values()} == {"other words", None}


def test_a_service_that_fails_is_one_line_and_no_error(circuit: Command, run: Path, service: LoopbackNeuronpedia):
    service.always("", Reply(503))
    plain = nodes(run)
    failed = circuit("graph", "--run", run, "--labels", "neuronpedia")
    assert failed.code == 0
    assert failed.err.splitlines()[1:] == [
        "Neuronpedia fails (it answered 503): the graph is drawn without labels.",
    ]
    assert nodes(run) == plain
    service.recover()
    again = circuit("graph", "--run", run)
    assert again.err == "graph: made again, because Neuronpedia failed then (it answered 503).\n"
    assert {name: node["label"] for name, node in nodes(run).items()} == {name: expected(name) for name in plain}
    assert circuit("graph", "--run", run).err == "graph: already done.\n"


def test_what_came_before_the_failure_counts(circuit: Command, run: Path, service: LoopbackNeuronpedia):
    bad = next(name for name in nodes(run) if expected(name))
    service.always(f"/{bad.split('.')[0]}-res/{bad.split('.')[2]}", Reply(500))
    failed = circuit("graph", "--run", run, "--labels", "neuronpedia")
    labels = {name: node["label"] for name, node in nodes(run).items()}
    without = [name for name, label in labels.items() if label is None]
    assert f"without {len(without)} of {len(labels)} labels" in failed.err
    assert labels[bad] is None
    assert {name: label for name, label in labels.items() if name != bad} == {
        name: expected(name) for name in labels if name != bad
    }


def test_a_run_that_neuronpedia_does_not_know(
    circuit: Command, finished: Path, tmp_path: Path, service: LoopbackNeuronpedia
):
    run = Path(shutil.copytree(finished, tmp_path / "unknown"))
    done = circuit("graph", "--run", run, "--labels", "neuronpedia")
    assert "Neuronpedia has none of this run's SAEs: the graph is drawn without labels." in done.err
    assert service.requests == []


@pytest.mark.parametrize(
    ("name", "value"), [("NEURONPEDIA_ENDPOINT", "http://example.org"), ("NEURONPEDIA_API_KEY", "a\x00b")]
)
def test_an_environment_that_cannot_be_used(
    name: str, value: str, circuit: Command, run: Path, service: LoopbackNeuronpedia, monkeypatch: pytest.MonkeyPatch
):
    if name == "NEURONPEDIA_API_KEY":
        value = value.replace("\x00", "\x7f")
    monkeypatch.setenv(name, value)
    before = contents(run)
    circuit("graph", "--run", run, "--labels", "neuronpedia").refused(4, name)
    circuit("run-all", "--run", run, "--labels", "neuronpedia").refused(4, name)
    assert contents(run) == before


def test_labels_of_ones_own(circuit: Command, run: Path, tmp_path: Path):
    drawn = list(nodes(run))
    first, second = drawn[0], drawn[1]
    layer, _, index = second.split(".")
    path = tmp_path / "mine.csv"
    path.write_text(
        f'\ufefffeature,label\r\n{first},"light, and day"\r\n\r\n{layer}:{index}, of waters \r\n'
        "0.resid_post.39,\r\n7:3,elsewhere\r\n1.z.2,elsewhere too\r\n",
        encoding="utf-8",
    )
    done = circuit("graph", "--run", run, "--labels", path)
    assert done.code == 0
    assert done.err.splitlines()[1:] == [f"{path} names features at no SAE of this run: 7:3, 1.z.2."]
    found = nodes(run)
    assert (found[first]["label"], found[second]["label"]) == ("light, and day", "of waters")
    assert {node["label"] for name, node in found.items() if name not in (first, second)} == {None}
    assert circuit("graph", "--run", run).err == "graph: already done.\n"
    path.write_text(f"feature,label\n{first},night\n")
    again = circuit("graph", "--run", run)
    assert "graph: made again, because of labels (" in again.err
    assert nodes(run)[first]["label"] == "night"
    assert "because of graph.labels" in circuit("graph", "--run", run, "--labels", "none").err
    assert {node["label"] for node in nodes(run).values()} == {None}
    assert not (run / "graph/labels.json").exists()


def test_nodes_of_another_run_in_the_graph(start: Any, run: Path, service: LoopbackNeuronpedia, tmp_path: Path):
    """A graph that another run's was merged into: nodes at no SAE of this run, some with a page, and no features."""
    job = start(tmp_path / "unused", {"graph": {"labels": "neuronpedia"}})
    job = replace(job, run=Run(run, STAGES.folders))
    service.add("tiny", "9-res", 4, answer(4, "from afar"))
    service.features |= {"/api/feature/tiny/9-res/5": answer(5, "never asked")}
    here = build(Reader(Run(run, STAGES.folders)), []).nodes[0]
    page = "https://www.neuronpedia.org/tiny/9-res/4"
    afar = replace(here, id="9.resid_post.4", layer=9, feature=4, neuronpedia=page)
    unknown = replace(afar, id="9.resid_post.5", feature=5, neuronpedia="https://evil.org/tiny/9-res/5")
    error = replace(here, id="error", kind="error", neuronpedia=None)
    nodes = (here, afar, unknown, error)
    found = labels.find(job, labels.check(job), nodes)
    assert found is not None
    assert found.labels == {k: v for k, v in ((here.id, expected(here.id)), (afar.id, "from afar")) if v}
    path = tmp_path / "mine.csv"
    path.write_text(f"feature,label\n{afar.id},mine\n{here.id},ours\n")
    found = labels.find(job, read_labels(str(path)), nodes)
    assert found is not None
    assert found.labels == {afar.id: "mine", here.id: "ours"}
    drawn = found.put_on(Circuit(METADATA, (replace(here, label="a person's own"), afar), ()))
    assert [node.label for node in drawn.nodes] == ["a person's own", "mine"]


MALFORMED = {
    "empty": (b"", ["line 1", "it is empty"]),
    "no header": (b"0:1,light\n", ["line 1", "the header isn't feature,label"]),
    "semicolons": (b"feature;label\n0:1;light\n", ["line 1", "the header isn't feature,label"]),
    "a comma": (b"feature,label\n0:1,light, and day\n", ["line 2", "it has 3 cells, not 2", "in quotes"]),
    "no label's cell": (b"feature,label\n0:1,a\n0:2\n", ["line 3", "it has 1 cells, not 2"]),
    "no feature": (b"feature,label\n0:1,a\nlight,0:1\n", ["line 3", "`light` doesn't name a feature"]),
    "twice": (
        b"feature,label\n0:1,a\n\n0.resid_post.1,b\n",
        ["line 4", "0.resid_post.1 has a label already, in line 2"],
    ),
    "outside": (b"feature,label\n0:40,a\n", ["line 2", "`0:40` lies outside its SAE of 40 features"]),
    "an open quote": (b'feature,label\n0:1,a\n0:2,"light\n', ["line 3"]),
    "no UTF-8": (b"feature,label\n0:1,\xff\n", ["line 2", "it is not UTF-8"]),
    "a long cell": (b"feature,label\n0:1," + b"x" * 200_000 + b"\n", ["line 2", "field larger than field limit"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(name: str, circuit: Command, run: Path, tmp_path: Path):
    data, words = MALFORMED[name]
    csv.field_size_limit(10**8)  # as after a text from a csv file in the same process
    path = tmp_path / "mine.csv"
    path.write_bytes(data)
    before = contents(run)
    result = circuit("graph", "--run", run, "--labels", path)
    result.refused(3, str(path), *words)
    assert "made again" not in result.err
    assert contents(run) == before


def test_files_that_cannot_be_read(circuit: Command, run: Path, tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.csv", "neuronpedai"):
        circuit("graph", "--run", run, "--labels", path).refused(3, str(path), "can't be read", "neuronpedia, or none")


def test_a_file_is_tried_before_anything_is_computed(circuit: Command, profile: Path, tmp_path: Path):
    (tmp_path / "mine.csv").write_text("feature,label\nx,y\n")
    args = ["run-all", "--profile", profile, "--run", tmp_path / "new", "--labels", tmp_path / "mine.csv"]
    circuit(*args).refused(3, "line 2")
    assert not (tmp_path / "new").exists()


def test_a_file_of_other_features_is_refused_before_activations_are_cached(
    circuit: Command, profile: Path, tmp_path: Path
):
    (tmp_path / "mine.csv").write_bytes(b"feature,label\n0:40,a\n")
    new = tmp_path / "new"
    result = circuit("run-all", "--profile", profile, "--run", new, "--labels", tmp_path / "mine.csv")
    result.refused(3, "line 2", "lies outside its SAE")
    assert not (new / "acts").exists()


def test_a_name_that_could_be_at_several_sites(circuit: Command, start: Any, tmp_path: Path):
    job = start(tmp_path / "two", {"saes": {"sites": ["mlp_out", "resid_post"]}, "graph": {"formats": ["json"]}})
    run_all.run(job, lambda outcome: None)
    (tmp_path / "mine.csv").write_text("feature,label\n0.mlp_out.1,fine\n0:1,which\n")
    refused = circuit("graph", "--run", job.run.root, "--labels", tmp_path / "mine.csv")
    refused.refused(3, "line 3", "several sites", "0.resid_post.1")


def test_cards_show_labels_and_what_neuronpedia_says(circuit: Command, run: Path, service: LoopbackNeuronpedia):
    circuit("graph", "--run", run, "--labels", "neuronpedia")
    name = next(name for name in nodes(run) if expected(name))
    shown = circuit("effects", "--run", run, "--feature", name)
    assert f"\t{expected(name)}\t" in shown.out
    assert f"{name}\t7.00\ta« day»" in shown.out
    assert f"{name}\t␣shine\t+1.50\t␣dark\t-1.75" in shown.out
    [card] = circuit("effects", "--run", run, "--feature", name, "--json").document["cards"]
    assert card["feature"]["label"] == expected(name)
    assert card["explained"]["explanations"] == [expected(name)]
    ends = [edge["target"] for edge in card["consequences"]] + [edge["source"] for edge in card["causes"]]
    drawn = nodes(run)
    assert card["labels"] == {end: expected(end) for end in ends if end in drawn and expected(end)}
    assert len(service.requests) == len({request.path for request in service.requests})  # no more was asked


def test_damaged_labels_of_a_run(circuit: Command, run: Path, tmp_path: Path):
    (tmp_path / "mine.csv").write_text("feature,label\n0:1,light\n")
    circuit("graph", "--run", run, "--labels", tmp_path / "mine.csv")
    (run / "graph/labels.json").write_text("{}")
    circuit("effects", "--run", run, "--feature", "0:1").refused(3, "labels.json", "isn't what was recorded")
