"""Why prompts go on as they do, from a run's files: means, calibration, what is kept and drawn, by other routes."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pandas
import pytest
from scipy import stats
from support.answered import AGAINST, PROMPTS, Made, answer, settings
from support.circuits import validator
from support.commands import environment, tsv

import circuitcli
from circuitcli import notebook
from circuitcli.cli import why
from circuitcli.cli.console import Terminal
from circuitcli.errors import InputError, UsageError
from circuitcli.settings import resolve
from circuitcli.stages import cache_acts, fetch_saes, graph
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

SITES = ["attn_out", "mlp_out", "resid_post"]
KINDS = {"attn_out": "attention", "mlp_out": "mlp", "resid_post": "resid"}
Answered = Callable[..., Job]


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on prompts whose activations are cached; not to be touched."""
    job = start(tmp_path_factory.mktemp("cached") / "run", settings(SITES))
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job.run.root


@pytest.fixture
def answered(cached: Path, tmp_path: Path) -> Answered:
    """A job on a copy of that run with an answer to its question: `answered({"graph": {…}}, measured=0.5)`."""

    def make(changes: dict[str, Any] | None = None, **made: Any) -> Job:
        root = tmp_path / "run"
        if not root.exists():
            shutil.copytree(cached, root)
        run = Run(root, STAGES.folders)
        return answer(Job(resolve(run.settings(), changes or {}), Silent(), run), Made(**made))

    return make


def read(job: Job, table: str) -> pandas.DataFrame:
    return pandas.read_parquet(job.run.root / f"attribution/{table}.parquet").astype(
        {"kind": str, "site": str} if table == "nodes" else {}
    )


def named(row: Any, *, separate: bool) -> str:
    """A node as circuit.json calls it."""
    if row.kind == "target":
        return "target"
    place = {"token": "token", "error": f"{row.layer}.{row.site}.error"}.get(
        row.kind, f"{row.layer}.{row.site}.{row.feature}"
    )
    return f"{place}@{row.pos}" if separate else place


@pytest.fixture(params=[(1, "separate"), (2, "separate"), (2, "sum"), (1, "sum")])
def job(request: pytest.FixtureRequest, answered: Answered) -> Job:
    prompts, positions = request.param
    return answered(prompts=prompts, positions=positions, measured=0.6)


def test_nodes_are_means_over_prompts(job: Job):
    """By pandas, name by name: what a prompt hasn't counts 0; sums over positions where they stand for all of them."""
    rows, found = read(job, "nodes"), job.results().attribution.nodes()
    separate, prompts = job.run.require("attribute").facts["positions"] == "separate", rows["prompt"].nunique()
    groups = rows.groupby([named(row, separate=separate) for row in rows.itertuples()])
    assert sorted(found["id"]) == sorted(groups.groups)
    assert found["id"].is_unique
    found = found.set_index("id")
    for name in ("effect", "atp", "relp", "exact"):
        expected = groups[name].apply(lambda values: np.nan if values.isna().any() else values.sum()) / prompts
        np.testing.assert_allclose(found[name], expected[found.index], rtol=1e-5, atol=1e-7)
    for name in ("activation", "replacement"):
        np.testing.assert_allclose(found[name], groups[name].mean()[found.index], rtol=1e-5)
    assert found["n"].to_dict() == groups.size().to_dict()
    exact = groups["method"].apply(lambda methods: (methods == "exact").all())
    assert (found["method"] == "exact").to_dict() == exact.to_dict()
    assert found["measured"].to_dict() == groups["exact"].count().to_dict()
    assert set(found.loc[~exact[found.index], "method"]) == {"relp", ""}
    assert (found["method"] == "").to_dict() == {name: name == "target" for name in found.index}
    assert found["kind"].value_counts().to_dict() == groups["kind"].first().value_counts().to_dict()


def test_nodes_come_in_the_models_order_and_edges_lead_upwards(job: Job):
    found = job.results().attribution
    order = {name: i for i, name in enumerate(found.nodes()["id"])}
    assert all(order[source] < order[target] for source, target in found.edges()[["source", "target"]].to_numpy())
    places = [
        (layer, SITES.index(site)) for layer, site in found.nodes()[["layer", "site"]].to_numpy() if site in SITES
    ]
    assert places == sorted(places)


