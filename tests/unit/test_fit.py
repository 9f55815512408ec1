"""The numbers of an SAE's fit by a second route, and the rule on numbers made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import fakes, tiny
from tokenizers import Tokenizer

from circuitcli import demo
from circuitcli.core.activations.standard import Relu
from circuitcli.core.examination import Examiner
from circuitcli.core.fit import Fit, Numbers, Verdict, compare, judge, numbers, undecided
from circuitcli.core.frame import Frame
from circuitcli.core.reading import Variant
from circuitcli.core.reconstruction import Lost, Scores, Splicer, Text
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import Site
from circuitcli.core.surroundings import Surroundings
from circuitcli.core.variants import CHANGES, variants
from circuitcli.demo import corpus, language_model, measure, measure_transcoders
from circuitcli.demo.rows import cross_entropy, rows_of
from circuitcli.stages.fit import warnings

SITE = Site(0, "resid_post")


@pytest.mark.parametrize("site", ["resid_post", "attn_out"])
def test_numbers_are_those_of_plain_transformers(site):
    """circuitcli.demo.measure hooks transformers' own modules and shares the SAE's arithmetic alone."""
    plain = language_model.load(demo.MODEL)
    tokenizer = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
    rows = rows_of(tokenizer, corpus.read(demo.TEXT)[:5], 64)
    _, sae = measure.load_dictionary(demo.SAES / f"blocks.1.hook_{site}")
    clean = cross_entropy(plain, rows)
    wanted = measure.quality(plain, Site(1, site), sae, rows, clean)
    splicer = Splicer(tiny.load_model(demo.MODEL), Text(rows.tokens, rows.lengths, bos=True), [sae.reads])
    [scores] = splicer.score([Variant("", "", sae)])
    found = numbers(scores)
    got = (found.fvu, found.l0, found.dead, found.recovered, found.ce_clean)
    assert got == pytest.approx((wanted.fvu, wanted.l0, wanted.dead, wanted.recovered, clean), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("name", "earlier"), [("transcoders", 0), ("clt", 2)])
def test_numbers_of_transcoders_are_those_of_plain_transformers(name, earlier):
    """Of layer 2: alone, or with what the dictionaries of two earlier layers say there."""
    plain = language_model.load(demo.MODEL)
    tokenizer = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
    rows = rows_of(tokenizer, corpus.read(demo.TEXT)[:5], 64)
    made = measure_transcoders.load(demo.FOLDER / name)
    clean = cross_entropy(plain, rows)
    wanted = measure_transcoders.quality(name, plain, made, rows, clean).layers[2]
    judged = made[Site(2, "mlp_in")]
    others = tuple(made[Site(layer, "mlp_in")] for layer in range(2 - earlier, 2))
    sites = [site for one in (*others, judged) for site in (one.reads, judged.writes)]
    splicer = Splicer(tiny.load_model(demo.MODEL), Text(rows.tokens, rows.lengths, bos=True), sites)
    [scores] = splicer.score([Variant("", "", judged, others)])
    found = numbers(scores)
    got = (found.fvu, found.l0, found.dead, found.recovered, found.ce_clean)
    assert got == pytest.approx((wanted.fvu, wanted.l0, wanted.dead, wanted.recovered, clean), rel=1e-4, abs=1e-4)


def test_kl_and_zero_by_hand_on_a_linear_model():
    """0 in place of x, at positions ≥ 1 alone; the KL of logits that are written out."""
    model = fakes.LinearModel.random()
    tokens = torch.tensor([[1, 4, 2], [3, 5, 0]])
    sae = fakes.linear_sae(Site(1, "resid_post"))
    splicer = Splicer(model, Text(tokens, torch.tensor([3, 2]), bos=False), [sae.reads])
    [scores] = splicer.score([Variant("", "", sae)])
    last = model.run(tokens, [sae.reads]).sites[sae.reads]
    before = (last @ model.u).log_softmax(-1)
    kl = [(before[s, p].exp() * (before[s, p] + np.log(fakes.VOCAB))).sum().item() for s, p in ((0, 1), (0, 2), (1, 1))]
    assert scores.zero.kl == pytest.approx(kl, rel=1e-4)
    assert scores.zero.nats == pytest.approx([np.log(fakes.VOCAB), np.nan, np.nan], rel=1e-4, nan_ok=True)
    assert scores.clean == pytest.approx([-before[0, 1, 2].item(), np.nan, np.nan], rel=1e-4, nan_ok=True)
    assert (scores.seq.tolist(), scores.token.tolist()) == ([0, 0, 1], [1, 2, 1])


def test_text_loses_and_gets_its_bos():
    text = Text(torch.tensor([[9, 1, 2], [9, 3, 0]]), torch.tensor([3, 2]), bos=True)
    without = text.flipped(9, 3)
    assert (without.tokens.tolist(), without.lengths.tolist(), without.bos) == ([[1, 2], [3, 0]], [2, 1], False)
    back = without.flipped(9, 3)
    assert (back.tokens.tolist(), back.lengths.tolist(), back.bos) == (text.tokens.tolist(), [3, 2], True)
    assert without.flipped(9, 2).tokens.tolist() == [[9, 1], [9, 3]]
    assert without.flipped(9, 2).lengths.tolist() == [2, 2]


def test_special_tokens_of_a_text_never_count():
    special = torch.tensor([[False, True, False], [False, False, False]])
    text = Text(torch.tensor([[9, 1, 2], [9, 3, 0]]), torch.tensor([3, 2]), bos=True, special=special)
    without = text.flipped(9, 3)
    assert text.counted.tolist() == [[False, False, True], [False, True, False]]
    assert without.counted.tolist() == [[False, True], [False, False]]
    assert without.flipped(9, 3).counted.tolist() == text.counted.tolist()
    assert text.part(slice(1, 2)).counted.tolist() == [[False, True]]
    splicer = Splicer(fakes.LinearModel.random(), text, [Site(0, "resid_pre")])
    [scores] = splicer.score([Variant("", "", fakes.linear_sae(Site(0, "resid_pre")))], splice=False)
    assert [place.tolist() for place in (scores.seq, scores.token)] == [[0, 1], [1, 0]]
    assert splicer.activations(Site(0, "resid_pre")).shape[0] == 2


def test_changes_that_make_no_sense_are_left_out(saes):
    model_shape = ModelShape(3, 32, 32, 99, 32)
    around = Surroundings(model_shape, True, torch.ones(32), True, 5.0, lambda layer: None)

    def names(sae, here=around):
        return {variant.name for variant in variants(Variant("", "", sae), lambda _: here)}

    z, post, mid = saes[Site(0, "z")], saes[Site(1, "resid_post")], saes[Site(0, "resid_mid")]
    assert not {"centring", "resid_pre", "layer before"} & names(z)
    assert {"processed z", "layer after", "ReLU", "no BOS"} <= names(z)
    assert {"raw z"} <= names(replace(z, frame=Frame(offset=torch.ones(32))))
    assert "processed z" not in names(z, replace(around, z_offset=torch.zeros(32)))
    assert not {"centring", "LayerNorm", "resid_pre"} & names(post)  # its block's resid_pre is the layer before
    assert {"layer before", "layer after", "resid_mid", "no normalisation"} <= names(post)
    plain = replace(mid, frame=Frame(), activation=Relu())
    assert {"centring", "LayerNorm"} <= names(plain)
    assert "centring" not in names(plain, replace(around, norms_subtract_mean=False))
    assert not {"BOS", "no BOS"} & names(plain, replace(around, bos=None))
    assert {"TopK 16", "TopK 32"} <= names(plain, replace(around, l0=30.0))
    assert not {"TopK 16", "TopK 32"} & names(plain)
    assert not {n for n in names(replace(plain, b_dec=torch.zeros(32))) if n.startswith("b_dec")}
    assert len({change.name for change in CHANGES}) == len(CHANGES)


def made(fvu: float, kl: float, *, noise: float = 0.1, site: Site = SITE, count: int = 20, l0: float = 1.0) -> Scores:
    """Scores of `count` sequences of ten positions, zeroing costing one nat of KL."""
    seq, token = np.repeat(np.arange(count), 10), np.tile(np.arange(1, 11), count)
    draw = np.random.default_rng(1)
    error = fvu * (1 + noise * draw.standard_normal(count))[seq]
    ones = np.ones(len(seq))
    sae = fakes.linear_sae(site)
    spliced, zero = Lost(kl * ones, kl * ones + 3), Lost(ones, ones + 3)
    return Scores(
        Variant("the change", "so", sae), seq, token, error, ones, l0 * ones, 0.0, ones * 3, spliced=spliced, zero=zero
    )


@pytest.mark.parametrize(
    ("stated", "change", "verdict"),
    [
        (made(0.2, 0.1), made(0.4, 0.2), "fits"),
        (made(0.2, 0.1), made(0.197, 0.05), "fits"),  # no clear margin
        (made(0.2, 0.1), made(0.17, 0.11), "fits"),  # the next token says no
        (made(0.02, 0.1), made(0.012, 0.05), "fits"),  # nothing to gain
        (made(0.2, 0.1), made(0.17, 0.09), "doubtful"),
        (made(0.2, 0.1, l0=0.5), made(0.1, 0.05, l0=3.5), "fits"),  # dense: above d_in / 4
        (made(0.4, 0.3), made(0.1, 0.1), "wrong"),
        (made(0.4, 0.3), made(0.1, 0.2), "doubtful"),  # not by far for the next token
        (made(1.7, 0.1), made(1.2, 0.05), "fits"),  # trained end to end: the change explains nothing either
        (made(0.87, 0.1), made(1.0, 0.2), "fits"),
        (made(0.7, 0.6), made(1.0, 0.9), "doubtful"),
        (made(1.3, 0.3), made(1.4, 0.4), "doubtful"),
        (made(1.3, 1.1), made(1.4, 1.2), "wrong"),
        (made(0.2, 0.1), made(0.17, 0.09, site=Site(1, "z")), "doubtful"),
    ],
)
def test_the_rule(stated, change, verdict):
    assert judge(stated, (compare(stated, change),)).verdict == verdict


def of_transcoder(scores: Scores, **told: object) -> Scores:
    """The same scores, of one that writes elsewhere than it reads."""
    stated = replace(scores.variant.stated, reads=Site(0, "mlp_in"), writes=Site(0, "mlp_out"))
    return replace(scores, variant=replace(scores.variant, stated=stated, **told))


SOME = Variant("stated", "", fakes.linear_sae(SITE))  # to which something is fitted


@pytest.mark.parametrize(
    ("stated", "change", "told", "verdict", "better"),
    [
        (made(0.6, 0.3), made(0.4, 0.2), {}, "wrong", True),  # a third: of an SAE it takes halves
        (made(0.5, 0.3), made(0.4, 0.2), {}, "doubtful", True),
        (made(0.4, 0.3), made(0.3, 0.2), {"lacking": SOME}, "fits", False),  # which helps what is right, too
        (made(0.6, 0.3), made(0.5, 0.2), {"lacking": SOME}, "doubtful", True),
        (made(0.4, 0.3), made(0.15, 0.1), {"lacking": SOME}, "wrong", True),
        (made(0.6, 0.3), made(0.2, 0.3), {"unheard": True}, "wrong", True),  # the next token says nothing of it
        (made(0.6, 0.3), made(0.4, 0.3), {"unheard": True}, "fits", False),
    ],
)
def test_the_rule_for_transcoders(stated, change, told, verdict, better):
    tried = compare(of_transcoder(stated), of_transcoder(change, **told))
    assert (judge(of_transcoder(stated), (tried,)).verdict, tried.better) == (verdict, better)


def test_what_was_fitted_is_named_only_before_what_is_not_far_better():
    stated, near, far = (of_transcoder(made(*numbers)) for numbers in ((0.9, 0.9), (0.8, 0.8), (0.4, 0.3)))
    fitted = compare(stated, of_transcoder(made(0.2, 0.1), lacking=SOME))
    named = [
        judge(stated, (replace(compare(stated, other), name="read"), replace(fitted, name="fitted"))).change
        for other in (near, far)
    ]
    assert named == ["fitted", "read"]


@pytest.mark.parametrize(
    ("stated", "change", "goes_on"),
    [
        (made(0.2, 0.1), made(0.17, 0.09), True),
        (made(0.2, 0.1), made(0.4, 0.05), False),
        (made(0.2, 0.1), made(0.17, 0.11), False),  # the next token says no
        (made(0.2, 0.1, noise=0), made(0.2, 0.05, noise=0.4), True),  # no better here, but who knows
        (made(0.2, 0.1, noise=0), made(0.2, 0.05, noise=0.01), False),
        (made(0.2, 0.1, l0=0.5), made(0.1, 0.05, l0=3.5), False),  # dense: above d_in / 4 twice over
        (made(0.2, 0.1, l0=0.5), made(0.1, 0.05, l0=1.7), True),
        (made(0.2, 0.1), replace(made(0.17, 0.09), clean=None, spliced=None, zero=None), True),
    ],
)
def test_what_few_sequences_leave_undecided(stated, change, goes_on):
    assert undecided(stated, compare(stated, change)) is goes_on


def test_noise_makes_nothing_better():
    """An error that is lower on average, but not on most sequences."""
    stated, change = made(0.2, 0.1, noise=0), made(0.2, 0.05, noise=0)
    change.error[:20] = 0.0
    tried = compare(stated, change)
    assert tried.fvu_ratio == pytest.approx(0.9)
    assert tried.fvu_ratio_high > 0.9
    change.error[20:60] *= 1.25
    change.error[:40] = 0.0
    change.error[60:] *= 1.1
    tried = compare(stated, change)
    assert tried.fvu_ratio < 0.97
    assert tried.fvu_ratio_high > 1
    assert not tried.better


def test_without_a_measurable_kl_fvu_does_alone():
    def untrained(scores):
        flat = Lost(scores.zero.kl * 1e-4, scores.zero.nats)
        return replace(scores, zero=flat, spliced=flat)

    def verdict(fvu, other):
        stated = untrained(made(fvu, 0))
        return judge(stated, (compare(stated, untrained(made(other, 0))),)).verdict

    assert [verdict(0.9, 1.0), verdict(1.2, 1.3), verdict(2.5, 2.6)] == ["fits", "doubtful", "wrong"]
    assert verdict(0.4, 0.1) == "wrong"


def test_other_tokens_are_left_out_of_a_comparison():
    """With BOS the first token of a text counts, without it doesn't: only shared ones are compared."""
    stated, change = made(0.2, 0.1, noise=0), made(0.2, 0.1, noise=0)
    stated.error[stated.token == 1] = 100.0
    kept = change.token > 1
    arrays = {name: getattr(change, name)[kept] for name in ("seq", "token", "error", "spread", "active", "clean")}
    lost = Lost(change.spliced.kl[kept], change.spliced.nats[kept])
    shorter = replace(change, **arrays, spliced=lost, zero=Lost(change.zero.kl[kept], change.zero.nats[kept]))
    assert compare(stated, shorter).fvu_ratio == pytest.approx(1)


