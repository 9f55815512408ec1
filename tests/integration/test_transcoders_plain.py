"""Ablating features of transcoders, per layer and across layers, beside plain transformers with hooks, float64.

Every later dictionary is read again of the stream that is edited wherever the feature writes, to the last layer: what a
run reads no further than the next chosen layer, see test_brute_force.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from support import engine
from support.brute import Brute, Outcome
from support.families import VOCAB, PlainFamily, save_checkpoint
from support.random_saes import TRANSCODERS, random_clt, random_sae, random_transcoder
from support.tiny import load_model
from support.transcoded import by_hand

from circuitcli.core.ablation import Rows
from circuitcli.core.active import Active
from circuitcli.core.dictionary import Dictionary, reconstructed
from circuitcli.core.edits import adding_all
from circuitcli.core.frame import Frame
from circuitcli.core.model import Addition
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel

pytestmark = pytest.mark.seams
WITHIN = 1e-4  # of the row's largest value
FAMILIES = ("gpt2", "neox", "llama", "gemma2")
# Which dictionaries: architecture, whether each has a skip connection, and what it reads.
PER_LAYER = {"relu": (False, "mlp_in"), "topk": (True, "resid_mid"), "jumprelu": (True, "mlp_in")}
ACROSS = {"relu": (False, "resid_mid"), "topk": (False, "mlp_in"), "jumprelu": (True, "mlp_in")}
HORIZON = {"top": 0, "onward": None, "all": 0}
TOKENS = torch.randint(2, VOCAB, (4, 9), generator=torch.Generator().manual_seed(5))
LENGTHS = torch.tensor([9, 7, 9, 5])


@functools.cache
def folders(family: str) -> Path:
    return save_checkpoint(family, Path(mkdtemp()))


@functools.cache
def models(family: str) -> tuple[BridgeModel, PlainFamily]:
    return load_model(folders(family)), PlainFamily(folders(family), family)


def dictionaries(model: BridgeModel, kind: str, *, across: bool) -> dict[Site, Dictionary]:
    """Transcoders of all layers, and an SAE behind each block."""
    skip, reads = (ACROSS if across else PER_LAYER)[kind]
    reads = "mlp_in" if model.shape.parallel else reads
    layers = range(model.shape.n_layers)
    if across:
        found = random_clt(model, kind, reads=reads, skip=skip, d_sae=16)
    else:
        centred = model.shape.norms_subtract_mean
        found = {
            s: random_transcoder(model, s, kind, skip=skip, d_sae=16, seed=s.layer, centre_out=centred and s.layer == 1)
            for s in at(reads, layers)
        }
    saes = {site: random_sae(model, site, "relu", Frame(), 16, 100 + site.layer) for site in at("resid_post", layers)}
    return dict(sorted((found | saes).items(), key=lambda pair: pair[0].order))


def at(name: str, layers: range) -> list[Site]:
    return [Site(layer, name) for layer in layers]


def firing(truth: Brute, site: Site, whole: bool) -> Rows:
    """The strongest features at some places, and one that doesn't fire."""
    found = []
    for seq, a in enumerate(truth.latents[tuple(site)]):
        for pos in [-1] if whole else [2, len(a) - 1]:
            here = a.amax(0) if whole else a[pos]
            found += [(j, seq, pos) for j in (int(here.argmax()), int(here.argsort()[-2]))]
    found.append((int(truth.latents[tuple(site)][0][3].argmin()), 0, -1 if whole else 3))
    return engine.rows(*torch.tensor(found).T, torch.linspace(-0.5, 0.7, len(found)))


