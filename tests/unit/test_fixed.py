"""Passes with constants of a clean pass: patterns, norms' scales, RelP's rules; against plain transformers by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from support import rules, zoo
from support.families import CONFIGS, FAMILIES, LAYERS, VOCAB, Hf, plain, save_checkpoint
from support.tiny import load_model
from torch import Tensor

from circuitcli.core.edits import adding, watching
from circuitcli.core.model import FROZEN, RELP, Addition, Fixed, Places
from circuitcli.core.sites import SITES, Site
from circuitcli.errors import InputError
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.device import Runtime
from circuitcli.runtime.model import BridgeModel, load

pytestmark = pytest.mark.seams
KINDS = {
    "patterns": Fixed(patterns=True),
    "norms": Fixed(norms=True),
    "activations": Fixed(activations=True),
    "frozen": FROZEN,
    "relp": RELP,
}
# Norms of queries and keys, by heads or not; of what is added; fused gates; LayerNorms of other kinds; a mixture.
OTHERS = (
    zoo.Kept("gemma3_text", options={"sliding_window": 4}),
    zoo.Kept("qwen3"),
    zoo.Kept("stablelm", options={"qk_layernorm": True}),
    zoo.Kept("cohere", options={"use_qk_norm": True}),
    zoo.Kept("olmo2"),
    zoo.Kept("olmo"),
    zoo.Kept("phi3"),
    zoo.Kept("glm4"),
    zoo.Kept("nemotron"),
    zoo.Kept("bitnet"),
    zoo.Kept("apertus"),
    zoo.Kept("gpt_bigcode"),
    zoo.Kept("granite", options={"residual_multiplier": 0.22}),
)
MIXTURES = tuple(zoo.Kept(kind) for kind in ("mixtral", "qwen2_moe", "granitemoe"))
CPU64 = Runtime(torch.device("cpu"), torch.float64, 2, None)


def in_float64(folder: Path) -> BridgeModel:
    return load(find(str(folder)), CPU64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, tuple[BridgeModel, Hf]]:
    pairs = {family: (in_float64(folder), plain(folder, family)) for family, folder in folders.items()}
    for _, hf in pairs.values():
        hf.model.double().requires_grad_(False)
    return pairs


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Callable[[zoo.Kept], BridgeModel]:
    """A model of another kind, in float64 but for mixtures, whose kernels lack it.

    Older libraries don't know all of them, or read them wrongly.
    """

    known: dict[str, BridgeModel | str] = {}

    def tried(kept: zoo.Kept) -> BridgeModel | str:
        folder = zoo.save(kept, tmp_path_factory.mktemp(kept.kind))
        if folder is None:
            return "this version of transformers doesn't know it"
        try:
            model = load_model(folder) if kept in MIXTURES else in_float64(folder)
        except InputError as refusal:
            if zoo.NEWEST:
                raise
            return refusal.message
        return model if model.resumes_at_places or zoo.NEWEST else model.whole_because

    def get(kept: zoo.Kept) -> BridgeModel:
        if kept.name not in known:
            known[kept.name] = tried(kept)
        found = known[kept.name]
        return pytest.skip(found) if isinstance(found, str) else found

    return get


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (1, 9), generator=torch.Generator().manual_seed(7))


def sites_of(model: BridgeModel) -> list[Site]:
    names = [name for name in SITES if not (model.shape.parallel and name == "resid_mid")]
    return [Site(layer, name) for layer in range(LAYERS) for name in names]


def error(ours: Tensor, theirs: Tensor) -> float:
    """As a share of the largest value."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def some_delta(x: Tensor, seed: int = 3) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) * x.std()


# Clean passes


