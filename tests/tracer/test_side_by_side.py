"""circuit-tracer itself beside our replacement model: dictionaries, whole graphs, scores, and what is left of them.

It runs in another process with libraries of its own, older than ours: CIRCUIT_TRACER_PYTHON names its interpreter, and
`nox -s side_by_side` makes it. Its dictionaries are files that its own classes wrote, read by our readers.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import command, environment
from support.families import CONFIGS, save_checkpoint
from support.tiny import load_model

import circuitcli
from circuitcli import demo, plugins
from circuitcli.core.active import Active
from circuitcli.core.attribution import replacement
from circuitcli.core.attribution.measured import read
from circuitcli.core.attribution.metric import Metric, likeliest
from circuitcli.core.attribution.parts import BOTTOM, Errors, Features, Parts, Source, tokens
from circuitcli.core.attribution.traced import Traced, trace
from circuitcli.core.dictionary import Dictionary, reconstructed
from circuitcli.core.influence import ERROR, FEATURE, TARGET, TOKEN, AttributionGraph, influence, scores
from circuitcli.core.model import FROZEN, Model
from circuitcli.core.pruning import prune
from circuitcli.core.sites import Site
from circuitcli.results.answer import build
from circuitcli.saes import entry, fitted

THEIRS = os.environ.get("CIRCUIT_TRACER_PYTHON")
pytestmark = [
    pytest.mark.skipif(THEIRS is None, reason="CIRCUIT_TRACER_PYTHON names no interpreter: nox -s side_by_side"),
    pytest.mark.timeout(900),
]
SCRIPT = Path(__file__).parent / "theirs.py"
WITHIN = 1e-4  # of the largest
PROMPTS = [[0, 5, 9, 3, 17, 22], [0, 7, 7]]
KINDS = {"transcoder_set": "mlp.hook_in", "cross_layer_transcoder": "hook_resid_mid"}


@dataclass(frozen=True)
class Pair:
    """A model, and a folder of transcoders that circuit-tracer wrote, with what it says of both."""

    model: Path
    folder: Path

    @property
    def transcoders(self) -> Path:
        return self.folder / "transcoders"


def theirs(folder: Path, job: dict[str, Any], *what: str) -> None:
    """Have circuit-tracer do something in a folder."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    made = subprocess.run(
        [str(THEIRS), str(SCRIPT), *what, str(folder)], capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]


def question(model: Path, transcoders: Path, prompts: list[list[int]], **more: Any) -> dict[str, Any]:
    """What circuit-tracer is asked: whole graphs of some prompts."""
    job = {"threads": 2, "model": str(model), "transcoders": str(transcoders), "prompts": prompts, **more}
    return {"most": None, "batch": 16, "keep": True, **job}


