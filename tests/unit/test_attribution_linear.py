"""On a linear model estimates are the truth: nodes by every method, and edges both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.attributed import Asked, ask, close
from support.fakes import LAYERS, VOCAB, D, LinearModel, linear_sae
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.attribution.direct import TARGET
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import SITES, Site

WITHIN = 1e-5
MODEL = LinearModel.random(3)
EVERYWHERE = [Site(layer, name) for layer in (0, 1) for name in SITES if (layer, name) != (0, "resid_post")]
PROMPT, OTHER = torch.randint(0, VOCAB, (2, 6), generator=torch.Generator().manual_seed(0))
METRIC = Metric(3, 5)


def identity(site: Site, shift: float = 50.0) -> Dictionary:
    """a = x + 50, always above 0; x̂ = x."""
    eye = torch.eye(D)
    return Dictionary(site, site, Relu(), eye, torch.full((D,), shift), eye, torch.full((D,), -shift), False)


def pairs_of(site: Site) -> Dictionary:
    """a = (relu(x), relu(−x)); x̂ = x."""
    both, none = torch.cat([torch.eye(D), -torch.eye(D)]), (torch.zeros(2 * D), torch.zeros(D))
    return Dictionary(site, site, Relu(), both.T.contiguous(), none[0], both, none[1])


DICTIONARIES = {
    "identity": [identity(site) for site in EVERYWHERE],
    "pairs": [pairs_of(site) for site in EVERYWHERE],
    "random": [linear_sae(site, i) for i, site in enumerate(EVERYWHERE)],
}


def asked(kind: str, baseline: str) -> Asked:
    """Baselines: `near` the clean activations, so that nothing bends on the way."""
    given: dict[str, Any] = {"zero": {}, "near": {"token": torch.ones(6, D)}, "patch": {"other": OTHER}}[baseline]
    if baseline == "near":
        clean = MODEL.run(PROMPT[None], EVERYWHERE).sites
        errors = {one.writes: (x := clean[one.reads][0]) - one.decode(one.encode(x), x) for one in DICTIONARIES[kind]}
        given |= {"error": {site: 0.99 * e for site, e in errors.items()}}
        given |= {"replace": lambda pos, feature, a: (0.97 - 0.01 * (feature % 3)) * a}
    return ask(MODEL, PROMPT, DICTIONARIES[kind], metric=METRIC, special=[3], **given)


@pytest.mark.parametrize("baseline", ["zero", "near", "patch"])
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_nodes_by_every_method(kind: str, baseline: str) -> None:
    of = asked(kind, baseline)
    exact = of.exact()
    close(of.estimates(), exact, WITHIN, "atp")
    for steps in (1, 4):
        close(of.integrated(steps), exact, WITHIN, "ig")
    for source, effects in zip(of.sources, exact, strict=True):
        expected = [by_hand(source.site, int(p), d) for p, d in zip(source.pos, source.delta, strict=True)]
        close(effects, torch.stack(expected), WITHIN, source.site, floor=WITHIN * float(torch.cat(exact).abs().max()))


def by_hand(site: Site, pos: int, delta: Tensor) -> Tensor:
    """What δ at one position changes m by: the rest of the model as matrices."""
    x, first = torch.zeros(len(PROMPT), D), SITES.index(site.name)
    x[pos] = delta
    for layer in range(site.layer, LAYERS):
        behind = SITES[first if layer == site.layer else 0]
        if behind == "resid_pre":
            x = x + x.cumsum(0) @ MODEL.v @ MODEL.o
        elif behind == "z":
            x = x @ MODEL.o
        if behind == "mlp_in":
            x = x @ MODEL.m
        elif behind not in ("mlp_out", "resid_post"):
            x = x + x @ MODEL.m
    return x[-1] @ (MODEL.u[:, METRIC.target] - MODEL.u[:, METRIC.against])


@pytest.mark.parametrize(("kind", "baseline"), [("identity", "near"), ("identity", "patch"), ("random", "near")])
def test_edges_estimated_and_measured(kind: str, baseline: str) -> None:
    of = asked(kind, baseline)
    pairs = of.pairs()
    exact = of.measured_edges(pairs)
    close(of.among(pairs), exact, WITHIN)
    assert (exact[pairs.down == TARGET].abs() > 1e-3).any()
    assert (exact[pairs.down != TARGET].abs() > 1e-3).sum() > 100


def test_edges_across_a_bend() -> None:
    """Features that a node pushes below 0 stop there: E = −(g·d_j)·a_j; all others go as estimated."""
    of = asked("pairs", "zero")
    pairs = of.pairs()
    exact, estimate, gradient = of.measured_edges(pairs), of.among(pairs), of.gradients()[0]
    expected, bent = estimate.clone(), 0
    for down, one in enumerate(of.parts):
        here = (pairs.down == down).nonzero().squeeze(1)
        node = pairs.down_node[here]
        here, node = here[node < one.features], node[node < one.features]
        weight = (gradient[one.site][one.pos[node]] * one.decoder[node]).sum(-1)
        moved = estimate[here] / weight
        below = (moved < -one.activation[node]) & (weight.abs() > 1e-3)
        expected[here[below]] = -weight[below] * one.activation[node][below]
        bent += int(below.sum())
    assert bent > 50
    close(exact, expected, WITHIN)
