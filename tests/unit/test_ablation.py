"""The engine on a linear model, where every effect has a closed form; and its parts on numbers worked out by hand."""

from dataclasses import replace
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import engine
from support.fakes import LinearModel, linear_sae
from torch import Tensor

from circuitcli.core import ablation
from circuitcli.core.ablation import Rows, ablate
from circuitcli.core.activations.standard import Relu
from circuitcli.core.active import changes
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.next_token import TokenSums
from circuitcli.core.places import edited_positions, pack, read_positions
from circuitcli.core.sites import Site

UP, MID, LAST = Site(0, "mlp_out"), Site(1, "attn_out"), Site(1, "resid_post")
MODEL = LinearModel.random()
SAES = {site: linear_sae(site, seed) for seed, site in enumerate((UP, MID, LAST))}
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 10, 1, 2, 0]])
LENGTHS = torch.tensor([5, 3, 4])


def rows(*entries: tuple[int, int, int, float]) -> Rows:
    feature, seq, pos, c = zip(*entries, strict=True)
    return engine.rows(feature, seq, pos, torch.tensor(c))


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
    result = engine.ablated(MODEL, SAES, UP, batch, (TOKENS, LENGTHS), [MID, LAST])
    for i, (feature, seq, c) in enumerate(entries):
        sites, last = expected(feature, seq, pos, c)
        read = pos if pos >= 0 else int(LENGTHS[seq]) - 1
        assert result.pos[i] == read
        for site, moved in sites.items():
            found = result.changes[site]
            mine = found.row == i
            before = MODEL.run(TOKENS[seq : seq + 1], [site]).sites[site][0, read] @ SAES[site].w_enc + 50
            after = (before + moved @ SAES[site].w_enc).relu()
            assert found.feature[mine].tolist() == list(range(6))
            torch.testing.assert_close(found.clean[mine], before, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(found.ablated[mine], after, rtol=1e-4, atol=1e-3)
        final = MODEL.run(TOKENS[seq : seq + 1], [], final=True).final[0, read]
        p, q = ((x @ MODEL.u).log_softmax(-1) for x in (final, final + last))
        torch.testing.assert_close(result.logprob_effect[i], q - p, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(result.prob_effect[i], q.exp() - p.exp(), rtol=1e-4, atol=1e-4)


def test_a_dictionary_that_writes_elsewhere_is_edited_there() -> None:
    """δ comes from what it reads, resid_mid, and is added to mlp_out: the stream gets it once, the MLP not at all."""
    reads, writes = Site(0, "resid_mid"), Site(0, "mlp_out")
    coder = replace(linear_sae(reads, 7), writes=writes)
    saes = {reads: coder, LAST: SAES[LAST]}
    result = engine.ablated(MODEL, saes, reads, rows((2, 0, 3, 0.5)), (TOKENS, LENGTHS), [LAST])
    seen = MODEL.run(TOKENS[:1], [reads, LAST]).sites
    delta = (0.5 - (seen[reads][0, 3] @ coder.w_enc[:, 2] + 50)) * coder.w_dec[2]
    moved = (delta + delta @ MODEL.v @ MODEL.o) @ (torch.eye(4) + MODEL.m)
    after = ((seen[LAST][0, 3] + moved) @ SAES[LAST].w_enc + 50).relu()
    torch.testing.assert_close(result.changes[LAST].ablated, after, rtol=1e-4, atol=1e-3)


def test_without_logits_nothing_is_said_of_tokens() -> None:
    clean = engine.clean_of(MODEL, SAES, (TOKENS, LENGTHS), logits=False)
    result = engine.ablated(MODEL, SAES, UP, rows((0, 0, 1, 0.0)), clean, [LAST])
    assert (result.kl, result.logprob_effect, result.prob_effect) == (None, None, None)
    assert set(result.changes) == {LAST}


def test_what_is_edited() -> None:
    none = torch.zeros(4, 5, dtype=torch.bool)
    places = edited_positions(torch.tensor([2, -1, -1, 1]), torch.tensor([4, 4, 2, 3]), none).int().tolist()
    assert places == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    special = torch.tensor([[0, 0, 0, 1, 0], [1, 0, 1, 0, 1]]).bool()
    places = edited_positions(torch.tensor([-1, -1]), torch.tensor([4, 5]), special).int().tolist()
    assert places == [[0, 1, 1, 0, 0], [0, 1, 0, 1, 0]]


def test_what_is_read() -> None:
    special = torch.tensor([[0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 1, 1, 1], [0, 0, 1, 0, 0]]).bool()
    pos, end = torch.tensor([-1, -1, -1, 1]), torch.tensor([4, 4, 5, 4])
    places = read_positions(pos, end, special).int().tolist()
    assert places == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 1, 1, 1, 0]]


