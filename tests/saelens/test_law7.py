"""Law 7: our encode and decode equal SAELens's on the same files within 1e-5.

SAELens writes the files and reads them back with its own loaders; we read the same files. A latent whose pre-activation
lies within 1e-4 of its threshold, of its gate, or of the border between the k-th and the next value, may fire here and
not there: such are left out and counted.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from support import pickled
from torch import Tensor

pytest.importorskip("sae_lens", reason="SAELens isn't here: it needs transformer_lens < 4 (`nox -s saelens`)")

from sae_lens.loading import pretrained_sae_loaders as their_loaders
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig, GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAE, SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig

from circuitcli import demo
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.saes import _files, _read
from circuitcli.saes._files import Files, Stated

pytestmark = [pytest.mark.saelens, pytest.mark.filterwarnings("ignore")]

HEADS, D_IN, D_SAE, K = 4, 16, 96, 7
FACTOR = 0.37
TOLERANCE, BORDER, FEW = 1e-5, 1e-4, 0.005
HOOKS = ("blocks.2.hook_resid_post", "blocks.2.attn.hook_z")
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": K}),
    "rescaled topk": (TopKSAE, TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
}


def write(
    folder: Path,
    kind: str,
    hook: str = HOOKS[0],
    *,
    apply_b_dec: bool = True,
    normalisation: str = "none",
    dtype: str = "float32",
) -> Files:
    """A folder that SAELens saved, with random weights, biases and thresholds."""
    sae_class, config_class, more = KINDS[kind]
    metadata = SAEMetadata(model_name="gpt2", hook_name=hook, prepend_bos=False, context_size=64)
    config = config_class(
        d_in=D_IN, d_sae=D_SAE, dtype=dtype, apply_b_dec_to_input=apply_b_dec, normalize_activations=normalisation,
        reshape_activations="hook_z" if hook.endswith("_z") else "none", metadata=metadata, **more,
    )  # fmt: skip
    sae = sae_class(config)
    randomise(sae)
    sae.save_model(folder)
    return files(folder, normalisation)


def files(folder: Path, normalisation: str = "none") -> Files:
    stated = Stated(scaling_factor=FACTOR if normalisation == "expected_average_only_in" else None)
    return Files(folder / "sae_weights.safetensors", folder / "cfg.json", stated)


def randomise(sae: Any) -> None:
    """Weights of order 1, biases so low that some of the k largest are negative, thresholds on both sides of 0."""
    draw = torch.Generator().manual_seed(11)

    def normal(like: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        return (torch.randn(like.shape, generator=draw) * scale + shift).to(like.dtype)

    sae.W_enc.data = normal(sae.W_enc, D_IN**-0.5)
    norms = torch.rand(D_SAE, 1, generator=draw) * 1.5 + 0.5
    sae.W_dec.data = normal(sae.W_dec, D_IN**-0.5) * norms.to(sae.W_dec.dtype)
    sae.b_dec.data = normal(sae.b_dec, 0.5)
    for name, scale, shift in (
        ("b_enc", 0.3, -1.3),
        ("threshold", 0.4, 0.5),
        ("b_gate", 0.3, -1.0),
        ("b_mag", 0.5, 0.3),
        ("r_mag", 0.4, 0.1),
    ):
        if getattr(sae, name, None) is not None:
            getattr(sae, name).data = normal(getattr(sae, name), scale, shift)


def activations(d_in: int = D_IN) -> Tensor:
    """As a model's: an offset, and sizes that differ from row to row."""
    draw = torch.Generator().manual_seed(12)
    size = torch.rand(40, 9, 1, generator=draw) * 3 + 0.5
    return torch.randn(40, 9, d_in, generator=draw) * size + 0.4


def loaded(saved: Files) -> Any:
    """By SAELens, the factor folded in by its own method, which its loader from the hub calls."""
    theirs = SAE.load_from_disk(saved.weights.parent, dtype="float32")
    if saved.stated.scaling_factor is not None:
        assert theirs.cfg.normalize_activations == "expected_average_only_in"
        theirs.fold_activation_norm_scaling_factor(saved.stated.scaling_factor)
    return theirs