def clean_as_without(model: BridgeModel, tokens: Tensor, what: Fixed, within: float) -> None:
    """Of all sites, the last stream and the logits: whole, several rows, resumed, and at places."""
    sites, start, width = sites_of(model), Site(0, "resid_pre"), tokens.shape[1]
    clean = model.run(tokens, sites, final=True, keep=0)
    logits = model.logits(clean.final[0, -1:])
    zero = Addition(start, torch.zeros_like(clean.sites[start]))
    with model.fixed(tokens, what):
        again = model.run(tokens.expand(2, -1), sites, final=True)
        for site in sites:
            assert error(again.sites[site], clean.sites[site].expand(2, -1, -1)) <= within, site
        assert error(model.logits(again.final[:, -1]), logits.expand(2, -1)) <= within
        resumed = model.resume(clean, clean.sites, zero, [], final=True)
        assert error(resumed.final, clean.final) <= within
        for pos, chained in (([2, width - 1, 3, 3], False), ([*range(2, width), width - 1], True)):
            places = Places(tokens.new_zeros(2), tokens.new_tensor([pos, pos]), chained)
            x = clean.sites[start][0][places.pos]
            end = model.resume(clean, {start: x}, Addition(start, x * 0), [], final=True, places=places).final
            real = slice(0, len(pos) - chained)  # the last one is beyond the sequence, and nobody reads it
            assert error(end[:, real], clean.final[0][places.pos][:, real]) <= within, pos


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_clean_passes_are_as_without(models: Any, tokens: Tensor, family: str, kind: str) -> None:
    clean_as_without(models[family][0], tokens, KINDS[kind], 1e-6)


@pytest.mark.parametrize("kept", OTHERS, ids=lambda kept: kept.kind)
def test_clean_passes_of_other_families_are_as_without(other: Any, tokens: Tensor, kept: zoo.Kept) -> None:
    """As many positions as heads too, which can't be told apart by their sizes."""
    model = other(kept)
    for what in (FROZEN, RELP):
        for width in (4, 9):
            clean_as_without(model, tokens[:, :width], what, 3e-6)  # RMS norms compute in float32 at most


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_in_lower_precision_and_of_one_token(models: Any, folders: dict[str, Path], tokens: Tensor, dtype: str) -> None:
    """As near to float64 as passes that compute all of it."""
    exact, model = models["llama"][0], load_model(folders["llama"], dtype)
    for what in (FROZEN, RELP):
        for width in (1, 9):
            part = tokens[:, :width]
            true, clean = (one.run(part, [], final=True).final for one in (exact, model))
            with model.fixed(part, what):
                again = model.run(part, [], final=True).final
            assert error(again, true) <= 3 * error(clean, true)
            assert again.dtype == clean.dtype


