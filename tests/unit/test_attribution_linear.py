"""On a linear model estimates are the truth: nodes by every method, and edges both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.attributed import Asked, ask, close
from support.fakes import LAYERS, VOCAB, D, LinearModel, linear_sae
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.attribution.direct import TARGET
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Decoder, Dictionary
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


def transcoder(reads: Site, seed: int, further: Sequence[Site] = (), *, skip: bool = False) -> Dictionary:
    """Whose relu is never bent; it writes mlp_out of its layer, and further sites."""
    draw = torch.Generator().manual_seed(seed)
    decoders = [torch.randn(6, D, generator=draw) / 8 for _ in range(1 + len(further))]
    return replace(
        linear_sae(reads, seed),
        writes=Site(reads.layer, "mlp_out"),
        w_dec=decoders[0],
        apply_b_dec_to_input=False,
        w_skip=torch.randn(D, D, generator=draw) / 2 if skip else None,
        further=tuple(Decoder(site, rows) for site, rows in zip(further, decoders[1:], strict=True)),
    )


DICTIONARIES = {
    "identity": [identity(site) for site in EVERYWHERE],
    "pairs": [pairs_of(site) for site in EVERYWHERE],
    "random": [linear_sae(site, i) for i, site in enumerate(EVERYWHERE)],
    "transcoders": [
        transcoder(Site(0, "resid_mid"), 1, skip=True),
        linear_sae(Site(1, "resid_pre"), 2),
        transcoder(Site(1, "mlp_in"), 3),
    ],
    "across": [
        transcoder(Site(0, "mlp_in"), 4, [Site(1, "mlp_out")], skip=True),
        transcoder(Site(1, "mlp_in"), 5, skip=True),
    ],
}


def asked(kind: str, baseline: str) -> Asked:
    """Baselines: `near` the clean activations, so that nothing bends on the way."""
    given: dict[str, Any] = {"zero": {}, "near": {"token": torch.ones(6, D)}, "patch": {"other": OTHER}}[baseline]
    if baseline == "near":
        given |= {"error": {site: 0.99 * e for site, e in errors(kind).items()}}
        given |= {"replace": lambda pos, feature, a: (0.97 - 0.01 * (feature % 3)) * a}
    return ask(MODEL, PROMPT, DICTIONARIES[kind], metric=METRIC, special=[3], **given)


def errors(kind: str) -> dict[Site, Tensor]:
    """What no dictionary says of each site that some of them write: y − Σ a W_dec − b_dec − x W_skipᵀ."""
    clean = {site: x[0] for site, x in MODEL.run(PROMPT[None], EVERYWHERE).sites.items()}
    found = {decoder.site: clean[decoder.site] for one in DICTIONARIES[kind] for decoder in one.decoders}
    for one in DICTIONARIES[kind]:
        x = clean[one.reads]
        for decoder in one.decoders:
            found[decoder.site] = found[decoder.site] - one.encode(x) @ decoder.w_dec
        found[one.writes] = found[one.writes] - one.b_dec - (0 if one.w_skip is None else x @ one.w_skip.T)
    return found


@pytest.mark.parametrize("baseline", ["zero", "near", "patch"])
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_nodes_by_every_method(kind: str, baseline: str) -> None:
    of = asked(kind, baseline)
    exact = of.exact()
    close(of.estimates(), exact, WITHIN, "atp")
    for steps in (1, 4):
        close(of.integrated(steps), exact, WITHIN, "ig")
    for source, effects in zip(of.sources, exact, strict=True):
        deltas = source.deltas(torch.arange(len(source)))
        expected = [
            torch.stack([by_hand(site, int(pos), delta[i]) for site, delta in deltas.items()]).sum(0)
            for i, pos in enumerate(source.pos)
        ]
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


@pytest.mark.parametrize(
    ("kind", "baseline"),
    [("identity", "near"), ("identity", "patch"), ("random", "near"), ("transcoders", "near"), ("across", "near")],
)
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
