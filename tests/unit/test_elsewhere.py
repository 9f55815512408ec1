"""The engine on a device of its own, where there is none: no operation mixes it with the CPU, and the numbers stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import elsewhere, engine
from support.elsewhere import DEVICE, Elsewhere, moved
from support.fakes import LinearModel, linear_sae

from circuitcli.core import next_token
from circuitcli.core.ablation import ablate, read_clean
from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.active import Active
from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame, Normalisation
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site
from circuitcli.stages.assembly import effect_columns
from circuitcli.stages.firings import firings_in

UP, MID, LAST = Site(0, "mlp_out"), Site(1, "attn_out"), Site(1, "resid_post")
SAES = {site: linear_sae(site, seed) for seed, site in enumerate((UP, MID, LAST))}
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 10, 1, 2, 0]])
LENGTHS = torch.tensor([5, 3, 4])
FEATURE, SEQ = [0, 5, 3, 5, 5], [0, 2, 0, 1, 1]


@pytest.fixture(autouse=True)
def pretending(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(next_token._CHUNK_BYTES, "meta", 2**20)
    with elsewhere.Pretending():
        yield


def away(sae: Dictionary) -> Dictionary:
    """The SAE elsewhere, but for its decoder, which stays where its file is mapped."""
    own = {name: replace(part, **moved(part)) for name, part in (("activation", sae.activation), ("frame", sae.frame))}
    return replace(sae, **own, **{name: part for name, part in moved(sae).items() if name != "w_dec"})


def test_devices_are_told_apart() -> None:
    there = Elsewhere(torch.ones(3))
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="index elsewhere"):
        torch.ones(3)[Elsewhere(torch.tensor([0, 2]))]
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there * 2).cpu().tolist() == [2, 2, 2]


@pytest.mark.parametrize("resumes", [True, False], ids=["places", "whole sequences"])
@pytest.mark.parametrize(("pos", "horizon"), [(2, 0), (1, None), (1, 1), (-1, None)])
def test_ablations(pos: int, horizon: int | None, resumes: bool) -> None:
    here = replace(LinearModel.random(), resumes_at_places=resumes)
    there = replace(here, **moved(here))
    assert there.device == DEVICE
    acts = engine.encoded(here, SAES, (TOKENS, LENGTHS))
    far = {s: Active(Elsewhere(a.place), Elsewhere(a.feature), Elsewhere(a.value), a.d_sae) for s, a in acts.items()}
    rows, sums = (
        engine.rows(FEATURE, SEQ, [pos] * 5, 0.5),
        [TokenSums(5, here.shape.d_vocab, d.device) for d in (here, there)],
    )
    clean = read_clean(here, [UP, MID], TOKENS, LENGTHS, acts, logits=True)
    one = ablate(here, SAES, UP, rows, clean, [MID, LAST], horizon=horizon, sums=sums[0])
    clean = read_clean(there, [UP, MID], Elsewhere(TOKENS), LENGTHS, far, logits=True)
    saes = {site: away(sae) for site, sae in SAES.items()}
    two = ablate(there, saes, UP, rows, clean, [MID, LAST], horizon=horizon, sums=sums[1])
    assert two.kl is not None
    assert two.kl.device == sums[1].logprob.device == DEVICE, "nothing leaves it before it is asked for"
    torch.testing.assert_close(two.kl.cpu(), one.kl)
    torch.testing.assert_close(sums[1].logprob.cpu(), sums[0].logprob)
    firings = Firings(*(np.asarray(c, np.int32) for c in (SEQ, [pos] * 5, FEATURE)), np.ones(5, np.float32))
    for ours, theirs in zip(*(effect_columns(UP, firings, found) for found in (two, one)), strict=True):
        for name, column in theirs.items():
            assert np.array_equal(ours[name], column), name


KINDS = {
    "relu": Relu(),
    "topk": TopK(3),
    "jumprelu": JumpRelu(torch.rand(6)),
    "gated": Gated(torch.randn(6), torch.randn(6), torch.randn(6)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm"])
def test_saes(kind: str, norm: Normalisation) -> None:
    frame = Frame(norm, centre=norm == "none", offset=torch.randn(4))
    sae = replace(SAES[UP], activation=KINDS[kind], frame=frame)
    x, counted = torch.randn(2, 5, 4), np.arange(5) < np.asarray([[5], [3]])
    one, two = (firings_in(s, at, np.arange(2), counted) for s, at in ((sae, x), (away(sae), Elsewhere(x))))
    assert (one.feature.tolist(), one.pos.tolist()) == (two.feature.tolist(), two.pos.tolist())
    assert torch.equal(away(sae).doubtful(Elsewhere(x), 0.1).cpu(), sae.doubtful(x, 0.1))