def test_centring_is_tried_only_where_norms_drop_the_mean(bridge, saes):
    sae = replace(saes[Site(1, "mlp_out")], frame=Frame())
    text = Text(torch.randint(1, tiny.VOCAB, (3, 9)), torch.full((3,), 9), bos=False)
    tried = Examiner(bridge, text, None, [sae]).examine(sae, full=False).alternatives
    assert "centring" in {a.name for a in tried}
    linear = fakes.linear_sae(Site(0, "mlp_out"))
    tokens = Text(torch.randint(fakes.VOCAB, (3, 9)), torch.full((3,), 9), bos=False)
    tried = Examiner(fakes.LinearModel.random(), tokens, None, [linear]).examine(linear, full=False).alternatives
    assert tried
    assert "centring" not in {a.name for a in tried}


def test_at_another_site_kl_counts_by_what_zeroing_it_costs():
    stated, change = made(0.2, 0.1), made(0.17, 0.09, site=Site(1, "resid_post"))
    change = replace(change, zero=Lost(change.zero.kl / 2, change.zero.nats))
    tried = compare(stated, change)
    assert tried.kl_ratio == pytest.approx(1.8)
    assert not tried.better


def test_one_warning_a_reason_that_names_a_few_sites():
    numbers = Numbers(l0=1.0, fvu=0.2, dead=0.0)

    def fit(site: str, verdict: Verdict, why: str, positions: int = 100) -> Fit:
        return Fit(site, positions, numbers, verdict, why, None, (), "SAE", site, ())

    few = [fit(f"{layer}.z", "doubtful", "4 positions of text are too few to tell", 4) for layer in range(6)]
    poor = [fit("7.z", "doubtful", "no feature ever fires"), fit("8.z", "doubtful", "no feature ever fires")]
    wrong = fit("9.z", "wrong", "its reconstruction is worse than none: FVU 2.000")
    assert warnings([fit("6.z", "fits", "FVU 0.200"), *few, *poor, wrong], hint=" See `circuit doctor`.") == [
        "Warning: whether the SAEs at 0.z, 1.z, 2.z, 3.z and 2 others fit wasn't checked: "
        "4 positions of text are too few to tell.",
        "Warning: the SAEs at 7.z, 8.z may not fit: no feature ever fires. See `circuit doctor`.",
        "Warning: the SAE at 9.z doesn't fit: its reconstruction is worse than none: FVU 2.000. See `circuit doctor`.",
    ]