def test_edges_are_means_over_prompts(job: Job):
    nodes, rows, found = read(job, "nodes"), read(job, "edges"), job.results().attribution.edges()
    separate = job.run.require("attribute").facts["positions"] == "separate"
    names = {(row.prompt, row.node): named(row, separate=separate) for row in nodes.itertuples()}
    ends = [(names[row.prompt, row.source], names[row.prompt, row.target]) for row in rows.itertuples()]
    groups = rows.assign(ends=ends).groupby("ends")
    index = list(zip(found["source"], found["target"], strict=True))
    assert sorted(index) == sorted(groups.groups)
    weight = groups["weight"].sum() / nodes["prompt"].nunique()
    np.testing.assert_allclose(found["weight"], [weight[pair] for pair in index], rtol=1e-4, atol=1e-7)
    exact = groups["method"].apply(lambda methods: (methods == "exact").all())
    assert found["method"].tolist() == ["exact" if exact[pair] else "relp" for pair in index]
    assert found["n"].tolist() == [groups["prompt"].nunique()[pair] for pair in index]


def test_what_each_prompt_has_is_there_as_well(job: Job):
    found, rows, edges = job.results().attribution, read(job, "nodes"), read(job, "edges")
    separate = job.run.require("attribute").facts["positions"] == "separate"
    nodes = found.nodes(by_prompt=True)
    assert nodes["id"].tolist() == [named(row, separate=separate) for row in rows.itertuples()]
    assert nodes["drawn"].tolist() == rows["drawn"].tolist()
    texts = [prompt.tokens for prompt in found.prompts]
    expected = [" heavens" if row.kind == "target" else texts[row.prompt][row.pos] for row in rows.itertuples()]
    assert nodes["token"].tolist() == expected
    names = {(row.prompt, row.node): name for row, name in zip(rows.itertuples(), nodes["id"], strict=True)}
    assert found.edges(by_prompt=True)["source"].tolist() == [names[e.prompt, e.source] for e in edges.itertuples()]
    assert found.edges(by_prompt=True)["target"].tolist() == [names[e.prompt, e.target] for e in edges.itertuples()]


def test_calibration_of_all_by_scipy(answered: Answered):
    """Where all is measured each counts once."""
    job = answered(prompts=2, quality=0.6, edges_measured=1)
    rows, edges, found = read(job, "nodes"), read(job, "edges"), job.results().attribution.calibration()
    rows = rows[rows["kind"] != "target"]
    inner = rows["kind"].isin(["feature", "error"])
    expected = {("nodes", method, "all"): (rows[method], rows["exact"]) for method in ("atp", "relp")}
    for site, kind in KINDS.items():
        here = rows[inner & (rows["site"] == site)]
        expected |= {("nodes", method, kind): (here[method], here["exact"]) for method in ("atp", "relp")}
    measured = edges[edges["drawn"] > 0]
    expected["edges", "relp", "all"] = measured["estimate"], measured["exact"]
    assert set(zip(found["of"], found["method"], found["kind"], strict=True)) == set(expected)
    for row in found.itertuples():
        estimate, exact = expected[row.of, row.method, row.kind]
        assert row.n == len(exact)
        assert row.total == (len(edges) if row.of == "edges" else len(exact))
        assert row.pearson == pytest.approx(stats.pearsonr(estimate, exact)[0], abs=1e-6)
        assert row.spearman == pytest.approx(stats.spearmanr(estimate, exact)[0], abs=1e-6)
        assert row.sign == pytest.approx((np.sign(estimate) == np.sign(exact)).mean())
        assert row.slope == pytest.approx((estimate * exact).sum() / (estimate**2).sum(), rel=1e-5)
        top = [set(np.argsort(-values.abs().to_numpy())[:20]) for values in (estimate, exact)]
        assert (row.top, row.recall) == (20, pytest.approx(len(top[0] & top[1]) / 20))
        assert row.pearson_low < row.pearson < row.pearson_high


