"""The SAE's arithmetic on examples small enough to be worked out by hand.

Two dimensions, three latents: W_enc = [[1, 0, −1], [0, 2, 1]] reads (x₀, 2·x₁, x₁ − x₀) of its input.
"""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.active import Active
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame, Normalisation
from circuitcli.core.sites import Site

W_ENC = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
W_DEC = torch.tensor([[1.0, 0.0], [0.0, 0.5], [-1.0, 3.0]])
B_ENC = torch.tensor([0.5, -1.0, 0.0])
B_DEC = torch.tensor([1.0, -1.0])
HERE = Site(0, "resid_post")
RELU = Dictionary(HERE, HERE, Relu(), W_ENC, B_ENC, W_DEC, B_DEC)
X = torch.tensor([2.0, 1.0])


def close(ours: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(ours, torch.tensor(expected))


def test_relu() -> None:
    # x − b_dec = (1, 2); latents before: (1, 4, 1) + b_enc = (1.5, 3, 1)
    close(RELU.encode(X), [1.5, 3.0, 1.0])
    # x − b_dec = (−2, 2): (−2, 4, 4) + b_enc = (−1.5, 3, 4)
    close(RELU.encode(torch.tensor([-1.0, 1.0])), [0.0, 3.0, 4.0])


def test_b_dec_is_not_subtracted_where_the_sae_says_so() -> None:
    # (2, 2, −1) + b_enc = (2.5, 1, −1)
    close(replace(RELU, apply_b_dec_to_input=False).encode(X), [2.5, 1.0, 0.0])


def test_decode_adds_b_dec_whatever_was_subtracted() -> None:
    # (1.5, 3, 1) W_dec = (1.5 − 1, 1.5 + 3) = (0.5, 4.5), and b_dec
    for sae in (RELU, replace(RELU, apply_b_dec_to_input=False)):
        close(sae.decode(torch.tensor([1.5, 3.0, 1.0]), X), [1.5, 3.5])


def test_topk_keeps_the_k_largest_and_then_applies_relu() -> None:
    close(replace(RELU, activation=TopK(1)).encode(X), [0.0, 3.0, 0.0])
    close(replace(RELU, activation=TopK(2)).encode(X), [1.5, 3.0, 0.0])
    # x − b_dec = (−2, −1): (−2, −2, 1) + b_enc = (−1.5, −3, 1): of the two largest one is negative
    close(replace(RELU, activation=TopK(2)).encode(torch.tensor([-1.0, -2.0])), [0.0, 0.0, 1.0])


def test_jumprelu_keeps_what_is_above_its_threshold_as_it_is() -> None:
    jump = replace(RELU, activation=JumpRelu(torch.tensor([1.4, 3.0, 2.0])))
    close(jump.encode(X), [1.5, 0.0, 0.0])  # 3 is at its threshold, not above
    below_zero = replace(jump, activation=JumpRelu(torch.tensor([-9.0, -9.0, -9.0])))
    close(below_zero.encode(torch.tensor([-1.0, 1.0])), [0.0, 3.0, 4.0])  # relu holds even so


def test_layer_norm_with_the_unbiased_deviation() -> None:
    # mean of (2, 1) is 1.5, its unbiased deviation √0.5: normal = ±0.5/(√0.5 + 1e-5)
    normal = 0.5 / (sqrt(0.5) + 1e-5)
    sae = replace(RELU, frame=Frame("layer_norm"), apply_b_dec_to_input=False)
    close(sae.encode(X), [normal + 0.5, 0.0, 0.0])
    # of an input a thousand times smaller the 1e-5 takes a seventieth away
    small = 0.0005 / (0.001 * sqrt(0.5) + 1e-5)
    close(sae.encode(X / 1000), [small + 0.5, 0.0, 0.0])
    # decoding: std·(a W_dec + b_dec) + mean, without the 1e-5
    decoded = sae.decode(torch.tensor([1.0, 2.0, 0.0]), X)
    close(decoded, [sqrt(0.5) * 2 + 1.5, 1.5])


def test_centring_subtracts_the_mean_and_puts_it_back() -> None:
    sae = replace(RELU, frame=Frame(centre=True), apply_b_dec_to_input=False)
    close(sae.encode(X), [1.0, 0.0, 0.0])  # of (0.5, −0.5): (0.5, −1, −1) + b_enc
    close(sae.decode(torch.tensor([1.0, 2.0, 0.0]), X), [2.0 + 1.5, 0.0 + 1.5])


def test_a_gate_decides_whether_and_a_magnitude_how_much() -> None:
    # x − b_dec = (1, 2): h = (1, 4, 1). Gate h + b_gate = (0, 1, −1): the first is at its border, not above.
    # Magnitude h·exp(r_mag) + b_mag: 4·2 − 1 = 7, while the closed ones would have been 6.
    gate = Gated(
        b_gate=torch.tensor([-1.0, -3.0, -2.0]),
        r_mag=torch.tensor([1.0, 2.0, 1.0]).log(),
        b_mag=torch.tensor([5.0, -1.0, 5.0]),
    )
    gated = replace(RELU, activation=gate, b_enc=torch.zeros(3))
    close(gate.border(gated.pre_activations(X)), [0.0, 1.0, 1.0])
    close(gated.encode(X), [0.0, 7.0, 0.0])
    # h = (−2, 4, 4), gates (−3, 1, 2)
    close(gated.encode(torch.tensor([-1.0, 1.0])), [0.0, 7.0, 9.0])
    # an open gate with a negative magnitude: 4·2 − 9
    low = replace(gate, b_mag=torch.tensor([5.0, -9.0, 5.0]))
    close(replace(gated, activation=low).encode(X), [0.0, 0.0, 0.0])


SEVEN = torch.tensor([7.0, 1.0])  # its norm is √50, so that |x|/√d_in = 5


def test_constant_norm_divides_by_the_norm_over_the_root_of_the_width() -> None:
    sae = replace(RELU, frame=Frame("constant_norm"))
    # (1.4, 0.2) − b_dec = (0.4, 1.2): (0.4, 2.4, 0.8) + b_enc
    close(sae.encode(SEVEN), [0.9, 1.4, 0.8])
    close(sae.encode(SEVEN * 1000), [0.9, 1.4, 0.8])
    # (1, 2, 0) W_dec + b_dec = (1, 1) + (1, −1), times 5
    close(sae.decode(torch.tensor([1.0, 2.0, 0.0]), SEVEN), [10.0, 0.0])
    close(edit(sae, 2, 1.0, 0.0, SEVEN), [5.0, -15.0])


def test_constant_norm_after_centring() -> None:
    sae = replace(RELU, frame=Frame("constant_norm", centre=True), apply_b_dec_to_input=False)
    # (7, 1) − 4 = (3, −3), whose norm is √18: divided by 3 it is (1, −1): (1, −2, −2) + b_enc
    close(sae.encode(SEVEN), [1.5, 0.0, 0.0])
    close(sae.decode(torch.tensor([1.0, 2.0, 0.0]), SEVEN), [2.0 * 3 + 4, 0.0 * 3 + 4])
    # 3·(1, −3) without its mean −3
    close(edit(sae, 2, 1.0, 0.0, SEVEN), [6.0, -6.0])


def test_an_activation_of_zeros_has_a_constant_norm_too() -> None:
    sae = replace(RELU, frame=Frame("constant_norm"))
    nothing = torch.zeros(2)
    close(sae.encode(nothing), [0.0, 1.0, 2.0])  # 0 − b_dec = (−1, 1): (−1, 2, 2) + b_enc
    close(sae.decode(torch.tensor([1.0, 2.0, 0.0]), nothing), [0.0, 0.0])


def test_an_offset_is_taken_away_before_and_put_back_after() -> None:
    offset = torch.tensor([1.0, 4.0])
    x = torch.tensor([3.0, 5.0])  # x − offset = (2, 1)
    sae = replace(RELU, frame=Frame(offset=offset))
    close(sae.encode(x), [1.5, 3.0, 1.0])
    close(sae.decode(torch.tensor([1.5, 3.0, 1.0]), x), [1.5 + 1, 3.5 + 4])
    close(edit(sae, 2, 1.0, 0.0, x), [1.0, -3.0])
    # mean and deviation are those of x − offset
    normed = replace(RELU, frame=Frame("layer_norm", offset=offset))
    close(normed.decode(torch.tensor([1.0, 2.0, 0.0]), x), [sqrt(0.5) * 2 + 1.5 + 1, 1.5 + 4])
    close(edit(normed, 2, 1.0, 0.0, x), [sqrt(0.5), -3 * sqrt(0.5)])


def test_moving_an_sae_moves_all_of_it() -> None:
    features = torch.zeros(3)

    def tensors(sae: Dictionary) -> list[Tensor]:
        parts = [value for part in (sae, sae.activation, sae.frame) for value in vars(part).values()]
        return [value for value in parts if isinstance(value, Tensor)]

    for activation, own in ((JumpRelu(features), 1), (Gated(features, features, features), 3), (Relu(), 0)):
        whole = replace(RELU, activation=activation, frame=Frame(offset=torch.zeros(2)))
        assert len(tensors(whole)) == 5 + own
        assert [value.is_meta for value in tensors(whole.to(torch.device("meta")))] == [True] * (5 + own)


def edit(sae: Dictionary, feature: int, activation: float, replacement: float, x: Tensor = X) -> Tensor:
    rows = (torch.tensor([value]) for value in (activation, replacement))
    return sae.edit(x.unsqueeze(0), torch.tensor([feature]), *rows)[sae.writes][0]


def test_an_edit_is_the_change_along_the_decoder_row() -> None:
    close(edit(RELU, 2, 1.0, 0.0), [1.0, -3.0])
    close(edit(RELU, 1, 3.0, 0.5), [0.0, -1.25])
    close(edit(RELU, 0, 0.25, 0.25), [0.0, 0.0])


def test_an_edit_under_layer_norm_is_scaled_by_the_deviation_alone() -> None:
    close(edit(replace(RELU, frame=Frame("layer_norm")), 2, 1.0, 0.0), [sqrt(0.5), -3 * sqrt(0.5)])


def test_a_centred_edit_has_no_mean() -> None:
    close(edit(replace(RELU, frame=Frame(centre=True)), 2, 1.0, 0.0), [2.0, -2.0])


def test_each_row_has_its_own_feature_and_scale() -> None:
    sae = replace(RELU, frame=Frame("layer_norm"))
    x = torch.tensor([[2.0, 1.0], [8.0, 4.0]])  # deviations √0.5 and √8
    delta = sae.edit(x, torch.tensor([0, 2]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))[sae.writes]
    torch.testing.assert_close(delta, torch.tensor([[-sqrt(0.5), 0.0], [sqrt(8), -3 * sqrt(8)]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_arithmetic_is_float32_whatever_the_model_runs_in(dtype: torch.dtype) -> None:
    x = torch.tensor([2.0, 1.0078125], dtype=dtype)  # both exact in each dtype
    encoded = RELU.encode(x)
    assert encoded.dtype == RELU.decode(encoded, x).dtype == torch.float32
    close(encoded, [1.5, 3.015625, 1.0078125])  # needs more bits than bfloat16 has


KINDS = {
    "relu": RELU,
    "topk": replace(RELU, activation=TopK(2)),
    "jumprelu": replace(RELU, activation=JumpRelu(torch.tensor([2.0, 0.5, -1.0]))),
    "gated": replace(
        RELU,
        activation=Gated(torch.tensor([-1.0, 0.5, 0.0]), torch.tensor([0.1, -0.2, 0.3]), B_ENC),
        b_enc=torch.zeros(3),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm"])
@pytest.mark.parametrize("offset", [None, torch.tensor([0.25, -1.5])], ids=["", "offset"])
def test_what_is_active_is_what_encoding_gives(
    kind: str, normalisation: Normalisation, offset: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where dense encodings of all rows at once would be too many."""
    monkeypatch.setattr("circuitcli.core.dictionary._DENSE_BYTES", 100)
    sae = replace(KINDS[kind], frame=Frame(normalisation, offset=offset))
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)) * 3
    dense = sae.encode(x)
    active = sae.active(x)
    place, feature = dense.nonzero(as_tuple=True)
    assert 0 < len(place) < dense.numel()
    assert (active.place.tolist(), active.feature.tolist()) == (place.tolist(), feature.tolist())
    torch.testing.assert_close(active.value, dense[place, feature])
    everywhere = torch.arange(60).repeat_interleave(3), torch.arange(3).repeat(60)
    torch.testing.assert_close(active.lookup(*everywhere), dense.flatten())


def test_nothing_active_is_an_empty_list() -> None:
    inactive = replace(RELU, b_enc=torch.full((3,), -1e9))
    active = inactive.active(torch.ones(4, 2))
    assert len(active.value) == len(active.at(torch.tensor([2, 0])).value) == 0
    assert active.lookup(torch.tensor([0, 3]), torch.tensor([1, 2])).tolist() == [0, 0]
    assert len(inactive.active(torch.ones(0, 2)).value) == 0


@given(seed=st.integers(0, 999), n=st.integers(1, 12))
def test_the_active_at_some_places_are_theirs(seed: int, n: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    dense = torch.randn(9, 6, generator=draw).relu()
    place, feature = dense.nonzero(as_tuple=True)
    places = torch.randint(0, 9, (n,), generator=draw)
    found = Active(place, feature, dense[place, feature], 6).at(places)
    again = torch.zeros(n, 6).index_put((found.place, found.feature), found.value)
    assert torch.equal(again, dense[places])
