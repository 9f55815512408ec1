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

from circuitcli import demo
from circuitcli.core.influence import AttributionGraph, scores
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
    said = circuit("attribute", "--run", run, "--freeze", "--replace", "--candidates", "5000", "--json").document
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
    lm: GPT2LMHeadModel, ids: Tensor, held: dict[str, Tensor] | None, says: Says | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and attention patterns and norms' scales; with `held` these are taken in place of its own."""
    parts, heads, seen = lm.transformer, lm.config.n_head, {} if held is None else held
    x, read = parts.wte(ids) + parts.wpe(torch.arange(len(ids))), {}

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
            out = torch.cat([out[:1], says(i, read)[1:]])
        x = x + out
    return lm.lm_head(norm(parts.ln_f, x, "f")), seen


@pytest.mark.parametrize(
    ("release", "layers", "flags", "code", "words"),
    [
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
