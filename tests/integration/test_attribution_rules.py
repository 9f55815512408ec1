"""With constants of a clean pass: a model that they make linear, and what relp's edges add up to."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from support.attributed import MIXED, Asked, ask, close, dictionaries
from support.families import CONFIGS, FAMILIES, VOCAB, save_checkpoint
from support.random_saes import random_sae
from support.tiny import load_model
from support.zoo import Kept, save

from circuitcli.core.activations.standard import Relu
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.model import FROZEN, RELP, Fixed
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel

pytestmark = pytest.mark.seams
WITHIN = 1e-5
PROMPT, OTHER = torch.randint(2, VOCAB, (2, 6), generator=torch.Generator().manual_seed(2))
SITES = [Site(0, "resid_pre"), Site(1, "z"), Site(1, "mlp_in"), Site(2, "attn_out"), Site(2, "resid_post")]
# MLPs that apply nothing between their matrices; the last has Llama's norms, rotations and grouped keys.
LINEAR = {
    "gpt2": {"activation_function": "linear"},
    "neox": {"hidden_act": "linear"},
    "arcee": {"hidden_act": "linear"},
}


@cache
def linear(family: str) -> BridgeModel:
    folder = Path(mkdtemp())
    if family not in CONFIGS:
        return load_model(save(Kept(family, options=LINEAR[family]), folder))
    config = copy.deepcopy(CONFIGS[family])
    config.update(LINEAR[family])
    return load_model(save_checkpoint(family, folder, config=config))


@cache
def model_of(family: str) -> BridgeModel:
    return load_model(save_checkpoint(family, Path(mkdtemp())))


def identity(model: BridgeModel, site: Site, seed: int) -> Dictionary:
    """a = x + 50, always above 0; x̂ = x."""
    eye = torch.eye(model.shape.width(site.name))
    shift = torch.full((len(eye),), 50.0)
    return Dictionary(site, site, Relu(), eye, shift, eye, -shift, False)


def always_on(model: BridgeModel, site: Site, seed: int) -> Dictionary:
    """Random; its features are far above 0, and its errors large."""
    one = random_sae(model, site, "relu", Frame(), 12, seed)
    return Dictionary(site, site, Relu(), one.w_enc, one.b_enc + 200, one.w_dec / 20, one.b_dec)


def asked(model: BridgeModel, make: Any, baseline: str) -> Asked:
    saes = [make(model, site, i) for i, site in enumerate(SITES)]
    if baseline != "near":
        return ask(model, PROMPT, saes, metric=Metric(3, 5), other=OTHER if baseline == "patch" else None)
    clean = model.run(PROMPT[None], SITES).sites
    error = {one.writes: 0.98 * ((x := clean[one.reads][0]) - one.decode(one.encode(x), x)) for one in saes}
    stream = 0.9 * clean[SITES[0]][0]
    return ask(
        model, PROMPT, saes, metric=Metric(3, 5), error=error, token=stream,
        replace=lambda pos, feature, a: a - a.mean() / 6 * (1.0 + feature % 3),
    )  # fmt: skip


@pytest.mark.parametrize("baseline", ["zero", "near", "patch"])
@pytest.mark.parametrize("make", [identity, always_on])
@pytest.mark.parametrize("family", LINEAR)
def test_nodes_of_a_linear_model_by_every_method(family: str, make: Any, baseline: str) -> None:
    model = linear(family)
    with model.fixed(PROMPT[None], FROZEN):
        of = asked(model, make, baseline)
        exact, atp, ig = of.exact(), of.estimates(), of.integrated(3)
    with model.fixed(PROMPT[None], Fixed(patterns=True, norms=True, activations=True)):
        relp = of.estimates()
    for name, found in (("atp", atp), ("ig", ig), ("relp", relp)):
        close(found, exact, WITHIN, name, floor=of.rounding)
    assert torch.cat(exact).abs().max() > 1e3 * of.rounding
    free = of.estimates()
    with pytest.raises(AssertionError):  # or nothing was held
        close(free, exact, 0.01)


@pytest.mark.parametrize(("make", "baseline"), [(identity, "near"), (identity, "patch"), (always_on, "near")])
@pytest.mark.parametrize("family", LINEAR)
def test_edges_of_a_linear_model_both_ways(family: str, make: Any, baseline: str) -> None:
    model = linear(family)
    with model.fixed(PROMPT[None], FROZEN):
        of = asked(model, make, baseline)
        pairs = of.pairs_of_all_sizes(1000)
        estimate = of.among(pairs)
        exact = of.measured_edges(pairs, 256)
    close(estimate, exact, WITHIN, floor=of.rounding)
    assert (exact.abs() > 100 * of.rounding).sum() > 20


@pytest.mark.parametrize("what", [RELP, FROZEN, Fixed(patterns=True, norms=True, activations=True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_add_up_under_other_rules(family: str, what: Fixed) -> None:
    model = model_of(family)
    of = ask(model, PROMPT, dictionaries(model, MIXED, seed=1), special=[3], other=OTHER)
    free = of.estimates()
    with model.fixed(PROMPT[None], what):
        into, target = of.edges()
        estimates = of.estimates()
    close(torch.stack([target, *(one.sum(0) for one in into)]).sum(0), estimates, WITHIN)
    assert (torch.cat(estimates) - torch.cat(free)).abs().max() > 0.01 * torch.cat(free).abs().max()
