"""Laws 1 to 4 of docs/architecture.md §6, and the law of centring, on the tiny model at every site."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.engine import Result, ablated, clean_of, rows

from circuitcli.core.ablation import Rows
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import Change, adding
from circuitcli.core.reference import ablate_one
from circuitcli.core.sites import SITES, Site

pytestmark = pytest.mark.seams

EDITED = [Site(0, name) for name in SITES] + [Site(1, "z"), Site(1, "resid_mid"), Site(2, "mlp_out")]
Text = tuple[torch.Tensor, torch.Tensor]


def behind(site: Site, saes: dict[Site, Any]) -> list[Site]:
    return sorted((s for s in saes if s.order > site.order), key=lambda s: s.order)


def firing_rows(model: Any, sae: Any, text: Text, *, whole: bool, c: float = 0.0, fires: bool = True) -> Rows:
    """For every sequence, up to two features that do, or don't, fire at a position (−1: at any from 1 on)."""
    tokens, lengths = text
    a = sae.encode(model.run(tokens, [sae.reads]).sites[sae.reads])
    found = []
    for seq, length in enumerate(lengths.tolist()):
        for pos in [-1] if whole else [1, length - 1]:
            here = a[seq, 1:length].amax(0) if whole else a[seq, pos]
            found += [(feature, seq, pos) for feature in torch.nonzero((here > 0) == fires).flatten().tolist()[:2]]
    return rows(*torch.tensor(found).T, c)


def dense(result: Result, down: Site, which: Rows, d_sae: int) -> torch.Tensor:
    """ablated − clean of every latent of a site, those that aren't stored as 0."""
    changes = result.changes[down]
    table = torch.zeros(len(which), d_sae)
    table[changes.row, changes.feature] = changes.ablated - changes.clean
    return table


@pytest.mark.parametrize("site", EDITED, ids=str)
def test_law_1_splicing_an_sae_with_its_error_changes_no_logits(
    bridge: Any, saes: Any, sequences: Text, site: Site
) -> None:
    sae, clean = saes[site], bridge.run(sequences[0], [site], final=True)
    x = clean.sites[site]
    reconstructed = sae.decode(sae.encode(x), x)
    logits = bridge.logits(clean.final[:, -1])

    def spliced(value: torch.Tensor) -> torch.Tensor:
        return bridge.logits(bridge.run(sequences[0], [], final=True, edits=adding(site, value - x)).final[:, -1])

    assert (spliced(reconstructed + (x - reconstructed)) - logits).abs().max() <= 1e-5
    assert (spliced(reconstructed) - logits).abs().max() > 1e-2  # the SAE alone does change them


def test_law_1_splicing_all_saes_at_once_with_their_errors_changes_no_logits(
    bridge: Any, saes: Any, sequences: Text
) -> None:
    """Each encodes the stream as it is by then: without the errors that isn't the clean one."""

    def spliced(*, errors: bool) -> torch.Tensor:
        def splice(sae: Dictionary) -> Change:
            def change(x: torch.Tensor) -> torch.Tensor:
                kept = sae.decode(sae.encode(x), x)
                return kept + (x - kept) if errors else kept

            return change

        edits = {site: splice(sae) for site, sae in saes.items()}
        return bridge.logits(bridge.run(sequences[0], [], final=True, edits=edits).final[:, -1])

    logits = bridge.logits(bridge.run(sequences[0], [], final=True).final[:, -1])
    assert len(saes) > 10
    assert (spliced(errors=True) - logits).abs().max() <= 2e-5
    assert (spliced(errors=False) - logits).abs().max() > 0.1


