"""Graphs that are extended, that people edit, and that are compared, from the command line."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.circuits import ASKED
from support.commands import Result, contents, tsv

Circuit = Callable[..., Result]
NAMES = ("csv", "graphml", "json", "neuronpedia")


def graph(run: Path) -> dict[str, Any]:
    return json.loads((run / "graph" / "circuit.json").read_text(encoding="utf-8"))


def edges(tree: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(edge["source"], edge["target"]): edge for edge in tree["edges"]}


def by_id(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["id"]: node for node in tree["nodes"]}


@pytest.fixture
def other(circuit: Circuit, run: Path, tmp_path: Path) -> Path:
    """An earlier run of the same model that studied the same features, and others, on other text."""
    folder = Path(shutil.copytree(run, tmp_path / "earlier"))
    sources = [
        part for source in dict.fromkeys(edge["source"] for edge in graph(run)["edges"]) for part in ("--pin", source)
    ]
    flags = ("--seed", "5", "--num-sequences", "9", "--max-edges", "60", "--force")
    assert circuit("run-all", "--run", folder, *sources[:8], *flags).code == 0
    return folder


def test_the_graph_says_what_it_was_made_from(run: Path) -> None:
    tree = graph(run)
    saes = json.loads((run / "saes" / "saes.json").read_text())["saes"]
    facts = tree["metadata"]
    assert [(s["layer"], s["site"], s["sha256"]) for s in facts["saes"]] == [
        (s["layer"], s["site"], s["sha256"]) for s in saes
    ]
    assert facts["model_identity"] == json.loads((run / "saes" / "stage.json").read_text())["inputs"]["model identity"]
    ablated = json.loads((run / "ablations" / "stage.json").read_text())
    assert {(e["run"], e["created"]) for e in tree["edges"]} == {("run", ablated["finished"])}
    effects = pq.read_table(run / "effects" / "effects.parquet").to_pylist()
    [made] = facts["runs"]
    assert made["edges_measured"] == len(effects)
    assert made["abs_effect_measured"] == pytest.approx(sum(abs(e["effect_mean"]) for e in effects))


def test_the_graph_says_how_its_start_was_chosen(circuit: Circuit, run: Path, other: Path) -> None:
    facts = graph(run)["metadata"]
    words = json.loads((run / "ablations" / "stage.json").read_text())["facts"]["start"]
    assert facts["start"] == facts["runs"][0]["start"] == words
    assert re.fullmatch(r"\d+ of the \d+ features of layer 0 that fire, at random \(seed 0\)", words)
    assert "pinned" in graph(other)["metadata"]["start"]
    assert circuit("graph", "--run", run, "--extend", other).code == 0
    assert graph(run)["metadata"]["start"] == "; ".join(sorted({words, graph(other)["metadata"]["start"]}))


def test_token_effects_are_those_of_the_table(run: Path) -> None:
    """Of log-probabilities and of probabilities."""
    rows = pq.read_table(run / "effects" / "logits.parquet").to_pylist()
    measured = {(f"{r['layer']}.{r['site']}.{r['feature']}", r["token_id"]): r for r in rows}
    drawn = [(n["id"], e) for n in graph(run)["nodes"] for e in (*n["promoted"], *n["suppressed"])]
    assert drawn
    for name, effect in drawn:
        row = measured[name, effect["token_id"]]
        assert (effect["effect_mean"], effect["prob_effect_mean"]) == (row["effect_mean"], row["prob_effect_mean"])


def test_extending_adds_to_an_earlier_graph(circuit: Circuit, run: Path, other: Path) -> None:
    mine, earlier = graph(run), graph(other)
    assert circuit("graph", "--run", run, "--extend", other).code == 0
    whole = graph(run)
    assert set(by_id(whole)) == set(by_id(mine)) | set(by_id(earlier))
    assert set(edges(whole)) == set(edges(mine)) | set(edges(earlier))
    table = pq.read_table(run / "effects" / "effects.parquet").to_pylist()
    measured = {
        tuple(f"{row[f'{end}_layer']}.{row[f'{end}_site']}.{row[f'{end}_feature']}" for end in ("up", "down")): row
        for row in table
    }
    both = 0
    for ends, edge in edges(whole).items():
        values = [edge["effect_mean"], *(older["effect_mean"] for older in edge["older"])]
        expected = {
            tree["metadata"]["run"]: edges(tree)[ends]["effect_mean"] for tree in (earlier,) if ends in edges(tree)
        }
        if ends in measured:
            expected["run"] = measured[ends]["effect_mean"]
        assert sorted(values) == pytest.approx(sorted(expected.values()))
        both += len(expected) == 2
    assert both  # an edge of both has both measurements
    assert {made["run"] for made in whole["metadata"]["runs"]} == {"run", "earlier"}


def test_what_was_extended_stays_extended(circuit: Circuit, run: Path, other: Path) -> None:
    assert circuit("graph", "--run", run, "--extend", other / "graph" / "circuit.json").code == 0
    before = graph(run)
    assert "already done" in circuit("graph", "--run", run).err
    assert circuit("graph", "--run", run, "--force").code == 0
    again = graph(run)
    assert (again["nodes"], again["edges"]) == (before["nodes"], before["edges"])
    # The earlier graph grows: so does this one.
    assert circuit("graph", "--run", other, "--max-edges", "70").code == 0
    assert "extended" in circuit("graph", "--run", run).err
    assert set(edges(graph(other))) <= set(edges(graph(run)))


def test_run_all_extends_and_refuses_before_it_computes(
    circuit: Circuit, profile: Path, other: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    circuit("run-all", "--profile", profile, "--run", new, "--extend", damaged).refused(3, "damaged.json", "not JSON")
    assert not new.exists()
    tree = graph(other)
    tree["metadata"]["saes"][0]["sha256"] = "0" * 64
    (tmp_path / "strange.json").write_text(json.dumps(tree))
    result = circuit("run-all", "--profile", profile, "--run", new, "--extend", tmp_path / "strange.json")
    result.refused(3, "different SAEs at 0.resid_post")
    assert not (new / "acts").exists()
    assert circuit("run-all", "--profile", profile, "--run", new, "--extend", other, "--seed", "9").code == 0
    assert set(edges(graph(other))) <= set(edges(graph(new)))


@pytest.mark.parametrize("changes", [{"intervention": "mean"}, {"positions": "all"}, {"horizon": 3}])
def test_other_quantities_are_refused_before_anything_is_said_to_be_made_again(
    changes: dict, circuit: Circuit, run: Path
) -> None:
    tree = graph(run)
    tree["metadata"] |= changes
    (run.parent / "strange.json").write_text(json.dumps(tree))
    before = contents(run)
    result = circuit("graph", "--run", run, "--extend", run.parent / "strange.json")
    result.refused(3, "strange.json", "different ways", *changes)
    assert "made again" not in result.err
    assert contents(run) == before
    assert circuit("graph", "--run", run, "--load", run.parent / "strange.json").code == 0  # labels are labels


@pytest.mark.parametrize("flag", ["--extend", "--load"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_identity": "0" * 40, "model": "pythia"}, ("different models", "pythia")),
        (
            {"saes": [{"layer": 1, "site": "resid_post", "source": "x", "sha256": "y", "neuronpedia": None}]},
            ("different SAEs at 1.resid_post",),
        ),
        ({"schema_version": 9}, ("schema version 9",)),
        ({"diff": {"before": "a", "after": "b", "same": 0, "untold": 0}}, ("difference",)),
    ],
    ids=["model", "sae", "version", "diff"],
)
def test_graphs_of_other_features_are_refused(
    flag: str, changes: dict, words: tuple, circuit: Circuit, run: Path
) -> None:
    tree = graph(run)
    tree["metadata"] |= changes
    file = run.parent / "strange.json"
    file.write_text(json.dumps(tree))
    before = contents(run)
    circuit("graph", "--run", run, flag, file).refused(3, *words)
    assert contents(run) == before


def test_an_extended_graph_that_has_gone_is_told(circuit: Circuit, run: Path, other: Path) -> None:
    assert circuit("graph", "--run", run, "--extend", other).code == 0
    other.rename(other.with_name("elsewhere"))
    circuit("graph", "--run", run).refused(3, "isn't there", str(other), "--extend none")
    assert circuit("graph", "--run", run, "--extend", other.with_name("elsewhere")).code == 0


@pytest.mark.parametrize("how", ["gone", "damaged", "of another model"])
def test_an_extended_graph_is_dropped_as_its_hint_says(
    circuit: Circuit, run: Path, other: Path, tmp_path: Path, how: str
) -> None:
    alone, file = graph(run), tmp_path / "earlier.json"
    shutil.copy(other / "graph" / "circuit.json", file)
    assert circuit("graph", "--run", run, "--extend", file).code == 0
    tree = json.loads(file.read_text())
    tree["metadata"]["runs"] = []
    tree["metadata"]["model_identity"] = "other"
    file.write_text("{" if how == "damaged" else json.dumps(tree))
    if how == "gone":
        file.unlink()
    refused = circuit("graph", "--run", run)
    assert refused.code == 3
    [said] = re.findall(r"To go on without: `circuit (.*)`", refused.err)
    assert circuit(*shlex.split(said)).code == 0
    assert (graph(run)["nodes"], graph(run)["edges"]) == (alone["nodes"], alone["edges"])
    assert "already done" in circuit("graph", "--run", run).err


def test_a_graph_can_t_extend_itself(circuit: Circuit, run: Path) -> None:
    circuit("graph", "--run", run, "--extend", run).refused(2, "can't extend its own graph")


def edited(run: Path, changes: dict[str, dict[str, Any]], **numbers: Any) -> Path:
    """As the page saves it: labels and groups changed; and, as nobody should, numbers."""
    tree = graph(run)
    for node in tree["nodes"]:
        node |= changes.get(node["id"], {}) | numbers
    for edge in tree["edges"]:
        edge["effect_mean"] = 99.0
    path = run.parent / "edited.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def test_loading_takes_labels_and_groups_and_no_numbers(circuit: Circuit, run: Path) -> None:
    before = graph(run)
    first, second = (node["id"] for node in before["nodes"][:2])
    path = edited(run, {first: {"label": "[/b] </script>"}, second: {"label": "two", "group": "g"}}, density=0.99)
    assert circuit("graph", "--run", run, "--load", path).code == 0
    after = graph(run)
    assert after["edges"] == before["edges"]
    for old, new in zip(before["nodes"], after["nodes"], strict=True):
        wanted = {first: ("[/b] </script>", None), second: ("two", "g")}.get(old["id"], (None, None))
        assert (new["label"], new["group"]) == wanted
        assert {**new, "label": None, "group": None} == old


def test_what_was_written_is_kept_and_can_be_taken_back(circuit: Circuit, run: Path) -> None:
    names = [node["id"] for node in graph(run)["nodes"]]
    assert circuit("graph", "--run", run, "--load", edited(run, {names[0]: {"label": "one"}})).code == 0
    assert circuit("graph", "--run", run, "--max-edges", "3", "--force").code == 0
    assert circuit("graph", "--run", run, "--max-edges", "100").code == 0
    assert by_id(graph(run))[names[0]]["label"] == "one"
    assert "already done" in circuit("graph", "--run", run, "--load", run / "graph" / "circuit.json").err
    # A file that knows fewer nodes leaves the others as they are.
    tree = graph(run)
    tree["edges"], tree["nodes"] = [], [node for node in tree["nodes"] if node["id"] == names[1]]
    tree["nodes"][0]["group"] = "g"
    (run.parent / "few.json").write_text(json.dumps(tree))
    assert circuit("graph", "--run", run, "--load", run.parent / "few.json").code == 0
    assert (by_id(graph(run))[names[0]]["label"], by_id(graph(run))[names[1]]["group"]) == ("one", "g")
    gone = edited(run, {names[0]: {"label": None}, names[1]: {"group": ""}})
    assert circuit("graph", "--run", run, "--load", gone).code == 0
    assert {node["label"] or node["group"] for node in graph(run)["nodes"]} == {None}
    assert not (run / "graph" / "edits.json").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"nodes": 3}', '{"nodes": {"a": 3}}', '{"nodes": {"a": {"x": 1}}}', "[" * 9999]
)
def test_damaged_annotations_are_told(text: str, circuit: Circuit, run: Path) -> None:
    (run / "graph" / "edits.json").write_text(text)
    circuit("graph", "--run", run).refused(3, "edits.json is damaged")


def test_loading_needs_a_run(circuit: Circuit, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    circuit("graph", "--load", run / "graph" / "circuit.json").refused(2, "needs a run")


def test_formats_with_several_files(circuit: Circuit, run: Path) -> None:
    flags = [part for name in NAMES for part in ("--format", name)]
    result = circuit("graph", "--run", run, *flags)
    assert result.out.splitlines() == [
        str(run / "graph" / name)
        for name in ("nodes.csv", "edges.csv", "circuit.graphml", "circuit.json", "neuronpedia", "circuit.dot")
    ]
    made = {name for name in contents(run / "graph") if name not in ("plan.json", "stage.json", "circuit.dot")}
    features = {name for name in made if name.startswith("neuronpedia/features/")}
    assert len(features) == len(graph(run)["nodes"])
    assert made - features == {
        *("nodes.csv", "edges.csv", "circuit.graphml", "circuit.json", "neuronpedia", "neuronpedia/features"),
        *("neuronpedia/run.json", "neuronpedia/graph-metadata.json"),
    }


def test_a_graph_and_itself(circuit: Circuit, run: Path) -> None:
    for pair in ((run, run), (run / "graph" / "circuit.json", run)):
        result = circuit("diff", *pair)
        assert (result.code, result.out) == (0, "")
        assert result.err.startswith("Nothing changed: ")
    found = circuit("diff", run, run, "--json").document
    assert found["nodes"] == {"gained": [], "lost": []}
    assert found["edges"] == {"gained": [], "lost": [], "changed": [], "untold": [], "same": len(graph(run)["edges"])}


def test_diff_in_a_pipe_in_json_and_as_a_picture(circuit: Circuit, run: Path, other: Path) -> None:
    result = circuit("diff", other, run)
    assert result.code == 0
    rows = tsv(result.out)
    start = next(i for i, row in enumerate(rows) if row[0] == "edges")
    assert {len(row) for row in rows[start:]} == {7}
    old, new = edges(graph(other)), edges(graph(run))
    assert {(row[1], row[2]) for row in rows[start + 1 :] if row[0] == "gained"} == set(new) - set(old)
    assert {(row[1], row[2]) for row in rows[start + 1 :] if row[0] == "lost"} == set(old) - set(new)
    found = circuit("diff", other, run, "--json", "--output", run.parent / "diff.json").document
    assert len(found["edges"]["gained"]) == len(set(new) - set(old))
    assert found["files"] == [str(run.parent / "diff.json")]
    drawn = json.loads((run.parent / "diff.json").read_text())
    assert set(edges(drawn)) == set(old) | set(new)
    assert {edge["change"] for edge in drawn["edges"]} >= {"gained"}
    assert (
        circuit("diff", other, run, "--quiet", "--output", run.parent / "diff.svg").out
        == f"{run.parent / 'diff.svg'}\n"
    )
    assert "what changed" in (run.parent / "diff.svg").read_text(encoding="utf-8")


def test_diff_refuses_in_words(circuit: Circuit, run: Path, tmp_path: Path) -> None:
    tree = graph(run)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(tree))
    tree["metadata"] |= {"model": "pythia", "model_identity": "0" * 40}
    (tmp_path / "strange.json").write_text(json.dumps(tree))
    circuit("diff", run, tmp_path / "strange.json").refused(3, "different models", "pythia")
    circuit("diff", run, tmp_path / "none").refused(3, "can't be read")
    circuit("diff", run, tmp_path).refused(3, "has no graph/circuit.json")
    circuit("diff", run).refused(2)
    for name in ("diff", "diff.swg", "diff.csv", "diff.neuronpedia"):
        result = circuit("diff", run, run, "--output", tmp_path / name)
        result.refused(2)
        assert result.out == ""
        assert not (tmp_path / name).exists()
    before = contents(run)
    for graphs in ((run, other), (other, run / "graph" / "circuit.json")):
        circuit("diff", *graphs, "--output", run / "graph" / "circuit.json").refused(2, "one of the graphs")
    assert contents(run) == before
    circuit("diff", run, tmp_path / "none", "--json").refused_in_json(3)


def test_diff_says_that_effects_are_other_quantities(circuit: Circuit, run: Path, tmp_path: Path) -> None:
    tree = graph(run)
    tree["metadata"]["intervention"] = "mean"
    (tmp_path / "mean.json").write_text(json.dumps(tree))
    result = circuit("diff", run, tmp_path / "mean.json")
    assert result.code == 0
    assert "intervention zero → mean" in result.err


def saved(path: Path, circuit: dict[str, Any]) -> Path:
    path.write_text(json.dumps(circuit))
    return path


def test_diff_of_two_answers_to_a_question(circuit: Circuit, tmp_path: Path) -> None:
    tree = ASKED.to_dict()
    before = saved(tmp_path / "before.json", tree)
    tree["metadata"]["attribution"] |= {"method": "atp", "counterfactual": ["In", " a"]}
    tree["nodes"][2]["attribution"]["effect"] = -0.4
    tree["edges"][0]["effect_mean"] = -0.5
    del tree["edges"][-1]
    after = saved(tmp_path / "after.json", tree)
    result = circuit("diff", before, after, "--output", tmp_path / "diff.svg")
    assert result.code == 0
    assert "method auto → atp" in result.err
    assert "counterfactual none → In␣a" in result.err
    assert "Nodes: 0 gained, 0 lost, 1 changed. Edges: 0 gained, 1 lost, 1 changed, 5 as they were." in result.err
    assert "# Edges (replaced − clean, nats)" in result.out
    assert tsv(result.out)[1:] == [
        ["changed", "1.resid_post.6@5", "a god", "-0.900", "-0.400"],
        ["edges", "from", "to", "before", "after"],
        ["lost", "2.resid_post.9@7", "target", "+0.300", "–"],
        ["changed", "token@5", "1.resid_post.6@5", "-0.900", "-0.500"],
        [str(tmp_path / "diff.svg")],
    ]
    assert b"changed: another effect or weight" in (tmp_path / "diff.svg").read_bytes()
    found = circuit("diff", before, after, "--json").document
    [changed] = found["nodes"]["changed"]
    assert (changed["id"], changed["before"]["effect"], changed["after"]["effect"]) == ("1.resid_post.6@5", -0.9, -0.4)
    assert circuit("diff", before, before, "--json").document["edges"]["same"] == 7
    for suffix in ("html", "png", "dot", "json", "graphml"):
        assert circuit("diff", before, after, "--output", tmp_path / f"diff.{suffix}").code == 0


def test_different_questions_are_compared_with_nothing(circuit: Circuit, run: Path, tmp_path: Path) -> None:
    tree = ASKED.to_dict()
    one = saved(tmp_path / "one.json", tree)
    tree["metadata"]["attribution"]["metric"] = "log p(␣earth)"
    other = saved(tmp_path / "other.json", tree)
    circuit("diff", one, other).refused(
        3, "answer different questions: log p(␣heavens) and log p(␣earth)", "Ask both", "--node-positions"
    )
    tree = graph(run) | {"nodes": [], "edges": []}
    tree["metadata"]["attribution"] = ASKED.to_dict()["metadata"]["attribution"]
    asked = saved(tmp_path / "asked.json", tree)
    circuit("diff", run, asked).refused(3, "the other has mean effects", "Compare two that were made alike")
    circuit("graph", "--run", run, "--extend", asked).refused(3, "can't be added to another", "--extend none")