def near_border(theirs: Any, x: Tensor) -> Tensor:
    """Which latents may flip. Their order around the border is what rounding can change, whatever their values."""
    pre = theirs.process_sae_in(x) @ theirs.W_enc
    if isinstance(theirs, GatedSAE):
        return (pre + theirs.b_gate).abs() < BORDER
    pre = pre + theirs.b_enc
    if isinstance(theirs, TopKSAE):
        if theirs.cfg.rescale_acts_by_decoder_norm:
            pre = pre * theirs.W_dec.norm(dim=-1)
        top = pre.topk(theirs.cfg.k + 1).values
        kth, following = top[..., -2:-1], top[..., -1:]
        return (kth - following < BORDER) & (((pre - kth).abs() < BORDER) | ((pre - following).abs() < BORDER))
    if isinstance(theirs, JumpReLUSAE):
        return (pre - theirs.threshold).abs() < BORDER
    return torch.zeros_like(pre, dtype=torch.bool)  # relu is continuous


def assert_equal(ours: Dictionary, theirs: Any, x: Tensor) -> None:
    """Law 7."""
    shaped = x.unflatten(-1, (HEADS, -1)) if theirs.cfg.reshape_activations == "hook_z" else x
    with torch.no_grad():
        left_out = near_border(theirs, shaped)
        a = theirs.encode(shaped)
        decoded = theirs.decode(a).reshape(x.shape)
    mine = ours.encode(x)
    assert left_out.float().mean() <= FEW, "too many latents on the border for a comparison"
    assert (a > 0).float().mean() > 0.01, "nothing fires"
    assert_close(mine[~left_out], a[~left_out])
    assert_close(ours.decode(a, x), decoded)
    whole = ~left_out.any(-1)
    assert_close(ours.decode(mine, x)[whole], decoded[whole])


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs() / theirs.abs().clamp(min=1)
    assert error.max() <= TOLERANCE, f"{error.max():.1e}"


@pytest.mark.parametrize(("kind", "apply_b_dec"), product(KINDS, [True, False]))
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("hook", HOOKS)
def test_every_kind_that_saelens_saves(
    tmp_path: Path, kind: str, apply_b_dec: bool, normalisation: str, hook: str
) -> None:
    saved = write(tmp_path, kind, hook, apply_b_dec=apply_b_dec, normalisation=normalisation)
    facts, ours = _read.facts(saved), _read.sae(saved)
    assert (
        facts.site
        == ours.reads
        == ours.writes
        == _files.site_of(tmp_path / "cfg.json")
        == Site(2, hook.rsplit("hook_", 1)[1])
    )
    assert (ours.d_in, ours.d_sae) == (facts.d_in, facts.d_sae) == (D_IN, D_SAE)
    assert facts.architecture == kind.removeprefix("rescaled ")
    assert (facts.prepend_bos, facts.context_size) == (False, 64)
    assert_equal(ours, loaded(saved), activations())


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_pre", "blocks.7.hook_attn_out", "blocks.11.hook_mlp_out"])
def test_other_sites(tmp_path: Path, hook: str) -> None:
    saved = write(tmp_path, "standard", hook)
    assert _files.site_of(tmp_path / "cfg.json").hook == hook
    assert_equal(_read.sae(saved), loaded(saved), activations())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision(tmp_path: Path, kind: str, dtype: str) -> None:
    saved = write(tmp_path, kind, normalisation="layer_norm", dtype=dtype)
    ours = _read.sae(saved)
    assert ours.w_enc.dtype == torch.float32
    assert_equal(ours, loaded(saved), activations())


TRAININGS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {}, "standard"),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {}, "gated"),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}, "jumprelu"),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}, "topk"),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": K}, "jumprelu"),
    "matryoshka_batchtopk": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        {"k": K, "matryoshka_widths": [D_SAE // 4, D_SAE]},
        "jumprelu",
    ),
}