def test_measured_nodes_count_for_those_that_they_stand_for(answered: Answered):
    job = answered(measured=0.4)
    path = job.run.root / "attribution/nodes.parquet"
    table = pandas.read_parquet(path)
    table.loc[table["drawn"] > 0, "drawn"] = np.where(np.arange((table["drawn"] > 0).sum()) % 3, 4.0, 1.0)
    job = rewritten(job, table)
    row = job.results().attribution.calibration().iloc[0]
    measured = table[table["drawn"] > 0]
    cov = np.cov(measured["atp"], measured["exact"], aweights=measured["drawn"])
    assert (row["of"], row["method"], row["kind"], row["n"]) == ("nodes", "atp", "all", len(measured))
    assert row["total"] == len(table) - 1
    assert row["pearson"] == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]), abs=1e-6)
    found = job.results().attribution.calibration()
    rest = found[(found["of"] == "nodes") & (found["method"] == "atp") & (found["kind"] == "rest")].iloc[0]
    drawn = measured[measured["drawn"] == 4]  # the others were measured for certain: no estimate stands for them
    assert (rest["n"], rest["total"]) == (len(drawn), len(table) - 1 - (table["drawn"] == 1).sum())
    assert np.isnan(rest["recall"])
    assert rest["pearson"] == pytest.approx(stats.pearsonr(drawn["atp"], drawn["exact"])[0], abs=1e-6)


def rewritten(job: Job, nodes: pandas.DataFrame) -> Job:
    """The run with other nodes."""
    from circuitcli.store import tables

    name = "attribution/nodes.parquet"
    tables.write(job.run.root / name, "attribution/nodes", [{c: nodes[c].to_numpy() for c in nodes}])
    record = job.run.require("attribute")
    entry = job.run.entry(job.run.root / name, len(nodes))
    job.run.save_record("attribute", dataclasses.replace(record, files={**record.files, name: entry}))
    return dataclasses.replace(job, run=Run(job.run.root, STAGES.folders))


def test_without_measured_effects_there_is_no_calibration(answered: Answered):
    found = answered(measured=0.0, edges_measured=0.0).results().attribution
    assert len(found.calibration()) == 0
    assert set(found.nodes().loc[found.nodes()["kind"] != "target", "method"]) == {"relp"}


@dataclasses.dataclass
class Dense:
    """The graph of a run's prompt as matrices [into, from], worked out from its files."""

    names: list[str]
    kinds: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    influence: np.ndarray

    @classmethod
    def of(cls, job: Job) -> "Dense":
        nodes, edges, rows = (read(job, name) for name in ("nodes", "edges", "rows"))
        assert nodes["prompt"].nunique() == 1
        n = len(nodes)
        weight, fed = np.zeros((n, n)), np.zeros(n)
        weight[edges["target"], edges["source"]] = edges["weight"]
        fed[rows["target"]] = rows["abs_in"]
        share = np.divide(np.abs(weight), fed[:, None], out=np.zeros((n, n)), where=fed[:, None] > 0)
        outcome = (nodes["kind"] == "target").to_numpy(float)
        influence = outcome @ (np.linalg.inv(np.eye(n) - share) - np.eye(n))
        names = [named(row, separate=True) for row in nodes.itertuples()]
        return cls(names, nodes["kind"].to_numpy(), weight, share, influence)

    def cumulative(self) -> dict[str, float]:
        """Of each name the share of influence of all that have at least as much."""
        total = self.influence.sum()
        return {
            name: self.influence[self.influence >= here].sum() / total
            for name, here in zip(self.names, self.influence, strict=True)
        }


def test_influence_by_inverting_a_matrix(answered: Answered):
    job = answered({"attribute": {"node_influence": 0.7}})
    dense, found = Dense.of(job), job.results().attribution
    nodes, expected = found.nodes().set_index("id"), dense.cumulative()
    known = nodes[nodes["influence"].notna() & (nodes["kind"] != "target")]
    assert {name for name, row in zip(dense.names, dense.weight.any(0) | dense.weight.any(1), strict=True) if row} == {
        *known.index,
        "target",
    }
    np.testing.assert_allclose(known["influence"], [expected[name] for name in known.index], atol=1e-9)
    assert nodes.loc["target", "influence"] == 0
    inner = known[known["kind"].isin(["feature", "error"])]
    assert inner.loc[inner["kept"], "influence"].max() <= inner.loc[~inner["kept"], "influence"].max()
    first = inner[inner["influence"] < 0.7]
    assert 0 < inner["kept"].sum() <= len(first) + 1
    assert set(inner.index[inner["kept"]]) <= {*first.index, inner["influence"][inner["influence"] >= 0.7].idxmin()}


