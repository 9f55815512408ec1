"""`circuit test`: what it measures is what the run measured; a circuit that isn't what it was fails, and is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from huggingface_hub import constants
from support.circuits import METADATA, PLAIN, RUN, VALIDATION
from support.commands import Result, tsv
from support.hub import LoopbackHub

from circuitcli import plugins
from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.thresholds import Faithful
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import run_all, thresholds_of_run, validate
from circuitcli.stages.judging import Judge
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store import circuits, validations
from circuitcli.store.run import Run

Circuit = Callable[..., Result]
PROMPTS = [
    "the light of the earth was void", "and the deep was upon the waters", "day and night were called",
    "let there be light in the heaven", "and God said unto the earth", "the evening and the morning",
    "the face of the deep waters", "and the spirit of God moved", "the waters were upon the night",
    "God called the light day", "the earth was without form", "the night was upon the face",
    "and the light was good unto God", "the heaven and the earth were",
]  # fmt: skip
ASKED, OTHERS = PROMPTS[:2], PROMPTS[2:]
FEW = ("--draws", "1", "--candidates", "10")


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def attributed(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model that explains two prompts, all measured, and drew that; not to be touched."""
    folder = tmp_path_factory.mktemp("attributed")
    asked = lines(folder / "asked.jsonl", [{"prompt": prompt} for prompt in ASKED])
    changes = {
        "saes": {"sites": ["resid_post"]},
        "attribute": {"prompts": str(asked), "method": "exact", "edges": "exact", "nodes": 12},
        "graph": {"of": "attribution", "formats": ["json"]},
    }
    job = start(folder / "run", changes)
    job = Job(job.settings, job.report, job.run, stages=STAGES.drawing("attribution"))
    run_all.run(job, lambda outcome: None)
    return job.run.root