def train(kind: str, **more: Any) -> Any:
    """An SAE in training, as far as its files are concerned."""
    training, config, its_own, _ = TRAININGS[kind]
    metadata = SAEMetadata(hook_name=HOOKS[0], prepend_bos=True)
    trained = training(config(d_in=D_IN, d_sae=D_SAE, metadata=metadata, **its_own, **more))
    randomise(trained)
    if "batchtopk" in kind:
        trained.topk_threshold = torch.tensor(0.7, dtype=torch.double)
    return trained


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, {}) for kind in TRAININGS),
        *((kind, {"rescale_acts_by_decoder_norm": False}) for kind in TRAININGS if "topk" in kind),
    ],
)
@pytest.mark.parametrize("normalisation", ["none", "expected_average_only_in"])
def test_what_training_saves_for_inference(tmp_path: Path, kind: str, more: dict[str, Any], normalisation: str) -> None:
    trained = train(kind, normalize_activations=normalisation, **more)
    if normalisation == "expected_average_only_in":
        trained.fold_activation_norm_scaling_factor(FACTOR)  # as SAELens's trainer does at its end
    trained.save_inference_model(tmp_path)
    saved = files(tmp_path)
    facts = _read.facts(saved)
    assert (facts.architecture, facts.prepend_bos) == (TRAININGS[kind][3], True)
    assert_equal(_read.sae(saved), loaded(saved), activations())


@pytest.mark.parametrize("kind", ["standard", "gated", "topk"])
def test_checkpoints_that_saelens_can_use(tmp_path: Path, kind: str) -> None:
    """TopK's norms are not folded there."""
    train(kind).save_model(tmp_path)
    assert_equal(_read.sae(files(tmp_path)), loaded(files(tmp_path)), activations())


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka_batchtopk"])
def test_checkpoints_that_saelens_cannot_use(tmp_path: Path, kind: str) -> None:
    train(kind).save_model(tmp_path)
    with pytest.raises(KeyError, match=kind):
        loaded(files(tmp_path))
    with pytest.raises(InputError, match=kind):
        _read.sae(files(tmp_path))


