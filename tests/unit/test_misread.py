"""Transcoders and cross-layer transcoders on trial: their numbers by whole passes, and each way to misread them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support import tiny
from support.random_saes import random_clt, random_sae, random_transcoder

from circuitcli.core import encodings
from circuitcli.core.behind import behind, inverse
from circuitcli.core.dictionary import Dictionary, reconstructed
from circuitcli.core.edits import adding
from circuitcli.core.examination import Examiner
from circuitcli.core.fit import numbers
from circuitcli.core.frame import PLAIN
from circuitcli.core.left_out import linear
from circuitcli.core.reading import Variant
from circuitcli.core.reconstruction import Splicer, Text
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import Site
from circuitcli.core.surroundings import Surroundings
from circuitcli.core.variants import variants
from circuitcli.errors import InputError

LAYERS = tiny.LAYERS


@pytest.fixture
def text() -> Text:
    """Seven sequences of unlike length."""
    lengths = torch.tensor([9, 12, 5, 12, 7, 3, 12])
    tokens = torch.randint(1, tiny.VOCAB, (len(lengths), 12), generator=torch.Generator().manual_seed(0))
    return Text(tokens * (torch.arange(12) < lengths.unsqueeze(1)), lengths, bos=False)


def stated(judged: Dictionary, others: tuple[Dictionary, ...] = ()) -> Variant:
    return Variant("stated", "as stated", judged, others)


def by_whole_passes(bridge, text: Text, parts: dict[Site, Dictionary], site: Site) -> tuple[float, float, float]:
    """FVU, KL spliced and KL zero of what dictionaries say together at a site, from the tokens, a sequence a time."""
    error, there, kl, zero = [], [], [], []
    for row, length in zip(text.tokens, text.lengths.tolist(), strict=True):
        tokens = row[None, :length]
        read = bridge.run(tokens, [*parts, site]).sites
        x, y = {reads: read[reads][0, 1:].float() for reads in parts}, read[site][0, 1:].float()
        said = reconstructed(site, parts, {reads: one.active(x[reads]) for reads, one in parts.items()}, x, y)
        logs = []
        for delta in (torch.zeros_like(y), said - y, -y):
            edit = adding(site, torch.cat([torch.zeros(1, y.shape[1]), delta])[None])
            logs.append(
                bridge.logits(bridge.run(tokens, [], final=True, edits=edit).final[0, 1:]).double().log_softmax(-1)
            )
        kl.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1))
        zero.append((logs[0].exp() * (logs[0] - logs[2])).sum(-1))
        error.append(said - y)
        there.append(y)
    y = torch.cat(there)
    fvu = torch.cat(error).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
    return float(fvu), float(torch.cat(kl).mean()), float(torch.cat(zero).mean())


@pytest.mark.parametrize("reads", ["mlp_in", "resid_mid"])
@pytest.mark.parametrize(("skip", "centre_out"), [(False, False), (True, False), (True, True)])
def test_a_transcoder_is_judged_where_it_writes(bridge, text, reads, skip, centre_out):
    one = random_transcoder(bridge, Site(1, reads), "topk", skip=skip, centre_out=centre_out, d_sae=40)
    [scores] = Splicer(bridge, text, [one.reads, one.writes]).score([stated(one)])
    found = numbers(scores)
    expected = by_whole_passes(bridge, text, {one.reads: one}, Site(1, "mlp_out"))
    assert (found.fvu, found.kl_spliced, found.kl_zero) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert found.l0 == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("few", [1, 10**9], ids=["rows that fire", "whole decoders"])
@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_of_a_cross_layer_transcoder_all_that_write_there_are_heard(bridge, text, kind, few, monkeypatch):
    """Whether rows of a decoder are summed or all of it is multiplied with."""
    monkeypatch.setattr(encodings, "_FEW", few)
    clt = random_clt(bridge, kind, skip=True, d_sae=40)
    splicer = Splicer(bridge, text, [site for one in clt.values() for site in (one.reads, one.writes)])
    for layer in range(LAYERS):
        *others, judged = (clt[Site(i, "mlp_in")] for i in range(layer + 1))
        [scores] = splicer.score([stated(judged, tuple(others))])
        found = numbers(scores)
        expected = by_whole_passes(bridge, text, clt, Site(layer, "mlp_out"))
        assert (found.fvu, found.kl_spliced, found.kl_zero) == pytest.approx(expected, rel=1e-3, abs=1e-4)
        own = judged.encode(torch.cat([splicer.activations(judged.reads)]))
        assert found.l0 == pytest.approx(float((own > 0).sum(-1).float().mean()), abs=1e-5)
        assert found.dead == pytest.approx(float((own == 0).all(0).float().mean()), abs=1e-6)


def test_what_fires_is_encoded_once_for_all_sites_that_are_written(bridge, text, monkeypatch):
    """Else a cross-layer transcoder of n layers would be encoded n times."""
    clt, encoded = list(random_clt(bridge, "topk", d_sae=400).values()), []
    active = Dictionary.active
    monkeypatch.setattr(Dictionary, "active", lambda self, x: encoded.append(self.reads) or active(self, x))
    splicer = Splicer(bridge, text, [site for one in clt for site in (one.reads, one.writes)])
    for layer, judged in enumerate(clt):
        splicer.score([stated(judged, tuple(clt[:layer]))], splice=False)
    assert encoded == [one.reads for one in clt]


def test_those_whose_layers_are_missing_are_not_judged(bridge, text):
    clt = list(random_clt(bridge, "topk", d_sae=40).values())
    examiner = Examiner(bridge, text, None, clt[1:])
    fits = [trial.examine(full=False) for trial in examiner.trials(clt[1:])]
    assert [fit.why for fit in fits] == ["those that read in layers 0 write there too, and aren't chosen"] * 2
    assert {(fit.verdict, fit.change, fit.numbers.fvu) for fit in fits} == {("doubtful", None, None)}
    whole = Examiner(bridge, text, None, clt).examine(clt[2], full=False)
    assert (whole.kind, whole.site, whole.writes) == ("cross-layer transcoder", "2.mlp_in", "2.mlp_out")
    assert whole.others == ("0.mlp_in", "1.mlp_in")
    assert whole.numbers.fvu is not None


def around(
    bridge, *, normalized: bool = False, shape: ModelShape | None = None
) -> Callable[[Dictionary], Surroundings]:
    def of(sae: Dictionary) -> Surroundings:
        return Surroundings(
            shape or bridge.shape, True, torch.zeros(32), None, 5.0, bridge.norm_weights, normalized=normalized
        )

    return of


def names(bridge, one: Variant, **options: object) -> set[str]:
    return {variant.name for variant in variants(one, around(bridge, **options))}


def test_which_changes_make_sense_for_transcoders(bridge):
    one = random_transcoder(bridge, Site(1, "mlp_in"), "jumprelu", skip=True)
    common = {"ReLU", "b_dec negated", "b_dec subtracted", "b_dec not subtracted", "layer before", "layer after"}
    common |= {"centred output"}
    skip = {"no skip", "skip transposed"}
    assert names(bridge, stated(one)) == common | skip | {"before the norm", "no gain"}
    assert names(bridge, stated(one), normalized=True) == common | skip | {"before the norm", "gain"}
    mid = random_transcoder(bridge, Site(0, "resid_mid"), "relu")
    seen = {"gain", "no gain", "centring", "skip left out"}
    assert names(bridge, stated(mid)) == (common - {"ReLU", "layer before"}) | seen
    parallel = replace(bridge.shape, parallel=True)
    assert "before the norm" not in names(bridge, stated(one), shape=parallel)
    square = random_transcoder(bridge, Site(1, "mlp_in"), "relu", d_sae=32)
    assert {"W_enc transposed", "W_dec transposed", "transposed"} <= names(bridge, stated(square))
    sae = random_sae(bridge, Site(1, "mlp_in"), "relu", PLAIN, 32, 0)
    assert not names(bridge, stated(sae)) & {"before the norm", "no gain", "skip left out", "W_enc transposed"}


def test_without_a_norm_before_the_mlp_nothing_lacks_its_weights(bridge, text, monkeypatch):
    """OLMo 2 has none: the model says so, and the rest is tried."""

    def none(layer):
        raise InputError("There is none.", hint="Choose another.")

    one = random_transcoder(bridge, Site(1, "mlp_in"), "relu")
    monkeypatch.setattr(bridge, "norm_weights", none)
    tried = Examiner(bridge, text, None, [one]).examine(one, full=False)
    assert {"before the norm", "b_dec subtracted"} <= {a.name for a in tried.alternatives}
    assert "no gain" not in {a.name for a in tried.alternatives}


def test_of_a_cross_layer_transcoder_all_are_changed(bridge):
    clt = list(random_clt(bridge, "jumprelu", skip=True).values())
    last = stated(clt[2], tuple(clt[:2]))
    found = {variant.name: variant for variant in variants(last, around(bridge))}
    assert {"written before", "written after", "layer before"} <= set(found), "though it writes one site alone"
    assert "layer after" not in found
    assert "written after" in names(bridge, stated(clt[0]))
    moved = found["layer before"]
    assert (moved.reads, moved.writes) == (Site(1, "mlp_in"), Site(1, "mlp_out"))
    assert [read.reads for _, read in moved.beside()] == [Site(0, "mlp_in")], "the first is in no layer then"
    before = found["written before"]
    for old, new in before.beside():
        expected = [one.w_dec for one in old.decoders]
        assert [one.site for one in new.decoders] == [one.site for one in old.decoders]
        for one, w_dec in zip(new.decoders, [*expected[1:], expected[0]], strict=True):
            assert torch.equal(one.w_dec, w_dec)
    plain = found["ReLU"]
    assert {type(read.activation).__name__ for _, read in plain.beside()} == {"Relu"}


def test_behind_reads_what_it_is_told(bridge):
    """And skip connections with it."""
    one = random_transcoder(bridge, Site(1, "mlp_in"), "relu", skip=True, d_sae=40)
    norm = bridge.norm_weights(1)
    x = torch.randn(6, 32)
    moved = behind(one, norm)
    expected = one.decode(one.encode(x * norm.gain + norm.bias), x * norm.gain + norm.bias, x)
    torch.testing.assert_close(moved.decode(moved.encode(x), x, x), expected, rtol=1e-4, atol=1e-4)
    back = behind(moved, inverse(norm))
    torch.testing.assert_close(back.decode(back.encode(x), x, x), one.decode(one.encode(x), x, x), rtol=1e-3, atol=1e-3)


def test_a_norm_that_was_taken_in_is_taken_out_again(bridge):
    """Of one that was folded: before the norm, with the gain, and in another layer behind that layer's own norm."""
    filed = random_transcoder(bridge, Site(1, "mlp_in"), "relu", skip=True, d_sae=40)
    norms = {layer: bridge.norm_weights(layer) for layer in range(LAYERS)}

    def folded(layer: int) -> Dictionary:
        return behind(filed, inverse(norms[layer]))

    found = {variant.name: variant.sae for variant in variants(stated(folded(1)), around(bridge, normalized=True))}
    for name, expected, site in (
        ("before the norm", filed, Site(1, "resid_mid")),
        ("gain", filed, Site(1, "mlp_in")),
        ("layer before", folded(0), Site(0, "mlp_in")),
        ("skip transposed", replace(folded(1), w_skip=filed.w_skip.T / norms[1].gain), Site(1, "mlp_in")),
    ):
        assert found[name].reads == site
        for part in ("w_enc", "b_enc", "w_skip"):
            torch.testing.assert_close(getattr(found[name], part), getattr(expected, part), rtol=1e-3, atol=1e-3)
    unfolded = {name: behind(found[name], norms[1]) for name in ("b_dec subtracted", "no skip", "b_dec negated")}
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(unfolded["b_dec subtracted"].b_enc, filed.b_enc - filed.b_dec @ filed.w_enc, **close)
    torch.testing.assert_close(unfolded["no skip"].b_dec, filed.b_dec, **close)
    torch.testing.assert_close(unfolded["b_dec negated"].b_dec, -filed.b_dec, **close)