@pytest.fixture(scope="module")
def whole(attributed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it that was validated, and beside it a file with thresholds; not to be touched."""
    folder = tmp_path_factory.mktemp("whole")
    run = Run(Path(shutil.copytree(attributed, folder / "run")), STAGES.folders)
    judged = lines(folder / "judged.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    asked = {"prompts": str(judged), "draws": 1, "candidates": 10}
    settings = resolve(run.settings(), {"validate": asked})
    job = Job(settings, Silent(), run, stages=STAGES.drawing("attribution"))
    validate.run(job)
    run.save_settings(to_dict(settings))
    made, _ = thresholds_of_run.made(job, 5)
    [data] = plugins.load("renderers", "json").files(made).values()
    (folder / "held.json").write_bytes(data)
    return folder


@pytest.fixture
def held(whole: Path, tmp_path: Path) -> Path:
    """A copy of the file."""
    return Path(shutil.copy(whole / "held.json", tmp_path))


def validated(circuit: Circuit, run: Path, tmp_path: Path, rows: Any = None, *typed: str) -> Path:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    rows = [{"prompt": prompt} for prompt in PROMPTS] if rows is None else rows
    questions = lines(tmp_path / "judged.jsonl", rows)
    done = circuit("validate", "--run", copy, "--prompts", questions, *FEW, *typed, "--quiet")
    assert done.code == 0, done.err
    return copy


def written(circuit: Circuit, run: Path, path: Path, *typed: str) -> dict[str, Any]:
    done = circuit("test", "--run", run, "--write", path, *typed)
    assert done.code == 0, done.err
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a file with a change of its tree."""
    tree = json.loads(path.read_text())
    change(tree)
    other = path.with_name("changed.json")
    other.write_text(json.dumps(tree))
    return other


def exactly(found: dict[str, Any], least: float = 1e-4) -> Callable[[dict[str, Any]], None]:
    """A change by which nothing but what was measured passes."""

    def change(tree: dict[str, Any]) -> None:
        for one in tree["test"]["edges"]:
            size = abs(found[f"{one['source']} → {one['target']}"]["value"])
            one.update(at_least=max(0.0, size - least), at_most=size + least)
        tree["test"]["faithfulness"] = [
            {"errors": errors, "at_least": value - least, "at_most": value + least}
            for errors in ("kept", "sites", "removed")
            if (value := found[f"faithfulness, errors {errors}"]["value"]) is not None
        ]

    return change


def every_variant(tree: dict[str, Any]) -> None:
    tree["test"]["faithfulness"] = [{"errors": e, "at_least": -1000.0} for e in ("kept", "sites", "removed")]


def measured(circuit: Circuit, path: Path, code: int = 0) -> dict[str, Any]:
    """What a test finds, by threshold."""
    done = circuit("test", path, "--json")
    assert done.code == code, done.err
    return {one["name"]: one for one in done.document["tests"][0]["thresholds"]}


def budgets(tree: dict[str, Any]) -> dict[str, Any]:
    return {one["errors"]: one for one in tree["validation"]["budgets"] if one["half"] == "evaluation"}


def test_what_is_written_is_what_the_run_measured_and_passes(circuit: Circuit, held: Path, monkeypatch, tmp_path: Path):
    tree = json.loads(held.read_text())
    test, drawn = tree["test"], {(one["source"], one["target"]): one["effect_mean"] for one in tree["edges"]}
    assert {row["prompt"] for row in test["examples"]} < set(OTHERS)  # what it was found on is of the other half
    assert len(test["examples"]) == budgets(tree)["kept"]["examples"]
    assert [row["prompt"] for row in test["questions"]] == ASKED
    largest = sorted(map(abs, drawn.values()), reverse=True)[:5]
    assert [one["at_least"] for one in test["edges"]] == pytest.approx([size / 2 for size in largest], rel=6e-3)
    assert all(one["sign"] == ("+" if drawn[one["source"], one["target"]] > 0 else "-") for one in test["edges"])
    for one in test["faithfulness"]:
        low = budgets(tree)[one["errors"]]["faithfulness"]["low"]
        assert low - 0.001 < one["at_least"] <= low
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    found = circuit("test", held)
    assert found.code == 0, found.err
    rows = tsv(found.out)
    assert rows[0] == ["what", "measured", "must be", "verdict"]
    assert {row[3] for row in rows[1:]} == {"passed"}
    assert len(rows) == 1 + len(test["faithfulness"]) + 5
    assert not any((tmp_path / "temporary").iterdir())


def test_what_is_measured_is_what_the_run_measured(circuit: Circuit, held: Path):
    tree = json.loads(held.read_text())
    found = measured(circuit, changed(held, every_variant))
    for errors, one in budgets(tree).items():
        for end in ("value", "low", "high"):
            assert found[f"faithfulness, errors {errors}"][end] == pytest.approx(one["faithfulness"][end], abs=1e-4)
    drawn = {f"{one['source']} → {one['target']}": one["effect_mean"] for one in tree["edges"]}
    edges = {name: one["value"] for name, one in found.items() if "→" in name}
    assert len(edges) == 5
    for name, value in edges.items():
        assert value == pytest.approx(drawn[name], rel=1e-4, abs=1e-5)
    assert measured(circuit, changed(held, every_variant)) == found


CHOICES = [{"question": prompt, "choices": [" earth", " light"], "answer": i % 2} for i, prompt in enumerate(OTHERS)]
TEXTS = [{"text": f"{first} {second}"} for first, second in zip(OTHERS, reversed(OTHERS), strict=True)]
TARGETS = [{"prompt": prompt, "target": 40 + i, "against": " the"} for i, prompt in enumerate(OTHERS)]
PAIRS = [{"prompt": "the light of the", "counterfactual": "the night of the"},
         {"prompt": "the light was in the", "counterfactual": "the night was in the"},
         {"prompt": "and the light", "counterfactual": "and the night"}]  # fmt: skip
KINDS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "choices": (CHOICES, []),
    "text": (TEXTS, []),
    "kl": (TEXTS, ["--metric", "kl"]),
    "targets": (TARGETS, []),
    "mean": ([{"prompt": one} for one in OTHERS], ["--baseline", "mean"]),
    "patch": (PAIRS, []),
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_every_kind_go_with_the_file(circuit: Circuit, attributed: Path, tmp_path: Path, kind: str):
    rows, typed = KINDS[kind]
    run = validated(circuit, attributed, tmp_path, rows, *typed)
    tree = written(circuit, run, tmp_path / "held.json", "--edges", "1")
    held = changed(tmp_path / "held.json", every_variant)
    shutil.rmtree(run)  # nothing of it is needed any more
    (tmp_path / "judged.jsonl").unlink()
    assert (tree["test"]["text"] is not None) == (kind == "mean")
    found = measured(circuit, held)
    for errors, one in budgets(tree).items():
        assert found[f"faithfulness, errors {errors}"]["value"] == pytest.approx(one["faithfulness"]["value"], abs=1e-4)


def test_a_circuit_that_is_not_what_it_was_fails(circuit: Circuit, held: Path):
    """Whatever is raised, flipped or taken away is named on the terminal and in JUnit, and nothing else is."""
    found = measured(circuit, changed(held, every_variant))
    exact = changed(held, exactly(found)).rename(held.with_name("exact.json"))
    assert circuit("test", exact, "--quiet").code == 0
    tree = json.loads(exact.read_text())
    tested = {end for one in tree["test"]["edges"] for end in (one["source"], one["target"])}
    features = [one["id"] for one in tree["nodes"] if one["kind"] == "feature" and one["id"] not in tested]

    def raised(tree: dict[str, Any]) -> None:
        tree["test"]["faithfulness"][0].update(at_least=90.0, at_most=None)

    def flipped(tree: dict[str, Any]) -> None:
        tree["test"]["edges"][1]["sign"] = {"+": "-", "-": "+"}[tree["test"]["edges"][1]["sign"]]

    def dropped(tree: dict[str, Any]) -> None:
        gone = set(features)
        tree["nodes"] = [one for one in tree["nodes"] if one["id"] not in gone]
        tree["edges"] = [one for one in tree["edges"] if not {one["source"], one["target"]} & gone]

    second = tree["test"]["edges"][1]
    for change, name in (
        (raised, "faithfulness, errors kept"),
        (flipped, f"{second['source']} → {second['target']}"),
        (dropped, "faithfulness, errors "),
    ):
        other = changed(exact, change)
        report = other.with_name("report.xml")
        done = circuit("test", other, "--junit", report)
        assert done.code == 6
        failed = [row for row in tsv(done.out) if row[-1].startswith("FAILED: ")]
        assert failed
        assert all(row[0].startswith(name) for row in failed)
        assert name in done.err
        suite = ElementTree.parse(report).getroot()[0]
        cases = suite.findall("testcase")
        assert [one.get("name") for one in cases if one.find("failure") is not None] == [row[0] for row in failed]
        assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(failed)))
        assert len(cases) == len(tree["test"]["faithfulness"]) + 5
        failure = suite.find("testcase/failure")
        assert failure is not None
        assert f"FAILED: {failure.get('message')}" == failed[0][-1]


