"""The engine on a linear model, where every effect has a closed form; and its parts on numbers worked out by hand."""

from math import log

import pytest
import torch
from fakes import LinearModel, linear_sae
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuitcli.core.ablation import Rows, ablate, changed, edited_positions, pack, read_clean, token_effects
from circuitcli.core.model import Model
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site

UP, MID, LAST = Site(0, "mlp_out"), Site(1, "attn_out"), Site(1, "resid_post")
MODEL = LinearModel.random()
SAES = {site: linear_sae(site, seed) for seed, site in enumerate((UP, MID, LAST))}
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 10, 1, 2, 0]])
LENGTHS = torch.tensor([5, 3, 4])


def rows(*entries: tuple[int, int, int, float]) -> Rows:
    feature, seq, pos = (torch.tensor(column) for column in list(zip(*entries, strict=True))[:3])
    return Rows(feature, seq, pos, torch.tensor([entry[3] for entry in entries]))


def shift(feature: int, seq: int, pos: int, replacement: float) -> Tensor:
    """δ at one position."""
    sae = SAES[UP]
    x = MODEL.run(TOKENS[seq : seq + 1], [UP]).sites[UP][0, pos]
    return (replacement - (x @ sae.w_enc[:, feature] + 50)) * sae.w_dec[feature]


def expected(feature: int, seq: int, pos: int, replacement: float) -> tuple[dict[Site, Tensor], Tensor]:
    """What is added to the downstream sites, and to the last stream, where the row is read."""
    places = [pos] if pos >= 0 else range(1, int(LENGTHS[seq]))
    shifts = [shift(feature, seq, place, replacement) for place in places]
    here, so_far = shifts[-1], torch.stack(shifts).sum(0)
    attention = so_far @ MODEL.v @ MODEL.o
    last = (here + attention) @ (torch.eye(4) + MODEL.m)
    return {MID: attention, LAST: last}, last


@pytest.mark.parametrize("pos", [2, 1, -1])
def test_effects_are_those_of_the_closed_form(pos: int) -> None:
    assert isinstance(MODEL, Model)
    entries = [(0, 0, 0.0), (5, 2, 1.5), (3, 0, 0.0), (5, 1, 0.0), (5, 1, -2.0)]
    batch = rows(*((feature, seq, pos, c) for feature, seq, c in entries))
    result = ablate(MODEL, SAES, UP, batch, read_clean(MODEL, list(SAES), TOKENS, LENGTHS, logits=True), [MID, LAST])
    for i, (feature, seq, c) in enumerate(entries):
        sites, last = expected(feature, seq, pos, c)
        read = pos if pos >= 0 else int(LENGTHS[seq]) - 1
        assert result.read_pos[i] == read
        for site, moved in sites.items():
            changes = result.changes[site]
            mine = changes.row == i
            before = MODEL.run(TOKENS[seq : seq + 1], [site]).sites[site][0, read] @ SAES[site].w_enc + 50
            after = (before + moved @ SAES[site].w_enc).relu()
            assert changes.feature[mine].tolist() == list(range(6))
            torch.testing.assert_close(changes.clean[mine], before, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(changes.ablated[mine], after, rtol=1e-4, atol=1e-3)
        final = MODEL.run(TOKENS[seq : seq + 1], [], final=True).final[0, read]
        p, q = ((x @ MODEL.u).log_softmax(-1) for x in (final, final + last))
        torch.testing.assert_close(result.logprob_effect[i], q - p, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(result.prob_effect[i], q.exp() - p.exp(), rtol=1e-4, atol=1e-4)


def test_without_logits_nothing_is_said_of_tokens() -> None:
    result = ablate(
        MODEL, SAES, UP, rows((0, 0, 1, 0.0)), read_clean(MODEL, [UP, LAST], TOKENS, LENGTHS, logits=False), [LAST]
    )
    assert (result.kl, result.logprob_effect, result.prob_effect) == (None, None, None)
    assert set(result.changes) == {LAST}


def test_what_is_edited() -> None:
    places = edited_positions(torch.tensor([2, -1, -1, 1]), torch.tensor([4, 4, 2, 3]), 5).int().tolist()
    assert places == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("clean", "ablated", "stored"),
    [
        (1.0, 1.0 + 2e-5, True),
        (1.0, 1.0 + 0.5e-5, False),
        (0.01, 0.01 + 0.5e-5, False),  # below 1 the bar stays where it is
        (0.01, 0.01 - 2e-5, True),
        (100.0, 100.0 + 50e-5, False),  # above 1 it grows with the activation
        (100.0, 100.0 - 200e-5, True),
        (0.0, 3.0, True),
        (3.0, -1.0, True),
    ],
)
def test_what_counts_as_a_change(clean: float, ablated: float, stored: bool) -> None:
    eye = Sae(UP, "relu", torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
    contexts = torch.tensor([[9.0, 9.0], [7.0, clean]])
    found = changed(eye, contexts, torch.tensor([[7.0, ablated]]), torch.tensor([1]))
    assert list(zip(found.row.tolist(), found.feature.tolist(), strict=True)) == ([(0, 1)] if stored else [])
    if stored:
        assert (found.clean.item(), found.ablated.item()) == pytest.approx((clean, max(ablated, 0)))


def test_tokens_by_hand() -> None:
    clean = torch.tensor([[log(0.2), log(0.3), log(0.5)], [log(0.5), log(0.25), log(0.25)]])
    ablated = torch.tensor([[log(0.25), log(0.25), log(0.5)]])
    kl, logprob, prob = token_effects(clean, ablated + 3, torch.tensor([1]))
    assert kl.item() == pytest.approx(0.5 * log(2) - 0.25 * log(2))
    assert logprob[0].tolist() == pytest.approx([-log(2), 0, log(2)], abs=1e-6)
    assert prob[0].tolist() == pytest.approx([-0.25, 0, 0.25], abs=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_rows_are_packed_by_sequence_each_in_one_place(sequences: list[int]) -> None:
    seq = torch.tensor(sequences)
    index, slot = pack(seq)
    assert index.view(-1)[slot].tolist() == list(range(len(seq)))
    assert (seq[index] == seq[index[:, :1]]).all(), "a group is of one sequence"
    assert index.shape[0] <= len(seq)


def test_many_rows_of_a_sequence_share_its_keys() -> None:
    index, _ = pack(torch.arange(4).repeat_interleave(16))
    assert index.shape == (4, 16)
    index, _ = pack(torch.arange(30))
    assert index.shape == (30, 1)