def test_scores_and_shares_by_inverting_a_matrix(answered: Answered):
    job = answered()
    dense, circuit = Dense.of(job), drawn(job)
    asked = circuit["metadata"]["attribution"]
    tokens, errors = (dense.influence[dense.kinds == kind].sum() for kind in ("token", "error"))
    assert asked["replacement"] == pytest.approx(tokens / (tokens + errors))
    mass = dense.influence + (dense.kinds == "target")
    lost = dense.share[:, dense.kinds == "error"].sum(1)
    assert asked["completeness"] == pytest.approx(((1 - lost) * mass).sum() / mass.sum())
    size = read(job, "nodes").set_index([dense.names])["effect"].abs()
    ids = [node["id"] for node in circuit["nodes"]]
    assert asked["abs_effect"] == pytest.approx(size.sum(), rel=1e-5)
    assert asked["share"] == pytest.approx(size[ids].sum() / size.sum(), rel=1e-5)
    weights = np.abs([edge["effect_mean"] for edge in circuit["edges"]])
    assert asked["edge_share"] == pytest.approx(weights.sum() / np.abs(dense.weight).sum(), rel=1e-5)
    assert (asked["nodes"], asked["exact"], asked["edges"]) == (len(size) - 1, len(size) - 1, (dense.weight != 0).sum())


def drawn(job: Job) -> Any:
    """The document of its graph."""
    graph.run(job)
    found = json.loads((job.run.root / "graph/circuit.json").read_text())
    validator().validate(found)
    return found


@pytest.mark.parametrize(
    ("changes", "made"),
    [({}, {}), ({"nodes": 5}, {}), ({"edge_threshold": 0.05}, {}), ({}, {"prompts": 2, "positions": "sum"})],
)
def test_all_that_is_drawn_leads_to_the_target(changes: dict[str, Any], made: dict[str, Any], answered: Answered):
    circuit = drawn(answered({"attribute": changes}, **made))
    found: Any = networkx.DiGraph([(edge["source"], edge["target"]) for edge in circuit["edges"]])
    assert set(found.nodes) == {node["id"] for node in circuit["nodes"]}
    assert all(networkx.has_path(found, name, "target") for name in found.nodes)
    fed = {node["id"] for node in circuit["nodes"] if node["kind"] == "feature"}
    assert all(found.in_degree(name) > 0 for name in fed)
    inner = [node for node in circuit["nodes"] if node["kind"] in ("feature", "error")]
    assert 0 < len(inner) <= changes.get("nodes", 40)
    weights = [abs(edge["effect_mean"]) for edge in circuit["edges"]]
    assert weights == sorted(weights, reverse=True)
    assert min(weights) >= changes.get("edge_threshold", 0)