def test_several_files_are_suites_of_one_report(circuit: Circuit, held: Path, tiny_model: Path):
    def flipped(tree: dict[str, Any]) -> None:
        tree["test"]["edges"][0]["sign"] = {"+": "-", "-": "+"}[tree["test"]["edges"][0]["sign"]]

    report = held.with_name("report.xml")
    done = circuit("test", held, changed(held, flipped), "--junit", report, "--json")
    assert done.code == 6
    assert [one["passed"] for one in done.document["tests"]] == [True, False]
    assert done.document["error"]["code"] == 6
    assert (done.document["passed"], done.document["failed"]) == (False, 1)
    root = ElementTree.parse(report).getroot()
    assert [(one.get("name"), one.get("failures")) for one in root] == [
        (str(held), "0"),
        (str(held.with_name("changed.json")), "1"),
    ]
    assert root.get("failures") == "1"
    said = {one.get("name"): one.get("value") for one in root.iter("property")}
    assert said["model"] == str(tiny_model)
    assert said["model_identity"] == json.loads(held.read_text())["metadata"]["model_identity"]
    assert {"circuitcli", "torch", "transformer_lens"} <= set(said)


def test_hostile_names_are_shown_not_sent(circuit: Circuit, held: Path):
    """Neither XML nor a terminal takes harm from the name of a node or a file."""
    nasty = 'x"><failure/>\x1b]0;owned\x07\x00 [/b] ]]> & \ud800'

    def renamed(tree: dict[str, Any]) -> None:
        first = tree["test"]["edges"][0]
        old, first["source"] = first["source"], nasty
        for node in tree["nodes"]:
            node["id"] = nasty if node["id"] == old else node["id"]
        for edge in tree["edges"]:
            edge.update({end: nasty for end in ("source", "target") if edge[end] == old})
        tree["test"]["edges"] = [first]

    other = changed(held, renamed).rename(held.with_name("a & <b>\x1b[31m.json"))
    report = held.with_name("report.xml")
    done = circuit("test", other, "--junit", report)
    assert done.code == 6
    assert "can't be evaluated" in done.err
    assert "is active on none of the prompts" in done.err
    assert not {"\x1b", "\x07", "\x00"} & set(done.out + done.err)
    [suite] = ElementTree.parse(report).getroot()
    assert len(suite.findall("testcase")) == len(json.loads(held.read_text())["test"]["faithfulness"]) + 1
    assert r"a & <b>\x1b[31m.json" in str(suite.get("name"))
    shown = r'x"><failure/>\x1b]0;owned\x07\x00 [/b] ]]> & \ud800'
    assert any(shown in str(case.get("name")) for case in suite)


