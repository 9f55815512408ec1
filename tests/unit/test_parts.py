"""What activations are made of: slopes and directions by finite differences, nodes beside dense encodings."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from support.attributed import Part
from support.fakes import D, LinearModel
from support.random_saes import KINDS, random_sae
from torch import Tensor

from circuitcli import plugins
from circuitcli.core.attribution.parts import BOTTOM, Source, parts_of, tokens
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.sites import Site

HERE, MODEL, T = Site(1, "resid_post"), LinearModel.random(), 9
OFFSET = torch.tensor([0.3, -0.2, 0.5, 0.1])
FRAMES = {
    "none": Frame(),
    "layer_norm": Frame("layer_norm"),
    "constant_norm": Frame("constant_norm"),
    "centre": Frame(centre=True),
    "constant_norm, centre": Frame("constant_norm", centre=True),
    "offset": Frame("layer_norm", offset=OFFSET),
}
STEP = 1e-6


def stream(seed: int = 1) -> Tensor:
    return 3 * torch.randn(T, D, generator=torch.Generator().manual_seed(seed)) + 1


def counted(*but: int) -> Tensor:
    return torch.tensor([p not in (0, *but) for p in range(T)])


def held(one: Dictionary, x: Tensor, new: Tensor) -> Tensor:
    """Pre-activations of `new`, float64, in the frame of x; the mean that no norm sees isn't held."""
    offset = 0 if one.frame.offset is None else one.frame.offset.double()
    x, new = x.double() - offset, new.double() - offset
    centred = x - x.mean(-1, keepdim=True)
    if one.frame.normalisation == "layer_norm":
        seen = (new - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    elif one.frame.normalisation == "constant_norm":
        norm = (centred if one.frame.centre else x).norm(dim=-1, keepdim=True) / D**0.5
        seen = (new - new.mean(-1, keepdim=True) * one.frame.centre) / norm
    else:
        seen = new - new.mean(-1, keepdim=True) * one.frame.centre
    return (seen - one.b_dec.double()) @ one.w_enc.double() + one.b_enc.double()


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_those_of_finite_differences(kind: str) -> None:
    one = random_sae(MODEL, HERE, kind, Frame(), 12, 3).activation
    pre = 2 * torch.randn(50, 12, generator=torch.Generator().manual_seed(4)).double()
    sure = (one.apply(pre) > 0) & (one.border(pre) > 1e-3)
    if kind == "topk":  # which are kept depends on all: each is moved alone
        moved = torch.stack([
            (one.apply(pre + STEP * e) - one.apply(pre - STEP * e))[:, i] / (2 * STEP)
            for i, e in enumerate(torch.eye(12).double())
        ], 1)  # fmt: skip
    else:
        moved = (one.apply(pre + STEP) - one.apply(pre - STEP)) / (2 * STEP)
    row, feature = sure.nonzero(as_tuple=True)
    assert len(row) > 50
    torch.testing.assert_close(one.slope(feature).double(), moved[row, feature], rtol=1e-5, atol=1e-6)
    off = (one.apply(pre) == 0) & (one.border(pre) > 1e-3)
    assert not moved[off].any()


def test_every_architecture_is_among_those() -> None:
    known = {type(random_sae(MODEL, HERE, kind, Frame(), 12, 3).activation) for kind in KINDS}
    assert known == {plugins.load("core.activations", name) for name in plugins.names("core.activations")}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_a_node_is_the_derivative_of_its_activation(kind: str, frame: str) -> None:
    """∂a_j/∂x by finite differences in every direction, its frame held."""
    one, x = random_sae(MODEL, HERE, kind, FRAMES[frame], 12, 5), stream()
    nodes = Part(parts_of(one, {HERE: x}, counted()))
    found = torch.zeros(nodes.features, D, dtype=torch.float64)
    here, f = x[nodes.pos[: nodes.features]], nodes.feature[:, None]
    for i, e in enumerate(torch.eye(D).double()):
        up, down = (one.activation.apply(held(one, here, here + way * STEP * e)) for way in (1, -1))
        found[:, i] = ((up - down) / (2 * STEP)).gather(1, f).squeeze(1)
    now = one.activation.apply(held(one, here, here)).gather(1, f).squeeze(1)
    torch.testing.assert_close(nodes.activation.double(), now, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nodes.encoder.double(), found, rtol=1e-5, atol=1e-5)
    assert nodes.features > 10


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_nodes_are_what_fires_and_make_up_the_stream(kind: str, frame: str) -> None:
    one, x = random_sae(MODEL, HERE, kind, FRAMES[frame], 12, 6), stream()
    nodes = Part(parts_of(one, {HERE: x}, counted(4)))
    dense, f = one.encode(x), nodes.features
    there = (dense > 0) & counted(4)[:, None]
    assert torch.stack([nodes.pos[:f], nodes.feature]).T.tolist() == there.nonzero().tolist()
    torch.testing.assert_close(nodes.activation, dense[there])
    torch.testing.assert_close(
        nodes.delta[:f], one.edit(x[nodes.pos[:f]], nodes.feature, dense[there], torch.zeros(f))[one.writes]
    )
    assert nodes.pos[f:].tolist() == counted(4).nonzero().squeeze(1).tolist()
    error = (x - one.decode(dense, x))[nodes.pos[f:]]
    torch.testing.assert_close(nodes.delta[f:], -error, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(nodes.of[1].size, error.norm(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_of_another_prompt_all_that_fires_in_either_is_a_node(kind: str, frame: str) -> None:
    one, x, y = random_sae(MODEL, HERE, kind, FRAMES[frame], 12, 7), stream(1), stream(2)
    nodes = Part(parts_of(one, {HERE: x}, counted(), other={HERE: y}))
    here, there, f = one.encode(x), one.encode(y), nodes.features
    either = ((here > 0) | (there > 0)) & counted()[:, None]
    assert torch.stack([nodes.pos[:f], nodes.feature]).T.tolist() == either.nonzero().tolist()
    torch.testing.assert_close(nodes.activation, here[either])
    torch.testing.assert_close(nodes.replacement, there[either])
    pos = nodes.pos[:f]
    torch.testing.assert_close(
        nodes.delta[:f], one.edit(x[pos], nodes.feature, here[either], there[either])[one.writes]
    )
    assert not nodes.encoder[here[either] == 0].any(), "which don't fire have no slope"
    assert (here[either] == 0).any()
    assert (there[either] == 0).any()
    error, new = (z - one.decode(one.encode(z), z) for z in (x, y))
    torch.testing.assert_close(nodes.delta[f:], (new - error)[counted()], rtol=1e-4, atol=1e-4)


def test_baselines_that_are_given() -> None:
    one, x, e = random_sae(MODEL, HERE, "relu", Frame(), 12, 8), stream(), stream(3)
    nodes = Part(parts_of(one, {HERE: x}, counted(), replace=lambda pos, feature, a: a + pos + 2 * feature, error=e))
    f, pos = nodes.features, nodes.pos
    torch.testing.assert_close(nodes.replacement, nodes.activation + pos[:f] + 2 * nodes.feature)
    torch.testing.assert_close(nodes.delta[:f], (pos[:f] + 2 * nodes.feature)[:, None] * one.w_dec[nodes.feature])
    torch.testing.assert_close(nodes.delta[f:], e[pos[f:]] - (x - one.decode(one.encode(x), x))[pos[f:]])
    bottom = tokens(x, counted(4), e)
    assert (bottom.site, bottom.pos.tolist()) == (BOTTOM, [1, 2, 3, 5, 6, 7, 8])
    torch.testing.assert_close(bottom.rows[BOTTOM], (e - x)[bottom.pos])
    torch.testing.assert_close(tokens(x, counted(4)).rows[BOTTOM], -x[bottom.pos])


@pytest.mark.parametrize("frame", FRAMES)
def test_where_nothing_fires_errors_alone_are_nodes(frame: str) -> None:
    one = replace(random_sae(MODEL, HERE, "relu", FRAMES[frame], 12, 8), b_enc=torch.full((12,), -1e6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, of deviations of nothing
        nodes = Part(parts_of(one, {HERE: stream()}, counted()))
    assert (nodes.features, len(nodes)) == (0, T - 1)
    torch.testing.assert_close(nodes.delta, (one.decode(torch.zeros(T, 12), stream()) - stream())[1:])


@pytest.mark.parametrize("frame", FRAMES)
def test_where_no_position_counts_there_are_no_nodes(frame: str) -> None:
    one, none = random_sae(MODEL, HERE, "relu", FRAMES[frame], 12, 8), torch.zeros(T, dtype=torch.bool)
    for other in (None, {HERE: stream(2)}):
        nodes = Part(parts_of(one, {HERE: stream()}, none, other=other))
        assert (nodes.features, len(nodes)) == (0, 0)
        assert all(one.effects({HERE: torch.ones(2, T, D)}).shape == (2, 0) for one in nodes.of)
        assert not nodes.total(T).any()


@pytest.mark.parametrize("n", [0, 1, 40])
def test_effects_of_many_gradients_are_dot_products(n: int) -> None:
    """However many nodes a position has."""
    draw = torch.Generator().manual_seed(n)
    pos, delta = torch.randint(1, T - 1, (n,), generator=draw).sort().values, torch.randn(n, D, generator=draw)
    gradient, by = torch.randn(3, T, D, generator=draw), torch.randn(n, generator=draw)
    source, delta = Source(HERE, pos, {HERE: delta}, by), by[:, None] * delta
    expected = torch.stack([(one[pos] * delta).sum(-1) for one in gradient])
    torch.testing.assert_close(source.effects({HERE: gradient}), expected)
    total = torch.zeros(T, D)
    for p, d in zip(pos.tolist(), delta, strict=True):
        total[p] += d
    torch.testing.assert_close(source.total(T)[HERE], total)
