"""The SAE's arithmetic on examples small enough to be worked out by hand.

Two dimensions, three latents: W_enc = [[1, 0, −1], [0, 2, 1]] reads (x₀, 2·x₁, x₁ − x₀) of its input.
"""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor

from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site

W_ENC = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
W_DEC = torch.tensor([[1.0, 0.0], [0.0, 0.5], [-1.0, 3.0]])
B_ENC = torch.tensor([0.5, -1.0, 0.0])
B_DEC = torch.tensor([1.0, -1.0])
RELU = Sae(Site(0, "resid_post"), "relu", W_ENC, B_ENC, W_DEC, B_DEC)
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
    close(replace(RELU, activation="topk", k=1).encode(X), [0.0, 3.0, 0.0])
    close(replace(RELU, activation="topk", k=2).encode(X), [1.5, 3.0, 0.0])
    # x − b_dec = (−2, −1): (−2, −2, 1) + b_enc = (−1.5, −3, 1): of the two largest one is negative
    close(replace(RELU, activation="topk", k=2).encode(torch.tensor([-1.0, -2.0])), [0.0, 0.0, 1.0])


def test_jumprelu_keeps_what_is_above_its_threshold_as_it_is() -> None:
    jump = replace(RELU, activation="jumprelu", threshold=torch.tensor([1.4, 3.0, 2.0]))
    close(jump.encode(X), [1.5, 0.0, 0.0])  # 3 is at its threshold, not above
    below_zero = replace(jump, threshold=torch.tensor([-9.0, -9.0, -9.0]))
    close(below_zero.encode(torch.tensor([-1.0, 1.0])), [0.0, 3.0, 4.0])  # relu holds even so


def test_layer_norm_with_the_unbiased_deviation() -> None:
    # mean of (2, 1) is 1.5, its unbiased deviation √0.5: normal = ±0.5/(√0.5 + 1e-5)
    normal = 0.5 / (sqrt(0.5) + 1e-5)
    sae = replace(RELU, normalisation="layer_norm", apply_b_dec_to_input=False)
    close(sae.encode(X), [normal + 0.5, 0.0, 0.0])
    # of an input a thousand times smaller the 1e-5 takes a seventieth away
    small = 0.0005 / (0.001 * sqrt(0.5) + 1e-5)
    close(sae.encode(X / 1000), [small + 0.5, 0.0, 0.0])
    # decoding: std·(a W_dec + b_dec) + mean, without the 1e-5
    decoded = sae.decode(torch.tensor([1.0, 2.0, 0.0]), X)
    close(decoded, [sqrt(0.5) * 2 + 1.5, 1.5])


def test_centring_subtracts_the_mean_and_puts_it_back() -> None:
    sae = replace(RELU, centre=True, apply_b_dec_to_input=False)
    close(sae.encode(X), [1.0, 0.0, 0.0])  # of (0.5, −0.5): (0.5, −1, −1) + b_enc
    close(sae.decode(torch.tensor([1.0, 2.0, 0.0]), X), [2.0 + 1.5, 0.0 + 1.5])


def edit(sae: Sae, feature: int, activation: float, replacement: float) -> Tensor:
    rows = (torch.tensor([value]) for value in (activation, replacement))
    return sae.edit(X.unsqueeze(0), torch.tensor([feature]), *rows)[0]


def test_an_edit_is_the_change_along_the_decoder_row() -> None:
    close(edit(RELU, 2, 1.0, 0.0), [1.0, -3.0])
    close(edit(RELU, 1, 3.0, 0.5), [0.0, -1.25])
    close(edit(RELU, 0, 0.25, 0.25), [0.0, 0.0])


def test_an_edit_under_layer_norm_is_scaled_by_the_deviation_alone() -> None:
    close(edit(replace(RELU, normalisation="layer_norm"), 2, 1.0, 0.0), [sqrt(0.5), -3 * sqrt(0.5)])


def test_a_centred_edit_has_no_mean() -> None:
    close(edit(replace(RELU, centre=True), 2, 1.0, 0.0), [2.0, -2.0])


def test_each_row_has_its_own_feature_and_scale() -> None:
    sae = replace(RELU, normalisation="layer_norm")
    x = torch.tensor([[2.0, 1.0], [8.0, 4.0]])  # deviations √0.5 and √8
    delta = sae.edit(x, torch.tensor([0, 2]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(delta, torch.tensor([[-sqrt(0.5), 0.0], [sqrt(8), -3 * sqrt(8)]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_arithmetic_is_float32_whatever_the_model_runs_in(dtype: torch.dtype) -> None:
    x = torch.tensor([2.0, 1.0078125], dtype=dtype)  # both exact in each dtype
    encoded = RELU.encode(x)
    assert encoded.dtype == RELU.decode(encoded, x).dtype == torch.float32
    close(encoded, [1.5, 3.015625, 1.0078125])  # needs more bits than bfloat16 has
