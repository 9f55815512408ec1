"""Scaling features beside plain transformers with hooks, float64: SAEs, transcoders, per layer and across layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from support import engine
from support.families import VOCAB, PlainFamily, save_checkpoint
from support.random_saes import random_clt, random_sae, random_transcoder
from support.steered_plain import Factors, PlainSteering
from support.tiny import load_model
from support.transcoded import by_hand

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.sites import Site
from circuitcli.core.steering import Steered, continued, next_logits
from circuitcli.runtime.model import BridgeModel

WITHIN = 1e-4  # of the largest change
FAMILIES = ("gpt2", "llama", "gemma2", "neox")
KINDS = {"resid_post": "relu", "attn_out": "topk", "z": "jumprelu", "per layer": "topk", "across layers": "jumprelu"}
TOKENS = torch.randint(2, VOCAB, (9,), generator=torch.Generator().manual_seed(5))
COUNTS = torch.tensor([False, True, True, False, True, True, True, True, True])  # a special token at 3
FACTORS = (2.5, -1.0, 0.0)


@functools.cache
def models(family: str) -> tuple[BridgeModel, PlainFamily]:
    folder = save_checkpoint(family, Path(mkdtemp()))
    return load_model(folder), PlainFamily(folder, family)


def dictionaries(model: BridgeModel, what: str) -> dict[Site, Dictionary]:
    """One a layer of a kind, which reads a site; `all`: those of every kind that may be there together."""
    layers, kind = range(model.shape.n_layers), KINDS.get(what, "relu")
    if what == "all":
        several = [dictionaries(model, one) for one in ("z", "attn_out", "resid_post", "across layers")]
        beside = {site: random_sae(model, site, "relu", Frame(), 16, 7) for site in (Site(1, "mlp_out"),)}
        return {site: one for some in (*several, beside) for site, one in some.items()}
    if what == "across layers":
        return random_clt(model, kind, skip=True, d_sae=16)
    if what == "per layer":
        reads = "mlp_in" if model.shape.parallel else "resid_mid"
        centred = model.shape.norms_subtract_mean
        return {
            site: random_transcoder(model, site, kind, skip=True, d_sae=16, seed=site.layer, centre_out=centred)
            for site in (Site(layer, reads) for layer in layers)
        }
    sites = (Site(layer, what) for layer in layers)
    return {site: random_sae(model, site, kind, Frame(), 16, 100 + site.layer) for site in sites}


def strongest(model: BridgeModel, ours: Mapping[Site, Dictionary]) -> Factors:
    """Of each dictionary the features that fire most where it counts, each with another factor."""
    read = model.run(TOKENS[None], list(ours)).sites
    found = {}
    for number, (site, one) in enumerate(ours.items()):
        order = one.encode(read[site][0][COUNTS].float()).amax(0).argsort(descending=True)[:2]
        found[tuple(site)] = {int(j): FACTORS[(number + i) % len(FACTORS)] for i, j in enumerate(order)}
    return found


def steered(ours: Mapping[Site, Dictionary], factors: Factors) -> list[Steered]:
    """As core has it."""
    return [
        Steered(ours[Site(*place)], torch.tensor(list(of)), torch.tensor(list(of.values())))
        for place, of in factors.items()
    ]


def by_plain(plain: PlainFamily, ours: Mapping[Site, Dictionary], factors: Factors) -> PlainSteering:
    return PlainSteering(plain.hf, {tuple(site): by_hand(one) for site, one in ours.items()}, factors)


@pytest.mark.parametrize("what", [*KINDS, "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_next_tokens_are_those_of_plain_transformers(family: str, what: str) -> None:
    model, plain = models(family)
    ours = dictionaries(model, what)
    factors = strongest(model, ours)
    truth = by_plain(plain, ours, factors)
    expected, clean = truth.logits(TOKENS, COUNTS)[-1], by_plain(plain, ours, {}).logits(TOKENS, COUNTS)[-1]
    assert not truth.doubtful
    found, fired = next_logits(model, TOKENS, COUNTS, steered(ours, factors))
    moved = float((expected - clean).abs().max())
    assert moved > 0.05
    assert (found - expected).abs().max() <= WITHIN * max(moved, 1.0)
    fires = {
        (tuple(site), int(j)): int((fired[site].feature == number).sum())
        for site in ours
        for number, j in enumerate(factors[tuple(site)])
    }
    assert fires == truth.fires


@pytest.mark.parametrize("what", ["resid_post", "per layer", "across layers"])
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_continuations_are_those_of_plain_transformers(family: str, what: str) -> None:
    """Features that fire at new tokens are scaled as well."""
    model, plain = models(family)
    ours = dictionaries(model, what)
    factors = strongest(model, ours)
    truth = by_plain(plain, ours, factors)
    expected = truth.continued(TOKENS, COUNTS, 8)
    changes = steered(ours, factors)
    assert list(continued(model, TOKENS, COUNTS, changes, 8, ends=None)) == expected
    clean = by_plain(plain, ours, {}).continued(TOKENS, COUNTS, 8)
    assert list(continued(model, TOKENS, COUNTS, [], 8, ends=None)) == clean
    until = expected[: expected.index(expected[-1]) + 1]
    assert list(continued(model, TOKENS, COUNTS, changes, 8, ends=expected[-1])) == until


def test_nothing_is_scaled_at_new_tokens_that_are_special() -> None:
    model, plain = models("gpt2")
    ours = dictionaries(model, "resid_post")
    factors = strongest(model, ours)
    truth = by_plain(plain, ours, factors)
    first = truth.continued(TOKENS, COUNTS, 1)[0]
    tokens, counts = torch.cat([TOKENS, torch.tensor([first])]), torch.cat([COUNTS, torch.tensor([False])])
    expected, otherwise = (truth.logits(tokens, c)[-1] for c in (counts, torch.cat([COUNTS, torch.tensor([True])])))
    found, _ = next_logits(model, tokens, counts, steered(ours, factors))
    assert (found - expected).abs().max() <= WITHIN
    assert (expected - otherwise).abs().max() > 0.05
    seen = list(continued(model, TOKENS, COUNTS, steered(ours, factors), 2, ends=None, special=[first]))
    assert seen == [first, int(expected.argmax())]


@pytest.mark.parametrize("what", KINDS)
def test_scaling_by_0_is_ablating_at_all_positions(what: str) -> None:
    model, _ = models("gpt2")
    ours = dictionaries(model, what)
    site = list(ours)[1]
    special = torch.zeros(1, len(TOKENS), dtype=torch.bool)
    special[0, 3] = True
    text = TOKENS[None], torch.tensor([len(TOKENS)])
    feature = next(iter(strongest(model, ours)[tuple(site)]))
    clean = engine.clean_of(model, ours, text, special=special)
    result = engine.ablated(model, ours, site, engine.rows([feature], [0], [-1]), clean, [], horizon=0)
    before, _ = next_logits(model, TOKENS, COUNTS, [])
    after, _ = next_logits(model, TOKENS, COUNTS, steered(ours, {tuple(site): {feature: 0.0}}))
    effect = after.log_softmax(-1) - before.log_softmax(-1)
    assert effect.abs().max() > 1e-2
    torch.testing.assert_close(effect, result.logprob_effect[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("what", [*KINDS, "all"])
def test_scaling_by_1_changes_nothing(what: str) -> None:
    model, _ = models("gpt2")
    ours = dictionaries(model, what)
    ones: Factors = {place: dict.fromkeys(of, 1.0) for place, of in strongest(model, ours).items()}
    before, _ = next_logits(model, TOKENS, COUNTS, [])
    after, fired = next_logits(model, TOKENS, COUNTS, steered(ours, ones))
    assert all(len(active.value) for active in fired.values())
    assert (after - before).abs().max() <= 1e-6 * before.abs().max()
