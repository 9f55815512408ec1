"""Every architecture that we claim: the sites, the fast path and the logits, against plain transformers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import D_MODEL, FAMILIES, LAYERS, VOCAB, WINDOW, Hf, plain, save_checkpoint
from support.tiny import load_model
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import adding
from circuitcli.core.model import Addition, Pass, Places
from circuitcli.core.sites import SITES, Site
from circuitcli.runtime import device
from circuitcli.runtime.model import BridgeModel

EDITED = 1  # the layer that is edited: something lies before it and behind it
pytestmark = pytest.mark.seams

TOLERANCE = 1e-5  # of the largest value of what is compared
MLP = {Site(EDITED, "mlp_in"), Site(EDITED, "mlp_out")}
CASES = [(family, site) for family in FAMILIES for site in SITES if (family, site) != ("neox", "resid_mid")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path]) -> dict[str, tuple[BridgeModel, Hf]]:
    return {family: (load_model(folder), plain(folder, family)) for family, folder in checkpoints.items()}


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (3, 11), generator=torch.Generator().manual_seed(7))


def all_sites(model: BridgeModel, start: Site | None = None) -> list[Site]:
    names = [n for n in SITES if not (model.shape.parallel and n == "resid_mid")]
    sites = [Site(layer, name) for layer in range(LAYERS) for name in names]
    return [s for s in sites if start is None or s.order > start.order]


def random_edit(model: BridgeModel, site: Site, clean: Pass, rows: Tensor) -> Addition:
    """δ as large as the activations, for rows of a clean pass, at all positions but the first."""
    x = clean.sites[site][rows]
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)) * x.std()
    delta[:, 0] = 0
    return Addition(site, delta)


def assert_close(ours: Tensor, theirs: Tensor, what: object, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape, what
    error = (ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()
    assert error <= tolerance, f"{what}: {error:.1e} of the largest value"


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_and_logits_are_those_of_transformers(models: Any, tokens: Tensor, family: str) -> None:
    model, hf = models[family]
    sites = all_sites(model)
    ours = model.run(tokens, sites, final=True)
    theirs, logits = hf.run(tokens, sites)
    for site in sites:
        assert_close(ours.sites[site], theirs[site], site)
    assert not ours.final.requires_grad
    for row in range(len(tokens)):
        assert_close(model.logits(ours.final[row]), logits[row], "logits")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_block_adds_to_the_stream_is_attn_out_and_mlp_out(models: Any, tokens: Tensor, family: str) -> None:
    model, _ = models[family]
    x = model.run(tokens, all_sites(model)).sites
    for layer in range(LAYERS):
        added = x[Site(layer, "attn_out")] + x[Site(layer, "mlp_out")]
        assert_close(x[Site(layer, "resid_pre")] + added, x[Site(layer, "resid_post")], layer)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_fast_path_plain_path_and_transformers_agree_on_an_edit(
    models: Any, tokens: Tensor, family: str, name: str
) -> None:
    model, hf = models[family]
    site = Site(EDITED, name)
    read = all_sites(model, site)
    clean = model.run(tokens, sorted({site, *model.bases(site)}, key=lambda s: s.order), final=True)
    edit = random_edit(model, site, clean, torch.arange(len(tokens)))
    slow = model.run(tokens, read, final=True, edits=adding(site, edit.delta))
    fast = model.resume(clean, {b: clean.sites[b] for b in model.bases(site)}, edit, read, final=True)
    theirs, logits = hf.run(tokens, read, edit)
    beside = MLP if model.shape.parallel and name in ("z", "attn_out") else set()
    assert set(fast.sites) == set(read) - beside
    for down in fast.sites:
        assert_close(fast.sites[down], slow.sites[down], f"{site} → {down}, fast and plain")
        assert_close(slow.sites[down], theirs[down], f"{site} → {down}, plain and transformers")
    assert_close(fast.final, slow.final, "final")
    assert_close(model.logits(slow.final[1]), logits[1], "logits")
    moved = (slow.final - clean.final).abs().max()
    assert moved > 0.1 * clean.final.abs().max(), "the edit must matter for the comparison to mean anything"


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_few_places_are_computed_as_in_whole_sequences(models: Any, tokens: Tensor, family: str, name: str) -> None:
    """Each place on its own, behind its sequence's clean keys and values: as transformers has it, one at a time."""
    model, hf = models[family]
    assert model.resumes_at_places
    site = Site(EDITED, name)
    beside = MLP if model.shape.parallel and name in ("z", "attn_out") else set()
    read = [s for s in all_sites(model, site) if s not in beside]
    bases = sorted({site, *model.bases(site)}, key=lambda s: s.order)
    clean = model.run(tokens, bases, final=True, keep=EDITED)
    places = Places(torch.tensor([0, 2, 2, 1]), torch.tensor([[3, 7], [1, 10], [5, 5], [9, 2]]))
    base = {b: clean.sites[b][places.seq.unsqueeze(1), places.pos] for b in model.bases(site)}
    delta = torch.randn(4, 2, clean.sites[site].shape[-1], generator=torch.Generator().manual_seed(3))
    edit = Addition(site, delta * clean.sites[site].std())
    fast = model.resume(clean, base, edit, read, final=True, places=places)
    for group, count in itertools.product(range(4), range(2)):
        row, pos = int(places.seq[group]), int(places.pos[group, count])
        one = torch.zeros(1, *clean.sites[site].shape[1:])
        one[0, pos] = edit.delta[group, count]
        theirs, logits = hf.run(tokens[row : row + 1], read, Addition(site, one))
        for down in read:
            assert_close(fast.sites[down][group, count], theirs[down][0, pos], f"{site} → {down}", 1e-4)
        assert_close(model.logits(fast.final[group, count : count + 1])[0], logits[0, pos], "logits", 1e-4)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_one_clean_pass_serves_any_number_of_rows_padded_or_not(
    models: Any, tokens: Tensor, family: str, name: str
) -> None:
    model, hf = models[family]
    site, rows, length = Site(EDITED, name), torch.tensor([0, 1, 1, 2, 0]), 6
    padded = tokens.clone()
    padded[1, length:] = 1  # the tokenizer's padding token
    clean = model.run(padded, sorted({site, *model.bases(site)}, key=lambda s: s.order), final=True)
    edit = random_edit(model, site, clean, rows)
    fast = model.resume(clean, {b: clean.sites[b][rows] for b in model.bases(site)}, edit, [], final=True)
    for i, row in enumerate(rows):
        alone = padded[row : row + 1, : length if row == 1 else None]
        _, logits = hf.run(alone, [], Addition(site, edit.delta[i : i + 1, : alone.shape[1]]))
        assert_close(model.logits(fast.final[i, : alone.shape[1]]), logits[0], f"row {i}")