def test_the_circuit_says_what_the_tables_say(answered: Answered):
    job = answered({"features": {"pinned": ["1.attn_out.7"]}, "attribute": {"nodes": 30}}, measured=0.5)
    circuit, tables = drawn(job), job.results().attribution
    table, edges = tables.nodes().set_index("id"), tables.edges().set_index(["source", "target"])
    texts = tables.prompts[0].tokens
    assert set(table.index[table["kept"]]) == {node["id"] for node in circuit["nodes"]}
    assert {(e["source"], e["target"]): e["effect_mean"] for e in circuit["edges"]} == edges.loc[
        edges["kept"], "weight"
    ].to_dict()
    assert {(e["source"], e["target"]): e["method"] for e in circuit["edges"]} == edges.loc[
        edges["kept"], "method"
    ].to_dict()
    assert set(edges.loc[edges["kept"], "method"]) == {"exact", "relp"}
    for node in circuit["nodes"]:
        row, said = table.loc[node["id"]], node["attribution"]
        assert (node["kind"], node["layer"], node["site"]) == (row["kind"], row["layer"], row["site"])
        assert said["influence"] == row["influence"]
        if node["kind"] == "target":
            assert (node["pos"], said["effect"], said["method"], said["prob"]) == (None, None, None, 0.5)
            assert (said["token"], said["token_id"], said["activation"]) == (" heavens", 7, -0.7)
            continue
        assert (node["pos"], said["token"]) == (row["pos"], texts[row["pos"]])
        assert (said["effect"], said["method"]) == (row["effect"], row["method"])
        assert said["estimate"] == (row["relp"] if row["method"] == "exact" else None)
        assert node["pinned"] == node["id"].startswith("1.attn_out.7@")
        if node["kind"] == "feature":
            assert (node["feature"], said["activation"], said["replacement"]) == (row["feature"], row["activation"], 0)
            strongest = max(node["contexts"], key=lambda c: c["activations"][c["firing"]])
            assert strongest["activations"][strongest["firing"]] == node["max_activation"] >= said["activation"]
            assert said["activation"] == pytest.approx(node["max_activation"]) or len(node["contexts"]) > 1
    assert {node["attribution"]["method"] for node in circuit["nodes"]} == {"exact", "relp", None}
    assert any(node["pinned"] for node in circuit["nodes"])
    assert len(circuit["calibration"]) == len(tables.calibration())
    asked = circuit["metadata"]["attribution"]
    assert asked["metric"] == "log p(␣heavens)"
    assert (asked["target"], asked["against"], asked["unit"], asked["clean"]) == (" heavens", None, "nats", -0.7)
    assert (asked["tokens"], asked["prompts"], asked["edge_method"]) == (list(texts), 1, "relp")
    facts = circuit["metadata"]
    assert (facts["intervention"], facts["positions"], facts["prompts"]) == ("zero", "prompt", [PROMPTS[0]])
    assert facts["runs"][0]["edges_measured"] == len(edges)


def test_the_question_of_several_prompts(answered: Answered):
    asked = drawn(answered(prompts=2, against=True, targets=(" heavens", " earth")))["metadata"]["attribution"]
    assert asked["metric"] == "logit(target) − logit(against)"
    assert (asked["target"], asked["against"], asked["unit"]) == (
        " heavens, earth".replace(", e", ",  e"),
        AGAINST,
        "logits",
    )
    assert (asked["clean"], asked["prob"], asked["prompts"]) == (pytest.approx(-1.2), pytest.approx(0.375), 2)
    asked = drawn(answered({"seed": 1}, prompts=2, against=True, counterfactual=True))["metadata"]["attribution"]
    assert asked["metric"] == "logit(␣heavens) − logit(␣waters)"
    assert (asked["baseline"], asked["counterfactual"]) == ("patch", asked["tokens"][::-1])
    assert drawn(answered(positions="sum", prompts=2))["metadata"]["attribution"]["tokens"] == []


def test_labels_are_of_the_feature_wherever_it_is(answered: Answered, tmp_path: Path):
    job = answered({"attribute": {"nodes": 40, "node_influence": 1.0}}, candidates=400)
    features = [node for node in drawn(job)["nodes"] if node["kind"] == "feature"]
    names = [node["id"].partition("@")[0] for node in features]
    name = next(name for name in names if names.count(name) > 1)
    (tmp_path / "labels.csv").write_text(f"feature,label\n{name},the word light\n")
    job = dataclasses.replace(
        job, settings=resolve(job.run.settings(), {"graph": {"labels": str(tmp_path / "labels.csv")}})
    )
    circuit = drawn(job)
    assert {node["id"].partition("@")[0] for node in circuit["nodes"] if node["label"]} == {name}
    assert sum(node["label"] is not None for node in circuit["nodes"]) == names.count(name)
    graph_of = job.results().graph()
    assert [node for node, label in graph_of.nodes(data="label") if label] == [
        node["id"] for node in circuit["nodes"] if node["label"]
    ]


def test_labels_and_groups_of_people_are_loaded(answered: Answered, tmp_path: Path):
    job = answered({"graph": {"group": "auto"}, "attribute": {"nodes": 40}}, candidates=400)
    circuit = drawn(job)
    for node in circuit["nodes"][-3:]:
        node |= {"label": "mine", "group": "ours"}
    (tmp_path / "edited.json").write_text(json.dumps(circuit))
    graph.run(job, tmp_path / "edited.json")
    again = json.loads((job.run.root / "graph/circuit.json").read_text())
    assert [(node["label"], node["group"]) for node in again["nodes"][-3:]] == [("mine", "ours")] * 3
    assert [node["group"] for node in again["nodes"][:-3]] == [node["group"] for node in circuit["nodes"][:-3]]