SPECIAL = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()
# What is edited of each sequence as a whole, where features are read, and the next token.
OUTSIDE = {0: ([1, 3], 3, 4), 1: ([1, 2], 2, 2), 2: ([1, 3], 3, 3)}


@pytest.mark.parametrize("places", [True, False])
def test_special_tokens_are_not_edited_and_no_feature_is_read_at_them(places: bool) -> None:
    model = replace(MODEL, resumes_at_places=places)
    clean = engine.clean_of(model, SAES, (TOKENS, LENGTHS), special=SPECIAL)
    batch = rows((0, 0, -1, 0.0), (3, 2, -1, 1.5), (5, 1, -1, 0.0), (2, 0, -1, 3.0))
    result = engine.ablated(model, SAES, UP, batch, clean, [MID, LAST])
    unread = 0
    for i, (feature, seq) in enumerate(zip(batch.feature.tolist(), batch.seq.tolist(), strict=True)):
        edited, read, told = OUTSIDE[seq]
        shifts = {at: shift(feature, seq, at, float(batch.replacement[i])) for at in edited}
        moved = {p: sum(d for at, d in shifts.items() if at <= p) @ MODEL.v @ MODEL.o for p in (read, told)}
        last = {p: (shifts.get(p, 0) + moved[p]) @ (torch.eye(4) + MODEL.m) for p in (read, told)}
        for site, change in ((MID, moved[read]), (LAST, last[read])):
            found = result.changes[site]
            mine = result.row[found.row] == i
            assert set(result.pos[found.row[mine]].tolist()) == {read}
            before = MODEL.run(TOKENS[seq : seq + 1], [site]).sites[site][0, read] @ SAES[site].w_enc + 50
            torch.testing.assert_close(found.clean[mine], before, rtol=1e-5, atol=1e-4)
            after = (before + change @ SAES[site].w_enc).relu()
            torch.testing.assert_close(found.ablated[mine], after, rtol=1e-4, atol=1e-3)
        final = MODEL.run(TOKENS[seq : seq + 1], [], final=True).final[0, told]
        p, q = ((x @ MODEL.u).log_softmax(-1) for x in (final, final + last[told]))
        torch.testing.assert_close(result.logprob_effect[i], q - p, rtol=1e-4, atol=1e-3)
        readings = result.row == i
        assert float(result.kl[readings].sum()) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3, abs=1e-4)
        unread += int((result.kl[readings] == 0).sum())
    assert unread == 2  # features alone were read there


@pytest.mark.parametrize("places", [True, False])
def test_onward_passes_special_tokens_by(places: bool) -> None:
    model = replace(MODEL, resumes_at_places=places)
    batch = rows((0, 0, 1, 0.0), (3, 2, 1, 1.5))
    with_special, without = (
        engine.ablated(
            model, SAES, UP, batch, engine.clean_of(model, SAES, (TOKENS, LENGTHS), special=s), [LAST], horizon=None
        )
        for s in (SPECIAL, None)
    )
    assert set(without.pos[without.changes[LAST].row].tolist()) == {1, 2, 3, 4}
    assert set(with_special.pos[with_special.changes[LAST].row].tolist()) == {1, 3}
    torch.testing.assert_close(with_special.logprob_effect, without.logprob_effect)


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
    eye = Dictionary(UP, UP, Relu(), torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
    contexts = torch.tensor([[9.0, 9.0], [7.0, clean]])
    found = changes(eye.active(contexts).at(torch.tensor([1])), eye.active(torch.tensor([[7.0, ablated]])))
    assert list(zip(found.row.tolist(), found.feature.tolist(), strict=True)) == ([(0, 1)] if stored else [])
    if stored:
        assert (found.clean.item(), found.ablated.item()) == pytest.approx((clean, max(ablated, 0)))


def test_tokens_by_hand() -> None:
    clean = torch.tensor([[log(0.2), log(0.3), log(0.5)], [log(0.5), log(0.25), log(0.25)]])
    ablated = torch.tensor([[log(0.25), log(0.25), log(0.5)]])
    sums = TokenSums(3, 3, torch.device("cpu"))
    kl = sums.add(torch.tensor([1]), torch.tensor([1]), clean, ablated + 3)
    assert kl.item() == pytest.approx(0.5 * log(2) - 0.25 * log(2))
    assert sums.logprob[1].tolist() == pytest.approx([-log(2), 0, log(2)], abs=1e-6)
    assert sums.prob[1].tolist() == pytest.approx([-0.25, 0, 0.25], abs=1e-6)
    assert not sums.prob[[0, 2]].any()


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 40),
    v=st.sampled_from([3, 50, 70_000]),
    scale=st.sampled_from([1e-3, 1.0, 60.0, 300.0]),
)
def test_sums_over_tokens_are_those_of_two_softmaxes(seed: int, n: int, v: int, scale: float) -> None:
    """Against log_softmax in float64, however far ablation moves the logits, and whatever it adds to all of them."""
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randn(3, v, generator=draw) * 4
    context, slot = (torch.randint(0, top, (n,), generator=draw) for top in (3, 5))
    ablated = clean[context] + torch.randn(n, v, generator=draw) * scale + torch.randn(n, 1, generator=draw) * 100
    sums, slot = TokenSums(5, v, torch.device("cpu")), slot.sort().values
    kl = sums.add(slot, context, clean, ablated.clone())
    before, after = clean.double().log_softmax(-1)[context], ablated.double().log_softmax(-1)
    effect, prob = after - before, after.exp() - before.exp()
    tolerance = 2e-6 * (100 + scale)  # what float32 makes of the logits themselves
    torch.testing.assert_close(kl.double(), -(before.exp() * effect).sum(-1), rtol=1e-5, atol=tolerance)
    logprob = torch.zeros(5, v, dtype=torch.float64).index_add_(0, slot, effect)
    torch.testing.assert_close(sums.logprob, logprob, rtol=1e-5, atol=n * tolerance)
    torch.testing.assert_close(sums.prob, torch.zeros_like(logprob).index_add_(0, slot, prob), rtol=1e-4, atol=1e-5 * n)


