"""Edits of several sites at once, and gradients through them: against plain transformers with hooks, on each family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import D_MODEL, FAMILIES, LAYERS, VOCAB, Hf, plain, save_checkpoint
from support.tiny import load_model
from torch import Tensor

from circuitcli.core.edits import adding, in_turn, watching
from circuitcli.core.model import Addition, Places
from circuitcli.core.sites import SITES, Site
from circuitcli.runtime.model import BridgeModel

pytestmark = pytest.mark.seams
TOLERANCE = 1e-5  # of the largest value of what is compared, as of one edit
GRADIENTS = 1e-4
Changes = dict[Site, Callable[[Tensor], Tensor]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path]) -> dict[str, tuple[BridgeModel, Hf]]:
    return {family: (load_model(folder), plain(folder, family)) for family, folder in checkpoints.items()}


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (2, 9), generator=torch.Generator().manual_seed(7))


def sites_of(model: BridgeModel, layers: range = range(LAYERS)) -> list[Site]:
    names = [name for name in SITES if not (model.shape.parallel and name == "resid_mid")]
    return [Site(layer, name) for layer in layers for name in names]


def change(site: Site) -> Callable[[Tensor], Tensor]:
    """One of its own for each site, that no other undoes: it mixes positions and coordinates, and isn't linear."""
    share = 0.05 * (1 + SITES.index(site.name)) + 0.02 * site.layer
    return lambda x: x + share * (x.roll(1, -1) - x.roll(1, 1)) + share * torch.tanh(x)