def test_the_graph_of_a_question_extends_none(answered: Answered, tmp_path: Path):
    job = answered({"graph": {"extend": [str(tmp_path)]}})
    with pytest.raises(UsageError, match="can't be added to another") as refused:
        graph.run(job)
    assert "--extend none" in refused.value.hint


def test_the_graph_is_made_again_when_the_answer_is_another_one(answered: Answered):
    job = answered()
    first = drawn(job)
    assert graph.run(job).status == "skipped"
    second = drawn(answered(seed=1))
    assert [node["id"] for node in first["nodes"]] != [node["id"] for node in second["nodes"]]


def profiles(circuit: Any) -> dict[str, np.ndarray]:
    """Of each feature its edges in and out, each part of length 1."""
    names = [node["id"] for node in circuit["nodes"]]
    weight = np.zeros((len(names), len(names)))
    for edge in circuit["edges"]:
        weight[names.index(edge["target"]), names.index(edge["source"])] = edge["effect_mean"]
    sizes = [np.linalg.norm(part, axis=1, keepdims=True) for part in (weight, weight.T)]
    unit = [part / np.where(size, size, 1) for part, size in zip((weight, weight.T), sizes, strict=True)]
    return {
        n["id"]: np.concatenate([unit[0][i], unit[1][i]])
        for i, n in enumerate(circuit["nodes"])
        if n["kind"] == "feature"
    }


def test_groups_are_proposed_by_what_their_edges_have_in_common(answered: Answered):
    job = answered({"graph": {"group": "auto"}, "attribute": {"nodes": 120}}, candidates=400)
    circuit = drawn(job)
    found: dict[str, list[str]] = {}
    for node in circuit["nodes"]:
        if node["group"]:
            assert node["kind"] == "feature"
            found.setdefault(node["group"], []).append(node["id"])
    assert found, "nothing was proposed"
    vectors = profiles(circuit)
    tokens = {node["id"]: node["attribution"]["token"] for node in circuit["nodes"]}
    for number, (group, members) in enumerate(found.items(), 1):
        assert len(members) > 1
        for a in members:
            for b in members:
                cosine = vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
                assert cosine >= 0.5 - 1e-6, (a, b)
        said = [tokens[name] for name in members]
        most = max(said.count(token) for token in said)
        assert group in {f"group {number}: {t.replace(' ', '␣')}" for t in said if said.count(t) == most}
    plain = dataclasses.replace(job, settings=resolve(job.run.settings(), {"graph": {"group": "none"}}))
    assert not any(node["group"] for node in drawn(plain)["nodes"])


def test_the_graph_for_python_has_weights(answered: Answered):
    job = answered()
    circuit, found = drawn(job), job.results().graph()
    assert list(found.nodes) == [node["id"] for node in circuit["nodes"]]
    assert {(s, t): w for s, t, w in found.edges(data="weight")} == {
        (edge["source"], edge["target"]): edge["effect_mean"] for edge in circuit["edges"]
    }
    assert found.nodes["target"]["attribution"].token == " heavens"
    assert found.graph["attribution"]["metric"] == "log p(␣heavens)"


def test_columns_are_as_documented(answered: Answered):
    found = answered(prompts=2).results().attribution
    for frame, told in (
        (found.nodes(), found.nodes.__doc__),
        (found.edges(), found.edges.__doc__),
        (found.nodes(by_prompt=True), found.nodes.__doc__),
        (found.edges(by_prompt=True), found.edges.__doc__),
        (found.calibration(), found.calibration.__doc__),
    ):
        for column in frame:
            name = column.removesuffix("_low").removesuffix("_high")
            assert f"`{name}`" in told, column
    frame = found.nodes()
    frame["effect"] = 0.0
    assert found.nodes()["effect"].abs().sum() > 0


def test_what_is_not_done_yet_is_asked_for(cached: Path, tmp_path: Path):
    job = Job(
        resolve(Run(cached).settings()), Silent(), Run(cached, STAGES.folders), stages=STAGES.drawing("attribution")
    )
    found = job.results().attribution
    for ask in (found.nodes, found.edges, found.calibration, job.results().graph):
        with pytest.raises(InputError, match="no finished attribute stage") as wrong:
            ask()
        assert "circuit attribute --run" in wrong.value.hint