# As the files on the hub have it: the first (res-jb) names no architecture, the last is OpenAI's TopK v5.
OLD = [
    ("standard", "none", {"hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2}),
    ("standard", "none", {"hook_name": "blocks.2.attn.hook_z", "hook_layer": 2, "architecture": "standard",
                          "activation_fn_str": "relu", "activation_fn_kwargs": {}, "normalize_activations": False,
                          "apply_b_dec_to_input": False}),
    ("standard", "expected_average_only_in", {"hook_point": "blocks.2.hook_mlp_out", "normalize_activations": True}),
    ("standard", "constant_norm_rescale", {"hook_name": "blocks.2.hook_mlp_out", "activation_fn_str": "relu",
                                           "normalize_activations": "constant_norm_rescale"}),
    ("jumprelu", "none", {"hook_name": "blocks.2.hook_mlp_out", "hook_layer": 2, "architecture": "jumprelu",
                          "activation_fn_str": "relu", "activation_fn_kwargs": None, "normalize_activations": None,
                          "apply_b_dec_to_input": False}),
    ("jumprelu", "expected_average_only_in", {"hook_name": "blocks.2.hook_mlp_out", "architecture": "jumprelu",
                                              "activation_fn": "relu", "context_size": 512,
                                              "normalize_activations": "expected_average_only_in"}),
    ("gated", "none", {"hook_name": "blocks.2.hook_resid_post", "hook_layer": 2, "architecture": "gated",
                       "activation_fn_str": "relu", "hook_head_index": None, "prepend_bos": True}),
    ("gated", "layer_norm", {"hook_name": "blocks.2.attn.hook_z", "architecture": "gated",
                             "normalize_activations": "layer_norm", "apply_b_dec_to_input": False}),
    ("topk", "none", {"hook_name": "blocks.2.hook_resid_post", "architecture": "topk", "activation_fn": "topk",
                      "activation_fn_kwargs": {"k": K}, "normalize_activations": "none"}),
    ("topk", "layer_norm", {"hook_point": "blocks.2.hook_resid_post", "hook_point_layer": 2, "architecture": "standard",
                            "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K},
                            "normalize_activations": "layer_norm", "prepend_bos": False}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "normalisation", "old"), OLD)
def test_configurations_from_before_saelens_6(
    tmp_path: Path, kind: str, normalisation: str, old: dict[str, Any]
) -> None:
    saved = write(tmp_path, kind, normalisation=normalisation)
    config = {"model_name": "gpt2", "d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu", **old}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    facts, theirs = _read.facts(saved), loaded(saved)
    assert facts.architecture == kind
    assert theirs.cfg.metadata.hook_name == facts.site.hook == (config.get("hook_name") or config["hook_point"])
    assert theirs.cfg.metadata.prepend_bos == facts.prepend_bos
    assert theirs.cfg.metadata.context_size == facts.context_size
    assert_equal(_read.sae(saved), theirs, activations())


@pytest.mark.parametrize("module", [None, *pickled.MODULES])
@pytest.mark.parametrize("archive", [True, False])
def test_the_first_format_of_res_jb(tmp_path: Path, module: str | None, archive: bool) -> None:
    theirs = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE))
    randomise(theirs)
    config = {"hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2, "hook_point_head_index": None,
              "model_name": "gpt2-small", "d_in": D_IN, "d_sae": D_SAE, "expansion_factor": 6, "context_size": 128,
              "lr": 4e-4, "feature_sampling_method": None, "dead_feature_threshold": 1e-8, "total": 300_000_000,
              "dtype": torch.float32, "device": torch.device("cpu"), "store_batch_size": 32}  # fmt: skip
    path = pickled.save_first_format(tmp_path / "sae.pt", module, config, theirs.state_dict(), archive=archive)
    saved = Files(path, None, Stated(site=Site(2, "resid_pre"), center_writing_weights=True))
    facts = _read.facts(saved)
    assert (facts.site, facts.d_sae, facts.architecture) == (Site(2, "resid_pre"), D_SAE, "standard")
    assert (facts.prepend_bos, facts.context_size, facts.centre) == (True, 128, True)
    assert_equal(_read.sae(Files(path, None)), theirs, activations())


def test_the_format_of_hook_z_kk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE))
    randomise(sae)
    name = "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.00e+00_ds96_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v9.pt"
    config = {"seed": 49, "lr": 1.2e-3, "seq_len": 128, "enc_dtype": "fp32", "model_name": "gpt2-small", "site": "z",
              "layer": 5, "device": "cuda:0", "act_name": "blocks.5.attn.hook_z", "act_size": D_IN,
              "dict_size": D_SAE, "name": name.removesuffix(".pt")}  # fmt: skip
    torch.save(sae.state_dict(), tmp_path / name)
    beside = tmp_path / f"{name.removesuffix('.pt')}_cfg.json"
    beside.write_text(json.dumps(config))
    monkeypatch.setattr(their_loaders, "hf_hub_download", lambda repo_id, filename, **more: str(tmp_path / filename))

    their_config, state, _ = their_loaders.connor_rob_hook_z_huggingface_loader("owner/name", name)
    theirs = SAE.from_dict(their_loaders.handle_config_defaulting(their_config))
    theirs.load_state_dict(state)
    facts = _read.facts(Files(tmp_path / name, beside))
    assert (facts.site.hook, facts.architecture) == (theirs.cfg.metadata.hook_name, theirs.cfg.architecture())
    assert (facts.prepend_bos, facts.context_size) == (theirs.cfg.metadata.prepend_bos, 128)
    assert facts.context_size == theirs.cfg.metadata.context_size
    assert (facts.fold_value_biases, facts.centre) == (True, False)
    assert_equal(_read.sae(Files(tmp_path / name, beside)), theirs, activations())


def demo_folders() -> list[str]:
    return sorted(path.name for path in demo.SAES.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", demo_folders())
def test_the_demos_saes(name: str) -> None:
    saved = files(demo.SAES / name)
    ours = _read.sae(saved)
    assert ours.reads.hook == name
    assert_equal(ours, loaded(saved), activations(ours.d_in))