@pytest.fixture(scope="module", params=[(f, k) for f in ("gpt2", "llama", "gemma2") for k in KINDS], ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, kind = request.param
    root = tmp_path_factory.mktemp("pair")
    model = save_checkpoint(family, root / "model")
    config = CONFIGS[family]
    job = {
        "seed": 1, "n_layers": config.num_hidden_layers, "d_sae": 40, "d_model": config.hidden_size, "rows": 6,
        "edit_every": 3, "activation": "jump_relu", "skip": kind == "transcoder_set", "model_kind": kind,
        "model_name": "gpt2", "feature_input_hook": KINDS[kind], "feature_output_hook": "hook_mlp_out",
    }  # fmt: skip
    theirs(root, job | question(model, root / "transcoders", PROMPTS), "write", "attribute")
    return Pair(model, root)


def dictionaries(folder: Path, model: Model) -> dict[Site, Dictionary]:
    """Those of a folder, by our readers."""
    from circuitcli.saes._read import sae

    local = plugins.load("saes", "local")
    located = local.locate(str(folder), "main", local.sites(str(folder), "main"))
    found = {}
    for one in located:
        files = one.files({})
        recorded = entry("local", one, files, norms_subtract_mean=model.shape.norms_subtract_mean)
        found[recorded.at] = fitted(sae(files), recorded, model)
    return dict(sorted(found.items(), key=lambda item: item[0].order))


def test_dictionaries(pair: Pair) -> None:
    """What its classes make of random inputs, and of edits: activations, reconstructions, what an edit adds."""
    some = dictionaries(pair.transcoders, load_model(pair.model))
    said = {name: torch.from_numpy(value) for name, value in np.load(pair.folder / "said.npz").items()}
    x = dict(zip(some, said["x"], strict=True))
    for (reads, one), a in zip(some.items(), said["a"], strict=True):
        torch.testing.assert_close(one.encode(x[reads]), a, atol=1e-5, rtol=1e-5)
        assert (a > 0).any()
    for layer, y in enumerate(zip(said["y"], said["edited"], strict=True)):
        site = Site(layer, "mlp_out")
        for acts, theirs_say in zip((said["a"], said["edited_a"]), y, strict=True):
            fires = {reads: sparse(a) for reads, a in zip(some, acts, strict=True)}
            ours = reconstructed(site, some, fires, x, torch.zeros_like(theirs_say))
            torch.testing.assert_close(ours, theirs_say, atol=1e-5, rtol=1e-5)


def sparse(a: torch.Tensor) -> Active:
    place, feature = a.nonzero(as_tuple=True)
    return Active(place, feature, a[place, feature], a.shape[1])


@dataclass(frozen=True, eq=False)
class Ours:
    """Our graph of a prompt: nodes in our order, each by what it is, and all rows."""

    names: list[tuple[Any, ...]]
    sources: list[Source]
    traced: Traced
    targets: torch.Tensor
    probs: torch.Tensor

    def graph(self) -> AttributionGraph:
        """Every edge."""
        kinds = [{"f": FEATURE, "e": ERROR, "t": TOKEN}[name[0]] for name in self.names]
        n = len(kinds)
        rows = torch.cat([self.traced.into, self.traced.into_targets]).double().numpy()
        into = np.concatenate([self.traced.nodes.numpy(), n + np.arange(len(self.targets))])
        row, source = np.nonzero(rows)
        outcome = np.concatenate([np.zeros(n), (self.probs / self.probs.sum()).double().numpy()])
        kind = np.asarray([*kinds, *[TARGET] * len(self.targets)])
        return AttributionGraph(source, into[row], rows[row, source], kind, outcome)


def ours(model: Model, some: dict[Site, Dictionary], ids: list[int]) -> Ours:
    """As the stage makes it, of all targets that circuit-tracer would take."""
    prompt = torch.tensor(ids)
    counts = torch.arange(len(ids)) > 0
    sites = sorted({BOTTOM, *some, *(s for one in some.values() for s in one.written)}, key=lambda site: site.order)
    clean_pass = read(model, prompt, sites, None)
    clean = {site: x[0] for site, x in clean_pass.run.sites.items()}
    parts = Parts(clean, counts)
    nodes: list[Source] = [parts.features(one) for one in some.values()]
    nodes += [parts.errors(site) for site in parts.written]
    nodes.sort(key=lambda source: (source.site.order, isinstance(source, Errors)))
    embedded = clean[BOTTOM] - model.positions(prompt[None])
    sources = [tokens(embedded, torch.ones_like(counts)), *nodes]
    probs = clean_pass.logits.softmax(-1)
    chosen = likeliest(probs)
    metrics = [Metric(int(one), centred=True) for one in chosen]
    given = replacement.targets(model, prompt, metrics, probs[chosen])
    with model.fixed(prompt[None], FROZEN):
        rows = replacement.Rows(model, prompt, sources, given, 16)
        traced = trace(rows, sources, probs[chosen], 10**9, lambda count: None)
    return Ours([name for source in sources for name in named(source)], sources, traced, chosen, probs[chosen])


def named(source: Source) -> list[tuple[Any, ...]]:
    pos = source.pos.tolist()
    if isinstance(source, Features):
        return [("f", source.reads.layer, p, j) for p, j in zip(pos, source.feature.tolist(), strict=True)]
    return [("e", source.site.layer, p) if isinstance(source, Errors) else ("t", p) for p in pos]


def of_theirs(answer: Any, layers: int) -> list[tuple[Any, ...]]:
    """Its nodes in its order: features, errors of all layers and positions, tokens, targets."""
    t = len(answer["tokens"])
    features = [("f", *map(int, row)) for row in answer["features"]]
    errors = [("e", layer, pos) for layer in range(layers) for pos in range(t)]
    return [*features, *errors, *[("t", pos) for pos in range(t)], *[("l", i) for i in range(len(answer["targets"]))]]


def check(mine: Ours, answer: Any, layers: int) -> None:
    """Every edge, influence, scores, and what is left of the graph pruned as circuit-tracer does by default."""
    assert mine.targets.tolist() == answer["targets"].tolist()
    np.testing.assert_allclose(mine.probs, answer["probs"], atol=1e-5)
    place = {name: i for i, name in enumerate(of_theirs(answer, layers))}
    names = [*mine.names, *[("l", i) for i in range(len(mine.targets))]]
    at = np.asarray([place[name] for name in names])
    assert sum(name[0] == "f" for name in place) == sum(name[0] == "f" for name in names) > 20
    graph, theirs_all = mine.graph(), answer["adjacency"]
    adjacency = np.zeros_like(theirs_all)
    adjacency[at[graph.target], at[graph.source]] = -graph.weight
    largest = abs(theirs_all).max()
    assert abs(adjacency - theirs_all).max() <= WITHIN * largest
    found = influence(graph) * float(mine.probs.sum())  # what targets count sums to 1 with us
    np.testing.assert_allclose(found, answer["influence"][at], atol=WITHIN * answer["influence"].max(), rtol=0)
    np.testing.assert_allclose(scores(graph), answer["scores"], atol=WITHIN)
    kept = prune(graph, 0.8, 0.98)
    assert (kept.nodes == answer["nodes"][at]).all()
    edges = np.zeros_like(theirs_all, bool)
    edges[at[graph.target[kept.edges]], at[graph.source[kept.edges]]] = True
    assert (edges == answer["edges"]).all()
    assert 0 < edges.sum() < (theirs_all != 0).sum()


def test_graphs(pair: Pair) -> None:
    model = load_model(pair.model)
    some = dictionaries(pair.transcoders, model)
    for number, ids in enumerate(PROMPTS):
        check(ours(model, some, ids), np.load(pair.folder / f"graph-{number}.npz"), model.shape.n_layers)


def said(run: Path, stage: str, *flags: str) -> bytes:
    """What a command prints."""
    made = subprocess.run(command(stage, "--run", run, *flags), env=environment(), check=True, stdout=subprocess.PIPE)
    return made.stdout


def check_command(run: Path, answer: Any, layers: int) -> None:
    """What the command without a target has in its files, and draws: all of it as circuit-tracer has it by default."""
    results = circuitcli.open_run(run)
    asked = results.attribution
    [prompt] = asked.prompts
    assert [one.token_id for one in prompt.targets] == answer["targets"].tolist()
    np.testing.assert_allclose([one.prob for one in prompt.targets], answer["probs"], atol=1e-5)
    place = {name: i for i, name in enumerate(of_theirs(answer, layers))}
    table, kept = asked.pooled.nodes, asked.selection
    columns = (table[name].tolist() for name in ("kind", "layer", "pos", "feature"))
    names = [
        {"feature": ("f", layer, pos, feature), "error": ("e", layer, pos), "token": ("t", pos)}.get(
            kind, ("l", feature)
        )
        for kind, layer, pos, feature in zip(*columns, strict=True)
    ]
    at = np.asarray([place[name] for name in names])
    # Rows of the adjacency matrix as shares of their sums, as pruning sees them; what leads to no target has none.
    graph, theirs_all = kept.graph, abs(answer["adjacency"])
    shares, whole = np.zeros_like(theirs_all), theirs_all.sum(1)
    shares[at[graph.target], at[graph.source]] = graph.shares()
    leads = ((answer["influence"] > 0) | (np.arange(len(place)) >= len(place) - len(answer["targets"]))) & (whole > 0)
    assert leads.sum() > 50
    assert abs(shares[leads] - theirs_all[leads] / whole[leads, None]).max() <= WITHIN
    # Edges into targets: what each adds to its logit, times what that counts.
    own = np.asarray([one.weight for one in prompt.targets])
    ends = graph.kind[graph.target] == TARGET
    row = at[graph.target[ends]] - (len(place) - len(own))
    added = -graph.weight[ends] / own[row]
    told = answer["adjacency"][at[graph.target[ends]], at[graph.source[ends]]]
    assert abs(added - told).max() <= WITHIN * theirs_all.max()
    found = influence(graph) * float(answer["probs"].sum())
    np.testing.assert_allclose(found, answer["influence"][at], atol=WITHIN * answer["influence"].max(), rtol=0)
    np.testing.assert_allclose((kept.replacement, kept.completeness), answer["scores"], atol=WITHIN)
    assert (kept.nodes == answer["nodes"][at]).all()
    edges = np.zeros_like(theirs_all, bool)
    edges[at[graph.target[kept.edges]], at[graph.source[kept.edges]]] = True
    assert (edges == answer["edges"]).all()
    drawn = build(results)
    assert len(drawn.edges) == edges.sum() > 100
    assert len(drawn.nodes) == kept.nodes.sum()


@pytest.mark.parametrize("release", ["demo-transcoders", "demo-clt"])
def test_the_demo(release: str, tmp_path: Path) -> None:
    """Whole graphs; the command's without a target; and what it says of one target, with the scores of its tables."""
    folder = demo.MODEL.parent / release.removeprefix("demo-")
    model, run = load_model(demo.MODEL), tmp_path / "run"
    some = dictionaries(folder, model)
    for stage, *flags in (
        ("fetch-saes", "--release", release),
        ("cache-acts", "--prompt", "In the beginning God created the"),
        ("attribute", "--freeze", "--replace", "--candidates", "100000"),
    ):
        said(run, stage, *flags)
    [asked] = json.loads((run / "attribution" / "questions.json").read_text())
    ids = asked["ids"]
    theirs(tmp_path, question(demo.MODEL, folder, [ids]), "attribute")
    check(ours(model, some, ids), np.load(tmp_path / "graph-0.npz"), model.shape.n_layers)
    check_command(run, np.load(tmp_path / "graph-0.npz"), model.shape.n_layers)
    theirs(tmp_path, question(demo.MODEL, folder, [ids], targets=[[asked["target_id"]]]), "attribute")
    answer = np.load(tmp_path / "graph-0.npz")
    told = json.loads(said(run, "attribute", "--targets", "1", "--force", "--json"))["answer"]["question"]
    assert (told["replacement"], told["completeness"]) == pytest.approx(answer["scores"], abs=WITHIN)