def shown(job: Job, capsys: pytest.CaptureFixture[str], **how: bool) -> str:
    capsys.readouterr()
    why.show(job.results(), Terminal(**{"as_json": False, "quiet": False, **how}))
    return capsys.readouterr().out


def test_what_a_person_sees(answered: Answered, capsys: pytest.CaptureFixture[str]):
    """In a pipe; each number by another route."""
    job = answered(measured=0.6)
    out, table = shown(job, capsys), read(job, "nodes")
    sentences = [line for line in out.splitlines() if line.startswith("# ")]
    assert "log p(␣heavens) = −0.70 (50.0%)" in sentences[0]
    assert f"of {len(table) - 1:,} nodes" in sentences[1]
    assert (
        f"{(table['method'] == 'exact').sum():,} of {len(table) - 1:,} effects of nodes were measured" in sentences[2]
    )
    rows, tables = tsv(out), []
    for row in rows:
        if row[0] in ("node", "estimate", "path"):
            tables.append([])
        tables[-1].append(row)
    lower, higher, effects, edges, paths = tables
    for part, sign in ((lower, -1), (higher, 1)):
        assert part[0] == ["node", "position", "token", "activation", "effect, nats", "how"]
        strongest = table.iloc[np.argsort(-sign * table["effect"].fillna(0).to_numpy(), kind="stable")[:10]]
        assert len(part) == 11
        for row, expected in zip(part[1:], strongest.itertuples(), strict=True):
            assert f"{row[0]}@{row[1]}" == named(expected, separate=True)
            assert row[3:] == [f"{expected.activation:.2f}", f"{expected.effect:+.3f}", expected.method]
            token = job.results().attribution.prompts[0].tokens[expected.pos]
            assert f"«{token}»" in row[2]
    calibration = job.results().attribution.calibration()
    assert [row[0] for row in effects[1:]] == ["atp"] * 4 + ["relp"] * 4
    assert effects[1][3:5] == [
        f"{calibration['pearson'][0]:.2f}",
        f"[{calibration['pearson_low'][0]:.2f}, {calibration['pearson_high'][0]:.2f}]",
    ]
    assert edges[1][:3] == ["relp", "all", f"{(read(job, 'edges')['drawn'] > 0).sum()}"]
    assert paths[1:] == strongest_paths(job)


def strongest_paths(job: Job) -> list[list[str]]:
    """All paths from tokens to the target, enumerated; the product of shares along each."""
    dense = Dense.of(job)
    found: Any = networkx.DiGraph()
    for into, out in zip(*np.nonzero(dense.weight), strict=True):
        found.add_edge(out, into)
    target = dense.names.index("target")
    ranked = []
    for token in np.flatnonzero(dense.kinds == "token").tolist():
        if token in found:
            for path in networkx.all_simple_paths(found, token, target, cutoff=6):
                if not (dense.kinds[path[1:]] == "token").any():
                    strength = np.prod([dense.share[b, a] for a, b in itertools.pairwise(path)])
                    ranked.append((strength, path))
    texts = job.results().attribution.prompts[0].tokens
    said = []
    for strength, path in sorted(ranked, key=lambda pair: -pair[0])[:5]:
        token, *inner, _ = path
        pos = int(dense.names[token].partition("@")[2])
        names = [f"{texts[pos].replace(' ', '␣')}@{pos}", *(dense.names[i] for i in inner), "␣heavens"]
        said.append([" → ".join(names), f"{strength:.1%}"])
    return said


def test_positions_that_are_summed_have_no_column(answered: Answered, capsys: pytest.CaptureFixture[str]):
    out = shown(answered(prompts=2, positions="sum", targets=(" heavens", " earth")), capsys)
    assert "node\tplaces\tactivation\teffect, nats\thow\n" in out
    assert "log p(target)" in out
    node, places, *_, how = tsv(shown(answered(prompts=2, positions="sum", measured=0.5), capsys))[1]
    rows = read(answered(prompts=2, positions="sum", measured=0.5), "nodes")
    exact = rows.groupby([named(row, separate=False) for row in rows.itertuples()])["exact"].count()
    assert how == f"relp, {exact[node]} of {places} exact"
    assert all(row[0].endswith(" → target") for row in tsv(out) if "→" in row[0])


