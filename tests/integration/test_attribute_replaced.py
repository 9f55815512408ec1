"""`circuit attribute --freeze --replace`: tables of the local replacement model, and how far that is from the real one.

That its graphs are circuit-tracer's is tested beside it (tests/tracer); here what the tables say of themselves, and a
forward pass of GPT-2 by hand, float64, whose attention and norms are held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.commands import Result
from torch import Tensor
from torch.nn.functional import gelu
from transformers import GPT2LMHeadModel

import circuitcli
from circuitcli import demo
from circuitcli.core.influence import AttributionGraph, scores
from circuitcli.results.answer import build
from circuitcli.results.selection import KINDS

Circuit = Callable[..., Result]
PROMPT = "In the beginning God created the"
RELEASES = {"demo-transcoders": "transcoders", "demo-clt": "clt"}


def cached(circuit: Circuit, run: Path, release: str, *more: str) -> None:
    assert circuit("fetch-saes", "--run", run, "--release", release, *more).code == 0
    assert circuit("cache-acts", "--run", run, "--prompt", PROMPT).code == 0


def table(run: Path, name: str) -> dict[str, np.ndarray]:
    found = pq.read_table(run / "attribution" / f"{name}.parquet")
    return {column: found[column].to_numpy() for column in found.column_names}


@pytest.mark.parametrize("release", RELEASES)
def test_tables(circuit: Circuit, tmp_path: Path, release: str) -> None:
    run = tmp_path / "run"
    cached(circuit, run, release)
    flags = ("--freeze", "--replace", "--targets", "1", "--candidates", "5000")
    said = circuit("attribute", "--run", run, *flags, "--json").document
    nodes, edges, rows = (table(run, name) for name in ("nodes", "edges", "rows"))
    kind = nodes["kind"]
    assert set(kind) == {"token", "feature", "error", "target"}
    assert nodes["pos"][kind == "token"].tolist() == list(range(7)), "the first token is a node as well"
    assert not (nodes["pos"][kind == "error"] == 0).any()
    into = kind[edges["target"]]
    assert set(into) == {"feature", "target"}, "errors are constants"
    # Whatever a node does in a linear model goes through its edges.
    out = np.bincount(edges["source"], edges["weight"], len(kind))
    largest = abs(nodes["effect"][kind != "target"]).max()
    assert abs(out - nodes["effect"])[kind != "target"].max() <= 1e-4 * largest
    # Scores of circuit-tracer, of every edge; what isn't kept is next to nothing.
    numbers = np.asarray([KINDS.index(name) for name in kind])
    fed = np.zeros(len(kind))
    fed[rows["target"]] = rows["abs_in"]
    graph = AttributionGraph(edges["source"], edges["target"], edges["weight"], numbers, 1.0 * (kind == "target"), fed)
    question = said["answer"]["question"]
    assert (question["replacement"], question["completeness"]) == pytest.approx(scores(graph), abs=1e-6)
    assert question["replaced"]
    assert question["metric"] == "logit(␣heavens) − mean logit"
    # What ablating features does in the real model stands beside what the replacement model says of it.
    measured = nodes["drawn"] > 0
    assert measured.sum() >= 200
    assert np.isfinite(nodes["exact"][measured]).all()
    assert {row["of"] for row in said["answer"]["calibration"]} == {"nodes"}, "edges are no estimates"
    far, by_hand = question["fidelity"], fidelity(RELEASES[release], said)
    for name, value in by_hand.items():
        assert far[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert far["kl_last"] > 0.01


def fidelity(folder: str, said: dict[str, Any]) -> dict[str, float]:
    """The real model, and one whose MLPs are what transcoders say from position 1 on, by hand."""
    lm = GPT2LMHeadModel.from_pretrained(demo.MODEL, attn_implementation="eager", dtype=torch.float64).eval()
    ids = torch.tensor(prompt_ids())
    with torch.no_grad():
        real, held = forward(lm, ids, None, None)
        assert torch.allclose(real, lm(ids[None]).logits[0]), "the pass by hand is the model's"
        ours, _ = forward(lm, ids, held, transcoders(folder))
    a, b = real.log_softmax(-1), ours.log_softmax(-1)
    kl = (a.exp() * (a - b)).sum(-1)
    follows = ids[1:]
    loss = [-x[:-1].gather(1, follows[:, None]).squeeze(1)[1:].mean() for x in (a, b)]
    same = (a.argmax(-1) == b.argmax(-1)).double()
    return {
        "kl_last": float(kl[-1]), "kl": float(kl[1:].mean()), "top1": float(same[1:].mean()),
        "real": float(loss[0]), "replacement": float(loss[1]),
    }  # fmt: skip


def prompt_ids() -> list[int]:
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
    return [words.token_to_id("<|endoftext|>"), *words.encode(PROMPT, add_special_tokens=False).ids]


Says = Callable[[int, dict[int, Tensor]], Tensor]  # of an MLP's output, from what MLPs read up to it


def transcoders(folder: str) -> Says:
    """What those of a folder say, by their tensors."""
    root = demo.MODEL.parent / folder
    if folder == "transcoders":
        per_layer = [load_file(root / f"layer_{i}.safetensors") for i in range(4)]

        def says(layer: int, x: dict[int, Tensor]) -> Tensor:
            w = {name: value.double() for name, value in per_layer[layer].items()}
            skip = x[layer] @ w["W_skip"].T if "W_skip" in w else 0
            return (
                active(x[layer], w["W_enc"], w["b_enc"], w.get("activation_function.threshold")) @ w["W_dec"]
                + w["b_dec"]
                + skip
            )

        return says
    enc, dec = ([load_file(root / f"{name}_{i}.safetensors") for i in range(4)] for name in ("W_enc", "W_dec"))

    def across(layer: int, x: dict[int, Tensor]) -> Tensor:
        said = enc[layer][f"b_dec_{layer}"].double()
        for i in range(layer + 1):
            w = {name.rsplit("_", 1)[0]: value.double() for name, value in enc[i].items()}
            a = active(x[i], w["W_enc"], w["b_enc"], w.get("threshold"))
            said = said + a @ dec[i][f"W_dec_{i}"][:, layer - i].double()
        return said

    return across


def active(x: Tensor, w_enc: Tensor, b_enc: Tensor, threshold: Tensor | None) -> Tensor:
    pre = x @ w_enc.T + b_enc
    return pre.relu() if threshold is None else pre * (pre > threshold)


def forward(
    lm: GPT2LMHeadModel,
    ids: Tensor,
    held: dict[str, Tensor] | None,
    says: Says | None,
    start: dict[int, Tensor] | None = None,
    *,
    everywhere: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and attention patterns and norms' scales; with `held` these are taken in place of its own.

    `start` is added to embeddings at some positions; `everywhere`: what MLPs give is said at the first one as well.
    """
    parts, heads, seen = lm.transformer, lm.config.n_head, {} if held is None else held
    x, read = parts.wte(ids) + parts.wpe(torch.arange(len(ids))), {}
    for pos, change in (start or {}).items():
        x[pos] += change

    def norm(module: Any, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = seen.setdefault(name, (centred.pow(2).mean(-1, keepdim=True) + module.eps).sqrt())
        return centred / scale * module.weight + module.bias

    for i, block in enumerate(parts.h):
        q, k, v = (block.attn.c_attn(norm(block.ln_1, x, f"{i}.1"))).chunk(3, -1)
        q, k, v = (each.view(len(ids), heads, -1).transpose(0, 1) for each in (q, k, v))
        scores_ = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        pattern = seen.setdefault(f"{i}.a", scores_.masked_fill(~mask, -torch.inf).softmax(-1))
        x = x + block.attn.c_proj((pattern @ v).transpose(0, 1).flatten(1))
        read[i] = norm(block.ln_2, x, f"{i}.2")
        out = block.mlp.c_proj(gelu(block.mlp.c_fc(read[i]), approximate="tanh"))
        if says is not None:
            out = says(i, read) if everywhere else torch.cat([out[:1], says(i, read)[1:]])
        x = x + out
    return lm.lm_head(norm(parts.ln_f, x, "f")), seen


def test_several_targets(circuit: Circuit, tmp_path: Path) -> None:
    """Without a target the likeliest tokens are explained together; effects by a linear pass by hand, float64."""
    run = tmp_path / "run"
    cached(circuit, run, "demo-transcoders")
    said = circuit(
        "attribute", "--run", run, "--freeze", "--replace", "--candidates", "5000", "--json"
    ).document["answer"]  # fmt: skip
    lm = GPT2LMHeadModel.from_pretrained(demo.MODEL, attn_implementation="eager", dtype=torch.float64).eval()
    ids = torch.tensor(prompt_ids())
    with torch.no_grad():
        linear = Linear(lm, ids)
    probs, likely = linear.logits[-1].softmax(-1).sort(descending=True)
    count = min(10, int((probs.cumsum(0) < 0.95).sum()) + 1)
    assert count == 10
    assert [one["token_id"] for one in said["targets"]] == likely[:count].tolist()
    assert [one["prob"] for one in said["targets"]] == pytest.approx(probs[:count].tolist(), rel=1e-4)
    shares = probs[:count] / probs[:count].sum()
    assert [one["weight"] for one in said["targets"]] == pytest.approx(shares.tolist(), rel=1e-4)
    question = said["question"]
    assert (question["metric"], question["targets"]) == ("logit(10 likeliest) − mean logit", count)
    assert question["prob"] == pytest.approx(float(probs[:count].sum()), rel=1e-4)

    def metric(logits: Tensor) -> Tensor:
        return logits[-1, likely[:count]] - logits[-1].mean()

    clean = metric(linear.logits)
    assert question["clean"] == pytest.approx(float((shares * clean).sum()), rel=1e-4)
    nodes, edges = table(run, "nodes"), table(run, "edges")
    target = nodes["kind"] == "target"
    np.testing.assert_allclose(nodes["activation"][target], clean.numpy(), rtol=1e-4)
    largest = float(abs(nodes["effect"][~target]).max())
    out = np.bincount(edges["source"], edges["weight"], len(target))
    assert abs(out - nodes["effect"])[~target].max() <= 1e-4 * largest
    # Each of the largest features of every layer, and each token, left out by hand: what that does to m.
    with torch.no_grad():
        for node in [*np.flatnonzero(nodes["kind"] == "token"), *largest_features(nodes)]:
            site = ("token", 0) if nodes["kind"][node] == "token" else ("feature", int(nodes["layer"][node]))
            without = linear.without(*site, int(nodes["feature"][node]), int(nodes["pos"][node]))
            by_hand = float((shares * (metric(without) - clean)).sum())
            assert nodes["effect"][node] == pytest.approx(by_hand, abs=1e-4 * largest), node
            # Of the last layer's features every effect is an edge, one a target.
            if site == ("feature", 3):
                ways = edges["source"] == node
                by_target = dict(zip(edges["target"][ways].tolist(), edges["weight"][ways].tolist(), strict=True))
                own = (shares * (metric(without) - clean)).tolist()
                for end, weight in zip(np.flatnonzero(target).tolist(), own, strict=True):
                    assert by_target.get(end, 0.0) == pytest.approx(weight, abs=1e-4 * largest), (node, end)
    read_as_a_graph(run, likely[:count].tolist(), [one["token"] for one in said["targets"]], said)


def largest_features(nodes: dict[str, np.ndarray]) -> list[int]:
    found: list[int] = []
    for layer in range(4):
        here = np.flatnonzero((nodes["kind"] == "feature") & (nodes["layer"] == layer))
        found += here[np.argsort(-abs(nodes["effect"][here]))[:5]].tolist()
    return found


def read_as_a_graph(run: Path, likely: list[int], tokens: list[str], said: dict[str, Any]) -> None:
    """A node for each target in tables, on paths and in circuit.json, the likeliest first; scores count them all."""
    results = circuitcli.open_run(run)
    frame = results.attribution.nodes()
    ends = frame[frame["kind"] == "target"]
    assert ends["id"].tolist() == [f"target.{one}" for one in likely]
    assert ends["token"].tolist() == tokens
    whole = results.attribution.nodes(by_prompt=True)
    assert whole["token"][whole["kind"] == "target"].tolist() == tokens
    assert whole["id"][whole["kind"] == "target"].tolist() == ends["id"].tolist()
    assert {path["nodes"][-1] for path in said["paths"]} <= {token.replace(" ", "␣") for token in tokens}
    drawn = [node for node in build(results).nodes if node.kind == "target"]
    assert [(node.id, node.attribution.token_id) for node in drawn] == list(zip(ends["id"], likely, strict=True))
    assert [node.attribution.prob for node in drawn] == [one["prob"] for one in said["targets"]]
    nodes, edges, rows = (table(run, name) for name in ("nodes", "edges", "rows"))
    kind = nodes["kind"]
    outcome, fed = np.zeros(len(kind)), np.zeros(len(kind))
    outcome[kind == "target"] = [one["weight"] for one in said["targets"]]
    fed[rows["target"]] = rows["abs_in"]
    numbers = np.asarray([KINDS.index(name) for name in kind])
    graph = AttributionGraph(edges["source"], edges["target"], edges["weight"], numbers, outcome, fed)
    question = said["question"]
    assert (question["replacement"], question["completeness"]) == pytest.approx(scores(graph), abs=1e-6)


class Linear:
    """The local replacement model of the demo's transcoders by hand: linear in what is left out."""

    def __init__(self, lm: GPT2LMHeadModel, ids: Tensor) -> None:
        self.lm, self.ids = lm, ids
        self.logits, self.held = forward(lm, ids, None, None)
        self.read: dict[int, Tensor] = {}
        self.out: dict[int, Tensor] = {}
        forward(lm, ids, self.held, self._clean)
        root = demo.MODEL.parent / "transcoders"
        self.weights = [
            {name: value.double() for name, value in load_file(root / f"layer_{i}.safetensors").items()}
            for i in range(4)
        ]
        self.acts = [
            active(self.read[i], w["W_enc"], w["b_enc"], w.get("activation_function.threshold"))
            for i, w in enumerate(self.weights)
        ]

    def _clean(self, layer: int, x: dict[int, Tensor]) -> Tensor:
        mlp = self.lm.transformer.h[layer].mlp
        self.read[layer] = x[layer].clone()
        self.out[layer] = mlp.c_proj(gelu(mlp.c_fc(x[layer]), approximate="tanh"))
        return self.out[layer]

    def without(self, kind: str, layer: int, feature: int, pos: int) -> Tensor:
        """Logits once a feature at a position, or a token's embedding, is 0."""

        def says(at: int, x: dict[int, Tensor]) -> Tensor:
            w, change = self.weights[at], x[at] - self.read[at]
            acts = (change @ w["W_enc"].T) * (self.acts[at] > 0)
            if kind == "feature" and at == layer:
                acts[pos, feature] = -self.acts[at][pos, feature]
            skip = change @ w["W_skip"].T if "W_skip" in w else 0
            found = self.out[at] + acts @ w["W_dec"] + skip
            found[0] = self.out[at][0] + (skip[0] if "W_skip" in w else 0)  # where nothing is counted: no features
            return found

        table = self.lm.transformer.wte.weight
        start = {pos: -table[self.ids[pos]]} if kind == "token" else {}
        return forward(self.lm, self.ids, self.held, says, start, everywhere=True)[0]


def test_several_prompts_have_one_target_each(circuit: Circuit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert circuit("fetch-saes", "--run", run, "--release", "demo-transcoders").code == 0
    assert circuit("cache-acts", "--run", run, "--prompt", PROMPT, "--prompt", "And God said unto the").code == 0
    refused = circuit("attribute", "--run", run, "--freeze", "--replace", "--targets", "3")
    assert refused.code == 2
    assert "--targets 3 is of one prompt, and there are 2" in refused.err
    said = circuit("attribute", "--run", run, "--freeze", "--replace", "--json").document["answer"]
    assert "targets" not in said
    assert said["question"]["targets"] == 1
    assert (table(run, "nodes")["kind"] == "target").sum() == 2


@pytest.mark.parametrize(
    ("release", "layers", "flags", "code", "words"),
    [
        ("demo-transcoders", ":", ["--targets", "3"], 2, ["--targets 3", "--freeze --replace"]),
        (
            "demo-transcoders",
            ":",
            ["--replace", "--freeze", "--targets", "3", "--target", " earth"],
            2,
            ["--targets 3", "--target"],
        ),
        ("demo-transcoders", ":", ["--replace"], 2, ["--freeze"]),
        ("demo-transcoders", ":", ["--replace", "--freeze", "--method", "relp"], 2, ["--method relp", "atp"]),
        ("demo-transcoders", ":", ["--replace", "--freeze", "--baseline", "mean"], 2, ["--baseline mean", "zero"]),
        ("demo-transcoders", "1:3", ["--replace", "--freeze"], 3, ["no MLP of layers 0, 3:", "all its layers"]),
        ("demo-clt", ":2", ["--replace", "--freeze"], 3, ["no MLP of layers 2, 3:", "all its layers"]),
        (
            "demo-transcoders",
            ":",
            ["--replace", "--freeze", "--counterfactual", "In the beginning Moses created the"],
            2,
            ["--baseline patch", "counterfactuals"],
        ),
        ("demo", ":", ["--replace", "--freeze"], 3, ["stand for no MLP:", "demo-transcoders"]),
    ],
)
def test_refused(
    circuit: Circuit, tmp_path: Path, release: str, layers: str, flags: list[str], code: int, words: list[str]
) -> None:
    run = tmp_path / "run"
    cached(circuit, run, release, "--layers", layers)
    found = circuit("attribute", "--run", run, *flags)
    assert found.code == code
    assert all(word in found.err for word in words), found.err
    assert not (run / "attribution").exists()