class TestASkipConnectionThatIsLeftOut:
    def test_is_told_from_the_other_half(self):
        draw = torch.Generator().manual_seed(0)
        x, weights = torch.randn(400, 8, generator=draw), torch.randn(8, 6, generator=draw)
        noise, seq = torch.randn(400, 6, generator=draw), torch.arange(400) // 20
        y = x @ weights + 0.1 * noise
        told = linear(x, y, seq)
        assert (y - told).pow(2).mean() < 0.012
        changed = torch.where((seq % 2 == 0).unsqueeze(1), 100 * noise, y)
        assert torch.equal(linear(x, changed, seq)[seq % 2 == 0], told[seq % 2 == 0]), "it isn't told by itself"

    def test_is_nothing_in_noise(self):
        """Though there are more dimensions than positions."""
        draw = torch.Generator().manual_seed(0)
        x, noise = torch.randn(60, 80, generator=draw), torch.randn(60, 6, generator=draw)
        told = linear(x, noise, torch.arange(60) // 6)
        assert (noise - told).pow(2).mean() < 1.2 * noise.pow(2).mean()

    def test_of_one_sequence_is_nothing(self):
        assert not linear(torch.randn(9, 4), torch.randn(9, 4), torch.zeros(9, dtype=torch.long)).any()