def test_labels_are_shown(answered: Answered, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    job = answered()
    first = shown(job, capsys)
    name = next(row[0] for row in tsv(first) if row[0].count(".") == 2 and not row[0].endswith("error"))
    (tmp_path / "labels.csv").write_text(f"feature,label\n{name},[b]light[/b]\n")
    graph.run(
        dataclasses.replace(
            job, settings=resolve(job.run.settings(), {"graph": {"labels": str(tmp_path / "labels.csv")}})
        )
    )
    labelled = [row for row in tsv(shown(job, capsys)) if row[0] == name]
    assert labelled
    assert {row[-1] for row in labelled} == {"[b]light[/b]"}


@pytest.mark.parametrize("how", [{"quiet": True}, {"as_json": True}])
def test_quiet_shows_no_tables(how: dict[str, bool], answered: Answered, capsys: pytest.CaptureFixture[str]):
    assert shown(answered(), capsys, **how) == ""


def test_a_graph_of_which_nothing_is_left_is_drawn_in_every_format(answered: Answered):
    formats = ["json", "html", "svg", "dot", "csv", "graphml", "neuronpedia"]
    job = answered({"attribute": {"edge_threshold": 1e9}, "graph": {"formats": formats, "group": "auto"}})
    circuit = drawn(job)
    assert ([node["id"] for node in circuit["nodes"]], circuit["edges"]) == (["target"], [])
    assert (circuit["metadata"]["attribution"]["share"], circuit["metadata"]["attribution"]["edge_share"]) == (0, 0)


LIGHT = """
import sys
for name in ("torch", "transformers", "transformer_lens", "pandas", "networkx", "scipy"):
    sys.modules[name] = None  # an import of it fails
import circuitcli
from circuitcli import notebook
import circuitcli
from circuitcli import notebook
from circuitcli.cli import why
from circuitcli.cli.console import Terminal
results = circuitcli.open_run(sys.argv[1])
why.show(results, Terminal(as_json=False, quiet=False))
"""


def test_what_is_finished_is_shown_without_what_computes(answered: Answered):
    root = answered().run.root
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(root)], env=environment(), capture_output=True, text=True, check=True
    )
    assert "Strongest paths from tokens" in done.stdout


def test_from_the_shell_to_python(circuit: Callable[..., Any], profile: Path, tmp_path: Path):
    """Nothing made up: a prompt is asked about, drawn, and read again."""
    run = tmp_path / "asked"
    done = circuit(
        "run-all", "--profile", profile, "--run", run, "--prompt", PROMPTS[0], "--attribute", "--group", "auto"
    )
    assert done.code == 0, done.err
    found, document = circuitcli.open_run(run), json.loads((run / "graph/circuit.json").read_text())
    nodes, edges = found.attribution.nodes(), found.attribution.edges()
    strongest = nodes.loc[nodes["effect"].idxmin()]
    rows = [row for row in tsv(done.out) if len(row) > 5 and row[5] == "exact"]
    assert rows[0][:2] == [strongest["id"].partition("@")[0], str(strongest["pos"])]
    assert rows[0][4] == f"{strongest['effect']:+.3f}"
    graph_of = found.graph()
    assert list(graph_of.nodes) == nodes.loc[nodes["kept"], "id"].tolist()
    assert graph_of.number_of_edges() == edges["kept"].sum() == len(document["edges"]) > 0
    assert (
        document["metadata"]["attribution"]["exact"] == len(nodes) - 1 == document["metadata"]["attribution"]["nodes"]
    )
    assert {(row["of"], row["method"]) for row in document["calibration"]} == {
        ("nodes", "atp"),
        ("nodes", "relp"),
        ("edges", found.attribution.facts["edge_method"]),
    }
    in_notebook = notebook.show(run)
    assert [node.id for node in in_notebook.circuit.nodes] == list(graph_of.nodes)
    assert in_notebook.cards == ()
    assert "<iframe" in in_notebook._repr_html_()
    again = circuit("run-all", "--run", run, "--extend", run)
    again.refused(2, "can't be added to another", "--extend none")