def test_where_nothing_does_as_well_as_the_model_it_fails(circuit: Circuit, held: Path, monkeypatch):
    """Whatever is kept, m is what it is of the whole model."""

    def same(self: Judge, opened: Any, kind: Any, keep: Any, keeps_errors: Any) -> torch.Tensor:
        return torch.full((len(next(iter(keep.values()))),), self.clean(opened))

    monkeypatch.setattr(Judge, "m", same)
    other = changed(changed(held, every_variant), put("test.edges", []))
    found = measured(circuit, other, 6)
    assert len(found) == 3
    assert all("m(M) = m(∅)" in one["failure"] and one["value"] is None for one in found.values())


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change at a place of the tree, `...` to take it away."""

    def change(tree: dict[str, Any]) -> None:
        *before, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        part: Any = tree
        for name in before:
            part = part[name]
        if value is ...:
            del part[last]
        else:
            part[last] = value

    return change


BAD: dict[str, tuple[str, Any, str]] = {
    "no test": ("test", ..., "has no thresholds to test"),
    "no object": ("test", [], "test should be an object"),
    "an unknown key": ("test.seconds", 3, "test.seconds isn't known"),
    "an unknown key of an edge": ("test.edges.0.weight", 3, "test.edges.0.weight isn't known"),
    "a word for a number": ("test.edges.0.at_least", "0.3", "test.edges.0.at_least should be a finite number"),
    "a size below 0": ("test.edges.0.at_least", -0.3, "test.edges.0.at_least should be at least 0"),
    "another sign": ("test.edges.0.sign", "plus", "test.edges.0.sign should be '+' or '-'"),
    "not a number": ("test.edges.0.at_least", float("nan"), "it is not JSON"),
    "another variant": ("test.faithfulness", [{"errors": "some"}], "should be 'kept', 'sites' or 'removed'"),
    "no settings": ("test.settings", ..., "test.settings is missing"),
    "an unknown setting": ("test.settings.sead", 1, "sead"),
    "a setting of no use": ("test.settings.graph", {"max_edges": 3}, "graph.max_edges, which decides nothing"),
    "a setting out of range": ("test.settings.seed", -1, "seed"),
    "a site that isn't one": ("test.settings.saes.sites", ["resid_past"], "resid_past"),
    "a release that isn't one": ("test.settings.saes.release", "a b", "release"),
    "layers that aren't there": ("test.settings.saes.layers", "7:9", "7"),
    "bounds the wrong way": ("test.edges.0.at_most", 0.0, "above at_most"),
    "no thresholds": ("test.edges", [], "no thresholds"),
    "an edge of no circuit": ("test.edges.0.source", "0.resid_post.1@9", "is no edge of the circuit"),
    "a place at no question": ("test.edges.0.places", [{"question": 2, "source": 1, "target": 1}], "question 2"),
    "no examples": ("test.examples", [], "examples is empty"),
    "no questions": ("test.questions", [], "questions is empty"),
    "an empty example": ("test.examples.0", {}, "aren't all prompts"),
    "examples of two kinds": ("test.examples.0", {"text": "the light of the earth"}, "aren't all prompts"),
    "a blank prompt": ("test.examples.0.prompt", " ", "`prompt` is blank"),
    "against without target": ("test.examples.0.against", " the", "`against` needs a `target`"),
    "a target that isn't one token": ("test.examples.1.target", " neverthelessness", "test.examples 1"),
    "no answer": ("test.examples", [{"question": "a", "choices": ["b", "c"], "answer": 2}], "none of the choices"),
    "one choice": ("test.examples", [{"question": "a", "choices": ["b"], "answer": 0}], "1 choice"),
    "a short text": ("test.examples", [{"text": "the"}], "fewer than three tokens"),
    "a text with a target": ("test.examples", [{"text": "the light", "target": "b"}], "something beside its text"),
    "another model": ("test.model_identity", "0" * 64, "model_identity is 0000"),
    "a circuit of another model": ("metadata.model_identity", "1" * 64, "and the circuit's 1111"),
    "other dictionaries": ("test.dictionaries.0.sha256", "0" * 64, "dictionaries has not the one at 0.resid_post"),
    "a dictionary less": ("test.dictionaries", [], "dictionaries has not the one at"),
    "another baseline": ("test.settings.validate.baseline", "patch", "has no `counterfactual`"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_will_not_do(circuit: Circuit, held: Path, what: str):
    place, value, words = BAD[what]
    base = changed(held, every_variant).rename(held.with_name("base.json"))
    if what == "no thresholds":
        base = held.with_name("base.json")
        base.write_text(changed(held, put("test.faithfulness", [])).read_text())
    report = held.with_name("report.xml")
    report.write_text("<testsuites/>")  # of an earlier test, which passed
    done = circuit("test", changed(base, put(place, value)), "--junit", report)
    assert done.code == 3, done.err
    assert words in done.err
    assert "changed.json" in done.err
    assert len(done.err.splitlines()) == 2, done.err
    assert not done.out
    assert not report.exists()


def test_another_model_is_refused_with_both_identities(
    circuit: Circuit, held: Path, tmp_path: Path, tiny_saes: Path, tiny_model: Path
):
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    done = circuit("test", held, "--model", other)
    assert done.code == 3
    assert json.loads(held.read_text())["test"]["model_identity"] in done.err
    assert f"{other} is " in done.err
    moved = Path(shutil.copytree(tiny_model, tmp_path / "moved"))
    assert circuit("test", held, "--model", moved, "--quiet").code == 0
    saes = Path(shutil.copytree(tiny_saes, tmp_path / "saes"))
    assert circuit("test", held, "--release", saes, "--quiet").code == 0
    folder = next(path for path in sorted(saes.iterdir()) if "resid_post" in path.name)
    tree = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(tree | {"neuronpedia_id": "else"}))
    done = circuit("test", held, "--release", saes)
    assert done.code == 3
    assert "other SAEs" in done.err


@pytest.fixture
def effects(circuit: Circuit, finished: Path, tmp_path: Path) -> Path:
    """A file with thresholds of a circuit of mean effects."""
    run = validated(circuit, finished, tmp_path)
    written(circuit, run, tmp_path / "held.json", "--edges", "4")
    return tmp_path / "held.json"


def test_mean_effects_are_measured_again(circuit: Circuit, effects: Path):
    tree = json.loads(effects.read_text())
    drawn = {f"{one['source']} → {one['target']}": one for one in tree["edges"]}
    found = measured(circuit, changed(effects, every_variant))
    edges = {name: one for name, one in found.items() if "→" in name}
    assert len(edges) == 4
    for name, one in edges.items():
        assert one["value"] == pytest.approx(drawn[name]["effect_mean"], abs=1e-5)
        if drawn[name]["ci_low"] is not None:
            assert (one["low"], one["high"]) == pytest.approx((drawn[name]["ci_low"], drawn[name]["ci_high"]), abs=1e-4)

    def flipped(tree: dict[str, Any]) -> None:
        tree["test"]["edges"][0]["sign"] = {"+": "-", "-": "+"}[tree["test"]["edges"][0]["sign"]]

    measured(circuit, changed(effects, flipped), 6)


def test_another_text_is_refused(circuit: Circuit, effects: Path, tmp_path: Path):
    def moved(tree: dict[str, Any]) -> None:
        text = Path(tree["test"]["settings"]["texts"]["file"])
        other = tmp_path / "text.jsonl"
        other.write_text(text.read_text() + '{"text": "and one more"}\n')
        tree["test"]["settings"]["texts"]["file"] = str(other)

    done = circuit("test", changed(effects, moved))
    assert done.code == 3
    assert "of another text" in done.err


def test_what_can_not_be_written(circuit: Circuit, attributed: Path, whole: Path, held: Path, tmp_path: Path):
    run, new = Path(shutil.copytree(whole / "run", tmp_path / "run")), tmp_path / "new.json"
    refused: list[tuple[list[str | Path], int, str]] = [
        (["--run", attributed, "--write", new], 3, "no finished validate stage"),
        (["--write", new], 2, "needs a run"),
        (["--run", run, "--write", held], 2, "is there already"),
        (["--run", run, "--write", run / "graph/circuit.json"], 2, "is there already"),
        (["--run", run, "--write", run / "graph/new.json"], 2, "lies in the run"),
        (["--run", run, "--write", tmp_path], 2, "is no plain file"),
        (["--run", run, "--write", new, held], 2, "can't go together"),
        (["--run", run, "--write", new, "--junit", "x.xml"], 2, "can't go together"),
        ([held, "--edges", "2"], 2, "--edges is for --write"),
        ([held, "--force"], 2, "--force is for --write"),
        ([held, "--junit", held], 2, "is one of the circuits"),
        ([held, "--junit", tmp_path], 2, "is no file"),
        ([], 2, "no circuit to test"),
    ]
    for typed, code, words in refused:
        done = circuit("test", *typed)
        assert (done.code, words in done.err) == (code, True), (typed, done.err)
        assert len(done.err.splitlines()) == 2
    assert not new.exists()
    assert circuit("test", "--run", run, "--write", held, "--force").code == 0
    other = lines(tmp_path / "judged.jsonl", [{"prompt": "the light"}, {"prompt": "the night"}])
    settings = run / "settings.toml"
    settings.write_text(settings.read_text().replace(str(whole / "judged.jsonl"), str(other)))
    done = circuit("test", "--run", run, "--write", new)
    assert done.code == 3
    assert "The examples changed" in done.err


FOUND: dict[str, list[str]] = {
    "by measuring": ["--circuit", "none", "--nodes", "3"],
    "by name": ["--pin", "0:3", "--pin", "1:5"],
}


@pytest.mark.parametrize("how", FOUND)
def test_features_that_are_no_graph_are_a_circuit_of_nodes(
    circuit: Circuit, attributed: Path, tmp_path: Path, monkeypatch: Any, how: str
):
    """Held to f alone; and another run may judge the file, on examples that had no part in finding it."""
    rows = [{"prompt": one} for one in OTHERS]
    run = validated(circuit, attributed, tmp_path, rows, *FOUND[how], "--metric", "kl")
    monkeypatch.setattr(thresholds_of_run, "_faithful", lambda drawn: ((Faithful(errors="kept", at_least=-99.0),), []))
    tree = written(circuit, run, tmp_path / "held.json")
    assert len(tree["nodes"]) == {"by measuring": 3, "by name": 2}[how]
    assert tree["edges"] == tree["test"]["edges"] == []
    found = measured(circuit, changed(tmp_path / "held.json", every_variant))
    for errors, one in budgets(tree).items():
        assert found[f"faithfulness, errors {errors}"]["value"] == pytest.approx(one["faithfulness"]["value"], abs=1e-4)
    names = [one.name for one in validations.examples(Run(run, STAGES.folders)) if one.half == "discovery"]
    assert tree["metadata"]["prompts"] == names
    assert not {row["prompt"] for row in tree["test"]["examples"]} & set(names)


def test_a_circuit_without_a_run_of_its_own_has_no_edges_tested(circuit: Circuit, attributed: Path, tmp_path: Path):
    """A file is judged: its questions are in the run that it was found in."""
    other = Path(shutil.copy(attributed / "graph/circuit.json", tmp_path / "edited.json"))
    run = validated(circuit, attributed, tmp_path, None, "--circuit", str(other))
    done = circuit("test", "--run", run, "--write", tmp_path / "new.json")
    if done.code == 0:
        assert json.loads((tmp_path / "new.json").read_text())["test"]["edges"] == []
    assert "Edges aren't tested" in done.err


def test_from_a_hub_the_commits_of_the_file_are_tested_and_from_the_cache_without_a_network(
    circuit: Circuit, tiny_model: Path, tiny_saes: Path, tiny_text: Path, tmp_path: Path, monkeypatch: Any
):
    model = {path.name: path for path in tiny_model.iterdir()}
    saes = {str(p.relative_to(tiny_saes)): p for p in tiny_saes.rglob("*") if "resid_post" in str(p) and p.is_file()}
    asked = lines(tmp_path / "asked.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    run = tmp_path / "run"
    with LoopbackHub() as hub:
        old = hub.add("owner/tiny", model), hub.add("owner/saes", saes)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        place = ["--model", "owner/tiny", "--release", "hf://owner/saes", "--allow-misfit", "--text", tiny_text]
        small = [
            "--num-sequences",
            "12",
            "--max-tokens",
            "12",
            "--seq-cap",
            "5",
            "--branching",
            "1",
            "--format",
            "json",
        ]
        done = circuit("run-all", "--run", run, *place, *small, "--quiet")
        assert done.code == 0, done.err
        assert circuit("validate", "--run", run, "--prompts", asked, *FEW, "--quiet").code == 0
        test = written(circuit, run, tmp_path / "held.json", "--edges", "2")["test"]
        assert (test["settings"]["model_revision"], test["settings"]["saes"]["revision"]) == old
        assert test["model_identity"] == old[0]
        hub.add("owner/tiny", model | {"README.md": b"another commit"})
        hub.add("owner/saes", saes | {"README.md": b"another commit"})
        done = circuit("test", tmp_path / "held.json", "--model-revision", "main", "--quiet")
        assert done.code == 3
        assert old[0] in done.err
        assert circuit("test", tmp_path / "held.json", "--quiet").code == 0
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        before = len(hub.requests)
        assert circuit("test", tmp_path / "held.json", "--quiet").code == 0
        assert len(hub.requests) == before


def test_bounds_are_the_lower_ends_of_intervals_above_0() -> None:
    bounds, said = thresholds_of_run._faithful(replace(PLAIN, validation=VALIDATION))
    assert [(one.errors, one.at_least) for one in bounds] == [("kept", 0.78)]
    assert "must be at least .78: its interval's lower end" in said[0]
    assert "errors removed" in said[1]
    assert "isn't tested" in said[1]
    few = tuple(replace(one, faithfulness=Measure(0.8)) for one in VALIDATION.budgets)
    bounds, said = thresholds_of_run._faithful(replace(PLAIN, validation=replace(VALIDATION, budgets=few)))
    assert [one.at_least for one in bounds] == [0.72, 0.72]
    assert "no interval" in said[0]


# Which edges, of what the circuit is of, and why none of them is tested.
UNTESTED: dict[str, tuple[Any, int, str]] = {
    "none wanted": (PLAIN, 0, "No edges are tested"),
    "of several runs": (replace(PLAIN, metadata=replace(METADATA, runs=(RUN, RUN))), 5, "those of several runs"),
}


@pytest.mark.parametrize("what", UNTESTED)
def test_edges_that_are_not_tested(attributed: Path, what: str) -> None:
    drawn, count, words = UNTESTED[what]
    run = Run(attributed, STAGES.folders)
    job = Job(resolve(run.settings()), Silent(), run, stages=STAGES.drawing("attribution"))
    found = thresholds_of_run._edges(job, drawn, attributed / "graph/circuit.json", count)
    assert not found.sizes
    assert words in found.said


def test_estimates_are_not_tested(attributed: Path) -> None:
    run = Run(attributed, STAGES.folders)
    job = Job(resolve(run.settings()), Silent(), run, stages=STAGES.drawing("attribution"))
    drawn = circuits.read(attributed / "graph/circuit.json")
    guessed = replace(drawn, edges=tuple(replace(one, method="atp") for one in drawn.edges))
    found = thresholds_of_run._edges(job, guessed, attributed / "graph/circuit.json", 5)
    assert not found.sizes
    assert "none of those drawn was measured" in found.said