@pytest.mark.parametrize(("family", "name"), CASES)
def test_resuming_computes_nothing_before_the_edit_and_nothing_twice(
    models: Any, tokens: Tensor, family: str, name: str
) -> None:
    model, _ = models[family]
    site, last = Site(EDITED, name), LAYERS - 2
    clean = model.run(tokens, sorted({site, *model.bases(site)}, key=lambda s: s.order), final=True)
    calls: list[tuple[int, str]] = []
    handles = [
        getattr(block, part).register_forward_hook(lambda *_, layer=layer, part=part: calls.append((layer, part)))
        for layer, block in enumerate(model._bridge.blocks)
        for part in ("attn", "mlp")
    ]
    base = {b: clean.sites[b] for b in model.bases(site)}
    model.resume(clean, base, Addition(site, torch.zeros_like(clean.sites[site])), [Site(last, "resid_post")])
    for handle in handles:
        handle.remove()
    later = [(layer, part) for layer in range(EDITED + 1, last + 1) for part in ("attn", "mlp")]
    behind_mlp = name in ("mlp_out", "resid_post") or (model.shape.parallel and name in ("z", "attn_out"))
    here = {"resid_pre": ["attn", "mlp"]}.get(name, [] if behind_mlp else ["mlp"])
    assert sorted(calls) == sorted([(EDITED, part) for part in here] + later)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_stops_behind_the_last_site_read(models: Any, tokens: Tensor, family: str) -> None:
    model, _ = models[family]
    ran: list[int] = []
    handles = [b.mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(model._bridge.blocks)]
    assert model.run(tokens, [Site(1, "z")]).final is None
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_an_edit_changes_no_earlier_position(models: Any, tokens: Tensor, family: str, name: str) -> None:
    model, _ = models[family]
    site, pos = Site(0, name), 5
    bases = sorted({site, *model.bases(site)}, key=lambda s: s.order)
    clean = model.run(tokens, sorted({*bases, *all_sites(model, site)}, key=lambda s: s.order), final=True)
    delta = torch.zeros_like(clean.sites[site])
    delta[:, pos] = torch.randn(delta.shape[-1], generator=torch.Generator().manual_seed(5)) * clean.sites[site].std()
    edited = model.resume(
        clean, {b: clean.sites[b] for b in bases}, Addition(site, delta), all_sites(model, site), final=True
    )
    for down, after in edited.sites.items():
        assert_close(after[:, :pos], clean.sites[down][:, :pos], down)
    moved = (edited.final - clean.final).abs().amax(dim=(0, 2)) / clean.final.abs().max()
    assert (moved[pos:] > 1e-3).all(), "attention carries the edit to every later position"