def test_nothing_fixed_is_no_pass(models: Any, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = models["gpt2"]
    monkeypatch.setattr(BridgeModel, "run", lambda *_, **__: pytest.fail("a pass"))
    with model.fixed(tokens, Fixed()):
        pass


# Frozen passes


@pytest.mark.parametrize("name", ["resid_pre", "z", "attn_out", "mlp_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_the_last_stream_is_linear_in_an_edit(tmp_path: Path, tokens: Tensor, family: str, name: str) -> None:
    """Where MLPs are linear: of GPT-2 and NeoX without a function, of gated ones without output."""
    config = copy.deepcopy(CONFIGS[family])
    setattr(config, "activation_function" if family == "gpt2" else "hidden_act", "linear")
    model = in_float64(save_checkpoint(family, tmp_path / family, config=config))
    if family not in rules.UNGATED:
        for block in model._bridge.blocks:
            block.mlp.out.original_component.weight.zero_()
    site = Site(1, name)
    delta = some_delta(model.run(tokens, [Site(1, "z" if name == "z" else "resid_pre")]).sites.popitem()[1])

    def moved(share: float) -> Tensor:
        return model.run(tokens, [], final=True, edits=adding(site, share * delta)).final - clean

    clean = model.run(tokens, [], final=True).final
    assert error(moved(2), 2 * moved(1)) > 1e-3, "it must be bent where nothing is frozen"
    with model.fixed(tokens, FROZEN):
        assert error(moved(2), 2 * moved(1)) <= 1e-5
        assert error(moved(-1), -moved(1)) <= 1e-5


@pytest.mark.parametrize("name", ["resid_pre", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_frozen_an_edited_pass_is_that_of_transformers_by_hand(
    models: Any, tokens: Tensor, family: str, name: str
) -> None:
    """By a hook on a whole pass, resumed, and at places: each alone, or a chain."""
    model, hf = models[family]
    site, pos, width = Site(1, name), 4, tokens.shape[1]
    clean = model.run(tokens, [*{site, *model.bases(site)}], final=True, keep=0)
    delta = torch.zeros_like(clean.sites[site])
    delta[:, pos] = some_delta(delta[:, pos] + clean.sites[site].std() * torch.arange(delta.shape[-1]).to(delta))
    read = Site(LAYERS - 1, "resid_post")
    at = rules.clean(hf, tokens)
    live, _ = hf.run(tokens, [read], Addition(site, delta))
    with rules.held_norms(hf, at), rules.held_patterns(hf, at):
        found, logits = hf.run(tokens, [read], Addition(site, delta))
    theirs = found[read]
    assert error(theirs[:, pos:], live[read][:, pos:]) > 1e-3, "frozen must differ from live"
    with model.fixed(tokens, FROZEN):
        whole = model.run(tokens, [], final=True, edits=adding(site, delta)).final
        resumed = model.resume(clean, clean.sites, Addition(site, delta), [], final=True).final
        assert error(whole, theirs) <= 1e-5
        assert error(resumed, theirs) <= 1e-5
        assert error(model.logits(whole[:, -1]), logits[:, -1]) <= 1e-5
        for where, chained in (([pos, 2, pos], False), ([*range(pos, width), width - 1], True)):
            places = Places(tokens.new_zeros(1), tokens.new_tensor([where]), chained)
            base = {one: x[0][places.pos] for one, x in clean.sites.items()}
            edit = Addition(site, delta[0][places.pos])
            end = model.resume(clean, base, edit, [], final=True, places=places).final
            real = slice(0, width - pos if chained else 3)  # beyond the sequence nobody reads
            assert error(end[:, real], theirs[0][places.pos][:, real]) <= 1e-5


# RelP


def gradient_by_hand(hf: Hf, tokens: Tensor, site: Site, target: int, *, relp: bool) -> Tensor:
    """∂ log p(target) / ∂x at the last position."""
    seen: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        seen.append(x.view_as(x) if x.requires_grad else x.detach().requires_grad_())
        return seen[-1]

    with ExitStack() as stack, torch.enable_grad():
        if relp:
            stack.enter_context(rules.held_norms(hf, rules.clean(hf, tokens)))
            stack.enter_context(rules.relp_mlps(hf))
        _, logits = hf.run(tokens, [], {site: note})
        return torch.autograd.grad(logits[0, -1].log_softmax(-1)[target], seen[0])[0]


def gradient(model: BridgeModel, tokens: Tensor, site: Site, target: int) -> Tensor:
    seen: dict[Site, Tensor] = {}
    with torch.enable_grad():
        final = model.run(tokens, [], final=True, edits=watching([site], seen)).final
        said = model.logits(final[:, -1])[0].log_softmax(-1)[target]
        return torch.autograd.grad(said, seen[site])[0]


@pytest.mark.parametrize("site", [Site(1, "resid_pre"), Site(1, "z"), Site(1, "mlp_in"), Site(2, "mlp_out")], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_relp_gradients_are_those_of_transformers_by_hand(models: Any, tokens: Tensor, family: str, site: Site) -> None:
    model, hf = models[family]
    ordinary = gradient(model, tokens, site, 5)
    assert error(ordinary, gradient_by_hand(hf, tokens, site, 5, relp=False)) <= 1e-5
    theirs = gradient_by_hand(hf, tokens, site, 5, relp=True)
    with model.fixed(tokens, RELP):
        ours = gradient(model, tokens, site, 5)
    assert error(ours, theirs) <= 1e-5
    assert error(ordinary, theirs) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_many_gradients_at_once_are_those_one_by_one(models: Any, tokens: Tensor, family: str) -> None:
    """Edges are such: vector-Jacobian products of a batch."""
    model, _ = models[family]
    site, seen = Site(1, "resid_pre"), dict[Site, Tensor]()
    for what in (FROZEN, RELP):
        with torch.enable_grad(), model.fixed(tokens, what):
            final = model.run(tokens, [], final=True, edits=watching([site], seen)).final
        rows = torch.randn(3, *final.shape, dtype=final.dtype, generator=torch.Generator().manual_seed(2))
        (many,) = torch.autograd.grad(final, seen[site], rows, retain_graph=True, is_grads_batched=True)
        for row, one in zip(rows, many, strict=True):
            assert error(one, torch.autograd.grad(final, seen[site], row, retain_graph=True)[0]) <= 1e-6


def test_relp_of_fused_gates_is_that_of_the_same_gates_apart(tmp_path: Path, tokens: Tensor) -> None:
    """Phi 3's one matrix for gate and up, split for a Llama: blocks are the same otherwise."""
    folder = zoo.save(zoo.Kept("phi3"), tmp_path / "phi3")
    assert folder is not None
    fused = in_float64(folder)
    own = fused._bridge.blocks[0].mlp.original_component
    x = some_delta(torch.ones(1, 9, zoo.D_MODEL, dtype=torch.float64) * torch.arange(zoo.D_MODEL))
    w, out = some_delta(x, seed=5), own.down_proj.weight
    gate, up = own.gate_up_proj.weight.chunk(2)
    z, u = x @ gate.T, x @ up.T
    back = w @ out
    expected = (back * u * z.sigmoid() / 2) @ gate + (back * z * z.sigmoid() / 2) @ up  # silu(z) / z = σ(z)
    x.requires_grad_()
    with torch.enable_grad(), fused.fixed(tokens, Fixed(activations=True)):
        y = fused._bridge.blocks[0].mlp(x)
        assert error(torch.autograd.grad(y, x, w)[0], expected) <= 1e-6
    assert torch.equal(y, fused._bridge.blocks[0].mlp(x))


@pytest.mark.parametrize("kept", [kept for kept in OTHERS if kept.kind != "gpt_bigcode"], ids=lambda kept: kept.kind)
def test_relp_hands_on_all_that_an_mlp_gives(other: Any, tokens: Tensor, kept: zoo.Kept) -> None:
    """What relevance propagation is named for: x · ∂(w · y)/∂x = w · y, where an MLP has no biases."""
    model = other(kept)
    site = Site(1, "mlp_in")
    x = model.run(tokens, [site]).sites[site]
    mlp = model._bridge.blocks[1].mlp
    y, w = mlp(x), some_delta(x)
    x = x.clone().requires_grad_()
    with torch.enable_grad(), model.fixed(tokens, RELP):
        (back,) = torch.autograd.grad(mlp(x), x, w)
    assert error((back * x).sum(-1), (w * y).sum(-1)) <= 1e-5


def test_relp_where_an_activation_function_is_given_zero(models: Any, tokens: Tensor) -> None:
    """act(z) / z tends to act′(0), which is a half of GELU's argument and of SiLU's."""
    for family in ("gpt2", "llama", "gemma2", "neox"):
        model, _ = models[family]
        mlp = model._bridge.blocks[0].mlp
        act = getattr(mlp.original_component, "act", None) or mlp.original_component.act_fn
        z = torch.tensor([[[0.0, -0.0, 1e-300, -1e-200, 1e-9]]], dtype=torch.float64, requires_grad=True)
        with torch.enable_grad(), model.fixed(tokens, RELP):
            slope = torch.autograd.grad(act(z).sum(), z)[0]
        assert torch.allclose(slope, torch.full_like(slope, 0.5), atol=1e-8)


# What remains


def test_nothing_remains_after_the_block(folders: dict[str, Path], tokens: Tensor) -> None:
    for family in FAMILIES:
        model = load_model(folders[family])
        sites, site = sites_of(model), Site(1, "resid_pre")
        edits = adding(site, some_delta(model.run(tokens, [site]).sites[site]))

        def all_of_it(model: BridgeModel = model, sites: list[Site] = sites, edits: Any = edits) -> list[Tensor]:
            run = model.run(tokens, sites, final=True, edits=edits)
            back = gradient(model, tokens, Site(1, "resid_pre"), 5)
            return [*run.sites.values(), run.final, model.logits(run.final[0]), back]

        before = all_of_it()
        with model.fixed(tokens, RELP), model.fixed(tokens, FROZEN):
            assert not torch.equal(all_of_it()[-1], before[-1])
        assert all(map(torch.equal, all_of_it(), before))
        with pytest.raises(KeyError), model.fixed(tokens, RELP), model.fixed(tokens, FROZEN):
            raise KeyError
        assert all(map(torch.equal, all_of_it(), before))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_within_blocks_add_up_and_repeat(models: Any, tokens: Tensor, family: str) -> None:
    model, _ = models[family]
    site = Site(1, "resid_pre")

    def back() -> Tensor:
        return gradient(model, tokens, site, 5)

    with model.fixed(tokens, Fixed(True, True, True)):
        together = back()
    with model.fixed(tokens, RELP):
        alone = back()
        with model.fixed(tokens, RELP):
            assert error(back(), alone) <= 1e-6
        with model.fixed(tokens, Fixed(patterns=True)):
            assert error(back(), together) <= 1e-6
        assert error(back(), alone) <= 1e-6
        other_prompt = tokens.flip(1)
        with model.fixed(other_prompt, RELP):
            inner = gradient(model, other_prompt, site, 5)
        assert torch.equal(back(), alone)
    with model.fixed(other_prompt, RELP):
        assert error(inner, gradient(model, other_prompt, site, 5)) <= 1e-6


def test_it_can_be_entered_where_nothing_is_differentiated(models: Any, tokens: Tensor) -> None:
    """Its constants serve gradients even so."""
    model, _ = models["llama"]
    with torch.inference_mode(), model.fixed(tokens, RELP), torch.inference_mode(False):
        assert gradient(model, tokens, Site(1, "resid_pre"), 5).isfinite().all()


# Refusals


@pytest.mark.parametrize("kept", MIXTURES, ids=lambda kept: kept.kind)
def test_mixtures_of_experts_have_no_rule(other: Any, tokens: Tensor, kept: zoo.Kept) -> None:
    model = other(kept)
    said = r"RelP has no rule for the MLP of block 0 \(\w*Mo[eE]\w*\)\."
    with pytest.raises(InputError, match=said) as refused, model.fixed(tokens, RELP):
        pytest.fail("entered")
    assert refused.value.hint == "Use --method exact, atp or ig, without --freeze: nothing is then held constant."
    assert refused.value.exit_code == 3
    clean_as_without(model, tokens, FROZEN, 1e-5)


def test_attention_that_tells_no_pattern_is_refused(tmp_path: Path, tokens: Tensor) -> None:
    kept = zoo.Kept("gpt_neo", options={"attention_types": [[["global", "local"], 2]], "window_size": 4})
    folder = zoo.save(kept, tmp_path / "gpt_neo")
    assert folder is not None
    model = load_model(folder)
    with pytest.raises(InputError, match=r"of block 0 tells no pattern\."), model.fixed(tokens, FROZEN):
        pytest.fail("entered")
    with model.fixed(tokens, RELP):
        assert gradient(model, tokens, Site(1, "resid_pre"), 5).isfinite().all()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_other_activation_functions_and_norms_are_refused(tmp_path: Path, tokens: Tensor, family: str) -> None:
    """A function that isn't 0 at 0 has no quotient there; a norm that isn't linear over a scale has no scale."""
    config = copy.deepcopy(CONFIGS[family])
    setattr(config, "activation_function" if family == "gpt2" else "hidden_act", "sigmoid")
    model = load_model(save_checkpoint(family, tmp_path / family, config=config))
    with pytest.raises(InputError, match="RelP has no rule for the MLP of block 0"), model.fixed(tokens, RELP):
        pytest.fail("entered")
    norm = model._bridge.blocks[2].ln2.original_component
    kind = type(norm)
    norm.__class__ = type("BentNorm", (kind,), {"forward": lambda self, x: kind.forward(self, x).tanh()})
    said = r"The norm blocks\.2\.\S+ \(\w+Norm\) is no norm whose scale is known\."
    with pytest.raises(InputError, match=said), model.fixed(tokens, FROZEN):
        pytest.fail("entered")
