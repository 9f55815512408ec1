"""Edges of a node add up to its effect, whatever the model, the dictionaries, the baseline and the batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from support.attributed import MIXED, Asked, ask, close, dictionaries
from support.families import FAMILIES, VOCAB, save_checkpoint
from support.random_saes import random_clt, random_transcoder
from support.tiny import load_model
from support.zoo import ZOO, save

from circuitcli.core.attribution.direct import Pairs
from circuitcli.core.attribution.edges import Cut, Jacobians
from circuitcli.core.attribution.measured import seen
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel

pytestmark = pytest.mark.seams
WITHIN = 1e-5
T, SPECIAL = 7, 4
# Parallel blocks; norms behind attention and MLP, and of queries and keys; fused gates; whole sequences alone.
OTHERS = ("gptj", "cohere", "phi", "olmo2", "gemma3_text", "qwen3", "phi3", "gpt_neo")
BASELINES = ("zero", "mean", "patch")


@cache
def model_of(name: str) -> BridgeModel:
    folder = Path(mkdtemp())
    if name in FAMILIES:
        return load_model(save_checkpoint(name, folder))
    return load_model(save(next(kept for kept in ZOO if kept.kind == name), folder))


def asked(
    model: BridgeModel,
    baseline: str,
    seed: int = 0,
    sites: tuple[Site, ...] = MIXED,
    given: Sequence[Dictionary] = (),
) -> Asked:
    draw = torch.Generator().manual_seed(seed + 1)
    prompt, other = torch.randint(2, VOCAB, (2, T), generator=draw)
    one = list(given) or dictionaries(model, sites, seed=seed)
    how: dict[str, Any] = {}
    if baseline == "mean":
        how["replace"] = lambda pos, feature, a: (0.3 + 0.1 * ((feature + pos) % 5)).float()
        how["error"] = {d.writes: 0.1 * torch.randn(T, d.w_dec.shape[1], generator=draw) for d in one}
        how["token"] = torch.randn(T, model.shape.d_model, generator=draw)
    metric = Metric(3, 5) if seed % 2 else None
    return ask(
        model, prompt, one, metric=metric, special=[SPECIAL], other=other if baseline == "patch" else None, **how
    )


def totals(of: Asked) -> torch.Tensor:
    """What the edges of each node add up to."""
    into, target = of.edges()
    return torch.stack([target, *(one.sum(0) for one in into)]).sum(0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_add_up_to_the_effect(family: str, baseline: str, seed: int) -> None:
    """Architectures, frames and sites of every kind in one model, and a special token in the middle."""
    of = asked(model_of(family), baseline, seed)
    close(totals(of), of.estimates(), WITHIN)
    assert min(one.features for one in of.parts) > 0
    assert all(SPECIAL not in source.pos and 0 not in source.pos for source in of.sources)


@pytest.mark.parametrize(("skip", "baseline"), [(False, "patch"), (True, "zero"), (True, "mean")])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_add_up_of_what_writes_elsewhere(family: str, across: bool, skip: bool, baseline: str) -> None:
    """Transcoders of every layer, and those across layers, whose features write several sites."""
    model = model_of(family)
    kinds = itertools.cycle(("relu", "topk", "jumprelu"))
    some = random_clt(model, next(kinds), skip=skip).values() if across else [
        random_transcoder(model, Site(layer, "mlp_in"), next(kinds), skip=skip, seed=layer, centre_out=layer == 1)
        for layer in range(model.shape.n_layers)
    ]  # fmt: skip
    of = asked(model, baseline, 1, given=list(some))
    close(totals(of), of.estimates(), WITHIN)
    assert min(one.features for one in of.parts) > 0


@pytest.mark.parametrize("kind", OTHERS)
def test_edges_add_up_in_other_families(kind: str) -> None:
    of = asked(model_of(kind), "patch", 1)
    close(totals(of), of.estimates(), WITHIN)


@pytest.mark.parametrize("special", [(T - 1,), (1, T - 2), tuple(range(1, T - 1))])
def test_edges_add_up_wherever_special_tokens_are(special: tuple[int, ...]) -> None:
    """What passes through them is direct: through the last position too, where the target is read."""
    model = model_of("llama")
    one = asked(model, "zero")
    of = ask(model, one.prompt.tokens, list(one.dictionaries.values()), special=special)
    close(totals(of), of.estimates(), WITHIN)
    assert {int(p) for source in of.sources for p in source.pos} == set(range(1, T)) - set(special)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_batches_change_nothing(family: str) -> None:
    of = asked(model_of(family), "patch", sites=MIXED[2:5])
    exact, floor = of.exact(64), of.rounding
    for size in (3, 10_000):
        close(of.exact(size), exact, WITHIN, size, floor=floor)
    ig = of.integrated(5, 5)
    for at_once in (1, 2, 100):
        close(of.integrated(5, at_once), ig, WITHIN, at_once)
    some = of.pairs(every=61)
    edges = of.measured_edges(some, 64)
    for size in (1, 10_000):
        close(of.measured_edges(some, size), edges, WITHIN, size, floor=floor)
    mixed = torch.randperm(len(some), generator=torch.Generator().manual_seed(0))
    other = Pairs(*(column[mixed] for column in (some.up, some.up_node, some.down, some.down_node)))
    close(of.measured_edges(other, 5), edges[mixed], WITHIN, "in another order", floor=floor)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_rows_of_a_product_change_nothing(family: str) -> None:
    """One at a time; so many that the last block has fewer; more than there are of any."""
    of = asked(model_of(family), "zero")
    expected, towards = of.edges(16)
    for rows in (1, 5, 200):
        found, target = of.edges(rows)
        close(found, expected, WITHIN, rows)
        close(target, towards, WITHIN, rows)


def test_rows_come_in_order_and_no_more_at_once_than_asked() -> None:
    of = asked(model_of("gpt2"), "zero")
    (features, errors), rows = of.parts[2].of, 5
    gradient, last = of.gradients()
    jacobians = Jacobians(of.model, of.prompt.tokens, of.counts, of.flat, rows)
    which = torch.arange(len(features)).flip(0)[:13]
    blocks = list(jacobians.into_features(features, which, gradient))
    assert [len(block) for block in blocks] == [5, 5, 3]
    each = [next(iter(jacobians.into_features(features, w[None], gradient))) for w in which]
    close(torch.cat(blocks), torch.cat(each), WITHIN)
    assert [len(block) for block in jacobians.into_target(last)] == [1]
    assert not list(jacobians.into_features(features, which[:0], gradient))
    assert not list(jacobians.into_errors(errors, which[:0], gradient))


def test_tokens_feed_the_dictionary_that_reads_them() -> None:
    """A dictionary of 0.resid_pre takes in all that a token does: E = (g·d_j)(k_j·δ), and nothing goes past it."""
    of = asked(model_of("gpt2"), "zero")
    bottom, tokens = of.parts[0], of.sources[-1]
    assert bottom.site == tokens.site
    own = slice(-len(tokens), None)
    into, target = of.edges()
    g = of.gradients()[0][bottom.site]
    here = bottom.pos[:, None] == tokens.pos
    features = (
        (g[bottom.pos[: bottom.features]] * bottom.decoder).sum(-1, keepdim=True) * bottom.encoder @ tokens.delta.T
    )
    close(into[0][: bottom.features, own], features * here[: bottom.features], WITHIN)
    left = (g[tokens.pos] * tokens.delta).sum(-1) - (features * here[: bottom.features]).sum(0)
    close(into[0][bottom.features :, own], left.diag(), WITHIN)
    assert not any(one[:, own].any() for one in [*into[1:], target[None]])


@pytest.mark.parametrize("name", ["gpt2", "gptj"])
def test_what_cannot_reach_the_metric_is_zero_and_the_rest_is_not(name: str) -> None:
    """Behind the last block's attention, but at the last position: no gradient comes there, and no effect, not even one
    of rounding."""
    of = asked(model_of(name), "zero")
    gradient, _ = of.gradients()
    blind = 0
    for one, exact in zip(of.sources, of.exact(), strict=True):
        there = seen(of.model.shape, one.site, one.pos, T)
        blind += int((~there).sum())
        assert not gradient[one.site][one.pos[~there]].any()
        assert not exact[~there].any()
        if there.any():
            assert gradient[one.site][one.pos[there]].any(1).all()
            assert exact[there].abs().max() > of.rounding
    assert blind > 0


@pytest.mark.parametrize("special", [True, False])
def test_a_pass_back_ends_at_cuts_that_nothing_goes_by(special: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a special token behind nodes effects go by the cuts, and edges are the same as where all goes on;
    without, a product reaches nothing before the last cut of the stream."""
    model = model_of("gpt2")
    sites = tuple(Site(layer, "resid_post") for layer in range(3))
    of = ask(model, torch.randint(2, VOCAB, (T,)), dictionaries(model, sites), special=[SPECIAL] if special else [])
    ours, target = of.edges()
    into = Jacobians(of.model, of.prompt.tokens, of.counts, of.flat, 4)
    x = into._cut.before[sites[2]]
    grads = torch.autograd.grad(x.sum(), [into._cut.after[site] for site in sites[:2]], allow_unused=True)
    assert (grads[0] is not None) == special
    assert grads[1] is not None
    monkeypatch.setattr(Cut, "_leaks", True)
    always, last = of.edges()
    close(ours, always, WITHIN)
    close(target, last, WITHIN)