@pytest.mark.parametrize("site", EDITED, ids=str)
def test_the_gradient_of_an_activation_is_that_of_the_stream_along_its_direction(
    bridge: Any, saes: Any, sequences: Text, site: Site
) -> None:
    """∂m/∂a_j = σ·W_dec[j]·∂m/∂x, with an SAE spliced in by an edit, its error kept."""
    sae, noted = saes[site], {}

    def splice(x: torch.Tensor) -> torch.Tensor:
        a = sae.encode(x)
        noted["error"], noted["a"] = (x - sae.decode(a, x)).detach(), a.detach().requires_grad_()
        noted["x"] = sae.decode(noted["a"], x) + noted["error"]
        return noted["x"]

    final = bridge.run(sequences[0], [], final=True, edits={site: splice}).final
    metric = bridge.logits(final[:, -1]).log_softmax(-1)[:, 5].sum()
    along, stream = torch.autograd.grad(metric, [noted["a"], noted["x"]])
    expected = stream @ sae.w_dec.T * sae.frame.scale(noted["x"].detach()).sigma
    torch.testing.assert_close(along, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert along.abs().max() > 1e-3


@pytest.mark.parametrize("site", EDITED, ids=str)
def test_law_1_an_edit_is_decoding_without_the_feature_and_the_error_kept(
    bridge: Any, saes: Any, sequences: Text, site: Site
) -> None:
    sae, x = saes[site], bridge.run(sequences[0], [site]).sites[site].flatten(0, 1)
    a = sae.encode(x)
    error = x - sae.decode(a, x)
    feature = a.argmax(-1)
    without = a.scatter(1, feature.unsqueeze(1), 0.25)
    edited = (
        x + sae.edit(x, feature, a.gather(1, feature.unsqueeze(1)).squeeze(1), torch.full((len(x),), 0.25))[sae.writes]
    )
    assert (edited - x).abs().max() > 0.1
    torch.testing.assert_close(edited, sae.decode(without, x) + error, rtol=0, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("whole", [False, True], ids=["top", "all"])
@pytest.mark.parametrize("site", EDITED, ids=str)
def test_law_2_zero_ablating_an_inactive_feature_changes_nothing(
    bridge: Any, saes: Any, sequences: Text, site: Site, whole: bool
) -> None:
    which = firing_rows(bridge, saes[site], sequences, whole=whole, fires=False)
    result = ablated(bridge, saes, site, which, sequences, behind(site, saes))
    assert [len(changes.row) for changes in result.changes.values()] == [0] * len(behind(site, saes))
    assert result.kl.abs().max() <= 1e-5
    assert result.logprob_effect.abs().max() <= 1e-5


@pytest.mark.parametrize("whole", [False, True], ids=["top", "all"])
@pytest.mark.parametrize("site", EDITED, ids=str)
def test_law_3_the_fast_path_is_the_plain_path(
    bridge: Any, saes: Any, sequences: Text, site: Site, whole: bool
) -> None:
    tokens, lengths = sequences
    which = firing_rows(bridge, saes[site], sequences, whole=whole, c=0.1)
    downstream = behind(site, saes)
    result = ablated(bridge, saes, site, which, sequences, downstream)
    moved = 0.0
    for i, (feature, seq, pos) in enumerate(torch.stack([which.feature, which.seq, which.pos], 1).tolist()):
        sequence = tokens[seq, : lengths[seq]]
        plain = ablate_one(bridge, saes, site, feature, sequence, pos, 0.1, downstream)
        assert result.pos[i] == (pos if pos >= 0 else len(sequence) - 1)
        for down, (clean, after) in plain.activations.items():
            fast = dense(result, down, which, saes[down].d_sae)[i]
            bound = 1e-4 * float(torch.stack([clean, after]).max().clamp(min=0.1))
            assert (fast - (after - clean)).abs().max() <= bound, (i, down)
            moved = max(moved, float(fast.abs().max()))
        logp = plain.logprob
        effect = logp[1] - logp[0]
        torch.testing.assert_close(result.logprob_effect[i], effect, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.prob_effect[i], logp[1].exp() - logp[0].exp(), rtol=0, atol=1e-5)
        torch.testing.assert_close(result.kl[i], -(logp[0].exp() * effect).sum(), rtol=0, atol=1e-5)
    assert moved > 0.05
    assert result.kl.max() > 1e-4


@given(size=st.integers(1, 9), seed=st.integers(0, 100), site=st.sampled_from(EDITED), whole=st.booleans())
@settings(max_examples=8)
def test_law_4_batch_size_and_order_change_nothing(
    bridge: Any, saes: Any, sequences: Text, size: int, seed: int, site: Site, whole: bool
) -> None:
    which, downstream = firing_rows(bridge, saes[site], sequences, whole=whole), behind(site, saes)
    order = torch.randperm(len(which), generator=torch.Generator().manual_seed(seed))[:10]
    clean = bridge.run(sequences[0], downstream).sites
    together = ablated(bridge, saes, site, which, sequences, downstream)
    for part in order.split(size):
        apart = ablated(bridge, saes, site, which[part], sequences, downstream)
        torch.testing.assert_close(apart.logprob_effect, together.logprob_effect[part], rtol=0, atol=1e-5)
        torch.testing.assert_close(apart.kl, together.kl[part], rtol=0, atol=1e-5)
        for down in downstream:
            largest = float(saes[down].encode(clean[down]).max())
            one, other = dense(apart, down, which[part], tiny.D_SAE), dense(together, down, which, tiny.D_SAE)[part]
            assert (one - other).abs().max() <= 1e-5 * max(1, largest)


@pytest.fixture(scope="module")
def centred(tiny_model: Path, tiny_saes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[Site, Any]]:
    """The tiny model with centred writing weights, and SAEs for the raw one that know they were trained on that."""
    folder = tmp_path_factory.mktemp("centred")
    model = tiny.load_model(tiny.save_centred(tiny_model, folder / "model"))
    return model, tiny.load_saes(tiny.save_as_centred(tiny_saes, folder / "saes"))


def test_centring_the_centred_model_is_the_same_model(bridge: Any, centred: Any, sequences: Text) -> None:
    ends = [model.run(sequences[0], [Site(2, "resid_post")], final=True) for model in (bridge, centred[0])]
    raw, processed = (end.sites[Site(2, "resid_post")] for end in ends)
    torch.testing.assert_close(raw - raw.mean(-1, keepdim=True), processed, rtol=0, atol=1e-4)
    assert raw.mean(-1).abs().max() > 0.1
    torch.testing.assert_close(
        bridge.logits(ends[0].final[:, 3]), centred[0].logits(ends[1].final[:, 3]), rtol=0, atol=1e-3
    )


def test_centring_activations_agree_at_every_site(bridge: Any, centred: Any, saes: Any, sequences: Text) -> None:
    raw, processed = (model.run(sequences[0], list(saes)).sites for model in (bridge, centred[0]))
    for site, sae in saes.items():
        assert centred[1][site].frame.centre == (site.name not in ("z", "mlp_in"))
        expected = sae.encode(processed[site])
        torch.testing.assert_close(
            centred[1][site].encode(raw[site]), expected, rtol=0, atol=1e-4 * float(expected.max()), msg=str(site)
        )
        if site.name not in ("z", "mlp_in") and sae.frame.normalisation == "none":
            assert (sae.encode(raw[site]) - expected).abs().max() > 0.01, "not centring must matter"


@pytest.mark.parametrize("mean_free", [False, True], ids=["any decoder", "mean-free decoder"])
@pytest.mark.parametrize("site", EDITED, ids=str)
def test_centring_edits_do_the_same(
    bridge: Any, centred: Any, saes: Any, sequences: Text, site: Site, mean_free: bool
) -> None:
    """To the logits always; to streams behind if the decoder's which have no mean, as after training they nearly do."""
    model, told = centred
    pair = [dict(saes), dict(told)]
    if mean_free:
        w = saes[site].w_dec
        w = w if site.name == "z" else w - w.mean(-1, keepdim=True)
        pair = [{**group, site: replace(group[site], w_dec=w)} for group in pair]
    which = firing_rows(bridge, told[site], sequences, whole=False)
    downstream = behind(site, saes)
    processed = ablated(model, pair[0], site, which, sequences, downstream)
    raw = ablated(bridge, pair[1], site, which, sequences, downstream)
    assert raw.logprob_effect.abs().max() > 0.1
    torch.testing.assert_close(
        raw.logprob_effect, processed.logprob_effect, rtol=0, atol=1e-4 * float(raw.logprob_effect.abs().max())
    )
    for down in downstream:
        one, other = (dense(r, down, which, tiny.D_SAE) for r in (raw, processed))
        if mean_free or site.name == "z" or not down.name.startswith("resid"):
            assert (one - other).abs().max() <= 1e-4 * max(1, float(other.abs().max())), down


def test_whole_sequences_give_what_places_give(
    tiny_model: Path, bridge: Any, saes: Any, sequences: Text, tmp_path: Path
) -> None:
    """The same numbers, by the way that asks nothing of the model's attention."""
    other = tiny.load_model(tiny_model)
    other.whole_because = "it was told so"
    assert bridge.resumes_at_places
    for site in EDITED:
        which, downstream = firing_rows(bridge, saes[site], sequences, whole=False), behind(site, saes)
        clean = [clean_of(model, saes, sequences) for model in (bridge, other)]
        fast = ablated(bridge, saes, site, which, clean[0], downstream)
        slow = ablated(other, saes, site, which, clean[1], downstream)
        torch.testing.assert_close(fast.logprob_effect, slow.logprob_effect, rtol=0, atol=1e-4)
        for down in downstream:
            one, two = (dense(result, down, which, tiny.D_SAE) for result in (fast, slow))
            assert ((one - two).abs() > 1e-4 * max(1, float(two.abs().max()))).float().mean() <= 0.001, down
