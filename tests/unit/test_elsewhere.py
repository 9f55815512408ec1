"""The engine on a device of its own, where there is none: no operation mixes it with the CPU, and the numbers stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import elsewhere, engine
from support.elsewhere import DEVICE, Elsewhere, moved
from support.fakes import LinearModel, linear_sae

from circuitcli.core.ablation import ablate, read_clean
from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.contexts import Firings
from circuitcli.core.directions import Directions
from circuitcli.core.frame import Frame, Normalisation
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site
from circuitcli.core.transfer import sent
from circuitcli.stages.assembly import effect_columns
from circuitcli.stages.firings import firings_in

UP, MID, LAST = Site(0, "mlp_out"), Site(1, "attn_out"), Site(1, "resid_post")
SAES = {site: linear_sae(site, seed) for seed, site in enumerate((UP, MID, LAST))}
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 10, 1, 2, 0]])
LENGTHS = torch.tensor([5, 3, 4])
ONCE = ["aten::_to_copy"]  # of how much changed, at all sites together
FEATURE, SEQ = [0, 5, 3, 5, 5], [0, 2, 0, 1, 1]


@pytest.fixture(autouse=True)
def pretending() -> Iterator[None]:
    with elsewhere.pretending():
        yield


def test_devices_are_told_apart() -> None:
    there = Elsewhere(torch.ones(3))
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="index elsewhere"):
        torch.ones(3)[Elsewhere(torch.tensor([0, 2]))]
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there * 2).cpu().tolist() == [2, 2, 2]


ASKED: dict[str, Callable[[torch.Tensor], object]] = {
    "a number": lambda x: float(x.sum()),
    "an item": lambda x: x[0].item(),
    "a truth": lambda x: bool((x > 0).all()),
    "a list": lambda x: x.tolist(),
    "a copy here": lambda x: x.cpu(),
    "a copy here, not waited for": lambda x: x.to("cpu", non_blocking=True),
    "a copy into one here": lambda x: torch.zeros(3).copy_(x),
    "a copy there": lambda x: torch.ones(3).to(x.device),
    "a copy there of memory that may move": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "a copy there that blocks": lambda x: torch.ones(3).pin_memory().to(x.device),
    "where": lambda x: torch.where(x > 0),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 1],
    "a mask that is set": lambda x: x.index_put_((x > 1,), torch.zeros(())),
    "masked": lambda x: x.masked_select(x > 1),
    "an index of the host": lambda x: x[torch.tensor([0, 2])],
    "what is different": lambda x: x.unique(),
    "counts": lambda x: x.long().bincount(),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "one hot": lambda x: torch.nn.functional.one_hot(x.long()),
    "equality": lambda x: torch.equal(x, x),
    "likeness": lambda x: torch.allclose(x, x),
}


@pytest.mark.parametrize("what", ASKED)
def test_waiting_is_seen(what: str) -> None:
    x = Elsewhere(torch.tensor([1.0, 2.0, 3.0]))
    with elsewhere.waits() as seen:
        ASKED[what](x)
    assert seen


def test_what_waits_for_nothing_is_not_seen() -> None:
    x = Elsewhere(torch.tensor([1.0, 2.0, 3.0]))
    with elsewhere.waits() as seen:
        index = sent(torch.tensor([2, 0]), x.device)
        (x[index] + x[:2]).relu().cumsum(0)
        x.repeat_interleave(x.long(), output_size=6).argsort()
        torch.where(x > 1, x, 0).sum()
        x[index] = 5.0
        torch.zeros(3).sum().item()
    assert seen == []
    assert x.cpu().tolist() == [5, 2, 5]


@pytest.mark.parametrize("resumes", [True, False], ids=["places", "whole sequences"])
@pytest.mark.parametrize(("pos", "horizon"), [(2, 0), (1, None), (1, 1), (-1, None)])
def test_ablations(pos: int, horizon: int | None, resumes: bool) -> None:
    here = replace(LinearModel.random(), resumes_at_places=resumes)
    there = replace(here, **moved(here))
    assert there.device == DEVICE
    acts = engine.encoded(here, SAES, (TOKENS, LENGTHS))
    far = {site: active.to(DEVICE) for site, active in acts.items()}
    rows, sums = (
        engine.rows(FEATURE, SEQ, [pos] * 5, 0.5),
        [TokenSums(5, here.shape.d_vocab, d.device) for d in (here, there)],
    )
    clean = read_clean(here, [UP, MID], TOKENS, LENGTHS, acts, logits=True)
    one = ablate(here, SAES, UP, rows, clean, [MID, LAST], horizon=horizon, sums=sums[0])
    clean = read_clean(there, [UP, MID], Elsewhere(TOKENS), LENGTHS, far, logits=True)
    saes = {site: elsewhere.dictionary(sae) for site, sae in SAES.items()}
    directions = Directions(saes[UP], rows.feature, DEVICE)
    with elsewhere.waits() as seen:
        two = ablate(there, saes, UP, rows, clean, [MID, LAST], horizon=horizon, sums=sums[1], directions=directions)
    assert seen == ONCE
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
    one, two = (
        firings_in(s, at, np.arange(2), counted) for s, at in ((sae, x), (elsewhere.dictionary(sae), Elsewhere(x)))
    )
    assert (one.feature.tolist(), one.pos.tolist()) == (two.feature.tolist(), two.pos.tolist())
    assert torch.equal(elsewhere.dictionary(sae).doubtful(Elsewhere(x), 0.1).cpu(), sae.doubtful(x, 0.1))