def test_a_batch_that_fails_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out between the logits of one chunk and the next; the batch is then tried again."""
    monkeypatch.setattr(ablation, "_LOGIT_BYTES", 4 * MODEL.shape.d_vocab * 2)
    clean = engine.clean_of(MODEL, SAES, (TOKENS, LENGTHS))
    which = rows(*((feature, seq, 1, 0.0) for feature in (0, 5) for seq in range(3)))
    sums, asked = TokenSums(6, MODEL.shape.d_vocab, MODEL.device), []

    def logits(model: LinearModel, final: Tensor) -> Tensor:
        asked.append(len(final))
        if len(asked) == 4:  # of the second chunk
            raise MemoryError
        return final @ model.u

    with monkeypatch.context() as patch:
        patch.setattr(LinearModel, "logits", logits)
        with pytest.raises(MemoryError):
            ablate(MODEL, SAES, UP, which, clean, [LAST], sums=sums)
    assert not sums.logprob.any()
    assert not sums.prob.any()
    ablate(MODEL, SAES, UP, which, clean, [LAST], sums=sums)
    once = engine.ablated(MODEL, SAES, UP, which, clean, [LAST])
    assert torch.equal(sums.logprob.float(), once.logprob_effect)


def test_effects_beyond_float32_are_cut_and_spoil_no_other_row() -> None:
    clean = torch.tensor([[0.0, -110.0, -1.0], [0.0, 0.0, 0.0]])
    ablated = torch.tensor([[-200.0, 90.0, -200.0], [0.0, 1.0, 0.0]])
    expected = ablated.double().log_softmax(-1) - clean.double().log_softmax(-1)
    sums = TokenSums(2, 3, torch.device("cpu"))
    kl = sums.add(torch.tensor([0, 1]), torch.tensor([0, 1]), clean, ablated.clone())
    torch.testing.assert_close(sums.logprob[1], expected[1], rtol=0, atol=1e-6)
    assert kl[0] > 87
    assert sums.logprob[0, 1] > 87
    assert (sums.logprob[0, [0, 2]] < -200).all()
    torch.testing.assert_close(
        sums.prob, ablated.double().softmax(-1) - clean.double().softmax(-1), rtol=1e-5, atol=1e-6
    )


def test_what_is_not_changed_has_no_kl_at_all() -> None:
    logits = torch.randn(4, 999, generator=torch.Generator().manual_seed(0)) * 50
    sums = TokenSums(1, 999, torch.device("cpu"))
    kl = sums.add(torch.zeros(4).long(), torch.arange(4), logits, logits.clone())
    assert kl.abs().max() < 1e-6
    assert sums.logprob.abs().max() < 1e-5


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


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=9, max_size=9), min_size=1, max_size=4),
    st.lists(st.integers(0, 7), min_size=4, max_size=4),
    st.integers(1, 12),
)
def test_extremes_are_the_lowest_and_the_highest_means_each_once(
    totals: list[list[int]], counts: list[int], keep: int
) -> None:
    """A plain loop that sorts all; ties are many, and go by the id."""
    sums = TokenSums(len(totals), 9, torch.device("cpu"))
    sums.logprob += torch.tensor(totals)
    sums.prob += torch.arange(9) + 10 * torch.arange(len(totals)).unsqueeze(1)
    found = sums.extremes(torch.tensor(counts[: len(totals)]), keep)
    expected = []
    for slot, (row, count) in enumerate(zip(totals, counts, strict=False)):
        order = sorted(range(9), key=lambda token: (row[token], token))
        kept = order if 2 * keep >= 9 else order[:keep] + order[-keep:]
        n = max(count, 1)
        expected += [(slot, token, row[token] / n, (token + 10 * slot) / n) for token in kept]
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