def compared(result: engine.Result, row: int, outcome: Outcome, downstream: list[Site]) -> tuple[int, int]:
    """How many latents rounding may decide, and how many there are; all others are as they should be."""
    doubtful = total = 0
    readings = (result.row == row).nonzero().flatten().tolist()
    assert {(tuple(s), int(result.pos[i])) for i in readings for s in downstream} == outcome.reads.keys()
    for reading in readings:
        for down in downstream:
            read, changes = outcome.reads[tuple(down), int(result.pos[reading])], result.changes[down]
            mine = changes.row == reading
            effect = torch.zeros(len(read.clean), dtype=torch.float64)
            effect[changes.feature[mine]] = (changes.ablated - changes.clean)[mine].double()
            wrong = (effect - (read.ablated - read.clean)).abs() > WITHIN * read.largest
            assert not (wrong & ~read.doubtful).any(), (row, down)
            doubtful, total = doubtful + int(read.doubtful.sum()), total + len(read.doubtful)
    return doubtful, total


@pytest.mark.parametrize("positions", HORIZON)
@pytest.mark.parametrize("across", [False, True], ids=["per layer", "across layers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ablations_are_those_of_plain_transformers(family: str, across: bool, positions: str) -> None:
    kind = TRANSCODERS[(FAMILIES.index(family) + list(HORIZON).index(positions)) % 3]  # each in all positions modes
    agree(family, kind, positions, across=across)


@pytest.mark.parametrize(("family", "positions"), [("gpt2", "top"), ("llama", "onward"), ("gemma2", "all")])
def test_whole_sequences_are_computed_again_to_the_same(
    family: str, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are of a model whose attention has no door of ours."""
    monkeypatch.setattr(models(family)[0], "whole_because", "a test wants it so")
    agree(family, "jumprelu", positions, across=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str) -> None:
    """The model's alone: in both ways of adding at several sites, and in float32, it is the same up to that."""
    folder = folders(family)
    half, whole = load_model(folder, "bfloat16"), models(family)[0]
    ours = dictionaries(whole, "relu", across=True)
    site, last = next(iter(ours)), Site(whole.shape.n_layers - 1, "resid_post")
    x = whole.run(TOKENS, [site]).sites[site]
    strongest = ours[site].encode(x).max(-1)
    deltas = ours[site].edit(x, strongest.indices, strongest.values, torch.zeros(TOKENS.shape))
    edit = Addition.of({at: delta.index_fill(1, torch.tensor([0]), 0) for at, delta in deltas.items()})
    clean = half.run(TOKENS, [*half.bases(edit.site)], final=True)
    fast = half.resume(clean, {s: clean.sites[s] for s in half.bases(edit.site)}, edit, [last], final=True)
    slow, exact = (
        model.run(TOKENS, [last], final=True, edits=adding_all({edit.site: edit.delta, **edit.further}))
        for model in (half, whole)
    )
    assert fast.sites[last].dtype == torch.bfloat16
    for run in (fast, slow):
        error = (run.sites[last].float() - exact.sites[last]).abs().max()
        assert error <= 0.05 * exact.sites[last].abs().max()
    moved = (exact.final - whole.run(TOKENS, [], final=True).final).abs().max()
    assert moved > 0.1 * exact.final.abs().max()


def agree(family: str, kind: str, positions: str, *, across: bool) -> None:
    """The engine's ablations are those of plain transformers."""
    model, plain = models(family)
    ours = dictionaries(model, kind, across=across)
    theirs: Mapping = {tuple(site): by_hand(one) for site, one in ours.items()}
    sequences = [tokens[:length] for tokens, length in zip(TOKENS, LENGTHS, strict=True)]
    truth = Brute(sequences, plain, theirs, [site.name for site in ours], len(sequences))
    doubtful = total = 0
    moved = 0.0
    for site in [site for site in ours if ours[site].elsewhere][:3]:
        which = firing(truth, site, positions == "all")
        downstream = [down for down in ours if down.order > ours[site].writes.order]
        result = engine.ablated(model, ours, site, which, (TOKENS, LENGTHS), downstream, horizon=HORIZON[positions])
        for row, (j, seq, pos, c) in enumerate(zip(*(part.tolist() for part in parts(which)), strict=True)):
            sure = slice(1, None) if pos < 0 else pos
            if truth.doubtful(tuple(site), seq)[sure, ..., j].any():
                doubtful += 1
                continue
            where = [tuple(down) for down in downstream]
            outcome = truth.ablate(tuple(site), j, seq, pos, c, HORIZON[positions], where)
            left_out, counted = compared(result, row, outcome, downstream)
            doubtful, total = doubtful + left_out, total + counted
            for effect, expected in (
                (result.logprob_effect[row], outcome.logprob_effect),
                (result.prob_effect[row], outcome.prob_effect),
            ):
                assert (effect - expected).abs().max() <= WITHIN * max(float(expected.abs().max()), 0.1)
            kl = float(result.kl[result.row == row].sum())
            assert kl == pytest.approx(outcome.kl, rel=1e-3, abs=1e-5)
            moved = max(moved, outcome.kl)
    assert moved > 1e-3
    assert total > 1000
    assert doubtful <= 0.01 * total


def parts(which: Rows) -> tuple[torch.Tensor, ...]:
    return which.feature, which.seq, which.pos, which.replacement


@pytest.mark.parametrize("positions", HORIZON)
@pytest.mark.parametrize("across", [False, True], ids=["per layer", "across layers"])
def test_zero_ablating_what_does_not_fire_changes_nothing(across: bool, positions: str) -> None:
    model, _ = models("gpt2")
    ours = dictionaries(model, "jumprelu", across=across)
    site = next(iter(ours))
    active = engine.encoded(model, ours, (TOKENS, LENGTHS))[site]
    fires = torch.zeros(TOKENS.numel(), ours[site].d_sae, dtype=torch.bool)
    fires[active.place, active.feature] = True
    fires = fires.view(*TOKENS.shape, -1)
    pos = -1 if positions == "all" else 2
    silent = ~(fires.any(1) if positions == "all" else fires[:, pos])
    seq, feature = silent.nonzero().T
    which = engine.rows(feature, seq, torch.full_like(seq, pos))
    downstream = [down for down in ours if down.order > ours[site].writes.order]
    result = engine.ablated(model, ours, site, which, (TOKENS, LENGTHS), downstream, horizon=HORIZON[positions])
    assert len(which) > 10
    assert not any(len(changes.row) for changes in result.changes.values())
    assert result.kl.abs().max() <= 1e-5
    readings = result.row.bincount().max()  # over which they are summed
    assert result.logprob_effect.abs().max() <= 1e-5 * readings


@pytest.mark.parametrize("kind", TRANSCODERS)
@pytest.mark.parametrize("across", [False, True], ids=["per layer", "across layers"])
def test_an_edit_is_what_is_said_without_the_feature_and_the_errors_kept(across: bool, kind: str) -> None:
    """At every site that it writes, whatever else writes there."""
    model, _ = models("gpt2")
    ours = {site: one for site, one in dictionaries(model, kind, across=across).items() if one.elsewhere}
    written = {site for one in ours.values() for site in one.written}
    run = model.run(TOKENS, [*ours, *written])
    clean = {site: x.flatten(0, 1) for site, x in run.sites.items()}
    fires = {site: one.active(clean[site]) for site, one in ours.items()}
    site, one = next(iter(ours.items()))
    a = one.encode(clean[site])
    feature, c = a.argmax(-1), torch.full((len(a),), 0.25)
    without = a.scatter(1, feature.unsqueeze(1), 0.25)
    place, other = without.nonzero().T
    edited = fires | {site: Active(place, other, without[place, other], one.d_sae)}
    deltas = one.edit(clean[site], feature, a.gather(1, feature.unsqueeze(1)).squeeze(1), c)
    assert set(deltas) == set(one.written)
    for at in written:
        error = clean[at] - reconstructed(at, ours, fires, clean, clean[at])
        expected = reconstructed(at, ours, edited, clean, clean[at]) + error
        moved = clean[at] + deltas.get(at, 0)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5 * float(clean[at].abs().max()))
        assert at not in deltas or deltas[at].abs().max() > 0.1