def close(ours: Tensor, theirs: Tensor, what: object, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape, what
    error = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()
    assert error <= tolerance, f"{what}: {error:.1e} of the largest value"


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_of_every_site_at_once(models: Any, tokens: Tensor, family: str) -> None:
    """Each sees what those before it made of the stream; an edited site is read as its edit leaves it."""
    model, hf = models[family]
    sites = sites_of(model)
    edits = {site: change(site) for site in sites}
    ours = model.run(tokens, sites, final=True, edits=edits)
    clean = model.run(tokens, sites, final=True)
    theirs, logits = hf.run(tokens, sites, edits)
    for site in sites:
        moved = (theirs[site] - clean.sites[site]).abs().max() / theirs[site].abs().max()
        assert moved > 0.02, f"{site} must change for the comparison to mean anything"
        close(ours.sites[site], theirs[site], site, 3 * TOLERANCE)
    close(model.logits(ours.final[1]), logits[1], "logits", 3 * TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_is_the_models_not_the_mappings(models: Any, tokens: Tensor, family: str) -> None:
    model, _ = models[family]
    sites = sites_of(model)
    edits = {site: change(site) for site in sites}
    one = model.run(tokens, sites, final=True, edits=edits)
    other = model.run(tokens, sites, final=True, edits=dict(reversed(edits.items())))
    assert torch.equal(one.final, other.final)
    assert all(torch.equal(one.sites[site], other.sites[site]) for site in sites)
    # What a site's edit is given is what the earlier ones led to, and not the clean activation.
    given: dict[Site, Tensor] = {}
    early, late = Site(0, "mlp_out"), Site(2, "z")
    model.run(tokens, [], final=True, edits={late: lambda x: given.setdefault(late, x), early: change(early)})
    alone = model.run(tokens, [late], edits={early: change(early)})
    assert torch.equal(given[late], alone.sites[late])
    assert not torch.allclose(given[late], model.run(tokens, [late]).sites[late], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_that_change_nothing_leave_every_number_as_it_was(models: Any, tokens: Tensor, family: str) -> None:
    model, _ = models[family]
    sites = sites_of(model)
    clean = model.run(tokens, sites, final=True)
    seen: dict[Site, Tensor] = {}
    for edits in (dict.fromkeys(sites, lambda x: x), dict.fromkeys(sites, torch.clone), watching(sites, seen)):
        same = model.run(tokens, sites, final=True, edits=edits)
        assert torch.equal(same.final, clean.final)
        assert all(torch.equal(same.sites[site], clean.sites[site]) for site in sites)
    assert all(torch.equal(seen[site], clean.sites[site]) for site in sites)


def test_resid_mid_is_what_the_mlp_and_the_skip_path_both_read(models: Any, tokens: Tensor) -> None:
    model, hf = models["gpt2"]
    site, behind, added = (Site(1, name) for name in ("resid_mid", "resid_post", "attn_out"))
    clean = model.run(tokens, [site, added]).sites
    ours = model.run(tokens, [site, behind, added], edits={site: change(site)}).sites
    mid, block = change(site)(clean[site]), hf.model.transformer.h[1]
    close(ours[site], mid, site)
    close(ours[behind], mid + block.mlp(block.ln_2(mid)), behind)
    assert torch.equal(ours[added], clean[added]), "what attention adds isn't what is edited"


@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_in_is_what_the_mlp_alone_reads(models: Any, tokens: Tensor, family: str) -> None:
    """Behind its norm, weights included; an edit goes through the MLP into the stream, and nowhere else."""
    model, hf = models[family]
    site, added, behind = (Site(1, name) for name in ("mlp_in", "mlp_out", "resid_post"))
    earlier = ("resid_pre", "z", "attn_out", *([] if model.shape.parallel else ["resid_mid"]))
    before = [Site(1, name) for name in earlier]
    clean = model.run(tokens, [*before, site, added, behind]).sites
    ours = model.run(tokens, [*before, site, added, behind], edits={site: change(site)}).sites
    norm, _ = hf.place(Site(1, "resid_mid"))
    close(clean[site], norm(clean[before[0 if model.shape.parallel else -1]]), site)
    mlp, _ = hf.place(site)
    post = getattr(hf.blocks[1], "post_feedforward_layernorm", lambda x: x)
    close(ours[added], post(mlp(change(site)(clean[site]))), added)
    close(ours[behind] - clean[behind], ours[added] - clean[added], behind)
    assert not torch.allclose(ours[added], clean[added])
    assert all(torch.equal(ours[one], clean[one]) for one in before), "nothing before the MLP changes"


def test_parallel_blocks_have_no_resid_mid_to_edit(models: Any, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="parallel"):
        models["neox"][0].run(tokens, [], final=True, edits={Site(1, "resid_mid"): change(Site(1, "resid_mid"))})


def test_the_input_of_a_block_that_doesnt_run_is_edited_too(models: Any, tokens: Tensor) -> None:
    model, _ = models["llama"]
    site = Site(2, "resid_pre")
    edited = model.run(tokens, [site], edits={site: change(site)}).sites[site]
    assert torch.equal(edited, change(site)(model.run(tokens, [site]).sites[site]))


def test_in_turn_is_one_after_the_other(models: Any, tokens: Tensor) -> None:
    model, _ = models["neox"]
    site, other = Site(1, "mlp_out"), Site(2, "z")
    both = in_turn({site: lambda x: 2 * x}, adding(site, torch.ones(2, 9, D_MODEL)), {other: change(other)})
    assert set(both) == {site, other}
    edited = model.run(tokens, [site], edits=both).sites[site]
    torch.testing.assert_close(edited, 2 * model.run(tokens, [site]).sites[site] + 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("edited", [False, True], ids=["clean", "edited"])
def test_gradients_at_every_site_are_those_of_transformers(
    models: Any, tokens: Tensor, family: str, edited: bool
) -> None:
    """Of one number that all logits decide, with respect to what goes on from each site; transformers in float64."""
    model, hf = models[family]
    sites = sites_of(model)
    between = {site: change(site) for site in sites if edited and site.layer in (1, 2)}
    weights = torch.randn(2, 9, VOCAB, generator=torch.Generator().manual_seed(1))
    ours: dict[Site, Tensor] = {}
    run = model.run(tokens, [], final=True, edits=in_turn(between, watching(sites, ours)))
    metric = (model.logits(run.final.flatten(0, 1)).log_softmax(-1) * weights.flatten(0, 1)).sum()
    found = torch.autograd.grad(metric, [ours[site] for site in sites])
    theirs: dict[Site, Tensor] = {}

    def watch(site: Site) -> Callable[[Tensor], Tensor]:
        def note(x: Tensor) -> Tensor:
            x = between[site](x) if site in between else x
            theirs[site] = x * 1 if x.requires_grad else x.clone().requires_grad_()
            return theirs[site]

        return note

    exact = Hf(copy.deepcopy(hf.model).double(), family)
    for parameter in exact.model.parameters():
        parameter.requires_grad_(False)
    _, logits = exact.run(tokens, [], {site: watch(site) for site in sites})
    expected = torch.autograd.grad((logits.log_softmax(-1) * weights).sum(), [theirs[site] for site in sites])
    for site, gradient, truth in zip(sites, found, expected, strict=True):
        close(gradient, truth, site, GRADIENTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_what_edits_bring_in(models: Any, tokens: Tensor, family: str) -> None:
    """Numbers of two edits at unlike depths: by autograd, and by moving each a little in plain transformers."""
    model, hf = models[family]
    first, second = Site(0, "attn_out"), Site(2, "resid_post")

    def edits(a: Tensor, b: Tensor) -> Changes:
        return {first: lambda x: a * x, second: lambda x: x + b * x.roll(1, -1)}

    a, b = torch.tensor(1.5, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    final = model.run(tokens, [], final=True, edits=edits(a, b)).final
    ours = torch.autograd.grad(model.logits(final[:, -1]).log_softmax(-1)[:, 3].sum(), [a, b])
    exact = Hf(copy.deepcopy(hf.model).double(), family)

    def metric(*at: float) -> float:
        with torch.no_grad():
            _, logits = exact.run(tokens, [], edits(*torch.tensor(at, dtype=torch.float64)))
        return float(logits[:, -1].log_softmax(-1)[:, 3].sum())

    h = 1e-3  # norms of transformers are computed in float32
    slopes = [metric(1.5 + h, 0.3) - metric(1.5 - h, 0.3), metric(1.5, 0.3 + h) - metric(1.5, 0.3 - h)]
    slopes = [slope / (2 * h) for slope in slopes]
    assert [float(slope) for slope in ours] == pytest.approx(slopes, rel=1e-3, abs=1e-3)
    assert min(map(abs, slopes)) > 1e-2
    assert not any(parameter.requires_grad for parameter in model._bridge.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", ["whole", "place", "chain"])
def test_gradients_pass_where_a_pass_resumes(models: Any, tokens: Tensor, family: str, at: str) -> None:
    """Of δ at z, the site behind which a block goes on by its parts."""
    model, hf = models[family]
    site, pos = Site(1, "z"), 4
    clean = model.run(tokens, [site, *model.bases(site)], final=True, keep=1)
    positions = {"whole": torch.arange(9), "place": torch.tensor([pos]), "chain": torch.arange(pos, 9)}[at]
    places = None if at == "whole" else Places(torch.tensor([1]), positions[None], chained=at == "chain")
    rows = torch.tensor([0, 1]) if at == "whole" else torch.tensor([1])
    x = clean.sites[site][rows][:, positions]
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) * x.std()
    delta[:, positions != pos] = 0
    delta.requires_grad_()
    base = {name: clean.sites[name][rows][:, positions] for name in model.bases(site)}
    final = model.resume(clean, base, Addition(site, delta), [], final=True, places=places).final
    read = 0 if at == "place" else -1  # the place itself, else the last position
    (ours,) = torch.autograd.grad(model.logits(final[:, read]).log_softmax(-1)[:, 3].sum(), delta)
    exact = Hf(copy.deepcopy(hf.model).double(), family)
    whole = torch.zeros(len(rows), *clean.sites[site].shape[1:], dtype=torch.float64)
    whole[:, positions] = delta.detach().double()
    whole.requires_grad_()
    _, logits = exact.run(tokens[rows], [], {site: lambda x: x + whole})
    (truth,) = torch.autograd.grad(logits[:, pos if at == "place" else -1].log_softmax(-1)[:, 3].sum(), whole)
    close(ours, truth[:, positions], at, GRADIENTS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_edits_are_given_and_leave_the_models_dtype(checkpoints: dict[str, Path], tokens: Tensor, dtype: str) -> None:
    """SAEs answer in float32."""
    model = load_model(checkpoints["gpt2"], dtype)
    given: list[torch.dtype] = []

    def as_float(x: Tensor) -> Tensor:
        given.append(x.dtype)
        return x.float() * 1.5

    sites = sites_of(model, range(1, 3))
    done = model.run(tokens, sites, final=True, edits=dict.fromkeys(sites, as_float))
    assert {*given, done.final.dtype, *(x.dtype for x in done.sites.values())} == {getattr(torch, dtype)}
    assert len(given) == len(sites)