def test_gemmas_sliding_window_holds_when_resumed(models: Any, tokens: Tensor) -> None:
    model, _ = models["gemma2"]
    site, out, pos = Site(0, "resid_pre"), Site(0, "attn_out"), 3
    clean = model.run(tokens, [site, out])
    delta = torch.zeros_like(clean.sites[site])
    delta[:, pos] = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    moved = model.resume(clean, clean.sites, Addition(site, delta), [out]).sites[out] - clean.sites[out]
    inside = [int(p) for p in (moved.abs().amax(dim=(0, 2)) > 1e-4).nonzero()]
    assert inside == list(range(pos, pos + WINDOW))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_runs_and_sae_arithmetic_stays_float32(
    checkpoints: dict[str, Path], models: Any, tokens: Tensor, family: str, dtype: str
) -> None:
    model = load_model(checkpoints[family], dtype)
    site, down = Site(EDITED, "z"), Site(EDITED, "resid_post")
    clean = model.run(tokens, sorted({site, down, *model.bases(site)}, key=lambda s: s.order), final=True)
    edit = random_edit(model, site, clean, torch.arange(len(tokens)))
    edit = Addition(site, edit.delta.float())
    slow = model.run(tokens, [down], final=True, edits=adding(site, edit.delta))
    fast = model.resume(clean, clean.sites, edit, [down], final=True)
    exact = models[family][0].run(tokens, [down], final=True, edits=adding(site, edit.delta))
    assert clean.sites[down].dtype == device.DTYPES[dtype]
    for ours in (slow, fast):
        assert_close(ours.sites[down], exact.sites[down], down, 0.05)
        assert_close(model.logits(ours.final[0]), models[family][0].logits(exact.final[0]), "logits", 0.1)
        assert model.logits(ours.final[0]).dtype == torch.float32
    d_in = model.shape.width("resid_post")
    identity = Dictionary(down, down, Relu(), torch.eye(d_in), torch.zeros(d_in), torch.eye(d_in), torch.zeros(d_in))
    x = fast.sites[down]
    assert identity.encode(x).dtype == identity.decode(identity.encode(x), x).dtype == torch.float32
    assert torch.equal(identity.encode(x), x.float().relu())
